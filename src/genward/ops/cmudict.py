"""How English words sound: CMUdict, which the pocketsphinx wheel carries (BSD), and what it tells.

Phonemes are ARPABET without stress (``AE M B ER``)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from genward.core.reading import read_text
from genward.errors import BadInput
from genward.ops.trigrams import model_file

VOWELS = frozenset("AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split())
PHONEMES = VOWELS | frozenset("B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH".split())
SPOKEN = dict(
    zip(
        "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH".split(),
        "ɑ æ ə ɔ W I b ʧ d ð ɛ ɜɹ A f ɡ h ɪ i ʤ k l m n ŋ O Y p ɹ s ʃ t θ ʊ u v w j z ʒ".split(),
        strict=True,
    )
)
"""ARPABET -> the alphabet that the embedded voice takes (misaki's, in which capitals are diphthongs)."""


@cache
def pronunciations() -> Mapping[str, tuple[tuple[str, ...], ...]]:
    """Word -> its pronunciations, the usual one first."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for line in read_text(model_file("cmudict-en-us.dict")).splitlines():
        head, *phonemes = line.split()
        if phonemes and PHONEMES.issuperset(phonemes):
            found.setdefault(head.partition("(")[0], []).append(tuple(phonemes))
    return {word: tuple(dict.fromkeys(said)) for word, said in found.items()}


@cache
def sounding() -> Mapping[tuple[str, ...], tuple[str, ...]]:
    """Phonemes -> the words that sound so, in alphabetical order."""
    found: dict[tuple[str, ...], list[str]] = {}
    for word, said in pronunciations().items():
        for phonemes in said:
            found.setdefault(phonemes, []).append(word)
    return {phonemes: tuple(sorted(words)) for phonemes, words in found.items()}


def phonemes_of(word: str) -> tuple[str, ...]:
    """The usual pronunciation. Raises ``BadInput`` for a word that the dictionary lacks."""
    found = pronunciations().get(word.casefold())
    if not found:
        raise BadInput(f"{word!r} is not in CMUdict; give a word that is")
    return found[0]


def homophones(word: str) -> tuple[str, ...]:
    """Other words with the usual pronunciation of this one."""
    return tuple(w for w in sounding().get(phonemes_of(word), ()) if w != word.casefold() and w.isalpha())


def respelled(word: str) -> str:
    """A word written as others that sound like it: a homophone, else two words whose sounds together are its own, the
    longest first; the word itself where there is neither.

    Short and rare words are avoided by taking the split whose halves are nearest in length.
    """
    found = homophones(word)
    if found:
        return min(found, key=lambda w: (abs(len(w) - len(word)), w))
    said = phonemes_of(word)
    splits = []
    for k in range(2, len(said) - 1):
        left, right = sounding().get(said[:k], ()), sounding().get(said[k:], ())
        halves = [(a, b) for a in left for b in right if a.isalpha() and b.isalpha() and a + b != word]
        splits += [(abs(2 * k - len(said)), len(a) + len(b), a, b) for a, b in halves]
    return " ".join(min(splits)[2:]) if splits else word


def spoken_alphabet(phonemes: tuple[str, ...] | list[str]) -> str:
    """ARPABET as the embedded voice takes it, the first vowel stressed. Raises ``BadInput`` for other symbols."""
    out, stressed = [], False
    for symbol in phonemes:
        if symbol not in SPOKEN:
            raise BadInput(f"{symbol!r} is no ARPABET phoneme; {', '.join(sorted(PHONEMES))} are")
        first = symbol in VOWELS and not stressed
        sound = "ʌ" if first and symbol == "AH" else SPOKEN[symbol]
        out.append(("ˈ" if first else "") + sound)
        stressed = stressed or first
    return "".join(out)
