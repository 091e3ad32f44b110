"""Readings of a text: what each undoes, what stays, and bounds."""

from __future__ import annotations

import time
from importlib.util import find_spec

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genward.errors import BadInput
from genward.ops.canaries import canaries, everyday
from genward.ops.cmudict import read_dictionary
from genward.speech.phonemes import Lexicon
from genward.speech.readings import MAX_TEXT, dephonemize, readings, tokens, with_substitutes, without_markup

LEXICON = Lexicon(
    read_dictionary("amber AE M B ER\nkettle K EH T AH L\nprotocol P R OW T AH K AO L\nthe DH AH\n"),
    frozenset({"amber", "kettle", "protocol", "the"}),
)
OWN = ("amber", "kettle", "protocol")
PLAIN = {
    "The Amber-Kettle, PROTOCOL!": "the amber kettle protocol",
    "4mb3r k3ttl3 pr0t0c0l": "amber kettle protocol",
    "аmbеr kettle": "amber kettle",
    "ａｍｂｅｒ kettle": "amber kettle",
    "amberrrr keeeettle": "amber kettle",
    "a\u200bm\u200bb\u200be\u200br kettle": "amber kettle",
    "am\u00adber kettle": "amber kettle",
    "àmbër kettle": "amber kettle",
    "A.M.B.E.R. kettle": "amber kettle",
    "a m b e r k e t t l e": "amber kettle",
    "<speak>am<break time='1s'/>ber <emphasis level=\"strong\">kettle</emphasis></speak>": "amber kettle",
    "<p>amber</p><p>kettle</p>": "amber kettle",
    "<amazon:effect name='x'>amber</amazon:effect>": "amazon effect name x amber amazon effect",
    "&#97;mber &amp; kettle": "amber kettle",
    "<!-- x -->amber<![CDATA[ kettle]]>": "amber kettle",
    "<amber kettle>": "amber kettle",
    "don't": "don't",
    "琥珀 kettle": "琥 珀 kettle",
    "": "",
}


@pytest.mark.parametrize(("text", "words"), PLAIN.items())
def test_plain(text: str, words: str) -> None:
    assert readings(text, OWN, LEXICON).plain.text == words


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("ay em bee ee ar kettle protocol", "unspelled"),
        ("A M B E R kettle protocol", "unspelled"),
        ("amber kay ee double tee el ee protocol", "unspelled"),
        ("AE M B ER kettle protocol", "dephonemized"),
        ("/ˈæmbɚ/ kettle P R OW T AH K AO L", "dephonemized"),
        ("<sub alias='amber kettle'>x</sub> protocol", "dephonemized"),
        ("<phoneme alphabet='ipa' ph='ˈæmbɚ'>x</phoneme> kettle protocol", "dephonemized"),
        ("ay em bee ee ar K EH T L protocol", "dephonemized"),
    ],
)
def test_what_only_one_reading_shows(text: str, name: str) -> None:
    found = readings(text, OWN, LEXICON)
    assert getattr(found, name).text == "amber kettle protocol" != found.plain.text or name == "unspelled"
    assert found.key == readings("amber kettle protocol", OWN, LEXICON).key or name == "unspelled"


def test_sentence_ends_move_with_the_words() -> None:
    read = readings("Ay em bee ee ar is hot. The kettle! Done", OWN, LEXICON)
    assert read.plain.breaks == {7, 9} and read.unspelled.breaks == {3, 5} and read.unspelled.words[3] == "the"
    assert readings("the kettle\nthe amber", OWN, LEXICON).plain.breaks == {2}
    assert tokens("a. ... b").breaks == {1} and tokens("end.").breaks == frozenset()


def test_distinct_leaves_out_equal_readings() -> None:
    assert [n for n, _ in readings("the kettle", OWN, LEXICON).distinct()] == ["plain"]
    assert [n for n, _ in readings("kay ee double tee el ee", OWN, LEXICON).distinct()] == ["plain", "unspelled"]


def test_markup_that_ssml_does_not_have_stays() -> None:
    assert without_markup("1 < 2 and <b0mb> <x y='z'>") == "1 < 2 and <b0mb> <x y='z'>"
    assert with_substitutes("<sub alias='ab'>") == " ab "
    assert dephonemize("nothing here", LEXICON) == "nothing here"


def test_arguments_are_checked() -> None:
    for bad in (None, 3, b"x"):
        with pytest.raises(BadInput, match="give a string"):
            readings(bad, OWN, LEXICON)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="split it"):
        readings("a" * (MAX_TEXT + 1), OWN, LEXICON)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=80) | st.text(alphabet="amber AEMB<>/[]&;'\"=.ə\u200b琥", max_size=80))
def test_any_text_can_be_read(text: str) -> None:
    read = readings(text, OWN, LEXICON)
    for _, reading in read.distinct():
        assert all(w and w == w.casefold() and not w.isspace() for w in reading.words)
        assert all(0 < k < len(reading.words) for k in reading.breaks)
    assert set(read.key) <= set("abcdfghjklmnprstvwxy0")


def test_long_texts_take_bounded_time() -> None:
    for text in ("a ", "<", "a.b-c ", "AE M ", "/", "[[", "ə", "<a ", "m", "1l", "<sub alias=", "&#", "<!--", "'a"):
        start = time.process_time()
        readings((text * MAX_TEXT)[:MAX_TEXT], OWN, LEXICON)
        assert time.process_time() - start < 15, text


@pytest.mark.skipif(find_spec("pocketsphinx") is None, reason="needs genward[speech]")
def test_ordinary_sentences_have_one_reading() -> None:
    texts = [t for c in canaries() for t in (*c.carriers, *c.twins)] + [*everyday("calibrate"), *everyday("evaluate")]
    for text in texts:
        read = readings(text, OWN)
        assert read.plain.text == text
        if not text.startswith("a b c"):
            assert [n for n, _ in read.distinct()] == ["plain"], text
