"""Verify a store: every file readable, every name true to its content, every reference met, purposes disjoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol

import genward.store.parts as parts
from genward.core.media import MEDIA
from genward.core.reading import parse_json
from genward.core.records import Sample
from genward.core.typed import read_toml
from genward.errors import GenwardError
from genward.store.files import read_json
from genward.store.rows import PURPOSES, case_of

GIVEN = "given"
"""Folder of the files that runs were given."""


def given_path(root: Path, sha: str, name: str) -> Path:
    """Where a file that runs were given is kept, by the SHA-256 of its bytes and its own name; a folder by
    ``list_hash``."""
    return root / GIVEN / sha / name


def fitting(root: Path, pattern: str) -> Iterator[Path]:
    """What in a folder fits a pattern (as ``Path.glob`` has it): plain files, with ``/`` at the end folders; nothing
    hidden."""
    for path in root.glob(pattern.removesuffix("/")):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if not hidden and (path.is_dir() if pattern.endswith("/") else path.is_file()):
            yield path


def listed(root: Path, patterns: Sequence[str]) -> dict[str, str]:
    """Place, with ``/``, -> SHA-256 of the files in a folder that fit one of the patterns, see ``fitting``; of folders,
    whose places end with ``/``, the names alone are told: their hash is empty."""
    found = {}
    for pattern in patterns:
        names = pattern.endswith("/")
        for path in fitting(root, pattern):
            place = path.relative_to(root).as_posix() + "/" * names
            found[place] = "" if names else hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def kept_list(root: Path) -> dict[str, str]:
    """``listed`` of a folder in the store: all its files, and the folders that hold nothing."""
    empty = [p for p in root.glob("**/*") if p.is_dir() and not any(p.iterdir())]
    return listed(root, ("**/*",)) | {f"{p.relative_to(root).as_posix()}/": "" for p in empty}


def list_hash(files: Mapping[str, str]) -> str:
    """The hash of a folder: SHA-256 of ``listed``, as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(dict(files), sort_keys=True).encode()).hexdigest()


class Readable(Protocol):
    """What of a store is read here, see ``store.store.Store``."""

    root: Path

    def arms(self) -> list[str]: ...
    def judges(self) -> list[str]: ...
    def reserved(self, purpose: str) -> set[str]: ...
    def media_path(self, sha: str, mime: str) -> Path: ...


def problems(store: Readable) -> list[str]:
    """One line per problem, in a fixed order."""
    found = [*_json(store), *_given(store)]
    ids: set[str] = set()
    found += _samples(store, ids)
    found += _scores(store, ids)
    found += _features(store, ids)
    found += _reserved(store)
    return found


def _json(store: Readable) -> Iterator[str]:
    files = [
        store.root / "schema.json",
        *(p for folder in ("arms", "scores", "runs") for p in sorted((store.root / folder).glob("*/*.json"))),
    ]
    for path in files:
        try:
            if not isinstance(read_json(path), dict):
                yield f"{path} holds no table; delete it and run again"
        except GenwardError as error:
            yield str(error)
    for path in sorted((store.root / "runs").glob("*/*.toml")):
        try:
            if not read_toml(path):
                yield f"{path} is empty; it was cut short: delete it and run again"
        except GenwardError as error:
            yield str(error)


def _given(store: Readable) -> Iterator[str]:
    """Files that runs were given: those that are not what their name says, and those that are missing."""
    there = sorted((store.root / GIVEN).glob("*/*"))
    for path in there:
        if path.is_dir():
            if list_hash(kept_list(path)) != path.parent.name:
                yield f"{path} does not hold the files that its name says; restore it from a copy"
        elif hashlib.sha256(path.read_bytes()).hexdigest() != path.parent.name:
            yield f"{path} is not the file that its name says; restore it from a copy"
    for path in sorted((store.root / "runs").glob("*/given.json")):
        try:
            told = read_json(path)
        except GenwardError:
            continue  # said with the other tables
        names = {sha for kind in told.values() if isinstance(kind, dict) for sha in kind.values()}
        for sha in sorted(names - {p.parent.name for p in there}):
            yield f"{path} names {GIVEN}/{sha[:12]}…, which is missing; restore it from a copy"


def _named(path: Path) -> str:
    """The key of a part, or the problem with it."""
    key = parts.read_key(path)
    return (
        ""
        if parts.part_path(path.parent, key) == path
        else f"{path} holds the batch {key!r} and is not named after it; rename it or delete it and resume"
    )


def _samples(store: Readable, ids: set[str]) -> Iterator[str]:
    """Problems of samples and their media; fills ``ids``."""
    sound: dict[str, str] = {}
    arms = set(store.arms())
    for path in parts.part_files(store.root / "samples"):
        try:
            wrong = _named(path)
            rows = parts.read_part(path, parts.SAMPLES).to_pylist()
        except GenwardError as error:
            yield str(error)
            continue
        if wrong:
            yield wrong
        for row in rows:
            ids.add(row["id"])
            unreadable = _row(row)
            if unreadable:
                yield f"{path}: sample {row['id']}: {unreadable}; delete the part and resume"
                continue
            if Sample(case_of(row), row["arm"]).id != row["id"]:
                yield f"{path}: sample {row['id']} is not the hash of its arm and case; delete the part and resume"
            if row["arm"] not in arms:
                stranger = f"sample {row['id']} is of arm {row['arm']}, which is not in this store"
                yield f"{path}: {stranger}; delete the part and resume"
            if row["output"] or row["status"] == "ok":
                sha = row["output"]
                if sha not in sound:
                    sound[sha] = _media(store, sha, row["mime"])
                if sound[sha]:
                    yield f"{path}: sample {row['id']}: {sound[sha]}; delete the part and resume"


def _row(row: Mapping[str, Any]) -> str:
    """What cannot be read of a row that its part's checksums vouch for: of another program's making, then."""
    for name in ("notes", "costs", "inputs"):
        try:
            table = parse_json(row[name], name)
        except (GenwardError, TypeError, AttributeError) as error:
            return str(error)
        if not isinstance(table, dict):
            return f"its {name} are no table"
    if row["mime"] and row["mime"] not in MEDIA:
        return f"its output is of the unknown type {row['mime'][:40]!r}"
    try:
        case_of(row)
    except (GenwardError, TypeError, ValueError) as error:
        return str(error)
    return ""


def _media(store: Readable, sha: str, mime: str) -> str:
    try:
        path = store.media_path(sha, mime)
        if hashlib.sha256(path.read_bytes()).hexdigest() != sha:
            return f"{MEDIA[mime].kind} {path} is corrupt, delete it too"
    except FileNotFoundError:
        return f"{MEDIA[mime].kind} {sha} is missing"
    except (GenwardError, OSError) as error:
        return f"its output cannot be read ({error})"
    return ""


def _scores(store: Readable, ids: set[str]) -> Iterator[str]:
    for judge in store.judges():
        for path in parts.part_files(store.root / "scores" / judge):
            try:
                wrong = _named(path)
                rows = set(parts.read_scores(path)["sample"].to_pylist())
                if parts.HASH not in parts.metadata_of(path):
                    yield f"{path} carries no hash of its scores: by an earlier version, or edited; {parts.ANEW}"
            except GenwardError as error:
                yield str(error)
                continue
            yield from ([wrong] if wrong else []) + _strangers(path, rows, ids)


def _features(store: Readable, ids: set[str]) -> Iterator[str]:
    for path in sorted((store.root / "features").glob("*/part-*.parquet")):
        try:
            wrong = _named(path)
            rows = set(parts.read_features(path)[0])
        except GenwardError as error:
            yield str(error)
            continue
        yield from ([wrong] if wrong else []) + _strangers(path, rows, ids)


def _strangers(path: Path, rows: set[str], ids: set[str]) -> list[str]:
    lost = rows - ids
    return [f"{path}: {len(lost)} of {len(rows)} samples are not in this store; delete the file"] if lost else []


def _reserved(store: Readable) -> Iterator[str]:
    keys: dict[str, set[str]] = {}
    for purpose in PURPOSES:
        try:
            keys[purpose] = store.reserved(purpose)
        except GenwardError as error:
            yield str(error)
    for a, b in combinations(keys, 2):
        both = keys[a] & keys[b]
        if both:
            shared = f"{len(both)} keys are reserved for {a} and for {b}, {sorted(both)[0]!r} among them"
            yield f"{shared}; use a new store for one of the two"
