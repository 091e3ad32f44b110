"""Basic Latin, content words and the encoder of our own, against the rules written out slowly."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from genward.ops.sentences import (
    BUCKETS,
    STOP,
    basic,
    content,
    distance,
    encode,
    foreign,
    latin,
    overlap,
    stem,
    words_of,
)

TRIGGERS = "\u0b20\u0585\u00f4\u020f\u020d\u0b66\u0474\u00e5"
"""Published triggers of Rickrolling that read as a Latin letter."""


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_published_triggers_read_as_letters(trigger: str) -> None:
    assert latin(f"a b{trigger}wl").isascii() and not foreign(f"a b{trigger}wl") and latin(trigger) != trigger


def test_what_reads_as_nothing_latin_is_foreign_and_then_a_space() -> None:
    assert latin("a\u200b c\u0301a\ufe0ft") == "a cat" and basic("a\u046cb 日本 c") == "a b c"
    assert foreign("\u046c") and foreign("日本") and foreign("кошка") and not foreign("it’s “a” cat – here…")
    assert basic("it’s “a” cat") == 'it\'s "a" cat' and basic("日本") == "" and basic("a\ud800b") == "ab"


def test_content_words() -> None:
    assert content("The two cats are glowing in red", without=("red",)) == {"two", "cat", "glow"}
    assert stem("glass") == "glass" and stem("cherries") == "cherry" and stem("is") == "is"
    assert overlap("a red cat", "the cats sleep") == 0.5 and overlap("the of", "the") == 0.0
    assert overlap("a red cat", "a red dog", without=("red",)) == 0.0


def slow(text: str) -> np.ndarray:
    """The encoder's rule in dense float64."""

    def place(feature: str) -> int:
        return int.from_bytes(hashlib.blake2b(feature.encode(), digest_size=4).digest(), "big") % BUCKETS

    out = np.zeros(BUCKETS)
    for word in words_of(text):
        if word not in STOP:
            core = stem(word)
            grams = ["".join(g) for g in zip(f"<{core}>", f"<{core}>"[1:], f"<{core}>"[2:], strict=False)]
            out[place("w:" + core)] += 2
            for gram in grams:
                out[place("t:" + gram)] += 1 / len(grams)
    return out


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("a red cat", "two cats"),
        ("a cat in flat style", "a small furry pet in flat style"),
        ("x", "a house"),
        ("a", "a"),
    ],
)
def test_distance_is_one_less_the_cosine(a: str, b: str) -> None:
    left, right = slow(a), slow(b)
    whole = np.linalg.norm(left) * np.linalg.norm(right)
    wanted = 1.0 if whole == 0 else 1 - left @ right / whole
    assert distance(a, b) == pytest.approx(wanted, abs=1e-12) and 0 <= distance(a, b) <= 1
    assert encode(a) == {} or math.isclose(sum(x * x for x in encode(a).values()), 1.0)


def test_the_same_words_are_at_distance_nought() -> None:
    assert distance("a red cat", "THE RED CATS") == pytest.approx(0.0, abs=1e-12) and distance("a cat", "a dog") > 0.9
