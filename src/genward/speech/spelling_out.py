"""Words that are spelled out, read together: single letters, names of letters, radio alphabet, "a as in apple".

HARMGEN, as digested, has flagged words supplied letter by letter; what counts as a letter here is inferred. Everything
works on lower-case words, since punctuation between letters means nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

NAMES: Mapping[str, str] = {
    name: letter
    for letter, names in {
        "a": "ay eh aye", "b": "bee be", "c": "cee see sea", "d": "dee", "e": "ee", "f": "ef eff", "g": "gee jee",
        "h": "aitch haitch", "i": "eye", "j": "jay", "k": "kay", "l": "el ell", "m": "em", "n": "en",
        "o": "oh owe", "p": "pee pea", "q": "queue cue kew", "r": "ar are arr", "s": "ess es", "t": "tee tea",
        "u": "you yew yu", "v": "vee", "w": "doubleyou doubleu", "x": "ex eks", "y": "why wye", "z": "zee zed",
    }.items()
    for name in names.split()
}  # fmt: skip
"""Name of a letter, or a word that sounds like it -> the letter"""
RADIO: Mapping[str, str] = {
    word: word[0]
    for word in (
        "alpha alfa bravo charlie delta echo foxtrot golf hotel india juliet juliett kilo lima mike november oscar "
        "papa quebec romeo sierra tango uniform victor whiskey xray yankee zulu"
    ).split()
}
"""Word of the radio alphabet -> its letter"""
LIKE = ("as in", "like in", "for", "like", "as")
"""What stands between a letter and a word that begins with it"""
SHORTEST = 3
"""Letters of the shortest word that is read together"""
MOST = 400
"""Letters of one run that are cut into words; the rest of a longer one stays as it was"""
LONGEST = 24
PREFERRED = 3
"""How much more a letter of a preferred word counts"""


def letter_at(words: Sequence[str], at: int) -> tuple[str, int]:
    """What the words from a place on spell: letters, and how many words that takes; ``("", 0)`` for none."""
    word = words[at]
    letter = word if _is_letter(word) else NAMES.get(word, RADIO.get(word, ""))
    following = words[at + 1] if at + 1 < len(words) else ""
    if word == "double" and following:
        if following in ("u", "you", "yew"):
            return "w", 2
        again = following if _is_letter(following) else NAMES.get(following, "")
        return (again * 2, 2) if again else ("", 0)
    if not letter:
        return "", 0
    for phrase in LIKE:
        parts = phrase.split()
        end = at + 1 + len(parts)
        if list(words[at + 1 : end]) == parts and end < len(words):
            if len(words[end]) > 1 and words[end].startswith(letter):
                return letter, len(parts) + 2
    return letter, 1


def _is_letter(word: str) -> bool:
    return len(word) == 1 and word.isascii() and word.isalpha()


def cut_letters(letters: str, known: Collection[str], prefer: Collection[str] = ()) -> tuple[tuple[int, int], ...]:
    """The words that a row of letters is best cut into.

    Args:
        letters: at most ``MOST`` of them are looked at.
        known: words that may be read; of at least ``SHORTEST`` letters.
        prefer: words that are read rather than others.

    Returns:
        Stretches ``(start, end)`` in order, each a word, that cover as many letters as can be, long words before
        several short ones; what lies between them is part of no word.
    """
    n = min(len(letters), MOST)
    best: list[tuple[float, int]] = [(0.0, -1)]  # (worth, start of the last word or -1)
    for end in range(1, n + 1):
        option = (best[end - 1][0], -1)
        for start in range(max(0, end - LONGEST), end - SHORTEST + 1):
            word = letters[start:end]
            liked = word in prefer
            if liked or word in known:
                worth = best[start][0] + len(word) * (PREFERRED if liked else 1) - 0.5
                if worth > option[0]:
                    option = (worth, start)
        best.append(option)
    out: list[tuple[int, int]] = []
    at = n
    while at > 0:
        start = best[at][1]
        if start < 0:
            at -= 1
        else:
            out.append((start, at))
            at = start
    return tuple(reversed(out))


def unspell(
    words: Sequence[str], known: Collection[str], prefer: Collection[str] = ()
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Words with those that are spelled out read together.

    Args:
        words: lower case, without punctuation.
        known: words that letters may spell; a run of single letters that spells none of them becomes one word all the
            same if it has at least four.
        prefer: a policy's words: those are found in a run even where another cut would cover more.

    Returns:
        The words, and for each the place of its first part in what was given.
    """
    out: list[str] = []
    places: list[int] = []
    at = 0
    while at < len(words):
        letters, parts, end = "", [], at
        while end < len(words) and (found := letter_at(words, end))[1]:
            parts += [(end, found[1])] * len(found[0])
            letters += found[0]
            end += found[1]
        if len(letters) < SHORTEST:
            out.append(words[at])
            places.append(at)
            at += 1
            continue
        _read_run(words, letters, parts, end, known, prefer, out, places)
        at = end
    return tuple(out), tuple(places)


def _read_run(
    words: Sequence[str],
    letters: str,
    parts: Sequence[tuple[int, int]],
    end: int,
    known: Collection[str],
    prefer: Collection[str],
    out: list[str],
    places: list[int],
) -> None:
    """Append what a run of letters says to ``out`` and ``places``. ``parts`` has for each letter the place of the words
    that it came from and their number."""
    first = parts[0][0]
    cuts = cut_letters(letters, known, prefer)
    if not cuts and len(letters) > SHORTEST and all(len(w) == 1 for w in words[first:end]):
        out.append(letters)
        places.append(first)
        return
    at = first
    for start, stop in cuts:
        begin, finish = parts[start][0], sum(parts[stop - 1])
        if begin < at:  # the two letters of "double t" went to different words
            continue
        while at < begin:
            out.append(words[at])
            places.append(at)
            at += 1
        out.append(letters[start:stop])
        places.append(begin)
        at = finish
    while at < end:
        out.append(words[at])
        places.append(at)
        at += 1
