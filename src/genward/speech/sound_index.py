"""Which phrases a stretch of sounds may hold at all, so that only those are aligned with it.

Aligning sounds takes as long as there are phrases. This looks at all of them at once and never loses one: it counts the
consonants of a phrase that have no counterpart in the text, in order, and each of them costs 1 in the alignment, too.
Vowels, ``HH R W Y`` and sounds that are cheaply taken for one of those are left out. The states of all phrases stand
side by side in the bits of one integer (Wu and Manber, Communications of the ACM 1992)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class SoundIndex:
    """Rows of sounds, each with what an alignment of it may cost.

    Args:
        rows: numbers of sounds.
        most: for each row the cost up to which it is to be found, 0 or more.
        swap, gap: as ``sound_match.costs``.
    """

    def __init__(self, rows: Sequence[Sequence[int]], most: Sequence[float], swap: Floats, gap: Floats) -> None:
        soft = gap < 1.0
        kept = ~soft & (swap[:, soft] >= 1.0).all(1)
        """Sounds of a phrase that cost 1 unless they, or one that may stand for them, are there"""
        costly = ~soft & (swap[~kept] >= 1.0).all(0)
        """Sounds of a text that cost 1 unless they stand for one of those"""
        self.always: list[int] = []
        """Rows that nothing rules out"""
        self.tops: list[tuple[int, int]] = []
        """The other rows: the bit that is set once all of it is there, and the row"""
        self.starts, self.errors, at = 0, 0, 0
        ends: dict[int, int] = {}
        equal = [0] * len(gap)
        for k, (row, cost) in enumerate(zip(rows, most, strict=True)):
            sounds, errors = [p for p in row if kept[p]], int(cost + 1e-9)
            if errors >= len(sounds):
                self.always.append(k)
                continue
            self.starts |= 1 << at
            for place, p in enumerate(sounds, at + 1):
                for q in np.flatnonzero(swap[p] < 1.0):
                    equal[q] |= 1 << place
            at += len(sounds)
            ends[errors] = ends.get(errors, 0) | 1 << at
            self.tops.append((1 << at, k))
            self.errors = max(self.errors, errors)
            at += 1
        self.ends = [ends.get(e, 0) for e in range(self.errors + 1)]
        self.steps = [(bits, bool(costly[q])) for q, bits in enumerate(equal)]

    def rows(self, sounds: Sequence[int]) -> list[int]:
        """Rows of which the cheapest alignment with a stretch of these sounds may cost no more than it is to; all of
        those that do are among them. In order."""
        if not self.tops:
            return list(self.always)
        starts, found = self.starts, 0
        held = [starts]  # held[e]: beginnings of rows that end here with at most e costs
        for _ in range(self.errors):
            held.append(starts | held[-1] << 1)
        for sound in sounds:
            equal, costs = self.steps[sound]
            if not (equal or costs):
                continue
            below = new = 0  # one cost less, before this sound and after it
            for e, state in enumerate(held):
                moved = (state << 1) & equal | starts
                # one more sound of the row left out or taken for another; one more sound of the text
                moved |= (below | new) << 1 | (below if costs else state)
                held[e], below, new = moved, state, moved
                found |= moved & self.ends[e]
        return sorted([*self.always, *(k for bit, k in self.tops if found & bit)])
