"""Samples as rows: what a part holds of a sample, and the way back to its case."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from genward.core.files import plain
from genward.core.records import STATUSES, Case, Inputs, Sample
from genward.errors import BadInput

CASE = tuple("case" if name == "id" else name for name in Case._fields)
"""Column of each field of a case; its own id is the column ``case``, since ``id`` is the sample's."""
PURPOSES = ("fit", "calibrate", "evaluate")
"""What keys can be set aside for."""


def row_of(sample: Sample, sha: str) -> dict[str, Any]:
    """A sample as a row of its part; ``sha`` names its output, empty where there is none.

    Raises:
        BadInput: an unknown status, an ``ok`` sample without output, notes or costs that JSON cannot hold, a case that
            is no text.
    """
    if sample.status not in STATUSES:
        raise BadInput(f"sample {sample.case.id!r} has status {sample.status!r}; it is one of {', '.join(STATUSES)}")
    if sample.status == "ok" and sample.output is None:
        raise BadInput(f"sample {sample.case.id!r} is ok and has no output; give one, or status error with a reason")
    try:
        identity = sample.id
    except UnicodeEncodeError as error:
        raise BadInput(
            f"sample {ascii(sample.case.id)}: its case holds half of a surrogate pair ({error.reason}); it is not text"
        ) from error
    return dict(zip(CASE, sample.case, strict=True)) | {
        "id": identity,
        "arm": sample.arm,
        "status": sample.status,
        "why": sample.why,
        "output": sha,
        "mime": "" if sample.output is None else sample.output.mime,
        "inputs": json.dumps(dict(sample.case.inputs), ensure_ascii=False),
        "notes": json.dumps(plain(sample.notes), ensure_ascii=False, allow_nan=False),
        "seconds": float(sample.seconds),
        "costs": json.dumps(plain(sample.costs), ensure_ascii=False, allow_nan=False),
    }


def case_of(row: Mapping[str, Any]) -> Case:
    """The case of a sample's row, as ``Store.samples`` gives it or as its part holds it."""
    given = row["inputs"]
    inputs = Inputs(json.loads(given) if isinstance(given, str) else given)
    return Case(**{**{name: row[column] for name, column in zip(Case._fields, CASE, strict=True)}, "inputs": inputs})
