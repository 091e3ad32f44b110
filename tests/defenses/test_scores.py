"""The law of scores over the whole catalog, and each way in which a score or a card let rows through before."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from genward.catalog import plugins
from genward.core import Concept, Sampler, defending
from genward.core.contracts import Artifact
from genward.defenses.acterase import ActErase
from genward.defenses.activation_scan import ActivationScan
from genward.defenses.aeiou import Aeiou
from genward.defenses.concept_ablation import ConceptAblation
from genward.defenses.esd import Esd
from genward.defenses.image_filter import ImageFilter
from genward.defenses.irece import Irece
from genward.defenses.noise_probe import NoiseProbe
from genward.defenses.pepper import Pepper
from genward.defenses.per import Per
from genward.defenses.preview_filter import PreviewFilter
from genward.defenses.saemnesia import Saemnesia
from genward.defenses.saeuron import Saeuron
from genward.defenses.safepatch import SafePatch
from genward.defenses.saferedir import SafeRedir
from genward.defenses.t2ishield import T2IShield
from genward.defenses.textual_perturbation import TextualPerturbation
from genward.defenses.uce import Uce
from genward.defenses.ufid import Ufid
from genward.defenses.wukong import Wukong
from genward.errors import BadArtifact, BadInput
from genward.models.sd import StableDiffusion
from genward.ops import localizer
from genward.ops.ambiguous import ambiguous_cases
from genward.ops.tools import Tools
from genward.testing import FakeJudge, scoring_laws
from genward.testing.scoring import scores
from genward.testing.suites import CASES

SAMPLER = Sampler(steps=4, guidance=3.0)
FEW: dict[str, Any] = {"per_caption": 1, "learn_at": (0.0, 0.99), "sampling_steps": 2, "guidance": 1.0, "epochs": 1}
SEES: dict[str, Any] = {"labels": ("bright",), "probe": FakeJudge(), "threshold": 2.0}
CODES: dict[str, Any] = {
    "expansion": 3, "k": 4, "sae_images": 12, "sae_epochs": 1, "images": 4, "others": 2, "sampling_steps": 4,
}  # fmt: skip
SMALL: dict[str, tuple[Any, dict[str, Any]]] = {
    "acterase": (ActErase(pairs=4, sampling_steps=2, tau=0.2), {}),
    "activation_scan": (ActivationScan(steps=4), {"threshold": 1e6}),
    "aeiou": (Aeiou(heads=2), {"threshold": 1e6}),
    "concept_ablation": (ConceptAblation(steps=1, batch=2, images=4, sampling_steps=2), {}),
    "esd": (Esd(iterations=1, batch=2, sampling_steps=2), {}),
    "image_filter": (ImageFilter(**SEES), {}),
    "irece": (Irece(images=20, sampling_steps=4, threshold=0.0), {}),
    "noise_probe": (NoiseProbe(images=24, per_caption=2, sampling_steps=4, truth="caption"), {"threshold": 1.0}),
    "pepper": (Pepper(), {}),
    "per": (Per(**CODES), {}),
    "preview_filter": (PreviewFilter(**SEES, step=1), {}),
    "saemnesia": (Saemnesia(**CODES, labeled_images=15, epochs=1), {}),
    "saeuron": (Saeuron(**CODES), {}),
    "safepatch": (SafePatch(pairs=4, steps=2, batch=4, sampling_steps=2, tau=1.0), {}),
    "saferedir": (SafeRedir(pairs=5, benign=3, width=0.125, batch=16, **FEW), {"threshold": 1.0}),
    "t2ishield": (T2IShield(components=4, sampling_steps=2), {"threshold": 1e6}),
    "textual_perturbation": (TextualPerturbation(), {}),
    "uce": (Uce(), {}),
    "ufid": (Ufid(pictures=2, sampling_steps=1, probe=FakeJudge()), {"threshold": 2.0}),
    "wukong": (Wukong(images=20, hidden=8, rank=2, batch=16, **FEW), {"threshold": 1.0, "step": 1}),
}
"""Name -> small settings, and fields under which rows are released; every other defense is taken as it is."""
SCANS = {"activation_scan", "t2ishield", "ufid"}
SCORING = SCANS | {"aeiou", "image_filter", "irece", "noise_probe", "preview_filter", "saferedir", "wukong"}


@pytest.fixture(scope="module")
def labelled(concept: Concept) -> Concept:
    return dataclasses.replace(concept, judge=("saw",))


def made(name: str, model: StableDiffusion, concept: Concept) -> Any:
    """A defense of the catalog, fitted on a tiny model where it learns."""
    if name not in SMALL:
        return defending.made_for(plugins.find("defense", name), concept)
    settings, fields = SMALL[name]
    if not defending.learns(settings):
        return settings
    judge = None
    if name == "wukong":
        cases = ambiguous_cases([concept], {}, settings.images, settings.per_caption, (), settings.seed, name)
        shown = model.generate(cases, Sampler(settings.sampling_steps, settings.guidance))
        light = [np.asarray(s.image.convert("L")).mean() / 255 for s in shown if s.image is not None]
        judge = FakeJudge(labels=concept.judge, threshold=float(np.median(light)))
    return dataclasses.replace(settings.fit(model, concept, Tools(judge=judge)), **fields)


OF_PICTURES = [
    n for n in plugins.entries("defense") if getattr(plugins.find("defense", n), "media", "image") == "image"
]


@pytest.fixture(scope="module")
def fitted(model: StableDiffusion, labelled: Concept) -> dict[str, Any]:
    return {name: made(name, model, labelled) for name in OF_PICTURES}


@pytest.mark.parametrize("name", OF_PICTURES)
def test_no_row_is_released_on_what_is_no_score(name: str, model: StableDiffusion, fitted: dict[str, Any]) -> None:
    defense = fitted[name]
    assert scores(model, defense, SAMPLER) == (name in SCORING)
    if name in SCORING:
        if name == "irece":
            tensors = dict(defense.artifact.tensors)
            tensors |= {n: torch.full_like(tensors[n], 1e6) for n in ("benign", "benign_mass")}
            defense = dataclasses.replace(defense, artifact=Artifact(tensors, defense.artifact.card, "shut"))
        scoring_laws(model, defense, sampler=SAMPLER)


# ------------------------------------------------------------------------------------------------- detectors themselves


@pytest.mark.parametrize("value", [math.nan, -math.inf, math.inf])
@pytest.mark.parametrize("what", ["presence", "contrast"])
def test_what_irece_cannot_see_is_refused(
    value: float, what: str, model: StableDiffusion, fitted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    look = localizer.Reader.look

    def blind(self: Any, *given: Any) -> Any:
        statistic, contrast = look(self, *given)
        changed = torch.full_like(statistic, value), torch.full_like(contrast, value)
        return (changed[0], contrast) if what == "presence" else (statistic, changed[1])

    monkeypatch.setattr(localizer.Reader, "look", blind)
    found = model.generate(CASES, SAMPLER, [fitted["irece"]])
    assert all(s.status == "error" and s.image is None and "not a number" in s.why for s in found), (
        "a guard that cannot tell has failed, which is no decision of its"
    )
    assert all(v.action == "blocked" and (v.score is None or math.isnan(v.score)) for s in found for v in s.verdicts)


@pytest.mark.parametrize("shape", ["(1, rows)", "(rows, 2)", "()"])
def test_a_probe_of_another_shape_is_refused(
    shape: str, model: StableDiffusion, fitted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from genward.defenses import noise_probe

    change = {"(1, rows)": lambda x: x[None], "(rows, 2)": lambda x: torch.stack([x, x], 1), "()": lambda x: x.mean()}
    real = noise_probe.probability
    monkeypatch.setattr(noise_probe, "probability", lambda tensors, x: change[shape](real(tensors, x)))
    found = model.generate(CASES, SAMPLER, [fitted["noise_probe"]])
    assert all(s.status == "error" and s.image is None for s in found)


# ---------------------------------------------------------------------------------------------------------------- cards


def with_card(defense: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The defense with one place of its artifact's card changed, as by hand: the hash is not looked at here."""

    def change(node: Any, keys: tuple[Any, ...]) -> Any:
        if not keys:
            return value
        if isinstance(node, list):
            return [change(x, keys[1:]) if k == keys[0] else x for k, x in enumerate(node)]
        return {k: change(x, keys[1:]) if k == keys[0] else x for k, x in node.items()}

    card = change(dict(defense.artifact.card), path)
    return dataclasses.replace(defense, artifact=Artifact(defense.artifact.tensors, card, "changed"))


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e9, -1.0, "0.5", None, True])
@pytest.mark.parametrize("point", ["fpr1", "fpr5", "f1"])
def test_a_threshold_out_of_range_is_no_card_of_wukong(
    value: Any, point: str, model: StableDiffusion, fitted: dict[str, Any]
) -> None:
    odd = with_card(fitted["wukong"], ("thresholds", "tools", 0, point), value)
    with pytest.raises(BadArtifact, match="fit it again"):
        model.generate(CASES, SAMPLER, [dataclasses.replace(odd, threshold=None)])


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("wukong", ("temperature",), math.nan),
        ("wukong", ("temperature",), 0.0),
        ("wukong", ("temperature",), 1e9),
        ("wukong", ("thresholds", "tools"), []),
        ("wukong", ("thresholds",), {}),
        ("wukong", ("categories",), []),
        ("irece", ("localizers",), []),
        ("irece", ("layers",), []),
        ("irece", ("size",), []),
        ("noise_probe", ("timestep",), math.nan),
        ("noise_probe", ("timestep",), -1e9),
        ("saferedir", ("scale",), math.inf),
        ("saferedir", ("scale",), -1.0),
        ("aeiou", ("categories",), []),
    ],
)
def test_a_card_that_would_switch_a_guard_off_is_refused(
    name: str, path: tuple[Any, ...], value: Any, model: StableDiffusion, fitted: dict[str, Any]
) -> None:
    with pytest.raises(BadArtifact, match="fit it again"):
        model.generate(CASES, SAMPLER, [with_card(fitted[name], path, value)])


@pytest.mark.parametrize(
    ("name", "tensor", "value"),
    [
        ("aeiou", "threshold", math.nan),
        ("aeiou", "threshold", 1e9),
        ("noise_probe", "harmless", 2.0),
        ("noise_probe", "harmless", math.nan),
        ("irece", "words", 0.0),
        ("irece", "alphas", math.nan),
    ],
)
def test_tensors_that_would_switch_a_guard_off_are_refused(
    name: str, tensor: str, value: float, model: StableDiffusion, fitted: dict[str, Any]
) -> None:
    defense = fitted[name]
    tensors = dict(defense.artifact.tensors)
    tensors[tensor] = torch.full_like(tensors[tensor], value)
    odd = dataclasses.replace(defense, artifact=Artifact(tensors, defense.artifact.card, "changed"))
    with pytest.raises(BadArtifact, match="fit it again"):
        model.generate(CASES, SAMPLER, [odd])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_threshold_of_ones_own_is_finite(value: float) -> None:
    for make in (Aeiou, Wukong, NoiseProbe, ImageFilter, PreviewFilter):
        with pytest.raises(BadInput, match="threshold"):
            make(threshold=value)
    with pytest.raises(BadInput, match="threshold"):
        SafeRedir(threshold=value)
    for make in (Irece,):
        with pytest.raises(BadInput, match="threshold"):
            make(threshold=value)
    with pytest.raises(BadInput, match="threshold"):
        ImageFilter(labels=("bright",), probe=FakeJudge(threshold=value)).attach(None)  # type: ignore[arg-type]
