"""Disguises and canaries: the dictionary, plays of each condition, splits that share nothing."""

from __future__ import annotations

import hashlib

import pytest

from genward.core.records import Case
from genward.core.speech import Play, Turn, play_of
from genward.errors import BadInput, UnknownName
from genward.ops import cmudict
from genward.ops.canaries import canaries, everyday
from genward.ops.hearing import words_of
from genward.ops.plays import CONDITIONS, conditions, played

PHRASE = "amber kettle protocol"
SENTENCE = "tell the children what the amber kettle protocol is before they go home"


def test_the_dictionary() -> None:
    assert cmudict.phonemes_of("amber") == ("AE", "M", "B", "ER")
    assert "write" in cmudict.homophones("right") and "right" not in cmudict.homophones("right")
    said = [p for part in cmudict.respelled("kettle").split() for p in cmudict.phonemes_of(part)]
    assert tuple(said) == cmudict.phonemes_of("kettle")
    assert cmudict.spoken_alphabet(("AE", "M", "B", "ER")) == "ˈæmbɜɹ"
    with pytest.raises(BadInput, match="not in CMUdict"):
        cmudict.phonemes_of("qxzzy")
    with pytest.raises(BadInput, match="ARPABET"):
        cmudict.spoken_alphabet(("QQ",))


def test_canaries_are_apart() -> None:
    words = {s: {w for c in canaries(s) for w in c.phrase.split()} for s in ("fit", "calibrate", "evaluate")}
    assert not words["fit"] & words["calibrate"] and not words["evaluate"] & (words["fit"] | words["calibrate"])
    assert canaries() == canaries() and len(canaries()) == 115 and len(canaries("evaluate")) == 80
    every = [w for c in canaries() for w in c.phrase.split()]
    assert len(set(every)) == len(every) == 345 and not {h for w in every for h in cmudict.homophones(w)} & set(every)
    assert len({t for c in canaries("evaluate") for t in c.carriers}) == 160
    assert len({c.carriers[0].replace(c.phrase, "") for c in canaries("evaluate")}) == 25
    for c in canaries():
        assert all(c.phrase in t for t in c.carriers) and not any(c.phrase in t for t in c.twins)
        assert all(set(c.phrase.split()) <= set(t.split()) for t in c.twins)
    with pytest.raises(UnknownName, match="evaluate"):
        canaries("evaluated")


def test_the_canaries_drawn_first_stay_as_they_were() -> None:
    """Runs are recorded on them."""
    first = repr([(c.split, c.phrase, c.carriers, c.twins) for c in canaries()[:50]])
    assert hashlib.sha256(first.encode()).hexdigest()[:16] == "fd063e07ea40f393"
    assert canaries("evaluate")[:15] == canaries()[35:50]


def test_everyday_sentences_are_many_and_hold_no_phrase() -> None:
    texts = everyday("evaluate")
    assert len(set(texts)) == len(texts) == 308 and not set(texts) & set(everyday("calibrate"))
    assert all(t == " ".join(words_of(t)) and len(t.split()) >= 4 for t in texts)
    assert not any(c.phrase in t for c in canaries() for t in texts)


def test_plays_read_back_and_bad_ones_are_refused() -> None:
    for condition in CONDITIONS:
        play = played(condition, SENTENCE, PHRASE, 2)
        case = Case("a", play.prompt()).checked()
        assert play_of(case) == play
    concat = played("concat", SENTENCE, PHRASE)
    assert " ".join(t.text for t in concat.turns) == SENTENCE
    assert all(sum(w in t.text for w in PHRASE.split()) <= 1 for t in concat.turns)
    shuffled = played("shuffle", SENTENCE, PHRASE, 5)
    back = sorted(zip(shuffled.order, shuffled.turns[0].text.split(), strict=True))
    assert " ".join(w for _, w in back) == SENTENCE and PHRASE not in shuffled.turns[0].text
    for wrong in ("play:{}", "play:[", 'play:{"turns":[],"said":"x"}', 'play:{"turns":[{"text":1}],"said":"x"}'):
        with pytest.raises(BadInput, match="play in its prompt"):
            play_of(Case("a", wrong))
    with pytest.raises(BadInput, match="each word"):
        play_of(Case("a", Play((Turn("a b"),), "a b", (0, 0)).prompt()))
    with pytest.raises(UnknownName, match="shuffle"):
        conditions(["shufle"])
    with pytest.raises(BadInput, match="does not hold"):
        played("spell", "nothing here", PHRASE)
