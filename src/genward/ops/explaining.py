"""Which words of a text make a score, by leaving each out (occlusion: Zeiler and Fergus, arXiv 1311.2901, section 4.2).

In an encoder every token's state mixes with its neighbors' and a mean over tokens adds them up, so that shares of the
tokens' own states name "style", "a" and the marks before the word that matters. What the score loses without a word
does not ask where its meaning went. One more encoding per word, for texts that are acted on only."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

MOST = 64
"""Words of a text that are tried; those behind them have no share."""
_WORD = re.compile(r"[^\W_]+(?:['’.-][^\W_]+)*|[^\w\s]")


class Word(NamedTuple):
    """A word of a text and where it stands."""

    text: str
    start: int
    end: int


def words(text: str) -> list[Word]:
    """The words and single signs of a text, in order; signs that only part words are left out where there are
    words."""
    found = [Word(m.group(), *m.span()) for m in _WORD.finditer(text)]
    spoken = [w for w in found if w.text[0].isalnum() or ord(w.text[0]) > 0x2000]
    return (spoken or found)[:MOST]


def without(text: str, word: Word) -> str:
    """The text with a word left out, single-spaced."""
    return " ".join((text[: word.start] + " " + text[word.end :]).split())


def shares(texts: Sequence[str], score: Callable[[list[str]], Tensor]) -> list[list[tuple[str, float]]]:
    """For each text its words and what the score loses without each, in order of the text.

    Args:
        score: texts -> (n, texts) scores, row k for text k of ``texts``: each text is explained by its own row.
    """
    found = [words(text) for text in texts]
    variants = [[text, *(without(text, w) for w in each)] for text, each in zip(texts, found, strict=True)]
    unique = list(dict.fromkeys(v for each in variants for v in each))
    place = {text: k for k, text in enumerate(unique)}
    scores = score(unique) if unique else torch.zeros(len(texts), 0)
    out = []
    for k, (each, mine) in enumerate(zip(found, variants, strict=True)):
        whole = float(scores[k, place[mine[0]]])
        out.append([(w.text, whole - float(scores[k, place[v]])) for w, v in zip(each, mine[1:], strict=True)])
    return out
