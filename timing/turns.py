"""Two ways of doing the same, timed in turns in one process, so that a busy machine slows both."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import binom

CLOCK = [time.perf_counter]
"""What seconds are read off; ``--cpu`` puts the process's own there, which on a busy machine and one thread say more.
"""


def in_turns(first: Callable[[], Any], second: Callable[[], Any], repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of each, run in turns; who begins changes with every turn."""
    times: tuple[list[float], list[float]] = ([], [])
    works, clock = (first, second), CLOCK[0]
    for turn in range(repeats):
        for k in (0, 1) if turn % 2 == 0 else (1, 0):
            began = clock()
            works[k]()
            times[k].append(clock() - began)
    return times


def alternately(first: Callable[[], Any], second: Callable[[], Any], repeats: int = 3) -> tuple[float, float]:
    """Minimum seconds of each, run in turns."""
    times = in_turns(first, second, repeats)
    return min(times[0]), min(times[1])


def median_interval(values: Sequence[float], level: float = 0.99) -> tuple[float, float, float]:
    """(median, low, high): the interval between order statistics, whatever the distribution."""
    ordered = np.sort(np.asarray(values, np.float64))
    k = int(binom.ppf((1 - level) / 2, len(ordered), 0.5))
    return (
        float(np.median(ordered)),
        float(ordered[max(0, k - 1)]),
        float(ordered[min(len(ordered) - 1, len(ordered) - k)]),
    )


def until_decided(
    work: Callable[[], Any], bare: Callable[[], Any], limit: float, least: int = 25, most: int = 400
) -> dict[str, float]:
    """The share of time that ``work`` adds to ``bare``: median over turns with a 99 % interval, repeated (twice as
    often each time) until the interval lies on one side of ``limit`` or ``most`` turns were taken."""
    shares: list[float] = []
    while True:
        mine, theirs = in_turns(work, bare, least if not shares else min(len(shares), most - len(shares)))
        shares += [a / b - 1 for a, b in zip(mine, theirs, strict=True)]
        added, low, high = median_interval(shares)
        if high <= limit or low > limit or len(shares) >= most:
            return {"added": added, "low": low, "high": high, "turns": len(shares)}
