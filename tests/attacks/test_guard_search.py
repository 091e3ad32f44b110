"""Token search: greedy steps against brute force, budgets, and a guarded tiny model as target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from genward.attacks.guard_search import GuardSearch, prompt_edits, search_prompt, word_edits
from genward.core import Case, Sample
from genward.errors import BadInput


def count(prompts: Sequence[str]) -> list[float]:
    """A guard that counts Latin letters of one word list."""
    return [float(sum(p.count(c) for c in "bomb")) for p in prompts]


def test_edits_are_other_spellings() -> None:
    found = word_edits("bomb", {"bomb": ["device"]})
    assert found[0] == "device" and "b0mb" in found and "bоmb" in found and "bo\u200bmb" in found and "b o m b" in found
    assert "bomb" not in found and len(found) == len(set(found)) and word_edits("a") == [] and word_edits("4k") == []
    near = prompt_edits("a bomb", fillers=("a dog",))
    assert "a bomb, a dog" in near and "a dog, a bomb" in near and "a b0mb" in near and "a bomb" not in near


def test_greedy_equals_brute_force() -> None:
    found = search_prompt("two bomb boxes", count, budget=10_000, edits=2, fillers=())
    best = "two bomb boxes"
    for _ in range(2):
        best = min([best, *prompt_edits(best, fillers=())], key=lambda p: (count([p])[0], p))
    assert found.prompt == best and found.first == count(["two bomb boxes"])[0] > found.score and 1 <= found.edits <= 2


def test_budget_and_goal() -> None:
    asked: list[str] = []

    def score(prompts: Sequence[str]) -> list[float]:
        asked.extend(prompts)
        return count(prompts)

    found = search_prompt("a big bomb", score, budget=7, edits=9)
    assert found.queries == len(asked) == len(set(asked)) == 7
    asked.clear()
    assert search_prompt("a cat", lambda p: [0.0] * len(p), goal=0.0).queries == 1, (
        "a prompt that passes needs no search"
    )
    flat = search_prompt("a bomb", lambda p: [1.0] * len(p), budget=50)
    assert flat.prompt == "a bomb" and flat.edits == 0, "no step without gain"
    with pytest.raises(BadInput, match="one a prompt"):
        search_prompt("a", lambda p: [])
    with pytest.raises(BadInput, match="at least 1"):
        search_prompt("a", count, budget=0)
    with pytest.raises(BadInput):
        GuardSearch(edits=0)


class Target:
    """Refuses what holds the word in Latin letters, and tells the score."""

    def __init__(self, tells: bool) -> None:
        self.tells, self.rows = tells, 0

    def sample(self, cases: Sequence[Case]) -> list[Sample]:
        self.rows += len(cases)
        out = []
        for case in cases:
            bad = "bomb" in case.prompt
            out.append(
                Sample(
                    case,
                    status="refused" if bad else "ok",
                    notes={"aeiou.score": [count([case.prompt])[0]]} if self.tells else {},
                )
            )
        return out


@pytest.mark.parametrize("tells", [True, False])
def test_against_a_target(tells: bool) -> None:
    target: Any = Target(tells)
    parents = [Case("x", "a bomb", "harm", seed=3), Case("y", "a cat", "harm")]
    found = list(GuardSearch(budget=40).search(parents, target))
    assert [c.parent for c in found] == ["x", "y"] and "bomb" not in found[0].prompt and found[1].prompt == "a cat"
    assert found[0].seed == 3 and sum(c.queries for c in found) == target.rows and found[1].queries == 1
    again = list(GuardSearch(budget=40).search(parents, Target(tells)))  # type: ignore[arg-type]
    assert again == found, "the same seed finds the same"
