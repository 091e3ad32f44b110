"""What a text that is going to be spoken says: several readings of it, for moderation.

A text for an engine can carry words in ways that a word list does not see: look-alike letters and leetspeak, words
spelled out, sounds written in ARPABET or IPA, spellings that only sound like the word, markup. HARMGEN, as digested,
asks that single-letter runs, letter names and phoneme runs be collapsed before moderating; that the four readings here
are kept apart, so that none can hide what another shows, is inferred."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from genward.errors import BadInput
from genward.ops.code_points import ALIKE, script
from genward.ops.dictionary import english
from genward.ops.text_normal import STEPS, normalize
from genward.speech.letter_sounds import Phones
from genward.speech.phoneme_runs import ipa_sounds, phoneme_runs, sound_words
from genward.speech.phonemes import Lexicon, english_lexicon, phonetic_key
from genward.speech.spelling_out import unspell

MAX_TEXT = 20_000
"""Characters of the longest text that is read: about 20 minutes of speech"""
TAGS = frozenset(
    "speak p s break say-as phoneme sub emphasis prosody voice audio mark lang w token desc lexicon lookup metadata "
    "meta par seq media bookmark silence pron volume rate pitch spell express-as".split()
)
"""Elements of SSML and of older speech markup, without their prefixes (``amazon:``, ``mstts:``)"""
APART = frozenset("speak p s voice par seq media audio desc metadata".split())
"""Those that words do not run across"""
_TAG = re.compile(r"<(/?)([A-Za-z][\w.:-]{0,40})((?:\s[^<>]{0,400})?)(/?)>")
_ALIAS = re.compile(
    r"<(?:\w{1,20}:)?sub\s[^<>]{0,400}?alias\s*=\s*(\"[^\"<>]*\"|'[^'<>]*')[^<>]*>"
    r"(?:[^<>]{0,400}</(?:\w{1,20}:)?sub>)?",
    re.I,
)
_PH = re.compile(
    r"<(?:\w{1,20}:)?phoneme\s[^<>]{0,400}?ph\s*=\s*(\"[^\"<>]*\"|'[^'<>]*')[^<>]*>"
    r"(?:[^<>]{0,400}</(?:\w{1,20}:)?phoneme>)?",
    re.I,
)
_REMARK = re.compile(r"<!--.*?-->|<\?.*?\?>|<!\[CDATA\[|\]\]>|<!DOCTYPE[^<>]*>", re.S)
_APART_FROM_SPACES = tuple(step for step in STEPS if step != "spaced")
_SAME = re.compile(r"(\S)\1{3,}")
_ENDLESS = re.compile(r"[^\W_]{60}(?=[^\W_])")
_WORD = re.compile(r"[^\W_]+(?:['’][^\W\d_]{1,2}(?![^\W_]))?")
_LINE = re.compile(r"[ \t]*[\n\r\v\f\x85\u2028\u2029][\s]*")
_BREAK = re.compile(r"[.!?;\n。！？；]")
_ALONE = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
"""Scripts that write no spaces between words: each of their characters counts as one"""


@dataclass(frozen=True)
class Reading:
    """One way to read a text, in words."""

    words: tuple[str, ...]
    """Lower case, without punctuation, accents and look-alikes; each character of a script without spaces is one"""
    breaks: frozenset[int] = field(default=frozenset())
    """Places between words where a sentence ends"""

    @property
    def text(self) -> str:
        """The words with spaces between."""
        return " ".join(self.words)


@dataclass(frozen=True)
class Readings:
    """The readings of a text; see ``readings``."""

    plain: Reading
    """As written, disguises of letters and markup undone"""
    unspelled: Reading
    """What is spelled out read together"""
    dephonemized: Reading
    """Sounds that are written out read as words, substitutes of SSML in place of what they replace, and what is spelled
    out read together"""
    key: str
    """``speech.phonemes.phonetic_key`` of the last"""

    def distinct(self) -> tuple[tuple[str, Reading], ...]:
        """Names and readings, those that equal an earlier one left out."""
        found: dict[Reading, str] = {}
        for name in ("plain", "unspelled", "dephonemized"):
            found.setdefault(getattr(self, name), name)
        return tuple((name, reading) for reading, name in found.items())


def without_markup(text: str) -> str:
    """A text without the tags of SSML, entities decoded. Tags that SSML does not have stay, since an engine may read
    them aloud."""

    def shown(match: re.Match[str]) -> str:
        name = match[2].casefold()
        if name.rpartition(":")[2] not in TAGS:
            return match[0]
        return " \n " if name.rpartition(":")[2] in APART else ""

    return html.unescape(_TAG.sub(shown, _REMARK.sub("", text)))


def normal_words(text: str, own: Collection[str], steps: Collection[str] = STEPS) -> Reading:
    """The words of a text without disguises; the end of a line ends a sentence, which the normalizer would forget."""
    return tokens(normalize(_LINE.sub(" . ", text), steps=steps, words=own))


def with_substitutes(text: str) -> str:
    """A text with what SSML says in place of what it shows: the ``alias`` of ``<sub>``, the ``ph`` of ``<phoneme>`` (as
    IPA in double brackets, or as it stands)."""

    def phones(match: re.Match[str]) -> str:
        said = html.unescape(match[1][1:-1])
        return f" [[{said}]] " if ipa_sounds(said) else f" {said} "

    return _PH.sub(phones, _ALIAS.sub(lambda m: f" {m[1][1:-1]} ", text))


def tokens(text: str) -> Reading:
    """The words of a text and where its sentences end."""
    words: list[str] = []
    breaks: set[int] = set()
    last = 0
    for match in _WORD.finditer(text):
        if words and _BREAK.search(text, last, match.start()):
            breaks.add(len(words))
        last = match.end()
        words += _parts(_folded(match[0]))
    return Reading(tuple(words), frozenset(k for k in breaks if k < len(words)))


def _folded(word: str) -> str:
    """A word in lower case, with compatibility forms, accents and look-alikes of Latin letters undone."""
    if word.isascii():
        return word.lower()
    text = unicodedata.normalize("NFKD", word.replace("’", "'")).casefold()
    if any(script(c) in ("LATIN",) for c in text):
        text = "".join(ALIKE.get(c, c) for c in text if not unicodedata.combining(c))
    return unicodedata.normalize("NFC", text)


def _parts(word: str) -> list[str]:
    """A word, or its characters where it is of a script without spaces."""
    if word.isascii() or not any(script(c) in _ALONE for c in word):
        return [word] if word else []
    out: list[str] = []
    for c in word:
        alone = script(c) in _ALONE
        if not alone and out and script(out[-1][-1]) not in _ALONE:
            out[-1] += c
        else:
            out.append(c)
    return out


def dephonemize(text: str, lexicon: Lexicon, prefer: Collection[tuple[str, Phones]] = ()) -> str:
    """A text with runs of ARPABET and IPA replaced by the words that they say; arguments as
    ``speech.phoneme_runs.sound_words``. A run that says no word stays."""
    out: list[str] = []
    last = 0
    for run in phoneme_runs(text):
        words = [w for piece in run.pieces for w in sound_words(piece, lexicon, prefer)]
        if words:
            out += [text[last : run.start], " ", " ".join(words), " "]
            last = run.end
    return "".join([*out, text[last:]])


def readings(text: str, words: Iterable[str] = (), lexicon: Lexicon | None = None) -> Readings:
    """A text as it may be heard.

    Args:
        text: at most ``MAX_TEXT`` characters, with SSML or without.
        words: lower-case words of a policy, which are read out of anything that may be a disguise of them.
        lexicon: pronunciations; ``None`` for those of the pocketsphinx wheel.

    Raises:
        BadInput: no text, one that is too long, or pocketsphinx is not installed.
    """
    if not isinstance(text, str):
        raise BadInput(f"a text to moderate is {type(text).__name__}; give a string")
    if len(text) > MAX_TEXT:
        raise BadInput(f"a text to moderate has {len(text):,} characters, at most {MAX_TEXT:,} are read; split it")
    own = frozenset(words)
    lexicon = english_lexicon() if lexicon is None else lexicon
    prefer = _preferred(own, lexicon)
    # no word has 60 letters; left in one piece such runs would only cost time
    text = _ENDLESS.sub(r"\g<0> ", _SAME.sub(r"\1\1\1", text))
    shown = without_markup(text)
    plain = normal_words(shown, own)
    unspelled = _unspelled(shown, own)
    said = dephonemize(without_markup(with_substitutes(text)), lexicon, prefer)
    dephonemized = unspelled if said == shown else _unspelled(said, own)
    return Readings(plain, unspelled, dephonemized, phonetic_key(dephonemized.text, lexicon))


@lru_cache(maxsize=64)
def _preferred(own: frozenset[str], lexicon: Lexicon) -> tuple[tuple[str, Phones], ...]:
    return tuple((word, said) for word in sorted(own) for said in lexicon.pronunciations(word) if said)


def _unspelled(text: str, own: Collection[str]) -> Reading:
    """A text with what is spelled out read together. Letters are left apart by the normalizer here, since it takes one
    word after the other where this looks for the best cut of a whole run."""
    reading = normal_words(text, own, _APART_FROM_SPACES)
    found, places = unspell(reading.words, english(), own)
    return Reading(found, _moved(reading.breaks, places))


def _moved(breaks: Collection[int], places: Sequence[int]) -> frozenset[int]:
    """Sentence ends of words, in terms of words that begin at the given places of them."""
    return frozenset(k for k, place in enumerate(places) if k and place in breaks)
