"""How English words are pronounced: the CMU Pronouncing Dictionary that comes in the pocketsphinx wheel, with ARPABET
symbols without stress, and the same symbols in IPA.

The dictionary is a text file; pocketsphinx itself is not imported. Its content is accepted by SHA-256 alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from genward.errors import EngineError

SHA256 = "20b5c293e1f311fb375fe067e500ec5636f4fc7af5594967263696def9b23bfe"
"""Of the dictionary in pocketsphinx 5.1.1"""
Phones = tuple[str, ...]

IPA = {
    "AA": "ɑ", "AE": "æ", "AH": "ʌ", "AO": "ɔ", "AW": "aʊ", "AY": "aɪ", "EH": "ɛ", "ER": "ɝ", "EY": "eɪ", "IH": "ɪ",
    "IY": "i", "OW": "oʊ", "OY": "ɔɪ", "UH": "ʊ", "UW": "u", "B": "b", "CH": "tʃ", "D": "d", "DH": "ð", "F": "f",
    "G": "ɡ", "HH": "h", "JH": "dʒ", "K": "k", "L": "l", "M": "m", "N": "n", "NG": "ŋ", "P": "p", "R": "ɹ", "S": "s",
    "SH": "ʃ", "T": "t", "TH": "θ", "V": "v", "W": "w", "Y": "j", "Z": "z", "ZH": "ʒ",
}  # fmt: skip
"""ARPABET symbol -> IPA, General American."""
VOWELS = frozenset("AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split())
_OTHER = {
    "ə": "AH", "ɐ": "AH", "ᵊ": "AH", "ɚ": "ER", "ɜ": "ER", "ɒ": "AA", "a": "AA", "e": "EY", "o": "OW", "g": "G",
    "r": "R", "ɾ": "T", "ɫ": "L", "ʧ": "CH", "ʤ": "JH", "t͡ʃ": "CH", "d͡ʒ": "JH", "ɨ": "IH", "y": "UW", "x": "K",
    "ɜɹ": "ER", "əɹ": "ER", "ɪə": "IH", "eə": "EH",
}  # fmt: skip
_BY_IPA = {**{ipa: symbol for symbol, ipa in IPA.items()}, **_OTHER}
_LONGEST = max(map(len, _BY_IPA))


def where() -> Path | None:
    """The dictionary's file, or ``None`` where pocketsphinx is not installed."""
    found = find_spec("pocketsphinx")
    folders = list(found.submodule_search_locations or ()) if found else []
    files = [Path(folder) / "model" / "en-us" / "cmudict-en-us.dict" for folder in folders]
    return next((file for file in files if file.is_file()), None)


@cache
def dictionary() -> Mapping[str, tuple[Phones, ...]]:
    """Word in lower case -> its pronunciations, the usual one first.

    Raises:
        EngineError: pocketsphinx is not installed, or brings another dictionary.
    """
    file = where()
    if file is None:
        raise EngineError("pronunciations come from the package pocketsphinx; pip install 'genward[speech]'")
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise EngineError(f"{file} is not the dictionary that genward knows; pip install pocketsphinx==5.1.1")
    return parsed(data.decode("utf-8"))


def parsed(text: str) -> dict[str, tuple[Phones, ...]]:
    """A dictionary's lines, ``word P1 P2 …`` and ``word(2) P1 …``, as word -> pronunciations."""
    found: dict[str, list[Phones]] = {}
    for line in text.splitlines():
        word, _, sounds = line.strip().partition(" ")
        if word and sounds:
            found.setdefault(word.partition("(")[0].casefold(), []).append(tuple(sounds.split()))
    return {word: tuple(ways) for word, ways in found.items()}


@cache
def by_sound() -> Mapping[Phones, tuple[str, ...]]:
    """Pronunciation -> the words that have it: those whose usual one it is first, then the shortest, then by
    spelling."""
    found: dict[Phones, list[tuple[int, int, str]]] = {}
    for word, ways in dictionary().items():
        for k, phones in enumerate(ways):
            found.setdefault(phones, []).append((min(k, 1), len(word), word))
    return {phones: tuple(word for *_, word in sorted(words)) for phones, words in found.items()}


def phones_of(word: str) -> Phones | None:
    """The usual pronunciation of a word, or ``None`` where the dictionary does not have it."""
    ways = dictionary().get(word.casefold())
    return ways[0] if ways else None


def sounding(phones: Sequence[str]) -> tuple[str, ...]:
    """Words that are pronounced like this; none where no word is."""
    return by_sound().get(tuple(phones), ())


def to_ipa(phones: Sequence[str]) -> str:
    """ARPABET symbols as one IPA text. Raises ``KeyError`` for a symbol that is none."""
    return "".join(IPA[phone] for phone in phones)


def from_ipa(text: str) -> Phones:
    """The ARPABET symbols of an IPA text, the longest signs first; stress, length and what else is not in the table is
    left out."""
    found: list[str] = []
    at = 0
    while at < len(text):
        size = next((n for n in range(_LONGEST, 0, -1) if text[at : at + n] in _BY_IPA), 0)
        if size:
            found.append(_BY_IPA[text[at : at + size]])
        at += size or 1
    return tuple(found)
