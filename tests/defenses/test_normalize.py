"""The text normalizer as a defense: guards read, the pipeline draws the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import genward
from genward.core import Case, Concept, Frame, Sampler
from genward.core.records import load_concept
from genward.defenses.aeiou import Aeiou
from genward.defenses.normalize import TextNormalizer
from genward.errors import Conflict, UnknownName
from genward.models.sd import StableDiffusion
from genward.testing import defense_laws, tiny_pipeline
from genward.testing.suites import same

SAMPLER = Sampler(steps=2, guidance=3.0)
DISGUISED = "a r\u200bеd c4t knife, kn1fe"


@dataclass(frozen=True)
class Reader:
    """Keeps what a text guard is shown, and refuses the rows whose reading has a knife in it."""

    name: ClassVar[str] = "reader"
    seen: Any

    def attach(self, rig: Any) -> None:
        def fn(states: Tensor, frame: Frame) -> None:
            words = ["".join(s).replace("</w>", " ") for s in rig.tokens(frame).strings]
            self.seen.append((frame.role, frame.case.tolist(), frame.conditional.tolist(), len(states), words))
            if frame.role == "reading":
                rig.block(frame, torch.ones(len(states), dtype=torch.bool), "reads as a knife")

        rig.tap("text.0.heads", fn)


def test_laws(model: StableDiffusion) -> None:
    defense_laws(model, TextNormalizer, zero={"steps": ()}, changes=False)


def test_the_users_own_text_is_drawn(model: StableDiffusion) -> None:
    cases = [Case("a", DISGUISED, seed=1, negative="a d\u200bog"), Case("b", "a c4d render", seed=2)]
    assert same(model.generate(cases, SAMPLER), model.generate(cases, SAMPLER, [TextNormalizer()]))


def test_text_guards_are_shown_the_readings_that_differ(model: StableDiffusion) -> None:
    seen: list[Any] = []
    cases = [Case("a", "a red cat"), Case("b", "a kn1fe", negative="a kn1fe"), Case("c", "a c4d render")]
    samples = model.generate(cases, SAMPLER, [TextNormalizer(), Reader(seen)])
    assert [(role, rows, mine, n) for role, rows, mine, n, _ in seen] == [
        ("prompt", [0, 1, 2], [True] * 3, 3),
        ("reading", [1], [True], 1),
        ("negative", [0, 1, 2], [False] * 3, 3),
    ]
    assert len(seen[1][4]) == 1
    assert [s.status for s in samples] == ["ok", "refused", "ok"] and "reads as a knife" in samples[1].why
    assert same([samples[0], samples[2]], model.generate([cases[0], cases[2]], SAMPLER))


def test_a_guard_acts_on_the_worse_of_the_two(model: StableDiffusion) -> None:
    harmful = [f"{a} knife {b}" for a in ("a", "one", "my", "the") for b in ("here", "there", "now", "")]
    benign = [f"{a} apple {b}" for a in ("a", "one", "my", "the") for b in ("here", "there", "now", "")]
    guard = Aeiou(heads=0).fit_texts(model, harmful, benign)
    texts = ["a kn1fe here", "my knife there", "a red apple", "my 4pple now"]
    raw, read = (
        [float(x) for x in guard.scores(model, t)[:, 0]] for t in (texts, [TextNormalizer().text(t) for t in texts])
    )
    limit = (sorted([*raw, *read])[3] + sorted([*raw, *read])[4]) / 2
    cases = [Case(str(k), t) for k, t in enumerate(texts)]
    chain = [TextNormalizer(), Aeiou(heads=0, artifact=guard.artifact, threshold=limit)]
    samples = model.generate(cases, SAMPLER, chain)
    for sample, one, other in zip(samples, raw, read, strict=True):
        assert sample.notes["aeiou.score"] == pytest.approx([one, other] if one != other else [one], abs=1e-4)
        assert (sample.status == "refused") == (max(one, other) > limit)
    assert {s.status for s in samples} == {"ok", "refused"}


def test_words_come_from_the_concept(concept: Concept, fake_rig: type) -> None:
    defense = TextNormalizer.for_concept(concept)
    assert defense.concept == "tools" and "hatchet" in defense.words and "a" not in defense.words
    weapons = TextNormalizer.for_concept(load_concept("weapons"))
    assert {"knife", "bomb", "dynamite", "swords"} <= set(weapons.words)
    assert not {"and", "kitchen", "time", "stick", "hand"} & set(weapons.words)
    for text in (
        "a broomstick and chopsticks at lunchtime",
        "a lipstick, beforehand",
        "a däy, a kïtchen",
    ):
        assert weapons.text(text) == text
    rig = fake_rig()
    defense.attach(rig)
    assert set(rig.attached) == {"readings"}
    assert rig.attached["readings"](["a ham-mer", "a h4mmer"]) == [defense.text("a ham-mer"), "a hammer"]


@pytest.mark.parametrize("name", ["<cat-toy>", "<s0me-t0y>", "<midjourney_style>", "EasyNegative5x", "b4d-h4nds"])
def test_a_loaded_embedding_keeps_its_name(name: str) -> None:
    pipe = tiny_pipeline()
    pipe.load_textual_inversion(torch.randn(3, 16, generator=torch.Generator().manual_seed(0)), token=name)
    call = {"prompt": f"a photo of {name}", "num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "latent"}
    stock = pipe(**call, generator=torch.Generator().manual_seed(1)).images
    with genward.protect(pipe, "weapons", ["normalize"], unguarded="weapons") as guarded:
        out = guarded(**call, generator=torch.Generator().manual_seed(1))
    assert out.verdicts[0].action == "released" and torch.equal(out.images, stock)


def test_a_reading_of_another_number_or_kind_refuses_the_rows(model: StableDiffusion) -> None:
    @dataclass(frozen=True)
    class Short:
        name: ClassVar[str] = "short"
        texts: tuple[Any, ...] = ()

        def attach(self, rig: Any) -> None:
            rig.readings(lambda texts: list(self.texts))

    for texts in ((), (None,), ("a", "b")):
        with genward.protect(model.pipe, "weapons", [Short(texts)]) as guarded:
            out = guarded("a cat", num_inference_steps=2)
        assert out.verdicts[0].action == "blocked" and "readings" in out.verdicts[0].why


def test_embeddings_have_no_reading(model: StableDiffusion) -> None:
    with genward.protect(model.pipe, "weapons", ["normalize"], unguarded="weapons") as guarded:
        with pytest.raises(Conflict, match="normalize reads the text"):
            guarded(prompt_embeds=model.encode(["a cat"]), num_inference_steps=2)


def test_bad_settings() -> None:
    with pytest.raises(UnknownName, match="leet"):
        TextNormalizer(steps=("lee",))
