"""What a guard counts for a monitor: rows, failures, seconds and scores, in Prometheus' text format.

``Metrics`` is a hook of ``genward.protect(..., metrics=...)``; any other callable that takes the records of a call will
do, one that feeds ``prometheus_client``, say. Records hold no prompt and nothing that quotes one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any

Record = Mapping[str, Any]
Hook = Callable[[Sequence[Record]], object]
"""Told the records of a call (as in the audit, without texts), after they were written and before anything is
released"""
SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SCORES = (-10.0, -5.0, -2.0, -1.0, -0.5, 0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 2.0, 5.0, 10.0)
HELP = {
    "genward_rows_total": "Rows by what became of them.",
    "genward_failed_rows_total": "Rows that were refused because a guard did not do its work.",
    "genward_call_seconds": "Seconds of guarded calls.",
    "genward_guard_score": "The score of each guard on each row.",
}


class Histogram:
    """Counts of values up to each bound, their number and their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts, self.count, self.sum = tuple(bounds), [0] * len(bounds), 0, 0.0

    def add(self, value: float) -> None:
        self.count += 1
        self.sum += value
        for k, bound in enumerate(self.bounds):
            self.counts[k] += value <= bound


class Metrics:
    """Counters and histograms of the guards that it is a hook of; safe among threads.

    Args:
        seconds, scores: upper bounds of the histograms' bins, ascending.
    """

    def __init__(self, seconds: Sequence[float] = SECONDS, scores: Sequence[float] = SCORES) -> None:
        self._bounds = {"genward_call_seconds": tuple(seconds), "genward_guard_score": tuple(scores)}
        self._counters: dict[tuple[str, tuple[tuple[str, str], ...]], int] = {}
        self._histograms: dict[tuple[str, tuple[tuple[str, str], ...]], Histogram] = {}
        self._lock = Lock()

    def __call__(self, records: Sequence[Record]) -> None:
        """Count the records of one call."""
        with self._lock:
            for record in records:
                about = {key: str(record.get(key, "")) for key in ("policy", "action", "by", "category")}
                self._count("genward_rows_total", about)
                if record.get("failed"):
                    self._count("genward_failed_rows_total", {key: about[key] for key in ("policy", "by")})
                for guard, score in dict(record.get("scores") or {}).items():
                    if score is not None and math.isfinite(score):
                        self._add("genward_guard_score", {"policy": about["policy"], "guard": guard}, float(score))
            if records:
                about = {"policy": str(records[0].get("policy", ""))}
                self._add("genward_call_seconds", about, float(records[0].get("milliseconds", 0.0)) / 1000)

    def _count(self, name: str, labels: Mapping[str, str]) -> None:
        key = (name, tuple(labels.items()))
        self._counters[key] = self._counters.get(key, 0) + 1

    def _add(self, name: str, labels: Mapping[str, str], value: float) -> None:
        self._histograms.setdefault((name, tuple(labels.items())), Histogram(self._bounds[name])).add(value)

    def text(self) -> str:
        """Everything so far in Prometheus' text exposition format 0.0.4, for ``GET /metrics``."""
        with self._lock:
            counters, histograms = dict(self._counters), dict(self._histograms)
            lines: list[str] = []
            for name, help_text in HELP.items():
                kind = "histogram" if name in self._bounds else "counter"
                lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
                lines += [f"{name}{labelled(ls)} {n}" for (own, ls), n in counters.items() if own == name]
                for (own, ls), found in histograms.items():
                    lines += _lines(name, ls, found) if own == name else []
        return "\n".join(lines) + "\n"


def _lines(name: str, labels: tuple[tuple[str, str], ...], found: Histogram) -> list[str]:
    steps = [
        f"{name}_bucket{labelled((*labels, ('le', f'{bound:g}')))} {count}"
        for bound, count in zip(found.bounds, found.counts, strict=True)
    ]
    return [
        *steps,
        f"{name}_bucket{labelled((*labels, ('le', '+Inf')))} {found.count}",
        f"{name}_sum{labelled(labels)} {found.sum:.9g}",
        f"{name}_count{labelled(labels)} {found.count}",
    ]


def labelled(labels: Sequence[tuple[str, str]]) -> str:
    """``{policy="weapons"}``, with backslashes, quotes and line ends escaped."""
    if not labels:
        return ""

    def escaped(value: str) -> str:
        return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

    return "{" + ",".join(f'{key}="{escaped(value)}"' for key, value in labels) + "}"
