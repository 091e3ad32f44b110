"""What a rate says about a claim if the judge were worse than it is known to be, or were the other judge.

A judge's sensitivity on generated pictures is known roughly, and falls where a defense half-erases a thing. A claim
about a rate is decided only if its verdict is the same for every sensitivity down to a stated one, and by each of two
judges alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

LOWEST = 0.67
"""Sensitivity down to which a verdict on a rate has to stand: the lowest that a trial found under a defense."""


def scaled(cell: Mapping[str, Any], low: float, high: float, lowest: float = LOWEST) -> tuple[float, float] | None:
    """The ends of a corrected rate's interval over all sensitivities from ``lowest`` (or the cell's own, where that is
    lower) to 1.

    A corrected rate is ``(p + Sp - 1) / (Se + Sp - 1)``, so with another sensitivity it is scaled by the ratio of the
    denominators; the ends are those at both ends of the range, at most 1. ``None`` where the cell does not say which
    error it was corrected by, as in metrics of earlier versions, or where a judge as bad as that would tell nothing.
    """
    told = [cell.get(k) for k in ("sensitivity", "specificity")]
    if not all(isinstance(x, int | float) for x in told):
        return None
    sensitivity, specificity = (float(x) for x in told if x is not None)
    youden, least = sensitivity + specificity - 1, min(lowest, sensitivity) + specificity - 1
    if not (least > 0 and math.isfinite(low) and math.isfinite(high)):
        return None
    return min(1.0, low * youden / specificity), min(1.0, high * youden / least)


def disagreement(
    verdict: str, each: Sequence[tuple[str, float, float, float]], decide: Callable[[float, float], str]
) -> str:
    """Why judges that look alone keep a verdict from being told; empty where each gives the same one.

    Args:
        each: name, raw rate and its interval of each judge; what has no interval is left out.
        decide: the claim's verdict on an interval.
    """
    found = [(name, value, decide(low, high)) for name, value, low, high in each if low == low and high == high]
    if len(found) < 2 or all(each == verdict for _, _, each in found):
        return ""
    told = "; ".join(f"by the {name} judge {value:.2f}, {each}" for name, value, each in found)
    return f"the raw rates of the two judges do not both say so: {told}"
