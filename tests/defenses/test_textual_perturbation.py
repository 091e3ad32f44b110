"""Textual perturbation: its cascade against a slow form, the laws, what guards read."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from genward.core import Case, Sampler
from genward.defenses.textual_perturbation import NEIGHBORS, SYNONYMS, TextualPerturbation, exchanged, misspelled
from genward.errors import BadInput
from genward.models.sd import StableDiffusion
from genward.ops.looks import world
from genward.ops.sentences import STOP
from genward.testing import defense_laws, parity_laws
from genward.testing.suites import same

OFF: dict[str, Any] = {"plain": False, "synonyms": 0.0, "characters": 0.0}
TEXT = "a b\u0435autiful cat on smooth ground in noto style"


def test_laws(model: StableDiffusion) -> None:
    defense_laws(model, TextualPerturbation, zero=OFF)
    parity_laws(model, TextualPerturbation, faults=("raises", "block"))


def test_the_cascade() -> None:
    made = TextualPerturbation()
    once = made.perturbed(TEXT)
    assert once == made.perturbed(TEXT) != TextualPerturbation(seed=1).perturbed(TEXT) and once.isascii()
    assert TextualPerturbation(synonyms=0, characters=0).perturbed(TEXT) == TEXT.replace("\u0435", "e")
    assert TextualPerturbation(**OFF).perturbed(TEXT) == TEXT and made.perturbed("") == ""
    swapped = TextualPerturbation(synonyms=1.0, characters=0.0).perturbed(TEXT).split()
    assert not {"beautiful", "smooth", "ground", "cat"} & set(swapped) and swapped[-3:] == ["in", "noto", "style"]


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_shares_by_a_slow_count(share: float) -> None:
    words = "the quiet cat stands near a small wall under morning light".split()
    text = " ".join(words)
    after = misspelled(text, share, random.Random(3)).split()
    changed = [(a, b) for a, b in zip(words, after, strict=True) if a != b]
    able = [w for w in words if w not in STOP and len(w) > 1]
    assert len(changed) == math.ceil(share * len(able)) and not {a for a, _ in changed} & STOP
    for a, b in changed:
        dropped = any(a[:k] + a[k + 1 :] == b for k in range(len(a)))
        slipped = any(a[:k] + near + a[k + 1 :] == b for k in range(len(a)) for near in NEIGHBORS.get(a[k], ""))
        assert dropped or slipped, (a, b)
    after = exchanged(text, world(), share, random.Random(3)).split()
    able = [w for w in words if w in SYNONYMS] + ["cat"]
    gone = [w for w in words if w not in after]
    assert len(gone) == math.ceil(share * len(able)) and set(gone) <= set(able)


def test_tables() -> None:
    assert all(a in NEIGHBORS[b] for a in NEIGHBORS for b in NEIGHBORS[a] if b in "qwertyuiop" and a in "qwertyuiop")
    assert all(word not in others and word == word.lower() for word, others in SYNONYMS.items())
    with pytest.raises(BadInput, match="shares"):
        TextualPerturbation(synonyms=1.5)
    with pytest.raises(BadInput, match="nowhere"):
        TextualPerturbation(words="/nowhere.toml")


def test_the_change_is_drawn_and_guards_read_the_users_own(model: StableDiffusion) -> None:
    made, sampler = TextualPerturbation(), Sampler(steps=2, guidance=3.0)
    ours = model.generate([Case("a", TEXT, seed=1)], sampler, [made])
    assert same(ours, model.generate([Case("a", made.perturbed(TEXT), seed=1)], sampler))
    seen: list[tuple[str, list[str]]] = []

    class Reader:
        name = "reader"

        def attach(self, rig: Any) -> None:
            rig.tap("text.0.heads", lambda states, frame: seen.append((frame.role, rig.texts(frame))))

    model.generate([Case("a", TEXT, seed=1)], sampler, [made, Reader()])
    assert ("reading", [TEXT]) in seen
