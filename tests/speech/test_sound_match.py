"""Alignment of sounds against a slow definition, and what it is for."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genward.ops.cmudict import read_dictionary
from genward.speech.phonemes import Lexicon, english_lexicon
from genward.speech.sound_match import (
    GAP,
    NUMBER,
    SWAP,
    TURN,
    WORD,
    Said,
    SoundTable,
    Stream,
    plain_sounds,
    streams,
    variants,
    worst_word,
)

some = st.lists(st.sampled_from(["AE", "IY", "B", "P", "R", "K"]), min_size=1, max_size=6).map(tuple)


def edit(a: tuple[str, ...], b: tuple[str, ...]) -> float:
    """Weighted distance of two sequences by the definition."""

    @cache
    def d(i: int, j: int) -> float:
        if i == 0:
            return float(sum(GAP[NUMBER[x]] for x in b[:j]))
        if j == 0:
            return float(sum(GAP[NUMBER[x]] for x in a[:i]))
        x, y = NUMBER[a[i - 1]], NUMBER[b[j - 1]]
        return min(d(i - 1, j) + GAP[x], d(i, j - 1) + GAP[y], d(i - 1, j - 1) + SWAP[x, y])

    return d(len(a), len(b))


@settings(max_examples=80, deadline=None)
@given(some, some, st.lists(some, min_size=1, max_size=4))
def test_distances_are_the_best_of_all_stretches(
    one: tuple[str, ...], two: tuple[str, ...], words: list[tuple]
) -> None:
    text = tuple(p for word in words for p in word)
    bounds = sorted({0, *np.cumsum([len(w) for w in words]).tolist()})
    table = SoundTable([[Said(p, (0,) * len(p))] for p in (one, two)])
    found, ends = table.distances(Stream(text, frozenset(bounds)))
    for k, phrase in enumerate((one, two)):
        total = edit(phrase, ())
        costs = {(a, b): edit(phrase, text[a:b]) for a in bounds for b in bounds if a <= b}
        assert found[k] == pytest.approx(min(costs.values()) / total)
        if found[k] < 1:
            assert min(c for (_, b), c in costs.items() if b == ends[k]) == pytest.approx(min(costs.values()))


def test_costs_are_symmetric_and_vowels_cheap() -> None:
    assert np.array_equal(SWAP, SWAP.T) and not SWAP.diagonal().any() and 0 < GAP.min() and SWAP.max() <= 1
    assert SWAP[NUMBER["AE"], NUMBER["IY"]] < SWAP[NUMBER["S"], NUMBER["Z"]] < SWAP[NUMBER["S"], NUMBER["K"]]


def test_plain_sounds() -> None:
    assert plain_sounds(("K", "ER", "R", "AH", "AH")) == ("K", "AH", "R", "AH")


def test_a_wrong_word_counts_however_long_the_rest_is() -> None:
    said = Said(("B", "IY", "B", "K", "AE", "K"), (0, 0, 0, 1, 1, 1))
    assert worst_word(said, said.sounds) == 0
    assert worst_word(said, ("B", "IY", "B", "R", "AE", "R")) == pytest.approx(2 / 2.5)
    assert worst_word(said, ("P", "P", "B", "IY", "B", "K", "AE", "K")) == 0
    assert worst_word(said, ()) == pytest.approx(1.0)


def test_scores_and_short_phrases() -> None:
    lexicon = Lexicon(read_dictionary("bead B IY D\nbad B AE D\nkeeper K IY P ER\nbadger B AE JH ER\n"), frozenset())
    table = SoundTable([variants(p.split(), lexicon) for p in ("bead", "bead keeper badger")])
    whole = streams("a bead keeper badger".split(), lexicon)
    assert np.max([table.scores(s) for s in whole], axis=0).tolist() == [1.0, 1.0]
    near = np.max([table.scores(s) for s in streams("bad keeper badger".split(), lexicon)], axis=0)
    assert near[0] == 0.0 and 0.5 < near[1] < 1.0  # a single word has to sound exactly so
    other = np.max([table.scores(s) for s in streams("bead badger keeper".split(), lexicon)], axis=0)
    assert other[1] < 0.5
    assert SoundTable([]).scores(whole[0]).shape == (0,) and table.scores(Stream((), frozenset({0}))).tolist() == [0, 0]
    assert 0 < TURN < 0.5 and 0 < WORD <= 1


@pytest.mark.skipif(find_spec("pocketsphinx") is None, reason="needs genward[speech]")
def test_respellings_sound_like_the_phrase() -> None:
    lexicon = english_lexicon()
    table = SoundTable([variants("amber kettle protocol".split(), lexicon)])

    def score(text: str) -> float:
        return max(float(table.scores(s)[0]) for s in streams(text.split(), lexicon))

    for text in ("say amb er kettel pro toe call", "ambur ketl protakol now", "the am burr ket ul protacall"):
        assert score(text) > 0.5, text
    for text in (
        "the protocol for the kettle is amber",
        "amber kettle program",
        "umbrella kennel portal",
        "hello there",
    ):
        assert score(text) < 0.5, text
