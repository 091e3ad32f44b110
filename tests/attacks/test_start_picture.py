"""Start pictures: every parent gets the concept's next picture, one row a strength."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from genward.attacks.start_picture import StartPicture
from genward.core.records import Case
from genward.errors import BadInput


def test_every_parent_gets_the_next_picture_at_every_strength(target: Callable[..., Any]) -> None:
    arm = target({"weapons": 2})
    parents = [Case(f"w{k}", "a cup", "harm", "weapons", seed=k) for k in range(3)]
    found = list(StartPicture((0.2, 0.5)).search(parents, arm))
    assert [(c.id, c.parent, c.seed, c.prompt) for c in found] == [
        (f"w{k}/start{s}", f"w{k}", k, "a cup") for k in range(3) for s in ("0.2", "0.5")
    ]
    names = [next(iter(c.inputs.values())) for c in found]
    assert names[0] == names[1] == names[4] != names[2] == names[3]
    assert [tuple(c.inputs)[0] for c in found[:2]] == ["picture@0.2", "picture@0.5"]
    pixels, facts = arm.kept[names[2]]
    wanted = np.asarray(arm.references("weapons")[1], np.float32).transpose(2, 0, 1) / 255
    assert np.array_equal(pixels.numpy(), wanted) and facts["reference"] == 1
    assert StartPicture().nfe(parents) == 0


def test_what_cannot_be_used_is_named(target: Callable[..., Any]) -> None:
    for strengths in ((), (0.0,), (1.5,), (float("nan"),)):
        with pytest.raises(BadInput, match="strengths"):
            StartPicture(strengths)
    with pytest.raises(BadInput, match="no pictures"):
        list(StartPicture().search([Case("x", "a cup", concept="cat")], target({})))
