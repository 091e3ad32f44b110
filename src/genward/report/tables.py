"""Tables of a run: arms, the matrix of residuals, the measures; pure functions of the metrics, for the page and for the
terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from genward.errors import BadInput
from genward.report.reading import Metrics, check

WORDINGS = ("name", "synonym", "synonym-heldout", "description", "kind", "scene")
"""Order of the columns; other wordings follow in order of appearance."""
MEASURES = ("retention", "drift", "frechet", "seconds_per_image", "extra_nfe")
DASH = "–"


class Estimate(NamedTuple):
    """A number with its interval; ``None`` where there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def half(self) -> float | None:
        """Half the interval's width."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


class Part(NamedTuple):
    """What an arm is made of; an arm that is fitted once a concept has several."""

    hash: str
    defenses: str
    spec: str
    prepare: float | None


@dataclass(frozen=True)
class Arm:
    """One row of every table: a chain of defenses, or a control."""

    label: str
    control: bool = False
    role: str = "defense"
    """``base`` | ``oracle`` | ``control`` | ``defense``"""
    parts: tuple[Part, ...] = ()


def arms(metrics: Metrics) -> list[Arm]:
    """Arms in the order of the run, those of one label (one fit a concept) as one; arms that only cells name come
    last."""
    found: dict[str, Arm] = {}
    for row in metrics["arms"]:
        label, mark = str(row.get("label") or row.get("hash") or "?"), str(row.get("hash") or "")
        control, prepare, spec = row.get("control", False), row.get("prepare_seconds"), row.get("spec")
        text = json.dumps(spec, indent=2, sort_keys=True, ensure_ascii=False) if spec else ""
        part = Part(
            mark, _chain(row.get("defenses")), text, float(prepare) if isinstance(prepare, (int, float)) else None
        )
        before = found.get(label, Arm(label, bool(control), _role(label, control, row.get("defenses"))))
        found[label] = replace(before, parts=(*before.parts, part))
    known = set(found) | {p.hash for a in found.values() for p in a.parts}
    extra = dict.fromkeys(c["arm"] for c in metrics["cells"] if c["arm"] not in known)
    return [*found.values(), *map(Arm, extra)]


def _role(label: str, control: Any, defenses: Any) -> str:
    if not control:
        return "defense"
    text = control if isinstance(control, str) else label.lower()
    return (
        "oracle"
        if "oracle" in text
        else "base"
        if text in ("base", "none") or (not defenses and "zero" not in text)
        else "control"
    )


def _chain(defenses: Any) -> str:
    if not defenses:
        return "none"
    parts: Sequence[Any] = defenses if isinstance(defenses, (list, tuple)) else [defenses]
    return " + ".join(str(p.get("name", p)) if isinstance(p, Mapping) else str(p) for p in parts)


class Grid:
    """Cells by arm, concept and wording."""

    def __init__(self, metrics: Metrics) -> None:
        self.arms = arms(metrics)
        names = keys(self.arms)
        self._cells = {(names[c["arm"]].label, c["concept"], c["variant"]): c for c in metrics["cells"]}
        if len(self._cells) < len(metrics["cells"]):
            raise BadInput(
                "metrics hold two cells of the same arm, concept and wording; give each arm a label of its own and "
                "measure the run again"
            )
        self.concepts = list(dict.fromkeys(c["concept"] for c in metrics["cells"]))

    def variants(self, concept: str) -> list[str]:
        there = list(dict.fromkeys(w for _, c, w in self._cells if c == concept))
        return [w for w in WORDINGS if w in there] + [w for w in there if w not in WORDINGS]

    def cell(self, arm: str, concept: str, variant: str) -> Mapping[str, Any] | None:
        return self._cells.get((arm, concept, variant))

    def cells(self, arm: str, concept: str) -> list[Mapping[str, Any]]:
        found = (self.cell(arm, concept, w) for w in self.variants(concept))
        return [c for c in found if c is not None]

    def residual(self, arm: str, concept: str, variant: str = "") -> Estimate:
        """CRR of one wording, or the mean over all wordings that any arm was scored on.

        The mean's interval is the mean of the intervals' ends: as wide as if all wordings erred together, so never too
        narrow. ``None`` if the arm lacks one of the wordings, since means over different wordings do not compare."""
        if variant:
            cell = self.cell(arm, concept, variant)
            return estimate(cell, "crr") if cell else Estimate(None)
        asked = [
            w
            for w in self.variants(concept)
            if any(self.residual(a.label, concept, w).value is not None for a in self.arms)
        ]
        parts = [self.residual(arm, concept, w) for w in asked]
        values, lows, highs = ([v for p in parts if (v := p[k]) is not None] for k in range(3))
        full = [sum(v) / len(v) if parts and len(v) == len(parts) else None for v in (values, lows, highs)]
        return Estimate(*full) if full[0] is not None else Estimate(None)

    def measure(self, arm: str, concept: str, name: str) -> Estimate:
        """A measure of an arm on a concept; where wordings differ, the mean over them."""
        found = [e for c in self.cells(arm, concept) if (e := estimate(c, name)).value is not None]
        if not found or len(set(found)) == 1:
            return found[0] if found else Estimate(None)
        ends = [[v for e in found if (v := e[k]) is not None] for k in range(3)]
        return Estimate(*(sum(v) / len(v) if len(v) == len(found) else None for v in ends))

    def prepare(self, arm: Arm, concept: str) -> float | None:
        value = self.measure(arm.label, concept, "prepare_seconds").value
        return arm.parts[0].prepare if value is None and len(arm.parts) == 1 else value


def keys(arms: Iterable[Arm]) -> dict[str, Arm]:
    """Arms by hash and by label, as cells and strips may name them."""
    arms = list(arms)
    return {p.hash: a for a in arms for p in a.parts if p.hash} | {a.label: a for a in arms}


def estimate(cell: Mapping[str, Any], name: str) -> Estimate:
    return Estimate(cell.get(name), cell.get(f"{name}_low"), cell.get(f"{name}_high"))


def percent(value: float | None, digits: int = 0) -> str:
    """``0.583`` as ``58``; a dash for ``None``."""
    return (
        DASH
        if value is None
        else f"{100 * value:.{digits}f}".replace("-0", "0" if round(100 * value, digits) == 0 else "-0")
    )


def short(value: float | None) -> str:
    """Three significant digits, no exponent for everyday sizes; a dash for ``None``."""
    if value is None:
        return DASH
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
        return f"{value:,.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:,.0f}"
    return f"{value:.2e}"


def duration(seconds: float | None) -> str:
    """Seconds as a person reads them: ``0.24 s``, ``42 s``, ``3 min 5 s``, ``2 h 4 min``."""
    if seconds is None:
        return DASH
    if seconds < 60:
        return f"{short(seconds)} s"
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def interval(e: Estimate, show: Callable[[float | None], str], sign: str = DASH) -> str:
    """``41–73``, or nothing where there is no interval."""
    return "" if e.low is None or e.high is None else f"{show(e.low)}{sign}{show(e.high)}"


def _plain(e: Estimate, show: Callable[[float | None], str]) -> str:
    return show(e.value) + (f" [{show(e.low)}, {show(e.high)}]" if e.value is not None and e.half is not None else "")


def summary_rows(metrics: Metrics) -> list[list[str]]:
    """The run as rows of text for a terminal: a header, then one row an arm and concept.

    Columns: concept, arm, each wording's CRR with its interval (shares from 0 to 1, as in the JSON), retention, drift,
    frechet, s/image, extra passes, prepare. Controls carry a ``*``.

    Raises:
        BadInput: metrics of another schema.
    """
    metrics = check(metrics)
    grid = Grid(metrics)
    every = list(dict.fromkeys(w for c in grid.concepts for w in grid.variants(c)))
    variants = [w for w in WORDINGS if w in every] + [w for w in every if w not in WORDINGS]
    rows = [["concept", "arm", *variants, "retention", "drift", "frechet", "s/image", "extra passes", "prepare"]]

    def share(v: float | None) -> str:
        return DASH if v is None else f"{v:.2f}"

    for concept in grid.concepts:
        for arm in grid.arms:
            if not grid.cells(arm.label, concept):
                continue
            row = [concept, arm.label + (" *" if arm.control else "")]
            row += [_plain(grid.residual(arm.label, concept, w), share) for w in variants]
            row.append(_plain(grid.measure(arm.label, concept, "retention"), share))
            row += [short(grid.measure(arm.label, concept, m).value) for m in MEASURES[1:]]
            rows.append([*row, duration(grid.prepare(arm, concept))])
    return rows


def text_table(metrics: Metrics) -> str:
    """``summary_rows`` as aligned plain text, first row underlined, without a trailing newline."""
    return align(summary_rows(metrics))


def align(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text in columns two spaces apart, the first row underlined."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]

    def line(row: Iterable[str]) -> str:
        return "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()

    return "\n".join([line(rows[0]), "  ".join("-" * w for w in widths), *map(line, rows[1:])])
