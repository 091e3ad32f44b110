"""The last stage of the benchmark ``guards``: the erasure loop's rows, pictures and scores, read as a guard's accuracy
and cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genward.run import measure as loop
from genward.run.claims import claims
from genward.run.judging import judge_hash, open_judge
from genward.run.plan import load_plan, plan_cases

if TYPE_CHECKING:
    from genward.store import Store


def measure_guards(
    store: Store | Path | str, name: str, judge: Any = None, *, command: str = "", device: str = "cpu"
) -> dict[str, Any]:
    """``measure.measure`` with the section ``guards``: cells of ``metrics.guarding.guard_cells``."""
    from genward.metrics.guarding import guard_cells, guard_pairs

    store = loop.opened(store)
    plan = load_plan(store, name)
    judge = open_judge(plan.judge) if judge is None else judge
    table = loop.measure(store, name, judge, command=command, device=device)
    arms: list[dict[str, Any]] = table["arms"]
    rows = loop.run_rows(store, plan, plan_cases(plan), arms)
    ids, by = {r["id"] for r in rows}, judge_hash(judge)
    scores = {(s["sample"], s["label"]): s["value"] for s in store.scores(by) if s["sample"] in ids}
    concepts: Mapping[str, Mapping[str, Any]] = loop.concept_tables(plan)
    base = loop.base_label(arms)
    shared: dict[str, Any] = {"arms": arms, "base": base, "concepts": concepts, "card": judge.card}
    table["guards"] = guard_cells(rows, scores, **shared)
    compare = loop.comparisons([str(a["label"]) for a in arms], base, plan.benchmark)
    table["pairs"] = [*table["pairs"], *guard_pairs(rows, scores, **shared, compare=compare)]
    table["claims"] = claims(table)["claims"]
    store.write_json(store.run_folder(name) / "metrics.json", table)
    return dict(store.read_json(store.run_folder(name) / "metrics.json"))
