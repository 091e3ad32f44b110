"""States of a model in files: rows of tensors in safetensors shards under one manifest, written in bounded memory.

::

    folder/
      manifest.json                    what is recorded (its plan), and the batches that are whole; renamed into place
      rows-00000-000.safetensors, …    rows of one batch of cases: state, case, step, timestep, conditional by name
      cases-00000.safetensors          what is known of the batch's cases as a whole: labels, final latents

A batch counts once the manifest names its files; what a killed recording left beside them is written anew. Every file
carries the digest of the plan, so a file of another recording is noticed, and its size stands in the manifest, so a
truncated one is as well."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genward.core.files import json_text
from genward.core.spec import digest
from genward.errors import BadArtifact, BadInput
from genward.ops.artifacts import write_all

MANIFEST = "manifest.json"
FORMAT = 1
BUDGET = 64 << 20
"""Bytes of rows that are held before a shard is written."""
PLAN = "plan"
"""Key of a shard's metadata."""


class Rows(NamedTuple):
    """States under one name; all tensors have a row each."""

    state: Tensor
    """(rows, …): (rows, tokens, channels), (rows, c, h, w) or (rows, numbers), in the dtype of their source"""
    case: Tensor
    """int64 (rows,): index of the case"""
    step: Tensor
    """int64 (rows,): 0-based step of the loop, -1 outside one"""
    timestep: Tensor
    """float32 (rows,): the scheduler's timestep, NaN at the text stage"""
    conditional: Tensor
    """bool (rows,): whether the row carries the prompt"""

    def take(self, rows: Tensor) -> Rows:
        return Rows(*(x[rows] for x in self))

    @property
    def bytes(self) -> int:
        return sum(x.numel() * x.element_size() for x in self)


def joined(parts: list[Rows]) -> Rows:
    """Rows under one another. Raises ``BadInput`` where their shapes differ."""
    shapes = {tuple(p.state.shape[1:]) for p in parts}
    if len(shapes) > 1:
        raise BadInput(f"states of {len(shapes)} shapes ({sorted(shapes)}) under one name; record pictures of one size")
    return Rows(*(torch.cat(each) for each in zip(*parts, strict=True)))


class Shards:
    """A folder of shards; without a folder everything stays in memory.

    Memory while writing: at most ``budget`` bytes of rows and one call's states wait; a shard that is written exists
    twice more for that moment (joined, and as bytes), so the peak is three times their sum.

    Args:
        plan: what is recorded, as JSON holds it; a folder of another plan is refused.

    Raises:
        BadInput: the folder holds something else. BadArtifact: its manifest cannot be read.
    """

    def __init__(self, folder: Path | None, plan: Mapping[str, Any], budget: int = BUDGET) -> None:
        if budget < 1:
            raise BadInput(f"a budget of {budget} bytes holds no row; give some megabytes")
        self.folder, self.budget, self.plan = folder, budget, dict(plan)
        self.digest = digest(self.plan, length=32)
        self.done: list[dict[str, Any]] = []
        self.peak = 0
        """Most bytes of rows that have waited at once"""
        self._waiting: dict[str, list[Rows]] = {}
        self._held = self._kept = 0
        self._files: list[dict[str, Any]] = []
        self._memory: list[tuple[dict[str, Rows], dict[str, Tensor]]] = []
        if folder is not None:
            self._take_up(folder)

    def _take_up(self, folder: Path) -> None:
        file = folder / MANIFEST
        if file.is_file():
            found = _manifest(file)
            if found.get("plan") != self.digest:
                raise BadInput(
                    f"{folder} holds a recording of another plan (model, cases, sampler or sites differ); name a new "
                    "folder, or delete it"
                )
            self.done = list(found["batches"])
            return
        if folder.is_dir() and any(p.name.startswith(("rows-", "cases-")) or p.is_dir() for p in folder.iterdir()):
            self._clear(folder)
        elif folder.is_dir() and any(folder.iterdir()):
            raise BadInput(f"{folder} is not empty and holds no recording; name a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        self._write_manifest()

    def _clear(self, folder: Path) -> None:
        strange = [p.name for p in folder.iterdir() if not p.name.startswith(("rows-", "cases-", "."))]
        if strange:
            raise BadInput(f"{folder} holds {strange[0]} beside shards and has no manifest; name a new folder")
        for path in folder.iterdir():
            path.unlink()

    # ---------------------------------------------------------------------------------------------------------- writing

    def put(self, name: str, rows: Rows) -> None:
        """Add rows of the batch that is being recorded; a shard is written once ``budget`` bytes wait."""
        if not len(rows.state):
            return
        self._waiting.setdefault(name, []).append(rows)
        self._held += rows.bytes
        self.peak = max(self.peak, self._held)
        if self.folder is not None and self._held >= self.budget:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        tensors: dict[str, Tensor] = {}
        for name in list(self._waiting):
            each = joined(self._waiting.pop(name))
            tensors |= {f"{name}/{field}": value.contiguous() for field, value in zip(Rows._fields, each, strict=True)}
        self._held = 0
        self._write(f"rows-{len(self.done):05d}-{len(self._files):03d}.safetensors", tensors)

    def _write(self, name: str, tensors: dict[str, Tensor]) -> None:
        from safetensors.torch import save

        assert self.folder is not None
        data = save(tensors, metadata={PLAN: self.digest})
        write_all({self.folder / name: data})
        self._files.append({"file": name, "bytes": len(data)})

    def commit(self, first: int, count: int, about: Mapping[str, Tensor]) -> None:
        """End a batch of ``count`` cases from ``first`` on; ``about``: tensors (count, …) on them."""
        wrong = [n for n, v in about.items() if len(v) != count]
        if wrong:
            raise BadInput(f"{wrong[0]} has {len(about[wrong[0]])} rows for {count} cases; one each is needed")
        kept = {name: value.detach().cpu().contiguous() for name, value in about.items()}
        if self.folder is None:
            self._memory.append(({n: joined(parts) for n, parts in self._waiting.items()}, kept))
            self._kept += self._held
            self._waiting, self._held = {}, 0
        else:
            self._flush()
            self._write(f"cases-{len(self.done):05d}.safetensors", {"case": torch.arange(first, first + count), **kept})
        self.done.append({"first": first, "count": count, "files": self._files})
        self._files = []
        if self.folder is not None:
            self._write_manifest()

    def drop(self) -> None:
        """Forget the batch that is being recorded."""
        self._waiting, self._held, self._files = {}, 0, []

    def _write_manifest(self) -> None:
        assert self.folder is not None
        data = {"format": FORMAT, "plan": self.digest, "about": self.plan, "batches": self.done}
        write_all({self.folder / MANIFEST: json_text(data).encode()})

    # ---------------------------------------------------------------------------------------------------------- reading

    @property
    def cases(self) -> int:
        """Cases that are recorded whole."""
        return sum(int(batch["count"]) for batch in self.done)

    @property
    def bytes(self) -> int:
        """Bytes of the batches that are whole, on disk or in memory."""
        return self._kept + sum(int(e["bytes"]) for batch in self.done for e in batch["files"])

    def stream(self, name: str) -> Iterator[Rows]:
        """Rows of a name, shard by shard; one shard is in memory at a time.

        Raises:
            BadArtifact: a shard is missing, truncated, or belongs to another recording.
        """
        if self.folder is None:
            yield from (rows[name] for rows, _ in self._memory if name in rows)
            return
        for entry in (e for batch in self.done for e in batch["files"] if str(e["file"]).startswith("rows-")):
            found = _read(self.folder, entry, self.digest, name + "/")
            if found:
                yield Rows(*(found[field] for field in Rows._fields))

    def about(self, name: str) -> Tensor:
        """(cases, …) what was said of the recorded cases under a name, in order.

        Raises:
            BadArtifact: as ``stream``, and where nothing was said under this name.
        """
        if self.folder is None:
            parts = [said[name] for _, said in self._memory if name in said]
        else:
            entries = (e for batch in self.done for e in batch["files"] if str(e["file"]).startswith("cases-"))
            read = (_read(self.folder, e, self.digest, name).get("") for e in entries)
            parts = [found for found in read if found is not None]
        if len(parts) != len(self.done) or not parts:
            raise BadArtifact(f"the recording says nothing of {name!r} for its cases; record it again")
        return torch.cat(parts)

    def verify(self) -> None:
        """Open every file of the recording. Raises ``BadArtifact`` for the first that is not whole."""
        if self.folder is not None:
            for entry in (e for batch in self.done for e in batch["files"]):
                _read(self.folder, entry, self.digest, "\0")

    def remove(self) -> None:
        """Delete the folder."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def _manifest(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8"))
        whole = found["format"] == FORMAT and isinstance(found["plan"], str)
        for batch in found["batches"]:
            whole &= isinstance(batch["first"], int) and isinstance(batch["count"], int)
            whole &= all(isinstance(e["bytes"], int) and Path(e["file"]).name == e["file"] for e in batch["files"])
        if not whole:
            raise ValueError("fields of another kind")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadArtifact(
            f"{file} is no recording's manifest ({type(error).__name__}: {str(error)[:80]}); delete the folder and "
            "record again"
        ) from error
    return dict(found)


def _read(folder: Path, entry: Mapping[str, Any], plan: str, prefix: str) -> dict[str, Tensor]:
    """Tensors of a file whose names begin with ``prefix``, by the rest of their names."""
    from safetensors import SafetensorError, safe_open

    file = folder / str(entry["file"])
    try:
        size = file.stat().st_size
        if size != entry["bytes"]:
            raise BadArtifact(
                f"{file} has {size:,} bytes, its manifest says {entry['bytes']:,}; it was cut short or exchanged: "
                "delete the folder and record again"
            )
        with safe_open(str(file), framework="pt") as opened:
            if (opened.metadata() or {}).get(PLAN) != plan:
                raise BadArtifact(f"{file} belongs to another recording; delete the folder and record again")
            return {n[len(prefix) :]: opened.get_tensor(n) for n in opened.keys() if n.startswith(prefix)}
    except (OSError, SafetensorError) as error:
        raise BadArtifact(
            f"{file} cannot be read ({type(error).__name__}: {str(error)[:80]}); delete the folder and record again"
        ) from error
