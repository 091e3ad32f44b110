"""Sounds and words: joining, cutting, resampling, word error rate, and how much of a phrase was said.

Everything here is numpy and scipy on plain arrays; engines that speak and listen are in ``models``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import gcd

import numpy as np
from numpy.typing import NDArray

from genward.core.media import Audio
from genward.errors import BadInput

PAUSE = 0.2
"""Seconds between joined pieces (the digest's default)."""
FADE = 0.008
"""Seconds over which a cut fades, so that it does not click."""
LONGEST = 600.0
"""Seconds of sound that are listened to."""
SILENT = 1e-4
"""Peak below which a sound is silence."""


def words_of(text: str) -> list[str]:
    """Lower-case words, apostrophes kept, everything else between them dropped."""
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.casefold())


def mono(audio: Audio, rate: int) -> NDArray[np.float32]:
    """(n,) float32 at another rate, channels averaged (scipy's polyphase filter).

    Raises:
        BadInput: longer than ``LONGEST``.
    """
    from scipy.signal import resample_poly

    if audio.seconds > LONGEST:
        raise BadInput(f"a sound of {audio.seconds:.0f} s; up to {LONGEST:.0f} s are listened to, cut it")
    samples = audio.samples.mean(1) if audio.samples.ndim == 2 else audio.samples
    if audio.rate == rate:
        return np.ascontiguousarray(samples, np.float32)
    shared = gcd(audio.rate, rate)
    found = resample_poly(samples.astype(np.float64), rate // shared, audio.rate // shared)
    out: NDArray[np.float32] = np.clip(found, -1, 1).astype(np.float32)
    return out


def joined(pieces: Sequence[Audio], pause: float = PAUSE) -> Audio:
    """Sounds one after the other with ``pause`` seconds of silence between them, at the first one's rate.

    Raises:
        BadInput: no sound, or a negative pause.
    """
    if not pieces or pause < 0:
        raise BadInput(f"{len(pieces)} sounds with a pause of {pause} s; at least one, and 0 or more, can be joined")
    rate = pieces[0].rate
    gap = np.zeros(round(pause * rate), np.float32)
    out: list[NDArray[np.float32]] = []
    for k, piece in enumerate(pieces):
        out += [gap, mono(piece, rate)] if k else [mono(piece, rate)]
    return Audio(np.concatenate(out), rate)


def cut(samples: NDArray[np.float32], rate: int, start: float, end: float) -> NDArray[np.float32]:
    """The samples from ``start`` to ``end`` seconds, faded at both ends."""
    piece = samples[max(0, round(start * rate)) : max(0, round(end * rate))].copy()
    fade = min(round(FADE * rate), len(piece) // 2)
    if fade:
        ramp = np.linspace(0, 1, fade, dtype=np.float32)
        piece[:fade] *= ramp
        piece[-fade:] *= ramp[::-1]
    return piece


def edits(wanted: Sequence[str], found: Sequence[str]) -> int:
    """Fewest insertions, deletions and substitutions between two sequences (Levenshtein)."""
    row = list(range(len(found) + 1))
    for i, a in enumerate(wanted, 1):
        last, row[0] = row[0], i
        for j, b in enumerate(found, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (a != b))
    return row[-1]


def word_error_rate(wanted: str, found: str) -> float:
    """Edits between the words of both texts by the number of wanted ones; may be above 1.

    Raises:
        BadInput: nothing was wanted.
    """
    words = words_of(wanted)
    if not words:
        raise BadInput("the word error rate of an empty text; give the words that were to be said")
    return edits(words, words_of(found)) / len(words)


def in_order(phrase: str, text: str) -> float:
    """Share of a phrase's words that stand in a text in the phrase's order and within twice its length: the longest
    common subsequence of any such window. 1: the phrase was said."""
    wanted, words = words_of(phrase), words_of(text)
    if not wanted:
        raise BadInput("an empty phrase; give the words that are looked for")
    best, width = 0, 2 * len(wanted)
    for k in range(max(1, len(words) - width + 1)):
        best = max(best, _common(wanted, words[k : k + width]))
    return best / len(wanted)


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    row = [0] * (len(b) + 1)
    for x in a:
        last = 0
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], max(row[j], row[j - 1], last + (x == y))
    return row[-1]
