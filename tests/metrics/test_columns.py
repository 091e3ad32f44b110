"""Figures over several columns at once: against the rows worked out by hand, and against simulated truth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from genward.core.benchmark import Pool
from genward.metrics.columns import Entry, apart, compared, tables, valued
from genward.metrics.intervals import Estimate, clustered_rate, paired_difference, unknown, wilson

ONE, TWO = Pool("v", "a", "", (), ("x", "y"), "asr"), Pool("d", "a", "b", (), ("x", "y"), "asr")


def entries(rows: Mapping[tuple[str, str], float]) -> list[Entry]:
    return [Entry((place, thing), thing, value) for (place, thing), value in rows.items()]


def test_an_arms_figure_is_its_rows_as_one_sample() -> None:
    rows = {(p, t): float((p, t) == ("x", "cat")) for p in "xy" for t in ("cat", "dog", "owl")} | {
        ("y", "hen"): math.nan
    }
    (found,) = tables([ONE], lambda label, pool: entries(rows) if label == "a" else [])
    by_hand = clustered_rate([1.0, 0, 0, 0, 0, 0], ["cat", "dog", "owl"] * 2)
    assert [found[k] for k in ("value", "value_low", "value_high")] == pytest.approx(by_hand[:3])
    assert (found["claim"], found["versus"], found["n"], found["n_unscored"]) == ("v", "", 6, 1)
    same = valued(entries({(p, str(t)): 1.0 for p in "xy" for t in range(12)}))
    assert same.low == pytest.approx(wilson(12, 12).low, abs=0.05) and same.high == 1, "twelve things, not 24 rows"
    shares = valued(entries({("x", str(t)): t / 10 for t in range(10)}))
    assert shares.value == pytest.approx(0.45) and shares.low < 0.45 < shares.high


def test_two_arms_are_paired() -> None:
    rng = np.random.default_rng(3)
    a = {(p, str(t)): float(rng.random() < 0.3) for p in "xy" for t in range(30)}
    b = {k: max(v, float(rng.random() < 0.5)) for k, v in a.items()}
    (found,) = tables([TWO], lambda label, pool: entries(a if label == "a" else b))
    by_hand = paired_difference(a, b, {k: k[1] for k in a})
    assert [found[f"difference{e}"] for e in ("", "_low", "_high")] == pytest.approx(by_hand[:3])
    assert found["ratio"] == pytest.approx(sum(a.values()) / sum(b.values()))
    assert tables([TWO], lambda label, pool: entries(a) if label == "a" else []) == []


def test_pairs_that_all_differ_alike_are_not_certain() -> None:
    for value, low, high in ((1.0, 1 - wilson(0, 5).high, 1.0), (0.0, -wilson(0, 5).high, wilson(0, 5).high)):
        gap, _ = compared(*(entries({("x", str(t)): v for t in range(5)}) for v in (1.0, 1.0 - value)))
        assert (gap.value, gap.low, gap.high) == pytest.approx((value, low, high))


def test_figures_that_are_no_mean() -> None:
    known = {"a": Estimate(0.9, 0.8, 0.95, 40, 0), "b": Estimate(0.6, 0.5, 0.7, 40, 0)}
    (found,) = tables([TWO], lambda label, pool: [], lambda label, pool: known[label])
    assert found["difference"] == pytest.approx(0.3)
    assert found["difference_low"] == pytest.approx(0.3 - math.hypot(0.1, 0.1))
    assert found["difference_high"] == pytest.approx(0.3 + math.hypot(0.05, 0.1)) and found["ratio"] is None
    (alone,) = tables([ONE], lambda label, pool: [], lambda label, pool: known[label])
    assert (alone["value"], alone["value_low"], alone["value_high"]) == (0.9, 0.8, 0.95)
    assert not math.isfinite(apart(known["a"], unknown("nothing")).value)


@pytest.mark.parametrize("rate", [0.02, 0.5, 0.9])
def test_the_interval_covers_the_truth(rate: float) -> None:
    """Rows of a thing in six columns that rise and fall together: at least 87 of 100 intervals hold the true rate."""
    rng, inside = np.random.default_rng(7), 0
    for _ in range(300):
        things = rng.random(18) < rate
        told: Sequence[Entry] = [
            Entry((c, t), t, float(things[t] if rng.random() < 0.7 else rng.random() < rate))
            for c in range(6)
            for t in range(18)
        ]
        found = valued(told)
        inside += found.low <= rate <= found.high
    assert inside >= 261
