"""Where each word lies in a sound: forced alignment against the same words spoken one by one (dynamic time warping of
log-mel spectra), and the words put into another order.

The study aligns with MFA (HARMGEN's digest §3.2); a reference by any synthesizer does for a single voice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genward.core.media import Audio
from genward.errors import BadInput
from genward.ops.hearing import cut, mono

RATE = 16_000
HOP, WINDOW, BANDS = 320, 640, 26
"""Samples at 16 kHz between frames (20 ms) and in one, and bands of the spectrum"""
Frames = NDArray[np.float64]


def frames(samples: NDArray[np.float32]) -> Frames:
    """(n, BANDS) log-mel spectrum of a sound at 16 kHz, each frame less its own mean."""
    padded = np.pad(samples.astype(np.float64), (WINDOW // 2, WINDOW))
    count = 1 + len(samples) // HOP
    index = np.arange(WINDOW)[None] + HOP * np.arange(count)[:, None]
    power = np.abs(np.fft.rfft(padded[index] * np.hanning(WINDOW), axis=1)) ** 2
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 7600 / 700), BANDS + 2) / 2595) - 1)
    hertz = np.arange(power.shape[1]) * RATE / WINDOW
    rising = (hertz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - hertz) / (edges[2:] - edges[1:-1])[:, None]
    mel = np.log(power @ np.clip(np.minimum(rising, falling), 0, None).T + 1e-6)
    shape: Frames = mel - mel.mean(1, keepdims=True)
    level = mel.mean(1, keepdims=True) - mel.mean()
    return np.concatenate([shape, level], 1)


def path(a: Frames, b: Frames) -> list[tuple[int, int]]:
    """The cheapest monotone path through the distances of two sequences, from both starts to both ends."""
    cost = np.sqrt(np.maximum(0, (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T))
    total = np.full((len(a) + 1, len(b) + 1), np.inf)
    total[0, 0] = 0
    for i in range(1, len(a) + 1):
        row, above = total[i], total[i - 1]
        least = np.minimum(above[1:], above[:-1])
        for j in range(1, len(b) + 1):
            row[j] = cost[i - 1, j - 1] + min(least[j - 1], row[j - 1])
    i, j, out = len(a), len(b), []
    while i > 0 and j > 0:
        out.append((i - 1, j - 1))
        steps = ((total[i - 1, j - 1], i - 1, j - 1), (total[i - 1, j], i - 1, j), (total[i, j - 1], i, j - 1))
        _, i, j = min(steps)
    return out[::-1]


def spans(audio: Audio, words: Sequence[Audio]) -> list[tuple[float, float]]:
    """Start and end in seconds of each word in a sound, one after the other without gaps.

    Args:
        audio: the sound. words: each word alone, in the order in which the sound has them.

    Raises:
        BadInput: no words.
    """
    if not words:
        raise BadInput("no words to align; give each word of the sound")
    pieces = [_voiced(frames(mono(w, RATE))) for w in words]
    found = dict(path(np.concatenate(pieces), frames(mono(audio, RATE))))  # the last frame that each one meets
    bounds, at = [0.0], 0
    for piece in pieces[:-1]:
        at += len(piece)
        bounds.append(found[at - 1] * HOP / RATE)
    bounds.append(audio.seconds)
    return list(zip(bounds[:-1], bounds[1:], strict=True))


def _voiced(found: Frames) -> Frames:
    """The frames of a word without the silence around it."""
    loud = found[:, -1] > found[:, -1].max() - 6.0
    places = np.nonzero(loud)[0]
    return found[places[0] : places[-1] + 1]


def reordered(audio: Audio, words: Sequence[Audio], order: Sequence[int]) -> Audio:
    """The sound with its words in another order: the k-th word comes to place ``order[k]``.

    Raises:
        BadInput: not one place for each word.
    """
    if sorted(order) != list(range(len(words))):
        raise BadInput(f"{len(words)} words with places {list(order)[:8]}; one place for each word is wanted")
    samples = mono(audio, audio.rate)
    pieces = [cut(samples, audio.rate, *span) for span in spans(audio, words)]
    return Audio(np.concatenate([pieces[list(order).index(k)] for k in range(len(order))]), audio.rate)
