"""Linked items against scipy's connected components."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from genward.errors import BadInput
from genward.ops.linking import linked


@pytest.mark.parametrize("seed", range(20))
def test_against_scipy(seed: int) -> None:
    rng = random.Random(seed)
    count = rng.randrange(1, 60)
    pairs = [(rng.randrange(count), rng.randrange(count)) for _ in range(rng.randrange(count))]
    graph = coo_matrix((np.ones(len(pairs)), ([a for a, _ in pairs], [b for _, b in pairs])), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    assert linked(count, pairs) == [int(np.flatnonzero(label == label[k])[0]) for k in range(count)]
    rng.shuffle(pairs)
    assert linked(count, ((b, a) for a, b in pairs)) == linked(count, pairs), "order tells nothing"


def test_chains_and_limits() -> None:
    assert linked(0, []) == [] and linked(3, []) == [0, 1, 2]
    assert linked(10_000, ((k, k + 1) for k in range(9_998, -1, -1))) == [0] * 10_000
    for pair in ((0, 2), (-1, 0)):
        with pytest.raises(BadInput, match="of 2"):
            linked(2, [pair])
