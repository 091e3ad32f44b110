"""Blocks as HTML: one template per kind of block, given a run of neighbors of that kind."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from itertools import groupby
from typing import TYPE_CHECKING, Any

from genward.core.blocks import (
    Block,
    Box,
    Choice,
    Curve,
    Facts,
    Heading,
    Matrix,
    Player,
    Plot,
    Section,
    Strip,
    Table,
    Text,
)
from genward.report import drawing
from genward.report.media import Album, Made
from genward.sections.numbers import duration, short

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

TEMPLATES: dict[type[Any], str] = {
    Heading: "heading",
    Text: "text",
    Facts: "facts",
    Box: "box",
    Table: "table",
    Matrix: "matrix",
    Plot: "plot",
    Choice: "plot",
    Curve: "curve",
    Strip: "strip",
    Player: "player",
}
"""Kind of block -> its template; neighbors of one template are drawn together."""
FLIP_LIGHT, FLIP_DARK = 0.70, 0.55
"""Share above which letters on the heat map change color: where both colors read equally well (contrast 4.2 or more
everywhere)."""


class Renderer:
    """Draws sections; samples go through the page's album."""

    def __init__(self, env: Environment, album: Album) -> None:
        self._env = env
        self._album = album
        self._id = ""
        self._tables = 0

    def section(self, section: Section) -> Markup:
        """The body of a section, its heading left out."""
        self._id, self._tables = section.id, 0
        return self._blocks(section.blocks)

    def _blocks(self, blocks: Sequence[Block]) -> Markup:
        from markupsafe import Markup

        groups = groupby(blocks, key=lambda block: TEMPLATES[type(block)])
        return Markup("").join(self._group(name, list(group)) for name, group in groups)

    def _group(self, name: str, blocks: list[Any]) -> Markup:
        from markupsafe import Markup

        given: dict[str, Any] = {"blocks": blocks, "section": self._id, "geometry": drawing}
        if name == "box":
            given["inside"] = [self._blocks(b.blocks) for b in blocks]
        if name in ("table", "matrix"):
            given["feet"] = [footnotes(b) for b in blocks]
            given["marks"] = [f"{self._id}-{self._tables + k}" for k in range(len(blocks))]
            self._tables += len(blocks)
        if name == "table":
            given["strong"] = [any(cell and cell.interval for row in b.rows for cell in row.cells) for b in blocks]
        elif name == "plot":
            given["plots"] = [_options(b) for b in blocks]
        elif name == "curve":
            given["lines"] = [drawing.line(b) for b in blocks]
        elif name == "strip":
            given |= self._strips(blocks)
        elif name == "player":
            given["made"] = [self._album.player(b) for b in blocks]
        return Markup(self._env.get_template(f"{name}.html").render(given))  # the template has escaped its values

    def _strips(self, blocks: Sequence[Strip]) -> dict[str, Any]:
        before, known = self._album.left_out, set(self._album.lost)
        made = [(b, m) for b in blocks if (m := self._album.strip(b)) is not None]
        words = list(dict.fromkeys(word for b, _ in made for word, _ in b.facets))
        facets = [(w, list(dict.fromkeys(v for b, _ in made for k, v in b.facets if k == w))) for w in words]
        return {
            "strips": [(b, list(zip(b.shots, m, strict=True)), _hides(b, m)) for b, m in made],
            "facets": facets,
            "noun": "samples" if any(x.sound for _, found in made for x in found) else "pictures",
            "total": len(blocks),
            "left_out": self._album.left_out - before,
            "lost": [sha for sha in self._album.lost if sha not in known],
        }


def _hides(strip: Strip, made: Sequence[Made]) -> bool:
    """Whether one of a strip's samples is hidden until asked for."""
    return any(strip.hides(shot) for shot, m in zip(strip.shots, made, strict=True) if m.state == "ok")


def footnotes(block: Table | Matrix) -> list[str]:
    """The reasons that a table's cells give, each once, in reading order."""
    return list(dict.fromkeys(cell.why for row in block.rows for cell in row.cells if cell and cell.why))


def _options(block: Plot | Choice) -> list[tuple[str, Plot, drawing.Drawing]]:
    options = block.options if isinstance(block, Choice) else (("", block),)
    numbers = drawing.palette([plot for _, plot in options])
    return [(word, plot, drawing.draw(plot, numbers)) for word, plot in options]


def heat(value: float) -> tuple[str, str]:
    """(share in percent for the style, classes that flip the letters) of a matrix's cell."""
    v = min(1.0, max(0.0, float(value)))
    return f"{100 * v:.1f}%", f"{' l-hi' if v > FLIP_LIGHT else ''}{' d-hi' if v > FLIP_DARK else ''}"


def asset(name: str) -> str:
    """A file that comes with the report: a template, the style sheet, the script."""
    return resources.files("genward.report").joinpath("templates", name).read_text("utf-8")


def environment() -> Environment:
    """Templates that escape everything they are given."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    env = Environment(
        loader=FunctionLoader(asset), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    env.filters["asset"] = Markup  # our own CSS and JS only
    env.filters["heat"] = heat
    env.filters["seconds"] = duration
    env.filters["short"] = short
    env.filters["breaks"] = lambda text: Markup("<wbr>").join(
        re.split(r"(?<=[_+:/])(?=.)", str(text))
    )  # join escapes its parts
    return env
