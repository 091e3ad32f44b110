"""A claim as data, and a figure with its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from genward.errors import BadInput, UnknownName
from genward.run.doubt import LOWEST

FORMS = ("ratio", "difference", "value", "steps")


class Estimate(NamedTuple):
    """A figure with its 95 % interval; NaN where nothing was measured."""

    value: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        return all(math.isfinite(v) for v in self)


UNKNOWN = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Claim:
    """One claim of one paper as a predicate on cells; fields as explained at the top of ``erasure/claims.toml``."""

    id: str
    system: str
    statement: str
    paper: str
    form: str
    command: str
    benchmark: str = ""
    """Empty: the one beside which its file stands."""
    measure: str = "crr"
    arm: str = ""
    versus: str = ""
    arms: tuple[str, ...] = ()
    variant: tuple[str, ...] = ()
    """Empty: the measure is the same for all variants of a concept, and one of them is looked at."""
    kinds: tuple[str, ...] = ()
    base_at_least: float | None = None
    """What the arm ``base`` must reach in the same cells: an attack that fails on the undefended model tells
    nothing."""
    at_most: float | None = None
    at_least: float | None = None
    below: float | None = None
    above: float | None = None
    sensitivity: float = LOWEST
    """Of a value: its verdict must be the same for every sensitivity of the judge from this one to 1."""

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UnknownName("form of claim", self.form, FORMS)
        if all(b is None for b in (self.at_most, self.at_least, self.below, self.above)):
            raise BadInput(
                f"claim {self.id!r} names no numbers that satisfy it; give at_most, at_least, below or above"
            )
