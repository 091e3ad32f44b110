"""The loop in one call: plan → generate → judge → measure, with the stages of the plan's benchmark. What the command
line calls.

Each stage reads and writes the store and runs again alone: a new judge on old pictures costs no generation, new
statistics cost neither."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from genward.catalog.opening import Opener, opener
from genward.errors import UnknownName
from genward.run import results
from genward.run.judging import open_judge
from genward.run.plan import Plan, load_plan

if TYPE_CHECKING:
    from genward.store import Store

LOOPS = ("erasure", "m-erasure", "guards")
"""Benchmarks that a plan can run."""
Progress = Callable[[str, int, int], None]
"""``progress(stage, done, total)`` with stage ``attack``, ``generate`` or ``judge``"""
Say = Callable[[str], None]


class Stages(NamedTuple):
    """What a benchmark's loop is made of."""

    generate: Callable[..., dict[str, Any]]
    """``(plan, store, models, refit=, retry=, progress=, say=)`` -> seconds and counts by name"""
    judge: Callable[..., dict[str, Any]]
    """``(store, run, judge, progress=)`` -> what was judged"""
    measure: Callable[..., dict[str, Any]]
    """``(store, run, judge, command=, device=)`` -> the metrics, written beside the plan"""
    costs: Callable[..., Mapping[str, Any]]
    """``(plan, rate=)`` -> what a run will cost"""


def stages_of(plan: Plan) -> Stages:
    """The stages of a plan's benchmark; ``UnknownName`` for one that has no loop."""
    from genward.run import guards, m_erasure, measure
    from genward.run.plan import dry_run

    if plan.benchmark not in LOOPS:
        raise UnknownName("benchmark that a recipe can run", plan.benchmark, LOOPS)
    if plan.benchmark == "m-erasure":
        return Stages(m_erasure.generate_stage, m_erasure.judge_stage, m_erasure.measure_stage, m_erasure.dry_run)
    last = guards.measure_guards if plan.benchmark == "guards" else measure.measure
    return Stages(_generated, measure.judge_run, last, dry_run)


def _generated(plan: Plan, store: Store, models: Opener, **settings: Any) -> dict[str, Any]:
    from genward.run.measure import generate_run

    began = time.perf_counter()
    made = generate_run(plan, store, models, **settings)
    return {"generate": time.perf_counter() - began, "made": made.made, "there": made.there}


def run_plan(
    plan: Plan,
    store: Store | Path | str,
    *,
    models: Opener | None = None,
    judge: Any = None,
    device: str | None = None,
    dtype: str | None = None,
    download: bool = False,
    refit: bool = False,
    retry: bool = False,
    command: str = "",
    progress: Progress | None = None,
    say: Say | None = None,
) -> dict[str, Any]:
    """Work a plan off, resuming whatever of it is in the store.

    Args:
        store: a store, or its folder (made where it is missing).
        models: opens a model by name; by default ``catalog.opening.opener`` with device, dtype and download.
        judge: a judge; the plan's by default.
        refit: fit defenses again even where fitted ones are at hand. retry: make rows again that ended as errors.
        command: as typed, for the record.
        progress: see ``Progress``; say: told in words what is fitted, reused or searched.

    Returns:
        The metrics, as the benchmark's ``measure`` writes them. ``run.errors`` counts rows that ended as errors;
        ``run.stages`` the seconds of each stage.

    Raises:
        UnknownName: the benchmark has no loop. What its stages raise.
    """
    from genward.run.measure import opened

    stages, store = stages_of(plan), opened(store, create=True)
    models = models or opener(device, dtype, download=download)
    judge = open_judge(plan.judge) if judge is None else judge
    spent = stages.generate(plan, store, models, refit=refit, retry=retry, progress=progress, say=say)
    generated = time.perf_counter()
    stages.judge(store, plan.name, judge, progress=progress)
    judged = time.perf_counter()
    found = stages.measure(
        store, plan.name, judge, command=command or results.command_line(), device=str(models(plan.model).device)
    )
    spent = {**spent, "judge": judged - generated, "measure": time.perf_counter() - judged}
    found["run"]["stages"] = {k: round(v, 3) for k, v in spent.items()}
    store.write_json(store.run_folder(plan.name) / "metrics.json", found)
    return found


def judge_again(store: Store, name: str, judge: Any = None, *, progress: Progress | None = None) -> dict[str, Any]:
    """Score a run's samples that the judge (the plan's by default) has not seen."""
    return stages_of(load_plan(store, name)).judge(store, name, judge, progress=progress)


def measure_again(
    store: Store, name: str, judge: Any = None, *, command: str = "", device: str = "cpu"
) -> dict[str, Any]:
    """Compute a run's metrics anew from what the store holds."""
    return stages_of(load_plan(store, name)).measure(store, name, judge, command=command, device=device)


def costs(plan: Plan, rate: float | None = None) -> Mapping[str, Any]:
    """What a run will cost before anything is spent, as ``plan.dry_run`` gives it."""
    return stages_of(plan).costs(plan, rate=rate)
