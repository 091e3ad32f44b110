"""The measurement of this machine: a line through two timings."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from genward.core.records import Case, Sample, Sampler
from genward.core.spec import Spec
from genward.run import speed
from genward.run.speed import Speed, speed_of, timed


class Machine:
    """A model on a clock of its own: ``rest`` seconds per picture and ``rate`` denoiser rows per second."""

    def __init__(self, rate: float, rest: float) -> None:
        self.rate, self.rest, self.now = rate, rest, 0.0
        self.asked: list[tuple[int, Sampler]] = []
        self.spec, self.device = Spec("model", "sd", {"rate": rate, "rest": rest}), "cpu"

    def generate(self, cases: Sequence[Case], sampler: Sampler, defenses: Any, *, batch: int) -> list[Sample]:
        assert not defenses and batch == len(cases)
        rows = sampler.steps * (2 if sampler.guidance > 1 else 1)
        self.now += len(cases) * (self.rest + rows / self.rate)
        self.asked.append((batch, sampler))
        return [Sample(case, costs={"nfe": rows}) for case in cases]


@pytest.mark.parametrize(("rate", "rest"), [(200.0, 0.02), (40.0, 0.1), (20000.0, 0.001)])
@pytest.mark.parametrize("guidance", [4.0, 1.0])
def test_rate_and_rest_are_told_apart(rate: float, rest: float, guidance: float) -> None:
    machine, sampler = Machine(rate, rest), Sampler(steps=20, guidance=guidance)
    found = timed(machine, sampler, 36, lambda: machine.now)
    assert found == pytest.approx(Speed(rate, rest), rel=1e-6)
    assert found.seconds(100, 4000) == pytest.approx(100 * rest + 4000 / rate)
    steps = [asked.steps for _, asked in machine.asked]
    batches = [batch for batch, _ in machine.asked]
    assert batches[:2] == [1, 1] and 1 <= batches[2] == batches[3] <= 36
    assert steps[0] == steps[1] == steps[2] < steps[3] <= sampler.steps
    spent = sum(b * (rest + a.steps * (2 if guidance > 1 else 1) / rate) for b, a in machine.asked)
    assert spent < 5
    assert all(asked.guidance == guidance for _, asked in machine.asked)


def test_a_clock_that_stands_still_gives_no_infinity() -> None:
    found = timed(Machine(100.0, 0.0), Sampler(steps=3), 4, lambda: 0.0)
    assert 0 < found.rows_per_second < float("inf") and found.seconds_per_picture == 0.0


def test_measured_once_per_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_measured", {})
    machine = Machine(300.0, 0.01)
    monkeypatch.setattr(speed, "timed", lambda model, sampler, batch: SimpleNamespace(of=(model, sampler, batch)))
    first = speed_of(machine, Sampler(), 8)
    assert speed_of(machine, Sampler(), 8) is first
    assert speed_of(machine, Sampler(), 9) is not first
    assert speed_of(machine, Sampler(steps=5), 8) is not first
