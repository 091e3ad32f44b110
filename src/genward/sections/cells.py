"""The cells of an erasure-like run by arm, concept and prompt variant, checked and looked up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genward.errors import BadInput
from genward.sections.arms import Arm, Metrics, arms, keys
from genward.sections.numbers import Estimate, estimate, number

VARIANTS = ("name", "synonym", "synonym-heldout", "description", "kind", "scene")
"""Order of the columns; other variants follow in order of appearance."""
MEASURES = ("retention", "drift", "frechet", "seconds_per_image", "extra_nfe")
TEXTS = ("arm", "concept", "variant")
NUMBERS = (
    "crr", "crr_low", "crr_high", "crr_raw", "crr_difference", "crr_difference_low", "crr_difference_high", "n",
    "n_unscored",
    "retention", "retention_low", "retention_high", "drift", "drift_low", "drift_high", "frechet", "frechet_low",
    "frechet_high",
    "seconds_per_image", "extra_nfe", "prepare_seconds",
)  # fmt: skip
HINT = "measure the run again with this version of genward"


def rows(metrics: Metrics, name: str, tables: Sequence[str] = ()) -> list[Mapping[str, Any]]:
    """A list of tables out of the metrics; empty where there is none.

    Args:
        tables: fields of each row that must themselves be tables (or be missing).

    Raises:
        BadInput: it is something else.
    """
    part = metrics.get(name)
    if part is None:
        return []
    if not isinstance(part, list):
        raise BadInput(f"metrics of another schema: {name!r} is {type(part).__name__}, not list; {HINT}")
    if not all(isinstance(row, Mapping) for row in part):
        raise BadInput(f"metrics of another schema: {name!r} holds rows that are not tables; {HINT}")
    for row in part:
        for key in tables:
            if not isinstance(row.get(key) or {}, Mapping):
                kind = type(row[key]).__name__
                raise BadInput(f"metrics of another schema: {key!r} in {name!r} is {kind}, not a table; {HINT}")
    return part


def cells(metrics: Metrics) -> list[dict[str, Any]]:
    """The section ``cells`` with every number finite or ``None``.

    Raises:
        BadInput: there is none, a cell without arm, concept or variant, or text where a number belongs.
    """
    if metrics.get("cells") is None:
        raise BadInput(f"metrics of another schema: 'cells' is {type(metrics.get('cells')).__name__}, not list; {HINT}")
    return [_cell(row) for row in rows(metrics, "cells")]


def _cell(row: Mapping[str, Any]) -> dict[str, Any]:
    for key in TEXTS:
        if not isinstance(row.get(key), str):
            raise BadInput(f"metrics of another schema: a cell's {key!r} is {row.get(key)!r}, not text; {HINT}")
    where = f"cell {row['arm']}/{row['concept']}/{row['variant']}"
    return {**row, **{key: number(row.get(key), f"{where}: {key}") for key in NUMBERS}}


def why_of(cell: Mapping[str, Any], measure: str = "") -> str:
    """What a cell says about one of its measures (``drift: 2 of 36 rows without a value``); without one, what it says
    about what is left."""
    parts = [p for p in str(cell.get("why") or "").split("; ") if p]
    told = {p: head for p in parts for head in [p.split(":")[0]] if head in MEASURES}
    return "; ".join(p.removeprefix(f"{measure}: ") for p in parts if told.get(p, "") == measure)


def pairs(metrics: Metrics) -> dict[tuple[str, ...], Estimate]:
    """(arm, versus, concept, variant, measure) -> the paired difference, arm minus versus, of the metrics' ``pairs``.

    Raises:
        BadInput: a difference that is no number.
    """
    found = {}
    for row in rows(metrics, "pairs"):
        key = tuple(str(row.get(k, "")) for k in ("arm", "versus", "concept", "variant", "measure"))
        ends = (f"difference{end}" for end in ("", "_low", "_high"))
        found[key] = Estimate(*(number(row.get(name), f"pair {'/'.join(key)}: {name}") for name in ends))
    return found


class Grid:
    """Cells by arm, concept and prompt variant. ``BadInput`` for cells that cannot be used, see ``cells``, and for two
    of one key."""

    def __init__(self, metrics: Metrics) -> None:
        self.every = cells(metrics)
        self.arms = arms(metrics, [c["arm"] for c in self.every])
        names = keys(self.arms)
        self._cells = {(names[c["arm"]].label, c["concept"], c["variant"]): c for c in self.every}
        if len(self._cells) < len(self.every):
            raise BadInput(
                "metrics hold two cells of the same arm, concept and variant; give each arm a label of its own and "
                "measure the run again"
            )
        self.concepts = list(dict.fromkeys(c["concept"] for c in self.every))
        self._pairs = pairs(metrics)

    def variants(self, concept: str) -> list[str]:
        """Prompt variants of a concept, the usual ones first."""
        there = list(dict.fromkeys(w for _, c, w in self._cells if c == concept))
        return [w for w in VARIANTS if w in there] + [w for w in there if w not in VARIANTS]

    def cell(self, arm: str, concept: str, variant: str) -> Mapping[str, Any] | None:
        """One cell, ``None`` where there is none."""
        return self._cells.get((arm, concept, variant))

    def cells(self, arm: str, concept: str) -> list[Mapping[str, Any]]:
        """An arm's cells of a concept."""
        found = (self.cell(arm, concept, w) for w in self.variants(concept))
        return [c for c in found if c is not None]

    def residual(self, arm: str, concept: str, variant: str = "") -> Estimate:
        """CRR of one variant, or the mean over those of ``common``.

        The mean's interval is the mean of the intervals' ends: as wide as if all variants erred together, so never too
        narrow. ``None`` if the arm lacks one of the variants, since means over different variants do not compare."""
        if variant:
            cell = self.cell(arm, concept, variant)
            return estimate(cell, "crr") if cell else Estimate(None)
        asked = self.common(concept)
        parts = [self.residual(arm, concept, w) for w in asked]
        values, lows, highs = ([v for p in parts if (v := p[k]) is not None] for k in range(3))
        full = [sum(v) / len(v) if parts and len(v) == len(parts) else None for v in (values, lows, highs)]
        return Estimate(*full) if full[0] is not None else Estimate(None)

    def difference(self, arm: str, versus: str, concept: str, measure: str = "crr") -> Estimate:
        """What an arm has more of than another one, paired on prompt and seed; of what is left, the mean over
        the variants of ``common``, as in ``residual``. ``None`` where the metrics lack one of the pairs."""
        asked = self.common(concept)
        found = [self._difference(arm, versus, concept, w, measure) for w in asked]
        known = [e for e in found if e.value is not None and e.low is not None and e.high is not None]
        if not known or (measure == "crr" and len(known) < len(found)):
            return Estimate(None)
        return Estimate(*(sum(e[k] or 0.0 for e in known) / len(known) for k in range(3)))

    def _difference(self, arm: str, versus: str, concept: str, variant: str, measure: str) -> Estimate:
        there = self._pairs.get((arm, versus, concept, variant, measure))
        if there is not None:
            return there
        turned = self._pairs.get((versus, arm, concept, variant, measure))
        if turned is not None:
            value, low, high = (None if v is None else -v for v in turned)
            return Estimate(value, high, low)
        cell = self.cell(arm, concept, variant)
        base = any(a.label == versus and a.role == "base" for a in self.arms)
        return estimate(cell, "crr_difference") if cell and base and measure == "crr" else Estimate(None)

    def common(self, concept: str) -> list[str]:
        """The variants that means are over: those that any arm was scored on, less those that were run on some arms
        only; all of the former where that leaves none."""
        scored = [w for w in self.variants(concept) if self._scored(concept, w)]
        there = [a.label for a in self.arms if self.cells(a.label, concept)]
        return [w for w in scored if all(self.cell(a, concept, w) for a in there)] or scored

    def _scored(self, concept: str, variant: str) -> bool:
        return any(self.residual(a.label, concept, variant).value is not None for a in self.arms)

    def measure(self, arm: str, concept: str, name: str) -> Estimate:
        """A measure of an arm on a concept; where variants differ, the mean over them."""
        found = [e for c in self.cells(arm, concept) if (e := estimate(c, name)).value is not None]
        if not found or len(set(found)) == 1:
            return found[0] if found else Estimate(None)
        ends = [[v for e in found if (v := e[k]) is not None] for k in range(3)]
        return Estimate(*(sum(v) / len(v) if len(v) == len(found) else None for v in ends))

    def prepare(self, arm: Arm, concept: str) -> float | None:
        """Seconds that fitting took once."""
        value = self.measure(arm.label, concept, "prepare_seconds").value
        return arm.parts[0].prepare if value is None and len(arm.parts) == 1 else value
