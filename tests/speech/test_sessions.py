"""Memory across requests: bounds, expiry, threads, no leak between sessions."""

from __future__ import annotations

import itertools
import threading
import tracemalloc
from importlib.util import find_spec

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genward.errors import BadInput
from genward.speech.matching import Matcher
from genward.speech.policies import SpeechPolicy
from genward.speech.sessions import SEAM, SessionBuffer, SessionModerator, pieced

speech = pytest.mark.skipif(find_spec("pocketsphinx") is None, reason="needs genward[speech]")
PHRASE = "amber kettle protocol"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def said(buffer: SessionBuffer, session: str, fragment: str) -> list[str]:
    """The whole after a fragment, as fragments."""
    history = buffer.add(session, fragment)
    return (history.suffixes[-1] if history.suffixes else history.fragment).split(SEAM)


def test_suffixes_are_all_suffixes() -> None:
    buffer = SessionBuffer()
    assert buffer.add("s", "a").suffixes == () and buffer.add("s", "b").suffixes == (f"a{SEAM}b",)
    history = buffer.add("s", "c")
    assert (
        history.suffixes == (f"b{SEAM}c", f"a{SEAM}b{SEAM}c")
        and history.seam("", 2) == "abc"
        and history.fragments == ("a", "b", "c")
        and history.fragment == "c"
    )


def test_bounds_of_a_session() -> None:
    clock = Clock()
    buffer = SessionBuffer(fragments=3, seconds=10, characters=8, clock=clock)
    for k, expected in enumerate(["0", "0 1", "0 1 2", "1 2 3"]):
        clock.now = k
        assert said(buffer, "s", str(k)) == expected.split()
    clock.now = 11.5  # what was said at 1 is older than 10 seconds
    assert said(buffer, "s", "x") == ["2", "3", "x"]
    assert said(buffer, "s", "1234567") == ["x", "1234567"]
    assert said(buffer, "s", "123456789") == ["123456789"] and buffer.size == (1, 8)
    clock.now = 30
    assert buffer.add("other", "y").suffixes == () and buffer.size == (1, 1)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.text("xy", max_size=4), st.floats(0, 4)), max_size=30))
def test_it_is_a_plain_list_with_the_same_bounds(events: list[tuple[str, str, float]]) -> None:
    clock = Clock()
    buffer = SessionBuffer(fragments=4, seconds=10, characters=10, sessions=2, clock=clock)
    log: list[tuple[str, float, str]] = []
    for session, fragment, wait in events:
        clock.now += wait
        log.append((session, clock.now, fragment))
        history = buffer.add(session, fragment)
        recent = list(dict.fromkeys(s for s, _, _ in reversed(log)))
        # a session is remembered since it was last among the two that spoke last
        start = 0
        for k in range(len(log)):
            seen = list(dict.fromkeys(s for s, _, _ in reversed(log[: k + 1])))[:2]
            if session not in seen:
                start = k + 1
        mine = [(t, f) for s, t, f in log[start:] if s == session and clock.now - t < 10][-4:]
        while sum(len(f) for _, f in mine) > 10:
            mine.pop(0)
        texts = [f for _, f in mine]
        assert list(history.suffixes) == [SEAM.join(texts[-k:]) for k in range(2, len(texts) + 1)]
        assert buffer.size[0] <= min(2, len(recent))


def test_sessions_do_not_see_each_other_and_the_silent_go_first() -> None:
    buffer = SessionBuffer(sessions=2)
    said(buffer, "a", "secret")
    assert said(buffer, "b", "x") == ["x"] and said(buffer, "a", "y") == ["secret", "y"]
    assert said(buffer, "c", "z") == ["z"]  # b was silent longest
    assert said(buffer, "b", "w") == ["w"] and buffer.size[0] == 2
    buffer.forget("b")
    buffer.forget("nobody")
    assert said(buffer, "b", "v") == ["v"]


def test_what_was_not_spoken_is_replaced() -> None:
    buffer = SessionBuffer(characters=10)
    first = buffer.add("s", "one")
    buffer.replace("s", first.ticket)
    assert buffer.size == (0, 0)
    buffer.add("s", "two")
    second = buffer.add("s", "three")
    buffer.replace("s", second.ticket, "…")
    buffer.replace("s", 999, "no")
    buffer.replace("nobody", 1, "no")
    assert said(buffer, "s", "four") == ["two", "…", "four"]


def test_arguments_are_checked() -> None:
    buffer = SessionBuffer()
    for name in ("", "x" * 201, None):
        with pytest.raises(BadInput, match="1 to 200"):
            buffer.add(name, "x")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="give a string"):
        buffer.add("s", 3)  # type: ignore[arg-type]
    for bad in ({"fragments": 0}, {"sessions": 0}, {"characters": 0}, {"seconds": 0.0}, {"characters": 30_000}):
        with pytest.raises(BadInput, match="session buffer"):
            SessionBuffer(**bad)  # type: ignore[arg-type]


def test_ten_thousand_requests_take_bounded_memory() -> None:
    clock = Clock()
    buffer = SessionBuffer(characters=500, sessions=50, clock=clock)
    tracemalloc.start()
    sizes = []
    for k in range(10_000):
        clock.now += 0.01
        buffer.add(f"session {k * 7919 % 400}", f"{k} " * (k % 90))
        if k % 1000 == 999:
            sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    sessions, characters = buffer.size
    assert sessions <= 50 and characters <= 50 * 500
    print("\nbytes held after each thousand requests:", sizes)
    assert max(sizes[1:]) < 1.5 * sizes[0] + 100_000 and max(sizes) < 2_000_000


def test_threads() -> None:
    buffer = SessionBuffer(sessions=20)
    wrong: list[str] = []

    def talk(name: str) -> None:
        for k in range(300):
            history = buffer.add(name, f"{name}{k}")
            whole = history.suffixes[-1].split(SEAM) if history.suffixes else [history.fragment]
            if (
                any(not f.startswith(name) for f in whole)
                or whole != [f"{name}{j}" for j in range(k + 1)][-len(whole) :]
            ):
                wrong.append(name)

    threads = [threading.Thread(target=talk, args=(c,)) for c in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and buffer.size[0] == 8


def slow_pieced(fragments: list[list[str]], phrase: list[str]) -> bool:
    """All orders of all choices of fragments, joined."""
    text = f" {' '.join(phrase)} "
    joined = (
        f" {' '.join(w for f in chosen for w in f)} "
        for size in range(1, len(fragments) + 1)
        for chosen in itertools.permutations(fragments, size)
    )
    return any(text in j for j in joined)


few_words = st.lists(st.sampled_from("abc"), min_size=1, max_size=3)


@settings(max_examples=200, deadline=None)
@given(st.lists(few_words, max_size=4), st.lists(st.sampled_from("abc"), min_size=1, max_size=5))
def test_pieces_are_all_orders_of_fragments(fragments: list[list[str]], phrase: list[str]) -> None:
    one = any(f" {' '.join(phrase)} " in f" {' '.join(f)} " for f in fragments)
    assert (pieced(fragments, phrase) or one) is slow_pieced(fragments, phrase)


def test_pieces_of_many_alike_fragments_take_no_time() -> None:
    assert not pieced([["a"] * (k % 4 + 1) for k in range(20)], ["a"] * 11 + ["b"])


@speech
def test_phrases_in_pieces_are_refused_and_the_rest_goes_on() -> None:
    moderate = SessionModerator(Matcher([SpeechPolicy("p", phrases=(PHRASE,))]))
    for pieces in (["the amber", "kettle protocol"], ["an am", "ber ket", "tle proto", "col"], PHRASE.split()):
        session = " ".join(pieces)
        actions = [moderate(session, piece) for piece in pieces]
        assert [v.action for v in actions] == ["allow"] * (len(pieces) - 1) + ["refuse"], pieces
        assert actions[-1].across and actions[-1].text == "" and actions[-1].findings[0].span is None
        assert moderate(session, "what is the time").action == "allow"  # the refused piece was not spoken
        if " ".join(pieces) == PHRASE or len(pieces) == 2:  # cut between words: what lies between does not help
            assert moderate(session, pieces[-1]).action == "refuse"
    assert moderate("somebody else", "protocol").action == "allow"
    alone = moderate("x", PHRASE)
    assert alone.action == "refuse" and not alone.across


@speech
def test_redaction_and_failure() -> None:
    moderate = SessionModerator(Matcher([SpeechPolicy("p", phrases=(PHRASE,), action="redact")]))
    verdict = moderate("s", f"read the {PHRASE} now")
    assert (verdict.action, verdict.text) == ("redact", "read the [redacted] now")
    twice = moderate("t", f"{PHRASE} and 4mb3r k3ttl3 pr0t0c0l")
    assert (twice.action, twice.text) == ("refuse", "")
    assert moderate("s", "amber kettle").action == "allow"
    assert moderate("s", "protocol").action == "refuse"  # nothing to cut out of this piece alone
    with pytest.raises(BadInput, match="split it"):
        moderate("s", "x" * 30_000)
    assert moderate.buffer.size[1] < 100
    with pytest.raises(BadInput, match="threshold"):
        SessionModerator(moderate.matcher, threshold=1.5)
