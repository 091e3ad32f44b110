"""Phrases that a text sounds like, however it is spelled: "am burr ket ul" against "amber kettle".

Sounds of the text are aligned with those of a phrase from word start to word end (a semi-global edit distance), a wrong
vowel counting less than a wrong consonant, since spellings say little about vowels. Not from a paper."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, product

import numpy as np
from numpy.typing import NDArray

from genward.ops.cmudict import CONSONANTS, SYMBOLS, VOWELS
from genward.speech.letter_sounds import Phones, letter_sounds
from genward.speech.phonemes import Lexicon
from genward.speech.sound_index import SoundIndex

ORDER = tuple(sorted(SYMBOLS))
NUMBER = {p: k for k, p in enumerate(ORDER)}
VOWEL, SIMILAR, ALIKE = 0.25, 0.35, 0.5
"""Cost of another vowel, of the voiced twin of a consonant, of one that is made nearby"""
LEFT_OUT_VOWEL, LEFT_OUT_SOFT = 0.5, 0.6
"""Cost of a vowel too many or too few, and of ``HH R W Y``; other consonants cost 1"""
_VOICED = "S Z|SH ZH|CH JH|T D|P B|K G|F V|TH DH|N NG|JH ZH"
_NEARBY = "TH T|DH D|TH F|S SH|SH CH|T CH|D JH|M N|S TH|Z DH|W V|L R|K CH"
TURN = 0.2
"""Share of a phrase's sounds that may be wrong for a score of 1/2. Set on the canaries of the splits ``fit`` and
``calibrate``: above it, phrases with one word exchanged begin to fire; below it, respellings are lost."""
WORD = 0.5
"""What the share of a single word counts, so that a phrase with one word exchanged for another is not the phrase"""
SHORT = 6.0
"""Weight of sounds below which a phrase has to sound exactly so: single words have too many neighbors"""
MOST_VARIANTS = 8
INDEXED = 0.25
"""Score from which on phrases are looked up before they are aligned; for lower ones hardly any could be left out"""

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


@dataclass(frozen=True)
class Said:
    """One way to say a phrase."""

    sounds: Phones
    owners: tuple[int, ...]
    """For each sound the number of the word that it belongs to"""


def variants(phrase: Sequence[str], lexicon: Lexicon) -> tuple[Said, ...]:
    """How a phrase may be said, at most ``MOST_VARIANTS``; none only where no word of it has a sound."""
    found: dict[Said, None] = {}
    for way in islice(product(*(lexicon.pronunciations(w) for w in phrase)), MOST_VARIANTS):
        sounds: list[str] = []
        owners: list[int] = []
        for k, word in enumerate(map(plain_sounds, way)):
            kept = word[1:] if sounds and word and word[0] == sounds[-1] else word
            sounds += kept
            owners += [k] * len(kept)
        if sounds:
            found[Said(tuple(sounds), tuple(owners))] = None
    return tuple(found)


def worst_word(said: Said, sounds: Sequence[str]) -> float:
    """How badly the worst word of a phrase fits, under the cheapest alignment of the whole with the end of a stretch.

    Args:
        sounds: what ends where the phrase would; it may begin earlier than the phrase.

    Returns:
        Cost of a word's sounds over that of leaving it out, the largest of all words; 0 upwards.
    """
    count = said.owners[-1] + 1
    weight = [0.0] * count
    for p, k in zip(said.sounds, said.owners, strict=True):
        weight[k] += float(GAP[NUMBER[p]])
    Cell = tuple[float, tuple[float, ...]]

    def plus(cell: Cell, cost: float, owner: int) -> Cell:
        return cell[0] + cost, (*cell[1][:owner], cell[1][owner] + cost, *cell[1][owner + 1 :])

    nothing: Cell = (0.0, (0.0,) * count)
    column = [nothing]
    for p, k in zip(said.sounds, said.owners, strict=True):
        column.append(plus(column[-1], float(GAP[NUMBER[p]]), k))
    for sound in sounds:
        number = NUMBER[sound]
        new = [nothing]
        for i, (p, k) in enumerate(zip(said.sounds, said.owners, strict=True), 1):
            options = (
                plus(column[i - 1], float(SWAP[NUMBER[p], number]), k),
                plus(column[i], float(GAP[number]), k),
                plus(new[i - 1], float(GAP[NUMBER[p]]), k),
            )
            new.append(min(options))
        column = new
    return max(cost / w for cost, w in zip(column[-1][1], weight, strict=True) if w > 0)


class SoundTable:
    """Sounds of phrases, ready to be looked for together.

    Args:
        phrases: for each, its ``variants``.
    """

    def __init__(self, phrases: Sequence[Sequence[Said]]) -> None:
        self.rows = tuple((k, said) for k, ways in enumerate(phrases) for said in ways)
        self.count = len(phrases)
        self.lengths = np.array([len(said.sounds) for _, said in self.rows], dtype=np.intp)
        width = int(self.lengths.max(initial=0))
        self.codes = np.zeros((len(self.rows), width), dtype=np.intp)
        for k, (_, said) in enumerate(self.rows):
            self.codes[k, : len(said.sounds)] = [NUMBER[p] for p in said.sounds]
        self._indexes: dict[float, SoundIndex] = {}
        self._lock = threading.Lock()

    @cached_property
    def weights(self) -> Floats:
        """Cost of leaving out the first so many sounds of each row, shape (rows, longest + 1)."""
        gaps = np.where(np.arange(self.codes.shape[1]) < self.lengths[:, None], GAP[self.codes], 0.0)
        return np.concatenate([np.zeros((len(self.rows), 1)), np.cumsum(gaps, axis=1)], axis=1)

    @cached_property
    def swaps(self) -> Floats:
        """Cost of each sound for those of each row, shape (39, rows, longest)."""
        return SWAP[:, self.codes]

    def index(self, least: float) -> SoundIndex:
        """What finds the rows that may score at least so much, made once for each score."""
        with self._lock:
            if least not in self._indexes:
                total = self.weights[np.arange(len(self.rows)), self.lengths]
                sounds = [row[:n] for row, n in zip(self.codes.tolist(), self.lengths, strict=True)]
                most = (2.0 * TURN * (1.0 - least) * total).tolist()
                self._indexes[least] = SoundIndex(sounds, most, SWAP, GAP)
            return self._indexes[least]

    def distances(self, stream: Stream, rows: Sequence[int] | None = None) -> tuple[Floats, NDArray[np.intp]]:
        """Cheapest alignment of each row with a stretch of the stream between two bounds, over the cost of leaving the
        whole row out.

        Args:
            rows: which ones; all by default.

        Returns:
            The share, shape (rows,), 0 to 1, 0 for a phrase that is there to the sound; and where the stretch ends,
            shape (rows,).
        """
        weights, lengths, swaps = self.weights, self.lengths, self.swaps
        if rows is not None:
            weights, lengths, swaps = weights[rows], lengths[rows], swaps[:, rows]
        last = np.arange(len(lengths)) * weights.shape[1] + lengths
        held = weights.copy()
        total = held.ravel().take(last)
        best, ends = total, np.zeros(len(lengths), dtype=np.intp)
        for at, sound in enumerate(stream.sounds, 1):
            number = NUMBER[sound]
            new = held + GAP[number]
            np.minimum(new[:, 1:], held[:, :-1] + swaps[number], out=new[:, 1:])
            if at in stream.bounds:
                new[:, 0] = 0.0
            held = np.minimum.accumulate(new - weights, axis=1) + weights
            if at in stream.bounds:
                here = held.ravel().take(last)
                ends[here < best] = at
                best = np.minimum(best, here)
        return np.clip(best, 0.0, total) / np.where(total > 0, total, 1.0), ends

    def scores(self, stream: Stream, least: float = 0.0) -> Floats:
        """How far the stream sounds like each phrase.

        Args:
            least: scores below it may be given as 0, which saves the alignment of most phrases.

        Returns:
            shape (phrases,), 0 to 1: 1 for one that is there to the sound, 1/2 where ``TURN`` of its sounds is wrong
            (or ``TURN / WORD`` of one word's), 0 from twice that on. A phrase of less than ``SHORT`` weight is 1 or 0.
        """
        out = np.zeros(self.count)
        if not self.rows or not stream.sounds:
            return out
        rows = list(range(len(self.rows)))
        if least >= INDEXED:
            rows = self.index(least).rows([NUMBER[p] for p in stream.sounds])
        if not rows:
            return out
        ratio, ends = self.distances(stream, rows)
        total = self.weights[rows, self.lengths[rows]]
        for at in np.flatnonzero((ratio < 2.0 * TURN) & (ratio > 0)):
            said, end = self.rows[rows[at]][1], int(ends[at])
            stretch = stream.sounds[max(0, end - 2 * len(said.sounds)) : end]
            ratio[at] = max(ratio[at], WORD * worst_word(said, stretch))
        score = np.clip(1.0 - ratio / (2.0 * TURN), 0.0, 1.0)
        score = np.where(total < SHORT, (ratio < 1e-9).astype(np.float64), score)
        np.maximum.at(out, np.array([self.rows[row][0] for row in rows], dtype=np.intp), score)
        return out
