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
    found = rows(metrics, "grids", ("images", "mimes", "status", "why", "judged"))
    return Section("pictures", title, tuple(strip(row, arms) for row in found))


def strip(row: Mapping[str, Any], arms: Sequence[Arm]) -> Strip:
    """One case under every arm.

    Args:
        row: ``{"concept", "variant", "prompt", "seed", "unsafe", "images": {arm: hash or None}, "status": {arm: …}}``,
            and ``"mimes": {arm: type}`` where the samples are no pictures; ``"judged": {arm: verdict}`` says what the
            judges see in each (``run.verdicts``), and whether it may show the concept; ``"why": {arm: reason}`` why one
            was refused or failed.
        arms: the run's arms; tiles follow their order, and what only the strip names comes last.
    """
    images: Mapping[str, Any] = row.get("images") or {}
    mimes: Mapping[str, Any] = row.get("mimes") or {}
    status: Mapping[str, Any] = row.get("status") or {}
    judged: Mapping[str, Any] = row.get("judged") or {}
    known = by_key(arms)
    names = list(dict.fromkeys([*images, *status]))
    order = {a.label: k for k, a in enumerate(arms)}
    names.sort(key=lambda key: order[known[key].label] if key in known else -1 if key == REFERENCE else len(order))
    base = next((images.get(key) for key in names if key in known and known[key].role == "base"), None)
    shots = []
    for key in names:
        arm, sha, state = known.get(key, Arm(key)), images.get(key), str(status.get(key, "ok"))
        if state != "ok" or not sha:
            why = str((row.get("why") or {}).get(key) or "")
            shots.append(Shot(arm.label, arm.role, status=state if state in STATUSES[1:] else "none", why=why))
            continue
        same = "same as base" if arm.role != "base" and sha == base else ""
        told = judged.get(key)
        word, may = said(told) if isinstance(told, Mapping) else ("", None)
        mime = str(mimes.get(key) or "image/png")
        shots.append(Shot(arm.label, arm.role, str(sha), mime, note=same, verdict=word, unsafe=may))
    concept, variant, prompt, seed = (str(row.get(key, "")) for key in ("concept", "variant", "prompt", "seed"))
    facets = (("concept", concept), ("prompt variant", variant))
    return Strip(prompt, seed, tuple(shots), facets, bool(row.get("unsafe", False)))


def said(told: Mapping[str, Any]) -> tuple[str, bool]:
    """A verdict in words, and whether the sample may show the concept; one that says nothing of it may."""
    label, value = str(told.get("label") or ""), told.get("value")
    number = f" ({value:.2f})" if isinstance(value, (int, float)) and not isinstance(value, bool) else ""
    shows, second = told.get("shows"), told.get("second")
    text = f"shows {label}{number}" if shows is True else f"no{number}" if shows is False else "cannot say"
    differs = isinstance(second, bool) and shows is not None and second != shows
    other = ("yes" if second else "no") if differs else ""
    return f"judge: {text}" + (f"; second: {other}" if other else ""), bool(told.get("may", True))
