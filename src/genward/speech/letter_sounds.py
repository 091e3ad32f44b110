"""How an English spelling that no dictionary has is likely to be read aloud.

A table of about 230 rules, our own: at each place the first rule that fits says which sounds its letters make. It is
meant for respellings ("kettel", "amburr"), which are written to be read by such rules. Its limits: no stress, so every
vowel is full; no knowledge of where a word's parts meet; names and loans by English rules; a silent ``b`` is said
("amb", as the first half of "amb er"), since words that have one are in the dictionary.

On 3,000 common words of CMUdict, drawn at random, 18 % of the sounds are wrong (edit distance over length), nearly all
of them vowels: with one symbol for all vowels and twins merged (``speech.phonemes.key_of``) 3 % are, and 84 % of the
words are right throughout. That is why ``speech.sound_match`` counts a wrong vowel less."""

from __future__ import annotations

import re
from functools import lru_cache

Phones = tuple[str, ...]
"""Sounds in ARPABET without stress, as in CMUdict: ``("K", "EH", "T", "AH", "L")``"""

_VOWEL, _CONSONANT = "[aeiouy]", "[bcdfghjklmnpqrstvwxz]"
_MAGIC = f"(?={_CONSONANT}(?:e$|es$|ed$|e[ln]y$|ing$|er$))"
"""What lets a vowel before it say its name: one consonant and an ending with ``e`` or ``i``"""

_RULES = f"""
    ^kn|N            ^gn|N            ^wr|R            ^ps|S            ^pn|N            ^wh(?=o)|HH      wh|W
    ^rh|R            ^x|Z             ^mc|M AH K       ^one$|W AH N     ^once$|W AH N S  ^two$|T UW       ^eye|AY
    ^the$|DH AH      ^of$|AH V        ^you|Y UW        ^ye|Y EH         ^y|Y             ^is$|IH Z        ^a$|AH
    tion|SH AH N     ssion|SH AH N    cian|SH AH N     sion|ZH AH N     shun|SH AH N     tious|SH AH S    cious|SH AH S
    tial|SH AH L     cial|SH AH L     ture$|CH ER      sure$|ZH ER      ous$|AH S        ough(?=t)|AO     augh(?=t)|AO
    ought|AO T       ough$|OW         igh|AY           eigh|EY          aigh|EY          ould|UH D        alk|AO K
    olk|OW K         alm|AA M         gn$|N            que$|K           gue$|G
    tch|CH           dge|JH           dj|JH            sch|S K          ch(?=[lr])|K     chr|K R          ch|CH
    sh|SH            ph|F             gh$|             gh|G             th|TH            ck|K             cq|K W
    cc(?=[eiy])|K S  cc|K             sc(?=[eiy])|S    c(?=[eiy])|S     c|K              qu|K W           q|K
    gg|G             (?<=n)g(?=e)|JH  g(?=e$|es$|ed$)|JH                g(?=[ei])|JH     g(?=y)|JH
    ng(?={_VOWEL})|NG G
    nge|N JH         ng|NG            nk|NG K          nx|NG K S        x(?={_VOWEL})|K S                 x|K S
    bb|B             dd|D             ff|F             kk|K             ll|L             mm|M             nn|N
    pp|P             rr|R             ss|S             tt|T             vv|V             zz|Z             hh|HH
    (?<={_CONSONANT})le$|AH L         (?<={_CONSONANT})les$|AH L Z      (?<={_CONSONANT})led$|AH L D
    (?<={_CONSONANT})el$|AH L         (?<={_CONSONANT})al$|AH L         (?<={_CONSONANT})ol$|AH L
    (?<={_CONSONANT})re$|ER           (?<=[td])ed$|IH D                 (?<=[pkfsx])ed$|T
    (?<={_CONSONANT})ed$|D            (?<=[szx])es$|IH Z                (?<=[cs]h)es$|IH Z
    (?<=[pkft])s$|S  (?<=[bdglmnrvw])s$|Z              (?<={_VOWEL})s(?=e$)|Z
    airy|EH R IY     air|EH R         are$|EH R        ear(?={_CONSONANT})|ER            ear|IH R         eer|IH R
    ere$|IH R        eir|EH R         ire|AY ER        oar|AO R         oor|AO R         ore|AO R         our|AW ER
    ure|Y UH R       (?<=w)ar|AO R    (?<=w)or|ER      arr(?={_VOWEL})|AE R              err(?={_VOWEL})|EH R
    ar|AA R          er|ER            ir|ER            or|AO R          ur|ER            yr|ER
    (?<=w)a(?=[dnst])|AA
    ai|EY            ay|EY            au|AO            aw|AO            ea(?=d$|th|lth)|EH                ea|IY
    ee|IY            ei(?=n|l)|EY     ei|IY            ey$|IY           ey|EY            eu|UW            ew|UW
    ie$|AY           ie|IY            oa|OW            oe$|OW           oi|OY            oy|OY            oo(?=k)|UH
    oo|UW            ou|AW            ow$|OW           ow|AW            ui|UW            ue|UW            uy|AY
    eye|AY           ah|AA            eh|EH            oh|OW            uh|AH            ih|IH
    all|AO L         al(?=[dt])|AO L  old|OW L D       ost$|OW S T      oll$|OW L        ind$|AY N D      ild$|AY L D
    a{_MAGIC}|EY     e{_MAGIC}|IY     i{_MAGIC}|AY     o{_MAGIC}|OW     u{_MAGIC}|UW     y{_MAGIC}|AY
    aa|AA            a$|AH            a|AE             ^e$|IY           ^[bcdfghjklmnpqrstvwxz]+e$|IY     e$|
    e|EH             ^i$|AY           i$|IY            i(?={_VOWEL})|IY                  ii|IY            i|IH
    o$|OW            o(?={_CONSONANT}{_VOWEL})|OW      o|AA             uu|UW            u$|UW
    u(?={_CONSONANT}{_VOWEL})|UW      u|AH             (?<=^{_CONSONANT})y$|AY           (?<=^{_CONSONANT}{{2}})y$|AY
    y$|IY            y(?={_VOWEL})|Y  y|IH
    b|B   d|D   f|F   g|G   h(?={_VOWEL})|HH   h|   j|JH   k|K   l|L   m|M   n|N   p|P   r|R   s|S   t|T   v|V
    w(?={_VOWEL})|W   w|   z|Z
    """
"""``spelling|sounds``, the first that fits wins. Those that start with ``^`` fit at the start of a word alone."""


def _compiled() -> dict[str, list[tuple[re.Pattern[str], Phones]]]:
    """Rules by the letter that they begin with."""
    table: dict[str, list[tuple[re.Pattern[str], Phones]]] = {c: [] for c in "abcdefghijklmnopqrstuvwxyz"}
    for line in _RULES.splitlines():
        for entry in re.split(r"\s{2,}", line.strip()):
            if not entry:
                continue
            spelling, _, sounds = entry.rpartition("|")
            rule = re.compile(rf"(?<![a-z])(?:{spelling[1:]})" if spelling.startswith("^") else spelling)
            phones = tuple(sounds.split())
            for first, rules in table.items():
                if _may_begin(spelling, first):
                    rules.append((rule, phones))
    return table


def _may_begin(spelling: str, letter: str) -> bool:
    """Whether a rule's letters may begin with one: after its anchor and what it looks back at."""
    bare = re.sub(r"^\^|^\(\?<=.*?\)(?=[a-z])", "", spelling)
    if bare.startswith("["):
        return letter in bare[1 : bare.index("]")]
    return bare.startswith(letter)


_TABLE = _compiled()
DIGITS = dict(
    zip(
        "0123456789",
        ("Z IH R OW", "W AH N", "T UW", "TH R IY", "F AO R", "F AY V", "S IH K S", "S EH V AH N", "EY T", "N AY N"),
        strict=True,
    )
)
"""Digit -> its name in sounds: ``gr8`` is read "great\""""
LONGEST = 40
"""Letters of a word that are read; the rest is dropped, which no sayable word has"""


@lru_cache(maxsize=2_000)
def letter_sounds(word: str) -> Phones:
    """The sounds of a spelling by rule.

    Args:
        word: any text; it is read in lower case, digits by name, and whatever is neither is skipped. Letters beyond
            ``LONGEST`` are dropped.

    Returns:
        ARPABET without stress, the same sound never twice in a row; empty for a text without letters and digits.
    """
    word = "".join(c for c in word.lower() if c in _TABLE or c in DIGITS)[:LONGEST]
    if len(word) > 1 and not any(c in "aeiouy0123456789" for c in word):
        word = _with_vowel(word)
    out: list[str] = []
    at = 0
    while at < len(word):
        if word[at] in DIGITS:
            out += DIGITS[word[at]].split()
            at += 1
            continue
        for rule, phones in _TABLE[word[at]]:
            found = rule.match(word, at)
            if found and found.end() > at:
                out += phones
                at = found.end()
                break
        else:  # every letter has a rule of its own, so this is a letter that the rules leave silent
            at += 1
    return tuple(p for k, p in enumerate(out) if k == 0 or p != out[k - 1])


def _with_vowel(word: str) -> str:
    """A spelling without vowels ("tl", "mbr") with one where it can be said."""
    return f"{word[:-1]}u{word[-1]}"
