"""The loop of each benchmark, by the plan's ``benchmark``: what the command line calls."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genward.errors import UnknownName
from genward.run.plan import Plan, load_plan

if TYPE_CHECKING:
    from genward.store import Store

LOOPS = ("erasure", "m-erasure", "guards")
"""Benchmarks that a plan can run."""


def _checked(plan: Plan) -> str:
    if plan.benchmark not in LOOPS:
        raise UnknownName("benchmark that a recipe can run", plan.benchmark, LOOPS)
    return plan.benchmark


def run_plan(plan: Plan, store: Store | Path | str, **settings: Any) -> dict[str, Any]:
    """Work a plan off; ``settings`` as ``measure.run_erasure`` takes them."""
    if _checked(plan) == "m-erasure":
        from genward.run.m_erasure import run_m_erasure

        return run_m_erasure(plan, store, **settings)
    if plan.benchmark == "guards":
        from genward.run.guards import run_guards

        return run_guards(plan, store, **settings)
    from genward.run.measure import run_erasure

    return run_erasure(plan, store, **settings)


def judge_again(store: Store, name: str, judge: Any = None, *, progress: Any = None) -> dict[str, Any]:
    """Score a run's samples that the judge has not seen."""
    if _checked(load_plan(store, name)) == "m-erasure":
        from genward.run.judging import open_judge
        from genward.run.m_erasure import judge_stage

        return judge_stage(store, name, judge or open_judge(load_plan(store, name).judge), progress=progress)
    from genward.run.measure import judge_run

    return judge_run(store, name, judge, progress=progress)


def measure_again(store: Store, name: str, judge: Any = None, *, command: str = "", device: str = "cpu") -> dict[str, Any]:
    """Compute a run's metrics anew from what the store holds."""
    if _checked(load_plan(store, name)) == "m-erasure":
        from genward.run.m_erasure import measure_stage

        return measure_stage(store, name, judge, command=command, device=device)
    if load_plan(store, name).benchmark == "guards":
        from genward.run.guards import measure_guards

        return measure_guards(store, name, judge, command=command, device=device)
    from genward.run.measure import measure

    return measure(store, name, judge, command=command, device=device)


def costs(plan: Plan, rate: float | None = None) -> Mapping[str, Any]:
    """What a run will cost before anything is spent, as ``plan.dry_run`` gives it."""
    if _checked(plan) == "m-erasure":
        from genward.run.m_erasure import dry_run as with_attacks

        return with_attacks(plan, rate)
    from genward.run.plan import dry_run

    return dry_run(plan, rate=rate)
