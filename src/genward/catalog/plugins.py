"""The catalog of plug-ins: names, summaries and fields read from source, without importing anything.

A plug-in is a class with ``name: ClassVar[str] = "..."`` in one of the rooms ``defenses``, ``attacks``, ``judges``,
``benchmarks``, or in a module that an installed distribution names under the entry point group of that room
(``genward.defenses``). Its config is what its
source says: each annotated field, its default, and the text under it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from genward.errors import BadInput, UnknownName

ROOMS = ("defenses", "attacks", "judges", "benchmarks")


@dataclass(frozen=True)
class Field:
    """One configuration field: annotation and default as written in the source, first paragraph of the text under it."""

    name: str
    type: str
    default: str | None
    """Source text of the default; ``None`` where the field is required."""
    doc: str


@dataclass(frozen=True)
class Entry:
    """One plug-in, known from its source alone."""

    room: str
    name: str
    summary: str
    module: str
    class_name: str
    fields: tuple[Field, ...]
    origin: str = "genward"
    """The distribution it comes from."""


def room_of(kind: str) -> str:
    """``"defense"`` or ``"defenses"`` -> ``"defenses"``; ``UnknownName`` for anything that is no room."""
    room = kind if kind.endswith("s") else f"{kind}s"
    if room not in ROOMS:
        raise UnknownName("kind of plug-in", kind, ROOMS)
    return room


def _first_paragraph(node: ast.stmt | None) -> str:
    """The first paragraph of a docstring as one line."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return " ".join(node.value.value.strip().split("\n\n", 1)[0].split())
    return ""


def _class_var(annotation: ast.expr) -> bool:
    return ast.unparse(annotation).removeprefix("typing.").startswith("ClassVar")


def class_name_of(node: ast.ClassDef) -> str | None:
    """The plug-in name that a class declares, or ``None``; classes whose name begins with ``_`` are a file's own
    business."""
    if node.name.startswith("_"):
        return None
    for item in node.body:
        if (
            isinstance(item, ast.AnnAssign)
            and isinstance(item.target, ast.Name)
            and item.target.id == "name"
            and _class_var(item.annotation)
        ):
            if isinstance(item.value, ast.Constant) and isinstance(item.value.value, str):
                return item.value.value
    return None


def _default(value: ast.expr | None) -> str | None:
    """Source text of a default; of ``field(default=…)`` what stands inside, of a factory its call."""
    if isinstance(value, ast.Call) and ast.unparse(value.func).split(".")[-1] == "field":
        inside = {k.arg: k.value for k in value.keywords}
        if "default" in inside:
            return ast.unparse(inside["default"])
        return f"{ast.unparse(inside['default_factory'])}()" if "default_factory" in inside else None
    return None if value is None else ast.unparse(value)


def class_fields(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> tuple[Field, ...]:
    """Fields of a dataclass in order of declaration, those of base classes of the same module first."""
    found: dict[str, Field] = {}
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id in classes:
            found |= {f.name: f for f in class_fields(classes[base.id], classes)}
    for item, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and not _class_var(item.annotation):
            default = _default(item.value)
            found[item.target.id] = Field(
                item.target.id, ast.unparse(item.annotation), default, _first_paragraph(after)
            )
    return tuple(found.values())


def read_source(source: str, room: str, module: str, origin: str = "genward") -> list[Entry]:
    """Every plug-in that a module's source declares."""
    tree = ast.parse(source)
    classes = {n.name: n for n in tree.body if isinstance(n, ast.ClassDef)}
    entries = []
    for node in classes.values():
        name = class_name_of(node)
        if name is not None:
            summary = _first_paragraph(node.body[0]) or _first_paragraph(tree.body[0] if tree.body else None)
            entries.append(Entry(room, name, summary, module, node.name, class_fields(node, classes), origin))
    return entries


def source_file(module: str) -> Path | None:
    """The source file of a module, found on ``sys.path`` without importing the module or its parents."""
    path: list[str] | None = list(sys.path)
    parts = module.split(".")
    for depth, _ in enumerate(parts):
        spec = PathFinder.find_spec(".".join(parts[: depth + 1]), path)
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or ())
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _ours(room: str) -> Iterator[Entry]:
    folder = Path(__file__).resolve().parent.parent / room
    for file in sorted(folder.glob("*.py")):
        if not file.stem.startswith("_"):
            yield from read_source(file.read_text("utf-8"), room, f"genward.{room}.{file.stem}")


def _theirs(room: str) -> Iterator[Entry]:
    for point in metadata.entry_points(group=f"genward.{room}"):
        file = source_file(point.module)
        origin = point.dist.name if point.dist else "?"
        entries = read_source(file.read_text("utf-8"), room, point.module, origin) if file else []
        wanted = [e for e in entries if not point.attr or e.class_name == point.attr]
        yield from wanted or [Entry(room, point.name, "", point.module, point.attr, (), origin)]


def entries(kind: str) -> dict[str, Entry]:
    """Name -> entry, sorted by name. A name of ours cannot be taken over by an outsider's plug-in."""
    room = room_of(kind)
    table: dict[str, Entry] = {}
    for entry in (*_ours(room), *_theirs(room)):
        table.setdefault(entry.name, entry)
    return dict(sorted(table.items()))


def entry(kind: str, name: str) -> Entry:
    """One entry, or ``UnknownName`` with the nearest names."""
    table = entries(kind)
    if name not in table:
        raise UnknownName(room_of(kind)[:-1], name, table)
    return table[name]


def find(kind: str, name: str) -> type[Any]:
    """Import the plug-in's module and return its class.

    Raises:
        UnknownName: no plug-in of that name.
        BadInput: its module cannot be imported, or lacks the class it announces.
    """
    found = entry(kind, name)
    try:
        module = import_module(found.module)
        cls = getattr(module, found.class_name)
    except (ImportError, AttributeError) as error:
        raise BadInput(
            f"{found.room[:-1]} {name!r} of {found.origin} cannot be loaded: {error}; reinstall it or its optional "
            "packages"
        ) from error
    return cls  # type: ignore[no-any-return]


def fields(kind: str, name: str) -> list[tuple[str, str, str | None, str]]:
    """(field, type, default, text under it) of one plug-in, all as written in its source."""
    return [(f.name, f.type, f.default, f.doc) for f in entry(kind, name).fields]


def options(kind: str, name: str, given: Mapping[str, str]) -> dict[str, Any]:
    """Turn ``field=text`` pairs into typed values by the fields' annotations.

    Raises:
        UnknownName: no such field.
        BadInput: the text does not read as the field's type.
    """
    table = {f.name: f for f in entry(kind, name).fields}
    out: dict[str, Any] = {}
    for key, text in given.items():
        if key not in table:
            raise UnknownName(f"field of {name}", key, table)
        out[key] = coerce(text, table[key].type, f"{name}.{key}")
    return out


def parts(kind: str, text: str) -> tuple[str, dict[str, str]]:
    """Name and fields of ``name,field=value,…``, as judges, attacks and prompt guards are named:
    ``ddim_inversion,steps=50``.

    Raises:
        BadInput: a part that is not field=value.
    """
    name, *pairs = [p.strip() for p in text.split(",")]
    given = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise BadInput(
                f"{kind} {text!r}: {pair!r} is not field=value; write it as in {name},field=value (genward show {kind} "
                f"{name})"
            )
        given[key] = value
    return name, given


def made(kind: str, text: str) -> Any:
    """A plug-in from ``name,field=value,…``, see ``parts``.

    Raises:
        UnknownName: no such plug-in or field. BadInput: the text cannot be read, or a field is missing.
    """
    name, given = parts(kind, text)
    cls = find(kind, name)
    try:
        return cls(**options(kind, name, given))
    except TypeError as error:
        raise BadInput(f"{kind} {text!r}: {error}; see genward show {kind} {name}") from error


def coerce(text: str, annotation: str, where: str = "value") -> Any:
    """Read ``text`` as ``int``, ``float``, ``bool``, ``str``, ``tuple[...]`` (parts joined by ``;`` or ``/``) or any of
    these ``| None``."""
    kinds = [k.strip() for k in annotation.replace("Optional[", "").split("|")]
    if text.lower() == "none" and "None" in kinds:
        return None
    kind = next((k for k in kinds if k != "None"), "str")
    try:
        if kind.startswith("tuple") or kind == "Window":
            inner = kind[6:-1].split(",")[0].strip() if "[" in kind else "float"
            return tuple(coerce(part, inner, where) for part in text.replace("/", ";").split(";") if part)
        if kind == "bool":
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]
        if kind == "int":
            return int(text)
        if kind == "float":
            return float(text)
    except (ValueError, KeyError):
        raise BadInput(
            f"{where}: {text!r} does not read as {kind}; give "
            f"{'true or false' if kind == 'bool' else f'a value of type {kind}'}"
        ) from None
    return text
