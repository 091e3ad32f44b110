"""The stages of the benchmark ``erasure``, up to ``runs/<name>/metrics.json``; ``run.loop`` puts them together.

Between stages stand ``plan.toml`` (what was planned) and ``arms.json`` (which arm each label became) in the run's
folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genward.catalog.opening import Opener
from genward.core.records import Case, Sample, load_concept
from genward.core.settings import stated
from genward.errors import BadInput, StoreError
from genward.run import results
from genward.run.claims import claims, load_claims
from genward.run.generate import Tally, describe, generate, prepare
from genward.run.judging import judge_hash, judge_samples, open_judge
from genward.run.plan import Plan, load_plan, plan_cases, save_plan, work

if TYPE_CHECKING:
    from genward.store import Store

Progress = Callable[[str, int, int], None]
"""``progress(stage, done, total)`` with stage ``generate`` or ``judge``"""
Say = Callable[[str], None]
Arms = Sequence[Mapping[str, Any]]

GRIDS = 2
"""Picture strips a concept and wording."""


# -------------------------------------------------------------------------------------------------------- rows of a run


def arm_of(row: Mapping[str, Any], concept: str) -> str:
    """Hash of the arm under a label that sees a concept's rows; ``""`` where none does."""
    hashes: Mapping[str, str] = row["hashes"]
    return hashes.get(concept) or hashes.get("*", "")


def planned_ids(plan: Plan, cases: Sequence[Case], arms: Arms) -> dict[str, Case]:
    """Sample id -> case of every row of the run, each once."""
    served = {a.label: {load_concept(c).name for c in (a.concepts or plan.concepts)} for a in plan.arms}
    found: dict[str, Case] = {}
    for row in arms:
        for case in cases:
            if case.concept in served[row["label"]]:
                found[Sample(case, arm_of(row, case.concept)).id] = case
    return found


def run_rows(store: Store, plan: Plan, cases: Sequence[Case], arms: Arms) -> list[dict[str, Any]]:
    """The store's sample rows of a run. ``StoreError`` where planned rows are missing."""
    wanted = planned_ids(plan, cases, arms)
    hashes = {h for row in arms for h in row["hashes"].values()}
    rows = [r for r in store.samples(hashes) if r["id"] in wanted]
    lost = len(wanted) - len(rows)
    if lost:
        raise StoreError(
            f"run {plan.name!r}: {lost} of {len(wanted)} planned rows are not in {store.root}; give the same run "
            "command again, it resumes"
        )
    return rows


def concept_tables(plan: Plan) -> dict[str, dict[str, Any]]:
    """Concept name -> kind, judge labels, content hash."""
    found = (load_concept(c) for c in plan.concepts)
    return {c.name: {"kind": c.kind, "labels": list(c.judge or c.targets), "hash": c.hash} for c in found}


# ------------------------------------------------------------------------------------------------------------ the table


def comparisons(labels: Sequence[str], base: str, benchmark: str = "erasure") -> list[tuple[str, str]]:
    """Pairs of arms that are compared on equal rows: each with the base, and those that the benchmark's claims name."""
    asked = [(label, base) for label in labels if label != base]
    for claim in (c for c in load_claims() if c.benchmark == benchmark):
        asked += [(claim.arm, claim.versus)] if claim.versus else []
        asked += list(zip(claim.arms, claim.arms[1:], strict=False))
    return [pair for pair in dict.fromkeys(asked) if set(pair) <= set(labels)]


def grids(
    plan: Plan, cases: Sequence[Case], arms: Arms, rows: Sequence[Mapping[str, Any]], each: int = GRIDS
) -> list[dict[str, Any]]:
    """Pictures of one case under every arm, ``each`` cases a concept and wording, spread over its rows."""
    by_id = {r["id"]: r for r in rows}
    groups: dict[tuple[str, str], list[Case]] = {}
    for case in cases:
        groups.setdefault((case.concept, case.variant), []).append(case)
    out = []
    for (concept, variant), members in groups.items():
        step = max(1, len(members) // each)
        for case in members[::step][:each]:
            found = {str(a["label"]): by_id.get(Sample(case, arm_of(a, concept)).id) for a in arms}
            there = {label: row for label, row in found.items() if row is not None}
            out.append(
                {
                    "concept": concept,
                    "variant": variant,
                    "prompt": case.prompt,
                    "seed": case.seed,
                    "unsafe": case.label == "harm",
                    "images": {label: row["output"] or None for label, row in there.items()},
                    "status": {label: row["status"] for label, row in there.items()},
                }
            )
    return out


def zero_check(plan: Plan, cases: Sequence[Case], arms: Arms, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many pictures of the zero-strength arm are the base arm's bit for bit."""
    images = {r["id"]: r["output"] for r in rows}
    control = {a["control"]: a for a in arms if a["control"]}
    if not {"base", "zero"} <= set(control):
        return {}
    pairs = [
        (
            images.get(Sample(c, arm_of(control["zero"], c.concept)).id),
            images.get(Sample(c, arm_of(control["base"], c.concept)).id),
        )
        for c in cases
    ]
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    return {"rows": len(both), "equal": sum(a == b for a, b in both)}


def judge_table(judge: Any) -> dict[str, Any]:
    """A judge as it stands in the metrics: name, hash and its card."""
    card = judge.card
    shown = (
        {}
        if card is None
        else {
            "summary": card.summary,
            "labels": {k: dict(v) for k, v in card.labels.items()},
            "facts": dict(card.facts),
        }
    )
    return {"name": type(judge).name, "hash": judge_hash(judge), "labels": {}, **shown}


def run_table(
    plan: Plan, cases: Sequence[Case], arms: Arms, rows: Sequence[Mapping[str, Any]], command: str, device: str
) -> dict[str, Any]:
    """The ``run`` section: what ran, on what, at what cost."""
    seconds, nfe = sum(r["seconds"] for r in rows), sum(r["costs"].get("nfe", 0) for r in rows)
    return {
        "name": plan.name,
        "benchmark": plan.benchmark,
        "model": plan.model,
        "preset": plan.preset,
        "seed": plan.seed,
        "n": plan.n,
        "batch": plan.batch,
        "plan": plan.hash,
        "sampler": stated(plan.sampler),
        "concepts": concept_tables(plan),
        **results.provenance(command, device),
        "seconds": seconds,
        "nfe": nfe,
        "rows_per_second": nfe / seconds if seconds > 0 else math.nan,
        "rows": len(rows),
        "refused": sum(r["status"] == "refused" for r in rows),
        "errors": sum(r["status"] == "error" for r in rows),
        "zero": zero_check(plan, cases, arms, rows),
    }


def measure(
    store: Store | Path | str, name: str, judge: Any = None, *, command: str = "", device: str = "cpu"
) -> dict[str, Any]:
    """Compute a finished run's metrics and write them to ``runs/<name>/metrics.json``.

    Args:
        judge: the judge whose scores are used; the plan's by default.
        command, device: for the record.

    Returns:
        ``{"schema", "run", "arms", "cells", "pairs", "judges", "grids", "claims"}``

    Raises:
        StoreError: no such run, planned rows missing, or not judged by this judge yet.
    """
    from genward.metrics import erasure

    store = opened(store)
    plan = load_plan(store, name)
    judge = open_judge(plan.judge) if judge is None else judge
    arms: list[dict[str, Any]] = store.read_json(store.run_folder(name) / "arms.json")["arms"]
    cases = plan_cases(plan)
    rows = run_rows(store, plan, cases, arms)
    ids, by = {r["id"] for r in rows}, judge_hash(judge)
    unseen = ids - store.judged(by)
    if unseen:
        raise StoreError(
            f"run {name!r}: judge {type(judge).name!r} has not seen {len(unseen)} of {len(ids)} samples; judge them "
            f"first (genward judge {name})"
        )
    concepts = concept_tables(plan)
    scores = {(s["sample"], s["label"]): s["value"] for s in store.scores(by) if s["sample"] in ids}
    features = {k: v for k, v in store.features(by).items() if k in ids}
    base = base_label(arms)
    shared: dict[str, Any] = {"arms": arms, "base": base, "concepts": concepts, "card": judge.card}
    table: dict[str, Any] = {
        "schema": 1,
        "run": run_table(plan, cases, arms, rows, command, device),
        "arms": arms,
        "cells": erasure.cells(
            rows, scores, features, **shared, prepare={h: a["prepare"][k] for a in arms for k, h in a["hashes"].items()}
        ),
        "pairs": erasure.pairs(rows, scores, features, **shared, compare=comparisons([a["label"] for a in arms], base)),
        "judges": [judge_table(judge)],
        "grids": grids(plan, cases, arms, rows),
    }
    table["claims"] = claims(table)["claims"]
    store.write_json(store.run_folder(name) / "metrics.json", table)
    return dict(store.read_json(store.run_folder(name) / "metrics.json"))


def opened(store: Store | Path | str, create: bool = False) -> Store:
    """A store, opened where its folder was given."""
    from genward.store import Store as Opened

    return Opened(store, create=create) if isinstance(store, (str, Path)) else store


def base_label(arms: Arms) -> str:
    """Label of the undefended arm. ``BadInput`` where the plan has none."""
    found = [str(a["label"]) for a in arms if a["control"] == "base"]
    if not found:
        raise BadInput('the plan has no arm with control = "base", which everything is measured against; add one')
    return found[0]


# ----------------------------------------------------------------------------------------------------- stages, in order


def generate_run(
    plan: Plan,
    store: Store,
    models: Opener,
    *,
    refit: bool = False,
    retry: bool = False,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Tally:
    """Stage 1: write the plan, prepare the arms, write ``arms.json``, make what is missing."""
    base_label([{"label": a.label, "control": a.control} for a in plan.arms])
    cases = plan_cases(plan)
    save_plan(store, plan, cases)
    bound = prepare(plan, work(plan, cases), models, store, refit=refit, progress=say)
    store.write_json(store.run_folder(plan.name) / "arms.json", {"arms": describe(bound, plan.sampler)})
    told = None if progress is None else lambda done, total: progress("generate", done, total)
    return generate(plan, bound, models, store, retry=retry, progress=told)


def judge_run(
    store: Store | Path | str, name: str, judge: Any = None, *, progress: Progress | None = None
) -> dict[str, Any]:
    """Stage 2: score a run's samples that the judge has not seen. Returns ``{"judge", "hash", "scored", "there",
    "seconds"}``."""
    store = opened(store)
    plan = load_plan(store, name)
    judge = open_judge(judge or plan.judge) if judge is None or isinstance(judge, str) else judge
    arms: list[dict[str, Any]] = store.read_json(store.run_folder(name) / "arms.json")["arms"]
    hashes = {h for row in arms for h in row["hashes"].values()}
    told = None if progress is None else lambda done, total: progress("judge", done, total)
    done = judge_samples(store, hashes, judge, only=set(planned_ids(plan, plan_cases(plan), arms)), progress=told)
    return {"judge": type(judge).name, "hash": judge_hash(judge), **done._asdict()}
