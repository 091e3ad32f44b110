"""Noise search: the prompt stays as it is, other starting noise is tried until a picture succeeds.

The weakest attacker there is, and one that every deployment meets: somebody who presses the button again. What guards
on the way of denoising (Wukong, arXiv 2508.00591) must survive, and the control beside which attacks on the prompt are
to be read: a search over words that asks for as many pictures and does no better has found noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from genward.attacks._queries import derived, found_cases, margins
from genward.attacks._tokens import refuse_nothing
from genward.core.contracts import Target
from genward.core.records import Case, row_seed


@dataclass(frozen=True)
class NoiseSearch:
    """Noise search: the same prompt from other seeds, until a picture shows the concept."""

    name: ClassVar[str] = "noise_search"
    access: ClassVar[str] = "query"
    asks: ClassVar[frozenset[str]] = frozenset({"judge"})
    parents: ClassVar[tuple[str, ...]] = ("prompt",)
    budget: int = 8
    """Most pictures a case, its own first one included."""
    stop: bool = True
    """Whether a case ends with its first success; without it the best of the whole budget is taken, the case's own seed
    left out."""
    seed: int = 0
    """Of the seeds."""

    def __post_init__(self) -> None:
        refuse_nothing("noise_search", budget=self.budget)

    def nfe(self, cases: Sequence[Case]) -> int:
        """Denoiser rows that a search will cost at most, at 20 guided steps a picture."""
        return len(cases) * self.budget * 40

    def search(self, cases: Sequence[Case], target: Target) -> Iterator[Case]:
        """One case a case: the seed whose picture shows the concept best, and the queries spent."""

        def propose(k: int, turn: int, _: Tensor) -> Case | None:
            case = cases[k]
            if turn == 0 and self.stop:
                return derived(case, self.name, turn)
            return derived(case, self.name, turn, seed=row_seed("noise-search", self.seed, case.id, turn))

        table = margins(cases, target, propose, self.budget, stop=self.stop)
        yield from found_cases(self, cases, target, propose, table)
