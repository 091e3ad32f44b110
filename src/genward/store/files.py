"""The store's files: ``core.files`` with errors of the disk said in words the user can act on."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from genward.core import files
from genward.core.reading import parse_json
from genward.errors import BadInput, StoreError

SCHEMA = 2
"""The layout of a store that this version reads and writes."""
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@ -]{0,119}")
"""What may name a folder."""
TEMPORARY = "tmp"
"""Folder below the root that holds files in the making; nothing reads from it."""


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


def write_bytes(root: Path, path: Path, data: bytes) -> None:
    """``write_many`` of one file."""
    write_many(root, {path: data})


def write_many(root: Path, contents: Mapping[Path, bytes]) -> None:
    """``core.files.write_files`` below ``root``, made in its folder ``tmp``.

    Raises:
        StoreError: disk full, unwritable, a file where a folder should be. Some of the files may be there then, each of
            them whole.
    """
    with said(next(iter(contents), root), "written"):
        files.write_files(contents, root / TEMPORARY)


def read_json(path: Path) -> Any:
    """What ``path`` holds; ``StoreError`` where it is missing, cannot be read or is not JSON."""
    with said(path, "read"):
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError:
            raise StoreError(
                f"{path} is missing; run again to make it, or check the folder that you named with --store"
            ) from None
        except UnicodeDecodeError as error:
            raise StoreError(
                f"{path} is not JSON ({error}); it was changed or cut short: delete it and run again"
            ) from error
    try:
        return parse_json(text, "it")
    except BadInput as error:
        raise StoreError(
            f"{path} is not JSON ({error}); it was changed or cut short: delete it and run again"
        ) from None


def named(kind: str, name: str) -> str:
    """The name, if it can be a folder's; else ``StoreError``."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise StoreError(
            f"{kind} {str(name)[:80]!r} cannot be a folder's name; use up to 120 letters, digits and . _ + @ -"
        )
    return name


def folders(folder: Path) -> list[str]:
    """Names of the folders inside, sorted; an absent folder has none."""
    with said(folder, "read"):
        return sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
