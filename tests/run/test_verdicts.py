"""What judges say of single pictures: seen, not seen, not told; and what may show a concept."""

from __future__ import annotations

import math
from typing import Any

import pytest

from genward.run.verdicts import Word, verdict

CARD = {"bomb": {"threshold": 0.8}}
ROW: dict[str, Any] = {"id": "r"}


def word(card: Any = CARD, **values: float) -> Word:
    return Word({("r", label): value for label, value in values.items()}, card)


@pytest.mark.parametrize(
    ("judges", "shows", "label", "may"),
    [
        ([word(bomb=0.9, gun=0.1)], True, "bomb", True),
        ([word(bomb=0.79, gun=0.1)], False, "bomb", True),  # below its threshold, above half of it
        ([word(bomb=0.39, gun=0.24)], False, "gun", False),
        ([word(bomb=0.1, gun=0.6)], True, "gun", True),  # 0.5 where the card names no threshold
        ([word(bomb=0.1, gun=math.nan)], None, "bomb", True),  # a label without a number leaves it open
        ([word(bomb=math.nan, gun=math.nan)], None, "", True),
        ([word()], None, "", True),
        ([], None, "", True),
        ([word(bomb=0.1, gun=0.1), word({}, bomb=0.9, gun=0.1)], False, "gun", True),  # the second one sees it
        ([word(bomb=0.1, gun=0.1), word({}, bomb=0.1, gun=0.1)], False, "gun", False),
    ],
)
def test_a_verdict(judges: list[Word], shows: bool | None, label: str, may: bool) -> None:
    found = verdict(ROW, ("bomb", "gun"), judges)
    assert (found["shows"], found["label"], found["may"]) == (shows, label, may)
    assert (found["value"] is None) == (not label)
    assert (found["second"] is None) == (len(judges) < 2)
