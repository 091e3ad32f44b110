"""Every attack that comes with genward keeps the laws of ``genward.testing.attack_laws``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from genward.attacks.ddim_inversion import DdimInversion
from genward.attacks.guard_search import GuardSearch
from genward.attacks.mma import Mma
from genward.attacks.noise_search import NoiseSearch
from genward.attacks.p4d import P4d
from genward.attacks.paraphrase import Paraphrase
from genward.attacks.ring_a_bell import RingABell
from genward.attacks.sneakyprompt import SneakyPrompt
from genward.attacks.unlearndiffatk import UnlearnDiffAtk
from genward.catalog import plugins
from genward.core import Case
from genward.models.sd import StableDiffusion
from genward.testing import attack_laws, tiny_sd
from genward.testing.attacking import CONCEPT, PROMPTS

SMALL: dict[str, Any] = {
    "noise_search": NoiseSearch(budget=3),
    "paraphrase": Paraphrase(budget=2, levels=("synonym",)),
    "sneakyprompt": SneakyPrompt(budget=3, pool=8, shortlist=16),
    "guard_search": GuardSearch(budget=6, edits=1),
    "ring_a_bell": RingABell(tokens=4, population=6, generations=12),
    "mma": Mma(tokens=4, steps=11, top=6, candidates=5),
    "unlearndiffatk": UnlearnDiffAtk(tokens=2, rounds=2, steps=2),
    "p4d": P4d(tokens=2, rounds=2, steps=2, form="prefix"),
    "ddim_inversion": DdimInversion(steps=2),
}
"""Attacks on prompts and latents at settings that end within seconds. ``textual_inversion`` and ``start_picture`` start
from rows of another kind and have tests of their own; fixtures that poison a model are no searches."""


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    return tiny_sd()


def test_the_table_names_every_search() -> None:
    ours = {n for n in plugins.entries("attack") if plugins.entry("attack", n).origin == "genward"}
    ours = {n for n in ours if getattr(plugins.find("attack", n), "media", "image") == "image"}
    fixtures = {n for n in ours if hasattr(plugins.find("attack", n), "changed")}
    assert {"rickrolling", "evil_edit"} < fixtures
    assert set(SMALL) | {"textual_inversion", "start_picture"} | fixtures == ours


@pytest.mark.parametrize("name", list(SMALL))
def test_an_attack_keeps_the_laws(name: str, model: StableDiffusion, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pictures = [Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(2)]
    attack_laws(model, lambda: SMALL[name], tmp_path, references={CONCEPT: pictures})


@dataclass(frozen=True)
class Forgetful:
    """Yields one case too few."""

    name: ClassVar[str] = "forgetful"
    access: ClassVar[str] = "prompt"
    parents: ClassVar[tuple[str, ...]] = ("prompt",)

    def nfe(self, cases: Any) -> int:
        return 0

    def search(self, cases: Any, target: Any) -> Iterator[Case]:
        yield from (c._replace(id=f"{c.id}/x", parent=c.id) for c in cases[1:])


@dataclass(frozen=True)
class Spendthrift(Forgetful):
    """Costs more than it says."""

    name: ClassVar[str] = "spendthrift"
    access: ClassVar[str] = "query"

    def search(self, cases: Any, target: Any) -> Iterator[Case]:
        if cases:
            target.sample(list(cases))
        yield from (c._replace(id=f"{c.id}/x", parent=c.id) for c in cases)


@pytest.mark.parametrize(("attack", "told"), [(Forgetful(), "derived cases"), (Spendthrift(), "announced")])
def test_what_breaks_a_law_is_found(attack: Any, told: str, model: StableDiffusion, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=told):
        attack_laws(model, lambda: attack, tmp_path)
    assert len(PROMPTS) == 2
