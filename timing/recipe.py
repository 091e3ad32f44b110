"""Part ``recipe`` of ``speed.py``: the quick recipe against a plain script that does the same work one prompt at a
time.

The plain script makes, for every defended arm and every row, the undefended picture again and the defended one, each
with a pipeline
call of its own, and judges each picture by itself: how the methods' own evaluation scripts work. Both sides use the
same fitted defenses, rows, seeds and steps; fitting is left out of both."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from genward.catalog.fitting import parse_defense, ready
from genward.catalog.opening import opener
from genward.judges.lab import LabJudge
from genward.run.loop import run_plan
from genward.run.plan import make_plan, plan_cases, work
from genward.store import Store


def naive(plan: Any, models: Any, store: Any) -> int:
    """The plain script; returns the number of pictures it made."""
    judge, made = LabJudge(), 0
    for piece in work(plan, plan_cases(plan)):
        if piece.control == "base":
            continue
        model, base = models(piece.model), models(plan.model)
        defenses = ready(parse_defense(piece.defenses), model, store).defenses
        for case in piece.cases:
            start = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(case.seed))
            base.pipe(
                case.prompt, latents=start, num_inference_steps=plan.sampler.steps, guidance_scale=plan.sampler.guidance
            )
            list(judge.judge(model.generate([case], plan.sampler, defenses, batch=1)))
            made += 2
    return made


def part_recipe(n: int = 2) -> dict[str, Any]:
    """Seconds of both sides on the quick recipe with ``n`` rows a cell, and their ratio."""
    models, plan = opener(), make_plan("erasure-quick", n=n)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "warm")
        for piece in work(plan, plan_cases(plan)):  # fit and open everything before the clock starts
            ready(parse_defense(piece.defenses), models(piece.model), store)
        began = time.perf_counter()
        table = run_plan(plan, store, models=models)
        ours = time.perf_counter() - began
        began = time.perf_counter()
        made = naive(plan, models, store)
        plain = time.perf_counter() - began
    return {
        "rows": table["run"]["rows"],
        "recipe_seconds": ours,
        "plain_pictures": made,
        "plain_seconds": plain,
        "ratio": plain / ours,
    }
