"""Files that are whole or not there: written aside, flushed to the disk, renamed; and file errors said in words the
user can act on."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from genward.errors import BadInput, StoreError

SCHEMA = 1
"""The layout of a store that this version reads and writes."""
TEMPORARY = "tmp"
"""Folder below the root that holds files in the making; nothing reads from it."""
STALE = 24 * 3600.0
"""Seconds after which a file in the making is taken for abandoned, whoever made it."""

_in_work: set[str] = set()
"""Names of the files that this process has in the making."""


@contextmanager
def said(path: Path, doing: str) -> Iterator[None]:
    """Turn an ``OSError`` inside the block into a ``StoreError`` with a hint. ``doing`` is ``"written"`` or
    ``"read"``."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "the disk is full; make room and run again, what is finished is kept"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            hint = f"{error.strerror}; name another folder with --store, or change its permissions"
        elif error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
            hint = (
                f"{error.strerror}: a file and a folder stand in each other's place; name another folder with --store"
            )
        else:
            hint = f"{error.strerror or error}; check the disk, or name another folder with --store"
        raise StoreError(f"{path} cannot be {doing}: {hint}") from error


def flush_folder(folder: Path) -> None:
    """Make the renames inside ``folder`` last through a power cut; a system that cannot do so on folders is left
    alone."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_bytes(root: Path, path: Path, data: bytes) -> None:
    """``write_many`` of one file."""
    write_many(root, {path: data})


def write_many(root: Path, files: Mapping[Path, bytes]) -> None:
    """Put contents at paths below ``root``: readers see the old file or the new one, never a part, and all last through
    a power cut.

    All files are flushed side by side, then all folders: file systems commit what waits together (32 pictures on ext4:
        230 ms one by one, 115 ms so).

    Raises:
        StoreError: disk full, unwritable, a file where a folder should be. Some of the files may be there then, each of
            them whole.
    """
    aside = {path: root / TEMPORARY / f"{socket.gethostname()}~{os.getpid()}~{uuid.uuid4().hex}" for path in files}
    _in_work.update(temporary.name for temporary in aside.values())
    try:
        with said(next(iter(files), root), "written"):
            (root / TEMPORARY).mkdir(parents=True, exist_ok=True)
            for path, temporary in aside.items():
                temporary.write_bytes(files[path])
            _together(_flush_file, list(aside.values()))
            for path, temporary in aside.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                os.replace(temporary, path)
            _together(flush_folder, sorted({path.parent for path in files}))
    finally:
        for temporary in aside.values():
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        _in_work.difference_update(temporary.name for temporary in aside.values())


def _together(flush: Callable[[Path], None], paths: Sequence[Path]) -> None:
    """Call ``flush`` on all paths side by side; the first error is raised."""
    if len(paths) < 2:
        for path in paths:
            flush(path)
        return
    with ThreadPoolExecutor(min(32, len(paths))) as pool:
        for _ in pool.map(flush, paths):
            pass


def _flush_file(path: Path) -> None:
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def clean(root: Path) -> int:
    """Remove files in the making that nobody works on any more (their process is gone, or they are a day old); how many
    were removed.

    A store that cannot be written, one on a read-only disk say, stays as it is: such files are never read anyway.
    """
    removed = 0
    with suppress(OSError):
        for path in sorted((root / TEMPORARY).iterdir()):
            if _abandoned(path):
                path.unlink(missing_ok=True)
                removed += 1
    return removed


def _abandoned(path: Path) -> bool:
    if path.name in _in_work:
        return False
    host, _, rest = path.name.partition("~")
    pid = rest.partition("~")[0]
    if host == socket.gethostname() and pid.isdecimal():
        return int(pid) == os.getpid() or not _runs(int(pid)) or _age(path) > STALE
    return _age(path) > STALE or not pid


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's process, or a system without signals
        return True
    return True


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def plain(value: Any) -> Any:
    """A value as JSON can hold it: dataclasses and mappings as tables, arrays as lists, numbers that are not finite as
    ``None``.

    Raises:
        BadInput: a value of a type that has no such form.
    """
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return [plain(v) for v in sorted(value)]
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):  # an array or tensor of any library
        return plain(value.tolist())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise BadInput(f"a {type(value).__name__} cannot be kept as JSON; use numbers, text, lists or tables")


def read_json(path: Path) -> Any:
    """What ``path`` holds; ``StoreError`` where it is missing, cannot be read or is not JSON."""
    with said(path, "read"):
        try:
            return json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise StoreError(
                f"{path} is missing; run again to make it, or check the folder that you named with --store"
            ) from None
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise StoreError(
                f"{path} is not JSON ({error}); it was changed or cut short: delete it and run again"
            ) from error
