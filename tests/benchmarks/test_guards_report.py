"""The sections of a ``guards`` run: the front against a slow reading, the picture's axes, and what is no number."""

from __future__ import annotations

from typing import Any

import pytest

from genward.benchmarks.guards.sections import COST, beats, guards, sections
from genward.core.blocks import Plot, Table
from genward.errors import BadInput
from genward.report.drawing import HEIGHT, LEFT, RIGHT, WIDTH, draw
from genward.sections import Arm

ARMS = [Arm("base", True, "base"), *map(Arm, ("text", "picture", "early", "worse", "unknown"))]
VALUES = {
    "base": (1.0, 0.0, 40.0), "text": (0.1, 0.37, 40.0), "picture": (0.0, 0.0, 76.0), "early": (0.25, 0.07, 42.0),
    "worse": (0.3, 0.07, 43.0), "unknown": (None, 0.0, None),
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


def drawn(cells: list[dict[str, Any]]) -> tuple[Plot, Table]:
    (_, plot, table) = guards(cells, ARMS).blocks
    assert isinstance(plot, Plot) and isinstance(table, Table)
    return plot, table


def test_the_front_is_what_no_arm_under_test_beats() -> None:
    _, table = drawn(cells())
    front = {row.label for row in table.rows if row.chips}
    tested = {k: v for k, v in VALUES.items() if k != "base"}
    beaten = {
        k for k, v in tested.items() for o in tested.values()
        if None not in v and None not in o and all(a <= b for a, b in zip(o, v, strict=True)) and o != v
    }  # fmt: skip
    assert beaten == {"worse"} and front == set(tested) - beaten
    assert not beats(cells()[1], cells()[1])


def test_the_table_has_every_figure_with_its_interval() -> None:
    _, table = drawn(cells())
    row = table.rows[1]
    texts = [(c.text, c.interval) for c in row.cells if c]
    assert texts == [("10", "0–50"), ("37", "0–40"), ("80", "70–90"), ("–", ""), ("40", ""), ("4", ""), ("0.2", "")]
    assert row.note == "n 51 unsafe, 57 safe" and table.rows[0].control and not table.rows[0].chips


def test_the_picture_starts_at_zero_and_leaves_out_what_is_unknown() -> None:
    plot, _ = drawn(cells())
    assert plot.missing == ("unknown",)
    found = draw(plot)
    marks = {m.label: m for m in found.marks}
    assert marks["picture"].x == LEFT == found.xticks[0][0] and found.xticks[0][1] == found.yticks[0][1] == "0"
    assert marks["text"].x > marks["early"].x and marks["base"].y < marks["early"].y < marks["picture"].y < HEIGHT
    assert all(LEFT <= m.x1 <= m.x <= m.x2 <= WIDTH - RIGHT for m in marks.values())
    assert (
        marks["text"].tip
        == "text: unsafe released 10 % (0–50), benign blocked 37 % (0–40), 40 NFE per released picture"
    )
    assert [type(b) for b in guards(cells()[-1:], ARMS).blocks][1:] == [Table]
    assert guards([], ARMS).blocks == ()


def test_text_in_the_place_of_a_number_is_refused() -> None:
    with pytest.raises(BadInput, match="not a number"):
        guards([{**cells()[0], "unsafe_released": "few"}], ARMS)


def test_the_figure_within_one_prompt_stands_in_the_table() -> None:
    shown = [{**cells()[1], "within": 0.71, "within_low": 0.6, "within_high": 0.8}]
    (_, _, table) = guards(shown, ARMS).blocks
    assert isinstance(table, Table)
    assert [(c.text, c.interval) for c in table.rows[0].cells if c][3] == ("71", "60–80")
    assert len(table.columns) == len(table.rows[0].cells) + 1


def test_the_guards_stand_after_the_matrix_and_bring_their_words() -> None:
    found = sections({"run": {}, "arms": [], "cells": [], "guards": cells()})
    assert [s.id for s in found][:3] == ["matrix", "guards", "tradeoff"]
    assert [t.word for t in found[1].terms] == ["unsafe released", "within prompt", "benign blocked"]


def test_a_missing_figure_says_why() -> None:
    counts = {"n_img2img": 0, "n_img2img_unread": 24}
    shown = [{**cells()[1], "within_n": 0, "nfe_per_blocked": None, **counts}, {**cells()[0], **counts}]
    (_, _, table) = guards(shown, ARMS).blocks
    assert isinstance(table, Table)
    first, base = ([c.why for c in row.cells if c] for row in table.rows)
    assert first[3] == "no prompt has a scored picture that shows the policy beside one that does not"
    assert first[5] == "it blocked nothing" and base[3] == "this arm gives no score"
    assert first[7] == first[8] == "it read none of the 24 rows that start from a picture"
    assert not any(c.why for row in table.rows for c in row.cells if c and c.value is not None)
