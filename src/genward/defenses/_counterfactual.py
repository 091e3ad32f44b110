"""Aligned counterfactual pairs: two pictures of equal seed and layout of which one shows the concept and the other its
safe twin; alignment is checked, and what is rejected is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from genward.core.contracts import Judge, Rig
from genward.core.records import Call, Case, Frame, Prompt, Sample, Sampler, row_seed
from genward.errors import BadInput
from genward.ops.asking import judged
from genward.ops.prompt_pairs import Pair

EDGE = 32
"""Edge of the small pictures that layouts are compared on."""
REASONS = ("not made", "the concept is not shown", "the safe twin shows it", "another layout")
"""Why a pair is rejected, in the order of asking."""


@dataclass(frozen=True)
class Begin:
    """For the recording of pairs: both pictures begin under the safe caption, so that their layout is one."""

    name: ClassVar[str] = "counterfactual-begin"
    safe: tuple[tuple[str, str], ...] = ()
    """(caption of the concept, the safe one)"""
    shared: float = 0.1
    """Share of the steps."""

    def attach(self, rig: Rig) -> None:
        twins, held = dict(self.safe), dict[str, Tensor]()

        def begin(prompts: list[Prompt]) -> list[Prompt]:
            held["text"] = rig.encode([twins.get(p.text, p.text) for p in prompts])
            return prompts

        def before(call: Call, frame: Frame) -> Call:
            if frame.step >= self.shared * frame.steps:
                return call
            text = call.text.clone()
            rows = frame.conditional.to(text.device)
            text[rows] = held["text"][frame.case[frame.conditional].to(text.device)].to(text)
            return call._replace(text=text)

        rig.prompts(begin)
        rig.inputs(before)


class Counterfactuals(NamedTuple):
    """Pairs that were accepted."""

    pairs: list[Pair]
    """One a row"""
    seeds: list[int]
    unsafe: Tensor
    """(rows, c, h, w) final latents, float32"""
    safe: Tensor
    outside: list[float]
    """Difference in the part of the picture that should be equal, 0 to 1"""
    rejected: dict[str, int]
    """Reason -> pairs, all of ``REASONS``"""


def outside(one: Tensor, other: Tensor, area: float) -> Tensor:
    """(rows,) mean absolute difference of pictures over their quieter part: all places but the share ``area`` in which
    they differ most.

    Args:
        one, other: (rows, 3, h, w) in [0, 1]. area: share of the picture that may be another, in [0, 1).
    """
    away = (one - other).abs().mean(1).flatten(1).sort(dim=1).values
    return away[:, : max(1, round((1 - area) * away.shape[1]))].mean(1)


def small(samples: Sequence[Sample]) -> Tensor:
    """float32 (rows, 3, EDGE, EDGE) pictures in [0, 1], NaN where there is none."""
    rows = [
        np.full((EDGE, EDGE, 3), np.nan, np.float32)
        if s.image is None
        else np.asarray(s.image.convert("RGB").resize((EDGE, EDGE)), np.float32) / 255
        for s in samples
    ]
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).contiguous()


def _about(
    shape: Sequence[int], judge: Judge | None, labels: Sequence[str]
) -> Callable[[list[Sample]], dict[str, Tensor]]:
    def tell(samples: list[Sample]) -> dict[str, Tensor]:
        found = {"final": final_latents(shape, samples), "small": small(samples)}
        if judge is not None:
            found["shows"] = judged(judge, samples, list(labels))
        return found

    return tell


def pair_cases(pairs: Sequence[Pair], count: int, owner: str, seed: int) -> list[Case]:
    """Two cases a pair, the concept's and the safe one's side by side with one seed; pairs round and round."""
    return [
        Case(f"{side}-{k}", text, label, seed=row_seed("fit", owner, seed, k))
        for k in range(count)
        for side, text, label in (
            ("unsafe", pairs[k % len(pairs)].concept, "harm"),
            ("safe", pairs[k % len(pairs)].safe, "benign"),
        )
    ]


def build(
    model: Any,
    pairs: Sequence[Pair],
    count: int,
    record: Callable[..., Any],
    *,
    owner: str,
    sampler: Sampler,
    shared: float,
    area: float,
    tau: float,
    judge: Judge | None = None,
    labels: Sequence[str] = (),
    seed: int = 0,
    batch: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> Counterfactuals:
    """Make ``count`` pairs and keep those that are aligned.

    Args:
        record: ``tools.record``, or ``ops.activations.record`` with a folder.
        shared: share of the steps that both go under the safe caption. area, tau: see ``outside``; a pair is aligned
            at ``tau`` or less.
        judge, labels: where given, the one picture must show a label and the other none.

    Raises:
        BadInput: no pair was accepted; the message counts why.
    """
    if not (0 <= shared < 1 and 0 <= area < 1 and tau >= 0):
        raise BadInput("counterfactual pairs: shared and area lie in [0, 1), tau is at least 0")
    cases = pair_cases(pairs, count, owner, seed)
    begin = Begin(tuple(sorted({(p.concept, p.safe) for p in pairs})), shared)
    asked = judge if labels else None
    found = record(
        model, cases, sampler, [], defenses=[begin] if shared else [], keep_latents=True, batch=2 * max(1, batch // 2),
        about=_about(model.latent_shape(), asked, labels), progress=progress,
    )  # fmt: skip
    final, pictures = found.about("final"), found.about("small")
    away = outside(pictures[::2], pictures[1::2], area)
    shows = found.about("shows") if asked is not None else None
    told: Counter[str] = Counter()
    kept = []
    for k in range(count):
        why = _wrong(final[2 * k : 2 * k + 2], None if shows is None else shows[2 * k : 2 * k + 2], float(away[k]), tau)
        if why:
            told[why] += 1
        else:
            kept.append(k)
    if not kept:
        raise BadInput(f"none of {count} counterfactual pairs was accepted ({counted(told)}); raise tau or area")
    rows = torch.tensor(kept)
    mine, seeds = [pairs[k % len(pairs)] for k in kept], [cases[2 * k].seed for k in kept]
    rejected = {reason: told[reason] for reason in REASONS}
    return Counterfactuals(mine, seeds, final[2 * rows], final[2 * rows + 1], away[rows].tolist(), rejected)


def _wrong(final: Tensor, shows: Tensor | None, away: float, tau: float) -> str:
    if not bool(torch.isfinite(final).all()) or away != away:
        return REASONS[0]
    if shows is not None and not bool((shows[0] == 1).any()):
        return REASONS[1]
    if shows is not None and not bool((shows[1] == 0).all()):
        return REASONS[2]
    return "" if away <= tau else REASONS[3]


def final_latents(shape: Sequence[int], samples: Sequence[Sample]) -> Tensor:
    """(rows, c, h, w) float32 final latents, NaN where there are none."""
    lost = torch.full(tuple(shape), float("nan"))
    return torch.stack([s.latents.float() if s.latents is not None else lost for s in samples])


def counted(rejected: Mapping[str, int]) -> str:
    """Reasons and their numbers in words."""
    return ", ".join(f"{n} {reason}" for reason, n in rejected.items() if n) or "none rejected"
