"""The catalog of plug-ins: names, summaries and fields read from source, without importing anything.

A plug-in is a class with ``name: ClassVar[str] = "..."`` in a module or a package of one of the rooms ``defenses``,
``attacks``, ``judges``, ``benchmarks``, or in a module that an installed distribution names under the entry point group
of that room (``genward.defenses``), or of ``genward.models``. Its config is what its source says: each annotated field,
its default, and the text under it. What lies beside its source (a benchmark's ``presets/`` and ``claims.toml``) is
found the same way.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module, metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from genward.core.options import coerce as coerce
from genward.core.options import parts as parts
from genward.core.reading import short
from genward.core.typed import configured
from genward.errors import BadInput, UnknownName

ROOMS = ("defenses", "attacks", "judges", "benchmarks", "models")
OUTSIDE = ("models",)
"""Rooms whose plug-ins are outsiders' alone: our own models are opened by what their folder holds."""


@dataclass(frozen=True)
class Field:
    """One configuration field: annotation and default as written in the source, first paragraph of the text under
    it."""

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


class _Source:
    """A module's classes, and where the names that it imports come from."""

    def __init__(self, source: str) -> None:
        self.tree = ast.parse(source)
        self.classes = {n.name: n for n in self.tree.body if isinstance(n, ast.ClassDef)}
        self.imported = {
            alias.asname or alias.name: (str(n.module), alias.name)
            for n in self.tree.body
            if isinstance(n, ast.ImportFrom) and not n.level
            for alias in n.names
        }

    def base(self, name: str) -> tuple[ast.ClassDef, _Source] | None:
        """A base class by name: of this module, or a dataclass that it imports."""
        if name in self.classes:
            return self.classes[name], self
        module, name = self.imported.get(name, ("", ""))
        file = source_file(module) if module else None
        if file is None:
            return None
        there = _Source(file.read_text("utf-8"))
        node = there.classes.get(name)
        marks = [ast.unparse(d) for d in node.decorator_list] if node else []
        return (node, there) if node and any("dataclass" in m for m in marks) else None


def class_fields(node: ast.ClassDef, source: _Source) -> tuple[Field, ...]:
    """Fields of a dataclass in order of declaration, those of base classes first."""
    found: dict[str, Field] = {}
    for base in node.bases:
        known = source.base(base.id) if isinstance(base, ast.Name) else None
        if known is not None:
            found |= {f.name: f for f in class_fields(*known)}
    for item, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and not _class_var(item.annotation):
            default = _default(item.value)
            found[item.target.id] = Field(
                item.target.id, ast.unparse(item.annotation), default, _first_paragraph(after)
            )
    return tuple(found.values())


def read_source(source: str, room: str, module: str, origin: str = "genward") -> list[Entry]:
    """Every plug-in that a module's source declares."""
    return list(_declared(source, room, module, origin, tuple(sys.path)))


@lru_cache(maxsize=1024)
def _declared(source: str, room: str, module: str, origin: str, path: tuple[str, ...]) -> tuple[Entry, ...]:
    """``read_source``, once for each source; ``path`` is where base classes of other modules are looked for."""
    read = _Source(source)
    entries = []
    for node in read.classes.values():
        name = class_name_of(node)
        if name is not None:
            summary = _first_paragraph(node.body[0]) or _first_paragraph(read.tree.body[0] if read.tree.body else None)
            entries.append(Entry(room, name, summary, module, node.name, class_fields(node, read), origin))
    return tuple(entries)


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
    packages = {f.parent.name: f for f in folder.glob("*/__init__.py")}
    for name, file in sorted(({f.stem: f for f in folder.glob("*.py")} | packages).items()):
        if not name.startswith("_"):
            yield from read_source(file.read_text("utf-8"), room, f"genward.{room}.{name}")


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
    for entry in (*(() if room in OUTSIDE else _ours(room)), *_theirs(room)):
        table.setdefault(entry.name, entry)
    return dict(sorted(table.items()))


def entry(kind: str, name: str) -> Entry:
    """One entry, or ``UnknownName`` with the nearest names. Hyphens and underscores are the same here."""
    table = entries(kind)
    same = {known.replace("-", "_"): known for known in table}
    if name not in table and name.replace("-", "_") not in same:
        raise UnknownName(room_of(kind)[:-1], name, table)
    return table[name if name in table else same[name.replace("-", "_")]]


def folder_of(found: Entry) -> Path | None:
    """The folder in which a plug-in's source lies, with its data files beside it; ``None`` where there is no source."""
    file = source_file(found.module)
    return None if file is None else file.parent


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


def made(kind: str, text: str) -> Any:
    """A plug-in from ``name,field=value,…``, see ``parts``.

    Raises:
        UnknownName: no such plug-in or field. BadInput: the text cannot be read, or a field is missing.
    """
    name, given = parts(kind, text, f"genward show {kind}")
    cls = find(kind, name)
    return configured(cls, options(kind, name, given), f"{kind} {short(text)!r}")
