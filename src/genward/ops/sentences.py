"""What a rewrite is held against its caption by: Basic Latin text, content words, and a sentence encoder of our own.

The encoder is trusted because it is code: a hashed bag of word stems and letter trigrams that learns nothing, so no
checkpoint under test can have tampered with it. It knows wording, not meaning: two synonyms are as far apart as two
unrelated words, which is what a distance between *wordings* should say. Normalization follows the cascade NFKD, marks
dropped, look-alikes read as Latin letters, invisible characters dropped; what is left of another script becomes a space
or is refused."""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping
from functools import lru_cache

from genward.ops.code_points import ALIKE, OTHER_LATIN, visible_text

MORE_ALIKE: Mapping[str, str] = {"\u0b20": "o", "\u0b66": "o", "\u0474": "V", "\u0475": "v"}
"""Look-alikes of published triggers (Struppek et al., arXiv 2211.02408) that ``code_points.ALIKE`` lacks, since they
are ordinary letters of their scripts."""
STOP = frozenset(
    "a an the and or of in on at to with by for from as is are be it its this that these those one some any no not "
    "into over under above below near beside behind between very really there here his her their my your our".split()
)
"""Words that carry no content of a picture."""
ENDINGS = ("ing", "ies", "ed", "es", "s")
LEAST_STEM = 3
"""Letters that a stem keeps at least."""
BUCKETS = 4096
"""Places of the encoder's vectors."""
_WORD = re.compile(r"[a-z0-9]+(?:['’-][a-z0-9]+)*")


def latin(text: str) -> str:
    """The text in Basic Latin as far as it can be read so: compatibility forms, marks dropped, look-alike letters,
    nothing invisible; white space as single spaces. Letters that read as nothing Latin stay."""
    plain = "".join(ch for ch in unicodedata.normalize("NFKD", text) if unicodedata.category(ch) != "Mn")
    plain = visible_text("".join(ch for ch in plain if unicodedata.category(ch) != "Cf"))
    read = (ALIKE.get(ch) or MORE_ALIKE.get(ch) or OTHER_LATIN.get(ch) or ch for ch in plain)
    return " ".join("".join(_PUNCTUATION.get(ch, ch) for ch in "".join(read)).split())


_PUNCTUATION = {"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "−": "-", "…": "..."}


def foreign(text: str) -> bool:
    """Whether something of a text is not printable Basic Latin after ``latin``."""
    return any(not " " <= ch <= "~" for ch in latin(text))


def basic(text: str) -> str:
    """``latin`` with every character that is still not Basic Latin taken for a space."""
    return " ".join("".join(ch if " " <= ch <= "~" else " " for ch in latin(text)).split())


def words_of(text: str) -> list[str]:
    """Words of a text in lower case."""
    return _WORD.findall(basic(text).lower())


def stem(word: str) -> str:
    """A word less its plural or verb ending, where enough of it is left: ``cats`` -> ``cat``, ``glowing`` ->
    ``glow``."""
    for ending in ENDINGS:
        if word.endswith(ending) and not word.endswith("ss") and len(word) - len(ending) >= LEAST_STEM:
            return word.removesuffix(ending) + ("y" if ending == "ies" else "")
    return word


def content(text: str, without: Collection[str] = ()) -> frozenset[str]:
    """Stems of a text's content words; ``without`` names words that do not count."""
    drop = {stem(w) for w in without}
    return frozenset(s for w in words_of(text) if w not in STOP and (s := stem(w)) not in drop)


def overlap(caption: str, rewrite: str, without: Collection[str] = ()) -> float:
    """Share of the caption's content words that the rewrite uses again, 0 … 1; 0 of a caption without any."""
    mine = content(caption, without)
    return len(mine & content(rewrite, without)) / len(mine) if mine else 0.0


@lru_cache(maxsize=4096)
def encode(text: str) -> Mapping[int, float]:
    """Unit vector of a text, sparse: bucket -> weight. Words weigh twice what their letter trigrams weigh together."""
    found: Counter[int] = Counter()
    for word in words_of(text):
        if word in STOP:
            continue
        core = stem(word)
        found[_bucket(f"w:{core}")] += 2.0  # type: ignore[assignment]
        marked = f"<{core}>"
        parts = [marked[k : k + 3] for k in range(len(marked) - 2)]
        for part in parts:
            found[_bucket(f"t:{part}")] += 1.0 / len(parts)  # type: ignore[assignment]
    length = math.sqrt(sum(x * x for x in found.values()))
    return {k: x / length for k, x in found.items()} if length else {}


def _bucket(feature: str) -> int:
    return int.from_bytes(hashlib.blake2b(feature.encode(), digest_size=4).digest()) % BUCKETS


def distance(a: str, b: str) -> float:
    """``1 - cos`` of two texts' vectors, 0 … 1; 1 where one has no content word."""
    left, right = encode(a), encode(b)
    if not left or not right:
        return 1.0
    return max(0.0, 1.0 - sum(x * right.get(k, 0.0) for k, x in left.items()))
