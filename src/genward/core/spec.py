"""Identity: whatever takes part in a run can be written down, hashed and rebuilt."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genward.core.origin import origin
from genward.core.reading import brief, short
from genward.errors import BadInput

PLUGIN = "plug-in"
"""Field of a spec that says where an outsider's part comes from; no field of a dataclass can be called so."""


def canonical(value: Any) -> str:
    """One JSON text for one meaning: sorted keys, no spaces, tuples as lists, dataclasses as objects; NaN and
    infinities refused."""

    def plain(v: Any) -> Any:
        if dataclasses.is_dataclass(v) and not isinstance(v, type):
            return {f.name: plain(getattr(v, f.name)) for f in dataclasses.fields(v)}
        if isinstance(v, Mapping):
            return {str(k): plain(x) for k, x in v.items()}
        if isinstance(v, (list, tuple)):
            return [plain(x) for x in v]
        if isinstance(v, (set, frozenset)):
            return sorted(plain(x) for x in v)
        if isinstance(v, float) and not math.isfinite(v):
            raise BadInput(f"a configuration value is {v}; only finite numbers can be written down")
        if v is None or isinstance(v, (str, int, float, bool)):
            return v
        raise BadInput(
            f"a configuration value of type {type(v).__name__} cannot be written down; use numbers, text, lists or "
            "tables"
        )

    try:
        text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        text.encode()
    except (RecursionError, ValueError, TypeError) as error:  # lists in lists, huge numbers, half surrogate pairs, sets
        raise BadInput(f"a configuration value {brief(value)} cannot be written down: {short(error)}") from None
    return text


def digest(value: Any, *, length: int = 16) -> str:
    """First ``length`` hex digits of the SHA-256 of ``canonical(value)``."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:length]


def named(record: Any) -> dict[str, Any]:
    """Name -> value of a record's fields that are not at their defaults; a field without a default is always there.

    Identity made of this does not change when a later version gives the record another field with a default.

    Args:
        record: a ``NamedTuple`` or an instance of a dataclass.
    """
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        found = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
        usual = {f.name: f.default for f in dataclasses.fields(record) if f.default is not dataclasses.MISSING} | {
            f.name: f.default_factory()
            for f in dataclasses.fields(record)
            if f.default_factory is not dataclasses.MISSING
        }
    else:
        found, usual = record._asdict(), record._field_defaults
    return {name: value for name, value in found.items() if name not in usual or not _same(value, usual[name])}


def _same(value: Any, usual: Any) -> bool:
    """Whether a field stands at its default. An object that cannot say so in one word, as a tensor, does not."""
    try:
        return bool(value == usual)
    except Exception:
        return False


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Spec:
    """A part of a run, written down: its room (``"defense"``), its name (``"uce"``) and its fields.

    Learned weights enter ``fields`` by content hash. Two specs with equal JSON are the same part.
    """

    kind: str
    name: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def hash(self) -> str:
        return digest(self.to_json())

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "name": self.name, "fields": json.loads(canonical(dict(self.fields)))}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Spec:
        try:
            return cls(str(raw["kind"]), str(raw["name"]), dict(raw["fields"]))
        except (KeyError, TypeError, ValueError, IndexError, RecursionError) as error:
            raise BadInput(f"not a spec: {brief(raw, 120)} lacks kind, name or fields") from error

    @classmethod
    def of(cls, kind: str, part: Any) -> Spec:
        """The spec of a plug-in object: a frozen dataclass with a class attribute ``name``.

        One of another distribution has a field ``plug-in`` besides its own, see ``core.origin``: with other code it is
        another part, and what the old code made is not taken for its work."""
        fields = {f.name: getattr(part, f.name) for f in dataclasses.fields(part) if f.metadata.get("identity", True)}
        fields = {k: v.hash if hasattr(v, "hash") and hasattr(v, "tensors") else v for k, v in fields.items()}
        theirs = origin(type(part))
        return cls(kind, type(part).name, {**fields, PLUGIN: theirs} if theirs else fields)
