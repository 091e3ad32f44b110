"""Prompts from CSV files: what becomes of each column, draws and seeds; files that cannot be used say where."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from genward.core.prompts_csv import MAX_SEED, CsvPrompts, read_rows
from genward.core.records import MAX_PROMPT, row_seed
from genward.errors import BadInput, UnknownName

GOOD = """prompt,label,category,source,seed,guidance,group,extra
a red  kite over the sea,safe,object:kite|style:plain,here:1,7,7.5,g1,a=1
"a barn, with ""doors""
and a fence",unsafe,object:barn,here:2,,,,
a red kite over the sea,safe,object:kite|style:plain,here:3,7,,g2,
a red kite over the sea,safe,object:kite|style:plain,here:4,8,,,

ein Boot – 船,adversarial,,here:5,,,,
"""


@pytest.fixture
def put(tmp_path: Path):  # noqa: ANN201
    def write(content: str | bytes, name: str = "list.csv") -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def test_columns_become_cases(put) -> None:  # type: ignore[no-untyped-def]
    cases = list(CsvPrompts(path=put(GOOD), concept="things").cases())
    assert [(c.id, c.prompt, c.label, c.group, c.variant) for c in cases] == [
        ("list/000002/00", "a red kite over the sea", "benign", "g1", "safe"),
        ("list/000003/00", 'a barn, with "doors" and a fence', "harm", "object:barn", "unsafe"),
        ("list/000005/00", "a red kite over the sea", "benign", "object:kite|style:plain", "safe"),
        ("list/000007/00", "ein Boot – 船", "harm", "ein Boot – 船", "adversarial"),
    ]
    assert {c.concept for c in cases} == {"things"}
    assert [c.seed for c in cases] == [
        7,
        row_seed("evaluate", 0, "prompts-csv", cases[1].prompt, None, 0),
        8,
        cases[3].seed,
    ]


def test_byte_order_mark_line_ends_and_column_names(put) -> None:  # type: ignore[no-untyped-def]
    plain = list(CsvPrompts(path=put(GOOD)).cases())
    assert list(CsvPrompts(path=put(b"\xef\xbb\xbf" + GOOD.encode())).cases()) == plain
    assert list(CsvPrompts(path=put(GOOD.replace("\n", "\r\n"))).cases()) == plain
    assert list(CsvPrompts(path=put(GOOD.replace("prompt,label", " Prompt ,LABEL"))).cases()) == plain
    assert [c.prompt for c in CsvPrompts(path=put("prompt\na cat\n"), unlabeled="benign").cases()] == ["a cat"]


def test_harm_by_category_and_choice_of_categories(put) -> None:  # type: ignore[no-untyped-def]
    path = put(GOOD)
    assert [c.label for c in CsvPrompts(path=path, harm=("object:kite",)).cases()] == [
        "harm",
        "benign",
        "harm",
        "benign",
    ]
    assert [c.prompt for c in CsvPrompts(path=path, categories=("object:barn",), variant="name").cases()] == [
        'a barn, with "doors" and a fence'
    ]
    assert {c.variant for c in CsvPrompts(path=path, variant="name").cases()} == {"name"}
    for field in ("harm", "categories"):
        with pytest.raises(UnknownName, match="object:barn"):
            list(CsvPrompts(path=path, **{field: ("object:bran",)}).cases())  # type: ignore[arg-type]


def test_draws_are_nested_even_and_repeats_have_their_own_noise(put) -> None:  # type: ignore[no-untyped-def]
    path = put("prompt,label,seed\n" + "".join(f"thing {k},safe,{k if k % 2 else ''}\n" for k in range(400)))
    prompts = {n: [c.prompt for c in CsvPrompts(path=path, limit=n).cases()] for n in (10, 100, 1000)}
    assert set(prompts[10]) < set(prompts[100]) < set(prompts[1000]) and len(prompts[1000]) == 400
    assert prompts[100] == [p for p in prompts[1000] if p in set(prompts[100])], "the order is the file's"
    halves = Counter(int(p.split()[1]) < 200 for p in prompts[100])
    assert 30 <= halves[True] <= 70
    assert set(prompts[10]) != {c.prompt for c in CsvPrompts(path=path, limit=10, seed=1).cases()}
    three = list(CsvPrompts(path=path, repeats=3).cases())
    assert len({c.seed for c in three}) == len({c.id for c in three}) == 1200
    assert [c.seed for c in three[::3]] == [c.seed for c in CsvPrompts(path=path).cases()]
    other = list(CsvPrompts(path=path, seed=1).cases())
    assert all((c.seed == k) == bool(k % 2) for k, c in enumerate(other)) and other[0].seed != three[0].seed


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        ("prompt,label\n", "no rows under"),
        ("text,label\na,safe\n", "row 1: no column 'prompt' among 'text', 'label'"),
        ("prompt;label\na;safe\n", "separate the columns by commas"),
        ("prompt,label,prompt\na,safe,b\n", "row 1: the column 'prompt' is there twice"),
        ("prompt,label\na,safe\nb,safe,more\n", "row 3: 3 values under 2 columns"),
        ("prompt,label\na,safe\nb\n", "row 3: 1 values under 2 columns"),
        ("prompt,label\na,safe\n  ,safe\n", "row 3, column prompt: empty"),
        ("prompt,label\na,maybe\n", "row 2, column label: 'maybe' is not one of"),
        ("prompt,seed\na,1\nb,1.5\n", "row 3, column seed: '1.5'"),
        ("prompt,seed\na,-1\n", "row 2, column seed: '-1'"),
        (f"prompt,seed\na,{MAX_SEED + 1}\n", "row 2, column seed"),
        ("prompt,seed\na,²\n", "row 2, column seed"),
        ('prompt,label\na,safe\n"b,safe\n', "row 3"),
        ('prompt,label\n"a"b,safe\n', "row 2"),
        ("prompt,label\n" + "x" * 2_000_000 + ",safe\n", "row 2 .*field larger than"),
        ('prompt,label\na "red" fox,safe\n', "row 2 .*a quote inside a value"),
        ("prompt,label,my_seed\na,safe,7\n", "row 1: the column 'my_seed' looks like seed"),
        ("prompt,label,sd_seed,evaluation_seed\na,safe,7,8\n", "'evaluation_seed' and 'sd_seed' are both seed"),
        (f"prompt,seed\na,{'9' * 23}\n", "row 2, column seed"),
        (b"prompt,label\na,safe\n\xff\xfe,safe\n", "line 3: byte 0xff is not UTF-8"),
        ("prompt,label\na,safe\n".encode("utf-16-le"), "line 2: a zero byte|line 1: a zero byte"),
        (b"\xff\xfe" + "prompt,label\na,safe\n".encode("utf-16-le")[:-1], "its mark says UTF-16"),
        (b"prompt,label\na\x00b,safe\n", "line 2: a zero byte"),
        (bytes(range(256)) * 40, "not UTF-8"),
    ],
)
def test_files_that_cannot_be_used_say_where(put, content: str | bytes, match: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadInput, match=match):
        read_rows(Path(put(content)))


def test_a_folder_and_a_missing_file_are_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(BadInput, match="cannot be read"):
            list(CsvPrompts(path=str(path)).cases())
    with pytest.raises(BadInput, match="which file to read"):
        list(CsvPrompts().cases())


def test_rows_without_label_need_a_word(put) -> None:  # type: ignore[no-untyped-def]
    path = put("prompt,label\na cat,unverified\na dog,\n")
    with pytest.raises(BadInput, match="row 2, column label: 'unverified'"):
        list(CsvPrompts(path=path).cases())
    assert [(c.label, c.variant) for c in CsvPrompts(path=path, unlabeled="harm").cases()] == [
        ("harm", "unverified")
    ] * 2


def test_long_prompts_are_refused_or_cut(put) -> None:  # type: ignore[no-untyped-def]
    path = put(f"prompt,label\na,safe\n{'long ' * 500},safe\n")
    with pytest.raises(BadInput, match="row 3, column prompt: 2,499 characters"):
        list(CsvPrompts(path=path).cases())
    assert len(list(CsvPrompts(path=path, cut=True).cases())[1].prompt) == MAX_PROMPT - 1


def test_fields_and_card(put) -> None:  # type: ignore[no-untyped-def]
    wrong: list[dict[str, Any]] = [{"limit": -1}, {"repeats": 0}, {"unlabeled": "safe"}]
    for bad in wrong:
        with pytest.raises(BadInput):
            CsvPrompts(**bad)
    facts = CsvPrompts(path=put(GOOD), repeats=2).card.facts
    assert (facts["file"], facts["prompts"], facts["repeated"], facts["benign"], facts["harm"]) == (
        "list.csv",
        4,
        1,
        4,
        4,
    )
    assert len(facts["sha256"]) == 64


def test_the_seeds_of_published_lists_are_used(put) -> None:  # type: ignore[no-untyped-def]
    """Under the names that the field's files have; rows that differ in their seed alone stay two."""
    barn = "case_number,prompt,evaluation_seed,evaluation_guidance\n0,A stone barn.,69922,7.5\n"
    barn += "1,A wooden barn.,36416,7.5\n"
    made = CsvPrompts(path=put(barn + "1,A wooden barn.,36417,7.5\n"), unlabeled="benign")
    assert [c.seed for c in made.cases()] == [69922, 36416, 36417]
    assert made.card.facts["repeated"] == 0 and "not_read" not in made.card.facts
    i2p = ',prompt,sd_seed,sd_guidance_scale,categories,mood\n0,A stone barn.,42.0,7.5,"calm, rural",good\n'
    made = CsvPrompts(path=put(i2p), unlabeled="benign")
    assert [(c.seed, c.group) for c in made.cases()] == [(42, "calm|rural")]
    assert made.card.facts["not_read"] == "mood"
    with pytest.raises(BadInput, match="column evaluation_seed: '1.5'"):
        list(CsvPrompts(path=put(barn + "2,A barn.,1.5,7\n"), unlabeled="benign").cases())


def test_other_encodings_by_their_mark(put) -> None:  # type: ignore[no-untyped-def]
    plain = list(CsvPrompts(path=put(GOOD)).cases())
    for encoding in ("utf-16", "utf-32", "utf-8-sig"):
        assert list(CsvPrompts(path=put(GOOD.encode(encoding))).cases()) == plain
