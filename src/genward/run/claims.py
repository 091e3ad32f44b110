"""What papers claim, held against what was measured: ``holds``, ``does not hold`` or ``cannot tell``.

A claim is data (``claims.toml`` beside a benchmark's class): a figure of a run's cells and the numbers that satisfy the
claim. It holds if the whole interval satisfies it, does not hold if none of it does, and cannot be told otherwise.
Comparisons of two arms use the paired intervals that ``measure`` wrote; where a run has none, the two cells' own
intervals are combined as if they were independent (MOVER: Zou and Donner, Statistics in Medicine 2008), which is
wider."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from genward.catalog import plugins
from genward.core.files import finite
from genward.core.reading import short
from genward.core.typed import build, read_toml
from genward.errors import BadInput
from genward.run.claim import UNKNOWN, Claim, Estimate
from genward.run.doubt import disagreement, scaled
from genward.run.undecided import Undecided, counted, undecided

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot tell"


def load_claims(path: str | Path | None = None, benchmark: str = "erasure") -> list[Claim]:
    """The claims that come with the benchmarks, ours and those of plug-ins, or those of a TOML file about one
    benchmark."""
    if path is None:
        return [claim for name in plugins.entries("benchmark") for claim in claims_of(name)]
    hint = "see the text at the top of benchmarks/erasure/claims.toml for the fields"
    found = build(_Claims, read_toml(path, "claims file", hint), f"claims file {short(path)}", hint)
    return [claim if claim.benchmark else replace(claim, benchmark=benchmark) for claim in found.claim]


@dataclass(frozen=True)
class _Claims:
    """A file of claims."""

    claim: tuple[Claim, ...] = ()


def claims_of(benchmark: str) -> list[Claim]:
    """The claims that stand beside a benchmark's class; none where it has no ``claims.toml``."""
    found = plugins.entry("benchmark", benchmark)
    folder = plugins.folder_of(found)
    file = None if folder is None else folder / "claims.toml"
    if file is None or not file.is_file():
        return []
    return [c for c in load_claims(file, found.name) if c.benchmark == found.name]


def verdict(low: float, high: float, holds: Callable[[float], bool]) -> str:
    """Compare an interval with a half-line predicate: both ends satisfy it, neither does, or one does.

    Sound for predicates that are true on one side of a number and false on the other, and for both bounds of a band
    that is wider than the interval. NaN gives ``cannot tell``."""
    if math.isnan(low) or math.isnan(high):
        return OPEN
    ends = (holds(low), holds(high))
    return HOLDS if all(ends) else OPEN if any(ends) else FAILS


def _flipped(compare: Callable[[float, float], bool], limit: float, x: float) -> bool:
    return compare(x, limit)


def judge_interval(claim: Claim, low: float, high: float) -> str:
    """The claim's verdict on an interval; with several bounds all must hold, and one that fails entirely decides."""
    tests: tuple[tuple[float | None, Callable[[float, float], bool]], ...] = (
        (claim.at_most, operator.le),
        (claim.at_least, operator.ge),
        (claim.below, operator.lt),
        (claim.above, operator.gt),
    )
    found = [verdict(low, high, partial(_flipped, compare, limit)) for limit, compare in tests if limit is not None]
    return FAILS if FAILS in found else OPEN if OPEN in found else HOLDS


# ---------------------------------------------------------------------------------------------- arithmetic on intervals


def mean(parts: Sequence[Estimate], groups: Sequence[str] = ()) -> Estimate:
    """Mean of estimates; half-widths, lower and upper ones apart, add in quadrature over groups (concepts).

    Within a group (prompt variants of one concept, which share targets and seeds) they are taken to rise and fall
    together, which is the widest that they can be; without ``groups`` every estimate is independent of the others."""
    if not parts or not all(p.known for p in parts):
        return UNKNOWN
    count = len(parts)
    value = sum(p.value for p in parts) / count
    below: dict[Any, float] = {}
    above: dict[Any, float] = {}
    for k, p in enumerate(parts):
        group = groups[k] if groups else k
        below[group] = below.get(group, 0.0) + p.value - p.low
        above[group] = above.get(group, 0.0) + p.high - p.value
    return Estimate(value, value - math.hypot(*below.values()) / count, value + math.hypot(*above.values()) / count)


def difference(a: Estimate, b: Estimate) -> Estimate:
    """``a - b`` of independent estimates (MOVER)."""
    if not (a.known and b.known):
        return UNKNOWN
    value = a.value - b.value
    return Estimate(
        value,
        value - math.hypot(a.value - a.low, b.high - b.value),
        value + math.hypot(a.high - a.value, b.value - b.low),
    )


def ratio(a: Estimate, b: Estimate) -> Estimate:
    """``a / b`` of independent non-negative estimates (MOVER on the logarithm's delta form); unknown where ``b`` may be
    0."""
    if not (a.known and b.known) or b.low <= 0:
        return UNKNOWN
    value = a.value / b.value
    low = value - math.hypot(a.value - a.low, value * (b.high - b.value)) / b.value
    high = value + math.hypot(a.high - a.value, value * (b.value - b.low)) / b.value
    return Estimate(value, max(0.0, low), high)


# ------------------------------------------------------------------------------------------------ reading a run's cells


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def _concepts(metrics: Mapping[str, Any], claim: Claim) -> list[str]:
    kinds = metrics.get("run", {}).get("concepts", {})
    names = list(dict.fromkeys(c["concept"] for c in metrics["cells"]))
    return [n for n in names if not claim.kinds or _kind(n, kinds) in claim.kinds]


def _kind(name: str, kinds: Mapping[str, Any]) -> str:
    known = kinds.get(name) if isinstance(kinds, Mapping) else None
    if isinstance(known, Mapping) and known.get("kind"):
        return str(known["kind"])
    from genward.core.records import concept_names, load_concept

    return load_concept(name).kind if name in concept_names() else "custom"


def cell_estimate(cell: Mapping[str, Any], measure: str) -> Estimate:
    """A cell's figure with its interval; a figure that carries none counts as exact."""
    value = _number(cell.get(measure))
    low, high = _number(cell.get(f"{measure}_low", value)), _number(cell.get(f"{measure}_high", value))
    return Estimate(value, low, high)


def _slots(metrics: Mapping[str, Any], claim: Claim) -> list[tuple[str, str]]:
    """(concept, variant) pairs the claim looks at: its variants, or one per concept where it names none."""
    cells = metrics["cells"]
    out = []
    for concept in _concepts(metrics, claim):
        there = list(dict.fromkeys(c["variant"] for c in cells if c["concept"] == concept))
        wanted = [w for w in claim.variant if w in there] if claim.variant else there[:1]
        out += [(concept, w) for w in wanted]
    return out


def _cell(metrics: Mapping[str, Any], arm: str, concept: str, variant: str) -> Mapping[str, Any] | None:
    return next(
        (c for c in metrics["cells"] if (c["arm"], c["concept"], c["variant"]) == (arm, concept, variant)), None
    )


def _paired(metrics: Mapping[str, Any], claim: Claim, arms: tuple[str, str], slot: tuple[str, str]) -> Any:
    """What ``measure`` wrote on two arms in one cell, ``None`` where it did not."""
    wanted = (*arms, *slot, claim.measure)
    keys = ("arm", "versus", "concept", "variant", "measure")
    return next((p for p in metrics.get("pairs", ()) if tuple(p[k] for k in keys) == wanted), None)


def _pooled(metrics: Mapping[str, Any], claim: Claim, arm: str, versus: str) -> Any:
    """What ``measure`` wrote on two arms over all rows of the claim, ``None`` where it did not."""
    wanted = (claim.id, arm, versus)
    return next((p for p in metrics.get("pools", ()) if (p["claim"], p["arm"], p["versus"]) == wanted), None)


def _estimate(found: Mapping[str, Any] | None, form: str) -> Estimate:
    """The difference or the ratio of a row of ``pairs`` or ``pools``."""
    if found is None:
        return UNKNOWN
    return Estimate(*(_number(found.get(form + end)) for end in ("", "_low", "_high")))


def _pair(metrics: Mapping[str, Any], claim: Claim, arm: str, versus: str, form: str) -> Estimate:
    """The paired estimates that ``measure`` wrote: of all rows of the claim's cells as one sample, where it pooled
    them, else of each cell, averaged; else a combination of the cells' own intervals. A ratio over several cells is one
    of their mean rates: a mean of ratios is ruled by the cell with the smallest denominator."""
    pool = _estimate(_pooled(metrics, claim, arm, versus), form)
    if pool.known:
        return pool
    slots = _slots(metrics, claim)
    cells = [(_cell(metrics, arm, *slot), _cell(metrics, versus, *slot)) for slot in slots]
    concepts = [concept for concept, _ in slots]
    if form == "ratio" and len(slots) > 1:
        if any(a is None or b is None for a, b in cells):
            return UNKNOWN
        first, second = ([cell_estimate(pair[k] or {}, claim.measure) for pair in cells] for k in (0, 1))
        return ratio(mean(first, concepts), mean(second, concepts))
    parts = []
    for slot, (a, b) in zip(slots, cells, strict=True):
        paired = _paired(metrics, claim, (arm, versus), slot)
        known = _estimate(paired, form)
        if not known.known:
            if a is None or b is None:
                return UNKNOWN
            combine = ratio if form == "ratio" else difference
            known = combine(cell_estimate(a, claim.measure), cell_estimate(b, claim.measure))
        parts.append(known)
    return mean(parts, concepts)


def _steps(metrics: Mapping[str, Any], claim: Claim) -> Estimate:
    """The smallest drop between neighbors along ``claim.arms``, with the smallest of the lower and of the upper
    ends."""
    drops = [_pair(metrics, claim, a, b, "difference") for a, b in zip(claim.arms, claim.arms[1:], strict=False)]
    if not drops or not all(d.known for d in drops):
        return UNKNOWN
    return Estimate(min(d.value for d in drops), min(d.low for d in drops), min(d.high for d in drops))


def _value(metrics: Mapping[str, Any], claim: Claim, arm: str) -> Estimate:
    """An arm's figure: of all rows of the claim's cells as one sample, where ``measure`` pooled them, else averaged
    over the cells."""
    pool = _estimate(_pooled(metrics, claim, arm, ""), "value")
    return pool if pool.known else _averaged(metrics, claim, arm, lambda cell: cell_estimate(cell, claim.measure))


def _averaged(
    metrics: Mapping[str, Any], claim: Claim, arm: str, read: Callable[[Mapping[str, Any]], Estimate]
) -> Estimate:
    """What ``read`` makes of an arm's cells, averaged over those of the claim."""
    slots = _slots(metrics, claim)
    cells = [_cell(metrics, arm, *slot) for slot in slots]
    return mean([read(cell) if cell is not None else UNKNOWN for cell in cells], [concept for concept, _ in slots])


def reason_to_doubt(claim: Claim, metrics: Mapping[str, Any], got: Estimate) -> str:
    """Why a claim cannot be told whatever its interval says; empty where it can."""
    if claim.form == "difference" and (got.value, got.low, got.high) == (0.0, 0.0, 0.0):
        return f"{claim.arm} and {claim.versus} did not differ in any row"
    if claim.base_at_least is not None:
        base = _value(metrics, claim, "base")
        if not base.value >= claim.base_at_least:
            reached = "unknown" if math.isnan(base.value) else f"{base.value:.2f}"
            return (
                f"the undefended model reaches {reached} here, at least {claim.base_at_least:g} is wanted of an attack"
            )
    return ""


RAW = {"crr": ("crr_raw", "second"), "retention": ("retention", "retention_second")}
"""Measures that judges count, and the raw figures by the first and by the second one."""


def reason_to_distrust(claim: Claim, metrics: Mapping[str, Any], got: str) -> str:
    """Why the verdict ``got`` on a value does not stand: a judge of a lower sensitivity, or each of two judges alone,
    would give another; empty where it does, and in metrics that hold neither."""
    if claim.form != "value" or claim.measure not in RAW or got == OPEN:
        return ""

    def read(cell: Mapping[str, Any]) -> Estimate:
        rate = cell_estimate(cell, "crr")
        ends = scaled(cell, rate.low, rate.high, claim.sensitivity)
        return rate if ends is None else Estimate(rate.value, min(ends[0], rate.value), max(ends[1], rate.value))

    if claim.measure == "crr":
        wide = _averaged(metrics, claim, claim.arm, read)
        if judge_interval(claim, wide.low, wide.high) != got:
            return (
                f"with a sensitivity of the judge anywhere from {claim.sensitivity:g} to 1 it lies between "
                f"{wide.low:.2f} and {wide.high:.2f}"
            )
    each = []
    for name, figure in zip(("first", "second"), RAW[claim.measure], strict=True):
        raw = _averaged(metrics, claim, claim.arm, lambda cell, x=figure: cell_estimate(cell, x))  # type: ignore[misc]
        each.append((name, *raw))
    return disagreement(got, each, partial(judge_interval, claim))


def estimate(claim: Claim, metrics: Mapping[str, Any]) -> Estimate:
    """What the run says about the claim; NaN where an arm, a wording or a kind of concept is missing from it."""
    if claim.form == "steps":
        return _steps(metrics, claim)
    if claim.form == "value":
        return _value(metrics, claim, claim.arm)
    return _pair(metrics, claim, claim.arm, claim.versus, claim.form)


def claims(metrics: Mapping[str, Any], rows: Sequence[Claim] | None = None) -> dict[str, Any]:
    """The table of claims for one run's ``metrics.json``: ``{"claims": [{id, system, statement, paper, ours, low, high,
    n, verdict, reason, why, rows_needed, run, command}]}``.

    Without ``rows`` these are the claims that are about the run's benchmark. ``ours``, ``low`` and ``high`` are
    ``None`` where the run lacks what the claim is about. ``n`` is the number of rows that the figure rests on, ``run``
    the run's name. Of a claim that cannot be told ``reason`` is *not measured here*, *interval too wide* or *figure in
    doubt*, ``why`` says it in a sentence, and ``rows_needed`` is about how many rows it would take, see
    ``run.undecided``."""
    if not isinstance(metrics.get("cells"), list):
        raise BadInput("these metrics hold no cells; give the metrics.json that a run wrote")
    benchmark = str(metrics.get("run", {}).get("benchmark") or "erasure")
    wanted = claims_of(benchmark) if rows is None else rows
    return {"claims": [told(claim, metrics, estimate(claim, metrics)) for claim in wanted]}


def told(claim: Claim, metrics: Mapping[str, Any], got: Estimate, n: int | None = None) -> dict[str, Any]:
    """One claim's row of the table, for the figure ``got`` that these metrics give, and the number ``n`` of its rows
    where it is known; by default it is counted in the metrics."""
    slots = _slots(metrics, claim)
    verdict_ = judge_interval(claim, got.low, got.high)
    doubt = reason_to_doubt(claim, metrics, got) or reason_to_distrust(claim, metrics, verdict_)
    n = counted(metrics, claim, slots) if n is None else n
    is_open = bool(doubt) or verdict_ == OPEN
    why = undecided(metrics, claim, slots, got, n, doubt) if is_open else Undecided("", "", None)
    ours, low, high = (finite(v, 4) for v in got)
    return {
        "id": claim.id,
        "system": claim.system,
        "statement": claim.statement,
        "paper": claim.paper,
        "ours": ours,
        "low": low,
        "high": high,
        "n": None if ours is None else n,
        "verdict": OPEN if is_open else verdict_,
        "reason": why.reason,
        "why": why.why,
        "rows_needed": why.needed,
        "run": str(metrics.get("run", {}).get("name") or ""),
        "command": claim.command,
    }
