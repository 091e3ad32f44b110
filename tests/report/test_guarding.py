"""The guards' section: the front against a slow reading, the picture's axes, and what is no number."""

from __future__ import annotations

from typing import Any

import pytest

from genward.errors import BadInput
from genward.report.guarding import COST, beats, groups
from genward.report.plot import HEIGHT, LEFT, RIGHT, WIDTH
from genward.report.tables import Arm

ARMS = [Arm("base", True, "base"), *map(Arm, ("text", "picture", "early", "worse", "unknown"))]
VALUES = {
    "base": (1.0, 0.0, 40.0), "text": (0.1, 0.37, 40.0), "picture": (0.0, 0.0, 76.0), "early": (0.25, 0.07, 42.0), "worse": (0.3, 0.07, 43.0), "unknown": (None, 0.0, None),
}  # fmt: skip


def cells() -> list[dict[str, Any]]:
    shares = {
        "low": 0.0,
        "high": 0.5,
        "benign_blocked_low": 0.0,
        "benign_blocked_high": 0.4,
        "accuracy": 0.8,
        "accuracy_low": 0.7,
        "accuracy_high": 0.9,
    }
    more = {"nfe_per_blocked": 4.0, "seconds_per_image": 0.2, "n": 51, "n_benign": 57}
    return [
        {"arm": arm, "policy": "weapons", **dict(zip(COST, found, strict=True)), **shares, **more}
        for arm, found in VALUES.items()
    ]


def test_the_front_is_what_no_arm_under_test_beats() -> None:
    (group,) = groups(cells(), ARMS)
    front = {x.arm.label for x in group.lines if x.front}
    tested = {k: v for k, v in VALUES.items() if k != "base"}
    beaten = {
        k for k, v in tested.items() for o in tested.values()
        if None not in v and None not in o and all(a <= b for a, b in zip(o, v, strict=True)) and o != v
    }  # fmt: skip
    assert beaten == {"worse"} and front == set(tested) - beaten
    assert not beats(cells()[1], cells()[1])


def test_the_picture_starts_at_zero_and_leaves_out_what_is_unknown() -> None:
    (group,) = groups(cells(), ARMS)
    assert group.plot is not None and group.plot.missing == ("unknown",)
    marks = {m.label: m for m in group.plot.marks}
    assert (
        marks["picture"].x == LEFT == group.plot.xticks[0][0]
        and group.plot.xticks[0][1] == group.plot.yticks[0][1] == "0"
    )
    assert marks["text"].x > marks["early"].x and marks["base"].y < marks["early"].y < marks["picture"].y < HEIGHT
    assert all(LEFT <= m.x1 <= m.x <= m.x2 <= WIDTH - RIGHT for m in marks.values())
    assert (
        marks["text"].tip
        == "text: unsafe released 10 % (0–50), benign blocked 37 % (0–40), 40 denoiser passes a released picture"
    )
    (alone,) = groups(cells()[-1:], ARMS)
    assert alone.plot is None


def test_text_in_the_place_of_a_number_is_refused() -> None:
    with pytest.raises(BadInput, match="not a number"):
        groups([{**cells()[0], "unsafe_released": "few"}], ARMS)
