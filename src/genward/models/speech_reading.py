"""What a request to a speech model says, word by word: from which channel each word came, and whether it had to be put
together from letters or sounds. Pure functions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from genward.core.pronouncing import IPA, VOWELS, dictionary, from_ipa, phones_of, sounding
from genward.core.speech import Heard, in_text, is_sound, spoken_words

LETTERS = 3
"""Fewest single letters in a row that are taken for a spelled word."""
_PARTS = re.compile(r"^(\W*)(.*?)(\W*)$", re.DOTALL)
_BEHIND = re.compile(r"[.,;:!?]+(?=\s|$)")
_SPELLED = re.compile(r"[^\W\d_](?:[-.·][^\W\d_])+")


class Unit(NamedTuple):
    """One word of a request."""

    word: str
    """What it says, as it would be spoken"""
    text: str
    """How the request has it"""
    heard: bool = False
    """Whether it came as sound"""
    pieced: bool = False
    """Whether it was put together from letters or sounds"""


class Exposure(NamedTuple):
    """How a request says a phrase."""

    phrase: str
    units: tuple[int, ...]
    """Which units say it"""
    heard: bool
    pieced: bool
    """From letters or sounds, or by other words that sound like it"""
    ordered: bool
    """Whether its words stand side by side in their order"""


def read_request(text: str, heard: Mapping[str, Heard]) -> list[Unit]:
    """The words of a request's text, with those of its sounds in the places that the text names, or at its end.

    Args:
        text: the prompt. heard: name of each sound (``<sound>``) -> its transcript.
    """
    units: list[Unit] = []
    parts = in_text(text)
    parts += [name for name in heard if name not in parts]
    for part in parts:
        if is_sound(part) and part in heard:
            said = (
                heard[part].text if len(parts) == 1 else heard[part].text.rstrip(" .,;:!?")
            )  # a clip ends no sentence
            units += [unit._replace(heard=True) for unit in read_text(said)]
            continue
        behind = _BEHIND.match(part) if units else None
        if behind is not None:  # punctuation right behind a sound belongs to its last word
            units[-1] = units[-1]._replace(word=units[-1].word + behind.group())
            part = part[behind.end() :]
        units += read_text(part)
    return units


def read_text(text: str) -> list[Unit]:
    """The words of a text: spelled ones (``k e t t l e``, ``K-E-T-T-L-E``), ARPABET (``K EH T AH L``) and IPA between
    slashes (``/kɛtəl/``) put together."""
    tokens = text.split()
    units: list[Unit] = []
    at = 0
    while at < len(tokens):
        size, unit = next(
            found for found in (_phones(tokens, at), _spelled(tokens, at), (1, _whole(tokens[at]))) if found[0]
        )
        if unit is not None:
            units.append(unit)
        at += size
    return units


def _parts(token: str) -> tuple[str, str, str]:
    """What stands before a token's first letter, its middle, and what stands behind its last one."""
    found = _PARTS.match(token)
    return found.groups() if found else ("", token, "")  # type: ignore[return-value]


def _whole(token: str) -> Unit | None:
    """A token as a word; an IPA one between slashes is put together, one without letters is none."""
    before, middle, behind = _parts(token)
    if not middle:
        return None
    if before.endswith("/") and behind.startswith("/"):
        word = _sounded(from_ipa(middle))
        if word:
            return Unit(word + behind[1:], token, pieced=True)
    if _SPELLED.fullmatch(middle) and len(middle) >= 2 * LETTERS - 1:
        ends = behind.strip("-.") if "." in middle else behind.strip("-")  # K.E.T.T.L.E. ends no sentence
        return Unit(nearest_word(re.sub(r"\W", "", middle)) + ends, token, pieced=True)
    return Unit(token, token)


def _phones(tokens: Sequence[str], at: int) -> tuple[int, Unit | None]:
    """A run of ARPABET symbols from ``at`` on that is pronounced like a word, the longest: (tokens, unit)."""
    end = at
    while end < len(tokens) and _parts(tokens[end])[1].rstrip("012") in IPA:
        end += 1
        if _parts(tokens[end - 1])[2]:
            break
    for stop in range(end, at + 1, -1):
        phones = tuple(_parts(t)[1].rstrip("012") for t in tokens[at:stop])
        if VOWELS.intersection(phones):
            word = _sounded(phones)
            if word:
                text = " ".join(tokens[at:stop])
                return stop - at, Unit(word + _parts(tokens[stop - 1])[2], text, pieced=True)
    return 0, None


def _spelled(tokens: Sequence[str], at: int) -> tuple[int, Unit | None]:
    """A run of single letters from ``at`` on: (tokens, unit)."""
    end = at
    while end < len(tokens) and len(_parts(tokens[end])[1]) == 1 and _parts(tokens[end])[1].isalpha():
        end += 1
        if _parts(tokens[end - 1])[2] not in ("", ",", ".", "-"):
            break
    if end - at < LETTERS:
        return 0, None
    letters = "".join(_parts(t)[1] for t in tokens[at:end])
    behind = _parts(tokens[end - 1])[2]
    return end - at, Unit(nearest_word(letters) + behind.strip("-"), " ".join(tokens[at:end]), pieced=True)


def _sounded(phones: Sequence[str]) -> str:
    words = sounding(phones)
    return words[0] if words else ""


@lru_cache(maxsize=4096)
def nearest_word(letters: str) -> str:
    """The word that letters spell, some of them misheard or left out: at most two edits away (one of three
    letters) and with the same first letter; the letters themselves where none is.

    Of those that are equally near, one that differs by doubled letters alone comes first, then one from which letters
    are only missing, then the shortest, then the first by spelling."""
    low = letters.casefold()
    known = dictionary()
    if low in known or len(low) < LETTERS:
        return low
    near = [w for w in known if w[:1] == low[:1] and abs(len(w) - len(low)) <= 2 and w.isalpha()]
    ranked = ((_distance(low, w), _single(w) != _single(low), not _left_out(low, w), len(w), w) for w in near)
    best = min(ranked, default=(9, low))
    return str(best[-1]) if best[0] <= min(2, len(low) // 2) else low


def _single(word: str) -> str:
    """A word with its doubled letters once."""
    return re.sub(r"(.)\1+", r"\1", word)


def _left_out(part: str, word: str) -> bool:
    """Whether a word becomes the part by leaving letters out."""
    rest = iter(word)
    return all(letter in rest for letter in part)


def _distance(a: str, b: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (x != y))
    return row[-1]


def exposures(units: Sequence[Unit], phrases: Iterable[str]) -> list[Exposure]:
    """Every phrase that a request says, each in its plainest way: in order, by sound, or with its words apart."""
    words = [(k, word) for k, unit in enumerate(units) for word in spoken_words(unit.word)]
    found = []
    for phrase in phrases:
        wanted = spoken_words(phrase)
        for say in (_in_order, _by_sound, _apart) if wanted else ():
            places = say(words, wanted)
            if places:
                where = tuple(dict.fromkeys(words[j][0] for j in places))
                said = [units[k] for k in where]
                pieced = say is _by_sound or any(u.pieced for u in said)
                found.append(Exposure(phrase, where, any(u.heard for u in said), pieced, say is not _apart))
                break
    return found


Words = Sequence[tuple[int, str]]
Say = Callable[[Words, Sequence[str]], list[int]]


def _in_order(words: Words, wanted: Sequence[str]) -> list[int]:
    n = len(wanted)
    for k in range(len(words) - n + 1):
        if [w for _, w in words[k : k + n]] == list(wanted):
            return list(range(k, k + n))
    return []


def _by_sound(words: Words, wanted: Sequence[str]) -> list[int]:
    """Words that sound together as the phrase does, one vowel a word of the phrase aside; the phrase begins and ends
    with a word of theirs."""
    goal = [phone for word in wanted for phone in _plain(word)]
    for k in range(len(words)):
        said: list[str] = []
        for end in range(k, len(words)):
            said += _plain(words[end][1])
            if not _alike(said, goal[: len(said)], len(wanted)):
                break
            if len(said) == len(goal):
                return list(range(k, end + 1))
    return []


def _plain(word: str) -> list[str]:
    """A word's phones, the one vowel that holds an R as two; a mark of its own where the dictionary lacks it."""
    phones = phones_of(word) or (f"?{word}",)
    return [part for phone in phones for part in (("AH", "R") if phone == "ER" else (phone,))]


def _alike(a: Sequence[str], b: Sequence[str], vowels: int) -> bool:
    """Whether phones differ in at most so many vowels and in nothing else."""
    other = [(x, y) for x, y in zip(a, b, strict=False) if x != y]
    return len(a) == len(b) and len(other) <= vowels and all(VOWELS >= {x, y} for x, y in other)


def _apart(words: Words, wanted: Sequence[str]) -> list[int]:
    """Each word of the phrase, wherever it stands."""
    need, places = Counter(wanted), []
    for j, (_, word) in enumerate(words):
        if need[word] > 0:
            need[word] -= 1
            places.append(j)
    return [] if +need else places
