"""Figures as a reader sees them: estimates with their intervals, shares, durations, three significant digits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from genward.core.blocks import Cell
from genward.core.files import finite
from genward.errors import BadInput

DASH = "–"
"""Stands for what is unknown, and between the ends of an interval."""


class Estimate(NamedTuple):
    """A number with its interval; ``None`` where there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def half(self) -> float | None:
        """Half the interval's width."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def estimate(cell: Mapping[str, Any], name: str) -> Estimate:
    """The figure ``name`` of a cell with its ends ``name_low`` and ``name_high``."""
    return Estimate(cell.get(name), cell.get(f"{name}_low"), cell.get(f"{name}_high"))


def number(value: Any, where: str) -> float | None:
    """A finite number, or ``None`` for ``None``, NaN and infinities; ``BadInput`` for anything that is no number."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadInput(
            f"{where} is {str(value)[:60]!r}, not a number; measure the run again with this version of genward"
        )
    return finite(value)


def percent(value: float | None, digits: int = 0) -> str:
    """``0.583`` as ``58``; a dash for ``None``."""
    if value is None:
        return DASH
    text = f"{100 * value:.{digits}f}"
    return text.removeprefix("-") if round(100 * value, digits) == 0 else text


def short(value: float | None) -> str:
    """Three significant digits, no exponent for everyday sizes; a dash for ``None``."""
    if value is None:
        return DASH
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
        return f"{value:,.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:,.0f}"
    return f"{value:.2e}"


def points(value: float | None) -> str:
    """A difference of shares in points, signed: ``0.14`` as ``+14``, ``-0.08`` as ``−8``; a dash for ``None``."""
    if value is None:
        return DASH
    whole = round(100 * value)
    return f"{whole:+d}".replace("-", "−") if whole else "0"


def settled(e: Estimate) -> Callable[[float | None], str]:
    """How to write an estimate and its ends: to the place of half the interval's width, one further where that begins
    with 1 or 2, and to hundredths below 1, since what lies beyond is noise; three significant digits where there is no
    interval."""
    half = e.half
    if half is None or half <= 0 or not 1e-6 < half < 1e6:
        return short
    digits = max(2 if half < 1 else 0, -math.floor(math.log10(half / 3)))

    def show(value: float | None) -> str:
        if value is None:
            return DASH
        text = f"{value:,.{digits}f}"
        return text.removeprefix("-") if round(value, digits) == 0 else text

    return show


def share_digits(e: Estimate) -> int:
    """Digits after the point of a share in percent: one where half the interval is below a point, else none."""
    return 1 if e.half is not None and 0 < e.half < 0.01 else 0


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


def figure(e: Estimate, show: Callable[[float | None], str] = short, unit: str = "") -> Cell:
    """A table's cell of an estimate, rounded to its interval; the unit stands behind the value where there is one."""
    if show is percent:
        digits = share_digits(e)
        show = partial(percent, digits=digits)
    elif show is short:
        show = settled(e)
    return Cell(e.value, show(e.value) + (unit if e.value is not None else ""), interval(e, show))
