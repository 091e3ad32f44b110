"""Policies as TOML: what is read is what was written, what is not understood is refused; thresholds at a false-positive
rate."""

from __future__ import annotations

import math
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genward.core.records import concept_names, load_concept
from genward.core.texts import BENIGN_LABELS, read_prompts
from genward.errors import BadInput, UnknownName
from genward.serve.calibrate import lowest_cut
from genward.serve.policy import (
    ACTIONS,
    CALIBRATION,
    CATEGORY,
    TOP,
    Category,
    Policy,
    dump_policy,
    load_policy,
    merged,
    parse_policy,
    policy_names,
)

TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
NAME = TEXT.filter(lambda t: t.strip())
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
CATEGORIES = st.lists(
    st.builds(
        Category,
        NAME,
        st.sampled_from(concept_names()),
        st.sampled_from(ACTIONS),
        st.dictionaries(TEXT, NUMBER, max_size=3),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda c: c.name,
)
NOTES = st.lists(
    st.dictionaries(st.sampled_from(CALIBRATION), st.one_of(NUMBER, TEXT, st.integers(-(2**53), 2**53)), min_size=1),
    max_size=2,
)


@settings(max_examples=60, deadline=None)
@given(NAME, CATEGORIES, TEXT, NOTES)
def test_what_is_written_is_read_back(
    name: str, categories: list[Category], summary: str, notes: list[dict[str, Any]]
) -> None:
    policy = Policy(name, tuple(categories), summary, tuple(notes))
    assert parse_policy(dump_policy(policy)) == policy


@settings(max_examples=120, deadline=None)
@given(
    st.one_of(
        TEXT,
        st.text(string.printable, max_size=80),
        st.lists(st.sampled_from(["[", "]", "=", '"', "categories", ".a", "\n", "1", "{", "}"]), max_size=30).map(
            "".join
        ),
    )
)
def test_any_text_is_a_policy_or_a_clear_error(text: str) -> None:
    try:
        assert parse_policy(text).categories
    except (BadInput, UnknownName) as error:
        assert str(error)


@settings(max_examples=60, deadline=None)
@given(st.text(string.ascii_lowercase, min_size=1, max_size=12), st.sampled_from(["top", "category", "threshold"]))
def test_no_unknown_key_passes(key: str, where: str) -> None:
    known = {"top": TOP, "category": CATEGORY, "threshold": ("aeiou", "wukong")}[where]
    line = {
        "top": f"{key} = 1\n[categories.weapons]\n",
        "category": f"[categories.weapons]\n{key} = 1\n",
        "threshold": f"[categories.weapons]\nthresholds = {{ {key} = 1 }}\n",
    }[where]
    if key in known:
        return
    with pytest.raises(UnknownName):
        parse_policy(line, known=("aeiou", "wukong"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("catgories = {}", "categories"),
        ('[categories.weapons]\nacton = "flag"', "action"),
        ('[categories.weapons]\naction = "blok"', "block"),
        ("[categories.weapons]\nthresholds = { aeio = 1.0 }", "aeiou"),
        ("[categories.weapns]", "weapons"),
        ('[categories.mine]\nconcept = "weapns"', "weapons"),
        ("[[calibration]]\nfpt = 1\n[categories.weapons]", "fpr"),
    ],
)
def test_the_nearest_key_is_offered(text: str, told: str) -> None:
    with pytest.raises(UnknownName, match=told):
        parse_policy(text, known=("aeiou", "wukong"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no categories"),
        ("[categories]", "no categories"),
        ("[categories.weapons", "not TOML"),
        ("categories = 3", "no categories"),
        ("[categories]\nweapons = 3", "weapons"),
        ('[categories."  "]', "without a name"),
        ("[categories.weapons]\naction = 3", "not text"),
        ("[categories.weapons]\nthresholds = 3", "thresholds"),
        ("[categories.weapons]\nthresholds = { a = true }", "finite number"),
        ("[categories.weapons]\nthresholds = { a = nan }", "finite number"),
        ('[categories.weapons]\nthresholds = { a = "1" }', "finite number"),
        ("name = 3\n[categories.weapons]", "name is 3"),
        ("calibration = 3\n[categories.weapons]", "calibration"),
        ("[[calibration]]\nn = [1]\n[categories.weapons]", "calibration n"),
        ('[categories.weapons]\nconcept = "./nowhere.toml"', "no concept file"),
    ],
)
def test_values_of_the_wrong_kind_are_named(text: str, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        parse_policy(text)


def test_shipped_names_concepts_and_files(tmp_path: Path) -> None:
    assert {"weapons", "all"} <= set(policy_names())
    for name in policy_names():
        policy = load_policy(name)
        assert policy.name == name and policy.summary and all(c.action == "block" for c in policy.categories)
    assert [c.name for c in load_policy("rude").categories] == ["rude"] and load_policy("rude").summary == load_concept(
        "rude"
    ).summary
    assert load_policy(load_policy("all")) == load_policy("all")
    with pytest.raises(UnknownName, match="weapons"):
        load_policy("weapon")
    with pytest.raises(BadInput, match="no policy file"):
        load_policy(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfa")
    with pytest.raises(BadInput, match="UTF-8"):
        load_policy(tmp_path / "bad.toml")
    (tmp_path / "huge.toml").write_bytes(b"#" * 1_000_001)
    with pytest.raises(BadInput, match="at most 1,000,000 are read"):
        load_policy(tmp_path / "huge.toml")


def test_concept_files_lie_beside_the_policy(tmp_path: Path) -> None:
    (tmp_path / "mugs.toml").write_text(
        'name = "mugs"\nkind = "custom"\nsummary = "Mugs."\ntargets = ["mug"]\nphrases = ["a mug"]\n'
    )
    (tmp_path / "house.toml").write_text('[categories.mugs]\nconcept = "mugs.toml"\naction = "flag"\n')
    policy = load_policy(tmp_path / "house.toml")
    assert policy.name == str(tmp_path / "house.toml").rsplit("/", 1)[1].removesuffix(".toml") and policy.concepts[
        "mugs"
    ].targets == ("mug",)
    before = policy.hash
    (tmp_path / "mugs.toml").write_text((tmp_path / "mugs.toml").read_text() + 'heldout = ["a cup"]\n')
    assert load_policy(tmp_path / "house.toml").hash != before, "identity follows the concept's content"


def test_concept_files_are_found_from_another_folder_after_a_dump(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "here" / "mugs.toml").write_text(
        'name = "mugs"\nkind = "custom"\nsummary = "Mugs."\ntargets = ["mug"]\nphrases = ["a mug"]\n'
    )
    (tmp_path / "here" / "house.toml").write_text('[categories.mugs]\nconcept = "mugs.toml"\n')
    monkeypatch.chdir(tmp_path / "here")
    found, said = load_policy("house.toml"), parse_policy('[categories.mugs]\nconcept = "./mugs.toml"\n')
    monkeypatch.chdir(tmp_path / "there")
    assert found.concepts["mugs"].targets == said.concepts["mugs"].targets == ("mug",)
    (tmp_path / "there" / "copy.toml").write_text(dump_policy(found), "utf-8")
    assert load_policy("copy.toml") == found and load_policy("copy.toml").hash == found.hash


def test_with_threshold_replaces_its_own_note() -> None:
    policy = (
        load_policy("all")
        .with_threshold("rude", "aeiou", 1.0, {"fpr": 0.1})
        .with_threshold("rude", "aeiou", 2.0, {"fpr": 0.01})
    )
    assert {c.name: dict(c.thresholds) for c in policy.categories}["rude"] == {"aeiou": 2.0}
    assert policy.calibration == ({"category": "rude", "defense": "aeiou", "threshold": 2.0, "fpr": 0.01},)
    assert parse_policy(dump_policy(policy)) == policy and policy.hash != load_policy("all").hash
    with pytest.raises(UnknownName, match="rude"):
        policy.with_threshold("rud", "aeiou", 1.0)


def test_merged_concepts_hold_every_word() -> None:
    every = [load_concept(n) for n in ("weapons", "rude")]
    both = merged(every)
    assert both.name == "weapons+rude" and set(both.targets) == set(every[0].targets) | set(every[1].targets)
    assert merged(every[:1]) is every[0] and both.judge == every[0].judge + every[1].judge


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=60), st.floats(0, 0.99))
def test_a_threshold_keeps_its_rate_and_no_lower_score_would(scores: list[float], fpr: float) -> None:
    cut = lowest_cut(scores, fpr)
    hits = sum(s >= cut for s in scores)
    assert hits <= fpr * len(scores) + 1e-9
    below = [s for s in scores if s < cut]
    assert sum(s >= max(below) for s in scores) > fpr * len(scores) - 1e-9 if below else True


def test_lowest_cut_by_hand_and_bad_input() -> None:
    scores = [float(k) for k in range(100)]
    assert lowest_cut(scores, 0.01) == 98.5 and lowest_cut(scores, 0.05) == 94.5
    assert 99.0 < lowest_cut(scores, 0.0) < 99.001 and 5.0 < lowest_cut([5.0] * 10, 0.5) < 5.001
    for bad, rate in (([], 0.1), ([1.0, math.nan], 0.1), ([1.0], 1.0), ([1.0], -0.1)):
        with pytest.raises(BadInput):
            lowest_cut(bad, rate)
    assert isinstance(lowest_cut(np.array([1.0, 2.0]).tolist(), 0.5), float)


def test_prompts_are_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "benign.txt"
    path.write_text("\ufeffa cat\n\n  a dog \na cat\n", "utf-8")
    assert read_prompts(path) == ["a cat", "a dog"]
    path.write_text("\n\n")
    with pytest.raises(BadInput, match="no prompt"):
        read_prompts(path)
    path.write_bytes(b"\xff")
    with pytest.raises(BadInput, match="UTF-8"):
        read_prompts(path)
    with pytest.raises(BadInput, match="no file"):
        read_prompts(tmp_path / "none.txt")


def test_a_table_is_read_as_one_or_refused(tmp_path: Path) -> None:
    text = 'prompt,label\n"a red fox, oil painting",safe\n"a boat\nat sea",safe\n'
    (tmp_path / "benign.csv").write_text(text, "utf-8")
    assert read_prompts(tmp_path / "benign.csv") == ["a red fox, oil painting", "a boat at sea"]
    (tmp_path / "benign.txt").write_text(text, "utf-8")
    with pytest.raises(BadInput, match="column names of a table"):
        read_prompts(tmp_path / "benign.txt")
    (tmp_path / "benign.jsonl").write_text('{"prompt": "a fox"}\n', "utf-8")
    with pytest.raises(BadInput, match="no list of prompts"):
        read_prompts(tmp_path / "benign.jsonl")
    (tmp_path / "mixed.csv").write_text("prompt,label\na fox,safe\na bomb,unsafe\n", "utf-8")
    assert len(read_prompts(tmp_path / "mixed.csv")) == 2
    with pytest.raises(BadInput, match="row 3: label 'unsafe' where only benign, safe, unverified belong"):
        read_prompts(tmp_path / "mixed.csv", BENIGN_LABELS)


def test_line_ends_of_every_system(tmp_path: Path) -> None:
    path = tmp_path / "benign.txt"
    for end in ("\n", "\r\n", "\r", "\u2028", "\x85", "\x0c"):
        path.write_text(f"a cat{end}a dog{end}", "utf-8", newline="")
        assert read_prompts(path) == ["a cat", "a dog"], repr(end)


def test_policy_files_of_other_editors(tmp_path: Path) -> None:
    text = 'name = "house"\n[categories.weapons]\naction = "block"\n'
    expected = parse_policy(text, "house")
    for data in (text.encode("utf-8-sig"), text.encode("utf-16"), text.replace("\n", "\r\n").encode()):
        (tmp_path / "house.toml").write_bytes(data)
        assert load_policy(tmp_path / "house.toml") == expected
