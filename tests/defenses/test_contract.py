"""What the other rooms read from every defense, and the laws of attaching on a tiny model of the real classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from genward.catalog import plugins as catalog
from genward.core import Concept, Sampler, Spec, defending
from genward.defenses.acterase import ActErase
from genward.defenses.aeiou import Aeiou
from genward.defenses.concept_ablation import ConceptAblation
from genward.defenses.esd import Esd
from genward.defenses.image_filter import ImageFilter
from genward.defenses.irece import Irece
from genward.defenses.negative_prompt import NegativePrompt
from genward.defenses.none import NoDefense
from genward.defenses.normalize import TextNormalizer
from genward.defenses.per import Per
from genward.defenses.saemnesia import Saemnesia
from genward.defenses.saeuron import Saeuron
from genward.defenses.safepatch import SafePatch
from genward.defenses.saferedir import SafeRedir
from genward.defenses.sld import SafeLatentDiffusion
from genward.defenses.uce import Uce
from genward.defenses.wukong import Wukong
from genward.errors import BadInput, Conflict, Inapplicable, UnknownName
from genward.models.sd import StableDiffusion
from genward.ops import artifacts
from genward.ops.ambiguous import ambiguous_cases
from genward.ops.tools import Tools
from genward.testing import FakeJudge, defense_laws
from genward.testing.suites import CASES, hooks, same

PORTS = (NoDefense, NegativePrompt, SafeLatentDiffusion, Uce, Esd, ConceptAblation, Irece, ActErase, SafePatch)
CODES = (Saeuron, Saemnesia, Per)
GUARDS = (Aeiou, Wukong, SafeRedir, TextNormalizer, ImageFilter)
CLASSES = (*PORTS, *CODES, *GUARDS)
LEARNED = (
    Uce(rows="all"),
    Uce(mode="tensor"),
    Esd(iterations=2, batch=2, lr=3e-3, sampling_steps=4),
    Esd(variant="u", iterations=1, batch=2, lr=3e-3, sampling_steps=2),
    ConceptAblation(steps=2, batch=2, images=4, sampling_steps=2, lr=3e-2),
    SafePatch(pairs=4, steps=2, batch=4, sampling_steps=2, lr=3e-2, tau=1.0),
    ActErase(pairs=4, sampling_steps=2, tau=0.2),
    ActErase(pairs=4, sampling_steps=2, tau=0.2, site="hidden", masks="timestep", average="timestep", halves="both"),
)
FEW = {"per_caption": 1, "learn_at": (0.0, 0.99), "sampling_steps": 2, "guidance": 1.0, "epochs": 1, "batch": 16}


class LearnedGuard(NamedTuple):
    """A guard that learns, and what makes it act on every row or on none."""

    settings: Any
    acts: dict[str, Any]
    inert: tuple[dict[str, Any], ...]
    stage: str
    nfe: int
    """Denoiser rows of a row that it acts on, of 4 guided steps; below 8 it refuses"""
    late: dict[str, Any]
    """What lets rows come past the middle of the loop, where the suite crashes a port"""


REDIRECTS, FLAGS = {"threshold": 0.0, "strength": 4.0}, {"action": "flag"}
STOPS, WEAKENS = {"threshold": 0.0, "step": 1}, {"action": "flag", "attenuate": 8.0}
LEARNED_GUARDS = (
    LearnedGuard(
        Aeiou(heads=2),
        {"threshold": -1e6},
        ({"threshold": 1e9, "attenuate": 0.0}, {**FLAGS, "attenuate": 0.0}),
        "text",
        0,
        WEAKENS,
    ),
    LearnedGuard(
        Wukong(images=12, hidden=8, rank=2, **FEW), STOPS, ({"threshold": 1.0}, FLAGS), "denoise", 4, {"step": 3}
    ),
    LearnedGuard(
        Wukong(images=12, hidden=8, rank=2, reading="B", **FEW),
        STOPS,
        ({"threshold": 1.0}, FLAGS),
        "denoise",
        4,
        {"step": 3},
    ),
    LearnedGuard(
        SafeRedir(pairs=5, benign=3, width=0.125, **FEW),
        REDIRECTS,
        ({"strength": 0.0}, {"threshold": 1.0}),
        "denoise",
        8,
        {},
    ),
)


@pytest.mark.parametrize("cls", CLASSES)
def test_what_other_rooms_read(cls: Any) -> None:
    entry = catalog.entry("defense", cls.name)
    assert entry.class_name == cls.__name__ and 20 < len(entry.summary) < 180 and entry.summary.endswith(".")
    assert all(f.doc and f.default is not None for f in entry.fields), (
        "every field has a default and a line of text under it"
    )
    names = {f.name for f in dataclasses.fields(cls)}
    assert defending.learns(cls) == ("artifact" in names) == (defending.artifact_field(cls) == "artifact")
    assert defending.learns(cls) != hasattr(cls, "for_concept") and defending.takes_concept(cls)
    assert isinstance(defending.needs_guidance(cls), bool) and defending.extra_nfe(cls) >= 0
    acting = defending.at_attach(cls)
    assert not defending.learns(cls) or (
        acting <= names and acting >= {"artifact"} and acting & {"strength", "threshold"}
    )
    assert catalog.find("defense", cls.name) is cls
    assert Spec.from_json(Spec.of("defense", cls()).to_json()).hash == Spec.of("defense", cls()).hash


@pytest.mark.parametrize("which", ["model", "masked"])
def test_laws_without_learning(which: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(which)
    defense_laws(model, NoDefense, zero={}, changes=False)
    defense_laws(model, NegativePrompt, zero={"text": ""})
    for preset in ("weak", "medium", "strong", "max"):

        def make(preset: str = preset, **fields: Any) -> SafeLatentDiffusion:
            return SafeLatentDiffusion(preset=preset, **fields)

        defense_laws(model, make, zero={"scale": 0.0})
    defense_laws(model, TextNormalizer, zero={"steps": ()}, changes=False)

    def bright(**fields: Any) -> ImageFilter:
        return ImageFilter(**{"labels": ("bright",), "probe": FakeJudge(), "threshold": 0.0, **fields})

    defense_laws(model, bright, zero={"threshold": 2.0})
    defense_laws(model, bright, zero={"action": "flag"})


@pytest.mark.parametrize(
    "settings", LEARNED, ids=lambda s: f"{s.name}-{getattr(s, 'mode', getattr(s, 'variant', getattr(s, 'site', '')))}"
)
@pytest.mark.parametrize("which", ["model", "masked"])
def test_laws_of_learned_defenses(
    settings: Any, which: str, request: pytest.FixtureRequest, concept: Concept, tmp_path: Any
) -> None:
    model = request.getfixturevalue(which)
    fitted = settings.fit(model, concept)

    def make(**fields: Any) -> Any:
        return dataclasses.replace(fitted, **fields)

    defense_laws(
        model, make, zero={"strength": 0.0}, changes=False
    )  # pictures of a tiny random model may round to the same bytes
    sampler = Sampler(steps=3, guidance=3.0)
    plain, guarded = (model.generate(CASES, sampler, d, keep_latents=True) for d in ([], [fitted]))
    assert all(bool((a.latents != b.latents).any()) for a, b in zip(plain, guarded, strict=True))
    loaded = laws_of_what_is_learned(settings, fitted, model, concept, tmp_path)
    again = model.generate(CASES, sampler, [loaded], keep_latents=True)
    assert all(bool((a.latents == b.latents).all()) for a, b in zip(guarded, again, strict=True)), (
        "saved and loaded acts bit for bit as fitted"
    )


def laws_of_what_is_learned(settings: Any, fitted: Any, model: StableDiffusion, concept: Concept, folder: Any) -> Any:
    """What the file of every fit keeps to; returns the defense with its artifact saved and loaded."""
    artifacts.save(folder / "x", fitted.artifact.tensors, fitted.artifact.card)
    loaded = dataclasses.replace(fitted, artifact=artifacts.load(folder / "x"))
    assert Spec.of("defense", loaded).hash == Spec.of("defense", fitted).hash != Spec.of("defense", settings).hash
    card = fitted.artifact.card
    assert (
        card["method"] == settings.name
        and card["model_hash"] == model.spec.hash
        and card["concepts"] == {concept.name: concept.hash}
    )
    told, drawn = (
        set(card["captions"]),
        type(settings) in (Wukong, SafeRedir),
    )  # these two draw some of the captions, all others take every phrase
    assert (any(p in c for p in concept.phrases for c in told) if drawn else set(concept.phrases) <= told) and not set(
        card["settings"]
    ) & settings.at_attach
    assert not any(held in caption for held in concept.heldout for caption in told)
    return loaded


def fitted_guard(settings: Any, model: StableDiffusion, concept: Concept) -> Any:
    """A guard with what it learns of a tiny model's pictures; who needs labels gets a judge that calls the brighter
    half the concept."""
    if not isinstance(settings, Wukong):
        return settings.fit(model, concept)
    cases = ambiguous_cases([concept], {}, settings.images, settings.per_caption, settings.captions, settings.seed)
    shown = model.generate(cases, Sampler(settings.sampling_steps, settings.guidance))
    middle = float(np.median([np.asarray(s.image.convert("L")).mean() / 255 for s in shown if s.image is not None]))
    return settings.fit(model, concept, Tools(judge=FakeJudge(labels=concept.judge, threshold=middle)))


@pytest.mark.parametrize(
    "guard", LEARNED_GUARDS, ids=lambda g: f"{g.settings.name}-{getattr(g.settings, 'reading', '')}"
)
@pytest.mark.parametrize("which", ["model", "masked"])
def test_laws_of_learned_guards(
    guard: LearnedGuard, which: str, request: pytest.FixtureRequest, concept: Concept, tmp_path: Any
) -> None:
    model, labelled = (
        request.getfixturevalue(which),
        dataclasses.replace(concept, judge=("saw",), heldout=("a handsaw",)),
    )
    fitted = fitted_guard(guard.settings, model, labelled)
    sampler = Sampler(steps=4, guidance=3.0)

    def make(**fields: Any) -> Any:
        return dataclasses.replace(fitted, **{**guard.acts, **fields})

    before, plain = hooks(model), model.generate(CASES, sampler, keep_latents=True)
    for inert in guard.inert:
        refuses_late = guard.late.get("step") == 3  # steered pictures of a tiny model may round to the same bytes
        defense_laws(
            model, lambda **fields: make(**{**guard.late, **fields}), zero=inert, sampler=sampler, changes=refuses_late
        )
        assert same(plain, model.generate(CASES, sampler, [make(**inert)]))
    acted = model.generate(CASES, sampler, [make()], keep_latents=True)
    assert {v.defense for s in acted for v in s.verdicts} == {fitted.name} and {
        v.stage for s in acted for v in s.verdicts
    } == {guard.stage}
    assert {s.nfe for s in acted} == {guard.nfe}, (
        "what is refused costs nothing afterwards, what is steered nothing more"
    )
    if guard.nfe < 8:
        assert all(s.status == "refused" and s.image is None and fitted.name in s.why for s in acted)
    else:
        assert all(bool((a.latents != b.latents).any()) for a, b in zip(plain, acted, strict=True))
    loaded = laws_of_what_is_learned(guard.settings, fitted, model, labelled, tmp_path)
    again = model.generate(CASES, sampler, [dataclasses.replace(loaded, **guard.acts)], keep_latents=True)
    assert (
        same(acted, again)
        and [s.notes for s in again] == [s.notes for s in acted]
        and [s.verdicts for s in again] == [s.verdicts for s in acted]
    )
    assert hooks(model) == before
    with pytest.raises(ZeroDivisionError), model.rig([make()]) as rig:
        assert rig.ports, "attached while the rig is open"
        raise ZeroDivisionError("on purpose")
    assert hooks(model) == before and same(plain, model.generate(CASES, sampler)), (
        "a rig that closes on an exception leaves the model as it was"
    )


def test_the_earlier_stage_decides_in_any_order(model: StableDiffusion, concept: Concept) -> None:
    """Prompt guard before denoising guard before image filter: the order in a chain is no matter across stages, and one
    row has one blocker."""
    sampler, labelled = Sampler(steps=4, guidance=3.0), dataclasses.replace(concept, judge=("saw",))
    made = {
        g.settings.name: dataclasses.replace(fitted_guard(g.settings, model, labelled), **g.acts)
        for g in LEARNED_GUARDS[:2]
    }
    made["image_filter"] = ImageFilter(labels=("bright",), probe=FakeJudge(), threshold=0.0)
    for first, second, nfe in (("aeiou", "wukong", 0), ("aeiou", "image_filter", 0), ("wukong", "image_filter", 4)):
        one, other = (model.generate(CASES, sampler, [made[a], made[b]]) for a, b in ((first, second), (second, first)))
        for rows in (one, other):
            assert all(
                s.status == "refused" and s.nfe == nfe and [v.defense for v in s.verdicts] == [first] for s in rows
            )
        assert [s.verdicts for s in one] == [s.verdicts for s in other]
    flags = [dataclasses.replace(made[name], action="flag") for name in ("image_filter", "wukong", "aeiou")]
    for sample in model.generate(CASES, sampler, flags):
        assert sample.status == "ok" and [v.defense for v in sample.verdicts] == ["aeiou", "wukong", "image_filter"]
    assert same(model.generate(CASES, sampler), model.generate(CASES, sampler, flags))


@pytest.mark.parametrize("cls", [c for c in CLASSES if defending.learns(c)])
def test_nothing_learned_is_an_error(cls: Any, model: StableDiffusion) -> None:
    with pytest.raises(BadInput, match="learned nothing yet"):
        model.generate(CASES, Sampler(steps=2), [cls()])


@pytest.mark.parametrize("defense", [NegativePrompt(), SafeLatentDiffusion()])
def test_guidance_one_is_refused(defense: Any, model: StableDiffusion) -> None:
    with pytest.raises(Inapplicable, match=defense.name):
        model.generate(CASES, Sampler(steps=2, guidance=1.0), [defense])


def test_two_owners_of_guidance_conflict(model: StableDiffusion) -> None:
    with pytest.raises(Conflict, match="sld and sld"):
        model.generate(CASES, Sampler(steps=2), [SafeLatentDiffusion(), SafeLatentDiffusion()])


BAD: tuple[tuple[Callable[[], Any], type[Exception], str], ...] = (
    (lambda: SafeLatentDiffusion(preset="strongest"), UnknownName, "strong"),
    (lambda: SafeLatentDiffusion(scale=-1.0), BadInput, "at least 0"),
    (lambda: SafeLatentDiffusion(threshold=float("nan")), BadInput, "sld"),
    (lambda: SafeLatentDiffusion(momentum_beta=1.0), BadInput, "momentum_beta"),
    (lambda: SafeLatentDiffusion(text="  "), BadInput, "empty"),
    (lambda: Uce(mode="swap"), BadInput, "replace"),
    (lambda: Uce(rows="first"), BadInput, "last"),
    (lambda: Esd(variant="y"), UnknownName, "variant"),
    (lambda: Esd(trajectory="none"), BadInput, "edited"),
    (lambda: Esd(iterations=0), BadInput, "at least 1"),
    (lambda: Esd(lr=0.0), BadInput, "lr"),
    (lambda: ConceptAblation(parameters="all"), UnknownName, "parameter set"),
    (lambda: ConceptAblation(loss="both"), BadInput, "noise"),
    (lambda: ConceptAblation(teacher="dead"), BadInput, "frozen"),
    (lambda: ConceptAblation(images=0), BadInput, "at least 1"),
    (lambda: Aeiou(method="pca"), UnknownName, "lda"),
    (lambda: Aeiou(fpr=1.0), BadInput, "between 0 and 1"),
    (lambda: Aeiou(threshold=float("nan")), BadInput, "NaN"),
    (lambda: Wukong(point="fpr2"), UnknownName, "fpr1"),
    (lambda: Wukong(threshold=1.5), BadInput, "probability"),
    (lambda: SafeRedir(when="never"), UnknownName, "saferedir when"),
    (lambda: SafeRedir(every=0), BadInput, "at least 1"),
    (lambda: TextNormalizer(steps=("lee",)), UnknownName, "leet"),
    (lambda: ImageFilter(threshold=float("inf")), BadInput, "finite"),
    (lambda: ImageFilter(action="blur"), UnknownName, "block"),
)


@pytest.mark.parametrize(("make", "error", "told"), BAD)
def test_bad_settings_are_named(make: Callable[[], Any], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        make()


def test_negative_prompt_takes_the_place_of_a_rows_own(model: StableDiffusion, concept: Concept, fake_rig: Any) -> None:
    defense = NegativePrompt.for_concept(concept)
    assert defense.text == "a saw, an axe, a small saw, a hatchet" and defense.concept == "tools"
    assert NegativePrompt.for_concept(concept, text="a cup").text == "a cup"
    sampler = Sampler(steps=3, guidance=3.0)
    ours = model.generate([c._replace(negative="fog") for c in CASES], sampler, [defense], keep_latents=True)
    stock = model.generate([c._replace(negative=defense.text) for c in CASES], sampler, keep_latents=True)
    assert all(bool((a.latents == b.latents).all()) for a, b in zip(ours, stock, strict=True))
    assert {s.nfe for s in ours} == {6}, "no extra pass"
