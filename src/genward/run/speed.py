"""How fast this machine samples: measured in about two seconds, once per process, before a run says what it will
cost."""

from __future__ import annotations

import math
import time
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from genward.core.records import Case

if TYPE_CHECKING:
    from collections.abc import Callable

WORTH = 0.6, 1.5
"""Seconds that the shorter and the longer of the two timed samplings should take, about."""
SHORT = 2
"""Steps of the shorter one; some samplers want two."""


class Speed(NamedTuple):
    """What a picture costs on this machine: its denoiser rows and, once, everything else."""

    rows_per_second: float
    """Denoiser rows per second; infinite of a family without a denoiser."""
    seconds_per_picture: float
    """What does not grow with the steps: encoding the text, decoding the latents."""

    def seconds(self, pictures: float, rows: float) -> float:
        """Seconds to sample ``pictures`` that cost ``rows`` denoiser rows together."""
        return pictures * self.seconds_per_picture + rows / self.rows_per_second


_measured: dict[tuple[Any, ...], Speed] = {}


def speed_of(model: Any, sampler: Any, batch: int) -> Speed:
    """The speed of an opened model on this machine, from ``timed`` at the first call of the process with these
    settings. No rig may be open on the model."""
    key = (model.spec.hash, str(model.device), sampler, batch)
    if key not in _measured:
        _measured[key] = timed(model, sampler, batch)
    return _measured[key]


def timed(model: Any, sampler: Any, batch: int, clock: Callable[[], float] = time.perf_counter) -> Speed:
    """Sample undefended pictures twice, with few steps and with more, and keep nothing but the times.

    The difference of the two gives the denoiser's rate; what the shorter one took beyond it is the rest of a picture.
    One picture goes before them, because first calls allocate and warm up, and one tells how many can be afforded.

    Args:
        model: anything with ``generate(cases, sampler, defenses, batch=)``.
        sampler: the run's; only its steps are replaced, by at most as many as it has.
        batch: pictures that the run samples together; as many are timed where the machine is fast enough.
        clock: seconds.
    """

    def once(rows: int, steps: int) -> tuple[float, float]:
        cases = [Case(f"speed-{k}", "a picture", seed=k) for k in range(rows)]
        settings = replace(sampler, steps=steps) if steps else sampler
        began = clock()
        made = model.generate(cases, settings, (), batch=rows)
        return clock() - began, float(sum(sample.nfe for sample in made))

    if not any(f.name == "steps" for f in fields(sampler)):  # no denoiser: what takes time is all of a row
        once(1, 0)
        return Speed(math.inf, once(1, 0)[0])
    once(1, SHORT)
    one, _ = once(1, SHORT)
    rows = min(batch, max(1, round(WORTH[0] / max(one, 1e-3))))
    short, few = once(rows, SHORT)
    steps = min(max(sampler.steps, SHORT + 1), SHORT + max(1, round(SHORT * WORTH[1] / max(short, 1e-3))))
    long, many = once(rows, steps)
    least = max(many / max(long, 1e-9), few / max(short, 1e-9))  # as if there were no rest: never too fast
    rate = max(least, (many - few) / (long - short)) if long > short else least
    return Speed(rate, max(0.0, short - few / rate) / rows)
