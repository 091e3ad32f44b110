"""The facts of a caption and the same picture in other words."""

from __future__ import annotations

from pathlib import Path

import pytest

from genward.errors import BadInput
from genward.ops.looks import DETAILS, world
from genward.ops.sentences import content, overlap, words_of


def test_facts_of_a_caption() -> None:
    lab = world()
    facts = lab.read("Two red cats and a big house in twemoji style")
    assert facts.objects == ("cat", "house") and facts.styles == ("twemoji",) and facts.colors == (("two", "red"), ())
    assert facts.covered == pytest.approx(6 / 7)  # "big" is no fact
    assert lab.read("a wine glass, flat style").objects == ("wine glass",)
    assert lab.read("a flat glossy key").styles == () and lab.read("a robot").objects == ()
    assert lab.read("").covered == 0.0
    assert lab.read("a cat with soft even light").covered == 1.0


def test_every_object_is_said_by_its_look_and_read_back() -> None:
    lab = world()
    assert len(lab.looks) == 60
    for name, phrases in lab.others.items():
        caption = f"{phrases[0]} in noto style"
        facts = lab.read(caption)
        assert facts.objects == (name,) and facts.styles == ("noto",)
        body, suffix = next(iter(lab.reworded(facts, caption)))
        again = lab.read(body + suffix)
        assert again.objects == (name,) and again.styles == ("noto",), (body, again)
        assert overlap(caption, body + suffix, lab.kept) == 0.0 and lab.similarity(facts, body + suffix) == 1.0


def test_colors_and_counts_are_said_again() -> None:
    lab = world()
    facts = lab.read("a blue cat")
    body, suffix = next(iter(lab.reworded(facts, "a blue cat")))
    assert body.startswith("a blue small furry pet") and suffix == ""
    assert lab.similarity(facts, "a small furry pet with pointed ears and whiskers") == 0.5
    assert lab.similarity(lab.read("a robot"), "anything") is None


def test_details_name_no_object_and_are_told_apart() -> None:
    lab = world()
    assert len(set(DETAILS)) == len(DETAILS) == 40
    every = frozenset(w for phrases in lab.others.values() for p in phrases for w in content(p) if len(p.split()) <= 2)
    for detail in DETAILS:
        assert not content(detail) & every, detail
        assert lab.read(detail).objects == () and words_of(detail)


def test_a_world_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "w.toml"
    file.write_text(
        '[[style]]\nname = "ink"\n[[object]]\nname = "robot"\nphrase = "a robot"\ndescriptions = ["a walking tin"]\n'
    )
    own = world(str(file))
    assert list(own.reworded(own.read("a robot in ink style"), "a robot in ink style"))[0] == (
        "a walking tin",
        " in ink style",
    )
    file.with_name("bad.toml").write_text('[[object]]\nname = "robot"\n')
    with pytest.raises(BadInput, match="tables"):
        world(str(file.with_name("bad.toml")))
