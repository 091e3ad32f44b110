"""Runs a tiny benchmark in forked children, kills them with SIGKILL at random moments, resumes, and compares with an
uninterrupted run.

Started by ``test_kill.py`` in a process of its own with one thread, so that forking is safe. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import genward.catalog.judges
from genward.benchmarks.erasure import ErasureBenchmark
from genward.benchmarks.guards import GuardsBenchmark
from genward.benchmarks.m_erasure import MErasureBenchmark
from genward.catalog.opening import words_of
from genward.core.records import Sampler
from genward.run.loop import run_plan
from genward.run.plan import ArmPlan, Plan
from genward.store import Store
from genward.testing import FakeJudge, tiny_sd

ARMS = (ArmPlan("base", control="base"), ArmPlan("uce", "uce:{concept}"))
ERASURE = Plan("tiny", ARMS, ErasureBenchmark(("banana",), n=2), batch=4, sampler=Sampler(steps=2, guidance=3.0))
ATTACKS = ("textual_inversion,steps=30,rows=1,heldout=1", "ddim_inversion,steps=2,batch=1")
M_ERASURE = MErasureBenchmark(("banana",), n=2, variants=("name",), attacks=ATTACKS)
GUARDING = (
    ArmPlan("base", control="base"),
    ArmPlan("filter", "image_filter:{concept}"),
    ArmPlan("aeiou", "aeiou:{concept},heads=2"),
)
LEARNING = (
    ArmPlan("base", control="base"),
    ArmPlan("esd", "esd:{concept},iterations=30,batch=2,sampling_steps=2"),
    ArmPlan("ablation", "concept_ablation:{concept},steps=30,batch=2,images=12,sampling_steps=2"),
)
PLANS = {
    "erasure": ERASURE,
    "m-erasure": replace(ERASURE, benchmark=M_ERASURE),
    "guards": replace(ERASURE, arms=GUARDING, benchmark=GuardsBenchmark(("weapons",), n=2), batch=9),
    "fits": replace(ERASURE, arms=LEARNING),
}
"""By name: rows of all kinds, attacks with them, guards of text and picture, and fits that take longer than the
rows."""
TIMES = ("seconds", "seconds_per_image", "prepare_seconds", "attack_seconds")


def child(work: Callable[[], None]) -> int:
    """Fork a child that does the work and ends without cleaning up; its process id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException as error:  # the parent reads the exit code
        print(f"child: {type(error).__name__}: {error}", file=sys.stderr)
        os._exit(1)


def outcome(store: Store) -> dict[str, Any]:
    """What must be equal: rows without times, scores, figures without times."""
    rows = [{k: v for k, v in row.items() if k not in TIMES} for row in store.samples()]
    scores = [[(s["sample"], s["label"], s["value"]) for s in store.scores(j)] for j in store.judges()]
    metrics = store.read_json("runs/tiny/metrics.json")
    cells = [*metrics["cells"], *metrics.get("guards", ())]
    return {"rows": rows, "scores": scores, "cells": [{k: v for k, v in c.items() if k not in TIMES} for c in cells]}


def doubles(store: Store) -> int:
    """Sample ids that stand in more than one part, or twice in one."""
    ids = [i for path in sorted((store.root / "samples").glob("part-*.parquet")) for i in store._ids(path)[0]]
    return len(ids) - len(set(ids))


def main(folder: Path, kills: int, lanes: int, benchmark: str) -> dict[str, Any]:
    words = words_of("lab")
    model, judge = tiny_sd(), FakeJudge(labels=(*words["things"], *words["styles"]))
    genward.catalog.judges.open_judge = lambda text: judge  # whom image_filter asks

    def run(root: Path) -> None:
        run_plan(PLANS[benchmark], Store(root), models=lambda name: model, judge=judge, command="test")

    run(folder / "warm")  # what loads lazily is loaded in every child
    began = time.monotonic()
    run(folder / "whole")
    whole = time.monotonic() - began
    wanted = outcome(Store(folder / "whole"))
    rng = random.Random(7)
    done = {"kills": 0, "late": 0, "different": 0, "doubles": 0, "problems": 0}
    lane_of: dict[int, int] = {}
    deadlines: dict[int, float] = {}

    def start(lane: int, *, last: bool = False) -> None:
        pid = child(lambda: run(folder / f"lane-{lane}"))
        lane_of[pid], deadlines[pid] = lane, float("inf") if last else time.monotonic() + rng.uniform(0.05, 1.1) * whole

    fresh = iter(range(10_000))
    for _ in range(lanes):
        start(next(fresh))
    while lane_of:
        time.sleep(0.005)
        for pid in list(lane_of):
            ended, _ = os.waitpid(pid, os.WNOHANG)
            if not ended and time.monotonic() < deadlines[pid]:
                continue
            lane = lane_of.pop(pid)
            if not ended:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                done["kills"] += 1
            else:
                done["late"] += 1
                store = Store(folder / f"lane-{lane}")
                done["different"] += outcome(store) != wanted
                done["doubles"] += doubles(store)
                done["problems"] += len(store.check())
            if done["kills"] < kills:
                start(lane if not ended else next(fresh))
            elif not ended:  # enough kills: let this lane end
                start(lane, last=True)
    return done


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])))
