"""Typed tables: TOML and JSON from outside become frozen dataclasses, each value checked against its field's type.

An error names file, path and both kinds: ``mugs.toml: phrases is 'a mug', which is text; give a list of texts``."""

from __future__ import annotations

import dataclasses
import difflib
import math
import sys
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from genward.core.reading import MAX_DIGITS, MAX_TEXT, brief, printable, read_text, short
from genward.errors import BadInput

T = typing.TypeVar("T")


def parse_toml(text: str, where: str, hint: str = "") -> dict[str, Any]:
    """A TOML text as tables.

    Args:
        where: what to call it in errors.
        hint: where its fields are described, for errors ("see docs/concepts.md").

    Raises:
        BadInput: not TOML, or nested too deeply.
    """
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, ValueError) as error:  # ValueError: a number of thousands of digits, a bad date
        raise BadInput(f"{where} is not TOML: {printable(error)}{'; ' + hint if hint else ''}") from None
    except RecursionError:
        raise BadInput(f"{where} is nested too deeply to be read{'; ' + hint if hint else ''}") from None


def read_toml(
    path: str | Path, what: str = "file", hint: str = "", *, limit: int = MAX_TEXT, missing: str = "check the path"
) -> dict[str, Any]:
    """``parse_toml`` of a plain file of at most ``limit`` bytes, decoded by its byte order mark; ``missing`` says what
    to try where there is no such file."""
    return parse_toml(read_text(path, what, limit, hint=missing), f"{what} {short(path)}", hint)


def build(cls: type[T], table: Any, where: str, hint: str = "", path: str = "") -> T:
    """An object of a dataclass from a table, every value checked against the annotation of its field.

    ``str``, ``bool``, ``int``, ``float`` (finite; an ``int`` will do), ``tuple[T, ...]`` of a list, ``Mapping[str, T]``
    and other dataclasses of a table, ``T | None`` of a missing key; nothing is turned into anything else.

    Args:
        where: what to call the file in errors.
        hint: where its fields are described.
        path: where the table stands in the file (``arm[2].``).

    Raises:
        BadInput: a key that is no field (the nearest ones are offered), a value of another type, or a field that is
            missing.
    """
    told = f"; {hint}" if hint else ""
    if not isinstance(table, Mapping):
        raise BadInput(f"{where}: {path.rstrip('.') or 'it'} is {shown(table)}; give a table of fields{told}")
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(typing.cast("Any", cls)) if f.init}
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=2, cutoff=0.4)
            try_this = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
            raise BadInput(f"{where}: unknown field {path}{printable(key)[:60]!r}; {try_this}")
    for name, f in known.items():
        if name not in table and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise BadInput(f"{where}: {path}{name} is missing; write {example(name, hints[name])}{told}")
    return cls(**{k: value(v, hints[k], where, f"{path}{k}", told) for k, v in table.items()})


def checked(record: Any, where: str) -> None:
    """``BadInput`` unless the fields of a dataclass's object that are of plain types hold values of them: for
    ``__post_init__``."""
    for f in dataclasses.fields(record):
        kind = _annotation(type(record), f.name)
        if _plain(kind):
            value(getattr(record, f.name), kind, where, f.name)


def configured(cls: type[T], given: Mapping[str, Any], where: str, make: Callable[..., T] | None = None) -> T:
    """A plug-in's object from values of its fields, as a text or an artifact's card gives them: those of plain types
    are checked as ``build`` does, and what the class itself cannot take is ``BadInput`` too.

    Args:
        where: what to call the plug-in in errors.
        make: what makes it of the fields; by default the class.
    """
    make = cls if make is None else make
    kinds = {name: _annotation(cls, name) for name in given}
    held = {k: value(v, kinds[k], where, k) if _plain(kinds[k]) else v for k, v in given.items()}
    try:
        return make(**held)
    except (TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise BadInput(f"{where}: {short(error)}; check its fields") from error


def _annotation(cls: type[Any], name: str) -> Any:
    """The annotation of a field, or ``None`` where it names what the module imports for type checks alone."""
    for owner in cls.__mro__:
        if name in vars(owner).get("__annotations__", {}):
            one = types.SimpleNamespace(__annotations__={name: owner.__annotations__[name]})
            try:
                return typing.get_type_hints(one, vars(sys.modules[owner.__module__]))[name]
            except NameError:
                return None
    return None


def _plain(kind: Any) -> bool:
    """Whether a type is made of text, numbers, truth values, lists and tables alone."""
    if kind in (str, int, float, bool, types.NoneType, Ellipsis):
        return True
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    known = origin in (tuple, typing.Union, types.UnionType) or (
        isinstance(origin, type) and issubclass(origin, Mapping)
    )
    return known and all(_plain(k) for k in arguments)


def value(given: Any, kind: Any, where: str, path: str, told: str = "") -> Any:
    """A value checked against an annotation, see ``build``."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        kinds = [k for k in arguments if k is not types.NoneType]
        return None if given is None and len(kinds) < len(arguments) else value(given, kinds[0], where, path, told)
    if origin is tuple and isinstance(given, list | tuple):
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(value(v, arguments[0], where, f"{path}[{k}]", told) for k, v in enumerate(given))
        if len(arguments) == len(given):
            pairs = zip(given, arguments, strict=True)
            return tuple(value(v, a, where, f"{path}[{k}]", told) for k, (v, a) in enumerate(pairs))
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(given, Mapping):
        return {str(k): value(v, arguments[1], where, f"{path}.{k}", told) for k, v in given.items()}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if isinstance(given, kind):
            return given
        return build(kind, given, where, told.removeprefix("; "), f"{path}.")
    if kind is Any or _fits(given, kind):
        return float(given) if kind is float else given
    raise BadInput(
        f"{where}: {printable(path)} is {shown(given)}; give {named(kind)}, as in {example(path, kind)}{told}"
    )


def _fits(given: Any, kind: Any) -> bool:
    if kind is float:
        return is_number(given)
    if kind is int:
        return isinstance(given, int) and not isinstance(given, bool) and abs(given) < 1 << 64
    return isinstance(kind, type) and isinstance(given, kind)


def is_number(given: Any) -> bool:
    """Whether a value is a finite number and no truth value."""
    try:
        return isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(float(given))
    except OverflowError:  # a whole number beyond 1e308
        return False


def named(kind: Any) -> str:
    """A type in words: ``a list of texts``."""
    plain = {str: "text", int: "a whole number", float: "a finite number", bool: "true or false"}
    if kind in plain:
        return plain[kind]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            many = {str: "texts", int: "whole numbers", float: "numbers"}.get(arguments[0], "tables")
            return f"a list of {many}"
        return f"a list of {len(arguments)} values"
    return "a table"


def example(path: str, kind: Any) -> str:
    """How a field of that type is written in TOML."""
    name = printable(path).split(".")[-1].split("[")[0]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return example(path, next(k for k in arguments if k is not types.NoneType))
    plain = {str: '"…"', int: "1", float: "0.5", bool: "true"}
    if kind in plain:
        return f"{name} = {plain[kind]}"
    if origin is tuple:
        inner = plain.get(arguments[0], "{ … }") if arguments else '"…"'
        return f"{name} = [{inner}, {inner}]"
    return f"{name} = {{ … }}"


def shown(given: Any) -> str:
    """A value and its kind in words, short enough for an error."""
    kinds = {
        str: "text",
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        list: "a list",
        dict: "a table",
    }
    if isinstance(given, int) and not isinstance(given, bool) and abs(given) >= 10**MAX_DIGITS:
        return f"a whole number of more than {MAX_DIGITS} digits"
    return f"{brief(given)}, which is {kinds.get(type(given), f'a {type(given).__name__}')}"
