"""A figure's SVG as PDF: paths, what is refused, equal bytes."""

from __future__ import annotations

import pytest

from genward.errors import BadInput
from genward.report import vector

SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="100" height="50" aria-label="one">'
    '<text x="4" y="20" font-size="12" text-anchor="start" fill="#1a1a1a">{}</text></svg>'
)


@pytest.mark.parametrize(
    ("path", "places"),
    [
        ("M1 2L3 4", [("M", 1, 2), ("L", 3, 4)]),
        ("M1 2 3 4", [("M", 1, 2), ("L", 3, 4)]),
        ("M1 2L3.5-4H.5V7", [("M", 1, 2), ("L", 3.5, -4), ("L", 0.5, -4), ("L", 0.5, 7)]),
        ("M10 3l7 7-7 7z", [("M", 10, 3), ("L", 17, 10), ("L", 10, 17), ("z", 10, 3)]),
        ("M8 4h4v4h-4z", [("M", 8, 4), ("L", 12, 4), ("L", 12, 8), ("L", 8, 8), ("z", 8, 4)]),
        ("M1 1H2M5 5V6", [("M", 1, 1), ("L", 2, 1), ("M", 5, 5), ("L", 5, 6)]),
    ],
)
def test_a_path_of_straight_lines(path: str, places: list[tuple[str, float, float]]) -> None:
    assert list(vector.outline(path)) == places


@pytest.mark.parametrize("path", ["M1 2C1 2 3 4 5 6", "M1 1z5 5", "5 5"])
def test_a_path_with_anything_else_is_an_error(path: str) -> None:
    with pytest.raises(ValueError, match="no path of straight lines"):
        list(vector.outline(path))


def test_equal_figures_are_equal_bytes_and_foreign_characters_are_said() -> None:
    pytest.importorskip("reportlab")
    made = vector.pdf(SVG.format("0.12 – 0.30 ≤ 1 …"))
    assert made.startswith(b"%PDF") and made == vector.pdf(SVG.format("0.12 – 0.30 ≤ 1 …"))
    with pytest.raises(BadInput, match=r"no character U\+732B .*write an .svg"):
        vector.pdf(SVG.format("a 猫"))
