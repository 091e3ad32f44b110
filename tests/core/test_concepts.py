"""Concept files: every field of its type, with its path in the message."""

from __future__ import annotations

from pathlib import Path

import pytest

from genward.core.records import concept_names, load_concept
from genward.errors import BadInput, UnknownName

BASE = 'name = "mugs"\nkind = "custom"\nsummary = "cups"\n'
WORDS = 'targets = ["mug"]\nphrases = ["a mug"]\n'


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (BASE + 'targets = "mug"\nphrases = "a mug"\n', "targets is 'mug', which is text; give a list of texts"),
        (BASE + 'targets = ["mug"]\nphrases = "a mug"\n', "phrases is 'a mug', which is text; give a list of texts"),
        (BASE + "targets = [1]\nphrases = [2]\n", r"targets\[0\] is 1, which is a whole number; give text"),
        (BASE + "targets = []\nphrases = []\n", "targets is an empty list"),
        (BASE + 'targets = ["mug"]\nphrases = [" "]\n', r"phrases\[0\] has 1 characters"),
        (BASE + WORDS + 'judge = ["mug"]\n', r"judge is \['mug'\], which is a list; give a table"),
        (BASE + WORDS + 'judge = { labels = "mug" }\n', "judge.labels is 'mug', which is text"),
        (BASE + WORDS + 'judge = { label = ["mug"] }\n', "unknown field judge.'label'; did you mean labels"),
        (BASE + WORDS + 'anchors = ["a cup", "a bowl"]\n', "2 anchors for 1 targets"),
        (BASE + WORDS + "keep = 1979-05-27\n", "keep is datetime.date"),
        (BASE + WORDS + "colour = 1\n", "unknown field 'colour'"),
        (BASE, "targets is missing; write targets ="),
        (BASE.replace('"mugs"', '" "') + WORDS, "name is empty"),
        ("a = " + "[" * 100_000, "nested too deeply"),
        (BASE + WORDS + "x = 0x" + "f" * 5000, "unknown field 'x'"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "mugs.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(BadInput, match=match) as told:
        load_concept(path)
    assert "mugs.toml" in str(told.value)


def test_encodings_of_editors(tmp_path: Path) -> None:
    path = tmp_path / "mugs.toml"
    plain = (BASE + WORDS).replace("cups", "cafés")
    path.write_text(plain, "utf-8")
    expected = load_concept(path)
    for data in (plain.encode("utf-8-sig"), plain.encode("utf-16"), plain.replace("\n", "\r\n").encode()):
        path.write_bytes(data)
        assert load_concept(path) == expected
    path.write_bytes(plain.encode("cp1252"))
    with pytest.raises(BadInput, match="line 3: byte 0xe9 is not UTF-8; save the file in UTF-8"):
        load_concept(path)


def test_shipped_concepts_are_read() -> None:
    assert all(load_concept(name).name == name for name in concept_names())


def test_several_concepts_as_one() -> None:
    cat, banana = load_concept("cat"), load_concept("banana")
    both = load_concept("cat&banana")
    assert both.name == "cat&banana" and both.targets == cat.targets + banana.targets
    assert both.phrases == cat.phrases + banana.phrases and both.heldout == cat.heldout + banana.heldout
    assert not set(both.keep) & {*both.phrases, *both.targets} and not set(both.neighbors) & set(both.targets)
    assert set(both.keep) | set(both.phrases) >= {*cat.keep, *banana.keep}
    for one in (cat, banana):
        assert [both.anchor_of(p) for p in one.phrases] == [one.anchor_of(p) for p in one.phrases]
    assert both.hash not in (cat.hash, banana.hash) and both.hash != load_concept("banana&cat").hash


@pytest.mark.parametrize("name", ["cat&cat", "cat&style-noto", "cat&"])
def test_concepts_that_cannot_be_joined(name: str) -> None:
    with pytest.raises((BadInput, UnknownName), match="two concepts or more|concept ''"):
        load_concept(name)
