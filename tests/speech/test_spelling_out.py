"""Words spelled out: what counts as letters, and the best cut against all cuts."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genward.speech.spelling_out import PREFERRED, SHORTEST, cut_letters, letter_at, unspell

KNOWN = {"amber", "kettle", "cat", "catalog", "log", "the", "tar"}


@pytest.mark.parametrize(
    ("given_words", "read"),
    [
        ("a m b e r", "amber"),
        ("say a m b e r now", "say amber now"),
        ("a m b e r k e t t l e", "amber kettle"),
        ("ay em bee ee ar", "amber"),
        ("alpha mike bravo echo romeo", "amber"),
        ("k e double t l e", "kettle"),
        ("kay ee double tee el ee", "kettle"),
        ("a as in apple m for mango b like boy e r", "amber"),
        ("a a m b e r", "a amber"),
        ("x y z q", "xyzq"),
        ("double u e double you", "double u e double you"),
        ("i see you are at sea", "i see you are at sea"),
        ("a b", "a b"),
        ("", ""),
        ("why oh why", "why oh why"),
        ("琥 珀 水 壶", "琥 珀 水 壶"),
        ("m for the road", "m for the road"),
    ],
)
def test_words_are_read(given_words: str, read: str) -> None:
    words, places = unspell(given_words.split(), KNOWN)
    assert " ".join(words) == read
    assert len(places) == len(words) and list(places) == sorted(set(places))


def slow_worth(letters: str, known: set[str], prefer: set[str]) -> float:
    """Best worth of all ways to choose stretches that do not overlap."""
    stretches = [
        (a, b, (b - a) * (PREFERRED if letters[a:b] in prefer else 1) - 0.5)
        for a in range(len(letters))
        for b in range(a + SHORTEST, len(letters) + 1)
        if letters[a:b] in known | prefer
    ]
    best = 0.0
    for size in range(1, 4):
        for chosen in itertools.combinations(stretches, size):
            if all(x[1] <= y[0] for x, y in itertools.pairwise(chosen)):
                best = max(best, sum(w for _, _, w in chosen))
    return best


@given(st.text("aab", max_size=9), st.sets(st.text("ab", min_size=1, max_size=5), max_size=4), st.data())
def test_the_cut_is_the_best(letters: str, known: set[str], data: st.DataObject) -> None:
    prefer = data.draw(st.sets(st.sampled_from(sorted(known)), max_size=2)) if known else set()
    cuts = cut_letters(letters, known, prefer)
    assert all(a < b <= c for (a, b), (c, _) in itertools.pairwise(cuts))
    worth = sum((b - a) * (PREFERRED if letters[a:b] in prefer else 1) - 0.5 for a, b in cuts)
    assert all(letters[a:b] in known and b - a >= SHORTEST for a, b in cuts)
    assert worth == slow_worth(letters, known, prefer)


def test_preferred_words_win_over_longer_ones() -> None:
    assert cut_letters("catalog", KNOWN) == ((0, 7),) and cut_letters("catalog", KNOWN, {"cat"}) == ((0, 3), (4, 7))


@given(st.lists(st.sampled_from(["a", "m", "double", "tee", "as", "in", "cat", "alpha", "for", "kettle"]), max_size=12))
def test_no_word_is_lost(words: list[str]) -> None:
    read, places = unspell(words, KNOWN)
    kept = [w for w in words if not letter_at([w], 0)[1] and w != "double"]
    assert len(read) <= len(words) and (not words or places[0] == 0)
    assert [w for w in read if w in kept and w not in KNOWN] == [
        words[p] for p, w in zip(places, read, strict=True) if w in kept and w not in KNOWN
    ]
