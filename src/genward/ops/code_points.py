"""What normalization knows of characters: which ones show nothing, which script a letter belongs to, which letter a
look-alike reads as.

The set of default-ignorable characters is Unicode's own property; the look-alikes are ours, a part of what Unicode's
confusables (UTS 39) list: characters that read as a Latin letter."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from functools import cache

UNICODE = "17.0"
"""Version of the Unicode data that ``_IGNORABLE`` was taken from."""
_IGNORABLE = (
    (0x00AD, 0x00AD), (0x034F, 0x034F), (0x061C, 0x061C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F),
    (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF),
)  # fmt: skip
"""Ranges of the property ``Default_Ignorable_Code_Point`` (DerivedCoreProperties.txt), ends included."""
BLANKS = frozenset("\u115f\u1160\u3164\uffa0\u2800\U0001d159")
"""Letters and symbols that are drawn as an empty cell: fillers of Hangul, the blank Braille pattern, the null note
head. Fillers are default-ignorable as well."""

ALIKE: Mapping[str, str] = {
    # Cyrillic
    **dict(zip("аеорсухіјѕԁһкмтвнпгԛԝзцүп", "aeopcyxijsdhkmtbhnrqweuyn", strict=True)),
    **dict(zip("АВЕКМНОРСТУХІЈЅԌԚԜЗ", "ABEKMHOPCTYXIJSGQWE", strict=True)),
    # Greek
    **dict(zip("αβγεηικνορτυχωμσς", "abyenikvoptuxwmos", strict=True)),
    **dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ABEZHIKMNOPTYX", strict=True)),
    # Armenian, Hebrew, Cherokee look-alikes
    **dict(zip("օսոհցքԼՕՍ", "ounhgpLOU", strict=True)),
    **dict(zip("ᎠᎡᎢᎪᎬᎳᎷᎻᏀᏃᏒᏔᏚᏞᏟᏢ", "DRTAEWMHGZRWSLCP", strict=True)),
    # Lisu, whose letters are Latin capitals; Canadian syllables; round letters of other scripts
    **dict(zip("ꓐꓑꓓꓔꓖꓗꓙꓚꓜꓝꓟꓠꓡꓢꓣꓦꓧꓪꓫꓬꓮꓰꓲꓳꓴ", "BPDTGKJCZFMNLSRVHWXYAEIOU", strict=True)),
    **dict(zip("ᗷᑕᗪᖴᕼᒍᒪᗰᑎᑭᖇᑌᐯᗯᗩᗝ", "BCDFHJLMNPRUVWAO", strict=True)),
    **dict(zip("Ⲟⲟოסⵔ", "OoooO", strict=True)) | {"\U00010404": "O", "\U0001042c": "o", "\U0001030f": "O"},
}
"""Letter of another script -> the Latin letter that it reads as."""
IDENTICAL = frozenset("аеорсухіјѕԛԝАВЕКМНОРСТХІЈЅοΟΑΒΕΖΗΙΚΜΝΡΤΥΧꓐꓑꓓꓔꓖꓗꓙꓚꓜꓝꓟꓠꓡꓢꓣꓦꓧꓪꓫꓬꓮꓰꓲꓳꓴ")
"""Those that no typeface tells apart: what a word may consist of wholly and still be a disguised Latin one."""
SMALL_CAPITALS: Mapping[str, str] = dict(zip("ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘꞯʀꜱᴛᴜᴠᴡʏᴢ", "abcdefghijklmnopqrstuvwyz", strict=True))
BOXED: Mapping[str, str] = {chr(start + k): chr(65 + k) for start in (0x1F130, 0x1F150, 0x1F170) for k in range(26)}
"""Letters in boxes and discs, which compatibility forms leave alone; some of them are emoji of their own."""
OTHER_LATIN: Mapping[str, str] = {
    **dict(zip("ɑɡıȷɩʃɛɔʊʌ", "agijiseouv", strict=True)),
    **dict(zip("ƀȼđɇǥħɨɉłøɍŧʉɏƶ", "bcdeghijlortuyz", strict=True)),
    **dict(zip("ɃȻĐɆǤĦƗɈŁØɌŦɄɎƵ", "BCDEGHIJLORTUYZ", strict=True)),
    **{chr(0x1F1E6 + k): chr(65 + k) for k in range(26)},  # the halves of flags
}
"""Letters of other languages and of phonetic writing that a plain one is hidden in, and the letters of flags."""

_SPELL_WITH_JOINERS = frozenset(
    (
        "ARABIC SYRIAC MONGOLIAN NKO DEVANAGARI BENGALI GURMUKHI GUJARATI ORIYA TAMIL TELUGU KANNADA MALAYALAM SINHALA "
        "KHMER MYANMAR TIBETAN"
    ).split()
)
_WITHOUT_SPACES = frozenset("THAI LAO KHMER MYANMAR TIBETAN TAI JAVANESE BALINESE CJK HIRAGANA KATAKANA".split())
_LEFT_RIGHT = "\u200e\u200f\u061c"


@cache
def script(c: str) -> str:
    """First word of a letter's Unicode name (``LATIN``, ``CYRILLIC``, ``CJK`` …), ``""`` for what is no letter."""
    return _block(c) if c.isalpha() else ""


def _block(c: str) -> str:
    """First word of any character's name, ``""`` for no character and for one without a name."""
    return unicodedata.name(c, "").split(" ")[0].split("-")[0] if c else ""


def scripts(word: str) -> set[str]:
    """Scripts of a word's letters."""
    return {s for s in map(script, word) if s}


def ignorable(c: str) -> bool:
    """Whether a character has Unicode's property ``Default_Ignorable_Code_Point``: shown as nothing by a renderer that
    does not know it."""
    n = ord(c)
    return n >= 0xAD and any(first <= n <= last for first, last in _IGNORABLE)


def visible_text(text: str) -> str:
    """The text without control, format, private and unassigned characters, lone surrogates and what shows nothing.

    What writing needs stays: joiners and variation selectors of scripts that spell with them and of emoji, the tags of
    a flag, direction marks beside right-to-left letters, zero-width spaces of scripts that write none, fillers within
    Hangul. Line ends and tabs become spaces; so does an empty cell (``BLANKS``), see ``spelled_out``."""
    if text.isascii() and text.isprintable():
        return text
    out: list[str] = []
    in_flag = False
    for k, c in enumerate(text):
        before, after = out[-1] if out else "", text[k + 1 : k + 2]
        in_flag = c == "\U0001f3f4" or (in_flag and 0xE0020 <= ord(c) <= 0xE007F)
        kind = unicodedata.category(c)
        if c in "\t\n\v\f\r\x85\u2028\u2029":
            out.append(" ")
        elif in_flag and ord(c) >= 0xE0020:
            out.append(c)
        elif ignorable(c) or c in BLANKS or kind == "Cf" or c == "\ufffc":
            if _needed(c, before, after, out):
                out.append(c)
        elif kind not in ("Cc", "Cs", "Co", "Cn"):
            out.append(c)
    return "".join(out)


def _needed(c: str, before: str, after: str, out: list[str]) -> bool:
    """Whether writing needs a character that shows nothing between its neighbors."""
    n, left, right = ord(c), _block(before), _block(after)
    if c in "\u200c\u200d":
        spelled = left in _SPELL_WITH_JOINERS and (right in _SPELL_WITH_JOINERS or not after.isalnum())
        return spelled or (_pictograph(before) and _pictograph(after))
    if c == "\u200b":
        return left in _WITHOUT_SPACES and right in _WITHOUT_SPACES
    if c in _LEFT_RIGHT:
        return _right_to_left(before) or _right_to_left(after)
    if c == "\u034f":  # keeps Hebrew points in their order
        return bool(before) and unicodedata.combining(before) > 0 and left == "HEBREW"
    if 0xFE00 <= n <= 0xFE0F or 0xE0100 <= n <= 0xE01EF:
        keycap = before in tuple("0123456789#*") and after == "\u20e3"
        return keycap or (_varied(before) and not _selector(before))
    if 0x180B <= n <= 0x180F:
        return "MONGOLIAN" in (left, right)
    if n in (0x17B4, 0x17B5):
        return left == "KHMER"
    if c == "\u2800":
        return left == "BRAILLE" or right == "BRAILLE"
    if c in BLANKS:
        return "HANGUL" in (left, right)
    if 0x1BCA0 <= n <= 0x1BCA3:
        return left == "DUPLOYAN"
    if 0x1D173 <= n <= 0x1D17A:
        return left == "MUSICAL" or right == "MUSICAL"
    if unicodedata.category(c) == "Cf" and not ignorable(c):  # signs of Arabic, Syriac, Kaithi … that do show
        return not 0xFFF9 <= n <= 0xFFFB
    return False


def _right_to_left(c: str) -> bool:
    return bool(c) and (unicodedata.bidirectional(c) in ("R", "AL", "AN") or c in _LEFT_RIGHT)


def _selector(c: str) -> bool:
    return 0xFE00 <= ord(c) <= 0xFE0F or 0xE0100 <= ord(c) <= 0xE01EF


def _pictograph(c: str) -> bool:
    return bool(c) and (unicodedata.category(c) in ("So", "Sk") or c == "\ufe0f") and ord(c) > 0x2000


def _varied(c: str) -> bool:
    """Whether variants of a character are selected in writing: pictographs, signs, Chinese characters and a few
    scripts; never Latin letters and digits."""
    if not c:
        return False
    return unicodedata.category(c) in ("So", "Sm", "Po", "Sk") and not c.isascii() or _block(c) in _VARIED


_VARIED = frozenset("CJK MONGOLIAN MYANMAR PHAGS EGYPTIAN MANICHAEAN HANGUL HIRAGANA KATAKANA".split())
