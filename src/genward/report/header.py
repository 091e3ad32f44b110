"""What was run, when, on what, at what speed: the page's header."""

from __future__ import annotations

import dataclasses
import math
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
    rows = [
        ("Benchmark", run.get("benchmark")),
        ("Model", run.get("model")),
        ("Sampler", sampler(run.get("sampler"))),
        ("Preset", run.get("preset")),
        ("Seed", run.get("seed")),
        ("Date", re.sub(r"(?<=\d)T(?=\d)", " ", flat(run.get("date")))),
        ("Device", run.get("device")),
        ("Machine", run.get("machine") or run.get("platform")),
        ("Denoiser speed", speed(run)),
        ("Took", duration(seconds) if seconds is not None else None),
    ]
    return [(k, flat(v)) for k, v in rows if v not in (None, "", {}, [])]


def speed(run: Mapping[str, Any]) -> str | None:
    """Denoiser rows per second over the whole run, guards and decoding included; where that is not known, those of the
    two-second measurement that precedes a run."""
    for key, when in (("rows_per_second", "over the run"), ("rows_per_second_measured", "in a short test before it")):
        rate = run.get(key)
        if isinstance(rate, (int, float)) and not isinstance(rate, bool) and 0 < rate < math.inf:
            return f"{short(float(rate))} rows/s {when}"
    return None


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
