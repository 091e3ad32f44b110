"""From a number to a verdict: what is beyond a threshold, and what is no number."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from genward.core import Frame
from genward.errors import BadArtifact
from genward.ops.deciding import act, all_in_range, decide, in_range, number


def frame(rows: int) -> Frame:
    every = torch.ones(rows, dtype=torch.bool)
    return Frame("denoise", 2, 4, torch.full((rows,), 500), 3.0, "", every, torch.arange(rows))


class Said:
    """A rig that writes down what is blocked and flagged."""

    def __init__(self) -> None:
        self.said: list[tuple[str, list[int], str, Any, Any, str]] = []

    def block(self, frame: Any, rows: Tensor, why: str, *, score: Any, threshold: Any = None, **more: Any) -> None:
        self.said.append(("blocked", rows.tolist(), why, score[rows].tolist(), threshold, more["category"]))

    def flag(self, frame: Any, rows: Tensor, why: str, *, action: str, score: Any, threshold: Any, **more: Any) -> None:
        self.said.append((action, rows.tolist(), why, score[rows].tolist(), threshold, more["category"]))


def test_scores_above_a_threshold() -> None:
    found = decide(torch.tensor([0.1, 0.5, 0.9]), 0.5, 3)
    assert found.hit.tolist() == [False, False, True] and not found.broken.any()
    assert decide(torch.tensor([0.1, 0.5, 0.9]), 0.5, 3, inclusive=True).hit.tolist() == [False, True, True]
    among = decide(torch.tensor([0.9, math.nan, 0.9]), 0.5, 3, among=torch.tensor([False, False, True]))
    assert among.hit.tolist() == [False, False, True] and not among.broken.any()


def test_several_columns_name_the_farthest() -> None:
    table = torch.tensor([[0.2, 0.9], [0.7, 0.65], [0.1, 0.1], [0.9, math.nan]])
    found = decide(table, [0.5, 0.6], 4)
    assert found.which.tolist() == [1, 0, 0, 1] and found.hit.tolist() == [True, True, False, False]
    assert found.broken.tolist() == [False, False, False, True]
    assert found.score[:3].tolist() == pytest.approx([0.9, 0.7, 0.1])


@pytest.mark.parametrize(
    "scores",
    [
        torch.full((3,), math.nan), torch.full((3,), math.inf), torch.full((3,), -math.inf), torch.zeros(2),
        torch.zeros(4),
        torch.zeros(()), torch.zeros(3, 2), torch.zeros(1, 3), torch.zeros(3, dtype=torch.complex64),
        torch.zeros(3, dtype=torch.long),
        torch.zeros(3, dtype=torch.bool), [0.0, 0.0, 0.0], 0.0, None, "low",
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_score_of_these_rows_breaks_them_all(scores: Any) -> None:
    found = decide(scores, 0.5, 3)
    assert found.broken.all() and not found.hit.any() and found.table.shape == (3, 1)


@pytest.mark.parametrize("limit", [math.nan, math.inf, -math.inf])
def test_a_threshold_that_is_no_number_breaks_all_rows(limit: float) -> None:
    assert decide(torch.zeros(3), limit, 3).broken.all() and not decide(torch.zeros(3), limit, 3).hit.any()
    both = decide(torch.zeros(3, 2), [0.5, limit], 3)
    assert both.broken.all() and not both.hit.any()
    assert decide(torch.zeros(3, 0), [], 3).broken.all(), "without a threshold nothing vouches for a row"


def test_masks_of_another_shape_fail_closed() -> None:
    odd = torch.zeros(2, dtype=torch.bool)
    assert decide(torch.zeros(3), 0.5, 3, unsound=odd).broken.all()
    assert decide(torch.full((3,), math.nan), 0.5, 3, among=odd).broken.all()
    assert decide(torch.zeros(3), 0.5, 3, unsound=torch.tensor([False, True, False])).broken.tolist() == [
        False,
        True,
        False,
    ]


def test_scores_keep_their_graph() -> None:
    scores = torch.tensor([0.2, 0.9], requires_grad=True)
    decide(scores, 0.5, 2).score.sum().backward()
    assert scores.grad is not None and scores.grad.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("action", "said"), [("block", "blocked"), ("flag", "flagged"), ("steer", "steered"), ("?", "blocked")]
)
def test_what_is_done(action: str, said: str) -> None:
    rig = Said()
    table = torch.tensor([[0.9, 0.1], [math.nan, 0.1], [0.1, 0.1], [0.1, 0.9]], dtype=torch.float64)
    act(
        rig,  # type: ignore[arg-type]
        frame(4),
        decide(table, [0.5, 0.6], 4),
        action=action,
        why=lambda k: f"above {k}",
        broken=lambda k: f"broken {k}",
        category="ab".__getitem__,
    )
    broken, first, second = rig.said
    assert broken[:3] == ("blocked", [1], "broken 0") and math.isnan(broken[3][0]) and broken[4:] == (None, "a")
    assert first == (said, [0], "above 0", [0.9], 0.5, "a") and second == (said, [3], "above 1", [0.9], 0.6, "b")


def test_rows_of_a_part_of_the_frame() -> None:
    rig = Said()
    found = decide(torch.tensor([0.9, math.nan]), 0.5, 2)
    how = {"why": lambda k: "w", "broken": lambda k: "b", "category": lambda k: ""}
    act(rig, frame(5), found, action="steer", at=torch.tensor([1, 4]), **how)  # type: ignore[arg-type]
    assert [(s[0], s[1]) for s in rig.said] == [("blocked", [4]), ("steered", [1])]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e9, -0.1, None, "0.5", True, [0.5], 10**400])
def test_numbers_of_a_card_are_in_range(value: Any) -> None:
    with pytest.raises(BadArtifact, match="me: x of its card is .* a number from 0 to 1 is wanted"):
        number({"x": value}, "x", 0, 1, "me")
    assert number({"x": 1}, "x", 0, 1, "me") == 1.0 and in_range(0.25, 0, 1, "x") == 0.25


@pytest.mark.parametrize("values", [[], [0.5, math.nan], [math.inf], [1.5], [-0.1]])
def test_tensors_of_an_artifact_are_in_range(values: list[float]) -> None:
    with pytest.raises(BadArtifact, match="not all from 0 to 1"):
        all_in_range(torch.tensor(values), 0, 1, "me")
