"""Purity and neighbors by hand, and that latents are chosen inside the training fold."""

from __future__ import annotations

import pytest
import torch

from genward.errors import BadInput
from genward.sae import figures as ops


def test_purity() -> None:
    shown = torch.tensor([True, False, True, False, False])
    assert ops.purity(torch.tensor([5.0, 0.0, 4.0, 1.0, 2.0]), shown) == 1
    assert ops.purity(torch.tensor([5.0, 6.0, 4.0, 1.0, 2.0]), shown) == 0.5
    assert ops.purity(torch.tensor([0.0, 6.0, 4.0, 5.0, 2.0]), shown) == 0
    assert ops.purity(torch.ones(5), ~shown & shown) != ops.purity(torch.ones(5), ~shown & shown)


def test_neighbors_vote_and_the_nearest_breaks_a_tie() -> None:
    train, labels = torch.tensor([[0.0], [1.0], [10.0], [11.0], [12.0]]), torch.tensor([0, 0, 1, 1, 1])
    test = torch.tensor([[0.4], [11.4], [5.4]])
    assert ops.neighbors_accuracy(train, labels, test, torch.tensor([0, 1, 0]), k=2) == 1
    assert ops.neighbors_accuracy(train, labels, test[2:], torch.tensor([0]), k=4) == 1, "two votes each, 1.0 is nearer"
    assert ops.neighbors_accuracy(train, labels, test, torch.tensor([0, 1, 1]), k=5) == pytest.approx(2 / 3)


def test_best_latents_by_hand() -> None:
    values = torch.tensor([[3.0, 0, 1], [3, 0, 1], [0, 2, 1], [0, 2, 1]])
    assert ops.best_latents(values, torch.tensor([0, 0, 1, 1]), 2).tolist() == [0, 1]


def features(noise: bool) -> tuple[ops.Features, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    labels = torch.arange(40) % 4
    values = torch.rand(40, 4000 if noise else 60, generator=random)
    if not noise:
        values[torch.arange(40), labels] += 3
    return ops.Features(values, torch.arange(40), torch.ones(40)), labels


def test_the_table_and_its_controls() -> None:
    told = ops.neighbors_table(*features(False), 4)
    assert told["best"] == told["all"] == 1 and told["random"] < 0.7 and told["chance"] == 0.25 and told["latents"] == 4
    again = ops.neighbors_table(*features(False), 4)
    assert again == told


def test_choosing_on_the_training_fold_leaks_nothing() -> None:
    """On pure noise a choice on all rows does better than chance; one inside the fold does not."""
    found, labels = features(True)
    told = ops.neighbors_table(found, labels, 4)
    leaked = ops.best_latents(found.values, labels, 4)
    fold = torch.arange(40) // 4 % 4
    over = [
        ops.neighbors_accuracy(
            found.values[fold != f][:, leaked], labels[fold != f], found.values[fold == f][:, leaked], labels[fold == f]
        )
        for f in range(4)
    ]
    assert told["best"] < sum(over) / 4 and told["best"] < 0.45
    with pytest.raises(BadInput, match="make more"):
        ops.neighbors_table(found, torch.zeros(40, dtype=torch.long), 2)
