"""Respell: each flagged word is written as another word, or as several, that sound like it, so that the voice says the
word and the text does not. Not in HARMGEN's list; typed homophones were found to carry the meaning in a first try.

The spellings are ordinary English words whose pronunciations in the CMU dictionary, one after the other, are the
word's. The attacker hears how the best of them sound and takes the first that its ear writes as the word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from genward.attacks.speech.direct import Direct
from genward.attacks.speech.phoneme import sounds_of
from genward.attacks.speech.wording import Attempt, Piece, speak
from genward.core.pronouncing import VOWELS, sounding
from genward.core.records import Case
from genward.core.speech import SpeechTarget, spoken_words, word_error_rate
from genward.errors import BadInput
from genward.ops.dictionary import english

MOST = 3
"""Words that stand for one."""
SHORT = frozenset("am an as at be by do go he if in is it me my no of oh on or so to up us we".split())
"""Words of two letters, which the dictionary leaves out"""
NEAR = {"AH": ("IH", "AA", "AO", "UH"), "AA": ("AO", "AH"), "AO": ("AA",), "IH": ("AH", "IY"), "ER": ("AO R",)}
"""Vowels that pass for each other where they carry no stress."""


def respellings(word: str, limit: int = 20) -> list[str]:
    """Other spellings of a word by ordinary English words that sound like it, the closest first: exact homophones,
    then those of few parts, then those with one vowel replaced by a near one.

    Raises:
        BadInput: the dictionary lacks the word.
    """
    phones = sounds_of(word)
    low = word.casefold()
    exact = _split(phones)
    near = [
        found
        for k, phone in enumerate(phones)
        for other in NEAR.get(phone, ())
        for found in _split((*phones[:k], *other.split(), *phones[k + 1 :]))
    ]
    ranked = sorted(exact, key=_cost) + sorted(near, key=_cost)
    texts = dict.fromkeys(" ".join(parts) for parts in ranked)
    return [text for text in texts if text != low][:limit]


def _cost(parts: Sequence[str]) -> tuple[int, int]:
    """Few parts first, then those whose shortest part is long."""
    return len(parts), -min(map(len, parts))


@lru_cache(maxsize=1024)
def _split(phones: tuple[str, ...], parts: int = MOST) -> tuple[tuple[str, ...], ...]:
    """All ways to say these sounds with up to ``parts`` ordinary words, each with a vowel."""
    known = english() | SHORT
    out: list[tuple[str, ...]] = [(w,) for w in sounding(phones) if w in known]
    if parts == 1:
        return tuple(out)
    for k in range(1, len(phones)):
        if VOWELS.intersection(phones[:k]) and VOWELS.intersection(phones[k:]):
            heads = [w for w in sounding(phones[:k]) if w in known]
            out += [(head, *tail) for head in heads for tail in _split(phones[k:], parts - 1)]
    return tuple(out)


@dataclass(frozen=True)
class Respell:
    """Flagged words by others that sound like them."""

    name: ClassVar[str] = "respell"
    access: ClassVar[str] = "query"
    listened: int = 4
    """Spellings that the attacker listens to, 0 to 20; at 0 the closest by the dictionary is taken."""

    def __post_init__(self) -> None:
        if not 0 <= self.listened <= 20:
            raise BadInput(f"respell: {self.listened} spellings listened to; 0 to 20 are possible")

    @property
    def tag(self) -> str:
        return self.name

    def hide(self, piece: Piece, target: SpeechTarget) -> Piece:
        """The first spelling that is heard as the word, else the one that is heard most nearly so; the word itself
        where no other spelling is known."""
        word = piece.bare
        found = respellings(word)[: max(1, self.listened)]
        if not found:
            return piece
        if not self.listened:
            return piece._replace(text=found[0])
        rated: list[tuple[float, str]] = []
        for text in found:
            (heard,) = target.hear([target.speak(text)])
            if spoken_words(heard.text) == spoken_words(word):
                return piece._replace(text=text)
            rated.append((word_error_rate(" ".join(word), " ".join("".join(spoken_words(heard.text)))), text))
        return piece._replace(text=min(rated)[1])

    def speak(self, case: Case, target: SpeechTarget) -> Attempt:
        """See ``wording.speak``."""
        return speak(case, target, Direct(), self)
