"""Reports from a small synthetic run: complete, offline, escaped, equal for equal input; and what happens with bad
input."""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genward.errors import BadInput, StoreError
from genward.report import build, summary_rows, text_table
from genward.report.plot import place, plots, ticks
from genward.report.prose import cautions, findings
from genward.report.reading import check
from genward.report.shots import MAX_STRIPS, Thumbnails, grids, thumbnail
from genward.report.tables import Estimate, Grid, arms, duration, percent, short

VOID = {"meta", "link", "img", "br", "wbr", "input"}


class Page(HTMLParser):
    """Tags with their attributes, text, and whether tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes <{self.open[-1:]}> at {self.getpos()}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str, cls: str = "") -> list[dict[str, str]]:
        return [a for t, a in self.tags if t == tag and (not cls or cls in a.get("class", "").split())]


@pytest.fixture
def text(store: Any, metrics: dict[str, Any]) -> str:
    store.write("quick", metrics)
    return build(store, "quick").read_text("utf-8")


@pytest.fixture
def page(text: str) -> Page:
    return Page(text)


# ------------------------------------------------------------------------------------------------------------- the page


def test_it_is_whole_and_loads_nothing(page: Page, text: str) -> None:
    assert page.open == []
    loads = [
        a[k]
        for _, a in page.tags
        for k in ("src", "href", "xlink:href", "data", "action", "poster", "srcset")
        if k in a
    ]
    assert loads and all(v.startswith(("data:", "#")) for v in loads)
    assert not re.search(r"url\(|@import|<iframe|<object|<base|fetch\(|XMLHttp|import\(", text)
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    script = re.search(r"<script>(.*?)</script>", text, re.S)
    assert script and base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode() in policy
    assert "default-src 'none'" in policy


def test_hostile_text_is_escaped_everywhere(page: Page, text: str, hostile: str) -> None:
    assert hostile not in text
    assert len(page.all("script")) == 1
    assert not [a for _, a in page.tags if any(k.startswith("on") for k in a)]
    assert hostile in page.words, "the prompt must still be readable"
    assert "quick <b>run</b>" in page.words


def test_sections_marks_and_words(page: Page) -> None:
    words = " ".join(" ".join(page.words).split())
    for wanted in (
        "1810f0d7a3c0",
        "dirty",
        "steps 20, guidance 4.0",
        "cpu (2 threads)",
        "8 min 13 s",
        "2026-01-02 03:04:05Z",
        "cannot tell",
        "0.42.1",
    ):
        assert wanted in words, wanted
    for wanted in (
        "genward run erasure --preset quick --concept 'weapons'",
        "judge unsure on every picture",
        "3 unscored",
        "same as base",
    ):
        assert wanted in words, wanted
    ids = {a["id"] for _, a in page.tags if "id" in a}
    assert {a["href"][1:] for a in page.all("a") if a["href"].startswith("#")} <= ids
    assert len([a for _, a in page.tags if "id" in a]) == len(ids)


def test_every_column_sorts_and_every_cell_has_its_key(page: Page) -> None:
    heads = [a for a in page.all("th") if a.get("aria-sort")]
    assert len(heads) == len([a for a in page.all("button") if "data-sort" in a]) > 20
    assert {a["aria-sort"] for a in heads} == {"none"}
    assert all("data-v" in a for a in page.all("td", "heat") + page.all("td", "none"))
    values = [float(a["data-v"]) for a in page.all("td", "heat")]
    assert len(values) == 6 * 8 + 7 + 2 * 8 + 8 - 1 and all(0 <= v <= 1 for v in values)


def test_unsafe_pictures_are_blurred_and_missing_ones_say_why(page: Page, text: str) -> None:
    unsafe = page.all("button", "unsafe")
    assert len(unsafe) == 5 + 8 and all(a["aria-pressed"] == "false" and a["aria-label"] for a in unsafe)
    assert '.unsafe[aria-pressed="false"] img { filter: blur(' in text
    assert all(a["alt"] for a in page.all("img")) and len(page.all("img")) == 5 + 8 + 8
    tiles = [a["aria-label"] for a in page.all("div", "tile")]
    assert tiles == [
        "sld:strong: refused by a defense",
        "uce: picture missing in the store",
        "esd-x: an error, no picture",
    ]
    assert "Missing or unreadable in the store" in text


def test_pictures_are_small_pngs(page: Page) -> None:
    for a in page.all("img"):
        image = Image.open(io.BytesIO(base64.b64decode(a["src"].removeprefix("data:image/png;base64,"), validate=True)))
        assert image.format == "PNG" and image.mode == "RGB" and max(image.size) in (64, 128)
        assert ("tiny" in a.get("class", "")) == (max(image.size) == 64)


def test_equal_input_gives_equal_bytes(store: Any, metrics: dict[str, Any], text: str, tmp_path: Path) -> None:
    again = build(store, "quick", tmp_path / "deeper" / "again.html")
    assert again.read_text("utf-8") == text
    assert sorted(p.name for p in again.parent.iterdir()) == ["again.html"]
    assert build(store, "quick", tmp_path / "deeper") == tmp_path / "deeper" / "report.html"


def test_it_needs_no_torch(store: Any, metrics: dict[str, Any]) -> None:
    store.write("quick", metrics)
    code = """
import sys
from pathlib import Path
from PIL import Image
sys.modules["torch"] = sys.modules["diffusers"] = sys.modules["matplotlib"] = None
class Store:
    root = Path(sys.argv[1])
    def run_folder(self, run): return self.root / "runs" / run
    def image(self, sha): return Image.open(self.root / "images" / f"{sha}.png")
from genward.report import build
print(build(Store(), "quick", Path(sys.argv[1]) / "x.html"))
"""
    subprocess.run([sys.executable, "-c", code, str(store.root)], check=True, capture_output=True, timeout=60)


def test_strips_beyond_the_limit_are_left_out_and_said(store: Any, metrics: dict[str, Any]) -> None:
    metrics["grids"] = [metrics["grids"][2]] * (MAX_STRIPS + 7)
    store.write("quick", metrics)
    page = Page(build(store, "quick").read_text("utf-8"))
    words = " ".join(page.words)
    assert len(page.all("article", "strip")) == MAX_STRIPS
    assert f"7 of {MAX_STRIPS + 7} strips are left out" in words and "7 strips were left out" in words


def test_a_run_with_nothing_in_it_still_makes_a_page(store: Any) -> None:
    store.write("empty", {"run": {}, "arms": [], "cells": []})
    page = Page(build(store, "empty").read_text("utf-8"))
    assert page.open == [] and "This run has no cells" in " ".join(page.words)


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "not a table"),
        ('{"run": {}, "arms": []}', "'cells' is NoneType"),
        ('{"run": [], "arms": [], "cells": []}', "'run' is list"),
        ('{"run": {}, "arms": [], "cells": [3]}', "rows that are not tables"),
        ('{"run": {}, "arms": [], "cells": [{"arm": "a", "concept": "c"}]}', "'variant'"),
        (
            '{"run": {}, "arms": [], "cells": [{"arm": "a", "concept": "c", "variant": "w", "crr": "0.5"}]}',
            "not a number",
        ),
        ('{"run": {}, "arms": [], "cells": [], "schema": 99}', "schema 99"),
        ('{"run": {}, "arms": [], "cells": [], "judges": {}}', "'judges' is dict"),
        ('{"run": {}, "arms": [], "cells": [], "judges": [{"labels": ["a"]}]}', "'labels' in 'judges' is list"),
        ('{"run": {}, "arms": [], "cells": [], "grids": [{"images": "none"}]}', "'images' in 'grids' is str"),
    ],
)
def test_foreign_metrics_are_refused_with_a_hint(store: Any, content: str, message: str) -> None:
    store.write("bad", content)
    with pytest.raises(StoreError, match="measure the run again") as caught:
        build(store, "bad")
    assert message in str(caught.value)
    assert not (store.run_folder("bad") / "report.html").exists()


def test_bytes_that_are_no_text(store: Any) -> None:
    store.write("bad", "")
    (store.run_folder("bad") / "metrics.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(StoreError, match="cannot be read"):
        build(store, "bad")


def test_a_missing_run_and_an_unmeasured_one(store: Any, metrics: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match="none yet"):
        build(store, "quick")
    store.write("quick", metrics)
    with pytest.raises(StoreError, match="runs here: quick"):
        build(store, "quik")
    store.run_folder("begun").mkdir()
    with pytest.raises(StoreError, match="has no metrics.json"):
        build(store, "begun")


def test_a_place_that_cannot_be_written(store: Any, metrics: dict[str, Any], tmp_path: Path) -> None:
    store.write("quick", metrics)
    (tmp_path / "file").write_text("here")
    with pytest.raises(StoreError, match="cannot be written"):
        build(store, "quick", tmp_path / "file" / "report.html")


def test_a_broken_picture_becomes_a_tile(store: Any, metrics: dict[str, Any]) -> None:
    sha = metrics["grids"][2]["images"]["uce"]
    path = store.root / "images" / f"{sha}.png"
    path.write_bytes(path.read_bytes()[:90])
    made = Thumbnails(store)
    found, _ = grids(metrics["grids"], arms(check(metrics)), made)
    assert [s.state for s in found[2].shots if s.arm == "uce"] == ["lost"]
    assert sha in made.lost


def test_two_cells_of_one_key_are_refused(metrics: dict[str, Any]) -> None:
    metrics["cells"].append(dict(metrics["cells"][0]))
    with pytest.raises(BadInput, match="two cells"):
        summary_rows(metrics)


# ------------------------------------------------------------------------------------------------------- pure functions


def test_the_mean_over_wordings_against_numpy(metrics: dict[str, Any]) -> None:
    grid = Grid(check(metrics))
    mine = [c for c in metrics["cells"] if c["arm"] == "uce" and c["concept"] == "weapons"]
    want = [np.mean([c[k] for c in mine], dtype=np.float64) for k in ("crr", "crr_low", "crr_high")]
    np.testing.assert_allclose(grid.residual("uce", "weapons"), want, rtol=0, atol=1e-12)
    assert grid.residual("zero", "weapons") == Estimate(None), "an arm that lacks a wording has no mean to compare"


def test_arms_of_one_label_are_one_row_and_hashes_name_arms(metrics: dict[str, Any]) -> None:
    second = copy.deepcopy(next(a for a in metrics["arms"] if a["label"] == "uce")) | {"hash": "beef"}
    metrics["arms"].append(second)
    for cell in metrics["cells"]:
        if cell["arm"] == "uce" and cell["concept"] == "style-noto":
            cell["arm"] = "beef"
    found = {a.label: a for a in arms(check(metrics))}
    assert len(found) == 8 and [p.hash for p in found["uce"].parts][1] == "beef"
    assert [r[1] for r in summary_rows(metrics)].count("uce") == 2


def test_roles(metrics: dict[str, Any]) -> None:
    roles = {a.label: a.role for a in arms(check(metrics))}
    assert roles["base"] == "base" and roles["oracle"] == "oracle" and roles["zero"] == "control"
    assert {v for k, v in roles.items() if k not in ("base", "oracle", "zero")} == {"defense"}


def test_findings_name_the_best_its_cost_and_who_is_as_good(metrics: dict[str, Any]) -> None:
    first = findings(Grid(check(metrics)))[0]
    assert (first.concept, first.best) == ("weapons", "uce+negative_prompt")
    said = " ".join(first.lines).replace("\u00a0", " ")
    for wanted in (
        "leaves weapons in 3 % (interval 0–17 %)",
        "without a defense (base) it is 64 %",
        "against 90 %",
        "a cost of 11 points",
        "“scene”",
        "oracle",
    ):
        assert wanted in said, wanted
    assert "sld:strong, uce and esd-x cannot be told apart" in said


def test_cautions(metrics: dict[str, Any]) -> None:
    checked = check(metrics)
    said = " ".join(cautions(checked, Grid(checked), 1, 0)).replace("\u00a0", " ")
    for wanted in (
        "a cell with 24 pictures is known only to ±13 points",
        "27 pictures could not be scored",
        "1 label (dagger)",
        "uncommitted",
        "1 picture is named",
    ):
        assert wanted in said, wanted
    assert "do not trust" not in said
    for cell in metrics["cells"]:
        if cell["arm"] == "zero" and cell["crr"] is not None:
            cell["crr"] -= 0.01
    checked = check(metrics)
    assert "differs from the base arm in 7 cells" in cautions(checked, Grid(checked), 0, 0)[0]


def test_the_terminal_table(metrics: dict[str, Any]) -> None:
    rows = summary_rows(metrics)
    assert rows[0][:4] == ["concept", "arm", "name", "synonym"] and rows[0][-1] == "prepare"
    assert len(rows) == 1 + 2 * 8 and len({len(r) for r in rows}) == 1
    assert rows[1][:3] == ["weapons", "base *", "0.62 [0.50, 0.76]"]
    assert rows[5][-1] == "0.4 s"
    lines = text_table(json.loads(json.dumps(metrics))).splitlines()
    assert len(lines) == len(rows) + 1 and set(lines[1]) == {"-", " "}


def test_numbers_as_text() -> None:
    assert [percent(v) for v in (None, 0.583, 0.004, 1.0, -0.001)] == ["–", "58", "0", "100", "0"]
    assert [short(v) for v in (None, 0, 0.22, 19, 12.5, 5.125, 1234.5, 1e-7, -0.02)] == [
        "–",
        "0",
        "0.22",
        "19",
        "12.5",
        "5.12",
        "1,234",
        "1.00e-07",
        "-0.02",
    ]
    assert [duration(v) for v in (None, 0.24, 42, 185, 7440)] == ["–", "0.24 s", "42 s", "3 min 5 s", "2 h 4 min"]


def test_thumbnails_keep_small_pictures_and_put_transparency_on_white() -> None:
    assert thumbnail(Image.new("RGB", (64, 48))).size == (64, 48)
    assert thumbnail(Image.new("RGB", (512, 256))).size == (128, 64)
    assert thumbnail(Image.new("RGBA", (4, 4), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    assert thumbnail(Image.new("L", (4, 4), 7)).getpixel((0, 0)) == (7, 7, 7)


def test_plot_axes_hold_every_bar_and_labels_avoid_each_other(metrics: dict[str, Any]) -> None:
    for low, high in ((0.0, 0.03), (0.61, 0.94), (0.5, 0.5), (1.0, 1.0), (0.0, 1.0), (0.0, 0.0)):
        found = ticks(low, high)
        assert found[0] <= low and found[-1] >= high and 2 <= len(found) <= 7
        assert 0 <= found[0] and found[-1] <= 1
    drawn = plots(Grid(check(metrics)), "weapons")
    assert [p.variant for p in drawn] == ["", "name", "synonym", "synonym-heldout", "description", "kind", "scene"]
    assert drawn[0].missing == ("zero",) and len(drawn[0].marks) == 7
    assert all(p.xticks == drawn[0].xticks and p.yticks == drawn[0].yticks for p in drawn)
    assert all(m.x1 <= m.x <= m.x2 and m.y2 <= m.y <= m.y1 for p in drawn for m in p.marks)
    places = place(["base", "zero"], [(300.0, 200.0), (300.0, 200.0)])
    assert places[0] != places[1]
