"""Parquet parts: one batch of rows a file, named by its key, with checksums on every page."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from genward.errors import BadInput, StoreError
from genward.store.files import SCHEMA, said, write_bytes

KEY = b"genward.key"
VERSION = b"genward.schema"
ANEW = "score the pictures anew with genward judge RUN --again"
HASH = b"genward.rows"
"""SHA-256 of the rows of a part of scores: checksums of pages are written anew by whoever edits them, this is not"""

SAMPLES = pa.schema(
    [
        ("id", pa.string()),
        ("arm", pa.string()),
        ("case", pa.string()),
        ("prompt", pa.string()),
        ("label", pa.string()),
        ("concept", pa.string()),
        ("seed", pa.int64()),
        ("negative", pa.string()),
        ("variant", pa.string()),
        ("group", pa.string()),
        ("parent", pa.string()),
        ("queries", pa.int64()),
        ("inputs", pa.string()),
        ("status", pa.string()),
        ("why", pa.string()),
        ("output", pa.string()),
        ("mime", pa.string()),
        ("notes", pa.string()),
        ("seconds", pa.float64()),
        ("costs", pa.string()),
    ]
)
SCORES = pa.schema([("sample", pa.string()), ("label", pa.string()), ("value", pa.float64()), ("why", pa.string())])
RESERVED = pa.schema([("key", pa.string())])


def features_schema(width: int) -> Any:
    """Rows of one sample and its vector of ``width`` float32 numbers."""
    return pa.schema([("sample", pa.string()), ("vector", pa.list_(pa.float32(), width))])


def part_path(folder: Path, key: str) -> Path:
    """The one file of a key."""
    return folder / f"part-{hashlib.sha256(key.encode()).hexdigest()[:24]}.parquet"


def part_files(folder: Path) -> list[Path]:
    """The parts of a folder by name; an absent folder has none."""
    with said(folder, "read"):
        return sorted(folder.glob("part-*.parquet")) if folder.is_dir() else []


def write_part(root: Path, folder: Path, key: str, columns: Mapping[str, Any], schema: Any) -> Path:
    """Write one part in place of any earlier one of the same key.

    Raises:
        BadInput: an empty key, or a value that its column cannot hold; StoreError: the disk.
    """
    if not key or not isinstance(key, str):
        raise BadInput(f"a part's key is {key!r}; give a text that names the batch")
    meta = {KEY: key.encode(), VERSION: str(SCHEMA).encode()}
    try:
        table = pa.table(dict(columns), schema=schema)
        if schema is SCORES:
            meta[HASH] = rows_hash(table)
        table = table.replace_schema_metadata(meta)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, write_page_checksum=True)
    except (pa.ArrowException, OverflowError, TypeError, UnicodeEncodeError) as error:
        raise BadInput(
            f"rows of batch {key!r} cannot be kept: {error}; seeds are 64-bit integers, texts are Unicode"
        ) from error
    path = part_path(folder, key)
    write_bytes(root, path, sink.getvalue().to_pybytes())
    return path


def read_part(path: Path, schema: Any, columns: Sequence[str] | None = None) -> Any:
    """The part as a ``pyarrow.Table``, all columns or some.

    Raises:
        StoreError: truncated or damaged, or columns of another schema.
    """
    names = list(schema.names if columns is None else columns)
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read(columns=names)
        table.validate(full=True)  # texts in UTF-8 among others: a flipped bit of a header can pass the checksums
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise StoreError(
            f"{path} is truncated or damaged ({_short(error)}); delete it and resume: only its rows are made again"
        ) from error
    kept = [
        name
        for name in names
        if name not in table.column_names or table.schema.field(name).type != schema.field(name).type
    ]
    if kept:
        raise StoreError(
            f"{path} has another schema (column {kept[0]!r} is missing or of another type); delete it and resume, or "
            "use a new store"
        )
    return table


def read_key(path: Path) -> str:
    """The key that a part was written under; ``StoreError`` where the file is damaged or not ours."""
    meta = metadata_of(path)
    try:
        key = meta.get(KEY, b"").decode()
    except ValueError as error:
        raise StoreError(
            f"{path} is truncated or damaged ({_short(error)}); delete it and resume: only its rows are made again"
        ) from error
    if KEY not in meta or meta.get(VERSION) != str(SCHEMA).encode():
        raise StoreError(
            f"{path} was not written by this schema of the store; delete it and resume, or use a new store"
        )
    return str(key)


def rows_hash(table: Any) -> bytes:
    """SHA-256 of a table's rows, hex: of each value in order, numbers bit for bit."""
    whole = hashlib.sha256()
    for row in table.to_pylist():
        for value in row.values():
            data = value.hex() if isinstance(value, float) else "" if value is None else str(value)
            whole.update(f"{len(data)}:{data}".encode())
    return whole.hexdigest().encode()


def read_scores(path: Path) -> Any:
    """A part of scores as a ``pyarrow.Table``. One without a hash (of an earlier version) is read; ``check`` names it.

    Raises:
        StoreError: damaged, or its rows are not those that a judge gave.
    """
    table, meta = read_part(path, SCORES), metadata_of(path)
    if (meta[HASH] != rows_hash(table)) if HASH in meta else (KEY not in meta):
        raise StoreError(f"{path} does not hold the scores that its judge gave: their hash is another; {ANEW}")
    return table


def metadata_of(path: Path) -> dict[bytes, bytes]:
    """What stands beside a part's columns; ``StoreError`` where the file is damaged."""
    try:
        return dict(pq.read_schema(path).metadata or {})
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise StoreError(
            f"{path} is truncated or damaged ({_short(error)}); delete it and resume: only its rows are made again"
        ) from error


def rows(folder: Path, schema: Any) -> Iterator[dict[str, Any]]:
    """Every row of every part, parts by name, rows in the order they were written."""
    for path in part_files(folder):
        yield from read_part(path, schema).to_pylist()


def _short(error: BaseException) -> str:
    return str(error).split("\n", 1)[0][:160]


def write_features(root: Path, folder: Path, key: str, ids: Sequence[str], matrix: NDArray[np.float32]) -> Path:
    """Write a part of feature vectors: ids (n,) and their rows (n, d) float32."""
    width = matrix.shape[1]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), width)
    return write_part(root, folder, key, {"sample": list(ids), "vector": vectors}, features_schema(width))


def read_features(path: Path) -> tuple[list[str], NDArray[np.float32]]:
    """(ids, (n, d) float32) of a part of feature vectors; ``StoreError`` where the file is damaged or holds something
    else."""
    try:
        width = int(pq.read_schema(path).field("vector").type.list_size)
    except (pa.ArrowException, OSError, KeyError, AttributeError) as error:
        raise StoreError(f"{path} is truncated or damaged ({_short(error)}); delete it and judge again") from error
    table = read_part(path, features_schema(width))
    flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return table["sample"].to_pylist(), np.asarray(flat, np.float32).reshape(-1, width)
