"""The canaries: what their docstring promises."""

from __future__ import annotations

import hashlib

import pytest

from genward.errors import UnknownName
from genward.lab.canaries import CARRIERS, SPLITS, TWINS, canaries, everyday


def test_counts_and_splits() -> None:
    found = canaries()
    assert len(found) == len({c.phrase for c in found}) == 50
    assert {s: len(canaries(s)) for s in SPLITS} == SPLITS
    for c in found:
        assert len(c.phrase.split()) == 3 and len(set(c.twins)) == TWINS and len(set(c.carriers)) == CARRIERS


def test_splits_share_neither_words_nor_sentences() -> None:
    words = {s: {w for c in canaries(s) for w in c.phrase.split()} for s in SPLITS}
    frames = {
        s: {t.replace(c.phrase, "") for c in canaries(s) for t in c.carriers}
        | {" ".join(w for w in t.split() if w not in c.phrase.split()) for c in canaries(s) for t in c.twins}
        for s in SPLITS
    }
    for kind in (words, frames):
        a, b, c = kind.values()
        assert not (a & b or a & c or b & c)


def test_carriers_hold_the_phrase_and_twins_its_words_alone() -> None:
    for c in canaries():
        a, b, d = c.phrase.split()
        assert all(f" {c.phrase} " in f" {t} " for t in c.carriers)
        for twin in c.twins:
            words = twin.split()
            assert all(words.count(w) == 1 for w in (a, b, d)), twin
            pairs = set(zip(words, words[1:], strict=False))
            assert not pairs & {(x, y) for x in (a, b, d) for y in (a, b, d)}, twin
            assert not any(x == "a" and y[0] in "aeio" or x == "an" and y[0] not in "aeiou" for x, y in pairs), twin


def test_they_are_the_same_everywhere() -> None:
    text = "\n".join(t for c in canaries() for t in (c.split, c.phrase, *c.carriers, *c.twins))
    assert text.isascii() and hashlib.sha256(text.encode()).hexdigest()[:12] == "9e7afb8d4cbc"


def test_unknown_splits() -> None:
    for ask in (canaries, everyday):
        with pytest.raises(UnknownName, match="evaluate"):
            ask("evaluat")
    assert not set(everyday("calibrate")) & set(everyday("evaluate"))
