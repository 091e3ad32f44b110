"""Captions made from concept files."""

from __future__ import annotations

import pytest

from genward.core import Concept, load_concept
from genward.errors import BadInput
from genward.ops import phrases

TWO = Concept(
    "two",
    "policy",
    "",
    ("x", "y"),
    ("an x", "an ex", "a y", "a why"),
    anchors=("a p", "a q"),
    anchor="a thing",
    neighbors=("glass", "axes"),
    keep=("a dog",),
)


def test_joined_text_names_every_target_before_any_synonym() -> None:
    assert phrases.joined(TWO) == "an x, a y, an ex, a why"
    weapons = load_concept("weapons")
    names = phrases.joined(weapons).split(", ")
    assert names[:5] == ["a pistol", "a kitchen knife", "a bomb", "a dagger", "crossed swords"] and sorted(
        names
    ) == sorted(weapons.phrases)


@pytest.mark.parametrize(
    ("text", "length", "parts"),
    [
        ("", 3, [""]),
        ("one, two", 3, ["one, two"]),
        ("a b, c d, e f", 4, ["a b, c d", "e f"]),
        ("a b c, d, e", 3, ["a b c", "d, e"]),
        ("a, b c d e f, g", 3, ["a, b c", "d e f", "g"]),
        (", a,, b ,", 1, ["a", "b"]),
    ],
)
def test_windows_hold_every_word_once_and_in_order(text: str, length: int, parts: list[str]) -> None:
    assert phrases.windows(text, lambda t: len(t.split()) <= length) == parts
    assert " ".join(parts).replace(",", " ").split() == text.replace(",", " ").split()


def test_a_word_that_no_window_holds_is_an_error() -> None:
    with pytest.raises(BadInput, match="one word is longer"):
        phrases.windows("short, endless", lambda t: len(t) <= 6)


def test_pairs_follow_the_anchors_and_templates() -> None:
    assert phrases.pairs([TWO]) == [("an x", "a p"), ("an ex", "a p"), ("a y", "a q"), ("a why", "a q")]
    assert phrases.pairs([TWO], ("{}", "a photo of {}"))[:2] == [("an x", "a p"), ("a photo of an x", "a photo of a p")]
    for bad in ("no place", "{} and {}"):
        with pytest.raises(BadInput, match="template"):
            phrases.pairs([TWO], (bad,))


def test_a_style_is_fitted_in_neutral_contexts() -> None:
    found = dict(phrases.pairs([load_concept("style-noto")]))
    assert (
        found["a living thing in noto style"] == "a living thing"
        and found["noto style"] == ""
        and found["in noto style"] == ""
    )
    assert not set(found) & set(load_concept("style-noto").prompts)


def test_preserved_holds_the_empty_text_and_never_the_concept() -> None:
    assert phrases.preserved([TWO]) == ["", "a dog", "a glass", "axes"]
    other = Concept("dog", "object", "", ("dog",), ("a dog",), anchor="a p", keep=("an x", "a cup"))
    assert phrases.preserved([TWO, other]) == ["", "a glass", "axes", "a cup"]
    assert "twemoji style" in phrases.preserved([load_concept("style-noto")])


def test_several_or_none() -> None:
    assert phrases.listed(TWO) == (TWO,) and phrases.listed([TWO, TWO]) == (TWO, TWO)
    with pytest.raises(BadInput, match="no concept"):
        phrases.listed([])
    with pytest.raises(BadInput, match="no phrases"):
        phrases.pairs([Concept("e", "custom", "", ("e",), ())])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rocket", "a rocket"),
        ("alarm clock", "an alarm clock"),
        ("scissors", "scissors"),
        ("octopus", "an octopus"),
        ("a cup", "a cup"),
        ("", ""),
    ],
)
def test_article(name: str, expected: str) -> None:
    assert phrases.article(name) == expected
