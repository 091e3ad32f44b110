"""Reading prompt sets: units, families, limits, and bad files, on small data made here."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest

from genward.benchmarks.prompt_guard.sets import (
    PromptSets,
    families,
    joined_units,
    read_set,
    set_files,
    side_of,
    text_key,
)
from genward.errors import BadInput, UnknownName


def write(folder: Path, name: str, rows: Sequence[tuple[str, str, str, str]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["prompt", "label", "category", "group"])
        table.writerows(rows)
    return path


def test_rows_are_read_once_with_their_units(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "a",
        [
            ("A red cup", "safe", "x|y", ""),
            ("A red cup", "safe", "", ""),
            ("a RED cup!", "safe", "", ""),
            ("two\nlines, and a comma", "unsafe", "", "g1"),
        ],
    )
    rows = read_set(path)
    assert [r.label for r in rows] == ["safe", "safe", "unsafe"] and rows[0].categories == ("x", "y")
    assert rows[0].unit == rows[1].unit == text_key("a red cup") and rows[2].unit == "a:g1" and rows[2].harmful


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = write(tmp_path, "a", [("a cup", "safe", "", ""), ("a saw", "unsafe", "", "")])
    plain = read_set(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_set(path) == plain and len(plain) == 2


def test_units_join_across_sets(tmp_path: Path) -> None:
    long = "a small brown dog runs over the wet green grass of a wide park in autumn"
    a = read_set(
        write(tmp_path, "a", [(long, "unsafe", "", ""), ("one cat", "safe", "", "p"), ("a hat", "safe", "", "")])
    )
    b = read_set(
        write(
            tmp_path,
            "b",
            [(long + " today", "unsafe", "", ""), ("One cat.", "safe", "", "q"), ("two mats", "safe", "", "q")],
        )
    )
    sets = joined_units({"a": a, "b": b})
    assert sets["a"][0].unit == sets["b"][0].unit, "near-duplicates"
    assert sets["a"][1].unit == sets["b"][1].unit == sets["b"][2].unit, "equal text joins the groups it stands in"
    assert len({r.unit for r in sets["a"]}) == 3
    assert families(sets) == {"a": frozenset("ab"), "b": frozenset("ab")}
    apart = joined_units(
        {
            "hub_x": a,
            "hub_y": read_set(write(tmp_path, "hub_y", [("a pen", "safe", "", "")])),
            "c": read_set(write(tmp_path, "c", [("ink", "safe", "", "")])),
        }
    )
    assert families(apart) == {
        "hub_x": frozenset({"hub_x", "hub_y"}),
        "hub_y": frozenset({"hub_x", "hub_y"}),
        "c": frozenset("c"),
    }


def test_a_limit_takes_whole_units_and_balances(tmp_path: Path) -> None:
    rows = [(f"pair {k // 2} row {k}", "unsafe" if k % 2 else "safe", "", f"g{k // 2}") for k in range(100)] + [
        (f"more {k}", "unsafe", "", "") for k in range(300)
    ]
    found = read_set(write(tmp_path, "a", rows), limit=60, seed=1)
    assert 50 <= len(found) <= 60 and 20 <= sum(r.harmful for r in found) <= 40
    assert found == read_set(tmp_path / "a.csv", limit=60, seed=1) != read_set(tmp_path / "a.csv", limit=60, seed=2)
    one_sided = read_set(write(tmp_path, "b", [(f"x {k}", "unsafe", "", "") for k in range(50)]), limit=20)
    assert len(one_sided) == 20
    sides = [side_of(f"u{k}", 0) for k in range(1000)]
    assert 250 < sides.count("test") < 350 and sides == [side_of(f"u{k}", 0) for k in range(1000)]


def test_as_a_benchmark(tmp_path: Path) -> None:
    write(tmp_path, "a", [("a cup" * 1000, "safe", "x", ""), ("a saw", "adversarial", "", "g")])
    write(tmp_path, "b", [("a hat", "unverified", "", "")])
    cases = [c.checked() for c in PromptSets(str(tmp_path)).cases()]
    assert [(c.label, c.variant) for c in cases] == [
        ("benign", "safe"),
        ("harm", "adversarial"),
        ("benign", "unverified"),
    ]
    assert len({c.seed for c in cases}) == 3 and len(PromptSets(str(tmp_path), sets=("b",)).card.facts["hash"]) == 16
    with pytest.raises(UnknownName, match="'b'|b"):
        list(PromptSets(str(tmp_path), sets=("bb",)).cases())


def test_bad_files_are_named_without_their_text(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no folder"):
        set_files(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="no CSV"):
        set_files(tmp_path / "empty")
    secret = "a very private prompt"
    path = write(tmp_path, "a", [(secret, "nice", "", "")])
    with pytest.raises(BadInput, match="line 2: label 'nice'") as told:
        read_set(path)
    assert secret not in str(told.value)
    (tmp_path / "b.csv").write_text("text,label\nx,safe\n", "utf-8")
    with pytest.raises(BadInput, match="no column 'prompt'"):
        read_set(tmp_path / "b.csv")
    (tmp_path / "c.csv").write_bytes(b"prompt,label\n\xff\xfe,safe\n")
    with pytest.raises(BadInput, match="UTF-8"):
        read_set(tmp_path / "c.csv")
    with pytest.raises(BadInput, match="line 3: empty prompt"):
        read_set(write(tmp_path, "e", [("x", "safe", "", ""), (" ", "safe", "", "")]))
    with pytest.raises(BadInput, match="at least 1"):
        read_set(write(tmp_path, "d", [("x", "safe", "", ""), ("y", "safe", "", "")]), limit=0)


def test_a_row_is_never_lost_without_a_word(tmp_path: Path) -> None:
    """An open quote swallows the rest of the file: the other reader refused it, this one returned 1 of 501 rows."""
    rest = "".join(f"a fox number {k},unsafe\n" for k in range(500))
    path = tmp_path / "a.csv"
    path.write_text(f'prompt,label\na red fox,safe\n"a gray fox,safe\n{rest}', "utf-8")
    with pytest.raises(BadInput, match=r"row 3 \(line 3\): a quote is opened and never closed"):
        read_set(path)
    with pytest.raises(BadInput, match="never closed"):
        list(PromptSets(folder=str(tmp_path)).cases())
    for broken, match in (("a red fox\n", "row 2: 1 values"), ("a red fox,safe,more\n", "row 2: 3 values")):
        path.write_text(f"prompt,label\n{broken}{rest}", "utf-8")
        with pytest.raises(BadInput, match=match):
            read_set(path)
    path.write_text(f"prompt,label\n{rest}", "utf-16")
    assert len(read_set(path)) == 500
