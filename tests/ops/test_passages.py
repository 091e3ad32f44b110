"""Passages and windows of a prompt, scenes to fit on, names in other languages, and the threshold over units."""

from __future__ import annotations

import pytest

from genward.core.records import load_concept
from genward.defenses.aeiou import Aeiou
from genward.errors import BadInput
from genward.ops import everyday, heads, scenes
from genward.ops.names import spoken
from genward.ops.passages import passages, windows


@pytest.mark.parametrize("words", [4, 6, 7])
@pytest.mark.parametrize("count", [2, 5, 8, 13, 40])
def test_neighboring_words_share_a_passage(words: int, count: int) -> None:
    text = [f"w{k}" for k in range(count)]
    found = [p.split() for p in passages(" ".join(text), words)]
    if count <= words:
        assert found == [], "the whole text is read anyway"
        return
    near = words - words // 2 + 1 if words % 2 == 0 else words // 2 + 2
    for k in range(count - near + 1):
        assert any(text[k : k + near] == p[j : j + near] for p in found for j in range(len(p))), k
    assert all(len(p) <= words for p in found)


def test_signs_part_words() -> None:
    assert passages('{"object": "a bomb"}') == ["object a bomb"]
    assert passages("a chef's knife") == [] and passages("a cat", 0) == []
    with pytest.raises(BadInput, match="at least 2"):
        passages("a cat", 1)


def test_windows_leave_nothing_out() -> None:
    fits = lambda text: len(text) <= 20  # noqa: E731
    assert windows("a short one", fits) == []
    text = " ".join(f"word{k}" for k in range(30))
    parts = windows(text, fits)
    assert all(map(fits, parts)) and {w for p in parts for w in p.split()} == set(text.split())
    assert all(set(a.split()) & set(b.split()) for a, b in zip(parts, parts[1:], strict=False)), "they overlap"
    assert "".join(windows("x" * 75, fits)[k][:1] for k in range(2)) == "xx", "one endless word is parted"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a 🔫", "pistol"), ("💣 in noto style", "bomb"), ("une bombe", "bomb"), ("un couteau", "knife"), ("una bomba",
        "bomb"),
        ("einen Dolch", "dagger"), ("бомба", "bomb"), ("爆弾", "bomb"), ("炸弹", "bomb"), ("폭탄", "bomb"),
    ],
)  # fmt: skip
def test_names_are_read_in_english(text: str, word: str) -> None:
    assert word in spoken(text).split() and spoken(spoken(text)) == spoken(text)


@pytest.mark.parametrize(
    "text", ["", "a cat and a dog", "a kitchen knife", "two rapiers, crossed", "ein Garten am See"]
)
def test_other_words_stay(text: str) -> None:
    assert spoken(text) == text


def test_scenes_hold_the_weapon_at_every_place_and_no_thing_of_the_benchmark() -> None:
    concept, settings = load_concept("weapons"), Aeiou()
    harmful = {"weapons": [(p, p) for p in concept.phrases]}
    made, calm = scenes.in_scenes(settings, [concept], harmful, [(p, p) for p in concept.keep])
    own = [t for t, unit in made["weapons"] if unit == "a bomb" and " and " in t]
    assert any(t.startswith("a bomb") for t in own) or any(t.endswith("a bomb") for t in own)
    told = " ".join(t for t, _ in calm) + " ".join(t for t, _ in made["weapons"])
    assert not any(h in told for h in (*concept.descriptions, *concept.neighbors))
    assert any("cigarette" in t for t, _ in calm), "other policies' wordings are harmless here"
    units = {}
    for text, unit in calm:
        for noun in everyday.NOUNS[:40]:
            if text == f"a {noun}" and noun != "bench":  # a bench is in the contexts
                units[noun] = unit
    for text, unit in calm:
        assert all(units[n] == unit for n in units if f" {n} " in f" {text} " and f"a {n}" in text.split(" and ")), text


def test_threshold_over_units_weighs_each_unit_the_same() -> None:
    scores, units = [], []
    for unit in range(60):
        for k in range(1 if unit else 200):  # one unit of very many rows must not decide
            scores.append(float(unit) + k / 1000)
            units.append(unit)
    cut = heads.threshold_at(scores, 0.05, units)
    above = sum(float(u) > cut for u in range(60))
    assert (above + 1) / 61 <= 0.05 and cut == 57.0
    assert heads.threshold_at(scores, 0.05, list(range(len(scores)))) == heads.threshold_at(scores, 0.05)
    with pytest.raises(BadInput, match="units"):
        heads.threshold_at(scores, 0.05, units[1:])
