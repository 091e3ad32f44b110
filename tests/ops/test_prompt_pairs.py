"""Pairs of captions from a concept file: one phrase differs, contexts are shared, targets stay apart."""

from __future__ import annotations

import dataclasses

import pytest

from genward.core import Concept
from genward.errors import BadInput
from genward.ops.prompt_pairs import prompt_pairs


@pytest.fixture
def concept() -> Concept:
    return Concept(
        "tools", "policy", "Two small things.", targets=("saw", "axe"),
        phrases=("a saw", "a small saw", "an axe", "a hatchet"), anchors=("a cup", "a bowl"), anchor="a cup",
    )  # fmt: skip


def test_pairs_are_templated_from_the_concept(concept: Concept) -> None:
    made = prompt_pairs([concept], {}, 10)
    assert [p.group for p in made] == [0] * 10 + [1] * 10 and len({p.concept for p in made}) == 20
    assert (
        made[0] == ("a saw", "a cup", 0)
        and made[1] == ("a small saw", "a cup", 0)
        and made[10][:2] == ("an axe", "a bowl")
    )
    assert made[2][:2] == ("a picture of a saw", "a picture of a cup")
    assert all(len(p.concept.split()) <= 20 and not any(w in p.safe for w in ("saw", "axe", "hatchet")) for p in made)
    whole = prompt_pairs([concept], {"styles": ["flat"]}, 6, each="concept")
    assert (
        {p.group for p in whole} == {0}
        and whole[4].concept == "a saw, flat style"
        and whole[4].safe == "a cup, flat style"
    )
    mine = prompt_pairs([concept], {}, 1, ("see {}",))
    assert [p.concept for p in mine] == ["see a saw", "see an axe"]
    several = prompt_pairs(
        [concept, dataclasses.replace(concept, name="b", phrases=("a spade",), targets=("spade",))], {}, 10
    )
    assert {p.group for p in several} == {0, 1, 2}
    style = Concept("old", "style", "A style.", targets=("old",), phrases=("in old style",), anchor="in new style")
    assert prompt_pairs([style], {"styles": ["flat"]}, 3)[1][:2] == ("a thing in old style", "a thing in new style")
    with pytest.raises(BadInput, match="no phrases"):
        prompt_pairs([dataclasses.replace(concept, phrases=())], {}, 3)
