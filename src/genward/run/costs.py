"""What a whole run costs, counted before anything is spent; ``outlook`` has what is left of one on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from genward.catalog import plugins
from genward.catalog.fitting import extra_nfe
from genward.catalog.opening import family_of
from genward.core.settings import changed, summed
from genward.run.plan import Plan, batches, match, planned, setting_of, work

SURROGATE = "(black-box surrogate)"


def dry_run(plan: Plan) -> dict[str, Any]:
    """The rows of a whole run, counted from its plan alone: no model is opened, nothing in a store is looked at.

    Returns:
        ``rows`` (samples), what they cost together under each name of ``costs`` (``nfe``: denoiser rows), ``cells`` of
        the matrix, ``batches``, and the same figures by arm. Every arm is counted as searched by itself, the surrogate
        once; fits are not in it.

    Raises:
        BadInput: model, judge and benchmark are about different media.
    """
    if plan.benchmark.media != "text":
        match(plan, plugins.find("judge", plugins.parts("judge", plan.judge)[0]), family_of)
    setting = setting_of(plan)
    rows = planned(plan, setting)
    pieces = work(plan, rows.cases)
    arms: dict[str, Line] = {}
    for piece in pieces:
        line = arms.setdefault(piece.label, Line(piece.label))
        line.defenses.append(piece.defenses)
        line.add(len(piece.cases), plan.sampler.costs(extra_nfe(piece.defenses)))
    for piece in work(plan, rows.parents):
        outlook, line = plan.benchmark.outlook(piece.cases, setting, piece.label), arms[piece.label]
        line.add(0, {}, {"nfe": outlook.nfe} if outlook.nfe else {})
        extra = extra_nfe(piece.defenses)
        for count, guidance in outlook.rows:
            line.add(count, changed(plan.sampler, plan.model, guidance=guidance).costs(extra))
    if rows.parents:
        outlook = plan.benchmark.outlook(rows.parents, setting)
        surrogate = outlook.nfe if outlook.shared is None else outlook.shared
        arms["(surrogate)"] = Line(SURROGATE, ["none"], costs={"nfe": surrogate})
    total = {name: round(value) for name, value in summed(line.costs for line in arms.values()).items()}
    columns = plan.benchmark.harm_columns(setting)
    harm = {(w.label, c.concept, c.variant) for w in pieces for c in w.cases if c.label == "harm"}
    return {
        "plan": plan.name,
        "rows": sum(line.rows for line in arms.values()),
        **total,
        "costs": list(total),
        "batches": len(batches(plan, pieces)),
        "cells": len(plan.arms) * len(plan.concepts) * len(columns) if columns else len(harm),
        "arms": [line.table() for line in arms.values()],
    }


@dataclass
class Line:
    """One arm of a dry run."""

    label: str
    defenses: list[str] = field(default_factory=list)
    rows: int = 0
    costs: dict[str, float] = field(default_factory=dict)

    def add(self, rows: int, each: Mapping[str, float], once: Mapping[str, float] = {}) -> None:  # noqa: B006
        """Count rows that cost ``each``, and what is spent ``once``."""
        self.rows += rows
        self.costs = summed([self.costs, summed([each], rows), once])

    def table(self) -> dict[str, Any]:
        """The arm as JSON, its costs under their names."""
        costs = {name: round(value) for name, value in self.costs.items()}
        return {"arm": self.label, "defenses": self.defenses, "rows": self.rows, **costs}
