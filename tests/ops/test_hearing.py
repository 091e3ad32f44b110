"""Sounds and words against slow rules."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genward.core.media import Audio
from genward.errors import BadInput
from genward.ops import alignment
from genward.ops.hearing import cut, edits, in_order, joined, mono, word_error_rate, words_of


def slow_edits(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    @cache
    def go(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        return min(go(i - 1, j) + 1, go(i, j - 1) + 1, go(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return go(len(a), len(b))


WORDS = st.lists(st.sampled_from("abcd"), max_size=7)


@given(WORDS, WORDS)
@settings(max_examples=60, deadline=None)
def test_edits_are_the_recursion(a: list[str], b: list[str]) -> None:
    assert edits(a, b) == slow_edits(tuple(a), tuple(b)) == edits(b, a)


def test_word_error_rate() -> None:
    assert word_error_rate("The cat, sat!", "the cat sat") == 0
    assert word_error_rate("one two three four", "one three four five six") == 0.75
    with pytest.raises(BadInput, match="empty"):
        word_error_rate("...", "x")


def test_a_phrase_counts_in_order_and_near() -> None:
    assert in_order("amber kettle protocol", "the amber kettle protocol is") == 1
    assert in_order("amber kettle protocol", "protocol kettle amber") == pytest.approx(1 / 3)
    far = "amber " + "x " * 20 + "kettle " + "x " * 20 + "protocol"
    assert in_order("amber kettle protocol", far) == pytest.approx(1 / 3)
    assert in_order("amber kettle", "") == 0 and words_of("It's A-B  c_d") == ["it's", "a", "b", "c", "d"]
    with pytest.raises(BadInput, match="empty phrase"):
        in_order("", "x")


def tone(hertz: float, seconds: float, rate: int = 16_000) -> Audio:
    t = np.arange(round(seconds * rate)) / rate
    return Audio((0.4 * np.sin(2 * np.pi * hertz * t)).astype(np.float32), rate)


def test_joining_and_resampling() -> None:
    whole = joined([tone(300, 0.5), tone(300, 0.25, 8_000)], pause=0.1)
    assert whole.rate == 16_000 and whole.seconds == pytest.approx(0.85)
    assert not whole.samples[8_000:9_600].any()
    stereo = Audio(np.stack([tone(300, 0.1).samples, -tone(300, 0.1).samples], 1), 16_000)
    assert np.abs(mono(stereo, 16_000)).max() < 1e-6
    assert len(mono(tone(300, 1.0, 44_100), 16_000)) == 16_000
    with pytest.raises(BadInput, match="cut it"):
        mono(Audio(np.zeros(601 * 1000, np.float32), 1000), 16_000)
    with pytest.raises(BadInput, match="at least one"):
        joined([])
    assert len(cut(tone(300, 1.0).samples, 16_000, 0.25, 0.5)) == 4_000


def test_alignment_finds_the_parts_and_reorders_them() -> None:
    rng = np.random.default_rng(0)
    kinds = [rng.normal(size=6_400).astype(np.float32) for _ in range(3)]
    pieces = []
    for k, noise in enumerate(kinds):  # three sounds that differ in color
        spectrum = np.fft.rfft(noise)
        spectrum *= np.exp(-(((np.arange(len(spectrum)) - 400 * (k + 1)) / 150.0) ** 2))
        made = np.fft.irfft(spectrum)
        pieces.append(Audio((0.5 * made / np.abs(made).max()).astype(np.float32), 16_000))
    whole = joined(pieces, pause=0.0)
    found = alignment.spans(whole, pieces)
    for k, (start, end) in enumerate(found):
        assert abs(start - 0.4 * k) < 0.06 and abs(end - 0.4 * (k + 1)) < 0.06
    back = alignment.reordered(whole, pieces, [2, 0, 1])
    again = alignment.spans(back, [pieces[1], pieces[2], pieces[0]])
    assert all(abs(start - 0.4 * k) < 0.1 for k, (start, _) in enumerate(again))
    with pytest.raises(BadInput, match="one place"):
        alignment.reordered(whole, pieces, [0, 0, 1])
