"""Text normalization against disguised words: compatibility forms, invisible characters, look-alike letters,
spelled-out words, leetspeak, repeats.

Each step is one pure function on a string; ``normalize`` runs the chosen ones until nothing changes. The rule for every
step: text in its own script stays. Look-alikes are mapped only in words that mix scripts, or in words made of nothing
but look-alikes inside Latin text, so Russian, Greek, Arabic, Hindi, Thai, Chinese, Korean and Japanese pass unchanged,
joiners included.

Not from a paper: the steps are those that prompt-attack papers undo or exploit (zero-width characters and homoglyphs as
in Boucher et al., arXiv 2106.09898). The look-alike table is ours, a part of what Unicode's confusables (UTS 39) list:
letters that read as a Latin one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection
from functools import cache, partial

from genward.errors import BadInput, UnknownName

STEPS = ("unicode", "invisible", "confusables", "spaced", "leet", "repeats")
"""The steps in their order of application."""
ROUNDS = 12
"""Most rounds of all steps; ordinary text is stable after one or two."""
MAX_MARKS = {"LATIN": 2, "": 1}
"""Most combining marks on one letter after composition, by script; on a letter of any other ``OTHER_MARKS``."""
OTHER_MARKS = 4

_ALIKE = {
    # Cyrillic
    **dict(zip("аеорсухіјѕԁһкмтвнпгԛԝзцүп", "aeopcyxijsdhkmtbhnrqw3uyn", strict=True)),
    **dict(zip("АВЕКМНОРСТУХІЈЅԌԚԜЗ", "ABEKMHOPCTYXIJSGQW3", strict=True)),
    # Greek
    **dict(zip("αβγεηικνορτυχωμσς", "abyenikvoptuxwmos", strict=True)),
    **dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ABEZHIKMNOPTYX", strict=True)),
    # Armenian, Hebrew, Cherokee look-alikes
    **dict(zip("օսոհցքԼՕՍ", "ounhgpLOU", strict=True)),
    **dict(zip("ᎠᎡᎢᎪᎬᎳᎷᎻᏀᏃᏒᏔᏚᏞᏟᏢ", "DRTAEWMHGZRWSLCP", strict=True)),
}
"""Letter of another script -> the Latin letter (or leet digit) it reads as; used in words that mix scripts only."""
_IDENTICAL = frozenset("аеорсухіјѕԛԝАВЕКМНОРСТХІЈЅοΟΑΒΕΖΗΙΚΜΝΡΤΥΧ")
"""Those that no typeface tells apart: what a word may consist of wholly and still be taken for a disguised Latin one.
"""
_LATIN_FORMS = {
    **dict(zip("ɑɡıȷɩʟʀɴɢʙᴀᴄᴅᴇꜰʜᴊᴋᴍᴏᴘꜱᴛᴜᴠᴡʏᴢɪ", "agijilrngbacdefhjkmopstuvwyzi", strict=True)),
    **{chr(0x1F130 + k): chr(65 + k) for k in range(26)},
    **{chr(0x1F150 + k): chr(65 + k) for k in range(26)},
    **{chr(0x1F170 + k): chr(65 + k) for k in range(26)},
}
"""Small capitals and letters in boxes, which no language's spelling needs beside plain Latin letters; mapped always."""
_LEET = {
    "0": "o",
    "1": "i",
    "3": "e",
    "4": "a",
    "5": "s",
    "7": "t",
    "@": "a",
    "$": "s",
    "!": "i",
    "|": "l",
    "€": "e",
    "+": "t",
}
_DOUBLES = frozenset("oelsOELS")
"""Letters that English doubles most; a longer run of one becomes two of it, a run of any other becomes one."""
_VOWELS = frozenset("aeiouyAEIOUY")


def normalize(text: str, *, steps: Collection[str] = STEPS, words: Collection[str] = (), form: str = "NFKC") -> str:
    """The text without disguise; running it again changes nothing.

    Args:
        text: any string; lone surrogates are dropped in step ``invisible``.
        steps: which of ``STEPS``; none leaves the text as it is.
        words: words that decide between one and two of a repeated letter and where spelled-out letters are read
            together.
        form: Unicode form of step ``unicode``: ``NFKC`` or ``NFKD`` (accents of Latin letters are then taken off as
            well).

    Raises:
        BadInput: not a text, or another form. UnknownName: an unknown step.
    """
    if not isinstance(text, str):
        raise BadInput(f"a text to normalize is {type(text).__name__}; give a string")
    if form not in ("NFKC", "NFKD"):
        raise BadInput(f"Unicode form {form!r}; 'NFKC' or 'NFKD' are possible")
    for step in steps:
        if step not in STEPS:
            raise UnknownName("normalization step", step, STEPS)
    known = frozenset(w.casefold() for w in words)
    table: dict[str, Callable[[str], str]] = {
        "unicode": lambda s: compatible(s, form),
        "invisible": without_invisible,
        "confusables": latin_letters,
        "spaced": lambda s: joined_letters(s, known),
        "leet": without_leet,
        "repeats": lambda s: without_repeats(s, known),
    }
    for _ in range(ROUNDS):
        before = text
        for step in STEPS:
            if step in steps:
                text = table[step](text)
        if text == before:
            return text
    return text


# ---------------------------------------------------------------------------------------------------------------- steps


def compatible(text: str, form: str = "NFKC") -> str:
    """Compatibility form: full-width, mathematical, circled and ligature letters become plain. ``NFKD`` also strips
    accents of Latin letters."""
    if text.isascii():
        return text
    text = unicodedata.normalize("NFKC", "".join(_LATIN_FORMS.get(c, c) for c in unicodedata.normalize("NFKC", text)))
    if form == "NFKC":
        return text
    out: list[str] = []
    latin = False
    for c in unicodedata.normalize("NFKD", text):
        if unicodedata.category(c) == "Mn" and latin:
            continue
        latin = _script(c) == "LATIN" if unicodedata.category(c) != "Mn" else False
        out.append(c)
    return unicodedata.normalize("NFC", "".join(out))


def without_invisible(text: str) -> str:
    """Without control, format, private and unassigned characters, lone surrogates, overlays and piled-up marks.

    Line ends and tabs become spaces. Zero-width joiners stay between letters of scripts that spell with them and inside
    emoji, variation selectors behind a pictograph."""
    if text.isascii() and text.isprintable():
        return text
    out: list[str] = []
    marks, base = 0, ""
    for k, c in enumerate(text):
        kind = unicodedata.category(c)
        if c in "\t\n\v\f\r\x85\u2028\u2029":
            out.append(" ")
        elif kind == "Cf":
            if c in "\u200c\u200d" and _joins(out[-1] if out else "", text[k + 1 : k + 2]):
                out.append(c)
        elif kind in ("Mn", "Me"):
            marks += 1
            if _mark_stays(c, out[-1] if out else "", base, marks):
                out.append(c)
            continue
        elif kind not in ("Cc", "Cs", "Co", "Cn"):
            out.append(c)
        marks, base = 0, c
    return "".join(out)


def latin_letters(text: str) -> str:
    """Look-alike letters of other scripts as Latin ones, in words that mix scripts and in disguised words inside Latin
    text.

    A word that mixes scripts is mapped where all its foreign letters are look-alikes; a word of one other script only
    where all its letters are identical in shape to Latin ones, the text has Latin words and none of that script with a
    letter of its own."""
    if text.isascii():
        return text
    found = [(m.start(), m.end()) for m in re.finditer(r"[^\W_]+", text)]
    scripts = [_scripts(text[a:b]) for a, b in found]
    latin = any("LATIN" in s for s in scripts)
    spelled = {
        s
        for (a, b), own in zip(found, scripts, strict=True)
        for s in own
        if any(_script(c) == s and c not in _ALIKE for c in text[a:b])
    }
    out: list[str] = []
    last = 0
    for (a, b), own in zip(found, scripts, strict=True):
        word = text[a:b]
        others = own - {"LATIN"}
        all_alike = all(c in _ALIKE for c in word if c.isalpha() and _script(c) != "LATIN")
        whole = latin and not others & spelled and all(c in _IDENTICAL for c in word if c.isalpha())
        if len(word) == 1 and others == {"GREEK"}:  # a symbol of the sciences
            continue
        if others and all_alike and ("LATIN" in own or whole):
            word = "".join(_ALIKE.get(c, c) for c in word)
        out += [text[last:a], word]
        last = b
    return "".join([*out, text[last:]])


def joined_letters(text: str, words: Collection[str] = ()) -> str:
    """Words spelled out letter by letter are read together: ``b.o.m.b``, ``g-u-n`` (three letters or more), ``b o m b``
    (four or more).

    With ``words``, letters that spell one of these are joined at any length above 1.
    """

    def join(match: re.Match[str]) -> str:
        letters = re.sub(r"[^A-Za-z]", "", match[0])
        short = len(letters) < (4 if match[0][1] == " " else 3)
        return match[0] if short and letters.casefold() not in words else letters

    return _SPELLED_SPACE.sub(join, _SPELLED.sub(join, text))


_SPELLED = re.compile(r"(?<![A-Za-z0-9'])[A-Za-z]([.\-_*·•/])[A-Za-z](?:\1[A-Za-z])*(?![A-Za-z0-9'])")
_SPELLED_SPACE = re.compile(r"(?<![A-Za-z0-9'])[A-Za-z] [A-Za-z](?: [A-Za-z])*(?![A-Za-z0-9'])")


def without_leet(text: str) -> str:
    """Digits and signs that stand for letters inside a word: ``b0mb``, ``kn1fe``, ``@ss`` -> ``bomb``, ``knife``,
    ``ass``.

    Between Latin letters, at most two in a row, or ``@``/``$`` in front of two letters and ``$`` behind two. ``4k``,
    ``mp3``, ``1980s``, ``35mm``, ``r2d2`` and ``2nd`` stay. ``1`` reads as ``l`` in front of a vowel, else as ``i``.
    """

    def inner(match: re.Match[str]) -> str:
        run, after = match[0], match.string[match.end()]
        return "".join(("l" if after in _VOWELS else "i") if c == "1" and len(run) == 1 else _LEET[c] for c in run)

    text = re.sub(r"(?<=[A-Za-z])[013457@$!|€+]{1,2}(?=[A-Za-z])", inner, text)
    text = re.sub(r"(?<![\w@$])[@$](?=[A-Za-z]{2})", lambda m: _LEET[m[0]], text)
    return re.sub(r"(?<=[A-Za-z]{2})\$(?![\w$])", "s", text)


def without_repeats(text: str, words: Collection[str] = ()) -> str:
    """Three or more of one Latin letter in a word become two (e, l, o, s) or one; ``words`` decide where they know one
    of the spellings.

    Words of one letter only (``www``, ``xxx``) and Roman numerals stay.
    """

    def shorten(match: re.Match[str]) -> str:
        word = match[0]
        if not _RUN.search(word) or len(set(word.casefold())) == 1 or re.fullmatch(r"[IVXLCDM]+", word):
            return word
        for keep in (1, 2):
            spelled = _RUN.sub(partial(_kept, keep), word)
            if spelled.casefold() in words:
                return spelled
        return _RUN.sub(lambda m: m[1] * (2 if m[1] in _DOUBLES else 1), word)

    return re.sub(r"[A-Za-z]+", shorten, text)


_RUN = re.compile(r"([A-Za-z])\1{2,}")


def _kept(count: int, match: re.Match[str]) -> str:
    return match[1] * count


# -------------------------------------------------------------------------------------------------------------- scripts


@cache
def _script(c: str) -> str:
    """First word of a letter's Unicode name (``LATIN``, ``CYRILLIC``, ``CJK`` …), ``""`` for what is no letter."""
    return unicodedata.name(c, "").split(" ")[0].split("-")[0] if c.isalpha() else ""


def _scripts(word: str) -> set[str]:
    return {s for s in map(_script, word) if s}


_JOINING = frozenset(
    "ARABIC SYRIAC MONGOLIAN NKO DEVANAGARI BENGALI GURMUKHI GUJARATI ORIYA TAMIL TELUGU KANNADA MALAYALAM SINHALA KHMER MYANMAR TIBETAN".split()
)


def _letter_of_joining_script(c: str) -> bool:
    return bool(c) and unicodedata.name(c, "").split(" ")[0] in _JOINING


def _pictograph(c: str) -> bool:
    return bool(c) and (unicodedata.category(c) in ("So", "Sk") or c == "\ufe0f") and ord(c) > 0x2000


def _joins(before: str, after: str) -> bool:
    """Whether a joiner between these two has a use."""
    return (_letter_of_joining_script(before) and _letter_of_joining_script(after)) or (
        _pictograph(before) and _pictograph(after)
    )


def _mark_stays(c: str, before: str, base: str, count: int) -> bool:
    if 0xFE00 <= ord(c) <= 0xFE0F or 0xE0100 <= ord(c) <= 0xE01EF:
        return _pictograph(before) and before != "\ufe0f"
    if (
        0x0334 <= ord(c) <= 0x0338
        or unicodedata.category(c) == "Me"
        or 0x20D0 <= ord(c) <= 0x20FF
        or c in "\u034f\u115f\u1160"
    ):
        return False
    return bool(before) and before != " " and count <= MAX_MARKS.get(_script(base), OTHER_MARKS)
