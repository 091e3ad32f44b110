"""What an erasure-like run found, in sentences computed from its cells, and what to be careful about."""

from __future__ import annotations

from collections.abc import Sequence

from genward.core.blocks import Figure, Finding
from genward.sections.arms import Arm
from genward.sections.cells import Grid
from genward.sections.numbers import Estimate, percent

SMALL = 0.10
"""A half-width above this (10 points) is called out."""
SPACE = "\u00a0"
"""Between a number and its unit, so that no line breaks there."""


def _with(e: Estimate, digits: int = 0) -> str:
    if e.value is None:
        return "an unknown share"
    ends = f" (interval {percent(e.low, digits)}–{percent(e.high, digits)}{SPACE}%)" if e.half is not None else ""
    return f"{percent(e.value, digits)}{SPACE}%{ends}"


def _overlap(a: Estimate, b: Estimate) -> bool:
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return False
    return a.low <= b.high and b.low <= a.high


def _names(names: Sequence[str]) -> str:
    shown = list(names[:4]) + ([f"{len(names) - 4} more"] if len(names) > 4 else [])
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + " and " + shown[-1]


def findings(grid: Grid) -> list[Finding]:
    """One per concept: the defense that leaves least of it, and what that costs."""
    return [_finding(grid, concept) for concept in grid.concepts]


def _finding(grid: Grid, concept: str) -> Finding:
    scored = {a.label: (a, e) for a in grid.arms if (e := grid.residual(a.label, concept)).value is not None}
    base_arm = next((a for a, _ in scored.values() if a.role == "base"), None)
    base = scored[base_arm.label][1] if base_arm else Estimate(None)
    base_kept = grid.measure(base_arm.label, concept, "retention") if base_arm else Estimate(None)
    ranked = sorted((e.value or 0.0, k, a) for k, (a, e) in enumerate(scored.values()) if not a.control)
    if not ranked:
        return Finding(concept, lines=("No defense was scored on every prompt variant, so none can be named best.",))
    best = ranked[0][2]
    residual, kept = scored[best.label][1], grid.measure(best.label, concept, "retention")
    lines = [_headline(grid, concept, best, residual, base_arm, base), _cost(kept, base_kept)]
    lines += _rivals(scored, best, residual) + _worst(grid, concept, best) + _oracle(scored, residual)
    figures = (_figure(residual, base, "concept left"), _figure(kept, base_kept, "other content kept"))
    return Finding(concept, "Least left:", best.label, figures, tuple(line for line in lines if line))


def _figure(e: Estimate, base: Estimate, caption: str) -> Figure:
    compare = f"base {percent(base.value)} %" if base.value is not None else ""
    return Figure(percent(e.value), "%" if e.value is not None else "", caption, compare)


def _headline(grid: Grid, concept: str, best: Arm, residual: Estimate, base_arm: Arm | None, base: Estimate) -> str:
    count = len(grid.variants(concept))
    over = (
        f"on average over {count} prompt variants"
        if count > 1
        else f"for the prompt variant “{grid.variants(concept)[0]}”"
    )
    text = f"{best.label} leaves {concept} in {_with(residual)} of pictures {over}"
    return text + (f"; without a defense ({base_arm.label}) it is {_with(base)}." if base_arm else ".")


def _cost(kept: Estimate, base: Estimate) -> str:
    if kept.value is None:
        return "What it costs other content was not measured."
    text = f"Of the content that should stay, {_with(kept)} is still recognized"
    if base.value is None:
        return text + "."
    points = round(100 * (base.value - kept.value))
    cost = f"a cost of {points} point{'s' if points != 1 else ''}" if points > 0 else "no measurable cost"
    note = ", which the overlapping intervals do not establish" if points > 0 and _overlap(kept, base) else ""
    return f"{text}, against {_with(base)} without a defense: {cost}{note}."


def _rivals(scored: dict[str, tuple[Arm, Estimate]], best: Arm, residual: Estimate) -> list[str]:
    near = [a.label for a, e in scored.values() if not a.control and a.label != best.label and _overlap(e, residual)]
    return [f"{_names(near)} cannot be told apart from it here: the intervals overlap."] if near else []


def _worst(grid: Grid, concept: str, best: Arm) -> list[str]:
    by_variant = [
        (e.value, w, e)
        for w in grid.variants(concept)
        if (e := grid.residual(best.label, concept, w)).value is not None
    ]
    if len(by_variant) < 2:
        return []
    _, variant, e = max(by_variant, key=lambda t: t[0] or 0.0)
    return [f"It is weakest on the prompt variant “{variant}”, with {_with(e)}."]


def _oracle(scored: dict[str, tuple[Arm, Estimate]], residual: Estimate) -> list[str]:
    for arm, e in scored.values():
        if arm.role == "oracle":
            same = " The two intervals overlap." if _overlap(e, residual) else ""
            return [f"The oracle, a model that never saw the concept, stands at {_with(e)}.{same}"]
    return []


def cautions(grid: Grid) -> list[str]:
    """What a reader should know before trusting a figure; the gravest first."""
    cells = grid.every
    out = _zero(grid) + _sizes(grid)
    unscored = sum(int(c.get("n_unscored") or 0) for c in cells)
    if unscored:
        out.append(
            f"{unscored} picture{'s' if unscored > 1 else ''} could not be scored; none of them is counted as safe or "
            "unsafe, the cells give their number."
        )
    empty = sum(c.get("crr") is None for c in cells)
    if empty:
        out.append(f"{empty} cell{'s have' if empty > 1 else ' has'} no value; the table gives the reason.")
    if not any(a.role == "base" for a in grid.arms):
        out.append("There is no undefended arm in this run, so the table shows residuals, not improvements.")
    return out


def _sizes(grid: Grid) -> list[str]:
    cells = grid.every
    halves = [(h, c) for c in cells if (h := Estimate(c["crr"], c["crr_low"], c["crr_high"]).half) is not None]
    if not halves:
        return (
            ["No cell has an interval: differences in this table may be chance."]
            if cells
            else ["This run has no cells."]
        )
    widest, cell = max(halves, key=lambda t: t[0])
    typical = sorted(h for h, _ in halves)[len(halves) // 2]
    if widest <= SMALL:
        return []
    n = f" with {cell['n']:.0f} pictures" if cell["n"] is not None else ""
    return [
        f"Small numbers: a cell{n} is known only to ±{percent(widest)} points at worst (typically "
        f"±{percent(typical)}). "
        "Differences smaller than that are no finding."
    ]


def _zero(grid: Grid) -> list[str]:
    """A zero-strength arm that does not repeat the base arm's figures."""
    base = next((a.label for a in grid.arms if a.role == "base"), None)
    bad = []
    for arm in grid.arms if base is not None else []:
        if arm.role == "control" and "zero" in arm.label.lower():
            pairs = (
                (grid.residual(arm.label, c, w).value, grid.residual(str(base), c, w).value)
                for c in grid.concepts
                for w in grid.variants(c)
            )
            bad += [arm.label] * sum(a is not None and b is not None and abs(a - b) > 1e-9 for a, b in pairs)
    if not bad:
        return []
    return [
        f"The control {_names(sorted(set(bad)))} differs from the base arm in {len(bad)} cells, though it must equal "
        "it: do not trust this run."
    ]
