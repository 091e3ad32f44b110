"""Tables of a run: all digits in CSV, intervals in Markdown and LaTeX, clear errors."""

from __future__ import annotations

import csv
import io
import math

import pytest

from genward.errors import BadInput, UnknownName
from genward.run.tabling import columns_of, table

CELLS = [
    {"variant": "name", "arm": "base_1", "crr": 0.9166666, "crr_low": 0.76, "crr_high": 0.98, "n": 24, "why": None},
    {"variant": "scene", "arm": "a|b & c", "crr": None, "crr_low": None, "crr_high": None, "n": 0, "why": "50 % of"},
]
RUN = {"cells": CELLS}


def test_csv_has_everything_and_reads_back() -> None:
    rows = list(csv.DictReader(io.StringIO(table(RUN, "csv"))))
    assert list(rows[0]) == ["arm", "variant", "crr", "crr_low", "crr_high", "n", "why"]
    assert float(rows[0]["crr"]) == CELLS[0]["crr"] and rows[1]["crr"] == "" and rows[1]["arm"] == "a|b & c"


def test_markdown_shows_intervals_and_keeps_its_columns() -> None:
    text = table(RUN, "markdown", columns=["arm", "crr"])
    assert text.splitlines()[2] == "| base_1 | 0.92 [0.76, 0.98] |"
    assert text.splitlines()[3] == r"| a\|b & c | - |"


def test_latex_is_escaped() -> None:
    text = table(RUN, "latex", columns=["arm", "crr", "why"], digits=1)
    assert r"base\_1 & 0.9 [0.8, 1.0] & - \\" in text and r"a|b \& c & - & 50 \% of \\" in text
    assert text.startswith("\\begin{tabular}{lrl}\n\\toprule") and text.endswith("\\bottomrule\n\\end{tabular}\n")


def test_latex_has_a_minus_before_figures_and_a_hyphen_in_words() -> None:
    cells = [{"arm": "uce-1", "d": -0.5, "d_low": -1.0, "d_high": 0.1, "n": -3}]
    assert r"uce-1 & $-$0.5 [$-$1.0, 0.1] & $-$3 \\" in table({"cells": cells}, "latex", digits=1)


def test_choosing() -> None:
    assert table(RUN, "markdown", columns=["n"], where={"variant": "name"}).splitlines()[2:] == ["| 24 |"]
    assert columns_of(CELLS)[:2] == ["arm", "variant"] and "crr_low" not in columns_of(CELLS)
    assert table({"cells": [{"arm": "x", "v": math.nan}]}, "markdown").splitlines()[2] == "| x | - |"


def test_errors() -> None:
    with pytest.raises(UnknownName, match="crr"):
        table(RUN, "csv", columns=["ccr"])
    with pytest.raises(UnknownName, match="latex"):
        table(RUN, "tex")
    with pytest.raises(BadInput, match="variant=nothing"):
        table(RUN, "latex", where={"variant": "nothing"})
    with pytest.raises(BadInput, match="no cells"):
        table({}, "markdown", columns=[])
    with pytest.raises(BadInput, match="digits"):
        table(RUN, "latex", digits=10)
