"""The loop of the benchmark ``guards``: the erasure loop's rows, pictures and scores, read as a guard's accuracy and cost."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genward.run import measure as loop
from genward.run import results
from genward.run.judging import judge_hash, open_judge
from genward.run.models import Opener, opener
from genward.run.plan import Plan, load_plan, plan_cases

if TYPE_CHECKING:
    from genward.store import Store


def measure_guards(store: Store | Path | str, name: str, judge: Any = None, *, command: str = "", device: str = "cpu") -> dict[str, Any]:
    """``measure.measure`` with the section ``guards``: cells of ``metrics.guarding.guard_cells``."""
    from genward.metrics.guarding import guard_cells

    store = loop.opened(store)
    plan = load_plan(store, name)
    judge = open_judge(plan.judge) if judge is None else judge
    table = loop.measure(store, name, judge, command=command, device=device)
    arms: list[dict[str, Any]] = table["arms"]
    rows = loop.run_rows(store, plan, plan_cases(plan), arms)
    ids, by = {r["id"] for r in rows}, judge_hash(judge)
    scores = {(s["sample"], s["label"]): s["value"] for s in store.scores(by) if s["sample"] in ids}
    concepts: Mapping[str, Mapping[str, Any]] = loop.concept_tables(plan)
    table["guards"] = guard_cells(rows, scores, arms=arms, base=loop.base_label(arms), concepts=concepts, card=judge.card)
    store.write_json(store.run_folder(name) / "metrics.json", table)
    return dict(store.read_json(store.run_folder(name) / "metrics.json"))


def run_guards(
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
    progress: loop.Progress | None = None,
    say: loop.Say | None = None,
) -> dict[str, Any]:
    """The whole loop; arguments as ``measure.run_erasure``, the result with ``guards`` besides."""
    store = loop.opened(store, create=True)
    models = models or opener(device, dtype, download=download)
    judge = open_judge(plan.judge) if judge is None else judge
    began = time.perf_counter()
    made = loop.generate_run(plan, store, models, refit=refit, retry=retry, progress=progress, say=say)
    loop.judge_run(store, plan.name, judge, progress=progress)
    found = measure_guards(store, plan.name, judge, command=command or results.command_line(), device=str(models(plan.model).device))
    found["run"]["stages"] = {"all": round(time.perf_counter() - began, 3), "made": made.made, "there": made.there}
    store.write_json(store.run_folder(plan.name) / "metrics.json", found)
    return found
