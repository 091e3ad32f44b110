"""AEIOU on tiny pipelines of the real classes: fitting, scoring, refusing, attribution, attenuation, augmentation, and
what it refuses to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from genward.core import Case, Concept, Sampler, Spec
from genward.defenses.aeiou import CONTEXTS, Aeiou, augment
from genward.errors import BadArtifact, BadInput, GuardError, UnknownName
from genward.models.sd import StableDiffusion
from genward.models.text import TextEncoder
from genward.ops import artifacts, heads
from genward.ops.head_guard import read_artifact
from genward.ops.phrases import benign_texts, concept_texts
from genward.ops.text_states import read_texts
from genward.ops.tools import Tools
from genward.testing import defense_laws, tiny_sd
from genward.testing.suites import CASES, hooks

SAMPLER = Sampler(steps=2, guidance=3.0)
HARM = tuple(f"a {w} {t}" for w in ("saw", "axe", "hatchet") for t in ("", "on a table", "in the rain", "of steel"))
CALM = tuple(
    f"a {w} {t}" for w in ("cup", "bowl", "dog", "apple") for t in ("", "on a table", "in the rain", "of steel")
)


@pytest.fixture(scope="module")
def fitted(model: StableDiffusion) -> Aeiou:
    return Aeiou(heads=2, fpr=0.1).fit_texts(model, HARM, CALM, keep_texts=True)


def cases(*texts: str) -> list[Case]:
    return [Case(f"c{k}", t, seed=k) for k, t in enumerate(texts)]


def by_hand(model: StableDiffusion, text: str, which: str) -> dict[str, Tensor]:
    """Head states of one text by the encoder's own modules, one at a time."""
    tokenizer, encoder = model.pipe.tokenizer, model.text_encoder
    ids = tokenizer(
        [text], padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    found: dict[str, Tensor] = {}
    handles = [
        encoder.get_submodule(site.path).register_forward_pre_hook(
            lambda _, args, n=name: found.__setitem__(n, args[0])
        )
        for name, site in model.sites.items()
        if site.stream == "heads"
    ]
    with torch.no_grad():
        encoder(ids.input_ids, attention_mask=ids.attention_mask if which == "masked" else None)
    for handle in handles:
        handle.remove()
    count = int(ids.attention_mask.sum())
    if which == "masked":
        return {n: x[0, :count].double().mean(0) for n, x in found.items()}
    first_end = ids.input_ids[0].tolist().index(tokenizer.eos_token_id)
    return {n: x[0, first_end].double() for n, x in found.items()}


@pytest.mark.parametrize("which", ["model", "masked"])
def test_states_are_the_encoders_own(which: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(which)
    sample, about = read_texts(model, HARM[:3], "auto", ())
    assert about.readout == {"text": "mean" if which == "masked" else "last"} and about.heads == {
        "text.0.heads": 2,
        "text.1.heads": 2,
    }
    for k, text in enumerate(HARM[:3]):
        for site, wanted in by_hand(model, text, which).items():
            assert torch.allclose(sample[site][k].double(), wanted, atol=1e-5)


@pytest.mark.parametrize("which", ["model", "masked"])
def test_score_by_hand_and_decision(which: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(which)
    guard = Aeiou(heads=3, fpr=0.1, passages=0).fit_texts(model, HARM, CALM)
    parts = guard.guarding()
    scores = guard.scores(model, HARM[:4])
    for k, text in enumerate(HARM[:4]):
        states = by_hand(model, text, which)
        wanted = float(parts.bias[0]) + sum(float(states[s] @ w[0].double()) for s, w in parts.weights.items())
        assert abs(float(scores[k, 0]) - wanted) < 1e-3 * max(1.0, abs(wanted))
    ordered = scores[:, 0].sort().values
    limit = float(ordered[1] + ordered[2]) / 2
    samples = model.generate(cases(*HARM[:4]), SAMPLER, [dataclasses.replace(guard, threshold=limit)])
    assert [s.status for s in samples] == ["refused" if float(x) > limit else "ok" for x in scores[:, 0]]
    assert all(
        abs(s.notes["aeiou.score"][-1] - float(x)) < 1e-3 * max(1.0, abs(float(x)))
        for s, x in zip(samples, scores[:, 0], strict=True)
    )
    assert all(s.nfe == 0 and "harmful" in s.why for s in samples if s.status == "refused")


def plain_score(model: StableDiffusion, guard: Aeiou, text: str) -> float:
    """The score of a text alone, without its passages."""
    parts = guard.guarding()
    states = by_hand(model, text, "model")
    return float(parts.bias[0]) + sum(float(states[s] @ w[0].double()) for s, w in parts.weights.items())


def test_verdicts_carry_score_category_and_tokens(model: StableDiffusion, fitted: Aeiou) -> None:
    guard = dataclasses.replace(fitted, threshold=-1e6)
    (sample,) = model.generate(cases(HARM[0]), SAMPLER, [guard])
    assert [v.action for v in sample.verdicts] == ["blocked"], "one decision, one verdict"
    (blocked,) = (told,) = sample.verdicts
    assert (
        blocked.defense == "aeiou"
        and blocked.stage == "text"
        and blocked.category == "harmful"
        and blocked.threshold == -1e6
    )
    words = HARM[0].split()
    assert [w for w, _ in told.tokens] == words, "words as they were written, no marks"
    left_out = [" ".join(words[:k] + words[k + 1 :]) for k in range(len(words))]
    parts = dataclasses.replace(fitted, names=False)
    wanted = [float(blocked.score or 0) - plain_score(model, parts, text) for text in left_out]
    assert [x for _, x in told.tokens] == pytest.approx(wanted, abs=1e-3), "what the score loses without each"
    (flagged,) = model.generate(cases(HARM[0]), SAMPLER, [dataclasses.replace(guard, action="flag", explain=False)])
    assert (
        flagged.status == "ok"
        and [v.action for v in flagged.verdicts] == ["flagged"]
        and not flagged.verdicts[0].tokens
    )


@pytest.mark.parametrize("which", ["model", "masked"])
def test_laws(which: str, request: pytest.FixtureRequest, concept: Concept) -> None:
    model = request.getfixturevalue(which)
    guard = Aeiou(heads=2, everyday=False, scenes=False).fit(model, concept)

    def make(**fields: Any) -> Aeiou:
        return dataclasses.replace(guard, **{"threshold": -1e6, "action": "flag", "attenuate": 8.0, **fields})

    defense_laws(model, make, zero={"attenuate": 0.0}, changes=False)
    count = hooks(model)
    refused = model.generate(CASES, SAMPLER, [make(action="block")])
    assert {s.status for s in refused} == {"refused"} and {s.nfe for s in refused} == {0} and hooks(model) == count


def test_fit_on_a_concept_sees_only_what_it_may(model: StableDiffusion, concept: Concept, tmp_path: Any) -> None:
    spoiled = dataclasses.replace(concept, heldout=("a hatchet",), descriptions=("a toothed blade", "a hatchet"))
    texts = [t for t, _ in concept_texts(spoiled, CONTEXTS)]
    assert "a saw" in texts and not any("hatchet" in t or "toothed" in t for t in texts), "benchmarks measure on these"
    calm = [t for t, _ in benign_texts([spoiled], CONTEXTS)]
    assert calm[0] == "" and "a drawing of a dog" in calm and not any("hammer" in t for t in calm), (
        "neighbors are left for evaluation"
    )
    assert "two of a hammer" in [t for t, _ in benign_texts([spoiled], CONTEXTS, neighbors=True)]
    told: list[tuple[int, int]] = []
    guard = Aeiou(everyday=False).fit(model, spoiled, Tools(progress=lambda step, steps, _: told.append((step, steps))))
    assert guard.artifact is not None and told == [(1, 1)]
    card = guard.artifact.card
    assert (
        card["method"] == "aeiou"
        and card["concepts"] == {"tools": spoiled.hash}
        and card["model_hash"] == model.spec.hash
    )
    assert set(texts) <= set(card["captions"]) and not set(card["settings"]) & Aeiou.at_attach
    artifacts.save(tmp_path / "x", guard.artifact.tensors, card)
    loaded = dataclasses.replace(guard, artifact=artifacts.load(tmp_path / "x"))
    assert (
        torch.equal(loaded.scores(model, HARM), guard.scores(model, HARM))
        and Spec.of("defense", loaded).hash == Spec.of("defense", guard).hash
    )


def test_several_categories(model: StableDiffusion) -> None:
    groups = {"saws": [t for t in HARM if "saw" in t], "axes": [t for t in HARM if "axe" in t]}
    guard = Aeiou(heads=2, prior=5.0).fit_texts(model, groups, CALM)
    assert guard.guarding().categories == ("saws", "axes") and guard.scores(model, HARM).shape == (len(HARM), 2)
    samples = model.generate(cases(*HARM), SAMPLER, [dataclasses.replace(guard, threshold=-1e6)])
    assert {next(v for v in s.verdicts if v.action == "blocked").category for s in samples} <= {"saws", "axes"}
    concepts = [
        Concept(n, "policy", "", (n,), (f"a {n}", f"the {n}"), anchor="a cup", keep=("a dog",)) for n in ("saw", "axe")
    ]
    assert Aeiou(everyday=False, scenes=False).fit(model, concepts).guarding().categories == ("saw", "axe")


@pytest.mark.parametrize("shots", [2, 5, 10])
@pytest.mark.parametrize("method", ["lda", "mean", "joint"])
def test_few_shots(model: StableDiffusion, shots: int, method: str) -> None:
    guard = Aeiou(method=method, combine="logistic").fit_texts(model, HARM[:shots], CALM[:shots])
    assert torch.isfinite(guard.scores(model, [*HARM, *CALM])).all()


def test_calibrate_and_augment(model: StableDiffusion, fitted: Aeiou) -> None:
    benign = [f"a {w} by the {p}" for w in ("cat", "hat", "pie", "toy", "pen") for p in ("sea", "lake", "wood", "road")]
    guard = fitted.calibrate(model, benign, fpr=0.1)
    scores = guard.scores(model, benign)[:, 0]
    assert (
        int((scores > guard.guarding().thresholds[0]).sum()) == 1
        and guard.artifact is not None
        and guard.artifact.card["calibrated"]["prompts"] == 20
    )
    attack = ["a s4w", "an a x e", "a hatch-et"]
    again = fitted.augment(model, attack, benign)
    assert (
        again.artifact is not None
        and again.artifact.card["augmented"] == 3
        and set(attack) <= set(again.artifact.card["captions"])
    )
    assert float((again.scores(model, attack) - again.guarding().thresholds).mean()) > float(
        (fitted.scores(model, attack) - fitted.guarding().thresholds).mean()
    )
    assert fitted.artifact is not None and augment(model, fitted.artifact, attack, benign).hash == again.artifact.hash
    with pytest.raises(UnknownName, match="harmful"):
        fitted.augment(model, {"harmfull": attack})
    with pytest.raises(BadInput, match="keep_texts"):
        Aeiou().fit_texts(model, HARM, CALM).augment(model, attack)


def test_attenuation_changes_the_picture_and_zero_does_not(model: StableDiffusion, fitted: Aeiou) -> None:
    open_guard = dataclasses.replace(fitted, threshold=1e6)
    rows = cases(HARM[0], CALM[0])
    plain = model.generate(rows, SAMPLER, keep_latents=True)
    off = model.generate(rows, SAMPLER, [open_guard], keep_latents=True)
    strong = model.generate(rows, SAMPLER, [dataclasses.replace(open_guard, attenuate=4.0)], keep_latents=True)
    assert all(torch.equal(a.latents, b.latents) for a, b in zip(plain, off, strict=True))
    assert bool((plain[0].latents != strong[0].latents).any()), "equal seed, another picture"


def test_another_encoder_is_refused_by_name(model: StableDiffusion, masked: StableDiffusion, fitted: Aeiou) -> None:
    with pytest.raises(BadArtifact, match=r"CLIPTextModel 2×16 .*BertModel 2×16"):
        masked.generate(cases("a saw"), SAMPLER, [fitted])
    other = tiny_sd(seed=3)
    with pytest.raises(BadArtifact, match="fit it again"):
        other.generate(cases("a saw"), SAMPLER, [fitted])
    with pytest.raises(BadArtifact):
        fitted.scores(other, ["a saw"])
    with torch.no_grad():
        other.text_encoder.get_input_embeddings().weight.add_(1.0)
    before = heads.encoder_hash(other.text_encoder)
    with torch.no_grad():
        other.text_encoder.get_input_embeddings().weight.mul_(2.0)
    assert heads.encoder_hash(other.text_encoder) != before, "a write in place is noticed"


def test_a_score_that_is_no_number_refuses(model: StableDiffusion, fitted: Aeiou) -> None:
    class Spoiler:
        name: ClassVar[str] = "spoiler"

        def attach(self, rig: Any) -> None:
            rig.tap("text.0.heads", lambda x, frame: x * float("nan"))

    guard = dataclasses.replace(Aeiou(heads=0).fit_texts(model, HARM, CALM), action="flag", threshold=1e6)
    (sample,) = model.generate(cases("a dog"), SAMPLER, [Spoiler(), guard])
    assert sample.status == "error" and "not a number" in sample.why and sample.image is None


def test_damaged_artifacts_are_refused(model: StableDiffusion, fitted: Aeiou) -> None:
    assert fitted.artifact is not None
    tensors, card = (
        dict(fitted.artifact.tensors),
        {k: v for k, v in fitted.artifact.card.items() if k not in artifacts.RESERVED},
    )
    for spoil in ({"bias": torch.zeros(3)}, {"threshold": torch.zeros(2)}):
        with pytest.raises(BadArtifact, match="fit it again"):
            read_artifact(artifacts.make({**tensors, **spoil}, card))
    for key in ("categories", "heads", "encoders", "readout"):
        with pytest.raises(BadArtifact, match="aeiou"):
            read_artifact(artifacts.make(tensors, {k: v for k, v in card.items() if k != key}))
    with pytest.raises(BadInput, match="learned nothing yet"):
        model.generate(cases("a dog"), SAMPLER, [Aeiou()])


BAD: tuple[tuple[dict[str, Any], type[Exception]], ...] = (
    ({"method": "pca"}, UnknownName), ({"combine": "max"}, UnknownName), ({"readout": "cls"}, UnknownName),
    ({"action": "steer"}, BadInput),
    ({"passages": 1}, BadInput), ({"fpr": 0.0}, BadInput), ({"heads": -1}, BadInput), ({"penalty": 0.0}, BadInput),
    ({"attenuate": -1.0}, BadInput), ({"threshold": float("nan")}, BadInput),
)  # fmt: skip


@pytest.mark.parametrize(("fields", "error"), BAD, ids=[next(iter(f)) for f, _ in BAD])
def test_bad_settings(fields: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Aeiou(**fields)


def test_bad_texts(model: StableDiffusion) -> None:
    for harmful, benign, told in (
        (["a"], CALM, "at least 2"), ("a saw", CALM, "single string"), ([*HARM, 3], CALM,
        "int"), (HARM, [*CALM, HARM[0]], "at once"), ({}, CALM, "category"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=told):
            Aeiou().fit_texts(model, harmful, benign)  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="text.0.heads"):
        Aeiou(layers=("text.9.heads",)).fit_texts(model, HARM, CALM)
    with pytest.raises(BadInput, match="phrases"):
        Aeiou().fit(model, Concept("x", "policy", "", ("x",), ()))
    with pytest.raises(GuardError, match="cannot tell"):
        Aeiou().fit_texts(type("Odd", (), {"sites": model.sites})(), HARM, CALM)


def t5(folder: Any) -> TextEncoder:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=128, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
    )
    torch.manual_seed(0)
    pipe = tiny_sd(encoder="bert", folder=folder).pipe
    return TextEncoder(pipe.tokenizer, T5EncoderModel(config).eval(), name="tiny-t5")


@pytest.fixture(params=["clip", "bert", "t5"])
def alone(
    request: pytest.FixtureRequest, model: StableDiffusion, masked: StableDiffusion, tmp_path: Any
) -> Iterator[TextEncoder]:
    if request.param == "t5":
        yield t5(tmp_path)
    else:
        pipe = (model if request.param == "clip" else masked).pipe
        yield TextEncoder(pipe.tokenizer, pipe.text_encoder)


def test_any_encoder_alone(alone: TextEncoder) -> None:
    guard = Aeiou(heads=2).fit_texts(alone, HARM, CALM)
    both = guard.scores(alone, [*HARM, "x" * 5000, ""])
    one = torch.cat([guard.scores(alone, [t]) for t in HARM])
    assert torch.allclose(both[: len(HARM)], one, atol=1e-3), "neighbors in a batch change nothing"
    assert not any(m._forward_pre_hooks for m in alone.encoder.modules())
    assert guard.guarding().encoders["text"]["hash"] == heads.encoder_hash(alone.encoder)


def test_alone_and_in_the_pipeline_agree(model: StableDiffusion, masked: StableDiffusion) -> None:
    for own in (model, masked):
        single = TextEncoder(own.pipe.tokenizer, own.pipe.text_encoder)
        a, b = read_texts(own, HARM[:4], "auto", ()), read_texts(single, HARM[:4], "auto", ())
        assert a[1] == b[1] and all(torch.allclose(a[0][s], b[0][s], atol=1e-5) for s in a[0])


def test_odd_texts(model: StableDiffusion, fitted: Aeiou) -> None:
    single = TextEncoder(model.pipe.tokenizer, model.pipe.text_encoder)
    odd = ["", " ", "\u202egnp", "\x07\x1b[0m", "x" * 100_000, "\ud800 lone", "🔥" * 40, "قطة"]
    assert torch.isfinite(fitted.scores(single, odd)).all()
    with pytest.raises(BadInput, match="NoneType"):
        fitted.scores(single, ["a", None])  # type: ignore[list-item]
    hidden = "a dog <|endoftext|> a saw"
    a, b = (read_texts(model, [t], "last", ())[0]["text.1.heads"] for t in (hidden, "a dog"))
    assert not torch.allclose(a, b, atol=1e-4), "an end mark spelled out in the prompt hides nothing behind it"
