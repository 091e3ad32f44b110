"""Ranking within one prompt against loops over pairs; weights that balance a prompt's outcomes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from genward.errors import BadInput
from genward.ops.within import balanced_weights, flipping, pairs_within, recall_at, within_auroc


def table(seed: int = 0, rows: int = 60) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    truth = (rng.random(rows) < 0.4).astype(float)
    truth[::11] = np.nan
    return rng.integers(0, 6, rows).astype(float), truth, [f"p{k % 7}" for k in range(rows)]


def test_pairs_are_counted_one_by_one() -> None:
    scores, truth, prompts = table()
    won = total = 0.0
    for a, b in itertools.permutations(range(len(scores)), 2):
        if prompts[a] == prompts[b] and truth[a] == 1 and truth[b] == 0:
            total += 1
            won += 1.0 if scores[a] > scores[b] else 0.5 if scores[a] == scores[b] else 0.0
    found = within_auroc(scores, truth, prompts)
    assert (found.pairs, found.value) == (int(total), pytest.approx(won / total))
    assert 0 <= found.low <= found.value <= found.high <= 1 and found.prompts == 7
    assert sum(pairs_within(scores, truth, prompts)[1]) == total


def test_a_score_of_the_prompt_alone_is_a_coin() -> None:
    _, truth, prompts = table()
    assert within_auroc([hash(p) % 97 for p in prompts], truth, prompts).value == 0.5
    assert within_auroc(np.nan_to_num(truth), truth, prompts).value == 1.0


def test_the_interval_is_over_prompts() -> None:
    """Fifty copies of every row say no more than one: prompts are what is drawn anew."""
    scores, truth, prompts = table(3, 200)
    one = within_auroc(scores, truth, prompts)
    many = within_auroc(np.repeat(scores, 50), np.repeat(truth, 50), [p for p in prompts for _ in range(50)])
    assert (many.low, many.high) == (pytest.approx(one.low), pytest.approx(one.high))


def test_nothing_to_compare() -> None:
    assert within_auroc([1.0, 2.0], [1, 0], ["a", "b"]).pairs == 0
    assert math.isnan(within_auroc([1.0, 2.0], [1, 0], ["a", "b"]).value)
    alone = within_auroc([1.0, 2.0], [0, 1], ["a", "a"])
    assert (alone.value, alone.prompts) == (1.0, 1) and math.isnan(alone.low)
    with pytest.raises(BadInput, match="not finite"):
        within_auroc([math.nan, 1.0], [0, 1], ["a", "a"])


def test_rows_of_prompts_that_flip() -> None:
    found = flipping([1, 0, 1, 1, math.nan, 0], ["a", "a", "b", "b", "b", "c"])
    assert found.tolist() == [True, True, False, False, False, False]


def test_recall_at_a_rate_of_false_positives() -> None:
    scores = [*range(100), 93.5, 95.5, 200.0]
    truth = [0.0] * 100 + [1.0] * 3
    assert recall_at(scores, truth, 0.05) == pytest.approx(2 / 3)
    assert math.isnan(recall_at(scores[:100], truth[:100], 0.05))


def test_weights_make_a_prompts_outcomes_equal() -> None:
    _, one, prompts = table(1)
    truth = np.stack([one, 1 - one[::-1]], 1)
    weights = balanced_weights(truth, prompts)
    for prompt, label in itertools.product(set(prompts), range(2)):
        mine = [k for k, p in enumerate(prompts) if p == prompt]
        up, down = (sum(weights[k, label] for k in mine if truth[k, label] == v) for v in (1, 0))
        known = sum(not math.isnan(truth[k, label]) for k in mine)
        assert up == pytest.approx(known / 2) and down == pytest.approx(known / 2)
    assert (balanced_weights(truth, prompts, 0.0) == 1).all()
    assert balanced_weights([1, 1, math.nan], ["a", "a", "a"]).tolist() == [1, 1, 1]
    half = balanced_weights([1, 0, 0, 0], ["a"] * 4, 0.5)
    assert half.tolist() == pytest.approx([1.5, 5 / 6, 5 / 6, 5 / 6])
