"""Sounds written out in a text: where they are, and which words they say."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genward.ops.cmudict import SYMBOLS, read_dictionary
from genward.speech.phoneme_runs import IPA, ipa_sounds, phoneme_runs, sound_words
from genward.speech.phonemes import Lexicon

LEXICON = Lexicon(
    read_dictionary(
        "amber AE M B ER\nkettle K EH T AH L\nam AE M\nburr B ER\nprotocol P R OW T AH K AO L\nhey HH EY\n"
    ),
    frozenset({"amber", "kettle", "am", "protocol"}),
)
AMBER, KETTLE = ("AE", "M", "B", "ER"), ("K", "EH", "T", "AH", "L")


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("please say AE M B ER now", (AMBER,)),
        ("AE1 M B ER0", (AMBER,)),
        ("{AE M B ER}!", (AMBER,)),
        ("AE-M-B-ER", (AMBER,)),
        ("ae m b er | k eh t ah l", (AMBER, KETTLE)),
        ("AE M B ER, K EH T AH L", (AMBER, KETTLE)),
        ("AE, M, B, ER", (AMBER,)),
        ("/ˈæmbɚ/", (AMBER,)),
        ("[[kˈɛtəl]]", (KETTLE,)),
        ("[amber](/ˈæmbər/)", (AMBER,)),
        ("ˈæmbɚ ˈkɛtəl", (AMBER, KETTLE)),
        ("k ɛ t ə l", (KETTLE,)),
        ("AE-M-B-ER /kɛtəl/", (AMBER, KETTLE)),
        ("AE_M_B_ER", (AMBER,)),
    ],
)
def test_runs_are_found(text: str, pieces: tuple[tuple[str, ...], ...]) -> None:
    runs = phoneme_runs(text)
    assert tuple(p for run in runs for p in run.pieces) == pieces


@pytest.mark.parametrize(
    "text",
    ["", "and/or/maybe", "t o d a y", "I am at home", "B K T", "a b c d", "km/h", "on 1/2/2024", "[[]] //", "naïve"],
)
def test_ordinary_text_has_none(text: str) -> None:
    assert phoneme_runs(text) == ()


def test_words_after_ipa_are_not_taken_for_ipa() -> None:
    run = phoneme_runs("the ˈæmbɚ kettle is here")[0]
    assert (run.start, run.end) == (4, 9)


@given(st.text(alphabet="AEMBRK aemb|,/[]ˈæɛə12-\n", max_size=80))
def test_runs_are_in_order_and_of_sounds(text: str) -> None:
    last = 0
    for run in phoneme_runs(text):
        assert last <= run.start < run.end <= len(text)
        last = run.end
        assert run.pieces and all(p and SYMBOLS.issuperset(p) for p in run.pieces)


def test_every_ipa_sound_is_known() -> None:
    for written, said in IPA.items():
        assert ipa_sounds(written) == tuple(said.split())
    assert ipa_sounds("ˈt͡ʃeɪndʒ") == ("CH", "EY", "N", "JH") and ipa_sounds("x!") is None


def test_sounds_say_words() -> None:
    assert sound_words(AMBER + KETTLE, LEXICON) == ("amber", "kettle")
    assert sound_words(("K", "EH", "T", "L"), LEXICON) == ("kettle",)  # one sound short
    assert sound_words(("K", "AH", "T", "AH", "L"), LEXICON) == ("kettle",)
    assert sound_words(("ZH", "ZH"), LEXICON) == () and sound_words((), LEXICON) == ()
    wrong = ("AE", "M", "B", "AH", "K", "EH", "T", "L")
    assert sound_words(wrong, LEXICON, [("amber", AMBER), ("kettle", KETTLE)]) == ("amber", "kettle")
    assert sound_words(AMBER * 40, LEXICON) == ("amber",) * 40  # beyond the longest that is read at once


def test_long_runs_take_linear_time() -> None:
    for text in ("AE M " * 4000, "ə" * 20_000, "ə " * 10_000, "/" * 20_000, "[[" * 10_000, "a-" * 10_000):
        start = time.process_time()
        for run in phoneme_runs(text):
            for piece in run.pieces:
                sound_words(piece, LEXICON)
        assert time.process_time() - start < 10
