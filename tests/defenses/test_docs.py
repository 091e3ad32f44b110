"""The defense that docs/defenses.md shows: it learns from streamed states, goes on where it was stopped, keeps the
laws."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from genward.core import Concept, Sampler, defending
from genward.models.sd import StableDiffusion
from genward.ops.tools import Tools
from genward.testing import defense_laws
from genward.testing.suites import CASES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "defenses.md"


@pytest.fixture(scope="module")
def shown() -> Any:
    (code,) = [part.split("```")[0] for part in PAGE.read_text("utf-8").split("```python\n")[1:]]
    example = ModuleType("docs_defenses")
    sys.modules[example.__name__] = example
    exec(compile(code, str(PAGE), "exec"), example.__dict__)
    yield example.MeanShift(images=18, sampling_steps=3)
    del sys.modules[example.__name__]


def test_the_table_names_every_member() -> None:
    text = PAGE.read_text("utf-8")
    assert all(f"| `{member}" in text for member in defending.OPTIONAL)


def test_the_example_learns_and_acts(shown: Any, model: StableDiffusion, concept: Concept, tmp_path: Path) -> None:
    fitted = shown.fit(model, concept)
    assert defending.learns(fitted) and defending.artifact_of(fitted) is fitted.artifact
    assert fitted.artifact.tensors["shift"].shape == (3, 16) and fitted.artifact.tensors["shift"].any()
    defense_laws(model, lambda **f: dataclasses.replace(fitted, **f), zero={"strength": 0.0}, changes=False)
    sampler = Sampler(4, 3.0)
    plain, acted = (model.generate(CASES, sampler, d, keep_latents=True) for d in ([], [fitted]))
    assert all(bool((a.latents != b.latents).any()) for a, b in zip(plain, acted, strict=True))

    def stop(step: int, steps: int, loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shown.fit(model, concept, Tools(progress=stop, folder=tmp_path))
    told: list[int] = []
    again = shown.fit(model, concept, Tools(progress=lambda step, *_: told.append(step), folder=tmp_path))
    assert again.artifact == fitted.artifact and told == [36], "the first batch of 32 was there"
    assert torch.equal(again.artifact.tensors["shift"], fitted.artifact.tensors["shift"])
