"""Files from outside: encodings, line ends, sizes, pipes; tables and typed fields; what a terminal may show."""

from __future__ import annotations

import csv
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from genward.core.reading import MAX_DEPTH, lines, parse_json, printable, read_bytes, read_text
from genward.core.tables import MAX_FIELD, read_table, split
from genward.core.typed import build, parse_toml, read_toml
from genward.errors import BadInput

TEXT = "ein Bär – 猫 🐱\nzwei\n"


def test_text_is_decoded_by_its_mark(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        path.write_bytes(TEXT.encode(encoding))
        assert read_text(path) == TEXT, encoding
    path.write_bytes(b"\xfe\xff" + TEXT.encode("utf-16-be"))
    assert read_text(path) == TEXT


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ("eins\ncafés".encode("cp1252"), "line 2: byte 0xe9 is not UTF-8; save the file in UTF-8"),
        ("eins\r\n\u2028café".encode() + b"\xe9", "line 3: byte 0xe9"),
        ("cafés".encode("utf-16-le"), "looks like UTF-16 without its byte order mark|zero byte"),
        ("cafés".encode("utf-16")[:-1], "its mark says UTF-16"),
        (b"a\nb\x00", "line 2: a zero byte"),
    ],
)
def test_other_bytes_are_named_with_their_line(tmp_path: Path, data: bytes, match: str) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(data)
    with pytest.raises(BadInput, match=match):
        read_text(path, "prompt list")


def test_only_plain_files_of_a_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_bytes(b"x" * 11)
    cases: list[tuple[str | Path, str]] = [
        (tmp_path / "pipe", "a pipe, socket or device"),
        ("/dev/zero", "a pipe, socket or device"),
        (tmp_path, "it is a folder"),
        (tmp_path / "none", "no list at .*none, so it cannot be read; check the path"),
        (tmp_path / "long", "has 11 bytes, at most 10"),
        ("x" * 5000, "cannot be read"),
        ("a\x00b", "cannot be read"),
        ("\ud800", "cannot be read"),
    ]
    for path, match in cases:
        with pytest.raises(BadInput, match=match) as told:
            read_bytes(path, "list", 10)
        assert str(told.value).encode() and "\x00" not in str(told.value)


def test_all_line_ends_are_one() -> None:
    for end in ("\n", "\r\n", "\r", "\v", "\f", "\x85", "\u2028", "\u2029"):
        assert lines(f"a cat{end}a dog{end}") == ["a cat", "a dog"] == lines(f"a cat{end}a dog"), repr(end)
    assert lines("") == [] and lines("a\n\nb") == ["a", "", "b"] and lines("a\x1cb") == ["a\x1cb"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[" * 100_000 + "]" * 100_000, "levels deep"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "levels deep"),
        ('{"a": NaN}', "NaN is no JSON number"),
        ('{"a": 1e999}', "too large"),
        ('{"a": ' + "9" * 5000 + "}", "5,000 digits"),
        ('{"a": 1, "a": 2}', "'a' is there twice"),
        ('{"a": "\\ud800"}', "half a surrogate pair"),
        ('{"a": ', "is not JSON"),
    ],
)
def test_json_that_is_none_is_refused(text: str, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        parse_json(text, "card")


def test_json_is_read() -> None:
    raw = {"a": [1, 2.5, None, {"b": "🐱"}]}
    assert parse_json('{"a": [1, 2.5, null, {"b": "\\ud83d\\udc31"}]}', "card") == raw


def test_escape_codes_do_not_reach_a_terminal() -> None:
    assert printable("\x1b[31mred\x9b0m\r\x7f") == "\\x1b[31mred\\x9b0m\\x0d\\x7f"
    assert printable("ab\u202ecd\u2066\ud800\u2028") == "ab\\u202ecd\\u2066\\ud800\\u2028"
    assert printable("ein Bär, 猫\n\t🐱") == "ein Bär, 猫\n\t🐱"


def test_tables_equal_those_of_the_csv_module_where_both_read() -> None:
    draw = random.Random(5)
    for _ in range(300):
        rows = [
            ["".join(draw.choice('ab,"\n\r é') for _ in range(draw.randrange(6))) for _ in range(3)] for _ in range(4)
        ]
        text = "\n".join(",".join('"' + x.replace('"', '""') + '"' for x in row) for row in rows)
        mine = [cells for _, _, cells in split(text, "t")]
        assert mine == [row for row in rows if any(x.strip() for x in row)]
    limit = csv.field_size_limit()
    assert split("a" * (limit + 1), "t")[0][2] == ["a" * (limit + 1)] and csv.field_size_limit() == limit
    with pytest.raises(BadInput, match="larger than"):
        split("a" * (MAX_FIELD + 1), "t")


def test_rows_know_their_line_and_columns_their_other_names(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b'Prompt , SD_Seed,,mood\r\n"a\r\nb",1,x,y\r\n\r\nc,2,x,y\r')
    table = read_table(path, ("prompt", "label", "seed"))
    assert table.unread == ("mood",) and table.found == {"prompt": "prompt", "seed": "sd_seed"}
    assert [(r.number, r.line, dict(r.cells)) for r in table.rows] == [
        (2, 2, {"prompt": "a\r\nb", "seed": "1"}),
        (4, 5, {"prompt": "c", "seed": "2"}),
    ]
    path.write_bytes(b'prompt,label\na,"b\nc\n')
    with pytest.raises(BadInput, match=r"row 2 \(line 2\): a quote is opened and never closed"):
        read_table(path, ("prompt",))


@dataclass(frozen=True)
class Inner:
    steps: int = 1
    share: float = 0.5


@dataclass(frozen=True)
class Outer:
    name: str
    words: tuple[str, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)
    inner: Inner = Inner()
    many: tuple[Inner, ...] = ()
    on: bool = False


def test_tables_become_dataclasses() -> None:
    raw = parse_toml('name="a"\nwords=["b"]\nnumbers={x=1}\ninner={steps=3}\n[[many]]\nshare=0.25\n', "f")
    assert build(Outer, raw, "f") == Outer("a", ("b",), {"x": 1.0}, Inner(3), (Inner(share=0.25),))


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ({"name": "a", "words": "a mug"}, "f: words is 'a mug', which is text; give a list of texts, as in words ="),
        ({"name": "a", "words": ["b", 2]}, r"f: words\[1\] is 2, which is a whole number; give text"),
        ({"name": 1}, "f: name is 1, which is a whole number; give text"),
        ({}, "f: name is missing"),
        ({"name": "a", "inner": {"steps": True}}, "inner.steps is True"),
        ({"name": "a", "inner": {"steps": 1.0}}, "inner.steps is 1.0, which is a number"),
        ({"name": "a", "inner": [1]}, r"inner is \[1\], which is a list; give a table"),
        ({"name": "a", "many": [{"share": float("nan")}]}, r"many\[0\].share is nan"),
        ({"name": "a", "numbers": {"x": "1"}}, "numbers.x is '1'"),
        ({"name": "a", "on": 1}, "on is 1, which is a whole number; give true or false"),
        ({"name": "a", "inner": {"steps": 10**5000}}, "more than 400 digits"),
        ([], "it is .., which is a list"),
    ],
)
def test_values_of_another_type_are_named_with_their_path(table: Any, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        build(Outer, table, "f")


def test_unknown_fields_are_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="f: unknown field inner.'stesp'; did you mean steps"):
        build(Outer, {"name": "a", "inner": {"stesp": 3}}, "f")
    path = tmp_path / "deep.toml"
    path.write_text("a = " + "[" * 100_000 + "]" * 100_000, "utf-8")
    with pytest.raises(BadInput, match="nested too deeply"):
        read_toml(path, "concept file")
    path.write_bytes(b"\xef\xbb\xbfa = 1\r\n")
    assert read_toml(path) == {"a": 1}
