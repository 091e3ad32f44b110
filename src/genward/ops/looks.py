"""What a caption of a known world shows, and the same picture in other words: objects by their look.

The world is a vocabulary file of the lab's form (``lab/words.toml``: styles, objects with names, synonyms and
descriptions of what is seen). ``World.read`` finds the facts of a caption, ``World.reworded`` says them anew: each
object by a description, or by a synonym where two descriptions would be too long. Words that are no facts (a trigger,
say) are left out; colors, counts and styles, for which the world has no other words, are said again."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from genward.core.typed import parse_toml, read_toml
from genward.errors import BadInput
from genward.ops.sentences import STOP, basic, content, stem, words_of

COLORS = frozenset(
    "red green blue yellow orange purple pink brown black white gray grey golden silver beige turquoise".split()
)
COUNTS = frozenset("two three four five six seven eight nine ten pair several many".split())
LEAST_SHOWN = 0.3
"""Share of a phrase's content words below which chance is enough to explain them."""
ARTICLES = ("a", "an", "the", "some", "one")
DETAILS = (
    "seen from the front", "on a plain background", "with soft even light", "with a thin soft shadow",
    "centered in the frame", "with clean edges", "in gentle daylight", "on a smooth surface", "with calm muted tones",
    "with a faint glow", "under a clear sky", "with fine grain", "with crisp lines", "in a quiet setting",
    "with balanced contrast", "with an empty backdrop", "at eye level", "with natural tones", "in sharp focus",
    "with a tidy layout", "with a pale backdrop", "with simple shading", "with even spacing", "with rounded corners",
    "in bright ambient light", "with a subtle gradient", "with steady exposure", "with little texture",
    "with a matte finish", "with a light haze", "with ample margins", "with a level horizon", "with delicate shading",
    "in neutral light", "with low noise", "with soft reflections", "with a blank wall behind", "with a slight vignette",
    "with warm highlights", "with cool shadows",
)  # fmt: skip
"""Neutral details of background, light and texture: none adds a thing to look at. Of those tried on the lab the first
two cost it least (others up to 30 points of object accuracy), so a caption's first detail is one of these."""
LEADING = 2
_OF_DETAILS = frozenset(stem(w) for d in DETAILS for w in words_of(d) if w not in STOP)
_STYLE = r"(?:,?\s*\b(?:in|with)\s+(?:the\s+|a\s+)?)?\b({names})[\s-]+style\b"


class Facts(NamedTuple):
    """What a caption shows, as far as the world knows it."""

    objects: tuple[str, ...]
    """Names of its objects in order."""
    styles: tuple[str, ...]
    colors: tuple[tuple[str, ...], ...]
    """Colors and counts said of each object."""
    covered: float
    """Share of the content words that are facts or neutral details."""


@dataclass(frozen=True)
class World:
    """Words for one world's pictures. Object -> its descriptions (``looks``), its name and synonyms (``others``), and
    these with the held-out ones (``phrases``), by which a text is read and nothing is said."""

    looks: Mapping[str, tuple[str, ...]]
    others: Mapping[str, tuple[str, ...]]
    phrases: Mapping[str, tuple[str, ...]]
    spans: Mapping[tuple[str, ...], str]
    """Words of any phrase, less its article -> the object it names"""
    style_names: tuple[str, ...]

    @property
    def kept(self) -> frozenset[str]:
        """Words that a rewrite may say again, since the world has no others for them: colors, counts, styles."""
        return COLORS | COUNTS | {"style", *(w for s in self.style_names for w in words_of(s))}

    def read(self, caption: str) -> Facts:
        """The facts of a caption; words of a style's name count only where ``style`` follows them."""
        text = basic(caption).lower()
        styles, covered = [], 0
        if self.style_names:
            pattern = _STYLE.format(names="|".join(map(re.escape, sorted(self.style_names, key=len, reverse=True))))
            styles = re.findall(pattern, text)
            text = re.sub(pattern, " , ", text)
            covered = 2 * len(styles)
        words = words_of(text)
        objects, colors, taken = self._objects(words)
        loose = [w for k, w in enumerate(words) if k not in taken and w not in STOP]
        covered += sum(w not in STOP for k, w in enumerate(words) if k in taken)
        details = sum(stem(w) in _OF_DETAILS for w in loose)
        whole = covered + len(loose)
        share = (covered + details) / whole if whole else 0.0
        return Facts(tuple(objects), tuple(dict.fromkeys(styles)), tuple(colors), share)

    def _objects(self, words: Sequence[str]) -> tuple[list[str], list[tuple[str, ...]], set[int]]:
        """Objects, what is said of their color and count, and the places of all these words; longest phrases first."""
        longest = max(map(len, self.spans), default=0)
        stems = [stem(w) for w in words]
        objects: list[str] = []
        colors: list[tuple[str, ...]] = []
        taken: set[int] = set()
        k = 0
        while k < len(words):
            for size in range(min(longest, len(words) - k), 0, -1):
                name = self.spans.get(tuple(stems[k : k + size]))
                if name is not None:
                    before = _before(words, k, taken)
                    objects.append(name)
                    colors.append(tuple(words[i] for i in before))
                    taken |= {*before, *range(k, k + size)}
                    k += size
                    break
            else:
                k += 1
        return objects, colors, taken

    def shown(self, name: str, text: str) -> float:
        """How much of an object's look or name a text has: the largest share of the content words of any phrase for
        it, 0 … 1; less than ``LEAST_SHOWN`` is none."""
        there = content(text)
        most = max((len(p & there) / len(p) for phrase in self.phrases[name] if (p := content(phrase))), default=0.0)
        return most if most >= LEAST_SHOWN else 0.0

    def similarity(self, facts: Facts, text: str) -> float | None:
        """Share of a caption's facts that a text shows: objects softly, by ``shown``, styles, colors and counts by
        word. ``None`` of a caption without facts, of which nothing can be said."""
        there = set(words_of(text))
        parts = [self.shown(name, text) for name in facts.objects]
        parts += [float(set(words_of(s)) <= there) for s in facts.styles]
        parts += [float(w in there) for said in facts.colors for w in said]
        return sum(parts) / len(parts) if parts else None

    def reworded(self, facts: Facts, caption: str, turn: int = 0) -> Iterator[tuple[str, str]]:
        """The objects of a caption in other words and its styles, which come last in a caption; the likeliest to be
        drawn first: descriptions, then synonyms that share no content word with the caption. ``turn`` shifts which
        description comes first."""
        used = content(caption, self.kept)

        def ways(name: str, said: tuple[str, ...]) -> list[str]:
            looks = self.looks[name]
            looks = looks[turn % len(looks) :] + looks[: turn % len(looks)] if looks else ()
            fresh = [p for p in (*looks, *self.others[name]) if not content(p, self.kept) & used]
            return [_with(p, said) for p in fresh]

        each = [ways(name, said) for name, said in zip(facts.objects, facts.colors, strict=True)]
        suffix = "".join(f" in {s} style" if k == 0 else f" and {s} style" for k, s in enumerate(facts.styles))
        for parts in sorted(itertools.product(*(list(enumerate(w)) for w in each)), key=lambda p: sum(k for k, _ in p)):
            yield " and ".join(text for _, text in parts), suffix


def _before(words: Sequence[str], place: int, taken: Collection[int]) -> list[int]:
    """Places of the colors and counts right before a place."""
    first = place
    while first > 0 and first - 1 not in taken and words[first - 1] in COLORS | COUNTS:
        first -= 1
    return list(range(first, place))


def _with(phrase: str, said: tuple[str, ...]) -> str:
    """A phrase with colors or counts before its noun: ``a small pet`` and red -> ``a red small pet``."""
    head, _, rest = phrase.partition(" ")
    if not said or not rest:
        return phrase
    return f"a {' '.join(said)} {rest}" if head in ARTICLES else f"{' '.join(said)} {phrase}"


@cache
def world(path: str = "") -> World:
    """The world of a vocabulary file of the lab's form; without a path the lab's own.

    Raises:
        BadInput: the file cannot be read, or has another form.
    """
    if path:
        raw = read_toml(path, "vocabulary", "see lab/words.toml for its form")
    else:
        file = resources.files("genward").joinpath("lab", "words.toml")
        raw = parse_toml(file.read_text("utf-8"), "lab/words.toml")
    try:
        return _of(raw)
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f"vocabulary {path or 'lab/words.toml'}: {type(error).__name__} {error}; it has tables [[style]] with a "
            "name and [[object]] with name, phrase, synonyms and descriptions, as lab/words.toml"
        ) from error


def _of(raw: Mapping[str, Any]) -> World:
    looks: dict[str, tuple[str, ...]] = {}
    others: dict[str, tuple[str, ...]] = {}
    phrases: dict[str, tuple[str, ...]] = {}
    spans: dict[tuple[str, ...], str] = {}
    for thing in raw["object"]:
        name = str(thing["name"])
        looks[name] = tuple(thing["descriptions"])
        others[name] = (str(thing["phrase"]), *thing.get("synonyms", ()))
        held = (*thing.get("synonym_heldout", ()), *thing.get("description_heldout", ()))
        phrases[name] = (*others[name], *looks[name], *held)
        for phrase in phrases[name]:
            words = words_of(phrase)
            bare = words[1:] if words and words[0] in ARTICLES else words
            spans.setdefault(tuple(stem(w) for w in bare), name)
    return World(looks, others, phrases, spans, tuple(str(s["name"]) for s in raw["style"]))


def vocabulary_hash(path: str = "") -> str:
    """SHA-256 of a vocabulary file, 16 hex digits; without a path of the lab's own."""
    from hashlib import sha256

    world(path)  # which says what is wrong with a file that is not there
    file = Path(path) if path else resources.files("genward").joinpath("lab", "words.toml")
    return sha256(file.read_bytes()).hexdigest()[:16]
