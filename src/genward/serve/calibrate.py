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
from genward.metrics.drift import tenths
from genward.serve.policy import Policy, load_policy

if TYPE_CHECKING:
    from genward.models.sd import StableDiffusion
    from genward.serve.call import Guarded
    from genward.store import Store

Progress = Callable[[int, int], None]


class Caught(NamedTuple):
    """How many harmful prompts a guard still catches at the new threshold."""

    guard: str
    """Its name, or ``chain``: any of the guards"""
    k: int
    n: int
    low: float
    high: float
    """Wilson's 95 % interval of the share on prompts like these"""
    missed: tuple[str, ...]
    """Prompts that it lets out, in order"""


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
    caught: tuple[Caught, ...] = ()
    """Harmful prompts at the new threshold: this guard, the others of the chain, then the chain"""


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
    harmful: Sequence[str] = (),
    chain: Sequence[str] = (),
    policy: Policy | None = None,
    steps: int = 20,
    guidance: float = 4.0,
    seed: int = 0,
    batch: int = 32,
    store: Store | Path | str | None = None,
    fit: bool = False,
    say: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Calibrated:
    """Score benign prompts with a defense as it acts in a chain, set its threshold, and count the harmful prompts that
    are still caught there.

    Args:
        harmful: prompts that should be caught; without any, the phrases of the concept itself. chain: the other guards
            that will stand beside this one, as texts.
        policy: what gets the threshold; without one, a policy of the defense's concept.
        seed: of the first prompt's noise; the next ones count up. fit: see ``protect``.

    Raises:
        BadInput: the defense notes no score, or its concept is not in the policy. GuardError: a guard failed on a
            prompt.
    """
    base, category = _place(request, policy)
    anew = tuple(r for r in base.calibration if (r.get("category"), r.get("defense")) != (category, request.name))
    base = dataclasses.replace(base, calibration=anew)  # a threshold that is set now may come from another model
    watch = _flagging(base, category)
    from genward.metrics.intervals import wilson
    from genward.serve.protect import protect

    how = {"num_inference_steps": steps, "guidance_scale": guidance}
    with protect(model, watch, [request.text], store=store, fit=fit, progress=say) as guarded:
        name = type(guarded.defenses[0]).name
        scores = _scored(guarded, name, prompts, how, seed, batch, progress)
    cut = lowest_cut(scores, fpr)
    hits = sum(s >= cut for s in scores)
    rate = wilson(hits, len(scores))
    phrases = list(harmful) or list(base.concepts[category].phrases)
    trial = _flagging(base.with_threshold(category, name, cut), category)
    with protect(model, trial, [request.text, *chain], store=store, fit=fit, progress=say) as guarded:
        caught = _caught(guarded, phrases, how, seed, batch)
    facts = {
        "fpr": float(fpr), "measured": hits / len(scores), "low": rate.low, "high": rate.high, "n": len(scores),
        "prompts": hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:16], "model": model.spec.hash,
        "caught": caught[0].k, "harmful": len(phrases),
        "tenths": " ".join(f"{x:.6g}" for x in tenths(scores)),
    }  # fmt: skip
    new = base.with_threshold(category, name, cut, facts)
    measured = hits / len(scores)
    return Calibrated(
        new, name, category, cut, fpr, measured, rate.low, rate.high, len(scores), tuple(scores), tuple(caught)
    )


def _scored(
    guarded: Guarded,
    name: str,
    prompts: Sequence[str],
    how: dict[str, Any],
    seed: int,
    batch: int,
    progress: Progress | None,
) -> list[float]:
    """The highest score that a guard notes on each prompt."""
    import torch

    scores: list[float] = []
    for k in range(0, len(prompts), batch):
        part = list(prompts[k : k + batch])
        generators = [torch.Generator().manual_seed(seed + k + j) for j in range(len(part))]
        out = guarded.observe(part, **how, generator=generators)
        scores += [_score(prompt, v, name) for prompt, v in zip(part, out.verdicts, strict=True)]
        if progress is not None:
            progress(len(scores), len(prompts))
    return scores


def _flagging(policy: Policy, category: str) -> Policy:
    """One category of a policy, with nothing blocked, so that every guard gets to see every row."""
    mine = tuple(dataclasses.replace(c, action="flag") for c in policy.categories if c.name == category)
    return dataclasses.replace(policy, categories=mine)


def _caught(guarded: Guarded, prompts: Sequence[str], how: dict[str, Any], seed: int, batch: int) -> list[Caught]:
    """What each guard of an open chain catches of the prompts, and what all of them do where there are several."""
    import torch

    from genward.metrics.intervals import wilson

    found: list[set[str]] = []
    for k in range(0, len(prompts), batch):
        part = list(prompts[k : k + batch])
        generators = [torch.Generator().manual_seed(seed + k + j) for j in range(len(part))]
        for prompt, verdict in zip(part, guarded.observe(part, **how, generator=generators).verdicts, strict=True):
            if verdict.failed:
                raise GuardError(f"the guard failed on {prompt[:60]!r}: {verdict.why}; nothing was calibrated")
            found.append({v.defense for v in verdict.every if v.action in ("flagged", "blocked")})
    out = []
    for guard in [*guarded.named, *(["chain"] if len(guarded.named) > 1 else [])]:
        hits = [bool(names) if guard == "chain" else guard in names for names in found]
        rate = wilson(sum(hits), len(hits))
        missed = tuple(p for p, hit in zip(prompts, hits, strict=True) if not hit)
        out.append(Caught(guard, sum(hits), len(hits), rate.low, rate.high, missed))
    return out


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
