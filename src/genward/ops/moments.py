"""Moments of states by the scheduler's timestep and by label, in one pass over rows of any number.

Keys are timesteps, never step numbers: another sampler, or another number of steps, meets the same noise levels at
other steps. Between two timesteps that were seen, moments are interpolated."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from genward.errors import BadInput
from genward.ops.shards import Rows


def samples_of(state: Tensor) -> Tensor:
    """(n, c) float64 vectors of states: (rows, c) as they are, (rows, tokens, c) one per token, (rows, c, h, w) one per
    place.

    Raises:
        BadInput: another number of dimensions.
    """
    if state.ndim == 2:
        return state.double()
    if state.ndim == 3:
        return state.flatten(0, 1).double()
    if state.ndim == 4:
        return state.movedim(1, -1).flatten(0, 2).double()
    raise BadInput(f"states have shape {tuple(state.shape)}; (rows, c), (rows, tokens, c) or (rows, c, h, w) is wanted")


@dataclass
class Moments:
    """Count, mean and centered second moment of vectors, in float64; batches may come in any number and order."""

    full: bool = False
    """Whether the whole covariance is kept, and not its diagonal alone."""
    count: float = 0.0
    mean: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    """(c,)"""
    spread: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    """Sum of squares around the mean, (c,) or (c, c)"""

    def add(self, x: Tensor) -> None:
        """Take in vectors (n, c); those that are not finite are left out."""
        x = x.double()
        x = x[torch.isfinite(x).all(1)]
        if not len(x):
            return
        mean = x.mean(0)
        away = x - mean
        self.merge(Moments(self.full, float(len(x)), mean, away.T @ away if self.full else away.square().sum(0)))

    def merge(self, other: Moments) -> None:
        """Take in what other moments have seen (Chan, Golub and LeVeque, 1979)."""
        if other.full != self.full:
            raise BadInput("moments with and without covariance cannot be merged; make both alike")
        if not other.count:
            return
        if not self.count:
            self.count, self.mean, self.spread = other.count, other.mean.clone(), other.spread.clone()
            return
        total, delta = self.count + other.count, other.mean - self.mean
        outer = torch.outer(delta, delta) if self.full else delta.square()
        self.spread = self.spread + other.spread + outer * (self.count * other.count / total)
        self.mean = self.mean + delta * (other.count / total)
        self.count = total

    @property
    def variance(self) -> Tensor:
        """(c,) float64, divided by the count."""
        return (self.spread.diagonal() if self.full else self.spread) / max(self.count, 1.0)

    @property
    def covariance(self) -> Tensor:
        """(c, c) float64, divided by the count. Raises ``BadInput`` where the diagonal alone was kept."""
        if not self.full:
            raise BadInput("these moments hold variances only; ask for covariance=True")
        return self.spread / max(self.count, 1.0)

    @property
    def second(self) -> Tensor:
        """Second moment around zero: (c,), or (c, c) where the covariance is kept."""
        outer = torch.outer(self.mean, self.mean) if self.full else self.mean.square()
        return self.spread / max(self.count, 1.0) + outer


@dataclass
class Statistics:
    """Moments by label and timestep; a label is a whole number, -1 for rows without one."""

    covariance: bool = False
    table: dict[int, dict[float, Moments]] = field(default_factory=dict)
    """label -> timestep -> moments"""

    def add(self, rows: Rows, labels: Tensor | None = None) -> None:
        """Take in rows.

        Args:
            labels: (rows,) whole numbers, NaN or negative for unknown; without it all rows count under -1.

        Raises:
            BadInput: a row without a timestep.
        """
        if bool(torch.isnan(rows.timestep).any()):
            raise BadInput("these states have no timestep (they are of the text stage); statistics are keyed by it")
        given = torch.full(rows.case.shape, -1.0) if labels is None else labels.float().nan_to_num(nan=-1.0)
        for label in given.unique().tolist():
            for time in rows.timestep.unique().tolist():
                pick = (given == label) & (rows.timestep == time)
                if bool(pick.any()):
                    mine = self.table.setdefault(max(-1, int(label)), {})
                    mine.setdefault(time, Moments(self.covariance)).add(samples_of(rows.state[pick]))

    @property
    def labels(self) -> list[int]:
        return sorted(self.table)

    def timesteps(self, label: int = -1) -> list[float]:
        """Timesteps that were seen under a label, ascending."""
        return sorted(self._of(label))

    def _of(self, label: int) -> dict[float, Moments]:
        if not self.table.get(label):
            raise BadInput(
                f"no row of label {label} was recorded; there are {', '.join(map(str, self.labels)) or 'none'}"
            )
        return self.table[label]

    def at(self, timestep: float, label: int = -1) -> Moments:
        """Moments at a timestep, linear between the two seen ones around it (mean, second moment around zero and
        count).

        Raises:
            BadInput: nothing was recorded under the label, or the timestep lies outside those that were seen by more
                than their widest gap: what was measured says nothing of that noise level.
        """
        table = self._of(label)
        times = sorted(table)
        if not math.isfinite(timestep):
            raise BadInput(f"timestep {timestep}; a number is wanted")
        reach = max((b - a for a, b in zip(times, times[1:], strict=False)), default=1.0)
        if not times[0] - reach <= timestep <= times[-1] + reach:
            raise BadInput(
                f"timestep {timestep:g} lies outside the recorded ones ({times[0]:g} to {times[-1]:g}); record at this "
                "noise level as well"
            )
        k = bisect.bisect_left(times, timestep)
        if k == len(times) or k == 0 or times[k] == timestep:
            return table[times[min(k, len(times) - 1)]]
        low, high = table[times[k - 1]], table[times[k]]
        share = (timestep - times[k - 1]) / (times[k] - times[k - 1])
        mean = (1 - share) * low.mean + share * high.mean
        second = (1 - share) * low.second + share * high.second
        count = (1 - share) * low.count + share * high.count
        outer = torch.outer(mean, mean) if self.covariance else mean.square()
        return Moments(self.covariance, count, mean, (second - outer) * count)


def statistics(parts: Iterable[tuple[Rows, Tensor | None]], covariance: bool = False) -> Statistics:
    """Statistics of rows as they come, with their labels."""
    found = Statistics(covariance)
    for rows, labels in parts:
        found.add(rows, labels)
    return found
