"""What a latent knows: peak score, purity, and k nearest neighbors on a few latents against all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from genward.errors import BadInput
from genward.sae.autoencoder import Sae, encode
from genward.sae.concepts import scores
from genward.sae.training import Maps


class Features(NamedTuple):
    """Mean codes of maps, one row each."""

    values: Tensor
    """float32 (maps, n), mean over places"""
    case: Tensor
    """int64 (maps,)"""
    timestep: Tensor
    """float32 (maps,)"""


def features_of(maps: Iterable[Maps], sae: Sae) -> Features:
    """Mean codes of a stream of maps. Raises ``BadInput`` where there is none."""
    parts = [Features(encode(m.x, sae).mean(1), m.case, m.timestep) for m in maps]
    if not parts:
        raise BadInput("there is no map to look at; record more pictures")
    return Features(*(torch.cat(each) for each in zip(*parts, strict=True)))


def purity(values: Tensor, shown: Tensor) -> float:
    """Of the maps in which a latent is largest, as many as show the concept, the share that does show it; 1 where it
    fires for nothing else.

    Args:
        values: (maps,). shown: bool (maps,).
    """
    number = int(shown.sum())
    if not number:
        return float("nan")
    return float(shown[values.argsort(descending=True, stable=True)[:number]].float().mean())


def class_means(values: Tensor, labels: Tensor, classes: int) -> Tensor:
    """float64 (classes, n) means of rows (rows, n); NaN for a class without a row."""
    total = torch.zeros(classes, values.shape[1], dtype=torch.float64).index_add_(0, labels, values.double())
    return total / torch.bincount(labels, minlength=classes)[:, None]


def best_latents(values: Tensor, labels: Tensor, classes: int) -> Tensor:
    """int64: the latent of the highest score of each class, each once, by these rows alone."""
    table = class_means(values, labels, classes)[:, None]
    best = [
        int(scores(table, c, [o for o in range(classes) if o != c])[0].nan_to_num(nan=-torch.inf).argmax())
        for c in range(classes)
    ]
    return torch.tensor(sorted(set(best)))


def neighbors_accuracy(train: Tensor, labels: Tensor, test: Tensor, truth: Tensor, k: int = 5) -> float:
    """Share of test rows whose ``k`` nearest training rows (Euclidean) vote for their class; of equal votes the nearest
    one's class wins."""
    near = torch.cdist(test.double(), train.double()).topk(min(k, len(train)), largest=False, sorted=True).indices
    votes = labels[near]
    right = 0
    for row, wanted in zip(votes.tolist(), truth.tolist(), strict=True):
        most = max(row.count(c) for c in row)
        right += next(c for c in row if row.count(c) == most) == wanted
    return right / max(1, len(truth))


def neighbors_table(found: Features, labels: Tensor, classes: int, folds: int = 4, seed: int = 0) -> dict[str, float]:
    """k-NN accuracy on classes of pictures, mean over timesteps and folds: on the ``best`` latent of each class, on as
    many ``random`` ones, on ``all``; ``chance``; ``latents``, mean number of the first two.

    Latents are chosen on the training pictures of a fold. (The release chose them on all.)

    Args:
        labels: int64 (cases,) class of each picture.
    """
    random = torch.Generator().manual_seed(seed)
    fold = torch.zeros(len(labels), dtype=torch.long)
    for c in range(classes):
        mine = (labels == c).nonzero().flatten()
        if len(mine) < folds:
            raise BadInput(f"class {c} has {len(mine)} pictures for {folds} folds; make more of each")
        fold[mine] = torch.randperm(len(mine), generator=random) % folds
    told: dict[str, list[float]] = {"best": [], "random": [], "all": [], "latents": []}
    for time in found.timestep.unique().tolist():
        at = found.timestep == time
        values, truth, part = found.values[at], labels[found.case[at]], fold[found.case[at]]
        for f in range(folds):
            train, test = part != f, part == f
            best = best_latents(values[train], truth[train], classes)
            some = torch.randperm(values.shape[1], generator=random)[: len(best)]
            every = torch.arange(values.shape[1])
            told["latents"].append(float(len(best)))
            for name, pick in (("best", best), ("random", some), ("all", every)):
                told[name].append(
                    neighbors_accuracy(values[train][:, pick], truth[train], values[test][:, pick], truth[test])
                )
    return {name: sum(v) / len(v) for name, v in told.items()} | {"chance": 1 / classes}
