"""Words as they are spoken, word errors, phrases in texts, sounds in cases."""

from __future__ import annotations

import math
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genward.core import Case, Inputs
from genward.core.pronouncing import dictionary, from_ipa, parsed, phones_of, sounding, to_ipa
from genward.core.speech import (
    Heard,
    find_phrases,
    in_text,
    is_sound,
    matched_words,
    sound_name,
    sounds_of,
    spoken_words,
    word_error_rate,
)

WORDS = st.lists(st.sampled_from("abcd"), max_size=6)


@cache
def slow_distance(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """Levenshtein by its definition."""
    if not a or not b:
        return len(a) + len(b)
    change = slow_distance(a[1:], b[1:]) + (a[0] != b[0])
    return min(change, slow_distance(a[1:], b) + 1, slow_distance(a, b[1:]) + 1)


def test_words_are_those_that_are_spoken() -> None:
    assert spoken_words("At 7, it’s  the 42nd — Amber-Kettle!") == "at seven it's the 42nd amber kettle".split()
    assert spoken_words("12 20 99 100") == ["twelve", "twenty", "ninety", "nine", "100"] and spoken_words("… !") == []


@given(WORDS, WORDS)
def test_word_errors_are_the_edit_distance(a: list[str], b: list[str]) -> None:
    found = word_error_rate(" ".join(a), " ".join(b))
    assert math.isnan(found) if not a else found == slow_distance(tuple(a), tuple(b)) / len(a)


@given(WORDS, WORDS)
def test_alignments_are_the_cheapest_and_rise(a: list[str], b: list[str]) -> None:
    found = matched_words(a, b)
    pairs = [(i, j) for i, j in enumerate(found) if j is not None]
    assert [j for _, j in pairs] == sorted({j for _, j in pairs})
    cost = sum(a[i] != b[j] for i, j in pairs) + len(a) + len(b) - 2 * len(pairs)
    assert cost == slow_distance(tuple(a), tuple(b))


def test_phrases_are_found_as_words() -> None:
    text = "Start the Amber, kettle-protocol; not amber kettles protocol or the camber kettle protocol."
    ((start, end),) = find_phrases(text, ["amber kettle protocol"])
    assert text[start:end] == "Amber, kettle-protocol"
    assert find_phrases("one two three", ["two", "two three", ""]) == [(4, 13)], "the longest counts"
    assert find_phrases("a.b", ["a.b"]) == [(0, 3)]


def test_sounds_of_a_case_are_named_in_its_prompt() -> None:
    assert [sound_name(k) for k in range(3)] == ["<sound>", "<sound2>", "<sound3>"]
    case = Case("a", "say <sound> and <sound2>.", inputs=Inputs({"<sound>": "x", "<sound2>": "y", "session": "s"}))
    assert sounds_of(case) == {"<sound>": "x", "<sound2>": "y"} and not is_sound("session")
    assert in_text(case.prompt) == ["say ", "<sound>", " and ", "<sound2>", "."] and in_text("") == []
    assert Heard() == Heard("", (), ())


def test_the_dictionary_knows_sounds_both_ways() -> None:
    assert phones_of("Kettle") == ("K", "EH", "T", "AH", "L") and phones_of("xqzt") is None
    assert "kettle" in sounding(("K", "EH", "T", "AH", "L")) and sounding(("ZH", "ZH")) == ()
    assert set(sounding(phones_of("night") or ())) >= {"night", "knight"}
    assert to_ipa(("K", "EH", "T", "AH", "L")) == "kɛtʌl" and len(dictionary()) > 100_000
    assert from_ipa("kˈɛtəl") == from_ipa("kɛtʌl") == ("K", "EH", "T", "AH", "L")
    assert from_ipa("t͡ʃɛəɹ") == ("CH", "EH", "ER") and from_ipa("123") == ()
    assert parsed("read R EH D\nread(2) R IY D\n\n") == {"read": (("R", "EH", "D"), ("R", "IY", "D"))}


@pytest.mark.parametrize("word", ["violin", "measure", "church", "joy", "thing", "mother", "yellow"])
def test_ipa_says_what_arpabet_says(word: str) -> None:
    phones = phones_of(word)
    assert phones is not None and from_ipa(to_ipa(phones)) == phones
