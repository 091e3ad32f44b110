"""The lab's pictures and captions: emoji art in nine styles, captions at four levels, scenes of one or two objects.

Sources are nine openly licensed icon sets published as npm packages (``@iconify-json/<set>``); each is a JSON file of
SVG bodies. Everything a person may want to change (objects, wordings, styles) stands in ``words.toml`` beside this
file; this module turns those words and the icon sets into training rows. Nothing here imports torch."""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from PIL import Image

from genward.errors import BadInput

SIZE = 64
"""Edge of a lab picture in pixels."""
SPRITE = 128
"""Edge at which icons are rasterized once, before they are scaled and placed."""
LEVELS = ("name", "synonym", "description", "kind")
"""The caption levels that enter training; their held-out twins are ``synonym-heldout`` and ``description-heldout``."""
ORACLE_CONCEPTS = ("weapons", "substances", "banana", "style-monotone")
"""Concept files whose targets the oracle never saw."""


@dataclass(frozen=True)
class Style:
    """A drawing style: its caption word, the icon set that draws it, and how a caption may ask for it (``{}`` is the
    phrase)."""

    name: str
    set: str
    variants: tuple[str, ...] = ()
    """Trained templates; empty: ``"{} in NAME style"`` alone."""
    variants_heldout: tuple[str, ...] = ()

    def draw(self, phrase: str, rng: random.Random) -> str:
        """The phrase in this style: half of the time in the first wording, else in one of the others."""
        if not self.variants:
            return caption([phrase], self.name)
        first, *others = self.variants
        return (first if not others or rng.random() < 0.5 else rng.choice(others)).format(phrase)


@dataclass(frozen=True)
class Thing:
    """One drawable object with every wording a caption may use for it (phrases carry their article)."""

    name: str
    phrase: str
    icons: tuple[str, ...]
    synonyms: tuple[str, ...]
    synonym_heldout: tuple[str, ...]
    descriptions: tuple[str, ...]
    description_heldout: tuple[str, ...]
    kinds: tuple[str, ...]

    def variants(self, level: str) -> tuple[str, ...]:
        """Phrases of one caption level: ``name``, ``synonym``, ``synonym-heldout``, ``description``,
        ``description-heldout`` or ``kind``."""
        table = {
            "name": (self.phrase,),
            "synonym": self.synonyms,
            "synonym-heldout": self.synonym_heldout,
            "description": self.descriptions,
            "description-heldout": self.description_heldout,
            "kind": self.kinds,
        }
        return table[level]


@dataclass(frozen=True)
class Vocabulary:
    """Everything ``words.toml`` says, with look-ups by name."""

    styles: tuple[Style, ...]
    things: tuple[Thing, ...]

    @property
    def style_names(self) -> tuple[str, ...]:
        return tuple(s.name for s in self.styles)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(t.name for t in self.things)

    def style(self, name: str) -> Style:
        for s in self.styles:
            if s.name == name:
                return s
        raise KeyError(name)

    def thing(self, name: str) -> Thing:
        for t in self.things:
            if t.name == name:
                return t
        raise KeyError(name)

    def kinds(self) -> dict[str, tuple[str, ...]]:
        """Kind phrase -> names of the objects it covers."""
        out: dict[str, list[str]] = {}
        for t in self.things:
            for k in t.kinds:
                out.setdefault(k, []).append(t.name)
        return {k: tuple(v) for k, v in out.items()}


@cache
def vocabulary() -> Vocabulary:
    """Read ``words.toml`` once: the words that benchmarks and concept files ask in."""
    raw = _words("words.toml")
    return Vocabulary(tuple(Style(**s) for s in raw["style"]), tuple(Thing(**o) for o in raw["object"]))


@cache
def second_vocabulary() -> Vocabulary:
    """``words.toml`` with the wordings that ``words-second.toml`` adds: what the packaged lab was trained on."""
    first, more = vocabulary(), _words("words-second.toml")
    styles = {s["name"]: s for s in more["style"]}
    things = {o["name"]: o for o in more["object"]}
    if styles.keys() != set(first.style_names) or things.keys() != set(first.names):
        raise BadInput(
            "words-second.toml must name the objects and styles of words.toml; it differs in "
            f"{sorted(things.keys() ^ set(first.names))}"
        )
    grown = []
    for thing in first.things:
        extra = {k: getattr(thing, k) + v for k, v in things[thing.name].items() if k != "name"}
        grown.append(replace(thing, **extra))
    return Vocabulary(tuple(replace(s, **styles[s.name]) for s in first.styles), tuple(grown))


def _words(name: str) -> dict[str, list[dict[str, Any]]]:
    """The tables of a vocabulary file, lists as tuples."""
    raw = tomllib.loads(resources.files(__package__).joinpath(name).read_text("utf-8"))
    return {
        table: [{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows]
        for table, rows in raw.items()
    }


def held_out(thing: str, style: str, *, share: float = 0.1) -> bool:
    """Whether this object × style pair is kept out of training (about ``share`` of all pairs, fixed by a hash of the
    two names)."""
    digest = hashlib.sha256(f"genward-lab-1|{thing}|{style}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share


# ---------------------------------------------------------------------------------------------------------------- icons


def _key(name: str) -> str:
    return re.sub(r"[-_ ']", "", name.lower())


class Icons:
    """The icon sets of one folder: ``folder/**/icons.json``, one a set. Resolves aliases, rasterizes on white."""

    def __init__(self, folder: Path) -> None:
        self.sets: dict[str, dict[str, Any]] = {}
        for path in sorted(folder.glob("**/icons.json")):
            data = json.loads(path.read_text("utf-8"))
            self.sets[data["prefix"]] = data
        self._index: dict[str, dict[str, str]] = {
            prefix: {_key(n): n for n in (*data.get("aliases", {}), *data["icons"])}
            for prefix, data in self.sets.items()
        }

    def find(self, prefix: str, names: Sequence[str]) -> str | None:
        """First of ``names`` that the set has, as the set spells it."""
        index = self._index.get(prefix, {})
        return next((index[_key(n)] for n in names if _key(n) in index), None)

    def svg(self, prefix: str, name: str) -> str:
        """The icon as a square SVG document."""
        data = self.sets[prefix]
        flip = ""
        seen = set()
        while name in data.get("aliases", {}) and name not in seen:
            seen.add(name)
            alias = data["aliases"][name]
            flip = flip or ("h" if alias.get("hFlip") else "")
            name = alias["parent"]
        icon = data["icons"][name]
        width = icon.get("width", data.get("width", 16))
        height = icon.get("height", data.get("height", 16))
        left, top = icon.get("left", 0), icon.get("top", 0)
        body = icon["body"]
        if flip:
            body = f'<g transform="translate({2 * left + width} 0) scale(-1 1)">{body}</g>'
        side = max(width, height)
        box = f"{left - (side - width) / 2} {top - (side - height) / 2} {side} {side}"
        spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        return f'<svg {spaces} viewBox="{box}" color="#222">{body}</svg>'

    def sprite(self, prefix: str, name: str) -> Image.Image:
        """The icon rasterized at ``SPRITE`` pixels on white, cropped to what is drawn and padded back to a square."""
        import resvg_py

        png = resvg_py.svg_to_bytes(
            svg_string=self.svg(prefix, name), width=SPRITE, height=SPRITE, background="#ffffff"
        )
        picture = Image.open(io.BytesIO(bytes(png))).convert("RGB")
        inverted = picture.convert("L").point(lambda v: 255 if v < 250 else 0)
        box = inverted.getbbox() or (0, 0, SPRITE, SPRITE)
        crop = picture.crop(box)
        side = max(crop.size)
        square = Image.new("RGB", (side, side), "white")
        square.paste(crop, ((side - crop.width) // 2, (side - crop.height) // 2))
        return square.resize((SPRITE, SPRITE), Image.Resampling.BOX if side >= SPRITE else Image.Resampling.BICUBIC)

    def every(self) -> Iterator[tuple[str, str]]:
        """All (set, icon) pairs but flags, clocks, buttons, arrows, skin tones, families and hidden ones."""
        drop = re.compile(
            r"flag|oclock|o-clock|thirty|button|arrow|skin|family|keycap|square|circle|regional|couple|kiss|"
            r"person|man|woman|boy|girl|baby|child"
        )
        for prefix, data in self.sets.items():
            for name, icon in data["icons"].items():
                if not icon.get("hidden") and not drop.search(name):
                    yield prefix, name


def sprites(icons: Icons, words: Vocabulary) -> dict[tuple[str, str], Image.Image]:
    """(object, style) -> sprite, for every pair that the sets draw."""
    out = {}
    for thing in words.things:
        for style in words.styles:
            found = icons.find(style.set, thing.icons)
            if found is not None:
                out[thing.name, style.name] = icons.sprite(style.set, found)
    return out


# ---------------------------------------------------------------------------------------------------------- composition


def place(parts: Sequence[Image.Image], rng: random.Random, *, jitter: bool = True) -> Image.Image:
    """Compose one or two sprites into a ``SIZE`` × ``SIZE`` RGB picture on white.

    One sprite fills 52 to 62 pixels at a random place; two stand side by side or one above the other at about half
    size. Without ``jitter`` a single sprite is centered at 58 pixels."""
    canvas = Image.new("RGB", (SIZE, SIZE), "white")
    if len(parts) == 1:
        edge = rng.randint(52, 62) if jitter else 58
        x, y = (rng.randint(0, SIZE - edge), rng.randint(0, SIZE - edge)) if jitter else ((SIZE - edge) // 2,) * 2
        canvas.paste(parts[0].resize((edge, edge), Image.Resampling.BOX), (x, y))
        return canvas
    across = rng.random() < 0.5
    for k, part in enumerate(parts):
        edge = rng.randint(28, 32)
        major = k * SIZE // 2 + rng.randint(0, SIZE // 2 - edge)
        minor = rng.randint(8, SIZE - edge - 8)
        canvas.paste(part.resize((edge, edge), Image.Resampling.BOX), (major, minor) if across else (minor, major))
    return canvas


def caption(phrases: Sequence[str], style: str | None) -> str:
    """``"a cat and a bomb in twemoji style"``; without a style the suffix is left out."""
    text = " and ".join(phrases)
    return f"{text} in {style} style" if style else text


def draw_phrase(thing: Thing, rng: random.Random, weights: Mapping[str, float]) -> str:
    """A trained phrase for the object, its level drawn with ``weights`` (level -> share)."""
    level = rng.choices(LEVELS, [weights[lvl] for lvl in LEVELS])[0]
    return rng.choice(thing.variants(level))


SINGLE_LEVELS = {"name": 0.38, "synonym": 0.32, "description": 0.2, "kind": 0.1}
SCENE_LEVELS = {"name": 0.6, "synonym": 0.3, "description": 0.1, "kind": 0.0}


BOOST = 2.0
"""How much more often a branch draws what its trunk never saw."""


@dataclass(frozen=True)
class World:
    """What may be drawn: the trainable pairs, after leaving out held-out pairs and everything in ``without``.

    ``without`` holds object and style names; no picture that shows one of them, alone or in a scene, ever appears.
    """

    pairs: tuple[tuple[str, str], ...]
    without: frozenset[str]
    fresh: frozenset[str] = frozenset()
    """Objects and styles drawn ``BOOST`` times as often: what a branch sees that its trunk never saw."""

    @classmethod
    def build(
        cls, available: Sequence[tuple[str, str]], without: Sequence[str] = (), fresh: Sequence[str] = ()
    ) -> World:
        drop = frozenset(without)
        return cls(tuple(p for p in available if not held_out(*p) and not drop & set(p)), drop, frozenset(fresh))

    def sample(self, words: Vocabulary, rng: random.Random, *, scene: float) -> tuple[tuple[str, ...], str, str]:
        """Draw ``(objects, style, caption)``; two objects with probability ``scene``."""
        by_style = _by_style(self.pairs)
        style = self._draw(list(by_style), rng)
        count = 2 if rng.random() < scene else 1
        names: tuple[str, ...] = (self._draw(by_style[style], rng),)
        while len(names) < count:
            other = self._draw(by_style[style], rng)
            names = names if other in names else (*names, other)
        return names, style, self.reword(words, rng, names, style)

    def _draw(self, names: Sequence[str], rng: random.Random) -> str:
        return rng.choices(names, [BOOST if n in self.fresh else 1.0 for n in names])[0]

    def reword(self, words: Vocabulary, rng: random.Random, names: Sequence[str], style: str) -> str:
        """Draw another trained caption for the same picture."""
        levels = SINGLE_LEVELS if len(names) == 1 else SCENE_LEVELS
        phrases = [draw_phrase(words.thing(n), rng, levels) for n in names]
        if sum("description" in _levels(words, p) for p in phrases) == 2:  # two descriptions do not fit into 28 tokens
            phrases[1] = words.thing(names[1]).phrase
        if rng.random() >= 0.93:
            return caption(phrases, None)
        return words.style(style).draw(" and ".join(phrases), rng)


@cache
def _level_of(words: Vocabulary) -> dict[str, set[str]]:
    out: dict[str, set[str]] = {}
    for thing in words.things:
        for level in LEVELS:
            for phrase in thing.variants(level):
                out.setdefault(phrase, set()).add(level)
    return out


def _levels(words: Vocabulary, phrase: str) -> set[str]:
    return _level_of(words).get(phrase, set())


@cache
def _by_style(pairs: tuple[tuple[str, str], ...]) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for name, style in pairs:
        out.setdefault(style, []).append(name)
    return out
