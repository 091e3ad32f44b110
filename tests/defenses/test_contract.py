"""What the other rooms read from every defense, and the laws of attaching on a tiny model of the real classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from genward.core import Concept, Sampler, Spec
from genward.defenses.concept_ablation import ConceptAblation
from genward.defenses.esd import Esd
from genward.defenses.irece import Irece
from genward.defenses.negative_prompt import NegativePrompt
from genward.defenses.none import NoDefense
from genward.defenses.sld import SafeLatentDiffusion
from genward.defenses.uce import Uce
from genward.errors import BadInput, Conflict, Inapplicable, UnknownName
from genward.models.sd import StableDiffusion
from genward.ops import artifacts
from genward.run import catalog
from genward.testing import defense_laws
from genward.testing.suites import CASES

CLASSES = (NoDefense, NegativePrompt, SafeLatentDiffusion, Uce, Esd, ConceptAblation, Irece)
LEARNED = (
    Uce(rows="all"),
    Uce(mode="tensor"),
    Esd(iterations=2, batch=2, lr=3e-3, sampling_steps=4),
    Esd(variant="u", iterations=1, batch=2, lr=3e-3, sampling_steps=2),
    ConceptAblation(steps=2, batch=2, images=4, sampling_steps=2, lr=3e-2),
)


@pytest.mark.parametrize("cls", CLASSES)
def test_what_other_rooms_read(cls: Any) -> None:
    entry = catalog.entry("defense", cls.name)
    assert entry.class_name == cls.__name__ and 20 < len(entry.summary) < 180 and entry.summary.endswith(".")
    assert all(f.doc and f.default is not None for f in entry.fields), "every field has a default and a line of text under it"
    assert cls.kind in ("prompt", "guidance", "weights", "latents") and isinstance(cls.needs_guidance, bool) and isinstance(cls.extra_passes, float)
    names = {f.name for f in dataclasses.fields(cls)}
    assert cls.fits == ("artifact" in names) == hasattr(cls, "fit") != hasattr(cls, "for_concept")
    assert cls.at_attach <= names and (not cls.fits or cls.at_attach >= {"artifact", "strength"})
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


@pytest.mark.parametrize("settings", LEARNED, ids=lambda s: f"{s.name}-{getattr(s, 'mode', getattr(s, 'variant', ''))}")
@pytest.mark.parametrize("which", ["model", "masked"])
def test_laws_of_learned_defenses(settings: Any, which: str, request: pytest.FixtureRequest, concept: Concept, tmp_path: Any) -> None:
    model = request.getfixturevalue(which)
    fitted = settings.fit(model, concept)

    def make(**fields: Any) -> Any:
        return dataclasses.replace(fitted, **fields)

    defense_laws(model, make, zero={"strength": 0.0}, changes=False)  # pictures of a tiny random model may round to the same bytes
    sampler = Sampler(steps=3, guidance=3.0)
    plain, guarded = (model.generate(CASES, sampler, d, keep_latents=True) for d in ([], [fitted]))
    assert all(bool((a.latents != b.latents).any()) for a, b in zip(plain, guarded, strict=True))
    artifacts.save(tmp_path / "x", fitted.artifact.tensors, fitted.artifact.card)
    loaded = dataclasses.replace(fitted, artifact=artifacts.load(tmp_path / "x"))
    again = model.generate(CASES, sampler, [loaded], keep_latents=True)
    assert all(bool((a.latents == b.latents).all()) for a, b in zip(guarded, again, strict=True)), "saved and loaded acts bit for bit as fitted"
    assert Spec.of("defense", loaded).hash == Spec.of("defense", fitted).hash != Spec.of("defense", settings).hash
    card = fitted.artifact.card
    assert card["method"] == settings.name and card["model_hash"] == model.spec.hash and card["concepts"] == {concept.name: concept.hash}
    assert set(concept.phrases) <= set(card["captions"]) and not set(card["settings"]) & settings.at_attach


@pytest.mark.parametrize("cls", [Uce, Esd, ConceptAblation])
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
    assert {s.passes for s in ours} == {6}, "no extra pass"
