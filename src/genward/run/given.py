"""The files that a run was given, kept inside its store by their hash, so that the store can be read where they are
not: concept files (shipped ones too, which another version of genward may have otherwise) and CSV files of prompts.

``given/<sha256>/<file name>`` holds the bytes, ``runs/<name>/given.json`` says which of them stands for which text of
the plan."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genward.core.reading import read_bytes, short
from genward.core.records import concept_names
from genward.errors import GenwardError, StoreError
from genward.run import plan as plans
from genward.run.plan import Plan
from genward.store.check import GIVEN, given_path
from genward.store.files import write_bytes

if TYPE_CHECKING:
    from genward.store import Store

RECORD = "given.json"
"""In the run's folder: kind -> {text of the plan: sha256}."""
KINDS = ("concepts", "prompts")


def texts(plan: Plan) -> Iterator[tuple[str, str]]:
    """(kind, text) of every file that a plan names: each part of a joint concept, those of its chains of defenses, and
    the paths of its CSV files."""
    from genward.catalog.fitting import parse_defense

    named = list(plan.concepts)
    for arm in plan.arms:
        chain = arm.defenses.replace(plans.PLACEHOLDER, next(iter(plan.concepts), ""))
        named += [r.concept for r in parse_defense(chain) if r.concept]
    for text in dict.fromkeys(part for name in named for part in parts(name)):
        yield "concepts", text
    for entry in dict.fromkeys(getattr(plan.benchmark, "prompts", ())):
        yield "prompts", entry.split(",")[0]


def parts(concept: str) -> list[str]:
    """The concepts that a text names: one, or several with ``&`` between them."""
    return [concept] if "&" not in concept or Path(concept).is_file() else concept.split("&")


def content(kind: str, text: str) -> bytes:
    """The bytes of a file that a plan names. ``BadInput`` where there is none."""
    if kind == "concepts" and text in concept_names():
        return resources.files("genward").joinpath("concepts", f"{text}.toml").read_bytes()
    return read_bytes(text, f"{kind[:-1]} file")


def file_name(kind: str, text: str) -> str:
    """A file's own name, under which it is kept: ids of rows begin with it."""
    return f"{text}.toml" if kind == "concepts" and text in concept_names() else Path(text).name


def keep(store: Store, plan: Plan) -> dict[str, dict[str, str]]:
    """Keep the files of a plan in the store; what ``given.json`` of its run says.

    Raises:
        StoreError: the run was begun with another content of one of them. BadInput: one that cannot be read.
    """
    path = store.run_folder(plan.name) / RECORD
    earlier = _record(store, plan.name)
    found: dict[str, dict[str, str]] = {}
    for kind, text in texts(plan):
        data = content(kind, text)
        sha = hashlib.sha256(data).hexdigest()
        before = earlier.get(kind, {}).get(text, sha)
        if before != sha:
            raise StoreError(
                f"run {plan.name!r} was begun with another content of {short(text)} (kept as "
                f"{GIVEN}/{before[:12]}… in the store); put that back, or give this run another --name"
            )
        kept = given_path(store.root, sha, file_name(kind, text))
        if not kept.is_file():
            write_bytes(store.root, kept, data)
        found.setdefault(kind, {})[text] = sha
    if found and found != earlier:
        store.write_json(path, found)
    return found


def load_plan(store: Store, name: str) -> Plan:
    """The plan of a run; a file that is missing here, or has changed, is read from the store.

    Raises:
        StoreError: no such run, or a kept file that is damaged.
    """
    plan = plans.load_plan(store, name)
    swap = {
        kind: {text: inside for text, sha in told.items() if (inside := _inside(store, kind, text, sha))}
        for kind, told in _record(store, name).items()
    }
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

    fields: dict[str, Any] = {"concepts": tuple(map(concept, plan.concepts))}
    if prompts:
        entries = (entry.split(",") for entry in getattr(plan.benchmark, "prompts", ()))
        fields["prompts"] = tuple(",".join([prompts.get(path, path), *rest]) for path, *rest in entries)
    benchmark = replace(plan.benchmark, **fields)  # type: ignore[type-var]
    arms = tuple(replace(a, concepts=tuple(map(concept, a.concepts))) for a in plan.arms)
    own = {k: getattr(plan, k) for k in ("name", "model", "preset", "batch", "sampler", "judge", "second", "labels_by")}
    return Standing(arms=arms, benchmark=benchmark, written=plan, **own)
