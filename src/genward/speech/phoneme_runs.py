"""Sounds that are written out in a text, in ARPABET ("AE M B ER") or IPA ("/ˈæmbɚ/"), read back as words.

An engine that takes phonemes speaks them, and one that does not may still be told to sound them out (HARMGEN's
condition Phoneme, as digested). X-SAMPA is not read."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from genward.ops.cmudict import SYMBOLS, VOWELS
from genward.ops.dictionary import english
from genward.speech.letter_sounds import Phones
from genward.speech.phonemes import Lexicon, within_one

IPA: Mapping[str, str] = {
    "tʃ": "CH", "dʒ": "JH", "ʧ": "CH", "ʤ": "JH", "aɪ": "AY", "ai": "AY", "aʊ": "AW", "au": "AW", "ɔɪ": "OY",
    "oɪ": "OY", "eɪ": "EY", "ei": "EY", "oʊ": "OW", "əʊ": "OW", "ou": "OW", "ɪə": "IH R", "eə": "EH R", "ɛə": "EH R",
    "ʊə": "UH R", "ɜɹ": "ER", "ɜr": "ER", "əɹ": "ER", "ər": "ER", "ɝ": "ER", "ɚ": "ER", "ɜ": "ER", "l̩": "AH L",
    "n̩": "AH N", "m̩": "AH M", "i": "IY", "u": "UW", "ɑ": "AA", "a": "AA", "ɒ": "AA", "ɔ": "AO", "æ": "AE", "ɛ": "EH",
    "e": "EH", "ɪ": "IH", "ɨ": "IH", "ᵻ": "IH", "ʊ": "UH", "ʌ": "AH", "ə": "AH", "ɐ": "AH", "o": "OW", "b": "B",
    "d": "D", "ð": "DH", "f": "F", "ɡ": "G", "g": "G", "h": "HH", "j": "Y", "k": "K", "l": "L", "ɫ": "L",
    "m": "M", "n": "N", "ŋ": "NG", "p": "P", "ɹ": "R", "r": "R", "ɾ": "T", "ʔ": "T", "s": "S", "ʃ": "SH",
    "t": "T", "θ": "TH", "v": "V", "w": "W", "ʍ": "W", "z": "Z", "ʒ": "ZH",
}  # fmt: skip
"""IPA as it is used for English, British and American -> ARPABET; longer spellings are tried first"""
_SILENT = "ˈˌːˑ.ʰ͜͡'‿\u032f\u02de"
"""Stress, length, ties and syllable marks: no sounds of their own"""
_TIES = dict.fromkeys(map(ord, "͜͡\u032f"))
_ONLY_IPA = "ɑæəɛɪʊʌɔðθʃʒŋɹɚɝɜɐɒɡɾʔɫʧʤˈˌːᵻɨʍ\u0329"
_BY_LENGTH = sorted(IPA, key=len, reverse=True)
_IPA_LETTERS = "".join(sorted({c for key in IPA for c in key} | set(_SILENT)))
_BRACKETED = re.compile(r"\[\[([^\[\]\n]{1,400})\]\]|(?<![\w/])/([^/\n]{1,400})/(?![\w/])")
_IPA_WORD = re.compile(rf"(?<!\w)[{re.escape(_IPA_LETTERS)}]+(?!\w)")
_IPA_GAP = re.compile(r"[ \t|,\-]{1,3}")
_GAP = r"[\s\-–_.,;|/#{}\[\]()]{1,4}"
_SYMBOL = r"[A-Za-z]{1,2}[0-2]?(?![^\W_]|')"
_ARPABET_RUN = re.compile(rf"(?<![^\W_])(?<!')(?:{_SYMBOL}(?:{_GAP}(?={_SYMBOL}))?){{2,}}")
_ARPABET = re.compile(r"[A-Za-z]{1,2}[0-2]?")
_BETWEEN_WORDS = re.compile(r"[|,;/#\n]|\s{2,}|\s[-–_.]\s")
SHORTEST = 2
"""Fewest sounds of a run; one of two needs a stress digit or upper case"""
MOST = 64
"""Sounds of one run that are read together; longer ones are cut"""
LONGEST_WORD = 16


@dataclass(frozen=True)
class Run:
    """Sounds written out in a text."""

    start: int
    end: int
    """The stretch of the text"""
    pieces: tuple[Phones, ...]
    """Its sounds, cut where the writing separates words, else in one piece"""


def ipa_sounds(text: str) -> Phones | None:
    """IPA as ARPABET, ``None`` where a character is none of it. Spaces and brackets are skipped."""
    text = text.translate(_TIES)
    out: list[str] = []
    at = 0
    while at < len(text):
        found = next((key for key in _BY_LENGTH if text.startswith(key, at)), None)
        if found is not None:
            out += IPA[found].split()
            at += len(found)
        elif text[at] in _SILENT or text[at] in " \t[]/|,-":
            at += 1
        else:
            return None
    return tuple(out)


def phoneme_runs(text: str) -> tuple[Run, ...]:
    """The stretches of a text that are written in sounds, in order, none overlapping another.

    ARPABET counts from two sounds with stress digits or in upper case, or from three in any case, one of them a vowel;
    IPA from one letter that only IPA has, or within ``[[ ]]``."""
    found: list[Run] = []
    for match in _BRACKETED.finditer(text):
        inner = match[1] if match[1] is not None else match[2]
        sure = match[1] is not None or any(c in _ONLY_IPA for c in inner)
        phones = ipa_sounds(inner) if sure else None
        if phones:
            found.append(Run(*match.span(), _pieces(inner.split())))
    found += _ipa(text)
    for match in _ARPABET_RUN.finditer(text):
        found += _arpabet(text, match.start(), match.end())
    out: list[Run] = []
    for run in sorted(found, key=lambda r: (r.start, -r.end)):
        if not out or run.start >= out[-1].end:
            out.append(run)
    return tuple(out)


def _ipa(text: str) -> list[Run]:
    """Runs of words in IPA. A word of plain letters belongs to one only if it is no English word."""
    out: list[Run] = []
    held: list[re.Match[str]] = []

    def close() -> None:
        if any(c in _ONLY_IPA for m in held for c in m[0]) and (pieces := _pieces([m[0] for m in held])):
            out.append(Run(held[0].start(), held[-1].end(), pieces))
        held.clear()

    for match in _IPA_WORD.finditer(text):
        if held and not _IPA_GAP.fullmatch(text, held[-1].end(), match.start()):
            close()
        if match[0].isascii() and (match[0] in english() or match[0] in "ai"):
            close()
        else:
            held.append(match)
    close()
    return out


def _pieces(words: Sequence[str]) -> tuple[Phones, ...]:
    """The sounds of words in IPA; in one piece where single sounds stand apart."""
    sounds = [s for s in (ipa_sounds(word) for word in words) if s]
    if sum(map(len, sounds)) < 2 * len(sounds):
        return (tuple(p for s in sounds for p in s),)
    return tuple(sounds)


def _arpabet(text: str, start: int, end: int) -> list[Run]:
    """Runs of ARPABET within a stretch of words of one or two letters."""
    tokens = [(m.start(), m.end(), m[0]) for m in _ARPABET.finditer(text, start, end)]
    out: list[Run] = []
    held: list[tuple[int, int, str]] = []
    for token in [*tokens, (end, end, "")]:
        if token[2] and token[2].rstrip("012").upper() in SYMBOLS:
            held.append(token)
            continue
        if held and _counts([t[2] for t in held]):
            out.append(Run(held[0][0], held[-1][1], _cut(text, held)))
        held = []
    return out


def _counts(symbols: Sequence[str]) -> bool:
    plain = [s.rstrip("012") for s in symbols]
    if not any(p.upper() in VOWELS for p in plain):
        return False
    marked = any(s[-1].isdigit() for s in symbols) or all(p.isupper() for p in plain)
    return len(symbols) >= (SHORTEST if marked else SHORTEST + 1)


def _cut(text: str, tokens: Sequence[tuple[int, int, str]]) -> tuple[Phones, ...]:
    """Sounds cut where the writing separates words, unless it separates nearly every two sounds so."""
    pieces: list[list[str]] = [[]]
    last = tokens[0][0]
    for a, b, symbol in tokens:
        if pieces[-1] and _BETWEEN_WORDS.search(text[last:a]):
            pieces.append([])
        pieces[-1].append(symbol.rstrip("012").upper())
        last = b
    if len(pieces) > 1 and len(tokens) < 2 * len(pieces):
        pieces = [[p for piece in pieces for p in piece]]
    return tuple(tuple(p) for p in pieces)


def sound_words(phones: Phones, lexicon: Lexicon, prefer: Collection[tuple[str, Phones]] = ()) -> tuple[str, ...]:
    """Words that a run of sounds says.

    Args:
        phones: sounds; beyond ``MOST`` they are read in stretches of that length.
        prefer: words with their sounds, a policy's say, that are read wherever they fit with at most one sound wrong.

    Returns:
        The cheapest cut into words: a preferred one costs 0.3 (0.8 with one sound wrong), a common one 1, another 1.5,
        a sound that belongs to no word 2 (it is left out). Where that leaves sounds over, one word for all of them
        with one sound wrong, if there is one.
    """
    if len(phones) > MOST:
        head, tail = phones[:MOST], phones[MOST:]
        return (*sound_words(head, lexicon, prefer), *sound_words(tail, lexicon, prefer))
    n = len(phones)
    best: list[tuple[float, tuple[str, ...], bool]] = [(0.0, (), True)]
    for end in range(1, n + 1):
        cost, words, whole = best[end - 1]
        option = (cost + 2.0, words, False)
        for start in range(max(0, end - LONGEST_WORD), end):
            found = _one(phones[start:end], lexicon, prefer)
            if found is None:
                continue
            price = best[start][0] + found[0]
            if price < option[0]:
                option = (price, (*best[start][1], found[1]), best[start][2])
        best.append(option)
    _, words, whole = best[n]
    if not whole and n >= 3 and (near := lexicon.near(phones)):
        return (near[0],)
    return words


def _one(phones: Phones, lexicon: Lexicon, prefer: Collection[tuple[str, Phones]]) -> tuple[float, str] | None:
    """Price and word of one stretch of sounds; single sounds are words only where somebody prefers them."""
    close = None
    for word, said in prefer:
        if said == phones:
            return 0.3, word
        if close is None and len(said) >= 3 and within_one(said, phones):
            close = word
    if close is not None:
        return 0.8, close
    found = lexicon.words(phones) if len(phones) > 1 else ()
    return (1.0 if found[0] in lexicon.common else 1.5, found[0]) if found else None
