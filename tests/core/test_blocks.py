"""Blocks refuse what a page could not draw, and import nothing heavy."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from typing import Any, get_args

import pytest

from genward.core import blocks as b
from genward.core.plain import plain_table
from genward.errors import BadInput

HEAD = (b.Column("arm", "text"), b.Column("name"))
AXIS = b.Axis("share, %", ((0.0, "0"), (1.0, "100")))
PLOT = b.Plot("weapons", AXIS, AXIS, (b.Point("uce", 0.9, 0.1, "uce: 90 %, 10 %"),))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: b.Text("x", "purple"), "'purple' is not one of"),
        (lambda: b.Chip("x", "loud"), "'loud' is not one of"),
        (lambda: b.Column("x", "date"), "'date' is not one of"),
        (lambda: b.Column("x", better="lower"), "'lower' is not one of"),
        (lambda: b.Row("x", (), "king"), "'king' is not one of"),
        (lambda: b.Table(HEAD, (b.Row("uce", ()),)), "0 cells under 1 columns"),
        (lambda: b.Matrix("weapons", HEAD, (b.Row("uce", (None, None)),)), "2 cells under 1 columns"),
        (lambda: b.Matrix("weapons", HEAD, (b.Row("uce", (b.Cell("few", "few"),)),)), "'few' is text"),
        (lambda: b.Axis("x", ((0.0, "0"),)), "at least two, rising"),
        (lambda: b.Axis("x", ((0.0, "0"), (0.0, "0"))), "at least two, rising"),
        (lambda: b.Point("x", 0, 0, "", "king"), "'king' is not one of"),
        (lambda: b.Choice("x", "variant", ()), "no plot to choose"),
        (lambda: b.Curve("x", (1.0,)), "a line needs two"),
        (lambda: b.Shot("uce"), "has no sample"),
        (lambda: b.Shot("uce", status="lost"), "'lost' is not one of"),
        (lambda: b.Player("tone"), "neither hash and data"),
        (lambda: b.Player("tone", "ab", b"RIFF"), "both hash and data"),
        (lambda: b.Player("tone", "ab", mime='audio/wav" onerror="'), "is no audio type"),
        (lambda: b.Section("Matrix", "x", ()), "section id 'Matrix'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(BadInput) as caught:
        make()
    assert said in str(caught.value)


def test_walk_goes_into_boxes_and_choices_in_reading_order() -> None:
    choice = b.Choice("weapons", "variant", (("all", PLOT),))
    box = b.Box("judge", (b.Facts((("a", "b"),)), choice))
    found = list(b.walk((b.Heading("x"), box, b.Text("y"))))
    assert [type(x).__name__ for x in found] == ["Heading", "Box", "Facts", "Choice", "Plot", "Text"]


def test_a_plain_table_shows_what_rows_hold_and_dashes_for_what_they_lack() -> None:
    rows = [
        {"guard": "aeiou", "auroc": 0.96740312, "n": 500, "split": "own"},
        {"guard": "probe", "auroc": float("nan"), "n": None, "split": 3},
    ]
    found = plain_table(rows, ("guard", "auroc", "n", "split", "missing"))
    assert [c.kind for c in found.columns] == ["text", "number", "number", "number", "text"]
    assert [[c.text for c in r.cells if c] for r in found.rows] == [["0.9674", "500", "own", "–"], ["–", "–", "3", "–"]]
    assert [r.cells[0].value for r in found.rows if r.cells[0]] == [0.96740312, None]
    assert [c.name for c in plain_table(rows).columns] == ["guard", "auroc", "n", "split"]
    assert plain_table([]).rows == () and plain_table([], ("arm",)).columns[0].name == "arm"


def test_every_block_is_frozen_and_says_what_it_is() -> None:
    for kind in (*get_args(b.Block), b.Section, b.Summary, b.Finding, b.Shot, b.Row, b.Cell, b.Column):
        assert kind.__dataclass_params__.frozen and kind.__doc__ and not kind.__doc__.startswith(kind.__name__ + "(")
        assert dataclasses.fields(kind)


def test_a_section_is_named_by_its_title_up_to_the_colon() -> None:
    assert b.Section("matrix", "Matrix: how much is left", ()).link == "Matrix"
    assert b.Section("matrix", "Matrix: how much is left", (), short="Cells").link == "Cells"
    assert b.Row("x", (), "oracle").control and not b.Row("x", (), "defense").control and not b.Row("x", ()).control


def test_importing_blocks_loads_no_torch_no_pictures_no_templates() -> None:
    code = "import sys, genward.core.blocks; print({'torch', 'PIL', 'jinja2', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()"
