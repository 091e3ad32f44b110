"""The arms of a run as a report names them: one row per label, however many fits stand behind it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

Metrics = Mapping[str, Any]
"""A run's ``metrics.json``: ``{"run": {…}, "arms": […], "judges": […], …}`` and what the benchmark measured."""


class Part(NamedTuple):
    """What an arm is made of; an arm that is fitted once per concept has several."""

    hash: str
    defenses: str
    spec: str
    prepare: float | None


@dataclass(frozen=True)
class Arm:
    """One row of every table: a chain of defenses, or a control."""

    label: str
    control: bool = False
    role: str = "defense"
    """``base`` | ``oracle`` | ``control`` | ``defense``"""
    parts: tuple[Part, ...] = ()


def arms(metrics: Metrics, named: Iterable[str] = ()) -> list[Arm]:
    """Arms in the order of the run, those of one label (one fit per concept) as one.

    Args:
        metrics: a run's metrics; ``arms`` is read.
        named: labels or hashes that the run's figures name; those that no arm has come last, as arms without parts.
    """
    found: dict[str, Arm] = {}
    for row in metrics["arms"]:
        label, mark = str(row.get("label") or row.get("hash") or "?"), str(row.get("hash") or "")
        control, prepare, spec = row.get("control", False), row.get("prepare_seconds"), row.get("spec")
        text = json.dumps(spec, indent=2, sort_keys=True, ensure_ascii=False) if spec else ""
        part = Part(
            mark, _chain(row.get("defenses")), text, float(prepare) if isinstance(prepare, (int, float)) else None
        )
        before = found.get(label, Arm(label, bool(control), _role(label, control, row.get("defenses"))))
        found[label] = replace(before, parts=(*before.parts, part))
    known = set(found) | {p.hash for a in found.values() for p in a.parts}
    return [*found.values(), *map(Arm, dict.fromkeys(name for name in named if name not in known))]


def _role(label: str, control: Any, defenses: Any) -> str:
    if not control:
        return "defense"
    text = control if isinstance(control, str) else label.lower()
    if "oracle" in text:
        return "oracle"
    return "base" if text in ("base", "none") or (not defenses and "zero" not in text) else "control"


def _chain(defenses: Any) -> str:
    if not defenses:
        return "none"
    parts: Sequence[Any] = defenses if isinstance(defenses, (list, tuple)) else [defenses]
    return " + ".join(str(p.get("name", p)) if isinstance(p, Mapping) else str(p) for p in parts)


def keys(arms: Iterable[Arm]) -> dict[str, Arm]:
    """Arms by hash and by label, as cells and strips may name them."""
    arms = list(arms)
    return {p.hash: a for a in arms for p in a.parts if p.hash} | {a.label: a for a in arms}
