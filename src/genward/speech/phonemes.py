"""Pronunciations: words to sounds and back, by the dictionary that comes with the ``pocketsphinx`` wheel.

CMUdict (``model/en-us/cmudict-en-us.dict``, BSD) has 134,860 lines of words in ARPABET; read backwards it gives the
words that sound alike. HARMGEN, as digested, has flagged words supplied as phonemes; its answer, read here, is to map
runs of ARPABET or IPA back to words, exactly or with one sound wrong. Words outside the dictionary are read by rule
(``speech.letter_sounds``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property, lru_cache
from pathlib import Path

from genward.core.reading import read_text
from genward.ops import cmudict
from genward.ops.cmudict import SYMBOLS, VOWELS, read_dictionary
from genward.ops.dictionary import english
from genward.speech.letter_sounds import Phones, letter_sounds

KEYS: Mapping[str, str] = {
    **{vowel: "a" for vowel in VOWELS},
    "ER": "ar", "B": "b", "CH": "c", "D": "d", "DH": "0", "F": "f", "G": "g", "HH": "h", "JH": "j", "K": "k",
    "L": "l", "M": "m", "N": "n", "NG": "n", "P": "p", "R": "r", "S": "s", "SH": "x", "T": "t", "TH": "0", "V": "v",
    "W": "w", "Y": "y", "Z": "s", "ZH": "x",
}  # fmt: skip
"""Sound -> its letters in a phonetic key: one for all vowels, one for those that spellings confuse"""
SPELLED_OUT = 3
"""Letters of the longest word that is taken for an abbreviation"""
KEPT = frozenset("a i am an as at be by do go he if in is it me my no of on or so to up us we".split())


def within_one(a: Sequence[str], b: Sequence[str]) -> bool:
    """Whether ``ops.hearing.edits`` is at most 1, in one pass."""
    if len(a) > len(b):
        a, b = b, a
    if len(b) - len(a) > 1:
        return False
    same = next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))
    return a[same + (len(a) == len(b)) :] == b[same + 1 :]


def neighbors(phones: Phones) -> Iterator[Phones]:
    """Every sequence of sounds at distance 1, some of them more than once: for one of length n, n shorter ones, 38 n as
    long and 39 (n + 1) longer."""
    for k in range(len(phones) + 1):
        head, tail = phones[:k], phones[k:]
        for symbol in _ORDERED:
            yield (*head, symbol, *tail)
            if tail and symbol != tail[0]:
                yield (*head, symbol, *tail[1:])
        if tail:
            yield (*head, *tail[1:])


_ORDERED = tuple(sorted(SYMBOLS))


class Lexicon:
    """Words and their sounds, both ways.

    Args:
        said: as ``read_dictionary`` returns it.
        common: words that are offered first where several sound alike; ``None`` for the English ones of
            ``ops.dictionary``.
    """

    def __init__(self, said: Mapping[str, tuple[str, ...]], common: frozenset[str] | None = None) -> None:
        self.said = said
        self.common = english() if common is None else common

    @cached_property
    def reverse(self) -> Mapping[str, tuple[str, ...]]:
        """Sounds with spaces between -> the words that sound so, common ones first, then short ones. Spellings with a
        period or a digit ("a.m.") are left out."""
        found: dict[str, list[str]] = {}
        for word, said in self.said.items():
            if word.replace("'", "").isalpha():
                for phones in said:
                    found.setdefault(phones, []).append(word)
        rank = self.rank
        return {phones: tuple(sorted(words, key=rank)) for phones, words in found.items()}

    def rank(self, word: str) -> tuple[bool, int, str]:
        """Sorts common words first, then short ones, then by letter."""
        return word not in self.common, len(word), word

    def pronunciations(self, word: str) -> tuple[Phones, ...]:
        """How a word is said, the usual way first: by the dictionary, without its ``'s`` if need be, else by rule. At
        least one, and empty for a word without letters and digits."""
        word = word.lower()
        for form, ending in ((word, ()), (word.removesuffix("'s"), ("Z",))):
            if form in self.said and (form == word or ending):
                return tuple((*phones.split(), *(ending if form != word else ())) for phones in self.said[form])
        return (letter_sounds(word),)

    def spoken(self, word: str) -> Phones:
        """How a word of running text is said: the usual way, but a short one that is no common word by rule, since the
        dictionary spells many of those out ("ul" as the letters U and L)."""
        if len(word) <= SPELLED_OUT and word not in self.common and word not in KEPT:
            return letter_sounds(word)
        return self.pronunciations(word)[0]

    def words(self, phones: Sequence[str]) -> tuple[str, ...]:
        """Words that sound exactly so, common ones first; none where no word does."""
        return self.reverse.get(" ".join(phones), ())

    def near(self, phones: Sequence[str]) -> tuple[str, ...]:
        """Words that sound so but for one sound at most, exact ones first, then common ones."""
        exact = self.words(phones)
        others = {w for other in neighbors(tuple(phones)) for w in self.words(other)}.difference(exact)
        return (*exact, *sorted(others, key=self.rank))

    def homophones(self, word: str) -> frozenset[str]:
        """Other words of the dictionary that share a pronunciation with a word."""
        alike = {w for phones in self.pronunciations(word) for w in self.words(phones)}
        return frozenset(alike - {word.lower()})

    def homophone_sets(self) -> tuple[frozenset[str], ...]:
        """Sets of two words or more that share a pronunciation, each set once."""
        return tuple(dict.fromkeys(frozenset(words) for words in self.reverse.values() if len(words) > 1))

    def key(self, text: str) -> str:
        """``phonetic_key`` of a text."""
        return "".join(key_of(self.spoken(word)) for word in text.split()).replace("aa", "a")


@lru_cache(maxsize=4_000)
def key_of(phones: Phones) -> str:
    """Sounds as a key: one letter for all vowels, one for each group of consonants that spellings confuse (s and z, the
    two th, n and ng), nothing twice in a row."""
    letters = "".join(KEYS[p] for p in phones)
    return "".join(c for k, c in enumerate(letters) if k == 0 or c != letters[k - 1])


def phonetic_key(text: str, lexicon: Lexicon | None = None) -> str:
    """A text as it roughly sounds, without word boundaries: ``amb er kettel`` and ``amber kettle`` have the same.

    Args:
        text: words with spaces between.
        lexicon: where pronunciations come from; ``None`` for the wheel's.

    Returns:
        Lower-case letters and ``0``; two texts with the same key are candidates for sounding alike, no more: all
        vowels are one.

    Raises:
        BadInput, BadArtifact: as ``english_lexicon``.
    """
    joined = (english_lexicon() if lexicon is None else lexicon).key(text)
    return "".join(c for k, c in enumerate(joined) if k == 0 or c != joined[k - 1])


@cache
def english_lexicon(path: Path | None = None) -> Lexicon:
    """The wheel's dictionary, or a file of the same format; read once a process (about 0.4 s and 60 MB).

    Raises:
        BadInput: pocketsphinx is not installed (``pip install 'genward[speech]'``), or no such file.
        BadArtifact: the file is not a pronouncing dictionary.
    """
    if path is None:
        return Lexicon(cmudict.dictionary())
    return Lexicon(read_dictionary(read_text(path, "pronouncing dictionary", cmudict.MAX_FILE), str(path)))
