"""Policies for speech as data: phrases and patterns that must not be spoken, and what becomes of a text that has one.

::

    [[policies]]
    id = "canaries"
    languages = ["en"]           # default
    phrases = ["amber kettle protocol"]
    patterns = ["kettle number \\\\d{1,4}"]
    action = "refuse"            # allow | redact | review | refuse
    reorder = true               # also look for the words of a phrase in another order
    window = 24                  # within so many words

HARMGEN, as digested, has policies of id, languages, phrases, patterns and action; ``reorder`` and ``window`` carry its
order-insensitive check, and the bounds on patterns are ours. Keys that are not known are refused with the nearest
ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from genward.core.reading import short
from genward.core.typed import build, checked, parse_toml, read_toml
from genward.errors import BadInput, UnknownName
from genward.ops.text_normal import normalize
from genward.speech.readings import tokens
from genward.speech.word_order import MOST

ACTIONS = ("allow", "redact", "review", "refuse")
"""From the mildest to the strictest; ``allow`` reports a match and changes nothing"""
HINT = "see the head of genward/speech/policies.py for the format"
MAX_PHRASES, MAX_WORDS, MAX_PATTERNS, MAX_PATTERN = 2_000, 12, 100, 300
"""Phrases of a policy, words of a phrase, patterns of a policy, characters of a pattern"""
PIECE, OVERLAP = 128, 64
"""Characters of a text that a pattern is searched in at once, and how many of them the next piece repeats: a match is
found wherever it lies if it has at most ``OVERLAP`` characters"""
UNBOUNDED, REPEATS, COUNTED = 2, 8, 16
"""Most ``*``, ``+`` and long ``{}`` of a pattern, most repeats of any kind, and from which count on ``{}`` is long"""


@dataclass(frozen=True)
class SpeechPolicy:
    """One rule about what may be spoken."""

    id: str
    """Name in verdicts and logs"""
    languages: tuple[str, ...] = ("en",)
    """Two-letter codes; sounds and word order are looked at for ``en`` alone"""
    phrases: tuple[str, ...] = ()
    """Words that must not be spoken in a row; case, punctuation and disguises do not matter"""
    patterns: tuple[str, ...] = ()
    """Regular expressions for ``re``, searched in the lower-case words of each reading; see ``check_pattern``"""
    action: str = "refuse"
    """One of ``ACTIONS``"""
    reorder: bool = True
    """Whether the words of a phrase count in another order, too, where they seem to be shuffled"""
    window: int = 24
    """Most words that a shuffled phrase is spread over, 1 to ``MOST``"""

    def __post_init__(self) -> None:
        checked(self, f"speech policy {short(self.id, 40)!r}")
        here = f"speech policy {short(self.id, 40)!r}"
        if not self.id.strip():
            raise BadInput('a speech policy has an empty id; write id = "canaries", say')
        if self.action not in ACTIONS:
            raise UnknownName(f"action of {here}", self.action, ACTIONS)
        if not self.phrases and not self.patterns:
            raise BadInput(f"{here} forbids nothing; give it phrases or patterns")
        if not self.languages or not all(re.fullmatch("[a-z]{2,3}", code) for code in self.languages):
            raise BadInput(
                f'{here}: languages is {list(self.languages)!r:.80}; give codes of two letters, as in ["en"]'
            )
        if not 1 <= self.window <= MOST:
            raise BadInput(f"{here}: window is {self.window}; give 1 to {MOST} words")
        if len(self.phrases) > MAX_PHRASES or len(self.patterns) > MAX_PATTERNS:
            raise BadInput(
                f"{here} has {len(self.phrases):,} phrases and {len(self.patterns):,} patterns, at most "
                f"{MAX_PHRASES:,} and {MAX_PATTERNS} are possible; split it"
            )
        for phrase in self.phrases:
            if not 1 <= len(phrase_words(phrase)) <= MAX_WORDS:
                raise BadInput(f"{here}: the phrase {short(phrase, 60)!r} must have 1 to {MAX_WORDS} words")
        for pattern in self.patterns:
            check_pattern(pattern, here)


@dataclass(frozen=True)
class _File:
    """What a file of policies holds."""

    policies: tuple[SpeechPolicy, ...]
    name: str = ""
    summary: str = ""


def parse_speech_policies(text: str, where: str = "speech policy") -> tuple[SpeechPolicy, ...]:
    """Policies from TOML text; see the module for the format.

    Args:
        where: what to call it in errors.

    Raises:
        BadInput: not TOML, an unknown or missing key, a value of the wrong kind, a pattern that is refused, no policy,
            or two with the same id.
        UnknownName: no such action.
    """
    return _checked(build(_File, parse_toml(text, where, HINT), where, HINT), where)


def load_speech_policies(path: str | Path) -> tuple[SpeechPolicy, ...]:
    """Policies from a TOML file.

    Raises:
        BadInput, UnknownName: as ``parse_speech_policies``, or the file cannot be read.
    """
    where = f"speech policy file {short(path)}"
    return _checked(build(_File, read_toml(path, "speech policy file", HINT), where, HINT), where)


def _checked(file: _File, where: str) -> tuple[SpeechPolicy, ...]:
    if not file.policies:
        raise BadInput(f"{where} has no policies; write [[policies]] and under it id and phrases")
    unique(file.policies, where)
    return file.policies


def unique(policies: Sequence[SpeechPolicy], where: str) -> None:
    """``BadInput`` where two policies have the same id."""
    ids = [p.id for p in policies]
    for name in ids:
        if ids.count(name) > 1:
            raise BadInput(f"{where}: two policies have the id {short(name, 40)!r}; give each its own")


def phrase_words(phrase: str) -> tuple[str, ...]:
    """The words of a phrase as readings have them."""
    return tokens(normalize(phrase)).words


def stem(word: str) -> str:
    """A word without the endings ``'s`` and ``s``, so that a plural is the same word."""
    word = word.removesuffix("'s")
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


# ------------------------------------------------------------------------------------------------------------- patterns


def check_pattern(pattern: str, where: str) -> re.Pattern[str]:
    """A pattern, compiled, if its search takes polynomial time of low degree.

    ``re`` has no time limit, so what makes it slow is refused: references to groups, repeated groups that hold a repeat
    or a choice, more than ``UNBOUNDED`` open repeats or ``REPEATS`` in all, more than ``MAX_PATTERN`` characters.

    Raises:
        BadInput: no regular expression, or one of those.
    """
    shown = short(pattern, 60)
    if len(pattern) > MAX_PATTERN:
        raise BadInput(f"{where}: the pattern {shown!r} has more than {MAX_PATTERN} characters; split it")
    try:
        compiled = re.compile(pattern, re.IGNORECASE)
    except (re.error, OverflowError, RecursionError) as error:
        raise BadInput(f"{where}: the pattern {shown!r} is no regular expression: {error}") from None
    if reason := _slow(pattern):
        raise BadInput(f"{where}: the pattern {shown!r} could take forever: it has {reason}; write it without")
    if compiled.search(""):
        raise BadInput(f"{where}: the pattern {shown!r} fits every text; write what it must contain")
    return compiled


_CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]")
_ESCAPE = re.compile(r"\\(\d|.)", re.S)
_REPEAT = re.compile(r"[*+?]|\{(\d*)(,?)(\d*)\}")


def _slow(pattern: str) -> str:
    """What in a pattern may take exponential time or a high power, ``""`` for nothing."""
    at, every, wide = 0, 0, 0
    groups: list[bool] = []  # for each open group, whether it holds a repeat or a choice
    closed = False  # whether a group was closed just now that does
    while at < len(pattern):
        if match := _ESCAPE.match(pattern, at):
            if match[1].isdigit() and match[1] != "0":
                return "a reference to a group"
            at, closed = match.end(), False
        elif match := _CLASS.match(pattern, at):
            at, closed = match.end(), False
        elif pattern[at] == "(":
            if pattern.startswith(("(?P=", "(?("), at):
                return "a reference to a group"
            head = re.compile(r"\((?:\?(?:P<\w+>|<?[=!]|[a-zA-Z-]*:|>))?").match(pattern, at)
            at, closed = head.end() if head else at + 1, False
            groups.append(False)
        elif pattern[at] == ")":
            closed = groups.pop() if groups else False
            if closed and groups:
                groups[-1] = True
            at += 1
        elif pattern[at] == "|":
            groups[-1:] = [True] if groups else []
            at, closed = at + 1, False
        elif match := _REPEAT.match(pattern, at):
            if closed and match[0] != "?":
                return "a repeated group with a repeat or a choice in it"
            bounded = match[0] == "?" or (match[3] or (match[1] and not match[2]))
            most = int(match[3] or match[1] or 1) if bounded else COUNTED
            wide, every = wide + (most >= COUNTED), every + 1
            groups[-1:] = [True] if groups else []
            at = match.end()
            at += pattern[at : at + 1] in ("?", "+") and bool(pattern[at : at + 1])
        else:
            at, closed = at + 1, False
    if wide > UNBOUNDED:
        return f"{wide} open repeats, of at most {UNBOUNDED}"
    return f"{every} repeats, of at most {REPEATS}" if every > REPEATS else ""


def found_in(pattern: re.Pattern[str], text: str) -> bool:
    """Whether a pattern is found in a text, searched in pieces of ``PIECE`` characters; a match of more than
    ``OVERLAP`` may be missed."""
    return any(pattern.search(text, at, at + PIECE) for at in range(0, max(1, len(text) - OVERLAP), PIECE - OVERLAP))
