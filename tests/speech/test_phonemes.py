"""Sounds and words: distances against a slow definition, the dictionary's format, homophones, keys."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genward.errors import BadArtifact, BadInput
from genward.ops import cmudict, trigrams
from genward.ops.cmudict import SYMBOLS, read_dictionary
from genward.ops.hearing import edits
from genward.speech.letter_sounds import DIGITS, letter_sounds
from genward.speech.phonemes import (
    Lexicon,
    english_lexicon,
    key_of,
    neighbors,
    phonetic_key,
    within_one,
)

speech = pytest.mark.skipif(importlib.util.find_spec("pocketsphinx") is None, reason="needs genward[speech]")
SMALL = """;;; a comment
amber AE1 M B ER0
kettle K EH1 T AH0 L
night N AY1 T # a comment
knight N AY1 T
nite N AY T
a AH
a(2) EY
read R IY D
read(2) R EH D
red R EH D
a.m. EY EH M
's EH S
"""
LEXICON = Lexicon(read_dictionary(SMALL), frozenset({"night", "knight", "red", "read", "amber", "kettle"}))
sounds = st.lists(st.sampled_from(sorted(SYMBOLS)), max_size=6).map(tuple)


def slow_distance(a: Sequence[str], b: Sequence[str]) -> int:
    """By the definition, without a table."""

    @cache
    def d(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        return min(d(i - 1, j) + 1, d(i, j - 1) + 1, d(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return d(len(a), len(b))


few = st.lists(st.sampled_from(["AE", "B", "K"]), max_size=6).map(tuple)


@given(few, few)
def test_distance_is_the_definition(a: tuple[str, ...], b: tuple[str, ...]) -> None:
    assert edits(a, b) == slow_distance(a, b) == edits(b, a)
    assert within_one(a, b) is (slow_distance(a, b) <= 1)


@given(sounds)
def test_neighbors_are_those_at_distance_one(phones: tuple[str, ...]) -> None:
    found = list(neighbors(phones))
    assert len(found) == len(phones) * 39 + 39 * (len(phones) + 1)
    assert all(within_one(phones, other) for other in found) and phones not in found
    for k, symbol in enumerate(phones):
        other = "AE" if symbol != "AE" else "B"
        assert {(*phones[:k], *phones[k + 1 :]), (*phones[:k], other, *phones[k + 1 :])} <= set(found)


def test_dictionary_is_read_without_stress_and_with_all_pronunciations() -> None:
    said = LEXICON.said
    assert said["amber"] == ("AE M B ER",) and said["a"] == ("AH", "EY") and said["night"] == ("N AY T",)
    for bad in ("kettle", "kettle K QQ", "kettle K EH1T"):
        with pytest.raises(BadArtifact, match="file, line 2"):
            read_dictionary(f"a AH\n{bad}\n", "file")


def test_words_both_ways() -> None:
    assert LEXICON.words(("N", "AY", "T")) == ("night", "knight", "nite")
    assert LEXICON.homophones("knight") == {"night", "nite"} and LEXICON.homophones("amber") == set()
    assert set(LEXICON.homophone_sets()) == {frozenset({"night", "knight", "nite"}), frozenset({"red", "read"})}
    assert LEXICON.words(("EY", "EH", "M")) == () and LEXICON.words(()) == ()
    assert LEXICON.near(("R", "EH", "D"))[:2] == ("red", "read") and "kettle" in LEXICON.near(("K", "EH", "T", "L"))
    assert LEXICON.pronunciations("Amber's") == (("AE", "M", "B", "ER", "Z"),)
    assert LEXICON.pronunciations("ambler") == (letter_sounds("ambler"),)
    assert LEXICON.pronunciations("…") == ((),)


@pytest.mark.parametrize(
    ("spelling", "said"),
    [
        ("", ""),
        ("kettel", "K EH T AH L"),
        ("fone", "F OW N"),
        ("nashun", "N AE SH AH N"),
        ("kwik", "K W IH K"),
        ("phish", "F IH SH"),
        ("knife", "N AY F"),
        ("gr8", "G R EY T"),
        ("tl", "T AH L"),
        ("É!", ""),
        ("Lite", "L AY T"),
    ],
)
def test_spellings_are_read_by_rule(spelling: str, said: str) -> None:
    assert letter_sounds(spelling) == tuple(said.split())


@given(st.text(max_size=60))
def test_any_text_has_sounds_and_a_key(text: str) -> None:
    phones = letter_sounds(text)
    assert SYMBOLS.issuperset(phones) and all(a != b for a, b in zip(phones, phones[1:], strict=False))
    key = key_of(phones)
    assert all(a != b for a, b in zip(key, key[1:], strict=False)) and (
        key == phonetic_key(text, LEXICON) or text.split() != [text]
    )
    assert all(SYMBOLS.issuperset(name.split()) for name in DIGITS.values())


def test_a_small_dictionary_can_be_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "words.dict"
    path.write_text(SMALL)
    assert english_lexicon(path).said == LEXICON.said
    with pytest.raises(BadInput, match="no pronouncing dictionary"):
        english_lexicon(tmp_path / "none.dict")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trigrams.importlib.util, "find_spec", lambda name: None)
    english_lexicon.cache_clear()
    cmudict.dictionary.cache_clear()
    with pytest.raises(BadInput, match=r"pip install 'genward\[speech\]'"):
        phonetic_key("amber")


@speech
def test_the_wheels_dictionary() -> None:
    lexicon = english_lexicon()
    assert len(lexicon.said) > 125_000 and len(lexicon.homophone_sets()) > 12_000
    assert {"meat", "mete"} <= lexicon.homophones("meet") and {"write", "rite"} <= lexicon.homophones("right")
    for written in ("amb er kettel", "ammber ketle", "Amber kettul", "am burr ket ul"):
        assert phonetic_key(written) == phonetic_key("amber kettle")
    assert phonetic_key("amber bottle") != phonetic_key("amber kettle")


@speech
def test_rules_agree_with_the_dictionary_as_far_as_the_docstring_says() -> None:
    lexicon = english_lexicon()
    words = [w for w in sorted(lexicon.common) if w in lexicon.said and len(w) >= 4][::7]
    wrong = total = same = 0
    for word in words:
        best = min(lexicon.pronunciations(word), key=lambda p: edits(letter_sounds(word), p))
        wrong, total = wrong + edits(letter_sounds(word), best), total + len(best)
        same += key_of(letter_sounds(word)) == key_of(best)
    print(f"\nletters to sounds: {wrong / total:.3f} of the sounds wrong, {same / len(words):.3f} of the keys right")
    assert wrong / total < 0.22 and same / len(words) > 0.8
