"""Short passages of a prompt, so that what stands in one place cannot be diluted by what stands around it.

A mean over a prompt's tokens falls with every harmless word that is added, and in an encoder every token's state mixes
with its neighbors'. So a guard also reads overlapping runs of a few words by themselves, and the largest score counts
(multiple-instance learning's maximum rule: Andrews et al., NIPS 2002)."""

from __future__ import annotations

import re
from collections.abc import Callable

from genward.errors import BadInput

WORDS = 6
"""Words of a passage; neighbors share half of them, so any four words in a row stand together in one."""
_WORD = re.compile(r"[^\s\"{}\[\]()<>:;,.!?|]+(?:[.,:'’][^\s\"{}\[\]()<>:;,.!?|]+)*")


def passages(text: str, words: int = WORDS) -> list[str]:
    """Overlapping runs of ``words`` words, each once, in order; none of a text that is no longer than one.

    Signs that only part words (brackets, quotes, colons, commas) are dropped, so that ``{"object": "a bomb"}`` is read
    as ``object a bomb`` too.

    Args:
        words: words a run, at least 2; 0 for no passages.
    """
    if words == 0:
        return []
    if words < 2:
        raise BadInput(f"passages of {words} words; give at least 2, or 0 for none")
    found = _WORD.findall(text)
    if " ".join(found) == " ".join(text.split()) and len(found) <= words:
        return []
    step = words // 2
    starts = range(0, max(1, len(found) - words + step), step)
    return [p for p in dict.fromkeys(" ".join(found[k : k + words]) for k in starts) if p and p != text]


def windows(text: str, fits: Callable[[str], bool]) -> list[str]:
    """A text longer than the encoder's window in overlapping parts that fit; ``[]`` of one that fits.

    Each part starts in the middle (in words) of the one before. A word that does not fit alone is parted by
    characters, so nothing of the text goes unread.
    """
    if fits(text):
        return []
    found = [piece for word in text.split() for piece in _pieces(word, fits)]
    out, start = [], 0
    while start < len(found):
        low, high = 1, len(found) - start
        while low < high:  # the most words that fit
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(" ".join(found[start : start + middle])) else (low, middle - 1)
        out.append(" ".join(found[start : start + low]))
        if start + low >= len(found):
            break
        start += max(1, low // 2)
    return out


def _pieces(word: str, fits: Callable[[str], bool]) -> list[str]:
    """A word, halved until each part fits; one character is never parted."""
    if len(word) < 2 or fits(word):
        return [word]
    middle = len(word) // 2
    return [*_pieces(word[:middle], fits), *_pieces(word[middle:], fits)]
