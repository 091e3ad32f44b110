"""Sample grids of a run: the same prompt and seed under every arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genward.core.blocks import STATUSES, Section, Shot, Strip
from genward.sections.arms import Arm, Metrics
from genward.sections.arms import keys as by_key
from genward.sections.cells import rows

REFERENCE = "reference"
"""Key of a sample that an attack started from; its tile comes first."""


def section(metrics: Metrics, arms: Sequence[Arm], title: str = "Pictures: same prompt, same seed") -> Section:
    """A strip for each of the metrics' ``grids``, in their order."""
    found = rows(metrics, "grids", ("images", "mimes", "status"))
    return Section("pictures", title, tuple(strip(row, arms) for row in found))


def strip(row: Mapping[str, Any], arms: Sequence[Arm]) -> Strip:
    """One case under every arm.

    Args:
        row: ``{"concept", "variant", "prompt", "seed", "unsafe", "images": {arm: hash or None}, "status": {arm: …}}``,
            and ``"mimes": {arm: type}`` where the samples are no pictures.
        arms: the run's arms; tiles follow their order, and what only the strip names comes last.
    """
    images: Mapping[str, Any] = row.get("images") or {}
    mimes: Mapping[str, Any] = row.get("mimes") or {}
    status: Mapping[str, Any] = row.get("status") or {}
    known = by_key(arms)
    names = list(dict.fromkeys([*images, *status]))
    order = {a.label: k for k, a in enumerate(arms)}
    names.sort(key=lambda key: order[known[key].label] if key in known else -1 if key == REFERENCE else len(order))
    base = next((images.get(key) for key in names if key in known and known[key].role == "base"), None)
    shots = []
    for key in names:
        arm, sha, state = known.get(key, Arm(key)), images.get(key), str(status.get(key, "ok"))
        if state != "ok" or not sha:
            shots.append(Shot(arm.label, arm.role, status=state if state in STATUSES[1:] else "none"))
            continue
        same = "same as base" if arm.role != "base" and sha == base else ""
        shots.append(Shot(arm.label, arm.role, str(sha), str(mimes.get(key) or "image/png"), note=same))
    concept, variant, prompt, seed = (str(row.get(key, "")) for key in ("concept", "variant", "prompt", "seed"))
    facets = (("concept", concept), ("prompt variant", variant))
    return Strip(prompt, seed, tuple(shots), facets, bool(row.get("unsafe", False)))
