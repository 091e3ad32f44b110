"""The loop in one call: plan → search → generate → judge → measure. What the command line calls.

Each stage is written once, for every benchmark; it reads and writes the store and runs again alone: a new judge on old
pictures costs no generation, new statistics cost neither."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from genward.catalog.opening import Opener, opener
from genward.core.records import Case
from genward.core.settings import Family
from genward.errors import BadInput
from genward.run import results
from genward.run.generate import Progress, Say, Tally, describe, generate, prepare
from genward.run.given import keep
from genward.run.judging import judge_run, open_judge
from genward.run.masks import mask_strips
from genward.run.measure import keep_peaks, measure, opened, planned_ids, run_scenes
from genward.run.optional import fitted
from genward.run.outlook import expected, in_words
from genward.run.plan import Plan, match, planned, run_name, save_plan, setting_of, work
from genward.run.second import second_of
from genward.run.workbench import Bench, placed, search

if TYPE_CHECKING:
    from genward.store import Store


First = Callable[[dict[str, Any]], None]
"""``first(metrics)``: shown the figures of the rows that no search added"""


class Made(NamedTuple):
    """What the first stages did: rows made and found, and seconds of each."""

    tally: Tally
    seconds: dict[str, float]


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
    fresh: bool = False,
    command: str = "",
    search_again: bool = False,
    progress: Progress | None = None,
    say: Say | None = None,
    first: First | None = None,
) -> dict[str, Any]:
    """Work a plan off, resuming whatever of it is in the store.

    Args:
        store: a store, or its folder (made where it is missing).
        models: opens a model by name; by default ``catalog.opening.opener`` with device, dtype and download.
        judge: a judge; the plan's by default.
        refit: fit defenses again even where fitted ones are at hand. retry: make rows again that ended as errors.
        fresh: make every row of the run again, and score it again.
        search_again: search even where the store holds what this very search found.
        command: as typed, for the record.
        progress: see ``generate.Progress``; say: told in words what the run will take on this machine, what is fitted,
            reused or searched.
        first: shown the metrics of the benchmark's own rows as soon as they are judged, where a search follows.

    Returns:
        The metrics, as ``measure`` writes them. ``run.errors`` counts rows that ended as errors; ``run.stages`` the
        seconds of each stage.

    Raises:
        BadInput: model, judge and benchmark are about different media; nothing was spent. What its stages raise.
    """
    store = opened(store, create=True)
    models = models or opener(device, dtype, download=download)
    makes = plan.benchmark.media != "text"
    judge = open_judge(plan.judge) if judge is None and makes else judge
    if makes:  # before anything is spent
        for each in filter(None, (judge, second_of(plan, judge))):
            match(plan, each, lambda name: Family.of(models(name)))
    ahead = expected(plan := fitted(plan, models, store, say), models, store, judge=judge, refit=refit)
    if say is not None and makes:
        say(in_words(ahead))

    def early() -> None:
        judge_run(store, plan.name, judge, first=True, progress=progress)
        if first is not None:
            first(measure(store, plan.name, judge, first=True))

    again = {"refit": refit, "retry": retry, "fresh": fresh, "search_again": search_again}
    made = generate_run(plan, store, models, **again, progress=progress, say=say, early=early, judge=judge)
    told = {"command": command or results.command_line(), "rate": ahead["rows_per_second"]}
    told["device"] = str(models(plan.model).device) if makes else "cpu"
    return _figures(plan, store, judge, made, told, progress)


def _figures(
    plan: Plan, store: Store, judge: Any, made: Made, told: dict[str, Any], progress: Progress | None
) -> dict[str, Any]:
    """Judge what was made, measure, and write the metrics with the seconds of each stage."""
    generated = time.perf_counter()
    judge_run(store, plan.name, judge, progress=progress)
    judged = time.perf_counter()
    found = measure(store, plan.name, judge, **told)
    spent = {**made.seconds, "judge": judged - generated, "measure": time.perf_counter() - judged}
    found["run"]["stages"] = {k: round(v, 3) for k, v in spent.items()}
    store.write_json(store.run_folder(plan.name) / "metrics.json", found)
    return found


def generate_run(
    plan: Plan,
    store: Store,
    models: Opener,
    *,
    refit: bool = False,
    retry: bool = False,
    fresh: bool = False,
    search_again: bool = False,
    progress: Progress | None = None,
    say: Say | None = None,
    early: Callable[[], None] | None = None,
    judge: Any = None,
) -> Made:
    """The stages up to the pictures: write the plan, prepare the arms, make the benchmark's own rows, search, make what
    the search added. ``early`` is called between the two, where there is something to search; attacks that ask a judge
    ask ``judge``, the plan's by default.

    Writes ``plan.toml``, ``arms.json``, ``scenes.json`` and ``masks.json`` into the run's folder.
    """
    makes = plan.benchmark.media != "text"
    if makes and not any(a.control == "base" for a in plan.arms):
        raise BadInput('the plan has no arm with control = "base", which everything is measured against; add one')
    began = time.perf_counter()
    setting = setting_of(plan)
    rows = planned(plan, setting)
    folder = store.run_folder(plan.name)
    if save_plan(store, plan, rows) and say is not None:
        say(f"run {plan.name} is in the store with this plan; it is resumed")
    keep(store, plan)
    bound = prepare(plan, work(plan, rows.cases), models, store, refit=refit, progress=say)
    arms = describe(bound, plan.sampler)
    if fresh:
        store.forget(rows_of(store, plan, rows.cases, arms))
    store.write_json(folder / "arms.json", {"arms": arms})
    prepared = time.perf_counter()
    own = generate(plan, bound, models, store, retry=retry, progress=progress)
    if rows.parents and early is not None:
        early()
    texts = time.perf_counter()
    searched = search(Bench(plan, setting, bound, models, store, progress, say, search_again, judge), rows.parents)
    more = prepare(plan, searched.pieces, models, store)
    store.write_json(folder / "scenes.json", {"scenes": placed(searched.scenes, more)})
    attacked = time.perf_counter()
    rest = generate(plan, more, models, store, tensors=searched.tensors, retry=retry, progress=progress)
    tally = own.plus(rest)
    keep_peaks(store, plan.name, tally.peaks)
    grids = mask_strips(plan.benchmark, more, models, store, searched.tensors)
    store.write_json(folder / "masks.json", {"grids": grids})
    stages = {"prepare": prepared - began, "search": attacked - texts, "generate": tally.seconds}
    return Made(tally, {**stages, "made": tally.made, "there": tally.there})


def rows_of(store: Store, plan: Plan, cases: Sequence[Case], arms: Sequence[Mapping[str, Any]]) -> set[str]:
    """Ids of a run's rows: those of its plan, and of what its search added before where it came so far."""
    there = (store.run_folder(plan.name) / "scenes.json").is_file()
    scenes = run_scenes(store, plan.name) if there else []
    return {*planned_ids(plan, cases, arms), *(i for s in scenes for i in s["ids"])}


def named(plan: Plan, store: Store | None) -> Plan:
    """The plan under a name that its store has no other plan for, see ``plan.run_name``."""
    return replace(plan, name=run_name(store, plan, planned(plan)))
