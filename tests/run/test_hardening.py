"""Hardening a guard on a tiny model: what got through is learned, what no round saw is measured, a round that costs too
much is not kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from genward.catalog.fitting import parse_defense, ready
from genward.core import Sampler
from genward.core.records import Case
from genward.errors import BadInput
from genward.models.sd import StableDiffusion
from genward.run import hardening
from genward.run.hardening import Hardening, saved
from genward.store import Store
from genward.testing import FakeJudge, tiny_sd


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    return tiny_sd(encoder="bert", folder=tmp_path_factory.mktemp("words"))


def work(model: StableDiffusion, store: Store, **more: Any) -> Hardening:
    judge = FakeJudge(labels=hardening.load_concept("weapons").judge, threshold=0.0)
    how: dict[str, Any] = {"name": "lab", "n": 3, "limit": 0.99, "sampler": Sampler(steps=1, guidance=1.0), "say": None}
    text = "aeiou:weapons,passages=0,scenes=false,everyday=false,names=false"
    return Hardening(text, "noise_search,budget=1", model, store, judge, **how | more)


@pytest.fixture(scope="module")
def held(model: StableDiffusion, tmp_path_factory: pytest.TempPathFactory) -> Hardening:
    return work(model, Store(tmp_path_factory.mktemp("store"), create=True))


def test_rounds_learn_what_got_through(held: Hardening, tmp_path: Path) -> None:
    best, told = held.run(1)
    through = [c.prompt for c, hit in held.attacked(held.guard, held.rows["name"], 1) if hit]
    assert told[0].added == 0 and [t.number for t in told] == list(range(len(told)))
    if through:
        assert told[1].added == len(through) and best.artifact.card["augmented"] >= len(through)
    for one in told:
        assert one.attack.n == 3 and one.benign.n == len(held.unseen) >= 40
        assert (
            one.benign.value == sum(held.refused(best if one is told[-1] else held.guard, held.unseen)) / one.benign.n
        )
    path = saved(best, tmp_path / "hard.safetensors")
    (again,) = ready(parse_defense(str(path)), held.model, None).defenses
    assert again.artifact == best.artifact


def test_a_round_that_costs_too_much_is_not_kept(held: Hardening, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("x", "an odd word", concept="weapons")
    monkeypatch.setattr(held, "attacked", lambda guard, cases, seed: [(case, True)] * 3)
    monkeypatch.setattr(held, "refused", lambda guard, texts: [guard is not held.guard] * len(texts))
    best, told = held.run(5)
    assert best is held.guard and [t.kept for t in told] == [True, False] and told[1].added == 3


def test_a_guard_that_is_above_the_limit_from_the_start_is_told(
    held: Hardening, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(held, "attacked", lambda guard, cases, seed: [(cases[0], False)])
    monkeypatch.setattr(held, "say", said.append)
    for refuses, told in ((True, 1), (False, 0)):
        said.clear()
        monkeypatch.setattr(held, "refused", lambda guard, texts, one=refuses: [one] * len(texts))
        held.run(1)
        assert sum("before the first round" in line for line in said) == told


def test_nothing_got_through_ends_the_work(held: Hardening, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "attacked", lambda guard, cases, seed: [(cases[0], False)])
    best, told = held.run(5)
    assert best is held.guard and len(told) == 1 and told[0].attack.value == 0


def test_lookalikes_are_harmless_captions_with_the_strange_words(held: Hardening) -> None:
    found = ["a zorble in noto style", "a pistol in noto style"]
    made = held.lookalikes(found, 1)
    assert len(made) == 2 and made[0].startswith("zorble ") and "zorble" not in made[1]
    assert all(any(k in text for k in held.concept.keep) for text in made)
    assert not any(word in text for text in made for word in ("pistol", "dagger", "bomb"))


@pytest.mark.parametrize(
    ("text", "attack", "told"),
    [
        ("aeiou:weapons+uce:weapons", "noise_search", "not one guard"),
        ("negative_prompt:weapons", "noise_search", "cannot learn"),
        ("aeiou:weapons,scenes=false,everyday=false", "mma", "no query attack"),
    ],
)
def test_what_cannot_be_hardened(text: str, attack: str, told: str, model: StableDiffusion, tmp_path: Path) -> None:
    how: dict[str, Any] = {"name": "lab", "n": 1, "limit": 0.5, "sampler": Sampler(), "say": None}
    with pytest.raises(BadInput, match=told):
        Hardening(text, attack, model, Store(tmp_path, create=True), FakeJudge(), **how)
