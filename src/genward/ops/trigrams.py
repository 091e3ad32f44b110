"""A trigram language model of English, read from the file that comes with the ``pocketsphinx`` wheel.

The file (``model/en-us/en-us.lm.bin``, BSD, 72,547 words) is a trie over bits: a word, below it the word before it,
below that the one before that, each list sorted by word. It is mapped into memory and searched in place, so nothing of
the decoder is imported. The reader here is written from the layout of the bytes; tests compare it with the decoder's
own reading of the same file."""

from __future__ import annotations

import importlib.util
import math
import mmap
import struct
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from genward.errors import BadArtifact, BadInput

MAGIC = b"Trie Language Model"
BINS = 1 << 16
"""Entries of each table that the stored 16-bit probabilities index"""
NAT = math.log(1.0001)
"""The file's logarithms are to this base; they leave here as natural ones."""
START, END = "<s>", "</s>"
UNKNOWN = math.log(1e-7)
"""Log probability of a word that the model lacks, about that of its rarest words."""


def model_file(name: str) -> Path:
    """A file of the wheel's American English model, found without importing the package.

    Raises:
        BadInput: the package is not installed.
        BadArtifact: it is, but has no such file.
    """
    spec = importlib.util.find_spec("pocketsphinx")
    if spec is None or not spec.submodule_search_locations:
        raise BadInput(
            "moderating speech needs the pronunciations of the package pocketsphinx, which is not installed; try: "
            "pip install 'genward[speech]'"
        )
    file = Path(next(iter(spec.submodule_search_locations))) / "model" / "en-us" / name
    if not file.is_file():
        raise BadArtifact(
            f"{file} is missing; reinstall the package: pip install --force-reinstall pocketsphinx (version 5)"
        )
    return file


class Trigrams:
    """Log probabilities of words after others.

    Args:
        path: a file of that layout; orders other than 3 and unquantized files are refused.

    Raises:
        BadArtifact: another layout, or a file that was cut short.
    """

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as stream:
                self._data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            self._layout(path)
        except (OSError, ValueError, IndexError, struct.error) as error:
            raise BadArtifact(
                f"{path} is not a trigram model of pocketsphinx: {error}; reinstall the package: pip install "
                "--force-reinstall pocketsphinx (version 5)"
            ) from error
        self._seen: dict[tuple[int, int, int], float] = {}

    def _layout(self, path: Path) -> None:
        data = self._data
        at = len(MAGIC)
        if data[:at] != MAGIC or data[at] != 3:
            raise ValueError("it does not begin as one of order 3")
        counts = struct.unpack_from("<3I", data, at + 1)
        at += 13
        if struct.unpack_from("<i", data, at)[0] != 1:
            raise ValueError("its probabilities are not stored in 16 bits")
        at += 4
        tables = struct.unpack_from(f"<{3 * BINS}f", data, at)
        self._two: tuple[float, ...] = tables[:BINS]
        self._back: tuple[float, ...] = tables[BINS : 2 * BINS]
        self._three: tuple[float, ...] = tables[2 * BINS :]
        at += 12 * BINS
        self._single = at
        at += 12 * (counts[0] + 1)
        self._word_bits, next_bits = counts[0].bit_length(), counts[2].bit_length()
        self._middle, self._middle_bits = at, self._word_bits + 32 + next_bits
        at += ((counts[1] + 1) * self._middle_bits + 7) // 8 + 8
        self._last, self._last_bits = at, self._word_bits + 16
        at += ((counts[2] + 1) * self._last_bits + 7) // 8 + 8
        size = struct.unpack_from("<i", data, at)[0]
        words = data[at + 4 : at + 4 + size].decode("utf-8").split("\0")[: counts[0]]
        if len(words) != counts[0] or len(data) < at + 4 + size:
            raise ValueError("it was cut short")
        self.ids = {word: k for k, word in enumerate(words)}
        """Word -> its number; lower case, with ``<s>`` and ``</s>``"""

    def _bits(self, base: int, start: int, count: int) -> int:
        first = base + start // 8
        return (int.from_bytes(self._data[first : first + 12], "little") >> start % 8) & ((1 << count) - 1)

    def _find(self, base: int, size: int, low: int, high: int, word: int) -> int:
        """Place of a word in a sorted stretch of a level, -1 where it is not there."""
        count = self._word_bits
        while low < high:
            middle = (low + high) // 2
            found = self._bits(base, middle * size, count)
            if found == word:
                return middle
            if found < word:
                low = middle + 1
            else:
                high = middle
        return -1

    def _one(self, word: int) -> tuple[float, float, int, int]:
        """Log probability, back-off and the stretch of the words before it."""
        p, back, low, _, _, high = struct.unpack_from("<ffIffI", self._data, self._single + 12 * word)
        return p, back, low, high

    def _pair(self, word: int, before: int) -> tuple[float, float, int, int] | None:
        """The same of a word after another, ``None`` where the model has no such pair."""
        _, _, low, high = self._one(word)
        at = self._find(self._middle, self._middle_bits, low, high, before)
        if at < 0:
            return None
        start, size = at * self._middle_bits + self._word_bits, self._middle_bits
        back, p = self._bits(self._middle, start, 16), self._bits(self._middle, start + 16, 16)
        following = size - self._word_bits - 32
        low = self._bits(self._middle, start + 32, following)
        high = self._bits(self._middle, start + 32 + size, following)
        return self._two[p], self._back[back], low, high

    def number(self, word: str) -> int:
        """A word's number, -1 for one that the model lacks."""
        return self.ids.get(word, -1)

    def log(self, word: int, before: int = -1, earlier: int = -1) -> float:
        """Natural log of the probability of a word (all by number) after up to two others, the nearest first; a number
        of -1 is a word that the model lacks, which ends the context.

        Returns:
            At most 0; ``UNKNOWN`` for a word that the model lacks.
        """
        if word < 0:
            return UNKNOWN
        key = (word, before, earlier if before >= 0 else -1)
        value = self._seen.get(key)
        if value is None:
            if len(self._seen) > 100_000:
                self._seen.clear()
            value = self._seen[key] = self._computed(*key)
        return value

    def _computed(self, word: int, before: int, earlier: int) -> float:
        if before < 0:
            return self._one(word)[0] * NAT
        pair = self._pair(word, before)
        if earlier >= 0:
            if pair is not None:
                at = self._find(self._last, self._last_bits, pair[2], pair[3], earlier)
                if at >= 0:
                    return self._three[self._bits(self._last, at * self._last_bits + self._word_bits, 16)] * NAT
            context = self._pair(before, earlier)
            held = context[1] if context is not None else 0.0
            return held * NAT + self._computed(word, before, -1)
        return pair[0] * NAT if pair is not None else (self._one(before)[1] + self._one(word)[0]) * NAT

    def sentence(self, words: Sequence[str], breaks: Iterable[int] = ()) -> float:
        """Natural log of the probability of words as a sentence, its end included.

        Args:
            words: lower case, any number.
            breaks: places between words (1 to ``len(words) - 1``) where one sentence ends and the next begins.
        """
        start, end, total = self.ids[START], self.ids[END], 0.0
        cuts = set(breaks)
        earlier, before = -1, start
        for k, word in enumerate(words):
            if k and k in cuts:
                total += self.log(end, before, earlier)
                earlier, before = -1, start
            number = self.number(word)
            total += self.log(number, before, earlier)
            earlier, before = before, number
        return total + self.log(end, before, earlier)


@cache
def english_trigrams() -> Trigrams:
    """The wheel's model, opened once a process.

    Raises:
        BadInput, BadArtifact: as ``model_file`` and ``Trigrams``.
    """
    return Trigrams(model_file("en-us.lm.bin"))
