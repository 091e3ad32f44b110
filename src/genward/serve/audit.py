"""Audit records: one JSON line a row that a guard looked at, appended whole or not at all.

By default a record holds a hash of the prompt and no text that could hold the prompt (no reasons, no tokens):
``prompts=True`` puts them in. A plain hash of a short prompt can be guessed by trying prompts; with ``key`` it is a
keyed one (HMAC-SHA-256), which only the owner of the key can check."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genward.core.files import finite
from genward.errors import BadInput, StoreError

TEXTS = ("prompt", "negative", "drawn")
"""Fields that are recorded by their hash."""
TELLING = (*TEXTS, "why", "tokens")
"""Fields that hold the prompt or may quote it."""
MAX_ID = 200
"""Characters of a caller's request id"""
PRIVATE = 0o600
"""Mode of a new file: the owner's alone."""


@dataclass(frozen=True)
class Audit:
    """Where audit records go.

    Args:
        path: a ``.jsonl`` file; made if it is not there, appended to if it is. Several processes may write to it. A
            relative one is of the folder that the process is in now, wherever it goes later.
        prompts: whether prompts, reasons and tokens are kept as text.
        key: secret for keyed hashes of prompts.
    """

    path: Path
    prompts: bool = False
    key: bytes = b""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path).absolute())

    @classmethod
    def of(cls, given: Audit | Path | str | None) -> Audit | None:
        """Itself, or one with default settings for a path."""
        return given if given is None or isinstance(given, Audit) else cls(Path(given))

    def hashed(self, text: str) -> str:
        """64 hex digits that stand for a text; equal texts have equal ones."""
        data = text.encode("utf-8", "surrogatepass")
        return hmac.new(self.key, data, hashlib.sha256).hexdigest() if self.key else hashlib.sha256(data).hexdigest()

    def lines(self, records: Sequence[Mapping[str, Any]]) -> bytes:
        """The records as they are written: prompts replaced by hashes unless they are wanted."""
        out = []
        for record in records:
            row = {k: v for k, v in record.items() if self.prompts or k not in TELLING}
            for name in TEXTS:
                if record.get(name):
                    row[f"{name}_hash"] = self.hashed(str(record[name]))
            out.append(json.dumps(row, allow_nan=False, separators=(",", ":")) + "\n")
        return "".join(out).encode()

    def check(self) -> None:
        """Open the file for writing once; ``StoreError`` if that is impossible, before any picture is made."""
        with _said(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, PRIVATE))

    def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append the records and wait until they are on the disk. All of them are there afterwards, or none.

        Raises:
            StoreError: the disk is full or the file cannot be written. What was to be recorded must not be released
                then.
        """
        if not records:
            return
        data = self.lines(records)
        with _said(self.path):
            handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, PRIVATE)
            try:
                with _locked(handle):
                    _append(handle, data)
            finally:
                os.close(handle)


def request_ids(given: Any, prompt: Any) -> list[str]:
    """The caller's names of a call's prompts, one each; one name serves all, none is an empty list.

    Raises:
        BadInput: neither a text nor a list with one a prompt, or not printable, or longer than ``MAX_ID``.
    """
    if given is None:
        return []
    count = len(prompt) if isinstance(prompt, list) else 1
    ids = [given] * count if isinstance(given, str) else given
    if not isinstance(ids, list) or len(ids) != count:
        raise BadInput(f"request_id: give one text, or a list with one a prompt ({count})")
    for one in ids:
        if not isinstance(one, str) or not one.isprintable() or not 1 <= len(one) <= MAX_ID:
            raise BadInput(f"request_id {str(one)[:40]!r}: a printable text of 1 to {MAX_ID} characters is wanted")
    return ids


def records(output: Any, texts: Sequence[Any], ids: Sequence[str], guard: str, policy: str) -> list[dict[str, Any]]:
    """The records of a call, one a row.

    Args:
        output: a ``serve.call.GuardedOutput``. texts: (prompt, negative) a row. ids: the caller's, one a prompt, or
            none. guard: identity of policy, model and chain.
    """
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    known = {"time": stamp, "guard": guard, "policy": policy, "milliseconds": round(1e3 * output.seconds, 1)}
    keys = ("action", "by", "stage", "step", "score", "threshold", "category", "failed", "nfe", "why")
    out, rows = [], len(texts)
    for row, (verdict, text) in enumerate(zip(output.verdicts, texts, strict=True)):
        record = {key: getattr(verdict, key) for key in keys}
        for key in ("score", "threshold"):
            record[key] = finite(record[key])
        record["scores"] = {name: finite(score) for name, score in verdict.scores.items()}
        record["categories"] = sorted({v.category for v in verdict.every if v.category})
        if ids:
            record["request"] = ids[row * len(ids) // rows]
        if verdict.drawn is not None:
            record["drawn"] = verdict.drawn
        if counts := counted(verdict.notes):
            record["counts"] = counts
        texted = {"prompt": text.text, "negative": text.negative}
        out.append({**known, "row": row, **texted, **record, "tokens": verdict.tokens})
    return out


def counted(notes: Mapping[str, Sequence[float]]) -> dict[str, int]:
    """What guards counted: signals whose name ends in ``_count``, less that ending."""
    return {name.removesuffix("_count"): int(sum(x)) for name, x in notes.items() if name.endswith("_count")}


def _append(handle: int, data: bytes) -> None:
    """Write at the end of a locked file; on any error the file is as before."""
    size = os.lseek(handle, 0, os.SEEK_END)
    if size and _last_byte(handle, size) != b"\n":  # another program was cut short here; its half line stays one line
        data = b"\n" + data
    try:
        done = 0
        while done < len(data):
            done += os.write(handle, data[done:])
        os.fsync(handle)
    except BaseException:
        with suppress(OSError):
            os.ftruncate(handle, size)
        raise


def _last_byte(handle: int, size: int) -> bytes:
    os.lseek(handle, size - 1, os.SEEK_SET)
    return os.read(handle, 1)


@contextmanager
def _locked(handle: int) -> Iterator[None]:
    """Alone on the file among processes that ask; a system without such locks (Windows) goes without."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)


@contextmanager
def _said(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"audit record {path} cannot be written: {error.strerror or error}; nothing is released without a record: "
            "make room, or name another file"
        ) from error


def read_audit(path: str | Path) -> Iterator[dict[str, Any]]:
    """The records of an audit file, in order; a line that was cut short is left out."""
    with Path(path).open("rb") as stream:
        for line in stream:
            with suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict):
                    yield row
