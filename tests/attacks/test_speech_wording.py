"""Sentences in pieces: what the conditions make of them, without a sound."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest

from genward.attacks.speech import CONDITIONS, Concat, Phoneme, Piece, Respell, Shuffle, pieces_of, request
from genward.attacks.speech.concat import groups_of
from genward.attacks.speech.respell import respellings
from genward.attacks.speech.shuffle import borders, settled, shuffled
from genward.attacks.speech.spell import letters_of
from genward.attacks.speech.wording import attempt, flagged
from genward.core import Audio, Case, Sample
from genward.core.pronouncing import phones_of
from genward.core.sound import joined, pauses
from genward.core.speech import Heard, HeardWord, find_phrases
from genward.errors import BadInput, UnknownName

TEXT = "Please start the amber kettle protocol, then rest."
PHRASES = ("amber kettle protocol",)


class Paper:
    """A target that only tags spans: what needs a voice or an answer cannot be had from it."""

    def spans(self, text: str) -> Sequence[tuple[int, int]]:
        return find_phrases(text, PHRASES)


def pieces() -> list[Piece]:
    return pieces_of(TEXT, find_phrases(TEXT, PHRASES))


def test_a_sentence_is_cut_into_its_words() -> None:
    found = pieces()
    assert " ".join(p.word for p in found) == TEXT
    assert [p.bare for p in found if p.span == 0] == ["amber", "kettle", "protocol"] and found[5].word == "protocol,"
    assert [p.word for p in pieces_of("one - two", [])] == ["one -", "two"] and pieces_of(" … ", []) == []
    with pytest.raises(BadInput, match="no words"):
        flagged(Case("a", "!"), Paper())  # type: ignore[arg-type]


def test_requests_write_pieces_or_play_them() -> None:
    case, found = Case("a", TEXT, seed=4), pieces()[:5]
    found[3], found[4] = found[3]._replace(sound="x"), found[4]._replace(sound="y")
    made = request(case, found, "t/0", session="s")
    assert (made.prompt, made.id, made.parent, made.seed) == ("Please start the <sound> <sound2>", "a/t/0", "a", 4)
    assert dict(made.inputs) == {"<sound>": "x", "<sound2>": "y", "session": "s"}


def test_no_group_holds_two_neighbors_of_a_span() -> None:
    groups = [" ".join(p.word for p in group) for group in groups_of(pieces())]
    assert groups == ["Please start the amber", "kettle", "protocol, then rest."]
    single = pieces_of("say hello twice", [(4, 9)])
    assert [[p.word for p in g] for g in groups_of(single)] == [["say"], ["hello"], ["twice"]]
    assert len(groups_of(pieces_of("no flags here", []))) == 1


def test_shuffled_orders_separate_the_span() -> None:
    found = pieces()
    for seed in range(20):
        order = shuffled(found, seed)
        assert sorted(order) == list(range(len(found))) and order != sorted(order)
        assert not any(b == a + 1 and 3 <= a < 5 for a, b in zip(order, order[1:], strict=False))
    assert shuffled(found, 1) == shuffled(found, 1) != shuffled(found, 2)
    assert shuffled(found[:1], 0) == [0] and shuffled([], 0) == []


def test_borders_lie_between_the_heard_words() -> None:
    said = [HeardWord("the", 0.0, 0.4), HeardWord("7", 0.5, 0.9), HeardWord("kettles", 1.1, 1.5)]
    assert borders(["the", "seven", "kettle"], Heard("", tuple(said)), 2.0) == pytest.approx([0, 0.45, 1.0, 2.0])
    missed = borders(["the", "big", "old", "kettle"], Heard("", (said[0], said[2])), 2.0)
    assert missed == pytest.approx([0, 0.4, 0.75, 1.1, 2.0]), "words that were missed share the time between"
    assert borders(["a", "b"], Heard(), 3.0) == pytest.approx([0, 1.5, 3.0])


def test_cuts_move_into_pauses_in_order() -> None:
    tone = Audio(0.5 * np.sin(np.arange(2400)), 24_000)
    whole = joined([tone] * 4, 0.2)
    assert pauses(whole) == [pytest.approx((0.1 + 0.3 * k, 0.3 + 0.3 * k), abs=0.02) for k in range(3)]
    assert settled([0.05, 0.75], whole) == pytest.approx([0.2, 0.8], abs=0.02)
    assert settled([0.2, 0.21, 0.22], whole) == pytest.approx([0.2, 0.5, 0.8], abs=0.02), "each its own"
    luck = random.Random(1)
    for _ in range(100):
        times = sorted(luck.uniform(0, 1) for _ in range(luck.randint(1, 3)))
        middles = [(a + b) / 2 for a, b in pauses(whole)]
        best = min(sum(abs(t - m) for t, m in zip(times, c, strict=True)) for c in combinations(middles, len(times)))
        found = settled(times, whole)
        assert sum(abs(t - m) for t, m in zip(times, found, strict=True)) == pytest.approx(best) and found == sorted(
            found
        )
    run_on = settled([0.1, 0.3, 0.5, 0.7], whole)
    assert len(run_on) == 4, "fewer pauses than cuts: each to the quietest place nearby"


def test_borders_never_fall() -> None:
    luck = random.Random(0)
    for _ in range(200):
        times = sorted(luck.uniform(0, 3) for _ in range(8))
        heard = [HeardWord(luck.choice("abcd"), times[2 * k], times[2 * k + 1]) for k in range(4)]
        words = [luck.choice("abcde") for _ in range(luck.randint(1, 6))]
        found = borders(words, Heard("", tuple(heard)), 3.0)
        assert len(found) == len(words) + 1 and found == sorted(found) and (found[0], found[-1]) == (0.0, 3.0)


def test_words_are_spelled_and_respelled() -> None:
    assert letters_of("ket-tle") == list("KETTLE") and respellings("night")[0] == "knight"
    assert "proto call" in respellings("protocol") and respellings("recipe") == []
    for text in respellings("amber"):
        first, second = (phones_of(word) or () for word in text.split())
        assert (*first, *second)[:3] == ("AE", "M", "B")
    for wrong in (lambda: letters_of("12"), lambda: respellings("xqzt")):
        with pytest.raises(BadInput):
            wrong()


def test_what_came_of_requests_is_counted() -> None:
    def answer(status: str, *refused: float, sound: Audio | None = None) -> Sample:
        return Sample(Case("r", ""), status=status, output=sound, why=status, notes={"refused": list(refused)},
                      costs={"requests": 1.0})  # fmt: skip

    tone = Audio([0.5, 0.5], 8000)  # type: ignore[arg-type]
    case = Case("a", TEXT)
    won = attempt(case, "x", [answer("refused", 1.0), answer("ok", 0.0, sound=tone)], tone)
    assert won.sample.status == "ok" and won.sample.why == "" and won.refusals == [True, False] and not won.refused
    assert (
        won.sample.case[:2] == ("a/x", TEXT) and won.sample.case.queries == 2 and won.sample.costs == {"requests": 2.0}
    )
    lost = attempt(case, "x", [answer("ok", 0.0, sound=tone), answer("error")], None)
    assert (lost.sample.status, lost.sample.why, lost.refused) == ("error", "error", False)
    guarded = attempt(case, "x", [answer("refused", 0.0, 0.0)], None)
    assert guarded.refused and guarded.refusals == [True, True], "a guard's refusal counts for every trial"
    assert attempt(case, "x", [answer("refused")], None).refusals == [True]


def test_settings_are_checked() -> None:
    for make in (lambda: Concat(-1), lambda: Shuffle(0), lambda: Respell(-1)):
        with pytest.raises(BadInput, match="possible"):
            make()
    with pytest.raises(UnknownName, match="form of phonemes"):
        Phoneme("runes")
    assert all(hash(condition) is not None for condition in CONDITIONS.values())
    tags = [condition.tag for condition in CONDITIONS.values()]
    assert len(set(tags)) == len(tags) and CONDITIONS["shuffle-spell"].tag == "shuffle-spell"
