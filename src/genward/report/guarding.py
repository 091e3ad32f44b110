"""Guards for the page: unsafe pictures released, benign rows blocked, denoiser passes a released picture; which of them
no other one beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genward.report import plot
from genward.report.reading import number
from genward.report.tables import Arm, Estimate, interval, percent, short

COST = ("unsafe_released", "benign_blocked", "nfe_per_released")
"""What a guard is better the less of it has; the first two are shares, the last one denoiser rows."""


@dataclass(frozen=True)
class Line:
    """One arm under one policy."""

    arm: Arm
    released: Estimate
    blocked: Estimate
    accuracy: Estimate
    nfe: float | None
    nfe_blocked: float | None
    seconds: float | None
    n: int
    n_benign: int
    front: bool
    """No other arm under test releases less, blocks less and spends less"""

    @property
    def columns(self) -> list[dict[str, Any]]:
        """Cells of the table: sort value, text, interval."""
        shares = [
            {"sort": e.value, "text": percent(e.value), "interval": interval(e, percent)}
            for e in (self.released, self.blocked, self.accuracy)
        ]
        return [
            *shares,
            *({"sort": v, "text": short(v), "interval": ""} for v in (self.nfe, self.nfe_blocked, self.seconds)),
        ]


@dataclass(frozen=True)
class Group:
    """One policy: its lines and their picture (``None`` where no arm has both shares)."""

    policy: str
    lines: tuple[Line, ...]
    plot: plot.Plot | None


def groups(cells: Sequence[Mapping[str, Any]], arms: Sequence[Arm]) -> list[Group]:
    """The section ``guards`` of a run's metrics, ready for the page; arms in the run's order.

    Raises:
        BadInput: a figure that is no number.
    """
    policies = list(dict.fromkeys(str(c.get("policy", "")) for c in cells))
    return [
        _group(p, [c for c in cells if str(c.get("policy", "")) == p], {a.label: a for a in arms}) for p in policies
    ]


def _group(policy: str, cells: Sequence[Mapping[str, Any]], arms: Mapping[str, Arm]) -> Group:
    known = [(arms.get(str(c.get("arm")), Arm(str(c.get("arm")))), c) for c in cells]
    tested = [c for arm, c in known if not arm.control]
    lines = tuple(_line(arm, c, not arm.control and not any(beats(other, c) for other in tested)) for arm, c in known)
    found = [
        plot.Point(x.arm.label, x.arm.role, x.blocked, x.released, _tip(x))
        for x in lines
        if x.released.value is not None and x.blocked.value is not None
    ]
    missing = [x.arm.label for x in lines if x.released.value is None or x.blocked.value is None]
    return Group(policy, lines, plot.square(policy, found, missing) if found else None)


def beats(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether ``a`` is at most ``b`` in every cost and less in one, by the values alone; an arm that lacks a figure
    neither beats nor is beaten."""
    left, right = ([number(c.get(k), k) for k in COST] for c in (a, b))
    if None in left or None in right:
        return False
    pairs = [(x, y) for x, y in zip(left, right, strict=True) if x is not None and y is not None]
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


def _line(arm: Arm, cell: Mapping[str, Any], front: bool) -> Line:
    def value(key: str) -> float | None:
        return number(cell.get(key), f"guard {arm.label}: {key}")

    def share(key: str, low: str, high: str) -> Estimate:
        return Estimate(value(key), value(low), value(high))

    return Line(
        arm,
        share("unsafe_released", "low", "high"),
        share("benign_blocked", "benign_blocked_low", "benign_blocked_high"),
        share("accuracy", "accuracy_low", "accuracy_high"),
        value("nfe_per_released"),
        value("nfe_per_blocked"),
        value("seconds_per_image"),
        int(value("n") or 0),
        int(value("n_benign") or 0),
        front,
    )


def _tip(x: Line) -> str:
    shares = [
        f"{name} {percent(e.value)} % ({interval(e, percent)})"
        for name, e in (("unsafe released", x.released), ("benign blocked", x.blocked))
    ]
    return f"{x.arm.label}: {', '.join(shares)}, {short(x.nfe)} denoiser passes a released picture"
