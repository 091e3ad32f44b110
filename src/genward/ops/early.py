"""States of a generation on its way, read through the rig: what detectors and redirectors are fitted on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from genward.core.contracts import Defense, Rig
from genward.core.records import Call, Case, Frame, Sample, Sampler
from genward.errors import BadInput
from genward.ops.guidance import cfg

PARTS = ("latents", "text", "noise")
"""What can be read beside sites: x_t before the step, the conditional text states, the guidance direction ``cond -
uncond``."""


class Early(NamedTuple):
    """States of generations: one row a case, at the steps that were asked for."""

    samples: list[Sample]
    states: Mapping[str, Tensor]
    """Site or part -> float16 (cases, steps, …); ``text`` is (cases, tokens, width), the same at every step."""
    timesteps: Tensor
    """int64 (steps,)"""


def stop_step(step: float, steps: int) -> int:
    """0-based step of a loop: a number of at least 1 is that step, a smaller one a share of the loop's denoiser calls.

    ``0.08`` of 50 steps is step 3: four calls are spent. ``0`` is the first step.

    Raises:
        BadInput: the loop has no such step.
    """
    index = int(step) if step >= 1 else max(0, _ceil(step * steps) - 1)
    if not 0 <= index < steps:
        raise BadInput(f"step {step:g} of a loop of {steps}; give a share below 1, or a step from 1 to {steps - 1}")
    return index


def _ceil(x: float) -> int:
    whole = round(x, 6)
    return int(whole) + (whole > int(whole))


def pooled(tokens: Tensor, edge: int) -> Tensor:
    """Image tokens (rows, n, c) of a square grid averaged to ``edge`` × ``edge``; as they are where ``edge`` is 0 or
    not smaller.

    Raises:
        BadInput: the tokens are no square grid.
    """
    rows, count, channels = tokens.shape
    side = round(count**0.5)
    if not edge or side <= edge:
        return tokens
    if side * side != count:
        raise BadInput(f"{count} image tokens are no square; set pool=0 for pictures that are not square")
    grid = tokens.transpose(1, 2).reshape(rows, channels, side, side)
    small = torch.nn.functional.adaptive_avg_pool2d(grid.float(), edge).to(tokens.dtype)
    return small.flatten(2).transpose(1, 2)


@dataclass
class Recorder:
    """Reads conditional rows at some steps and changes nothing. Attach it as a defense for one batch; ``found`` then
    holds the rows by case."""

    name: ClassVar[str] = "recorder"
    sites: Sequence[str]
    parts: Sequence[str]
    steps: Sequence[int]
    pool: int = 0
    found: dict[tuple[str, int], dict[int, Tensor]] = field(default_factory=dict)
    timesteps: dict[int, int] = field(default_factory=dict)

    def attach(self, rig: Rig) -> None:
        for site in self.sites:
            rig.tap(site, self._reader(site))
        rig.inputs(self._inputs)
        if "noise" in self.parts:
            rig.guidance(self._noise)

    def _keep(self, what: str, value: Tensor, frame: Frame) -> None:
        if frame.step in self.steps:
            rows = self.found.setdefault((what, frame.step), {})
            for k in frame.conditional.nonzero().flatten().tolist():
                rows[int(frame.case[k])] = value[k].detach().to("cpu", torch.float16, copy=True)

    def _reader(self, site: str) -> Callable[[Tensor, Frame], None]:
        def fn(x: Tensor, frame: Frame) -> None:
            self._keep(site, pooled(x, self.pool) if x.ndim == 3 and frame.step in self.steps else x, frame)

        return fn

    def _inputs(self, call: Call, frame: Frame) -> Call:
        if frame.step in self.steps:
            self.timesteps[frame.step] = int(call.timestep.flatten()[0])
        if "latents" in self.parts:
            self._keep("latents", call.latents, frame)
        if "text" in self.parts and frame.step == min(self.steps):
            self._keep("text", call.text, frame)
        return call

    def _noise(self, uncond: Tensor | None, cond: Tensor, call: Call, frame: Frame) -> Tensor:
        self._keep("noise", cond if uncond is None else cond - uncond, frame)
        return cond if uncond is None else cfg(uncond, cond, frame.guidance)


def collect(
    model: Any,
    cases: Sequence[Case],
    sampler: Sampler,
    *,
    sites: Sequence[str] = (),
    parts: Sequence[str] = ("text",),
    steps: Sequence[float] = (1,),
    pool: int = 0,
    defenses: Sequence[Defense] = (),
    batch: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> Early:
    """Generate the cases and keep their states at some steps; pictures come with the samples.

    Costs a whole generation a case: ``steps`` denoiser rows, twice that under guidance.

    Args:
        steps: as ``stop_step`` reads them. pool: edge of the grid that token sites are averaged to, 0 for none.
        defenses: attached before the reading, an erased model's say.

    Raises:
        BadInput: a step that the loop does not have, or a part that is not known. UnknownName: no such site.
    """
    wanted = sorted({stop_step(s, sampler.steps) for s in steps})
    unknown = [p for p in parts if p not in PARTS]
    if unknown or not cases:
        raise BadInput(
            f"parts {', '.join(unknown)} are not known; {', '.join(PARTS)} are" if unknown else "no case was given"
        )
    samples: list[Sample] = []
    rows: dict[str, list[Tensor]] = {}
    times: dict[int, int] = {}
    for start in range(0, len(cases), batch):
        part = cases[start : start + batch]
        recorder = Recorder(sites, parts, wanted, pool)
        samples += model.generate(part, sampler, [*defenses, recorder], batch=len(part))
        times |= recorder.timesteps
        for what in (*sites, *parts):
            rows.setdefault(what, []).append(
                _stacked(recorder, what, len(part), wanted[:1] if what == "text" else wanted)
            )
        if progress is not None:
            progress(min(start + batch, len(cases)), len(cases))
    states = {what: torch.cat(values) for what, values in rows.items()}
    if "text" in states:
        states["text"] = states["text"][:, 0]
    return Early(samples, states, torch.tensor([times[s] for s in wanted]))


def _stacked(recorder: Recorder, what: str, count: int, steps: Sequence[int]) -> Tensor:
    """(cases, steps, …) of what was read; NaN for rows that another defense ended before."""
    found = [recorder.found.get((what, s), {}) for s in steps]
    example = next((v for rows in found for v in rows.values()), None)
    if example is None:
        raise BadInput(f"nothing was read at {what!r}: every row ended before step {steps[0]}")
    empty = torch.full_like(example, float("nan"))
    return torch.stack([torch.stack([rows.get(k, empty) for rows in found]) for k in range(count)])


def judged(judge: Any, samples: Sequence[Sample], names: Sequence[str]) -> Tensor:
    """What a judge says of pictures: (samples, names) of 1 where a label reaches its threshold, 0 below it, NaN where
    it could not say.

    Args:
        judge: with ``judge(samples)`` and a card that holds each label's threshold (0.5 where it does not).

    Raises:
        BadInput: the judge does not know a label.
    """
    index = {s.id: k for k, s in enumerate(samples)}
    column = {name: k for k, name in enumerate(names)}
    card = judge.card
    cut = {
        n: float(card.labels[n].get("threshold", 0.5)) if card is not None and n in card.labels else 0.5 for n in names
    }
    out = torch.full((len(samples), len(names)), float("nan"))
    told = set()
    for score in judge.judge(samples):
        if score.label in column and score.sample in index:
            told.add(score.label)
            if score.value == score.value:
                out[index[score.sample], column[score.label]] = float(score.value >= cut[score.label])
    missing = [n for n in names if n not in told]
    if missing:
        raise BadInput(
            f"judge {type(judge).name!r} says nothing about {', '.join(missing[:5])}; use one that knows these labels "
            "(genward list judges)"
        )
    return out
