"""Thresholds at a chosen false-positive rate, on benign prompts of the user's own.

Any defense that notes a score (signal ``<name>.score``, higher is more harmful) and has a field ``threshold`` can be
calibrated. Guards that read only the text cost one text encoding a prompt; guards inside the loop cost the denoiser up
to the step where they look last."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from genward.catalog import plugins as catalog
from genward.catalog.fitting import DefenseRequest, parse_defense
from genward.errors import BadInput, GuardError
from genward.serve.policy import Policy, load_policy

if TYPE_CHECKING:
    from genward.models.sd import StableDiffusion
    from genward.store import Store

Progress = Callable[[int, int], None]


class Calibrated(NamedTuple):
    """A threshold and how it was found."""

    policy: Policy
    """The policy with the threshold in it"""
    defense: str
    category: str
    threshold: float
    fpr: float
    """Asked for"""
    measured: float
    """Share of the benign prompts at or above the threshold; at most ``fpr``"""
    low: float
    high: float
    """Wilson's 95 % interval of the rate on prompts like these"""
    n: int
    scores: tuple[float, ...]


def lowest_cut(scores: Sequence[float], fpr: float) -> float:
    """The lowest cut that at most ``fpr`` of the scores reach: in the middle of the gap there, or just above a tie or
    the highest score.

    Raises:
        BadInput: no scores, one that is not finite, or a rate outside [0, 1).
    """
    values = np.sort(np.asarray(list(scores), np.float64))[::-1]
    if not 0 <= fpr < 1:
        raise BadInput(f"a false-positive rate of {fpr}; give a number from 0 to below 1, 0.01 say")
    if not len(values) or not np.isfinite(values).all():
        raise BadInput("a threshold wants at least one score, and finite ones")
    allowed = int(math.floor(fpr * len(values) + 1e-9))
    below = float(values[allowed])
    if allowed and values[allowed - 1] > below:
        middle = (float(values[allowed - 1]) + below) / 2
        if below < middle:
            return middle
    return float(np.nextafter(np.float32(below), np.float32(np.inf)))


def one_request(text: str) -> DefenseRequest:
    """The one defense that is to be calibrated, or ``BadInput``; nothing heavy is imported."""
    requests = parse_defense(text)
    if len(requests) != 1:
        raise BadInput(f"{text!r} names {len(requests)} defenses; calibrate one at a time, as in aeiou:weapons")
    request = requests[0]
    if request.name and "threshold" not in {f.name for f in catalog.entry("defense", request.name).fields}:
        raise BadInput(f"defense {request.name!r} has no threshold to set (genward show defense {request.name})")
    return request


def calibrate(
    model: StableDiffusion,
    request: DefenseRequest,
    prompts: Sequence[str],
    fpr: float,
    *,
    policy: Policy | None = None,
    steps: int = 20,
    guidance: float = 4.0,
    seed: int = 0,
    batch: int = 32,
    store: Store | Path | str | None = None,
    say: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Calibrated:
    """Score benign prompts with a defense as it acts in a chain, and set its threshold.

    Args:
        policy: what gets the threshold; without one, a policy of the defense's concept.
        seed: of the first prompt's noise; the next ones count up.

    Raises:
        BadInput: the defense notes no score, or its concept is not in the policy. GuardError: a guard failed on a
            prompt.
    """
    base, category = _place(request, policy)
    watch = dataclasses.replace(
        base, categories=tuple(dataclasses.replace(c, action="flag") for c in base.categories if c.name == category)
    )
    import torch

    from genward.metrics.intervals import wilson
    from genward.serve.protect import protect

    scores: list[float] = []
    with protect(model, watch, [request.text], store=store, progress=say) as guarded:
        name = type(guarded.defenses[0]).name
        for k in range(0, len(prompts), batch):
            part = list(prompts[k : k + batch])
            generators = [torch.Generator().manual_seed(seed + k + j) for j in range(len(part))]
            out = guarded.observe(part, num_inference_steps=steps, guidance_scale=guidance, generator=generators)
            scores += [_score(prompt, v, name) for prompt, v in zip(part, out.verdicts, strict=True)]
            if progress is not None:
                progress(len(scores), len(prompts))
    cut = lowest_cut(scores, fpr)
    hits = sum(s >= cut for s in scores)
    rate = wilson(hits, len(scores))
    facts = {
        "fpr": float(fpr), "measured": hits / len(scores), "low": rate.low, "high": rate.high, "n": len(scores),
        "prompts": hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:16], "model": model.spec.hash,
    }  # fmt: skip
    new = base.with_threshold(category, name, cut, facts)
    return Calibrated(
        new, name, category, cut, fpr, hits / len(scores), rate.low, rate.high, len(scores), tuple(scores)
    )


def _score(prompt: str, verdict: Any, name: str) -> float:
    """The highest score that a defense noted on a prompt, under ``<name>.score`` or its bare name."""
    if verdict.failed:
        raise GuardError(
            f"the guard failed on a benign prompt ({prompt[:60]!r}): {verdict.why}; nothing was calibrated"
        )
    found = verdict.notes.get(f"{name}.score") or verdict.notes.get(name)
    if not found:
        raise BadInput(
            f"{name} notes no {name}.score, so there is nothing to calibrate (noted: "
            f"{', '.join(verdict.notes) or 'nothing'})"
        )
    return float(max(found))


def _place(request: DefenseRequest, policy: Policy | None) -> tuple[Policy, str]:
    """The policy that gets the threshold, and the category in it."""
    if policy is None:
        if not request.concept:
            raise BadInput(
                f"{request.text!r} names no concept; write {request.name or 'aeiou'}:weapons, say, or give --policy"
            )
        policy = load_policy(request.concept) if not request.concept.endswith(".toml") else _of_file(request.concept)
    fitting = [c.name for c in policy.categories if not request.concept or c.named(request.concept)]
    if len(fitting) != 1:
        names = ", ".join(c.name for c in policy.categories)
        raise BadInput(
            f"{request.text!r} is about {len(fitting)} categories of policy {policy.name!r} ({names}); name one: "
            f"{request.name}:{policy.categories[0].concept}"
        )
    return policy, fitting[0]


def _of_file(path: str) -> Policy:
    from genward.core.records import load_concept
    from genward.serve.policy import Category

    concept = load_concept(path)
    return Policy(concept.name, (Category(concept.name, str(Path(path).resolve())),), concept.summary)
