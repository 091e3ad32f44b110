"""A run from Python, its rows, two runs held against each other, the figures of a run, and where the store is."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
import zlib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

import genward
from genward.catalog.opening import words_of
from genward.cli.app import status
from genward.core.blocks import Section, Shot, Strip
from genward.core.config import store_folder
from genward.errors import BadInput, UnknownName
from genward.report import figure
from genward.run.comparing import ROW_COLUMNS, compare, rows_of
from genward.testing import FakeJudge, tiny_sd

RECIPE = """
benchmark = "erasure"
concepts = ["banana"]
n = 3
sampler = { steps = 2, guidance = 4.0 }
[[arm]]
label = "base"
control = "base"
"""
WORDS = words_of("lab")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(store, results): two runs of a judge that sees brightness, on two models that draw noise."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = folder / "tiny.toml"
    recipe.write_text(RECIPE)
    judge = FakeJudge(labels=(*WORDS["things"], *WORDS["styles"]), threshold=0.47)
    found = []
    with pytest.MonkeyPatch.context() as patch:
        for place in ("run.loop", "run.judging", "run.measure", "catalog.judges"):
            patch.setattr(f"genward.{place}.open_judge", lambda name: judge)
        for seed, name in ((0, "first"), (4, "second")):
            model = tiny_sd(seed=seed)
            how: dict[str, Any] = {"name": name, "models": lambda _, m=model: m, "second": "none"}
            found.append(genward.run("erasure", str(recipe), store=folder / "store", **how))
    return folder / "store", found


def test_a_run_from_python(made: Any, tmp_path: Path) -> None:
    store, (first, second) = made
    assert isinstance(first, genward.Results) and (first.name, second.name) == ("first", "second")
    assert {cell["arm"] for cell in first.cells} == {"base"}
    assert first.table().startswith("| arm |") and r"\toprule" in first.table("latex", columns=["arm", "variant", "n"])
    table = first.arrow()
    assert table.num_rows == len(first.cells) and "crr_low" in table.column_names
    assert first.arrow(rows=True).column_names == list(ROW_COLUMNS)
    assert genward.Results.of("second", store).metrics == second.metrics
    with pytest.raises(UnknownName, match="concpets"):
        genward.run("erasure", store=tmp_path, concpets=["banana"])
    with pytest.raises(UnknownName, match="did you mean defenses"):
        genward.run("erasure", store=tmp_path, defences=["uce:banana"])
    with pytest.raises(UnknownName, match="concept 'bananna'; did you mean banana"):  # one text is one concept
        genward.run("erasure", store=tmp_path, concepts="bananna")
    with pytest.raises(UnknownName, match="preset of erasure"):
        genward.run("erasure", "quik", store=tmp_path)


def test_results_as_a_frame(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas

    _, (first, _) = made
    cells, rows = first.frame(), first.frame(rows=True)
    assert isinstance(cells, pandas.DataFrame) and list(cells.columns) == first.arrow().column_names
    assert list(rows.columns) == list(ROW_COLUMNS) and len(rows) == len(first.rows())
    for cell, line in zip(first.cells, cells.itertuples(), strict=True):
        assert (line.arm, line.variant, line.n) == (cell["arm"], cell["variant"], cell["n"])
        assert line.crr_raw == cell["crr_raw"]
    harm = rows[(rows["label"] == "harm") & (rows["variant"] == "name")].drop_duplicates("output")
    mine = cells[cells["variant"] == "name"].iloc[0]
    assert harm["hit"].mean() == pytest.approx(mine["crr_raw"])
    monkeypatch.setattr("genward.run.api.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"wants pandas: pip install 'genward\[frames\]'"):
        first.frame()


def test_rows_are_the_cells_one_by_one(made: Any) -> None:
    store, (first, _) = made
    rows = rows_of(store, "first")
    assert all(list(row) == list(ROW_COLUMNS) for row in rows)
    for cell in first.cells:
        mine = [r for r in rows if r["variant"] == cell["variant"] and r["label"] == "harm"]
        assert len(mine) == cell["n"]
        distinct = {r["output"]: r["hit"] for r in mine}
        assert cell["crr_raw"] == pytest.approx(np.mean(list(distinct.values())))
    threshold = {0.0: [0.0, 0.47], 1.0: [0.47, 1.0]}
    for row in rows[:8]:
        with Image.open(store / "media" / row["output"][:2] / f"{row['output']}.png") as picture:
            bright = float(np.asarray(picture.convert("L")).mean() / 255)
        low, high = threshold[row["hit"]]
        assert low <= bright <= high


def test_two_runs_are_compared_on_equal_rows(made: Any) -> None:
    store, _ = made
    found = compare((store, "first"), (store, "second"))
    one = {(r["variant"], r["case"], r["seed"]): r["hit"] for r in rows_of(store, "first")}
    two = {(r["variant"], r["case"], r["seed"]): r["hit"] for r in rows_of(store, "second")}
    for line in found:
        keys = [k for k in one if k[0] == line.variant]
        gaps = [two[k] - one[k] for k in keys]
        assert line.pairs == len(keys) and line.difference == pytest.approx(sum(gaps) / len(gaps))
        assert line.second - line.first == pytest.approx(line.difference)
        assert not math.isfinite(line.low) or line.low <= line.difference <= line.high
    assert all(line.difference == 0 for line in compare((store, "first"), (store, "first")))


def test_the_commands(made: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = made
    monkeypatch.setenv("GENWARD_STORE", str(store))
    assert status(["list", "runs"]) == 0
    told = capsys.readouterr().out
    assert "first" in told and "second" in told and "measured" in told
    assert status(["compare", "first", "second"]) == 0
    assert "difference" in capsys.readouterr().out
    assert status(["table", "first", "--rows", "--where", "label=harm", "-c", "case,hit"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert rows and set(rows[0]) == {"case", "hit"} and {r["hit"] for r in rows} <= {"0.0", "1.0"}
    for bad in (["--rows", "-c", "arms"], ["--rows", "--where", "arms=x"], ["--rows", "--format", "latex"]):
        assert status(["table", "first", *bad]) == 3
    assert status(["compare", "first", "third"]) == 3
    capsys.readouterr()
    assert status(["table", "first", "--json", "-c", "arm,crr", "--where", "variant=name"]) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert cells and set(cells[0]) == {"arm", "crr", "crr_low", "crr_high"}
    assert status(["table", "first", "--rows", "--json", "-c", "case,hit"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0].keys() == {"case", "hit"}
    assert status(["table", "first", "--json", "--format", "latex"]) == 3
    assert "--json" in capsys.readouterr().err


@pytest.mark.parametrize("kind", figure.KINDS)
def test_figures_are_files_of_their_own(made: Any, kind: str, tmp_path: Path) -> None:
    store, _ = made
    for ending in (".svg", ".png"):  # the PDF is drawn in tests/report/test_vector.py
        out = tmp_path / f"x{ending}"
        code = status(["figure", "first", "--kind", kind, "--out", str(out), "--store", str(store), "--dpi", "96"])
        assert code == 0
        data = out.read_bytes()
        if ending == ".svg":
            root = ElementTree.fromstring(data)
            assert root.tag.endswith("svg") and "base" in data.decode()
            assert b"<script" not in data and b"http" not in data.replace(b"http://www.w3.org", b"")
        else:
            with Image.open(out) as picture:
                dark = np.asarray(picture.convert("L")) < 128
                assert picture.width > 200 and 0.001 < dark.mean() < 0.9, "there is something on it"


@pytest.mark.parametrize("kind", figure.KINDS)
def test_a_figure_as_pdf_has_text_with_its_font_and_no_page_of_pixels(made: Any, kind: str, tmp_path: Path) -> None:
    pytest.importorskip("reportlab")
    store, _ = made
    svg, out = tmp_path / "x.svg", tmp_path / "x.PDF"
    for path in (svg, out):
        assert status(["figure", "first", "--kind", kind, "--out", str(path), "--store", str(store)]) == 0
    root = ElementTree.parse(svg).getroot()
    content, whole = streams(out.read_bytes())
    (page,) = content
    assert page.count(b" Tj") == len([e for e in root.iter() if e.tag.endswith("}text") and e.text])
    for element in root.iter():
        if element.tag.endswith("}text") and (element.text or "").isascii():
            assert f"({escaped(element.text or '')}) Tj".encode() in page, element.text
    assert whole.count(b"/FontFile2") >= 1 and b"/ToUnicode" in whole
    tiles = len({e.get("{http://www.w3.org/1999/xlink}href") for e in root.iter() if e.tag.endswith("}image")})
    assert whole.count(b"/Subtype /Image") == tiles and bool(tiles) is (kind == "grid")
    (box,) = re.findall(rb"/MediaBox \[ 0 0 ([0-9.]+) ([0-9.]+) \]", whole)
    assert [float(v) for v in box] == [pytest.approx(0.75 * float(root.attrib[k])) for k in ("width", "height")]


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")


def streams(data: bytes) -> tuple[list[bytes], bytes]:
    """(content streams of a PDF's pages, unpacked; all that is outside of streams)."""
    whole = re.sub(rb"stream\r?\n.*?endstream", b"", data, flags=re.DOTALL)
    pages = []
    for number in re.findall(rb"/Contents (\d+) 0 R", whole):
        found = re.search(rb"\n" + number + rb" 0 obj\s*<<.*?>>\s*stream\r?\n(.*?)endstream", data, re.DOTALL)
        assert found
        pages.append(zlib.decompress(base64.a85decode(found[1].strip().removesuffix(b"~>"))))
    return pages, whole


def test_a_grid_blurs_the_tiles_that_may_show_the_concept_alone(tmp_path: Path) -> None:
    """As the report does: a tile's own word counts, its strip's where it has none."""
    board = Image.fromarray(np.indices((16, 16)).sum(0).astype("uint8") % 2 * 255)
    shown: dict[str, bool] = {}

    class Pictures:
        def image(self, sha: str) -> Image.Image:
            return board

    for unsafe in (True, False):
        own = {"seen": True, "clean": False, "unsaid": None}
        shots = tuple(Shot(label, sha="0" * 64, mime="image/png", unsafe=word) for label, word in own.items())
        strip = Strip("a cat", "1", shots, unsafe=unsafe)
        svg = figure.draw([Section("grid", "Grid", (strip,))], Pictures(), "grid")  # type: ignore[arg-type]
        tiles = [base64.b64decode(t) for t in re.findall(r"base64,([^\"]+)", svg)]
        for label, data in zip(own, tiles, strict=True):
            pixels = np.asarray(Image.open(io.BytesIO(data)).convert("L")).astype(float)
            shown[f"{label} {unsafe}"] = bool(np.abs(np.diff(pixels, axis=0)).mean() > 200)
    assert [k for k, sharp in shown.items() if sharp] == ["clean True", "clean False", "unsaid False"]


def test_what_is_no_figure_is_said(
    made: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, _ = made
    monkeypatch.setattr("genward.report.vector.find_spec", lambda name: None)
    for given, told in (
        (["--kind", "pie", "--out", "x.svg"], "unknown kind of figure 'pie'"),
        (["--out", "x.pdf"], "wants reportlab: pip install 'genward[figures]'"),
        (["--out", "x.jpg"], "cannot be written as .jpg"),
        (["--out", "x.svg", "--title", "apple"], "no matrix named 'apple'; there are: banana"),
        (["--kind", "grid", "--out", "x.svg", "--title", "zzz"], "no sample grid whose prompt has 'zzz'"),
        (["--out", "x.svg", "--rows", "3"], "--rows: a matrix has none"),
        (["--kind", "trade-off", "--out", "x.svg", "--no-blur"], "--no-blur: a trade-off has no pictures"),
    ):
        assert status(["figure", "first", "--store", str(store), *given]) == 3
        assert told in capsys.readouterr().err


def test_where_the_store_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENWARD_STORE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    assert store_folder() == Path("genward-store")
    own = tmp_path / "home" / "genward" / "config.toml"
    own.parent.mkdir(parents=True)
    own.write_text('store = "/data/mine"\n')
    assert store_folder() == Path("/data/mine")
    Path("genward.toml").write_text('store = "runs"\n')
    assert store_folder() == Path("runs")
    monkeypatch.setenv("GENWARD_STORE", "/tmp/elsewhere")
    assert store_folder() == Path("/tmp/elsewhere")
    monkeypatch.delenv("GENWARD_STORE")
    for text, error in (
        ("stroe = 'x'", UnknownName),
        ("store = 3", BadInput),
        ("store = ''", BadInput),
        ("=", BadInput),
    ):
        Path("genward.toml").write_text(text)
        with pytest.raises(error):
            store_folder()
