"""What a run will cost, before anything is spent."""

from __future__ import annotations

from typing import Any

from genward.catalog.fitting import extra_nfe
from genward.run.plan import Plan, batches, planned, setting_of, work

ROWS_PER_SECOND = 200.0
"""Denoiser rows a second of the lab on two CPU cores: what a dry run assumes until a rate was measured."""
SURROGATE = "(black-box surrogate)"


def nfe_per_image(plan: Plan, extra: float = 0.0) -> float:
    """Denoiser rows one image costs: steps × (2 under guidance, else 1) + ``extra`` a step."""
    return plan.sampler.steps * ((2 if plan.sampler.guidance > 1 else 1) + extra)


def dry_run(plan: Plan, rate: float | None = None) -> dict[str, Any]:
    """What a run will cost, before anything is spent.

    Args:
        rate: denoiser rows per second; a measured one, or the recorded 200 of the lab on two CPU cores.

    Returns:
        ``rows`` (pictures), ``nfe`` (denoiser rows), ``minutes`` of sampling, ``rate``, ``cells`` of the matrix and
        the same figures by arm; time to fit defenses is not in it. Every arm is counted as searched by itself, the
        surrogate once more.
    """
    setting = setting_of(plan)
    rows = planned(plan, setting)
    pieces = work(plan, rows.cases)
    speed = rate or ROWS_PER_SECOND
    arms: dict[str, dict[str, Any]] = {}
    for piece in pieces:
        line = arms.setdefault(piece.label, {"arm": piece.label, "defenses": [], "rows": 0, "nfe": 0})
        line["defenses"].append(piece.defenses)
        line["rows"] += len(piece.cases)
        line["nfe"] += round(len(piece.cases) * nfe_per_image(plan, extra_nfe(piece.defenses)))
    for piece in work(plan, rows.parents):
        outlook, line = plan.benchmark.outlook(piece.cases, setting), arms[piece.label]
        line["rows"] += sum(count for count, _ in outlook.rows)
        line["nfe"] += outlook.nfe
        for count, guidance in outlook.rows:
            line["nfe"] += count * plan.sampler.steps * (2 if (guidance or plan.sampler.guidance) > 1 else 1)
    if rows.parents:
        surrogate = plan.benchmark.outlook(rows.parents, setting).nfe
        arms["(surrogate)"] = {"arm": SURROGATE, "defenses": ["none"], "rows": 0, "nfe": surrogate}
    pictures, nfe = sum(a["rows"] for a in arms.values()), sum(a["nfe"] for a in arms.values())
    columns = plan.benchmark.harm_columns(setting)
    harm = {(w.label, c.concept, c.variant) for w in pieces for c in w.cases if c.label == "harm"}
    return {
        "plan": plan.name,
        "rows": pictures,
        "nfe": nfe,
        "minutes": round(nfe / speed / 60, 1),
        "rate": speed,
        "batches": len(batches(plan, pieces)),
        "cells": len(plan.arms) * len(plan.concepts) * len(columns) if columns else len(harm),
        "arms": list(arms.values()),
    }


def measured_rate(model: Any, rows: int = 32) -> float:
    """Denoiser rows a second of ``model`` on this machine, from two calls of ``rows`` rows (the first warms up)."""
    import time

    import torch

    from genward.core.records import Call

    edge, channels = model.unet.config.sample_size, model.unet.config.in_channels
    text = model.encode(["a cat"]).expand(rows, -1, -1)
    call = Call(
        torch.zeros(rows, channels, edge, edge, dtype=text.dtype, device=text.device),
        torch.full((rows,), 500, device=text.device),
        text,
    )
    began = 0.0
    with torch.no_grad():
        for _ in range(2):
            began = time.perf_counter()
            model.denoise(call)
    return rows / max(1e-9, time.perf_counter() - began)
