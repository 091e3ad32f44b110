"""Judge: score the samples that a judge has not seen yet, and keep its features where it offers any. Costs no
generation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from genward.catalog.judges import judge_hash, judge_spec, open_judge
from genward.core.media import MEDIA
from genward.core.settings import matched
from genward.core.spec import digest
from genward.run.generate import Progress
from genward.run.given import load_plan
from genward.run.measure import opened, planned_ids, run_arms, run_scenes
from genward.run.plan import planned
from genward.run.second import second_of

if TYPE_CHECKING:
    from genward.store import Store

__all__ = ["Judged", "judge_hash", "judge_run", "judge_samples", "judge_spec", "open_judge"]


class Judged(NamedTuple):
    """What judging did: samples scored now, samples that were scored already, seconds."""

    scored: int
    there: int
    seconds: float


def judge_samples(
    store: Store,
    arms: Iterable[str],
    judge: Any,
    *,
    only: set[str] | None = None,
    again: bool = False,
    batch: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> Judged:
    """Score every sample of the arms that the judge has not scored; resumes after a kill, scores nothing twice.

    Args:
        arms: hashes.
        only: sample ids to look at; all of the arms' by default. again: forget what this judge said about them first.
        batch: samples read and scored at a time; the unit of writing.
        progress: ``progress(samples done, samples)``.

    Raises:
        BadInput: the judge needs other media than the samples are; nothing is judged then.
    """
    began = time.perf_counter()
    name = judge_hash(judge)
    rows = [r for r in store.samples(set(arms)) if only is None or r["id"] in only]
    for mime in sorted({r["mime"] for r in rows} - {""}):
        matched(MEDIA[mime].kind, "of these samples", judges=[judge])
    if again:
        store.forget({r["id"] for r in rows}, name)
    seen = store.judged(name)
    if hasattr(judge, "features"):
        seen &= set(store.features(name)) | {r["id"] for r in rows if not r["output"]}
    todo = [r for r in rows if r["id"] not in seen]
    there = len(rows) - len(todo)
    for k in range(0, len(todo), batch):
        if progress is not None:
            progress(there + k, len(rows))
        _judge_batch(store, name, judge, [store.load(row) for row in todo[k : k + batch]])
    if progress is not None:
        progress(len(rows), len(rows))
    return Judged(len(todo), there, time.perf_counter() - began)


def _judge_batch(store: Store, name: str, judge: Any, samples: Sequence[Any]) -> None:
    key = digest([s.id for s in samples])
    shown = [s for s in samples if s.output is not None]
    if shown and hasattr(judge, "features"):
        store.put_features(name, {s.id: vector for s, vector in zip(shown, judge.features(shown), strict=True)}, key)
    store.put_scores(name, judge.judge(samples), card=judge.card, key=key, spec=judge_spec(judge).to_json())


def judge_run(
    store: Store | Path | str,
    name: str,
    judge: Any = None,
    *,
    first: bool = False,
    again: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score a run's samples that the judge (the plan's by default) has not seen, with ``again`` all of them anew; with
    ``first`` those of its own rows alone, before a search adds others. Returns ``{"judge", "hash", "scored",
    "there", "second", "seconds"}``; nothing is scored where the benchmark makes nothing. The run's second judge scores
    them too; ``second`` is its hash, empty where there is none."""
    store = opened(store)
    plan = load_plan(store, name)
    if plan.benchmark.media == "text":
        return {"judge": "", "hash": "", "second": "", **Judged(0, 0, 0.0)._asdict()}
    judge = open_judge(judge or plan.judge) if judge is None or isinstance(judge, str) else judge
    arms, scenes = run_arms(store, name), [] if first else run_scenes(store, name)
    only = set(planned_ids(plan, planned(plan).cases, arms)) | {i for s in scenes for i in s["ids"]}
    hashes = {h for row in arms for h in row["hashes"].values()} | {s["hash"] for s in scenes if s["hash"]}
    second = second_of(plan, judge)

    def judged(by: Any) -> Judged:
        about = f"{type(by).name}, then {'searches' if first else 'figures'}"
        told = None if progress is None else lambda done, total: progress("judge", done, total, about)
        return judge_samples(store, hashes, by, only=only, again=again, progress=told)

    done = judged(judge)
    if second is not None:
        judged(second)
    by = {"judge": type(judge).name, "hash": judge_hash(judge), "second": judge_hash(second) if second else ""}
    return {**by, **done._asdict()}
