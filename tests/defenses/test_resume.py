"""Fits that are stopped go on where they were, and end at the same bits as those that were not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genward.core import Concept, Sampler
from genward.defenses.acterase import ActErase
from genward.defenses.concept_ablation import ConceptAblation
from genward.defenses.esd import Esd
from genward.defenses.irece import Irece
from genward.defenses.noise_probe import NoiseProbe
from genward.defenses.safepatch import SafePatch
from genward.defenses.saferedir import SafeRedir
from genward.defenses.wukong import Wukong
from genward.errors import BadInput
from genward.models.sd import StableDiffusion
from genward.ops.ambiguous import ambiguous_cases
from genward.ops.tools import Tools
from genward.testing import FakeJudge

FEW: dict[str, Any] = {"learn_at": (0.0, 0.99), "sampling_steps": 2, "guidance": 1.0, "epochs": 4, "batch": 16}
WUKONG = Wukong(images=40, per_caption=1, hidden=8, rank=2, **FEW)
CASES = (
    (Esd(iterations=6, batch=2, lr=3e-3, sampling_steps=3), (2, 5)),
    (ConceptAblation(steps=5, batch=2, images=36, sampling_steps=2, lr=1e-2), (32, 38, 40)),
    (WUKONG, (32, -3, -1)),
    (SafeRedir(pairs=12, benign=10, per_caption=3, width=0.125, **FEW), (32, -2)),
    (NoiseProbe(images=40, per_caption=2, sampling_steps=2, guidance=3.0, truth="caption"), (32,)),
    (SafePatch(pairs=20, sampling_steps=2, steps=5, batch=4, tau=1.0), (32, 62, 64)),
    (ActErase(pairs=4, sampling_steps=3, tau=0.2, batch=3), (3, 6)),
    (Irece(images=20, sampling_steps=3, threshold=0.0, fpr=0.2), (32,)),
)
"""Settings, and the steps of their progress after which the fit is stopped, one after the other; negative ones count
from the end."""


class Stopped(Exception):
    """Stands for a Ctrl-C."""


@pytest.fixture(scope="module")
def labelled(concept: Concept) -> Concept:
    return dataclasses.replace(concept, judge=("saw",))


@pytest.fixture(scope="module")
def judge(model: StableDiffusion, labelled: Concept) -> FakeJudge:
    cases = ambiguous_cases([labelled], {}, WUKONG.images, 1, (), WUKONG.seed, "wukong")
    light = [np.asarray(s.image.convert("L")).mean() / 255 for s in model.generate(cases, Sampler(2, 1.0)) if s.image]
    return FakeJudge(labels=("saw",), threshold=float(np.median(light)))


@pytest.mark.parametrize(("settings", "stops"), CASES, ids=lambda v: getattr(v, "name", ""))
def test_a_stopped_fit_ends_at_the_same_bits(
    settings: Any, stops: tuple[int, ...], model: StableDiffusion, labelled: Concept, judge: FakeJudge, tmp_path: Path
) -> None:
    mine = judge if isinstance(settings, Wukong) else None
    seen: list[list[int]] = []

    def fit(stop: int | None, folder: Path | None) -> Any:
        steps: list[int] = []
        seen.append(steps)

        def progress(step: int, of: int, loss: float) -> None:
            steps.append(step)
            if stop is not None and step >= stop:
                raise Stopped

        return settings.fit(model, labelled, Tools(progress=progress, judge=mine, folder=folder, pace=0.0)).artifact

    whole = fit(None, None)
    for stop in stops:
        with pytest.raises(Stopped):
            fit(stop if stop > 0 else seen[0][-1] + stop, tmp_path / "fit")
    again = fit(None, tmp_path / "fit")
    assert again == whole and again.card["captions"] == whole.card["captions"]
    assert len(seen[-1]) < len(seen[0]) and seen[-1][-1] == seen[0][-1], "what was done is not done again"


def test_a_recording_of_other_settings_is_not_taken_up(
    model: StableDiffusion, labelled: Concept, tmp_path: Path
) -> None:
    settings = NoiseProbe(images=16, per_caption=2, sampling_steps=2, truth="caption")
    settings.fit(model, labelled, Tools(folder=tmp_path))
    with pytest.raises(BadInput, match="another plan"):
        dataclasses.replace(settings, seed=1).fit(model, labelled, Tools(folder=tmp_path))
