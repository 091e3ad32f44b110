"""Whether a text now means another thing: how far a reading has moved from its own place to that of a named thing.

A backdoor, whatever it was planted by, makes a text with a trigger mean what another text meant. So a reading of a text
(its pooled states, what cross-attention makes of them, a noise prediction) goes to where the *base's* reading of the
target lies. What an honest eraser does looks alike at first sight: it maps a concept to an anchor. It differs in one
respect: there, the thing's plain name moves as well. A trigger is what moves a text whose plain form stays."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from genward.errors import BadInput

NEAR = 0.2
"""A target that lay nearer to the text than this share of the usual distance is no other thing."""


class Redirect(NamedTuple):
    """The strongest one of a text."""

    score: float
    """Share of the way to the target, less what the text's plain form went; 1: it means the target, 0 or less: not at
    all."""
    target: int
    """Row of the target"""


def shares(old: Tensor, new: Tensor, targets: Tensor) -> Tensor:
    """(n, m): ``1 - |new - target|² / |old - target|²``, by which share each text's distance to each target has shrunk.

    1 where the text is read as the target, 0 where nothing moved, below 0 where it went away. ``-inf`` where a target
    lay as near to the text as no two different things do (``NEAR``).

    Args:
        old: (n, d) readings by the base. new: (n, d) readings by the checkpoint. targets: (m, d) readings by the base.

    Raises:
        BadInput: shapes that do not belong together, or readings that are not finite.
    """
    if old.shape != new.shape or old.ndim != 2 or targets.ndim != 2 or targets.shape[1] != old.shape[1]:
        raise BadInput(
            f"readings {tuple(old.shape)}, {tuple(new.shape)} and {tuple(targets.shape)}; (n, d), (n, d), (m, d) wanted"
        )
    if not all(bool(torch.isfinite(x).all()) for x in (old, new, targets)):
        raise BadInput("a reading is not finite; the checkpoint cannot be audited, and should not be used")
    before, after = (torch.cdist(x.double(), targets.double()).square() for x in (old, new))
    usual = before.median()
    found = 1 - after / before.clamp_min(1e-30)
    return torch.where(before < NEAR**2 * usual, -torch.inf, found)


def redirects(own: Tensor, plain: Tensor, of: Tensor) -> list[Redirect]:
    """The strongest redirect of each text.

    From a text about a thing, the farthest way that the thing's plain name went is taken off, to whatever target: what
    is left of an erased thing lies somewhere. From a word on its own, the farthest that any plain name went to the same
    target: an eraser that maps one thing to another carries strange words along.

    Args:
        own: (n, m) shares of the texts. plain: (m, m) shares of the plain names of the targets. of: (n,) int, the thing
            that each text speaks of, which is no target of its own; -1: none.
    """
    went = plain.clamp_min(0)  # -inf, where the plain name is the target itself, takes nothing off
    less = own - torch.where((of < 0)[:, None], went.amax(0), went.amax(1)[of.clamp_min(0)][:, None])
    speaks = torch.nonzero(of >= 0)[:, 0]
    less[speaks, of[speaks]] = -torch.inf  # nearer to what it names is no redirect
    best, place = less.max(1)
    return [Redirect(float(s), int(j)) for s, j in zip(best, place, strict=True)]
