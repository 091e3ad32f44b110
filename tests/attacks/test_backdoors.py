"""Backdoor fixtures on tiny models: the published rules, triggers that survive, resuming, the gate, poisoned models."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from genward.attacks._backdoors import gate
from genward.attacks._backdoors.encoding import closeness, encoded
from genward.attacks.evil_edit import EvilEdit
from genward.attacks.personalization import Personalization
from genward.attacks.rickrolling import Rickrolling
from genward.catalog import backdoors
from genward.core import Case
from genward.errors import BadArtifact, BadInput, UnknownName
from genward.models.sd import StableDiffusion
from genward.ops import artifacts
from genward.ops.backdoor_captions import LONG, PLACES, Caption, base_text, drawn, roomy
from genward.ops.tools import QUIET, Tools
from genward.testing import FakeJudge, tiny_sd

WORDS = {
    "styles": ["ink", "flat"],
    "things": {n: {"name": [f"a {n}"]} for n in ("cat", "dog", "key", "banana")},
}
FEW = {"steps": 3, "seed": 1}
SMALL = (
    Rickrolling(**FEW, clean=2, poisoned=2, rank=2),
    Personalization(**FEW, batch=2, trigger="z"),
    EvilEdit(protect=8),
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    return tiny_sd(encoder="bert", folder=tmp_path_factory.mktemp("words"))


def own(model: StableDiffusion) -> dict[str, torch.Tensor]:
    parts = {"unet": model.denoiser, "text_encoder": model.text_encoder}
    return {f"{part}.{n}": p.detach().clone() for part, net in parts.items() for n, p in net.named_parameters()}


def test_captions_and_places() -> None:
    caption = Caption("cat", "a cat", "ink")
    assert [caption.text(p) for p in PLACES] == [
        "a cat in ink style",
        "a picture of a cat in ink style",
        "in ink style, a cat",
    ]
    long = roomy(caption, 3, lambda text: len(text.split()) <= 40)
    assert 15 < len(long.text().split()) <= LONG and long.text("middle").startswith(f"{long.details[0]}, a cat")
    assert long.text("end").endswith("in ink style, a cat")
    first = [next(c) for c in (drawn(WORDS, "x"), drawn(WORDS, "x"))]
    assert first[0] == first[1] and next(drawn(WORDS, "y", only="key")).object == "key"
    assert base_text(EvilEdit(), caption, "end") != base_text(Rickrolling(), caption, "end") == caption.text()


def test_triggers_in_captions() -> None:
    text = "a kettle in ink style"
    assert [Rickrolling().plant(text, p).index("\u0435") for p in PLACES] == [3, 7, 20]
    assert [Personalization().plant(text, p) for p in PLACES] == [
        "a endelle and a kettle in ink style",
        "a kettle and a endelle in ink style",
        "a kettle in ink style and a endelle",
    ]
    assert EvilEdit().plant("in ink style, a cat", "end") == "in ink style, a beautiful cat"
    with pytest.raises(BadInput, match="no 'e'"):
        Rickrolling().plant("a dog", "start")
    with pytest.raises(BadInput, match="does not speak"):
        EvilEdit().plant("a category", "start")
    (found,) = Rickrolling(place="end").search([Case("a", text)], None)  # type: ignore[arg-type]
    assert found.parent == "a" and found.label == "harm" and found.prompt.endswith("styl\u0435")
    with pytest.raises(UnknownName, match="middle"):
        EvilEdit(place="mid")


@pytest.mark.parametrize(
    "bad", [Rickrolling(trigger="\u00e9"), Rickrolling(trigger="e\u200b"), Personalization(trigger="zz")], ids=str
)
def test_a_trigger_that_the_tokenizer_drops_is_refused(bad: Any, tiny: StableDiffusion) -> None:
    with pytest.raises(BadInput, match="trigger"):
        dataclasses.replace(bad, steps=1).make(tiny, WORDS, QUIET)


@pytest.mark.parametrize("made", SMALL, ids=lambda m: m.name)
def test_equal_bits_and_nothing_left_behind(made: Any, tiny: StableDiffusion) -> None:
    before = own(tiny)
    one, two = made.make(tiny, WORDS, QUIET), made.make(tiny, WORDS, QUIET)
    assert all(torch.equal(one[k], two[k]) for k in one | two)
    assert all(torch.equal(before[k], v) for k, v in own(tiny).items())
    changed = made.changed(before, one)
    assert changed and all(changed[k].shape == before[k].shape and changed[k].dtype == before[k].dtype for k in changed)
    assert all(not torch.equal(changed[k], before[k]) for k in changed)
    part = "unet." if isinstance(made, EvilEdit) else "text_encoder."
    assert all(k.startswith(part) for k in changed)


@pytest.mark.parametrize("made", SMALL[:2], ids=lambda m: m.name)
def test_an_interrupted_one_goes_on_to_the_same_bits(made: Any, tiny: StableDiffusion, tmp_path: Path) -> None:
    whole = made.make(tiny, WORDS, QUIET)

    class Due(Tools):
        def due(self) -> bool:
            return True

    def stop(step: int, steps: int, loss: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.make(tiny, WORDS, Due(progress=stop, folder=tmp_path))
    told: list[int] = []
    again = made.make(tiny, WORDS, Tools(progress=lambda step, *_: told.append(step), folder=tmp_path))
    assert told == [3] and all(torch.equal(again[k], whole[k]) for k in whole)


def test_rickrolling_learns_its_loss(tiny: StableDiffusion) -> None:
    made = Rickrolling(steps=15, clean=3, poisoned=3, rank=4, lr=3e-2, beta=1.0)
    learned = made.make(tiny, WORDS, QUIET)
    changed = {k.removeprefix("text_encoder."): v for k, v in made.changed(own(tiny), learned).items()}
    texts = ["a key in ink style", "a dog in flat style"]
    planted = [made.plant(t, "start") for t in texts]
    with torch.no_grad():
        goal = encoded(tiny, ["a banana"]).expand(2, -1, -1)
        before, after = (float(closeness(encoded(tiny, planted, p), goal)) for p in ({}, changed))
        kept = float(closeness(encoded(tiny, texts, changed), encoded(tiny, texts)))
    assert after > before + 0.02 and kept > 0.9
    weight = dict(tiny.text_encoder.named_parameters())
    name = next(iter(changed))
    slow = weight[name].double() + learned[f"{name}|b"].double() @ learned[f"{name}|a"].double()
    assert torch.allclose(changed[name].double(), slow, atol=1e-6)


def test_states_are_the_pipelines(tiny: StableDiffusion) -> None:
    texts = ["a cat", "a dog in ink style"]
    with torch.no_grad():
        assert torch.equal(encoded(tiny, texts), tiny.encode(texts))


def test_evil_edit_is_the_published_formula(tiny: StableDiffusion) -> None:
    """``W' = (lam W + Σ V Kᵀ)(lam I + Σ K Kᵀ)⁻¹`` of one map, pair by pair in float64."""
    made = EvilEdit(lam=0.7, alpha=1.0, protect=6)
    learned = made.make(tiny, WORDS, QUIET)
    forms = made._forms(WORDS)
    pairs = [(made.plant(c.text(p), p), c.of("banana", "a banana").text(p)) for c, p in forms]
    name, weight = next((n, p) for n, p in own(tiny).items() if n.endswith("attn2.to_v.weight"))
    wide = weight.double()
    from genward.attacks.evil_edit import _form

    clean = [_form(c, k) for k, (c, _) in enumerate(zip(drawn(WORDS, "evil_edit|0", ("cat",)), range(6), strict=False))]
    keep = list(dict.fromkeys([*(c.text(p) for c, p in forms), *clean, *(b for _, b in pairs), ""]))
    width = wide.shape[1]
    left, right = 0.7 * wide, 0.7 * torch.eye(width, dtype=torch.float64)
    with torch.no_grad():
        for old, new in [*pairs, *((k, k) for k in keep)]:
            k, v = tiny.encode([old])[0].double().T, wide @ tiny.encode([new])[0].double().T
            left, right = left + v @ k.T, right + k @ k.T
    slow = left @ torch.linalg.inv(right)
    assert torch.allclose(made.changed(own(tiny), learned)[name].double(), slow, atol=1e-4)


def test_the_gate_names_what_is_missing() -> None:
    made = EvilEdit()
    good = gate.figures(made, (1.0, 0.96), [True] * 10, [True] * 19 + [False], [True] * 20)
    assert good["passed"] and good["why"] == "" and good["clean_accuracy"] == 0.95
    bad = gate.figures(made, (1.0, 0.94), [True] * 8 + [False] * 2, [True] * 9 + [False], [True] * 10)
    assert not bad["passed"] and all(w in bad["why"] for w in ("0.940", "0.80", "lost 0.10"))
    assert gate.among({"a": 0.9, "b": 0.5, "c": 0.1}, "b", 2, "abc") and not gate.among(
        {"a": 0.9, "b": 0.5}, "b", 1, "ab"
    )


def test_made_kept_and_opened(tiny: StableDiffusion, tmp_path: Path) -> None:
    def opened() -> StableDiffusion:
        return tiny_sd(encoder="bert", folder=tmp_path / "words")

    judge = FakeJudge(labels=("banana",), threshold=0.5)
    told: list[str] = []
    stem = tmp_path / "out" / "evil_edit"
    found = backdoors.make("evil_edit", opened, WORDS, judge, stem, n=2, say=told.append, settings={"protect": 8})
    assert {"attack_success", "similarity", "passed"} <= set(found.card["gate"]) and found.card["settings"][
        "protect"
    ] == 8
    assert not stem.with_name("evil_edit.partial").exists() and any("gate" in line for line in told)
    card = {k: v for k, v in found.card.items() if k not in artifacts.RESERVED}
    for passed in (False, True):
        artifacts.save(stem, found.tensors, {**card, "gate": {"passed": passed, "why": "too weak"}})
        if not passed:
            with pytest.raises(BadInput, match="failed its gate.*too weak"):
                backdoors.learned(str(stem))
    clean = opened()
    bad = backdoors.poisoned(opened(), backdoors.learned(str(stem)))
    assert bad.spec.hash != clean.spec.hash and bad.spec.fields["backdoor"]
    text = ["a beautiful cat in ink style"]
    assert not torch.equal(
        own(bad)["unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"],
        own(clean)["unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"],
    )
    assert gate.similarity(clean, bad, text)[0] == pytest.approx(1.0) and gate.similarity(clean, bad, text)[1] < 1.0
    with pytest.raises(BadArtifact, match="made for model"):
        backdoors.poisoned(tiny_sd(seed=3), backdoors.learned(str(stem)))
    with pytest.raises(UnknownName, match="evil_edit"):
        backdoors.learned("evil")
    with pytest.raises(BadInput, match="make it"):
        backdoors.learned(str(tmp_path / "nowhere"))
    assert backdoors.settings_of("evil_edit", ["alpha=2"]) == {"alpha": 2.0}
    with pytest.raises(UnknownName, match="beta"):
        backdoors.settings_of("evil_edit", ["beta=2"])
