"""Reports from a small synthetic run: complete, offline, escaped, equal for equal input; and what happens with bad
input."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from genward.benchmarks.erasure import ErasureBenchmark
from genward.core.blocks import Shot
from genward.errors import StoreError
from genward.report.media import MAX_STRIPS, Album, thumbnail
from genward.report.page import build as build_page

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


def build(store: Any, run: str, out: Path | None = None) -> Path:
    return build_page(store, run, out, sections=ErasureBenchmark.sections)


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
        "uce: sample missing in the store",
        "esd-x: an error, no sample",
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
from genward.benchmarks.erasure.sections import sections
from genward.report import build
print(build(Store(), "quick", Path(sys.argv[1]) / "x.html", sections=sections))
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
    album = Album(store)
    assert album.shot(Shot("uce", sha=sha)).state == "lost"
    assert album.lost == [sha]
    store.write("quick", metrics)
    tiles = [a["aria-label"] for a in Page(build(store, "quick").read_text("utf-8")).all("div", "tile")]
    assert tiles.count("uce: sample missing in the store") == 2


def test_thumbnails_keep_small_pictures_and_put_transparency_on_white() -> None:
    assert thumbnail(Image.new("RGB", (64, 48))).size == (64, 48)
    assert thumbnail(Image.new("RGB", (512, 256))).size == (128, 64)
    assert thumbnail(Image.new("RGBA", (4, 4), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    assert thumbnail(Image.new("L", (4, 4), 7)).getpixel((0, 0)) == (7, 7, 7)
