"""A figure as PDF: shapes as shapes, text as text with its font inside. Only SVG that ``report.figure`` wrote is read.

reportlab draws (extra ``figures``), in Bitstream Vera, which comes with it: a figure is the same on every machine, and
equal figures are equal bytes."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any
from xml.etree import ElementTree

from genward.errors import BadInput

POINTS = 0.75
"""PDF points in one SVG unit, of which there are 96 to an inch"""
FONTS = {"": ("Vera", "Vera.ttf"), "bold": ("VeraBd", "VeraBd.ttf")}
"""font-weight -> name and file of the font"""
TURNED = re.compile(r"translate\((\S+) (\S+)\) rotate\((\S+)\)")
TOKEN = re.compile(r"[A-Za-z]|-?(?:\d+\.?\d*|\.\d+)")
PNG = "data:image/png;base64,"


def need_reportlab() -> None:
    """``BadInput`` where reportlab is not installed."""
    if find_spec("reportlab") is None:
        raise BadInput(".pdf wants reportlab: pip install 'genward[figures]', or write an .svg")


def pdf(svg: str) -> bytes:
    """One page of the figure's size.

    Raises:
        BadInput: reportlab is not installed, or a text has a character that its font does not.
    """
    need_reportlab()
    from reportlab.pdfgen.canvas import Canvas

    root = ElementTree.fromstring(svg)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    stream = io.BytesIO()
    canvas = Canvas(stream, pagesize=(width * POINTS, height * POINTS), pageCompression=1, invariant=1)
    canvas.setTitle(root.attrib.get("aria-label", "figure"))
    canvas.setCreator("genward")
    canvas.scale(POINTS, POINTS)
    fonts = _fonts()
    for element in root:
        canvas.saveState()
        DRAW[element.tag.rpartition("}")[2]](canvas, element, height, fonts)
        canvas.restoreState()
    canvas.showPage()
    canvas.save()
    return stream.getvalue()


def _fonts() -> dict[str, Any]:
    """font-weight -> font, registered with reportlab."""
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont

    found = {weight: TTFont(name, file, asciiReadable=True) for weight, (name, file) in FONTS.items()}
    for font in found.values():
        pdfmetrics.registerFont(font)
    return found


def _ink(canvas: Any, given: Mapping[str, str]) -> dict[str, int]:
    """Set colors, width and opacity of a shape; which of the two, ``fill`` and ``stroke``, are drawn."""
    from reportlab.lib.colors import HexColor

    fill, stroke = given.get("fill", "#000000"), given.get("stroke", "none")
    if fill != "none":
        canvas.setFillColor(HexColor(fill))
    if stroke != "none":
        canvas.setStrokeColor(HexColor(stroke))
    canvas.setLineWidth(float(given.get("stroke-width", 1)))
    if "opacity" in given:
        canvas.setFillAlpha(float(given["opacity"]))
        canvas.setStrokeAlpha(float(given["opacity"]))
    return {"fill": int(fill != "none"), "stroke": int(stroke != "none")}


def _box(given: Mapping[str, str], height: float) -> tuple[float, float, float, float]:
    """(left, bottom, width, height) as PDF counts them, from below."""
    wide, high = float(given["width"]), float(given["height"])
    return float(given.get("x", 0)), height - float(given.get("y", 0)) - high, wide, high


def _rect(canvas: Any, element: ElementTree.Element, height: float, fonts: Mapping[str, Any]) -> None:
    canvas.rect(*_box(element.attrib, height), **_ink(canvas, element.attrib))


def _line(canvas: Any, element: ElementTree.Element, height: float, fonts: Mapping[str, Any]) -> None:
    _ink(canvas, element.attrib)
    x1, x2, y1, y2 = (float(element.attrib[key]) for key in ("x1", "x2", "y1", "y2"))
    canvas.line(x1, height - y1, x2, height - y2)


def _circle(canvas: Any, element: ElementTree.Element, height: float, fonts: Mapping[str, Any]) -> None:
    x, y, r = (float(element.attrib[key]) for key in ("cx", "cy", "r"))
    canvas.circle(x, height - y, r, **_ink(canvas, element.attrib))


def _path(canvas: Any, element: ElementTree.Element, height: float, fonts: Mapping[str, Any]) -> None:
    path = canvas.beginPath()
    for kind, x, y in outline(element.attrib["d"]):
        if kind == "z":
            path.close()
        else:
            (path.moveTo if kind == "M" else path.lineTo)(x, height - y)
    canvas.drawPath(path, **_ink(canvas, element.attrib))


def outline(path: str) -> Iterator[tuple[str, float, float]]:
    """(``M``, ``L`` or ``z``, x, y) of a path of straight lines, every place absolute."""
    tokens = TOKEN.findall(path)
    k, kind, x, y, start = 0, "", 0.0, 0.0, (0.0, 0.0)
    while k < len(tokens):
        if tokens[k].isalpha():
            kind, k = tokens[k], k + 1
        if not kind:
            raise ValueError(f"{path!r} is no path of straight lines")
        if kind in "zZ":
            (x, y), kind = start, ""
            yield "z", x, y
            continue
        base = (x, y) if kind.islower() else (0.0, 0.0)
        if kind in "hH":
            x, k = base[0] + float(tokens[k]), k + 1
        elif kind in "vV":
            y, k = base[1] + float(tokens[k]), k + 1
        elif kind in "mMlL":
            x, y, k = base[0] + float(tokens[k]), base[1] + float(tokens[k + 1]), k + 2
        else:
            raise ValueError(f"{path!r} is no path of straight lines")
        begins = kind in "mM"
        start = (x, y) if begins else start
        yield "M" if begins else "L", x, y
        kind = {"m": "l", "M": "L"}.get(kind, kind)  # more places after a move are lines


def _text(canvas: Any, element: ElementTree.Element, height: float, fonts: Mapping[str, Any]) -> None:
    given, text = element.attrib, element.text or ""
    font = fonts[given.get("font-weight", "")]
    strange = next((char for char in text if ord(char) not in font.face.charToGlyph), "")
    if strange:
        raise BadInput(
            f"the PDF's font has no character U+{ord(strange):04X} ({strange!r}, in {text[:40]!r}); write an .svg"
        )
    _ink(canvas, given)
    canvas.setFont(font.fontName, float(given["font-size"]))
    turned = TURNED.fullmatch(given.get("transform", ""))
    across, down, angle = map(float, turned.groups()) if turned else (0.0, 0.0, 0.0)
    canvas.translate(across, height - down)
    canvas.rotate(-angle)
    x, y = float(given["x"]), -float(given["y"])
    draw = {"middle": canvas.drawCentredString, "end": canvas.drawRightString}.get(given["text-anchor"])
    (draw or canvas.drawString)(x, y, text)


def _image(canvas: Any, element: ElementTree.Element, height: float, fonts: Mapping[str, Any]) -> None:
    from reportlab.lib.utils import ImageReader

    uri = element.attrib["{http://www.w3.org/1999/xlink}href"]
    data = base64.b64decode(uri.removeprefix(PNG), validate=True)
    canvas.drawImage(ImageReader(io.BytesIO(data)), *_box(element.attrib, height))


DRAW = {"rect": _rect, "line": _line, "circle": _circle, "path": _path, "text": _text, "image": _image}
"""Element of the SVG -> how it is drawn"""
