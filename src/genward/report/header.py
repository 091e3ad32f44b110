"""What was run, when, on what, at what speed: the page's header."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from genward.core.records import Sampler
from genward.sections.numbers import duration, short

USUAL = {f.name: f.default for f in dataclasses.fields(Sampler)}


def facts(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(word, value) in reading order; what is unknown is left out."""
    seconds = run.get("seconds")
    if not isinstance(seconds, (int, float)):
        seconds = run["minutes"] * 60 if isinstance(run.get("minutes"), (int, float)) else None
    rate = run.get("rows_per_second_measured") or run.get("rows_per_second")  # before the run, else during it
    known = isinstance(rate, (int, float)) and not isinstance(rate, bool) and rate > 0
    rows = [
        ("Benchmark", run.get("benchmark")),
        ("Model", run.get("model")),
        ("Sampler", sampler(run.get("sampler"))),
        ("Preset", run.get("preset")),
        ("Seed", run.get("seed")),
        ("Date", re.sub(r"(?<=\d)T(?=\d)", " ", flat(run.get("date")))),
        ("Device", run.get("device")),
        ("Machine", run.get("machine") or run.get("platform")),
        ("Denoiser speed", f"{short(float(rate))} rows/s" if known and rate is not None else None),
        ("Took", duration(seconds) if seconds is not None else None),
    ]
    return [(k, flat(v)) for k, v in rows if v not in (None, "", {}, [])]


def sampler(value: Any) -> str:
    """A sampler's settings in words, without those that stand at a default of nothing (``core.settings.stated``)."""
    if not isinstance(value, Mapping):
        return flat(value)
    return flat({k: v for k, v in value.items() if v or k not in USUAL or v != USUAL[k]})


def flat(value: Any) -> str:
    """A value of JSON as one line of text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {flat(v)}" for k, v in value.items() if v not in (None, ""))
    if isinstance(value, (list, tuple)):
        return ", ".join(map(flat, value))
    return "" if value is None else str(value)
