"""The files that a run was given, kept inside its store by their hash, so that the store can be read where they are
not: concept files (shipped ones too, which another version of genward may have otherwise), CSV files of prompts, cards
of judges, and the folders that its benchmark reads (prompt sets, reference pictures).

``given/<sha256>/<file name>`` holds the bytes, ``given/<hash of its list>/<folder name>/…`` the files of a folder, and
``runs/<name>/given.json`` says which of them stands for which text of the plan."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genward.catalog.judges import card_of
from genward.core.reading import read_bytes, short
from genward.core.records import concept_names
from genward.errors import BadInput, GenwardError, StoreError
from genward.run import plan as plans
from genward.run.plan import Plan
from genward.store.check import GIVEN, fitting, given_path, kept_list, list_hash, listed
from genward.store.files import said, write_bytes

if TYPE_CHECKING:
    from genward.store import Store

RECORD = "given.json"
"""In the run's folder: kind -> {text of the plan: sha256}."""
KINDS = ("concepts", "prompts", "cards", "folders")
JUDGES = ("judge", "second", "labels_by")
"""Keys of a plan that name a judge"""
MOST_BYTES = 512 * 2**20
"""Bytes of a folder that a store takes in"""
MOST_FILES = 20_000
"""Files of a folder that a store takes in"""


def texts(plan: Plan) -> Iterator[tuple[str, str]]:
    """(kind, text) of every file that a plan names: each part of a joint concept, those of its chains of defenses, the
    paths of its CSV files, and its judges' cards. Folders are named by ``folders``."""
    from genward.catalog.fitting import parse_defense

    named = list(plan.concepts)
    for arm in plan.arms:
        chain = arm.defenses.replace(plans.PLACEHOLDER, next(iter(plan.concepts), ""))
        named += [r.concept for r in parse_defense(chain) if r.concept]
    for text in dict.fromkeys(part for name in named for part in parts(name)):
        yield "concepts", text
    for entry in dict.fromkeys(getattr(plan.benchmark, "prompts", ())):
        yield "prompts", entry.split(",")[0]
    for card in dict.fromkeys(card_of(getattr(plan, key)) for key in JUDGES):
        if card:
            yield "cards", card


def folders(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Folder that a field of the plan's benchmark names -> patterns of the files that are read there."""
    told = {getattr(plan.benchmark, key): patterns for key, patterns in type(plan.benchmark).folders.items()}
    return {text: patterns for text, patterns in told.items() if text}


def parts(concept: str) -> list[str]:
    """The concepts that a text names: one, or several with ``&`` between them."""
    return [concept] if "&" not in concept or Path(concept).is_file() else concept.split("&")


def content(kind: str, text: str) -> bytes:
    """The bytes of a file that a plan names. ``BadInput`` where there is none."""
    if kind == "concepts" and text in concept_names():
        return resources.files("genward").joinpath("concepts", f"{text}.toml").read_bytes()
    return read_bytes(text, {"cards": "judge card"}.get(kind, f"{kind[:-1]} file"))


def file_name(kind: str, text: str) -> str:
    """A file's own name, under which it is kept: ids of rows begin with it."""
    return f"{text}.toml" if kind == "concepts" and text in concept_names() else Path(text).name


def keep(store: Store, plan: Plan) -> dict[str, dict[str, str]]:
    """Keep the files and folders of a plan in the store; what ``given.json`` of its run says.

    Raises:
        StoreError: the run was begun with another content of one of them. BadInput: one that cannot be read, or a
            folder of more than ``MOST_BYTES`` or ``MOST_FILES``.
    """
    earlier = _record(store, plan.name)
    found: dict[str, dict[str, str]] = {}
    for kind, text in texts(plan):
        data = content(kind, text)
        sha = hashlib.sha256(data).hexdigest()
        _same(plan, earlier, kind, text, sha)
        kept = given_path(store.root, sha, file_name(kind, text))
        if not kept.is_file():
            write_bytes(store.root, kept, data)
        found.setdefault(kind, {})[text] = sha
    for text, patterns in folders(plan).items():
        files = folder_files(text, patterns)
        sha = list_hash(files)
        _same(plan, earlier, "folders", text, sha)
        _copied(store, Path(text), files, given_path(store.root, sha, folder_name(text)))
        found.setdefault("folders", {})[text] = sha
    if found and found != earlier:
        store.write_json(store.run_folder(plan.name) / RECORD, found)
    return found


def _same(plan: Plan, earlier: Mapping[str, Mapping[str, str]], kind: str, text: str, sha: str) -> None:
    before = earlier.get(kind, {}).get(text, sha)
    if before != sha:
        raise StoreError(
            f"run {plan.name!r} was begun with another content of {short(text)} (kept as "
            f"{GIVEN}/{before[:12]}… in the store); put that back, or give this run another --name"
        )


def folder_name(text: str) -> str:
    """A folder's own name, under which it is kept."""
    return Path(text).resolve().name or "folder"


def folder_files(text: str, patterns: tuple[str, ...]) -> dict[str, str]:
    """What is read in a folder, as ``store.check.listed`` has it.

    Raises:
        BadInput: no such folder, nothing in it, or more than a store takes in.
    """
    root = Path(text)
    if not root.is_dir():
        raise BadInput(f"no folder {short(text)}; check the path")
    with said(root, "read"):
        files = {p for pattern in patterns if not pattern.endswith("/") for p in fitting(root, pattern)}
        size = sum(path.stat().st_size for path in files)
    if size > MOST_BYTES or len(files) > MOST_FILES:
        raise BadInput(
            f"{short(text)} holds {len(files):,} files of {size / 2**20:,.0f} MB; a store keeps what its runs were "
            f"given, up to {MOST_FILES:,} files and {MOST_BYTES / 2**20:,.0f} MB a folder: scale pictures down, or "
            "name a folder with what is needed alone"
        )
    with said(root, "read"):
        found = listed(root, patterns)
    if not found:
        raise BadInput(f"{short(text)} holds nothing that is read ({', '.join(patterns)}); check the path")
    return found


def _copied(store: Store, root: Path, files: Mapping[str, str], kept: Path) -> None:
    """Copy what is missing of a folder into the store, a file at a time."""
    for place, sha in files.items():
        if place.endswith("/"):
            with said(kept / place, "written"):
                (kept / place).mkdir(parents=True, exist_ok=True)
        elif not (kept / place).is_file():
            with said(root / place, "read"):
                data = (root / place).read_bytes()
            if hashlib.sha256(data).hexdigest() != sha:
                raise StoreError(f"{root / place} was changed while it was copied into the store; run again")
            write_bytes(store.root, kept / place, data)


def load_plan(store: Store, name: str) -> Plan:
    """The plan of a run; a file that is missing here, or has changed, is read from the store.

    Raises:
        StoreError: no such run, or a kept file that is damaged.
    """
    plan = plans.load_plan(store, name)
    looked_at = folders(plan)

    def swapped(kind: str, text: str, sha: str) -> str:
        if kind == "folders":
            return _folder_inside(store, text, looked_at.get(text, ()), sha)
        return _inside(store, kind, text, sha)

    told = _record(store, name).items()
    swap = {kind: {t: inside for t, sha in given.items() if (inside := swapped(kind, t, sha))} for kind, given in told}
    return _swapped(plan, swap) if any(swap.values()) else plan


def _record(store: Store, name: str) -> dict[str, dict[str, str]]:
    path = store.run_folder(name) / RECORD
    if not path.is_file():
        return {}
    raw = store.read_json(path)
    if not isinstance(raw, dict) or not all(isinstance(v, dict) and k in KINDS for k, v in raw.items()):
        raise StoreError(f"{path} is no table of files; delete it and give the run's command again")
    return raw


def _inside(store: Store, kind: str, text: str, sha: str) -> str:
    """Where a text's file is kept, if what it names here is not the same; else empty."""
    try:
        if hashlib.sha256(content(kind, text)).hexdigest() == sha:
            return ""
    except (GenwardError, OSError):
        pass
    path = given_path(store.root, sha, file_name(kind, text))
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != sha:
        raise StoreError(f"{path}, which stands for {short(text)}, is missing or damaged; restore it from a copy")
    return str(path)


def _folder_inside(store: Store, text: str, patterns: tuple[str, ...], sha: str) -> str:
    """Where a folder is kept, if what its text names here is not the same; else empty."""
    try:
        if list_hash(folder_files(text, patterns)) == sha:
            return ""
    except (GenwardError, OSError):
        pass
    path = given_path(store.root, sha, folder_name(text))
    if not path.is_dir() or list_hash(kept_list(path)) != sha:
        raise StoreError(f"{path}, which stands for {short(text)}, is missing or damaged; restore it from a copy")
    return str(path)


@dataclass(frozen=True)
class Standing(Plan):
    """A plan whose files are read from the store; its identity is that of the plan as it was written."""

    written: Plan | None = None

    @property
    def hash(self) -> str:
        assert self.written is not None, "made by `load_plan` alone"
        return self.written.hash


def _swapped(plan: Plan, swap: Mapping[str, Mapping[str, str]]) -> Plan:
    concepts, prompts = swap.get("concepts", {}), swap.get("prompts", {})

    def concept(text: str) -> str:
        return "&".join(concepts.get(part, part) for part in parts(text))

    fields: dict[str, Any] = {"concepts": tuple(map(concept, plan.concepts))} if concepts else {}
    if prompts:
        entries = (entry.split(",") for entry in getattr(plan.benchmark, "prompts", ()))
        fields["prompts"] = tuple(",".join([prompts.get(path, path), *rest]) for path, *rest in entries)
    for key in type(plan.benchmark).folders:
        text = getattr(plan.benchmark, key)
        fields[key] = swap.get("folders", {}).get(text, text)
    benchmark = replace(plan.benchmark, **fields)  # type: ignore[type-var]
    arms = tuple(replace(a, concepts=tuple(map(concept, a.concepts))) for a in plan.arms)
    own = {k: getattr(plan, k) for k in ("name", "model", "preset", "batch", "sampler")}
    cards = swap.get("cards", {})
    own |= {key: with_card_of(getattr(plan, key), cards) for key in JUDGES}
    return Standing(arms=arms, benchmark=benchmark, written=plan, **own)


def with_card_of(judge: str, cards: Mapping[str, str]) -> str:
    """A judge's text with its card's file replaced, where another stands for it."""
    card = card_of(judge) or ""
    if card not in cards:
        return judge
    return ",".join(f"card={cards[card]}" if p.strip().startswith("card=") else p for p in judge.split(","))
