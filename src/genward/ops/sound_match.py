"""Phrases that a text sounds like, however it is spelled: "am burr ket ul" against "amber kettle".

Sounds of the text are aligned with those of a phrase from word start to word end (a semi-global edit distance), a wrong
vowel counting less than a wrong consonant, since spellings say little about vowels. Not from a paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, product

import numpy as np
from numpy.typing import NDArray

from genward.ops.letter_sounds import Phones, letter_sounds
from genward.ops.phonemes import CONSONANTS, SYMBOLS, VOWELS, Lexicon

ORDER = tuple(sorted(SYMBOLS))
NUMBER = {p: k for k, p in enumerate(ORDER)}
VOWEL, SIMILAR, ALIKE = 0.25, 0.35, 0.5
"""Cost of another vowel, of the voiced twin of a consonant, of one that is made nearby"""
LEFT_OUT_VOWEL, LEFT_OUT_SOFT = 0.5, 0.6
"""Cost of a vowel too many or too few, and of ``HH R W Y``; other consonants cost 1"""
_VOICED = "S Z|SH ZH|CH JH|T D|P B|K G|F V|TH DH|N NG|JH ZH"
_NEARBY = "TH T|DH D|TH F|S SH|SH CH|T CH|D JH|M N|S TH|Z DH|W V|L R|K CH"
TURN = 0.12
"""Share of a phrase's sounds that may be wrong for a score of 1/2"""
SHORT = 6.0
"""Weight of sounds below which a phrase has to sound exactly so: single words have too many neighbors"""
MOST_VARIANTS = 8
_FAR = 1e6

Floats = NDArray[np.float64]


def costs() -> tuple[Floats, Floats]:
    """Cost of one sound for another, shape (39, 39), and of one too many or too few, shape (39,), in the order of
    ``ORDER``; 0 to 1, symmetric."""
    swap = np.ones((len(ORDER), len(ORDER)))
    for a in VOWELS:
        for b in VOWELS:
            swap[NUMBER[a], NUMBER[b]] = VOWEL
    for text, cost in ((_NEARBY, ALIKE), (_VOICED, SIMILAR)):
        for a, b in (pair.split() for pair in text.split("|")):
            swap[NUMBER[a], NUMBER[b]] = swap[NUMBER[b], NUMBER[a]] = cost
    np.fill_diagonal(swap, 0.0)
    gap = np.ones(len(ORDER))
    for p in VOWELS | CONSONANTS:
        gap[NUMBER[p]] = LEFT_OUT_VOWEL if p in VOWELS else LEFT_OUT_SOFT if p in ("HH", "R", "W", "Y") else 1.0
    return swap, gap


SWAP, GAP = costs()


def plain_sounds(phones: Sequence[str]) -> Phones:
    """Sounds for alignment: ``ER`` as ``AH R``, nothing twice in a row."""
    out: list[str] = []
    for p in phones:
        for q in ("AH", "R") if p == "ER" else (p,):
            if not out or out[-1] != q:
                out.append(q)
    return tuple(out)


@dataclass(frozen=True)
class Stream:
    """The sounds of a text."""

    sounds: Phones
    """Those of all its words in a row"""
    bounds: frozenset[int]
    """Places in it where a word starts or ends, 0 and the length among them"""


def streams(words: Sequence[str], lexicon: Lexicon) -> tuple[Stream, ...]:
    """The sounds of words, with those that are no common words said by the dictionary and, where that differs, by
    rule."""
    by_dictionary = [lexicon.spoken(w) for w in words]
    by_rule = [s if w in lexicon.common else letter_sounds(w) for w, s in zip(words, by_dictionary, strict=True)]
    return tuple(dict.fromkeys(_stream(said) for said in (by_dictionary, by_rule)))


def _stream(said: Sequence[Phones]) -> Stream:
    sounds: list[str] = []
    bounds = {0}
    for phones in map(plain_sounds, said):
        sounds += phones[1:] if sounds and phones and phones[0] == sounds[-1] else phones
        bounds.add(len(sounds))
    return Stream(tuple(sounds), frozenset(bounds))


def variants(phrase: Sequence[str], lexicon: Lexicon) -> tuple[Phones, ...]:
    """How a phrase may be said, at most ``MOST_VARIANTS``; at least one."""
    ways = (tuple(p for part in said for p in part) for said in product(*(lexicon.pronunciations(w) for w in phrase)))
    return tuple(dict.fromkeys(plain_sounds(way) for way in islice(ways, MOST_VARIANTS)))


class SoundTable:
    """Sounds of phrases, ready to be looked for together.

    Args:
        phrases: for each, its ``variants``, none of them empty.
    """

    def __init__(self, phrases: Sequence[Sequence[Phones]]) -> None:
        self.rows = tuple((k, said) for k, ways in enumerate(phrases) for said in ways)
        self.count = len(phrases)
        self.lengths = np.array([len(said) for _, said in self.rows], dtype=np.intp)
        width = int(self.lengths.max(initial=0))
        self.codes = np.zeros((len(self.rows), width), dtype=np.intp)
        for k, (_, said) in enumerate(self.rows):
            self.codes[k, : len(said)] = [NUMBER[p] for p in said]

    @cached_property
    def weights(self) -> Floats:
        """Cost of leaving out the first so many sounds of each row, shape (rows, longest + 1)."""
        gaps = np.where(np.arange(self.codes.shape[1]) < self.lengths[:, None], GAP[self.codes], 0.0)
        return np.concatenate([np.zeros((len(self.rows), 1)), np.cumsum(gaps, axis=1)], axis=1)

    def distances(self, stream: Stream) -> Floats:
        """Cheapest alignment of each row with a stretch of the stream between two bounds, over the cost of leaving the
        whole row out.

        Returns:
            shape (rows,), 0 to 1; 0 for a phrase that is there to the sound.
        """
        weights, rows = self.weights, np.arange(len(self.rows))
        held = weights.copy()
        best = held[rows, self.lengths]
        for at, sound in enumerate(stream.sounds, 1):
            number = NUMBER[sound]
            new = held + GAP[number]
            np.minimum(new[:, 1:], held[:, :-1] + SWAP[self.codes, number], out=new[:, 1:])
            new[:, 0] = 0.0 if at in stream.bounds else _FAR
            held = np.minimum.accumulate(new - weights, axis=1) + weights
            if at in stream.bounds:
                best = np.minimum(best, held[rows, self.lengths])
        total = weights[rows, self.lengths]
        return np.clip(best, 0.0, total) / np.where(total > 0, total, 1.0)

    def scores(self, stream: Stream) -> Floats:
        """How far the stream sounds like each phrase.

        Returns:
            shape (phrases,), 0 to 1: 1 for one that is there to the sound, 1/2 where ``TURN`` of its sounds is wrong,
            0 from twice that on. A phrase of less than ``SHORT`` weight is 1 or 0.
        """
        out = np.zeros(self.count)
        if not self.rows or not stream.sounds:
            return out
        ratio = self.distances(stream)
        score = np.clip(1.0 - ratio / (2.0 * TURN), 0.0, 1.0)
        total = self.weights[np.arange(len(self.rows)), self.lengths]
        score = np.where(total < SHORT, (ratio < 1e-9).astype(np.float64), score)
        np.maximum.at(out, np.array([k for k, _ in self.rows], dtype=np.intp), score)
        return out
