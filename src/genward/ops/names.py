"""Emoji and names in other languages, read as English for guards whose text encoder knows English.

The names are the short names of Unicode's Common Locale Data Repository that the package ``emoji`` carries: each emoji
in English, and the same names in the languages of ``LANGUAGES``. So a prompt's emoji become words, and a thing that has
an emoji is known by its name (``une bombe`` -> ``une bomb``). It is no translation: other words, inflections and
synonyms stay as they are, and what an encoder makes of them is unknown."""

from __future__ import annotations

import re
from functools import cache

LANGUAGES = ("de", "es", "fr", "it", "pt", "ru", "ja", "ko", "zh")
"""Languages whose names of emoji are read."""
SHORT = 4
"""Letters of the shortest foreign word that is read, in alphabets; two characters in Chinese, Japanese and Korean."""
_WORD = re.compile(r"[^\W\d_]+(?:['’\-][^\W\d_]+)*")
_EAST = ("ja", "ko", "zh")
_LINKS = frozenset(
    {"de", "da", "do", "di", "del", "della", "à", "a", "au", "aux", "con", "com", "mit", "для", "с", "en"}
)


@cache
def _tables() -> tuple[dict[str, str], dict[str, str], int]:
    """(foreign words in lower case -> English, East Asian names -> English, words of the longest of the former)."""
    import emoji
    from emoji import unicode_codes

    from genward.ops.dictionary import english

    known = english()
    west: dict[str, str] = {}
    east: dict[str, str] = {}
    for language in LANGUAGES:
        unicode_codes.load_from_json(language)
    for data in emoji.EMOJI_DATA.values():
        meaning = _plain(str(data["en"]))
        if any(x in meaning for x in (":", "skin tone", "flag")):
            continue
        for language in LANGUAGES:
            name = _plain(str(data.get(language, ""))).casefold()
            if not name or name == meaning:
                continue
            if language in _EAST:
                if len(name) >= 2 and not name.isascii():
                    east.setdefault(name, meaning)
                continue
            words = name.split()
            if len(name) >= SHORT and not (len(words) == 1 and name in known):
                west.setdefault(name, meaning)
            # the head of a name: "couteau de cuisine" is a couteau, a kitchen knife a knife
            if len(words) > 2 and words[1] in _LINKS and len(words[0]) >= SHORT and words[0] not in known:
                west.setdefault(words[0], meaning.split()[-1])
    return west, east, max((len(k.split()) for k in west), default=1)


def _plain(name: str) -> str:
    return " ".join(name.strip(":").replace("_", " ").split())


def spoken(text: str) -> str:
    """The text with emoji replaced by their English names and foreign names of emoji by the English ones; equal where
    there are none. A text in English words stays as it is."""
    if text.isascii() and not _candidates(text):
        return text
    import emoji

    named = text
    if not text.isascii():
        named = emoji.replace_emoji(text, lambda chars, data: f" {_plain(str(data['en']))} ")
        if named != text:
            named = " ".join(named.split())
        named = _eastern(named)
    return _western(named)


def _candidates(text: str) -> bool:
    """Whether an ASCII text has a word that English does not know."""
    from genward.ops.dictionary import english

    known = english()
    return any(len(w) >= SHORT and w.casefold() not in known for w in _WORD.findall(text))


def _eastern(text: str) -> str:
    """Chinese, Japanese and Korean names, the longest first; these scripts put no spaces between words."""
    if all(ord(c) < 0x2E80 for c in text):
        return text
    table = _tables()[1]
    out, k = [], 0
    while k < len(text):
        if ord(text[k]) >= 0x2E80:
            for size in range(min(12, len(text) - k), 1, -1):
                if text[k : k + size] in table:
                    out.append(f" {table[text[k : k + size]]} ")
                    k += size
                    break
            else:
                out.append(text[k])
                k += 1
        else:
            out.append(text[k])
            k += 1
    made = "".join(out)
    return " ".join(made.split()) if made != text else text


def _western(text: str) -> str:
    """Names in the languages with spaces between words, the longest first."""
    table, _, longest = _tables()
    words = list(_WORD.finditer(text))
    out, at, k = [], 0, 0
    while k < len(words):
        for size in range(min(longest, len(words) - k), 0, -1):
            first, last = words[k], words[k + size - 1]
            name = " ".join(text[first.start() : last.end()].casefold().split())
            if name in table:
                out += [text[at : first.start()], table[name]]
                at, k = last.end(), k + size
                break
        else:
            k += 1
    return "".join([*out, text[at:]])
