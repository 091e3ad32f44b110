"""Rows of the erasure benchmark: all wordings, balanced walks, stable seeds, no row that fitting uses."""

from __future__ import annotations

from collections import Counter

import pytest

from genward.benchmarks.erasure import ErasureBenchmark
from genward.benchmarks.erasure.rows import BENIGN, HARM, Rows, caption, cycle, variants
from genward.catalog.opening import words_of
from genward.core.benchmark import Setting
from genward.core.records import Case, Concept, load_concept
from genward.errors import BadInput

WORDS = words_of("lab")


def rows(*concepts: str, n: int = 12, **more: object) -> list[Case]:
    return list(Rows(tuple(load_concept(c) for c in concepts), n=n, words=WORDS, **more))  # type: ignore[arg-type]


def test_a_policy_has_every_wording_and_n_rows_in_each() -> None:
    cases = rows("weapons")
    assert Counter(c.variant for c in cases) == dict.fromkeys((*HARM, *BENIGN), 12)
    assert all(c.label == ("benign" if c.variant in BENIGN else "harm") for c in cases)
    assert len({c.id for c in cases}) == len({(c.prompt, c.seed) for c in cases}) == len(cases)


def test_a_style_has_name_and_scene_only() -> None:
    cases = rows("style-monotone")
    assert {c.variant for c in cases} == {"name", "scene", *BENIGN}
    assert all("monotone style" in c.prompt for c in cases if c.label == "harm")
    assert not any("monotone" in c.prompt for c in cases if c.label == "benign")


def test_phrases_come_from_the_vocabulary_and_name_their_target() -> None:
    concept = load_concept("weapons")
    table = variants(concept, WORDS)
    for case in rows("weapons", n=40):
        phrase = case.prompt.split(" in ")[0]
        if case.variant in ("name", "synonym", "synonym-heldout"):
            assert case.prompt.rsplit(" in ", 1)[0] in table[case.group][case.variant]
        if case.variant == "synonym-heldout":
            assert phrase in concept.heldout and phrase not in concept.phrases
        if case.variant == "scene":
            assert " and " in case.prompt and table[case.group]["name"][0] in case.prompt


def test_benign_rows_name_the_label_that_a_judge_should_see() -> None:
    labels = set(WORDS["styles"]) | set(WORDS["things"])
    cases = rows("weapons", "banana", "style-monotone", n=30)
    for case in cases:
        if case.label == "benign":
            assert case.group in labels
            assert case.group not in load_concept(case.concept).targets
        if case.variant == "keep-object":
            assert WORDS["things"][case.group]["name"][0] in case.prompt
        if case.variant == "keep-style":
            assert case.prompt.endswith(f"in {case.group} style")


def test_walks_are_balanced_and_do_not_lock() -> None:
    names = [c for c in rows("weapons", n=45) if c.variant == "name"]
    assert set(Counter(c.group for c in names).values()) == {9}
    assert set(Counter(c.prompt.rsplit(" ", 2)[1] for c in names).values()) == {5}
    assert len({(cycle("abc", k), "xyz"[k % 3]) for k in range(9)}) == 9
    assert cycle([], 3) == ""


def test_few_targets_are_clustered_by_style_too() -> None:
    groups = {c.group for c in rows("banana") if c.variant == "name"}
    assert len(groups) >= 8 and all(g.startswith("banana/") for g in groups)


def test_more_rows_only_add_and_another_seed_changes_all() -> None:
    few, many = rows("weapons", n=6), rows("weapons", n=24)
    assert set(few) <= set(many)
    assert not {c.seed for c in few} & {c.seed for c in rows("weapons", n=6, seed=1)}
    assert rows("weapons") == rows("weapons")


def test_what_is_to_be_avoided_is_left_out_of_everything_but_the_targets() -> None:
    avoid = ("banana", "cigarette", "monotone", "pistol")
    for case in rows("weapons", "substances", n=60, avoid=avoid):
        assert "monotone" not in case.prompt
        if case.label == "benign":
            assert case.group not in avoid and "banana" not in case.prompt
    assert any("pistol" in c.prompt for c in rows("weapons", avoid=avoid))


def test_a_concept_of_ones_own_needs_no_vocabulary() -> None:
    own = Concept(
        "robots", "custom", "Robots.", ("android", "drone"), ("an android", "a robot", "a drone", "a quadcopter"),
        heldout=("a droid", "a flying machine"), descriptions=("a metal person", "four rotors around a camera"),
        neighbors=("a doll",), keep=("a dog", "the moon"),
    )  # fmt: skip
    cases = list(ErasureBenchmark((own.name,), n=4).cases(Setting((own,))))
    assert all(c.prompt.startswith("a picture of ") for c in cases)
    by = {w: [c.prompt.removeprefix("a picture of ") for c in cases if c.variant == w] for w in (*HARM, *BENIGN)}
    assert by["name"] == ["an android", "a drone"] * 2
    assert by["synonym"] == ["a robot", "a quadcopter"] * 2
    assert by["synonym-heldout"] == ["a droid", "a flying machine"] * 2
    assert by["kind"] == [] and by["keep-style"] == []
    assert by["scene"] == [
        "an android and a dog",
        "a drone and the moon",
        "a dog and an android",
        "the moon and a drone",
    ]
    assert [c.group for c in cases if c.variant == "keep-object"] == ["dog", "moon"] * 2
    assert len({c.seed for c in cases}) == len(cases)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(BadInput, match="rows per cell"):
        ErasureBenchmark(("weapons",), n=0)
    with pytest.raises(BadInput, match="no concept"):
        ErasureBenchmark(())
    assert caption("a cat", "") == "a picture of a cat"


def test_no_row_is_a_caption_that_methods_may_fit_on() -> None:
    for name in ("weapons", "banana", "style-monotone", "style-noto"):
        concept = load_concept(name)
        assert not {c.prompt for c in rows(name, n=60)} & {*concept.phrases, *concept.keep}
