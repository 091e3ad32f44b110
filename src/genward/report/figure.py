"""One block of a report as a figure of its own: SVG, and PDF and PNG made from it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

from genward.core.blocks import Choice, Matrix, Plot, Section, Strip, walk
from genward.errors import BadInput, UnknownName
from genward.report import drawing, vector
from genward.report.media import BROKEN
from genward.report.reading import Source

KINDS = ("matrix", "trade-off", "grid")
FORMATS = (".svg", ".png", ".pdf")
FONT = 'font-family="DejaVu Sans, Helvetica, Arial, sans-serif"'
INK, FAINT, GRID = "#1a1a1a", "#5c5c5c", "#dddddd"
COLORS = {"oracle": "#1a1a1a", "base": "#1a1a1a", "control": "#5c5c5c"}
ARMS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#16181d")
"""Colors of arms under test, those of the report (Okabe and Ito); shapes differ as well"""
WIDE, HIGH, HEAD, LABEL = 104, 44, 62, 210
TILE, GAP = 128, 6
BLUR = 8
"""Edge in pixels that a blurred picture is reduced to"""


def draw(
    sections: Sequence[Section], store: Source, kind: str, *, title: str = "", rows: int = 6, blur: bool = True
) -> str:
    """A figure as SVG.

    Args:
        kind: one of ``KINDS``. title: which one, where a run has several: part of a matrix's or a plot's title or of
            the word that a plot is chosen by; of a strip's prompt in a grid. rows: of a grid. blur: pictures that may
            show what they should not.

    Raises:
        UnknownName: no such kind. BadInput: the run has no such figure, or several and no title.
    """
    if kind not in KINDS:
        raise UnknownName("kind of figure", kind, KINDS)
    blocks = [b for s in sections for b in walk(s.blocks)]
    if kind == "grid":
        strips = [b for b in blocks if isinstance(b, Strip) and title.lower() in b.prompt.lower()]
        shown = [b for b in strips if any(shot.sha and shot.mime.startswith("image/") for shot in b.shots)]
        if not shown:
            raise BadInput(f"the run has no sample grid{f' whose prompt has {title!r}' if title else ''}")
        return _grid(shown[:rows], store, blur)
    found: dict[str, Any] = {}
    if kind == "matrix":
        found = {b.title: b for b in blocks if isinstance(b, Matrix)}
    else:
        for block in blocks:
            if isinstance(block, Choice):
                found |= {f"{block.title}: {word}" if word else block.title: plot for word, plot in block.options}
        inside = {id(p) for b in blocks if isinstance(b, Choice) for _, p in b.options}
        found |= {b.title: b for b in blocks if isinstance(b, Plot) and id(b) not in inside}
    chosen = {t: b for t, b in found.items() if title.lower() in t.lower()}
    exact = {t: b for t, b in chosen.items() if t.lower() == title.lower()}
    chosen = exact or chosen
    if not chosen:
        raise BadInput(f"the run has no {kind}{f' named {title!r}' if title else ''}; there are: {_few(found)}")
    if len(chosen) > 1 and title:
        raise BadInput(f"{title!r} names several; give more of one: {_few(chosen)}")
    block = next(iter(chosen.values()))  # without a title the first, as the report shows it
    return _matrix(block) if kind == "matrix" else _plot(block)


def _few(titles: Any) -> str:
    return "; ".join(list(titles)[:6]) or "none"


def _svg(width: float, height: float, body: Sequence[str], said: str) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{width:g}" '
        f'height="{height:g}" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(said)}" {FONT}>'
    )
    return "\n".join([head, f'<rect width="{width:g}" height="{height:g}" fill="#ffffff"/>', *body, "</svg>"]) + "\n"


def _text(
    x: float, y: float, text: str, size: float = 12, anchor: str = "start", color: str = INK, more: str = ""
) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}" fill="{color}"{more}>'
        f"{escape(text)}</text>"
    )


def _wrapped(text: str, most: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > most:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines[:3]


def _matrix(block: Matrix) -> str:
    width = LABEL + WIDE * (len(block.columns) - 1) + 12
    height = HEAD + HIGH * len(block.rows) + 30
    body = [_text(8, 20, block.title, 14, more=' font-weight="bold"')]
    for k, column in enumerate(block.columns[1:]):
        lines = _wrapped(column.name, 16)
        for j, line in enumerate(lines):
            body.append(
                _text(LABEL + WIDE * (k + 0.5), HEAD - 8 - 13 * (len(lines) - 1 - j), line, 11, "middle", FAINT)
            )
    for r, row in enumerate(block.rows):
        top = HEAD + HIGH * r
        body.append(_text(8, top + HIGH / 2 + 4, row.label if len(row.label) < 32 else f"{row.label[:30]}…", 12))
        for k, cell in enumerate(row.cells):
            left = LABEL + WIDE * k
            shade, ink = _shade(cell.value if cell is not None else None)
            body.append(f'<rect x="{left + 2}" y="{top + 2}" width="{WIDE - 4}" height="{HIGH - 4}" fill="{shade}"/>')
            body.append(_text(left + WIDE / 2, top + 19, cell.text if cell else "not run", 13, "middle", ink))
            if cell is not None and cell.interval:
                body.append(_text(left + WIDE / 2, top + 34, cell.interval, 10, "middle", ink))
    body.append(_text(LABEL, height - 10, f"white: {block.low}; dark: {block.high}", 11, color=FAINT))
    return _svg(width, height, body, block.title)


def _shade(value: Any) -> tuple[str, str]:
    """(fill, ink) of a share from 0 to 1, white to a dark blue; gray hatching's place is taken by a plain gray."""
    if not isinstance(value, int | float):
        return "#f0f0f0", FAINT
    share = min(1.0, max(0.0, float(value)))
    low, high = (255, 255, 255), (8, 69, 148)
    color = "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(low, high, strict=True))
    return color, "#ffffff" if share > 0.55 else INK


def _plot(plot: Plot) -> str:
    made = drawing.draw(plot)
    bottom, right = drawing.HEIGHT - drawing.BOTTOM, drawing.WIDTH - drawing.RIGHT
    body = []
    for x, text in made.xticks:
        body.append(f'<line x1="{x}" x2="{x}" y1="{drawing.TOP}" y2="{bottom}" stroke="{GRID}"/>')
        body.append(_text(x, bottom + 17, text, 11, "middle", FAINT))
    for y, text in made.yticks:
        body.append(f'<line x1="{drawing.LEFT}" x2="{right}" y1="{y}" y2="{y}" stroke="{GRID}"/>')
        body.append(_text(drawing.LEFT - 8, y + 4, text, 11, "end", FAINT))
    middle = (drawing.TOP + bottom) / 2
    body.append(_text((drawing.LEFT + right) / 2, drawing.HEIGHT - 12, plot.x.name, 12, "middle"))
    body.append(_text(0, 0, plot.y.name, 12, "middle", more=f' transform="translate(16 {middle:g}) rotate(-90)"'))
    for m in made.marks:
        color = ARMS[m.color % len(ARMS)] if m.role == "defense" else COLORS.get(m.role, INK)
        lead = f"M{m.x} {m.y}L{right + 6} {m.ty - 4}H{m.tx - 9}"
        body.append(f'<path d="{lead}" stroke="{FAINT}" fill="none" stroke-width="0.6"/>')
        body.append(f'<path d="M{m.x1} {m.y}H{m.x2}M{m.x} {m.y1}V{m.y2}" stroke="{color}" fill="none" opacity="0.6"/>')
        body += [_sign(m, m.x, m.y, color), _sign(m, m.tx, m.ty - 4, color)]
        label = m.label if len(m.label) <= drawing.LETTERS else f"{m.label[: drawing.LETTERS - 1]}…"
        body.append(_text(m.tx + 12, m.ty, label, 11))
    return _svg(drawing.WIDTH, drawing.HEIGHT, body, plot.said or plot.title)


def _sign(mark: drawing.Mark, x: float, y: float, color: str) -> str:
    """A mark in the shape that the report gives it; controls are hollow."""
    if mark.role == "oracle":
        return f'<path d="M{x} {y - 7}l7 7-7 7-7-7z" fill="#ffffff" stroke="{color}" stroke-width="2"/>'
    if mark.role != "defense":
        edges = f'x="{x - 5}" y="{y - 5}" width="10" height="10"'
        return f'<rect {edges} fill="#ffffff" stroke="{color}" stroke-width="2"/>'
    paths = {
        "up": f"M{x} {y - 7}l6.5 11.5h-13z",
        "down": f"M{x} {y + 7}l6.5-11.5h-13z",
        "cross": f"M{x - 2} {y - 6}h4v4h4v4h-4v4h-4v-4h-4v-4h4z",
    }
    if mark.shape in paths:
        return f'<path d="{paths[mark.shape]}" fill="{color}"/>'
    return f'<circle cx="{x}" cy="{y}" r="5.5" fill="{color}"/>'


def _grid(strips: Sequence[Strip], store: Source, blur: bool) -> str:
    columns = list(dict.fromkeys(shot.label for strip in strips for shot in strip.shots))
    width, height = LABEL + (TILE + GAP) * len(columns) + 8, 40 + (TILE + GAP) * len(strips) + 8
    body = []
    for k, label in enumerate(columns):
        for j, line in enumerate(_wrapped(label.replace("+", " + "), 18)[:2]):
            body.append(_text(LABEL + (TILE + GAP) * k + TILE / 2, 18 + 13 * j, line, 11, "middle"))
    for r, strip in enumerate(strips):
        top = 40 + (TILE + GAP) * r
        lines = _wrapped(strip.prompt, 30)
        for j, line in enumerate([*lines, f"seed {strip.seed}"]):
            body.append(_text(8, top + 20 + 15 * j, line, 11, color=INK if j < len(lines) else FAINT))
        for shot in strip.shots:
            left = LABEL + (TILE + GAP) * columns.index(shot.label)
            uri = _picture(store, shot, blur and strip.hides(shot))
            if uri:
                body.append(f'<image x="{left}" y="{top}" width="{TILE}" height="{TILE}" xlink:href="{uri}"/>')
            else:
                body.append(f'<rect x="{left}" y="{top}" width="{TILE}" height="{TILE}" fill="#ececec"/>')
                body.append(_text(left + TILE / 2, top + TILE / 2, shot.status, 11, "middle", FAINT))
    return _svg(width, height, body, "pictures of the same prompt and seed under every arm")


def _picture(store: Source, shot: Any, blur: bool) -> str:
    """A tile as a PNG data URI; empty where there is no picture."""
    from PIL import Image

    if not shot.sha or not shot.mime.startswith("image/"):
        return ""
    try:
        picture = store.image(shot.sha).convert("RGB")
    except BROKEN as error:
        raise BadInput(f"picture {shot.sha[:12]} cannot be read from the store: {error}") from error
    if blur:
        size = picture.size
        picture = picture.resize((BLUR, BLUR), Image.Resampling.BOX).resize(size, Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def encoded(svg: str, ending: str, dpi: int = 300) -> bytes:
    """A figure as the bytes of a file. PDF is drawn as SVG is, text as text; PNG holds ``dpi`` pixels to an inch of 96
    units.

    Raises:
        BadInput: another ending, or what writes it is not installed (extra ``figures``). An empty figure is checked
            alone.
    """
    if ending.lower() not in FORMATS:
        raise BadInput(f"a figure cannot be written as {ending or 'a file without ending'}; {', '.join(FORMATS)} can")
    if ending.lower() == ".svg":
        return svg.encode()
    if ending.lower() == ".pdf":
        vector.need_reportlab()
        return vector.pdf(svg) if svg else b""
    try:
        import resvg_py
    except ImportError as error:
        raise BadInput(".png wants resvg-py: pip install 'genward[figures]', or write an .svg") from error
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, zoom=dpi / 96)) if svg else b""
