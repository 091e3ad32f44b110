"""Text normalization against disguised words: what a reader makes of compatibility forms, invisible characters,
look-alike letters, spelled-out words, leetspeak and repeats.

A spelling is replaced only where that yields a word: one of the English dictionary where the disguise is plain (digits
between letters, mixed scripts, letters of another alphabet for mathematics), one of the caller's own ``words`` where it
could as well be somebody's spelling (accents, letters of other languages, digits at an end, hyphens). All else stays as
it was written, name, prompt syntax, script and form. Only characters that show nothing go always.

Not from a paper: the spellings are those that prompt-attack papers undo or exploit (zero-width characters and
homoglyphs as in Boucher et al., arXiv 2106.09898)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache
from itertools import product
from typing import NamedTuple

from genward.errors import BadInput, UnknownName
from genward.ops.code_points import (
    ALIKE,
    BLANKS,
    BOXED,
    IDENTICAL,
    OTHER_LATIN,
    SMALL_CAPITALS,
    script,
    scripts,
    visible_text,
)
from genward.ops.dictionary import english

STEPS = ("unicode", "invisible", "confusables", "spaced", "leet", "repeats")
"""What can be undone: compatibility forms and accents, characters that show nothing, letters of other scripts, words
taken apart or run together, leetspeak, repeated letters."""
ROUNDS = 12
"""Most rounds; ordinary text is stable after one or two."""
SHORT, LONG = 3, 4
"""Letters of the shortest word that is read: one of the caller's, one of the dictionary."""
GLUED = 5
"""Letters of the shortest of the caller's words that is cut off the end of another: shorter ones end many a compound
(watermark, mailbox)."""
CHOICES = 64
"""Most readings of one word that are tried."""
LONGEST = 32
"""Characters of the longest spelling that is looked at, runs of one letter shortened to three."""
SLACK = 4
"""Characters more than the caller's longest word that one of them, taken apart, may have."""

LEET = {
    "0": "o", "1": "il", "3": "e", "4": "a", "5": "s", "7": "t", "@": "a", "$": "s", "!": "il", "|": "li", "€": "e",
    "+": "t",
}  # fmt: skip
"""Digit or sign -> letters that it stands for inside a word."""
RARE_LEET = {"2": "z", "6": "gb", "8": "b", "9": "g", "(": "c", "{": "c", "<": "c"}
"""Those that only one of the caller's words is read from."""
_SIGNS = "@$!|€+"
_MARKS = "\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe00-\ufe0f\ufe20-\ufe2f"
_CHARACTER = rf"(?:[^\W_]|[{_SIGNS}\u24b6-\u24e9\U0001f130-\U0001f1ff])[{_MARKS}]*"
_TOKEN = re.compile(rf"(?:{_CHARACTER})+")
_APART = re.compile(
    rf"(?<![^\W_])(?<!['’]){_CHARACTER}(?:[\s.\-_*·•/'’~,:;\u2800\u3164]{{1,3}}{_CHARACTER}){{2,}}(?![^\W_])"
)
_BETWEEN = r".\-_*·•'’~/\\\u2010-\u2015\u2212\u2024\u2027\u25cc\u30fb\uff65\u3002\uff61\uff0e"
"""Signs that stand between the parts of one word: stops, hyphens, dashes, bullets, of any width."""
_PARTS = re.compile(rf"[^\W_]++(?:(?:[{_BETWEEN}]|\*\*|__)[^\W_]++)+")
_ONE, _PIECE = re.compile(_CHARACTER), re.compile(r"[^\W_]+")
_NAME = re.compile(r"<[^<>\s]*>")
_SAME = re.compile(r"(.)\1+")
_RUN = re.compile(r"(.)\1{2,}")


def normalize(
    text: str, *, steps: Collection[str] = STEPS, words: Collection[str] = (), dictionary: Collection[str] | None = None
) -> str:
    """The text as a reader takes it; running it again changes nothing.

    Args:
        text: any string; lone surrogates are dropped in step ``invisible``.
        steps: which of ``STEPS``; none leaves the text as it is.
        words: words that are looked for, a policy's say: any disguise of one is undone.
        dictionary: lower-case words that a plain disguise may yield; ``None`` for the English ones
            (``ops.dictionary``).

    Raises:
        BadInput: not a text. UnknownName: an unknown step. BadArtifact: the dictionary is not installed.
    """
    if not isinstance(text, str):
        raise BadInput(f"a text to normalize is {type(text).__name__}; give a string")
    for step in steps:
        if step not in STEPS:
            raise UnknownName("normalization step", step, STEPS)
    reader = Reader(frozenset(steps), own_words(words), english() if dictionary is None else frozenset(dictionary))
    for _ in range(ROUNDS):
        before = text
        text = reader(text)
        if text == before:
            break
    return text


class Own(NamedTuple):
    """A caller's words, prepared once however many texts are read for them."""

    words: frozenset[str]
    """In lower case with their plurals, those of fewer than ``SHORT`` letters left out"""
    single: frozenset[str]
    """Each with every letter once in a row"""
    heads: tuple[str, ...]
    """Those that may be glued to another word, longest first"""
    longest: int


@cache
def _own(words: frozenset[str]) -> Own:
    kept = {w for w in map(str.casefold, words) if len(w) >= SHORT and w.isascii() and w.isalpha()}
    own = frozenset(kept | {w + "s" for w in kept if not w.endswith("s")})
    heads = sorted((w for w in own if len(w) >= GLUED), key=lambda w: (-len(w), w))
    return Own(own, frozenset(_SAME.sub(r"\1", w) for w in own), tuple(heads), max(map(len, own), default=0))


def own_words(words: Collection[str]) -> Own:
    """The caller's words as ``Reader`` wants them."""
    return _own(words if isinstance(words, frozenset) else frozenset(words))


class Letter(NamedTuple):
    """What one character may be read as."""

    options: str
    """Lower-case letters, the likeliest first; empty for a mark that is dropped"""
    weak: bool = False
    """Whether it may as well be meant as it is written, so that only one of the caller's words is read from it"""
    changed: bool = True
    """Whether it is another character than its reading"""


class Reader:
    """The steps over one set of words; see ``normalize``."""

    def __init__(self, steps: frozenset[str], own: Own, dictionary: frozenset[str]) -> None:
        self.steps, self.dictionary = steps, dictionary
        self.own, self.single, self.heads, self.longest = own

    def __call__(self, text: str) -> str:
        """One round."""
        if "invisible" in self.steps:
            text = self.without_blanks(text)
            text = visible_text(text)
        latin = text.isascii() or "LATIN" in scripts(unicodedata.normalize("NFKC", text))
        foreign = set() if text.isascii() else self.foreign(text)
        east = not text.isascii() and any(script(c) in ("CJK", "HIRAGANA", "KATAKANA", "HANGUL") for c in text)
        self.around = (latin, frozenset(foreign), east)
        if "spaced" in self.steps:
            text = _APART.sub(self.together, text)
            text = _PARTS.sub(self.parts, text)
        names = [m.span() for m in _NAME.finditer(text)]  # of loaded embeddings and extra networks

        def one(match: re.Match[str]) -> str:
            self.named = any(a < match.start() < b for a, b in names)
            return self.token(match[0])

        return _TOKEN.sub(one, text)

    around: tuple[bool, frozenset[str], bool] = (True, frozenset(), False)
    """Of the text: whether it has Latin words, scripts in which it really writes, whether it is East Asian"""

    named: bool = False
    """Whether the word at hand is in the name of an embedding, ``<my-t0y>``, say"""

    @staticmethod
    def foreign(text: str) -> set[str]:
        """Scripts of which the text has a letter that looks like no Latin one."""
        text = unicodedata.normalize("NFKC", text)
        return {script(c) for c in text if c.isalpha() and c not in ALIKE and not c.isascii()} - {"LATIN"}

    def without_blanks(self, text: str) -> str:
        """Empty cells between letters: nothing where the letters make a word without them, else a space."""
        if not any(c in BLANKS for c in text):
            return text

        def shown(match: re.Match[str]) -> str:
            joined = re.sub(rf"[{''.join(BLANKS)}]+", "", match[0])
            found = self.word([joined], spelled=True) or (joined if joined.casefold() in self.dictionary else "")
            return found or re.sub(rf"[{''.join(BLANKS)}]+", " ", match[0])

        return re.sub(rf"[A-Za-z0-9]+(?:[{''.join(BLANKS)}]+[A-Za-z0-9]+)+", shown, text)

    # ------------------------------------------------------------------------------------------------------- characters

    def letter(self, c: str, mixed: bool, whole: bool) -> Letter | None:
        """What a character reads as under the steps; ``None`` where it is no letter of any word."""
        if c.isascii() and c.isalpha():
            return Letter(c.lower(), changed=False)
        if "unicode" in self.steps and not c.isascii():
            plain = unicodedata.normalize("NFKC", c)
            if len(plain) == 1 and plain.isascii() and plain != c:
                read = Letter(plain.lower()) if plain.isalpha() else self.letter(plain, mixed, whole)
                return read and Letter(read.options, read.weak or self.around[2])
            if c in SMALL_CAPITALS or c in BOXED:
                return Letter((SMALL_CAPITALS.get(c) or BOXED[c]).lower(), weak=not whole)
            if c in OTHER_LATIN:
                return Letter(OTHER_LATIN[c].lower(), weak=True)
            base = unicodedata.normalize("NFD", c)[0]
            if base.isascii() and base.isalpha():
                return Letter(base.lower(), weak=True)
            if base in OTHER_LATIN:
                return Letter(OTHER_LATIN[base].lower(), weak=True)
        if "confusables" in self.steps and c in ALIKE and mixed:
            return Letter(ALIKE[c].lower())
        if "leet" in self.steps:
            if c in LEET:
                return Letter(LEET[c])
            if c in RARE_LEET:
                return Letter(RARE_LEET[c], weak=True)
            if c.isdecimal() and not c.isascii() and (plain := str(unicodedata.decimal(c))) in LEET:
                return Letter(LEET[plain], weak=True)  # digits of other scripts, ० say
        return None

    def letters(self, characters: Sequence[str]) -> list[Letter] | None:
        """Readings of a word given as pieces, one character with its marks or several; ``None`` where one has none."""
        text = unicodedata.normalize("NFC", "".join(characters))
        own = scripts(unicodedata.normalize("NFKC", text))
        others = own - {"LATIN"}
        bare = [c for c in text if c.isalpha()]
        disguised = self.around[0] and not others & self.around[1] and all(c in IDENTICAL for c in bare)
        mixed = bool(others) and ("LATIN" in own or disguised)
        whole = all(c in SMALL_CAPITALS or c in BOXED or c in "sxqSXQ" for c in text if c.isalnum() or c in BOXED)
        found: list[Letter] = []
        for c, marks in _clusters(text):
            read = self.letter(c, mixed, whole)
            if read is None:
                return None
            if marks:
                if "unicode" not in self.steps:
                    return None
                covered = any(0x334 <= ord(m) <= 0x338 or 0x20D0 <= ord(m) <= 0x20FF for m in marks)
                read = Letter(read.options, read.weak or not (covered or len(marks) > 2))
            found.append(read)
        return found

    # ------------------------------------------------------------------------------------------------------------ words

    def word(self, characters: Sequence[str], *, spelled: bool = False, own_only: bool = False) -> str:
        """The word that a spelling disguises, in its case; ``""`` where it disguises none.

        Args:
            spelled: whether the letters stood apart, which is a disguise even where each of them is plain.
            own_only: whether only the caller's words count.
        """
        if sum(map(len, characters)) > LONGEST:
            characters = [_RUN.sub(r"\1\1\1", "".join(characters))]
            if len(characters[0]) > LONGEST:
                return ""
        found = self.letters(characters)
        if not found or not any(read.changed for read in found) and not spelled and not self.repeats(characters):
            return ""
        text = "".join(characters)
        weak = own_only or self.named or any(read.weak for read in found) or designation(text)
        for candidate in _readings(found):
            for shorter in self.shortened(candidate):
                if shorter in self.own or (not weak and len(shorter) >= LONG and shorter in self.dictionary):
                    return _cased(shorter, text)
                split = self.split(shorter)
                if split:
                    return split
        return "a" if not weak and text in ALIKE and found[0].options == "a" else ""

    def repeats(self, characters: Sequence[str]) -> bool:
        return "repeats" in self.steps and _RUN.search("".join(characters).casefold()) is not None

    def shortened(self, word: str) -> Iterator[str]:
        """The word, and where a letter stands three times or more those with one or two of it."""
        yield word
        if "repeats" in self.steps and (runs := len(_RUN.findall(word))):
            for counts in product((1, 2), repeat=min(runs, 5)):
                left = list(counts)
                yield _RUN.sub(lambda m: m[1] * (left.pop(0) if left else 1), word)  # noqa: B023 - used at once

    def split(self, word: str) -> str:
        """``catpistol`` -> ``cat pistol``: a word of the dictionary in front of one of the caller's, where both
        together are none."""
        if "spaced" not in self.steps or word in self.dictionary or word in self.own:
            return ""
        if not word.endswith(self.heads):
            return ""
        for head in self.heads:
            front = word.removesuffix(head)
            if front != word and len(front) >= SHORT and front in self.dictionary:
                return f"{front} {head}"
        return ""

    def token(self, text: str) -> str:
        """A word, or a run of words and signs, with what is disguised in it undone."""
        if text.isascii() and text.isalpha():
            if text.casefold() in self.own or text.casefold() in self.dictionary:
                return text
            return self.split(text) or self.word([text]) or text
        if found := self.word([text]):
            return found
        core = text.strip(_SIGNS)
        if core and core != text:
            return text.replace(core, self.token(core), 1)
        parts = re.split(rf"([{re.escape(_SIGNS)}]+)", text)
        return (
            "".join(self.token(p) if k % 2 == 0 and p else p for k, p in enumerate(parts)) if len(parts) > 1 else text
        )

    # ------------------------------------------------------------------------------------------------ words taken apart

    def together(self, match: re.Match[str]) -> str:
        """Letters that stand apart, read together: all of them where they spell a word of the dictionary (``initials``
        none), some in a row where they spell one of the caller's."""
        text = match[0]
        places = [(m.start(), m.end()) for m in _ONE.finditer(text)]
        for first in (0, 1):  # "a b o m b": the article may stand in front
            whole = [text[a:b] for a, b in places[first:]]
            if LONG <= len(whole) <= LONGEST and not text.isupper() and (first == 0 or text[0] in "aA"):
                if found := self.word(whole, spelled=True):
                    return text[: places[first][0]] + found + text[places[-1][1] :]
        return self.within(text, places, range(LONGEST, SHORT - 1, -1))

    def within(self, text: str, places: Sequence[tuple[int, int]], sizes: Sequence[int]) -> str:
        """The text with pieces in a row read together where they spell one of the caller's words, longest first."""
        out, last, k = [], 0, 0
        plain = text.isascii() and all(text[a:b].isalpha() for a, b in places)
        most = self.longest + SLACK
        while k < len(places):
            for size in (n for n in sizes if n <= len(places) - k):
                pieces = [text[a:b] for a, b in places[k : k + size]]
                if sum(map(len, pieces)) > most:
                    continue
                if plain and not self.likely("".join(pieces)):
                    continue
                if found := self.word(pieces, spelled=True, own_only=True):
                    out += [text[last : places[k][0]], found]
                    k += size
                    last = places[k - 1][1]
                    break
            else:
                k += 1
        return "".join([*out, text[last:]])

    def likely(self, plain: str) -> bool:
        """Whether plain letters may be one of the caller's words, its repeats undone."""
        lower = plain.casefold()
        return lower in self.own or ("repeats" in self.steps and _SAME.sub(r"\1", lower) in self.single)

    def parts(self, match: re.Match[str]) -> str:
        """Pieces of a word with hyphens or the like between them, read together where they spell one of the
        caller's."""
        return self.within(match[0], [(m.start(), m.end()) for m in _PIECE.finditer(match[0])], range(6, 1, -1))


def designation(word: str) -> bool:
    """Whether a word looks like the name of a model, a unit or a year rather than like leetspeak: a digit at either
    end, different digits side by side, or few letters beside them (``C3PO``, ``AK47s``, ``T34s``, ``1980s``)."""
    digits = [c for c in word if c.isdigit()]
    runs = re.findall(r"\d{2,}", word)
    ends = bool(word) and (word[0].isdigit() or word[-1].isdigit())
    signs = word[:1] in _SIGNS or word[-1:] in _SIGNS
    few = len(word) - len(digits) < len(digits) + (len(set(digits)) > 1)
    return ends or signs or few or any(len(set(r)) > 1 for r in runs)


def _clusters(text: str) -> Iterator[tuple[str, str]]:
    """Characters with the marks that do not compose with them."""
    base, marks = "", ""
    for c in text:
        if base and unicodedata.category(c) in ("Mn", "Me"):
            marks += c
            continue
        if base:
            yield base, marks
        base, marks = c, ""
    if base:
        yield base, marks


def _readings(letters: Sequence[Letter]) -> Iterator[str]:
    """Words that the letters may spell, at most ``CHOICES``."""
    for count, chosen in enumerate(product(*(read.options for read in letters))):
        if count >= CHOICES:
            return
        yield "".join(chosen)


def _cased(word: str, like: str) -> str:
    """The word in the case of its spelling."""
    letters: Callable[[str], bool] = lambda c: c.isalpha() or c in BOXED  # noqa: E731
    found = [c for c in like if letters(c)]
    if len(found) > 1 and all(c.isupper() or c in BOXED for c in found):
        return word.upper()
    return word.capitalize() if like[:1].isupper() and like[:1] not in BOXED else word
