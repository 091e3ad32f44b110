"""From a number to a verdict: every score of every defense comes through here, once.

``decide`` compares scores with thresholds, ``act`` blocks, flags or steers. Both fail closed: a score that is no real
finite number, one too many or too few, and a threshold that is not finite refuse the rows that they stand for. A
detector that has lost its mind must not release what it no longer sees."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genward.core.contracts import Rig
from genward.core.records import Frame
from genward.errors import BadArtifact

ACTIONS = ("block", "flag", "steer")
"""What can follow from a score; rows whose score is of no use are blocked whatever it is."""


class Decision(NamedTuple):
    """What follows for each row."""

    table: Tensor
    """(rows, columns) the scores, NaN wherever they are of no use; with the graph of what was given"""
    which: Tensor
    """int64 (rows,): the column farthest beyond its threshold or nearest to it; of a broken row the first broken one"""
    limits: Tensor
    """(columns,) thresholds"""
    hit: Tensor
    """bool (rows,): beyond a threshold"""
    broken: Tensor
    """bool (rows,): without a usable score; never ``hit`` as well"""

    @property
    def score(self) -> Tensor:
        """(rows,) the score of ``which``."""
        return self.table.gather(1, self.which[:, None])[:, 0]


def decide(
    scores: Any,
    limits: float | Sequence[float] | Tensor,
    rows: int,
    *,
    among: Tensor | None = None,
    unsound: Tensor | None = None,
    inclusive: bool = False,
) -> Decision:
    """Compare scores with thresholds.

    Args:
        scores: (rows,) for one threshold, (rows, columns) for several.
        limits: one threshold for each column.
        rows: number of rows that must have a score.
        among: bool (rows,): rows that are decided about at all, such as the conditional ones; all of them by default.
        unsound: bool (rows,): rows that are broken for another reason, such as a shift that is not finite.
        inclusive: whether a score at its threshold is beyond it.
    """
    cuts = torch.as_tensor(limits, dtype=torch.float64).reshape(-1)
    if not len(cuts):  # nothing to compare with: nothing vouches for a row
        cuts = torch.full((1,), math.nan, dtype=torch.float64)
    table = _table(scores, rows, len(cuts))
    picked = _mask(among, rows, table, missing=True)
    sound = torch.isfinite(table).all(1) & bool(torch.isfinite(cuts).all()) & ~_mask(unsound, rows, table, False)
    margin = table - cuts.to(table)
    usable = torch.isfinite(margin)
    which = torch.where(usable, margin.detach(), torch.inf).argmax(1)
    best = margin.detach().gather(1, which[:, None])[:, 0]
    beyond = best >= 0 if inclusive else best > 0
    return Decision(table, which, cuts, picked & sound & beyond, picked & ~sound)


def _table(scores: Any, rows: int, columns: int) -> Tensor:
    """Scores as (rows, columns), all NaN where they cannot be scores of these rows."""
    if isinstance(scores, Tensor) and scores.is_floating_point():
        if scores.shape == (rows, columns):
            return scores
        if scores.shape == (rows,) and columns == 1:
            return scores[:, None]
    where = scores.device if isinstance(scores, Tensor) else None
    return torch.full((rows, columns), math.nan, device=where)


def _mask(mask: Tensor | None, rows: int, like: Tensor, missing: bool) -> Tensor:
    """A mask on the scores' device; one of another shape marks every row."""
    if mask is None:
        return torch.full((rows,), missing, device=like.device)
    if mask.shape != (rows,) or mask.dtype != torch.bool:
        return torch.ones(rows, dtype=torch.bool, device=like.device)
    return mask.to(like.device)


def act(
    rig: Rig,
    frame: Frame,
    decision: Decision,
    *,
    action: str,
    why: Callable[[int], str],
    broken: Callable[[int], str],
    category: Callable[[int], str],
    tokens: Sequence[Sequence[tuple[str, float]]] | None = None,
    at: Tensor | None = None,
) -> None:
    """Do what a decision says: block its broken rows, and block, flag or record as steered the rows beyond a
    threshold.

    Args:
        action: one of ``ACTIONS``.
        why, broken, category: column -> text of the verdict.
        tokens: a list for each row of the frame: token and its share of the score.
        at: int (rows of the decision,): which row of the frame each is; by default they are the frame's rows.
    """
    if action not in ACTIONS:
        action = "block"
    count = len(frame.case)
    place = torch.arange(count) if at is None else at.cpu()
    score = torch.full((count,), math.nan, dtype=torch.float64)
    score[place] = decision.score.detach().double().cpu()
    which, lost, hit = decision.which.cpu(), decision.broken.cpu(), decision.hit.cpu() & ~decision.broken.cpu()
    nothing = torch.full((count,), math.nan)  # so that no policy takes it for a decision that may be flagged
    for k in which[lost].unique().tolist():
        rig.block(frame, place[lost & (which == k)], broken(k), score=nothing, category=category(k))
    for k in which[hit].unique().tolist():
        rows, cut = place[hit & (which == k)], float(decision.limits[k])
        if action == "block":
            rig.block(frame, rows, why(k), score=score, threshold=cut, category=category(k), tokens=tokens)
        else:
            said = "steered" if action == "steer" else "flagged"
            rig.flag(frame, rows, why(k), action=said, score=score, threshold=cut, category=category(k), tokens=tokens)


# -------------------------------------------------------------------------------------------- numbers out of a file


def number(card: Mapping[str, Any], key: str, low: float, high: float, who: str) -> float:
    """A number of a card, finite and in ``[low, high]``.

    Raises:
        BadArtifact: it is missing, no number, or outside.
    """
    return in_range(card.get(key), low, high, f"{who}: {key} of its card")


def in_range(value: Any, low: float, high: float, what: str) -> float:
    """``value`` as a finite number in ``[low, high]``.

    Raises:
        BadArtifact: it is none; the message begins with ``what``.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high or math.isinf(value):
        raise BadArtifact(f"{what} is {value!r}; a number from {low:g} to {high:g} is wanted, fit it again")
    return float(value)


def all_in_range(values: Tensor, low: float, high: float, what: str) -> Tensor:
    """``values`` where there is at least one, all of them finite and in ``[low, high]``.

    Raises:
        BadArtifact: they are not.
    """
    if not values.numel() or not bool(((values >= low) & (values <= high) & torch.isfinite(values)).all()):
        raise BadArtifact(f"{what}: {tuple(values.shape)} numbers, not all from {low:g} to {high:g}; fit it again")
    return values
