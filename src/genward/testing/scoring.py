"""The law of scores: whatever a detector's number turns into, the rows that it stands for are refused.

Every defense compares its scores with a threshold in ``ops.deciding.decide``; the law stands between the two, replaces
what the detector computed, and looks at what is released. A defense that decides by a number of its own beside that
function releases rows here, and is found."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from genward.core.records import Case, Sampler
from genward.models.sd import StableDiffusion
from genward.ops import deciding
from genward.testing.suites import CASES

HANG = 1.5
"""Seconds that a hanging score takes; the guarded call waits a fifth of them."""


def _filled(value: float) -> Callable[[Tensor], Any]:
    return lambda scores: torch.full_like(scores, value)


def _one(value: float) -> Callable[[Tensor], Any]:
    def fill(scores: Tensor) -> Tensor:
        out = scores.clone()
        out[-1] = value
        return out

    return fill


INJECTIONS: dict[str, Callable[[Tensor], Any]] = {
    "NaN": _filled(float("nan")),
    "inf": _filled(float("inf")),
    "-inf": _filled(float("-inf")),
    "short": lambda scores: scores[:-1],
    "long": lambda scores: torch.cat([scores, scores[:1]]),
    "flat": lambda scores: scores.flatten()[0],
    "deep": lambda scores: scores[None],
    "complex": lambda scores: scores.to(torch.complex64),
    "whole numbers": lambda scores: scores.long(),
    "a list": lambda scores: scores.tolist(),
    "nothing": lambda scores: None,
}
"""What scores are replaced by; each must refuse every row that is decided about."""
ONE: dict[str, Callable[[Tensor], Any]] = {
    "one NaN": _one(float("nan")),
    "one inf": _one(float("inf")),
    "one -inf": _one(float("-inf")),
}
"""What the last row's score is replaced by (under guidance the conditional rows come last); its case must be
refused."""


@contextmanager
def replaced(change: Callable[[Tensor], Any]) -> Iterator[list[int]]:
    """Inside, scores on their way to ``decide`` are changed; yields a list that grows by one for each time."""
    real, calls = deciding.decide, list[int]()

    def decide(scores: Any, *given: Any, **how: Any) -> deciding.Decision:
        calls.append(1)
        return real(change(scores), *given, **how)

    with mock.patch.object(deciding, "decide", decide):
        yield calls


def scores(model: StableDiffusion, defense: Any, sampler: Sampler, cases: Sequence[Case] = CASES) -> bool:
    """Whether a defense decides by a score under this sampler."""
    with replaced(lambda found: found) as calls:
        model.generate(cases, sampler, [defense])
    return bool(calls)


def scoring_laws(
    model: StableDiffusion, defense: Any, *, sampler: Sampler | None = None, cases: Sequence[Case] = CASES
) -> None:
    """Assert that no row is released whose score is not a real finite number of its own, in ``generate`` and in
    ``protect``, which also refuses a score that does not come in time.

    Args:
        defense: ready to attach, at settings under which it would release these rows.
    """
    from genward.serve.protect import protect

    sampler = sampler or Sampler(steps=4, guidance=3.0)
    assert scores(model, defense, sampler, cases), f"{defense.name} decides by no score here"
    free = model.generate(cases, sampler, [defense])
    assert all(s.status == "ok" for s in free), f"{defense.name} refuses these rows anyway; choose a higher threshold"
    for name, change in INJECTIONS.items():
        with replaced(change):
            found = model.generate(cases, sampler, [defense])
        released = [s.case.id for s in found if s.status == "ok" or s.image is not None]
        assert not released, f"{defense.name} releases {', '.join(released)} on scores that are {name}"
    for name, change in ONE.items():
        with replaced(change):
            found = model.generate(cases, sampler, [defense])
        assert found[-1].status != "ok" and found[-1].image is None, f"{defense.name} releases a row on {name}"
    prompts = [c.prompt for c in cases]
    how: dict[str, Any] = {"num_inference_steps": sampler.steps, "guidance_scale": sampler.guidance}
    for name in ("NaN", "short", "hanging"):
        change = INJECTIONS.get(name, _hanging)
        with (
            replaced(change),
            protect(
                model, "weapons", [defense], unguarded="weapons", timeout=HANG / 5 if name == "hanging" else None
            ) as guarded,
        ):
            out = guarded(prompts, **how)
            assert not out.index and all(image is None for image in out.images), (
                f"{defense.name} releases rows of a guarded call on a {name} score"
            )
        if name == "hanging":
            time.sleep(2 * HANG)  # what was left behind comes to its end before the next guard


def _hanging(found: Tensor) -> Tensor:
    time.sleep(HANG)
    return found
