"""Files that are whole or not there, and values as plain JSON can hold them: the one copy of both.

A file is written aside, flushed to the disk and renamed, so a reader sees the old content or the new one and never a
part, also after a power cut. Errors of the disk stay ``OSError`` here; each room says them in its own words."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from genward.errors import BadInput

STALE = 24 * 3600.0
"""Seconds after which a file in the making is taken for abandoned, whoever made it."""

_in_work: set[str] = set()
"""Names of the files that this process has in the making."""


# ---------------------------------------------------------------------------------------------------------------- files


def write_file(path: Path, data: bytes | str) -> None:
    """Put ``data`` (text as UTF-8) at ``path``, whole or not at all; missing folders are made. Raises ``OSError``."""
    write_files({path: data.encode() if isinstance(data, str) else data})


def write_files(files: Mapping[Path, bytes], aside: Path | None = None) -> None:
    """Put contents at paths: all of them are on the disk before the first one is renamed.

    All files are flushed side by side, then all folders: file systems commit what waits together (32 pictures on ext4:
    230 ms one by one, 115 ms so).

    Args:
        files: path -> content; missing folders are made. Renamed in this order: what vouches for the others comes last.
        aside: a folder of the same file system for files in the making, which ``sweep`` can clear after a kill; by
            default each is made beside its path, under a name that starts with a dot.

    Raises:
        OSError: disk full, unwritable, a file where a folder should be. Some of the files may be there then, each of
            them whole.
    """
    made = {path: _aside(path, aside) for path in files}
    with _working(made.values()):
        for path, temporary in made.items():
            temporary.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(files[path])
        _commit(made)


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A path beside ``path``, with its ending, to be filled inside the block; it takes the place of ``path`` at the
    end, and after an exception it is gone. Raises ``OSError``."""
    temporary = _aside(path, None)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _working([temporary]):
        yield temporary
        _commit({path: temporary})


def _aside(path: Path, folder: Path | None) -> Path:
    mark = f"{socket.gethostname()}~{os.getpid()}~{uuid.uuid4().hex}"
    return path.with_name(f".{path.stem[:80]}.{mark[-8:]}.part{path.suffix}") if folder is None else folder / mark


@contextmanager
def _working(temporaries: Iterable[Path]) -> Iterator[None]:
    """Inside, these files are known to be in the making; whatever is left of them at the end is removed."""
    paths = list(temporaries)
    _in_work.update(path.name for path in paths)
    try:
        yield
    finally:
        for path in paths:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        _in_work.difference_update(path.name for path in paths)


def _commit(made: Mapping[Path, Path]) -> None:
    """Flush the files in the making, rename each to its path, flush the folders."""
    _together(_flush_file, list(made.values()))
    for path, temporary in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary, path)
    _together(_flush_folder, sorted({path.parent for path in made}))


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


def _flush_folder(folder: Path) -> None:
    """Make the renames inside ``folder`` last; a system that cannot do so on folders is left alone."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sweep(aside: Path) -> int:
    """Remove from a folder of files in the making those that nobody works on any more (their process is gone, or they
    are a day old); how many were removed.

    A folder that cannot be written, one on a read-only disk say, stays as it is: such files are never read anyway.
    """
    removed = 0
    with suppress(OSError):
        for path in sorted(aside.iterdir()):
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


# ----------------------------------------------------------------------------------------------------------------- JSON


def finite(value: Any, digits: int | None = None) -> float | None:
    """The number, rounded where ``digits`` are given, or ``None`` for ``None``, NaN and infinities: a figure as JSON
    can hold it."""
    if value is None or not math.isfinite(value):
        return None
    return float(value) if digits is None else round(float(value), digits)


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
        return finite(value)
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


def json_text(value: Any) -> str:
    """``plain(value)`` as indented JSON text that ends in a line break, for files."""
    return json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
