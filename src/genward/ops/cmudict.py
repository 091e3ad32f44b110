"""How English words sound: CMUdict, which the pocketsphinx wheel carries (BSD), and what it tells.

Phonemes are ARPABET without stress (``AE M B ER``)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from genward.core.reading import read_text, short
from genward.errors import BadArtifact, BadInput
from genward.ops.trigrams import model_file

VOWELS = frozenset("AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split())
CONSONANTS = frozenset("B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH".split())
SYMBOLS = VOWELS | CONSONANTS
"""The 39 sounds of ARPABET as CMUdict uses it"""
MAX_FILE = 16 << 20
SPOKEN = dict(
    zip(
        "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH".split(),
        "ɑ æ ə ɔ W I b ʧ d ð ɛ ɜɹ A f ɡ h ɪ i ʤ k l m n ŋ O Y p ɹ s ʃ t θ ʊ u v w j z ʒ".split(),
        strict=True,
    )
)
"""ARPABET -> the alphabet that the embedded voice takes (misaki's, in which capitals are diphthongs)."""


def read_dictionary(text: str, where: str = "dictionary") -> dict[str, tuple[str, ...]]:
    """Word -> its pronunciations, sounds with spaces between, the usual one first.

    Args:
        text: a line each of a word and its sounds; ``word(2)`` is another pronunciation; stress digits are dropped;
            lines that start with ``;;;`` or ``#`` are comments.
        where: what to call it in errors.

    Raises:
        BadArtifact: a line without sounds or with a symbol that is none, named by its number.
    """
    found: dict[str, list[str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        word, _, rest = line.partition(" ")
        if not word or word.startswith((";;;", "#")):
            continue
        phones = [p.rstrip("012") for p in rest.partition("#")[0].split()]
        if not phones or not SYMBOLS.issuperset(phones):
            raise BadArtifact(
                f"{where}, line {number}: {short(line, 60)!r} is no word with sounds in ARPABET; reinstall the package "
                "with: pip install --force-reinstall pocketsphinx (version 5)"
            )
        if word.endswith(")") and "(" in word[1:]:
            word = word[: word.rindex("(")]
        said = found.setdefault(word.lower(), [])
        if (joined := " ".join(phones)) not in said:
            said.append(joined)
    return {word: tuple(said) for word, said in found.items()}


@cache
def dictionary() -> Mapping[str, tuple[str, ...]]:
    """The wheel's dictionary as ``read_dictionary`` gives it; read once a process (about 0.4 s).

    Raises:
        BadInput: pocketsphinx is not installed. BadArtifact: the file is damaged.
    """
    file = model_file("cmudict-en-us.dict")
    return read_dictionary(read_text(file, "pronouncing dictionary", MAX_FILE), str(file))


@cache
def sounding() -> Mapping[str, tuple[str, ...]]:
    """Sounds with spaces between -> the words that sound so, in alphabetical order."""
    found: dict[str, list[str]] = {}
    for word, said in dictionary().items():
        for sounds in said:
            found.setdefault(sounds, []).append(word)
    return {sounds: tuple(sorted(words)) for sounds, words in found.items()}


def phonemes_of(word: str) -> tuple[str, ...]:
    """The usual pronunciation. Raises ``BadInput`` for a word that the dictionary lacks."""
    found = dictionary().get(word.casefold())
    if not found:
        raise BadInput(f"{word!r} is not in CMUdict; give a word that is")
    return tuple(found[0].split())


def homophones(word: str) -> tuple[str, ...]:
    """Other words with the usual pronunciation of this one."""
    return tuple(w for w in sounding().get(" ".join(phonemes_of(word)), ()) if w != word.casefold() and w.isalpha())


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
        left, right = (sounding().get(" ".join(part), ()) for part in (said[:k], said[k:]))
        halves = [(a, b) for a in left for b in right if a.isalpha() and b.isalpha() and a + b != word]
        splits += [(abs(2 * k - len(said)), len(a) + len(b), a, b) for a, b in halves]
    return " ".join(min(splits)[2:]) if splits else word


def spoken_alphabet(phonemes: tuple[str, ...] | list[str]) -> str:
    """ARPABET as the embedded voice takes it, the first vowel stressed. Raises ``BadInput`` for other symbols."""
    out, stressed = [], False
    for symbol in phonemes:
        if symbol not in SPOKEN:
            raise BadInput(f"{symbol!r} is no ARPABET phoneme; {', '.join(sorted(SYMBOLS))} are")
        first = symbol in VOWELS and not stressed
        sound = "ʌ" if first and symbol == "AH" else SPOKEN[symbol]
        out.append(("ˈ" if first else "") + sound)
        stressed = stressed or first
    return "".join(out)
