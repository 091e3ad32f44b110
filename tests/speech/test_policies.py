"""Policies for speech: the format, and patterns that are refused."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from genward.errors import BadInput, UnknownName
from genward.speech.policies import (
    OVERLAP,
    SpeechPolicy,
    check_pattern,
    found_in,
    load_speech_policies,
    parse_speech_policies,
    stem,
)

GOOD = """
name = "house"
[[policies]]
id = "canaries"
phrases = ["Amber-kettle protocol"]
action = "redact"
[[policies]]
id = "numbers"
languages = ["en", "de"]
patterns = ['kettle number \\d{1,4}']
reorder = false
window = 8
"""


def test_the_format() -> None:
    first, second = parse_speech_policies(GOOD)
    assert first == SpeechPolicy("canaries", phrases=("Amber-kettle protocol",), action="redact")
    assert second == SpeechPolicy(
        "numbers", ("en", "de"), patterns=(r"kettle number \d{1,4}",), reorder=False, window=8
    )
    assert first.action == "redact" and second.action == "refuse" and first.reorder and first.window == 24


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = ", "not TOML"),
        ("", "policies is missing"),
        ("policies = []", "no policies"),
        ("[[policies]]\nid = 'a'", "forbids nothing"),
        ("[[policies]]\nphrases = ['a b']", "id is missing"),
        ("[[policies]]\nid = 'a'\nphrase = ['a b']", "did you mean phrases"),
        ("[[policies]]\nid = 'a'\nphrases = 'a b'", "give a list of texts"),
        ("[[policies]]\nid = ' '\nphrases = ['a b']", "empty id"),
        ("[[policies]]\nid = 'a'\nphrases = ['?!']", "1 to 12 words"),
        ("[[policies]]\nid = 'a'\nphrases = ['a b']\nwindow = 0", "1 to 32"),
        ("[[policies]]\nid = 'a'\nphrases = ['a b']\nwindow = true", "give a whole number"),
        ("[[policies]]\nid = 'a'\nphrases = ['a b']\nlanguages = ['English']", "two letters"),
        (
            "[[policies]]\nid = 'a'\nphrases = ['a b']\n[[policies]]\nid = 'a'\nphrases = ['c']",
            "two policies have the id",
        ),
        ("[[policies]]\nid = 'a'\npatterns = ['(']", "no regular expression"),
    ],
)
def test_errors_say_what_to_do(text: str, told: str) -> None:
    with pytest.raises(BadInput, match=re.escape(told)):
        parse_speech_policies(text, "file")


def test_unknown_actions_and_files(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="refuse"):
        SpeechPolicy("a", phrases=("b",), action="refus")
    with pytest.raises(BadInput, match="no speech policy file"):
        load_speech_policies(tmp_path / "none.toml")
    file = tmp_path / "p.toml"
    file.write_text(GOOD)
    assert load_speech_policies(file) == parse_speech_policies(GOOD)


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+b", "(a|aa)+b", "(a*)*", "((a+)b)*", "(?:a|b){2,}c", r"(a)\1", "(?P<x>a)(?P=x)", "a*b*c*d", "a?" * 9,
        "(.*a){12}", "[a-z]+.{3,}x*y", "", "a*", "a" * 301, "(?:(?:a?b)c){1,9}d", "(a)(?(1)b|c)",
    ],
)  # fmt: skip
def test_patterns_that_could_take_forever_are_refused(pattern: str) -> None:
    with pytest.raises(BadInput):
        check_pattern(pattern, "x")


@pytest.mark.parametrize(
    "pattern",
    [r"kettle number \d{1,4}", "amber|kettle", "(amber|copper) kettle", r"\bam.?ber\b", "[*+]x", r"\(a\)+", "a.*b",
     "(?=x)x", "(?<!a)b", "(?i:a)b", "ab+?c", r"\*+a", "(a b)?c"],
)  # fmt: skip
def test_ordinary_patterns_are_taken(pattern: str) -> None:
    assert isinstance(check_pattern(pattern, "x"), re.Pattern)


def test_worst_patterns_take_bounded_time() -> None:
    for pattern, text in ((".*a.*b", "a" * 20_000), ("[ab]*[ac]*d", "a" * 20_000), ("a?" * 7 + "a{15}z", "a" * 20_000)):
        start = time.process_time()
        assert not found_in(check_pattern(pattern, "x"), text)
        assert time.process_time() - start < 10, pattern


def test_matches_are_found_wherever_they_lie() -> None:
    pattern = check_pattern("x.{50}y", "p")
    for at in range(0, 900, 7):
        text = "a" * at + "x" + "b" * 50 + "y" + "a" * 100
        assert found_in(pattern, text), at
    assert found_in(check_pattern(f"a{{{OVERLAP}}}", "p"), "b" * 300 + "a" * OVERLAP)
    assert found_in(check_pattern("^a$", "p"), "a") and not found_in(pattern, "")


def test_stems() -> None:
    assert [stem(w) for w in ("kettles", "kettle's", "glass", "is", "us", "kettle")] == [
        "kettle", "kettle", "glass", "is", "us", "kettle",
    ]  # fmt: skip
