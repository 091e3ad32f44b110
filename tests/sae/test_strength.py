"""How a strength is searched for: captions of the fit's own, rates by hand, the authors' rule, what is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from genward.core import Concept, Sampler
from genward.core.contracts import Card
from genward.core.records import Sample, Score
from genward.defenses.saemnesia import Saemnesia
from genward.defenses.saeuron import Saeuron
from genward.errors import BadArtifact
from genward.ops import artifacts
from genward.ops.tools import Tools
from genward.sae import strength
from genward.testing import tiny_sd
from genward.testing.suites import CASES

CONCEPT = Concept(
    "tools", "policy", "Two small things.", targets=("saw", "axe"), judge=("saw", "axe"),
    phrases=("a saw", "a small saw", "an axe", "a hatchet"), anchors=("a cup", "a bowl"), anchor="a cup",
    neighbors=("hammer", "sickle"), keep=("a dog",),
)  # fmt: skip
SMALL: dict[str, Any] = {
    "expansion": 3, "k": 4, "sae_images": 12, "sae_epochs": 1, "images": 4, "others": 2, "sampling_steps": 4,
    "guidance": 2.0,
}  # fmt: skip


class Scripted:
    """Says of the n-th set of pictures what it was told to: so many of the concept, so many of the neighbors."""

    name: ClassVar[str] = "scripted"
    needs: ClassVar[frozenset[str]] = frozenset({"image"})

    def __init__(self, *shows: tuple[int, int], labels: Sequence[str] = ("saw", "axe", "hammer")) -> None:
        self.shows, self.labels, self.seen = list(shows), labels, []  # type: ignore[var-annotated]

    @property
    def card(self) -> Card:
        return Card("scripted", "as told", {label: {"threshold": 0.5} for label in self.labels})

    def judge(self, samples: Sequence[Sample]) -> Iterable[Score]:
        gone, kept = self.shows[len(self.seen)]
        self.seen.append(len(samples))
        for k, sample in enumerate(samples):
            first = k < strength.PICTURES
            on = k < gone if first else k - strength.PICTURES < kept
            for label in self.labels:
                wanted = label == "axe" if first else label == "hammer"
                yield Score(sample.id, label, float(on and wanted))


def test_the_authors_rule_and_the_weakest_of_equal_ones() -> None:
    assert strength.best([(-1.0, 0.0, 1.0), (-5.0, 0.5, 1.0), (-10.0, 1.0, 0.25)]) == -5
    assert strength.best([(-1.0, 0.5, 0.5), (-5.0, 0.75, 0.25), (-10.0, 0.25, 0.75)]) == -1


def test_captions_are_of_every_target_and_of_neighbors_the_judge_knows() -> None:
    made = strength.trial([CONCEPT], {"styles": ["flat", "blob"]}, Scripted(), 0)
    assert made is not None and len(made.cases) == 2 * strength.PICTURES == len({c.seed for c in made.cases})
    told = [c.prompt for c in made.cases]
    assert told[:4] == ["a saw, flat style", "an axe, blob style", "a small saw, flat style", "a hatchet, blob style"]
    assert set(told[strength.PICTURES :]) == {"a hammer, flat style", "a hammer, blob style"}, "no word on sickles"
    assert made.labels == ["saw", "axe", "hammer"] and made.gone == [0, 1] and set(made.shown) == {2}
    assert strength.trial([CONCEPT], {}, Scripted(labels=("saw", "dog")), 0) is None
    assert strength.trial([CONCEPT], {}, Scripted(labels=("hammer",)), 0) is None


def test_rates_by_hand() -> None:
    made = strength.trial([CONCEPT], {}, Scripted(), 0)
    assert made is not None
    table = torch.zeros(2 * strength.PICTURES, 3)
    table[0, 0] = table[1, 1] = table[2, 2] = 1  # two show a target; a neighbor in the third does not count
    table[3, :] = torch.nan
    table[strength.PICTURES, 2] = 1
    ua, ira = strength.rates(table, made)
    assert ua == pytest.approx(5 / 7) and ira == pytest.approx(1 / 8)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fits")


@pytest.mark.parametrize("method", [Saeuron(**SMALL, percentile=95), Saemnesia(**SMALL, epochs=2)])
def test_a_fit_keeps_the_multiplier_that_did_best(method: Any, home: Path) -> None:
    model = tiny_sd()
    judge = Scripted((8, 8), (4, 8), (0, 2), (0, 0))
    said: list[str] = []
    made = method.fit(model, CONCEPT, Tools(judge=judge, places=[home], say=said.append))
    told = made.artifact.card["strength"]
    assert told["tried"] == [[-1.0, 0.0, 1.0], [-5.0, 0.5, 1.0], [-10.0, 1.0, 0.25]], "nothing beyond UA 1"
    assert float(made.artifact.tensors["multiplier"]) == -5 and made.artifact.card["judge"] == "scripted"
    assert sum("IRA" in line for line in said) == 3
    pictures = strength.trial([CONCEPT], {}, judge, 0)
    assert pictures is not None and {c.prompt for c in pictures.cases} <= set(made.artifact.card["captions"])

    def drawn(defense: Any) -> torch.Tensor:
        samples = model.generate(CASES, Sampler(steps=4, guidance=3.0), [defense], keep_latents=True)
        return torch.stack([s.latents for s in samples])

    assert torch.equal(drawn(made), drawn(dataclasses.replace(made, multiplier=-5.0)))
    without = method.fit(model, CONCEPT, Tools(places=[home], say=said.append))
    assert float(without.artifact.tensors["multiplier"]) == strength.MIDDLE and "no judge" in said[-1]
    assert "judge" not in without.artifact.card and without.artifact.card["strength"] == {"tried": []}
    bare = {n: t for n, t in made.artifact.tensors.items() if n != "multiplier"}
    card = {k: v for k, v in made.artifact.card.items() if k not in artifacts.RESERVED}
    with (
        pytest.raises(BadArtifact, match="holds no multiplier"),
        model.rig([dataclasses.replace(made, artifact=artifacts.make(bare, card))]),
    ):
        pass
