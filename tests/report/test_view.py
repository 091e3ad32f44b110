"""All runs of a store as static pages: a list, a page each, links that lead somewhere, nothing loaded."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from genward.benchmarks.erasure import ErasureBenchmark
from genward.errors import StoreError
from genward.report.view import INDEX, build_all


class Shelf:
    """The fixture's store with a list of its runs."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def runs(self) -> list[str]:
        folder = self._store.root / "runs"
        return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []


@pytest.fixture
def shelf(store: Any, metrics: dict[str, Any]) -> Shelf:
    for name, date in (("first run", "2026-01-02"), ("second+run", "2026-01-03"), ("third", "2026-01-04")):
        mine = copy.deepcopy(metrics)
        mine["run"] |= {"name": name, "date": f"{date}T00:00:00Z"}
        store.write(name, mine)
    store.run_folder("begun").mkdir()
    return Shelf(store)


def hrefs(path: Path) -> list[str]:
    return [h for h in re.findall(r'href="([^"]*)"', path.read_text("utf-8")) if not h.startswith(("#", "data:"))]


def test_every_measured_run_has_a_page_and_every_link_leads_to_one(shelf: Shelf, tmp_path: Path) -> None:
    index, entries = build_all(shelf, tmp_path / "v", sections=ErasureBenchmark.sections)
    assert index == tmp_path / "v" / INDEX
    assert [e.name for e in entries] == ["third", "second+run", "first run", "begun"], "the newest first"
    pages = sorted(p for p in (tmp_path / "v").rglob("*") if p.is_file())
    assert [p.name for p in pages] == ["index.html", "first run.html", "second+run.html", "third.html"]
    for page in pages:
        for href in hrefs(page):
            assert (page.parent / unquote(href)).resolve() in pages, f"{page.name} -> {href}"
    seen, todo = set(), [pages[0]]
    while todo:
        page = todo.pop()
        seen.add(page)
        todo += [p for h in hrefs(page) if (p := (page.parent / unquote(h)).resolve()) not in seen]
    assert seen == set(pages), "from the list every page is reached, and from every page the list"
    assert [unquote(h) for h in hrefs(pages[2])] == ["../index.html", "third.html", "first run.html"]


def test_the_list_says_what_came_out_and_which_run_has_no_page(shelf: Shelf, tmp_path: Path) -> None:
    index, _ = build_all(shelf, tmp_path / "v", sections=ErasureBenchmark.sections)
    text = index.read_text("utf-8")
    assert text.count("<article") == 4 and "has no metrics.json" in text
    assert text.count("Best balance") == 6 and "2026-01-03 00:00:00Z" in text
    assert "<script" not in text and "http://" not in text and not re.search(r"url\(|@import", text)


def test_equal_stores_give_equal_bytes(shelf: Shelf, tmp_path: Path) -> None:
    one, two = (build_all(shelf, tmp_path / x, sections=ErasureBenchmark.sections)[0] for x in "ab")
    for page in one.parent.rglob("*.html"):
        assert page.read_bytes() == (two.parent / page.relative_to(one.parent)).read_bytes()


def test_a_store_without_runs_and_a_folder_that_is_a_file(store: Any, metrics: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no run in this store"):
        build_all(Shelf(store), tmp_path / "v", sections=ErasureBenchmark.sections)
    store.write("one", metrics)
    (tmp_path / "file").write_text("here")
    with pytest.raises(StoreError, match="cannot be written"):
        build_all(Shelf(store), tmp_path / "file", sections=ErasureBenchmark.sections)
