"""Whether words stand in an order that somebody would write, or were shuffled around a phrase.

A shuffle keeps every word of a sentence, and so every word of a forbidden phrase; so does an innocent sentence that
happens to use the same words. HARMGEN's digest names an order-aware check by reconstruction or by implausible syntax as
evidence. Ours is the latter: neighbors that English does not put side by side (``the of``, ``a`` before a vowel, a
sentence that ends in ``the``), and how likely a trigram model finds the text with the phrase's words replaced by common
ones, so that a rare word is no sign. Its weights were fitted by logistic regression on the canaries' split ``fit``
(``python timing/speech.py --salad``)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product

from genward.ops.trigrams import END, START, Trigrams

COMMON = ("house", "good", "music")
"""Stand-ins for the phrase's words: a thing, a quality, an idea; the likeliest choice counts."""
MOST = 40
"""Most words that are looked at"""
BIAS, BY_BREACH, BY_LIKELY = -8.88, 3.56, -0.853
"""Logistic weights: constant, of each breach of syntax, of the mean log probability of a word. The constant is 0.85
above the fitted one, so that 1/2 is where the twins of the split ``calibrate`` end."""

_KINDS = {
    "det": "the a an my your his her its our their every no this that these those another some any each",
    "prep": "of for in on at from with about by into during without through over under between against among behind "
    "beside near toward towards upon",
    "subject": "i he she we they",
    "object": "me him us them",
    "conj": "and or but because if that when while so although",
    "modal": "will would can could shall should may might must",
    "aux": "is are was were am be been being has have had do does did",
    "to": "to",
    "wh": "what who whom which how why where when whether",
}
KINDS: dict[str, frozenset[str]] = {}
for _kind, _words in _KINDS.items():
    for _word in _words.split():
        KINDS[_word] = KINDS.get(_word, frozenset()) | {_kind}
_NEVER = {
    "det": "prep aux modal to conj subject object wh det",
    "prep": "aux modal conj subject",
    "subject": "det prep object to wh conj",
    "modal": "prep conj to wh object modal",
    "to": "aux prep conj subject modal",
    "object": "aux modal",
    "wh": "prep conj",
}
NEVER = {kind: frozenset(after.split()) for kind, after in _NEVER.items()}
"""Kind of a word -> kinds that do not follow it"""
FINE = frozenset(
    "to be,to have,to do,that i,that he,that she,that we,that they,that is,that are,that was,that were,that will,that "
    "would,that can,that could,that the,that a,that my,that his,that her,that our,in that,of that,this is,"
    "this was,that "
    "has,that have,that had,that in,when in,with that,those who,some who,her to,him to,no but,which in,what in,what if,"
    "how in,who in,how to,what to,where to,that to,so that,this and,those in,those of,some of,any of,each of,"
    "another of,"
    "this in,his and,that and,each to,these are,those are,these were,those were,some are,some were,each is,"
    "each was,i in,"
    "that of,this to,that at,that for,that on,for that,this will,these will,this could,that if,who to,which to,of what,"
    "that when,and that,but that,or that,which of,how about,what about,what of,we to,them to,us to,her in,her and,"
    "her for,her with,her about,no to,if that,when that,i to,she and,he and,we and,they and,i and,she or,he or".split(
        ","
    )
)
"""Pairs that do, all the same"""


def breaches(words: Sequence[str]) -> int:
    """Neighbors that English does not put side by side, the ends of the sentence included.

    Args:
        words: in lower case, as ``hearing.words_of`` gives them.
    """
    return sum(_breach(a, b) for a, b in zip([START, *words], [*words, END], strict=True))


def _breach(a: str, b: str) -> bool:
    if f"{a} {b}" in FINE:
        return False
    left, right = KINDS.get(a, frozenset()), KINDS.get(b, frozenset())
    if b == END:
        return bool(
            left & {"det", "modal", "to", "subject", "conj"} - ({"det"} if a in ("that", "this", "her") else set())
        )
    if a == START:
        return b in ("of", "them", "him", "us", "than", "or")
    if a in ("a", "an"):
        return (
            bool(right)
            or (b[0] in "aei") != (a == "an")
            and b[0] in "aeibcdfgjklmnpqrstvwz"
            and b[:2] not in ("eu", "ew")
        )
    return any(right and right <= NEVER[kind] for kind in left & NEVER.keys())


def likely(words: Sequence[str], phrase: Sequence[str], model: Trigrams) -> float:
    """Mean natural log of a word's probability, each of the phrase's words replaced by the likeliest of ``COMMON``."""
    places = [k for k, w in enumerate(words) if w in phrase][:4]
    return max(model.sentence(list(filled)) for filled in _filled(list(words), places)) / max(1, len(words))


def _filled(words: list[str], places: Sequence[int]) -> Iterator[list[str]]:
    for choice in product(COMMON, repeat=len(places)):
        out = list(words)
        for k, word in zip(places, choice, strict=True):
            out[k] = word
        yield out


def salad(words: Sequence[str], phrase: Sequence[str], model: Trigrams) -> float:
    """How far words look shuffled: 0 to 1, 1/2 where the regression cannot tell.

    Args:
        words: the text's, the last ``MOST`` count. phrase: words that are no sign of anything.
    """
    looked = list(words)[-MOST:]
    if len(looked) < 2:
        return 0.0
    x = BIAS + BY_BREACH * breaches(looked) + BY_LIKELY * likely(looked, phrase, model)
    return 1.0 / (1.0 + math.exp(-max(-700.0, min(700.0, x))))
