"""What a moderator of speech reads in a text: the words without their disguise, and how near a forbidden phrase is.

Rules (HARMGEN's digest §3.6; weights and thresholds are ours, set on the canaries' split ``calibrate``): the phrase as
it stands; letters put together to words; phonemes turned back; the phrase by its sound; its words in another order than
a sentence would have. Each gives a score from 0 to 1, the highest counts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genward.ops.cmudict import PHONEMES, VOWELS, pronunciations
from genward.ops.hearing import words_of
from genward.ops.text_normal import normalize
from genward.ops.trigrams import english_trigrams
from genward.ops.word_salad import salad

LONGEST = 4000
"""Characters of a text that are read; longer ones are read in their last ``LONGEST``."""
WINDOW = 24
"""Words within which those of a phrase may be scattered"""
TAGS = re.compile(r"<[^<>]{1,200}>")
SPELLED = re.compile(r"\b(?:[A-Za-z](?:[-.,\s·•_*/|]+|\b)){2,}")
BRACES = re.compile(r"\{([A-Z0-9 ]+)\}")
LETTERS = dict(
    zip(
        "ay bee see cee dee ee ef eff gee aitch eye jay kay el ell em en oh pea pee cue are ar ess es tea tee you vee "
        "ex why wye zee zed".split(),
        "a b c c d e f f g h i j k l l m n o p p q r r s s t t u v x y y z z".split(),
        strict=True,
    )
)
"""Names of letters as a recognizer writes them"""
NEAR = {
    frozenset(pair.split())
    for pair in "AA AO,AA AH,AE EH,AH IH,AH EH,AH UH,EH IH,IY IH,UH UW,AO OW,ER AH,AH AE".split(",")
}
"""Vowels that are easily taken for each other: half an edit"""
SOFT = {frozenset(pair.split()) for pair in "S Z,T D,K G,P B,F V,CH JH,SH ZH,TH DH,M N,TH F,L R".split(",")}
"""Consonants that are: half an edit"""
BY_LETTER = {
    **dict(
        zip(
            "abcdefghijklmnopqrstuvwxyz",
            "AE B K D EH F G HH IH JH K L M N AA P K R S T AH V W K IY Z".split(),
            strict=True,
        )
    ),
    **{
        "ch": "CH",
        "sh": "SH",
        "th": "TH",
        "ph": "F",
        "ck": "K",
        "ng": "NG",
        "qu": "K W",
        "ee": "IY",
        "oo": "UW",
        "ea": "IY",
    },
    **{
        "ow": "OW",
        "ou": "AW",
        "ay": "EY",
        "ai": "EY",
        "oa": "OW",
        "er": "ER",
        "ir": "ER",
        "ur": "ER",
        "wh": "W",
        "kn": "N",
    },
}
"""Sounds of letters, pairs first, for words that no dictionary has: rough, and meant to be compared with tolerance."""
SOUND_TURN = 0.22
"""Share of edits between sounds at which the score is 1/2"""


class Match(NamedTuple):
    """The strongest sign of a phrase."""

    score: float
    """0 to 1"""
    rule: str
    """``phrase`` | ``spelled`` | ``phonemes`` | ``sound`` | ``order``"""


def plain(text: str) -> str:
    """A text without tags, look-alikes and invisible characters."""
    return TAGS.sub(" ", normalize(text))


def unspelled(text: str) -> str:
    """Runs of single letters put together: ``A-M-B-E-R`` and ``a m b e r`` become ``amber``; so do three names of
    letters or more (``ay em bee``)."""
    found = SPELLED.sub(lambda m: "".join(c for c in m[0] if c.isalpha()) + " ", text)
    words, out, run = words_of(found), [], []
    for word in [*words, ""]:
        if word in LETTERS:
            run.append(word)
            continue
        out += ["".join(LETTERS[w] for w in run)] if len(run) > 2 else run
        run = []
        out += [word] if word else []
    return " ".join(out)


def phonemes(text: str) -> str:
    """``{AE M B ER}`` and bare runs of four ARPABET symbols or more as the words that sound so, where there are any."""
    found = BRACES.sub(lambda m: f" {_word(m[1].split()) or m[1]} ", text)
    words, out, run = found.split(), [], []
    for word in [*words, ""]:
        if word.rstrip("012") in PHONEMES and word.isupper():
            run.append(word)
            continue
        out += [_word(run) or " ".join(run)] if len(run) > 3 else run
        run = []
        out += [word] if word else []
    return " ".join(out)


def _word(symbols: Sequence[str]) -> str:
    from genward.ops.cmudict import sounding

    found = sounding().get(tuple(s.rstrip("012") for s in symbols), ())
    return found[0] if found else ""


@lru_cache(maxsize=20_000)
def sounds(word: str) -> tuple[str, ...]:
    """Phonemes of a word, from CMUdict, else letter by letter."""
    known = pronunciations().get(word)
    if known:
        return known[0]
    out: list[str] = []
    k = 0
    while k < len(word):
        size = 2 if word[k : k + 2] in BY_LETTER and len(word[k : k + 2]) == 2 else 1
        if word[k : k + size] in BY_LETTER:
            said = BY_LETTER[word[k : k + size]].split()
            out += said if out[-len(said) :] != said else []
        k += size
    return tuple(out)


def sound_distance(phrase: Sequence[str], text: Sequence[str]) -> float:
    """Fewest edits between the phrase's sounds and any stretch of the text's, by the number of the phrase's: 0 where it
    is heard, about 0.6 where anything else is. Easily confused sounds are half an edit.

    Args:
        phrase, text: words.
    """
    wanted = [s for w in phrase for s in sounds(w)]
    said = [s for w in text for s in sounds(w)]
    if not wanted or not said:
        return 1.0
    costs = _costs()[np.ix_([_PLACES[s] for s in wanted], [_PLACES[s] for s in said])]
    steps = np.arange(len(said) + 1)
    row = np.zeros(len(said) + 1)  # a stretch may begin anywhere
    for cost in costs:
        new = row + 1
        new[1:] = np.minimum(new[1:], row[:-1] + cost)
        row = np.minimum.accumulate(new - steps) + steps
    return float(row.min()) / len(wanted)


_PLACES = {s: k for k, s in enumerate(sorted(PHONEMES))}


@cache
def _costs() -> NDArray[np.float64]:
    """Cost of taking one sound for another."""
    return np.array([[_edit(a, b) for b in _PLACES] for a in _PLACES])


def _edit(a: str, b: str) -> float:
    if a == b:
        return 0.0
    pair = frozenset((a, b))
    return 0.5 if pair in NEAR or pair in SOFT or {a, b} <= VOWELS and "AH" in pair else 1.0


@lru_cache(maxsize=512)
def _readings(text: str) -> Mapping[str, tuple[str, ...]]:
    """Words of a text as it stands, and without each disguise."""
    clean = plain(text)
    found = {"as written": words_of(text), "phrase": words_of(clean), "phonemes": words_of(phonemes(text))}
    found["spelled"] = words_of(unspelled(phonemes(clean)))
    return {rule: tuple(words) for rule, words in found.items()}


def match(text: str, phrase: str, *, reorder: bool = True) -> Match:
    """How strongly a text speaks of a phrase.

    Args:
        text: any length, see ``LONGEST``. phrase: two words or more. reorder: whether words in another order count.
    """
    wanted = words_of(phrase)
    if not wanted:
        return Match(0.0, "phrase")
    readings = _readings(text[-LONGEST:])
    for rule, words in readings.items():
        if _within(wanted, words):
            return Match(1.0, "phrase" if rule == "as written" else rule)
    found = [_by_sound(wanted, readings[r]) for r in ("phrase", "spelled")]
    if reorder:
        found += [_by_order(wanted, readings[r]) for r in ("phrase", "spelled", "phonemes")]
    return max(found)


def _within(wanted: Sequence[str], words: Sequence[str]) -> bool:
    n = len(wanted)
    return any(list(words[k : k + n]) == list(wanted) for k in range(len(words) - n + 1))


def _by_sound(wanted: Sequence[str], words: Sequence[str]) -> Match:
    distance = sound_distance(wanted, words[-400:])
    return Match(max(0.0, 1.0 - distance / (2 * SOUND_TURN)), "sound")


def _by_order(wanted: Sequence[str], words: Sequence[str]) -> Match:
    """How shuffled the text looks where all words of the phrase stand within ``WINDOW``; 0 where they do not."""
    places = {w: [k for k, v in enumerate(words) if v == w] for w in wanted}
    if not all(places.values()) or Counter(wanted) - Counter(words):
        return Match(0.0, "order")
    best = 0.0
    for start in places[wanted[0]]:
        near = [min(places[w], key=lambda k: abs(k - start)) for w in wanted]
        if max(near) - min(near) < WINDOW:
            room = (2 * WINDOW - (max(near) - min(near))) // 2
            around = words[max(0, min(near) - room) : max(near) + room + 1]
            best = max(best, salad(around, wanted, english_trigrams()))
    return Match(best, "order")


def strongest(text: str, phrases: Sequence[str], *, reorder: bool = True) -> tuple[Match, str]:
    """The phrase that a text speaks of most, and how."""
    found = [(match(text, p, reorder=reorder), p) for p in phrases]
    return max(found, key=lambda f: f[0].score, default=(Match(0.0, "phrase"), ""))
