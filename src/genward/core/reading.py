"""Files that come from outside: plain files only, of limited size, decoded by their byte order mark; and what may be
printed of them.

Every reader of a prompt list, a table, a concept, a policy, a recipe or a card goes through here, so that a pipe, a
disk image or a spreadsheet saved in another encoding ends in one line and not in a hang or a traceback."""

from __future__ import annotations

import codecs
import json
import os
import re
import stat
import unicodedata
from pathlib import Path
from typing import Any

from genward.errors import BadInput

MAX_TEXT = 4 << 20
"""Largest text file that is read unless a caller says otherwise, bytes: lists, concepts, policies, recipes."""
MAX_DEPTH = 100
"""Deepest nesting of JSON that is read; one's own tables go six levels deep."""
MAX_DIGITS = 400
"""Longest number in JSON or TOML, digits: longer ones cost quadratic time and no field holds them."""

MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose little-endian mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
LINE_END = re.compile("\r\n|[\n\r\v\f\x85\u2028\u2029]")
"""What ends a line, by the Unicode standard (section 5.8, newline functions)."""


def read_bytes(
    path: str | Path,
    what: str = "file",
    limit: int = MAX_TEXT,
    wrong: type[BadInput] = BadInput,
    hint: str = "check the path",
) -> bytes:
    """The content of a plain file.

    Args:
        what: what to call it in errors ("policy file").
        limit: most bytes that are read.
        wrong: the error to raise, for callers with one of their own.
        hint: what to try where there is no such file.

    Raises:
        BadInput: no such file, a folder, a pipe, socket or device, more than ``limit`` bytes, no right to read it, or a
            path that no file can have.
    """
    shown = short(path)
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            status = os.fstat(handle)
            if stat.S_ISDIR(status.st_mode):
                raise wrong(f"{what} {shown} cannot be read: it is a folder; name a file in it")
            if not stat.S_ISREG(status.st_mode):
                raise wrong(f"{what} {shown} cannot be read: it is a pipe, socket or device; save it as a plain file")
            if status.st_size > limit:
                raise wrong(
                    f"{what} {shown} has {status.st_size:,} bytes, at most {limit:,} are read; is it the right file?"
                )
            with os.fdopen(os.dup(handle), "rb") as stream:
                data = stream.read(limit + 1)
        finally:
            os.close(handle)
    except FileNotFoundError:
        raise wrong(f"no {what} at {shown}, so it cannot be read; {hint}") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        why = getattr(error, "strerror", None) or error
        raise wrong(f"{what} {shown} cannot be read: {why}; give the path of a plain file") from error
    if len(data) > limit:  # it grew while it was read
        raise wrong(f"{what} {shown} has more than {limit:,} bytes; is it the right file?")
    return data


def decoded(data: bytes, where: str, wrong: type[BadInput] = BadInput) -> str:
    """Bytes as text: UTF-8, or UTF-16 and UTF-32 where a byte order mark says so; the mark is no part of the text.

    Raises:
        BadInput: another encoding, named with line and byte, or a zero byte.
    """
    encoding, start = next(((name, len(mark)) for mark, name in MARKS if data.startswith(mark)), ("utf-8", 0))
    try:
        text = data[start:].decode(encoding)
    except UnicodeDecodeError as error:
        good = data[start : start + error.start].decode(encoding, "ignore")
        at = f"line {1 + len(LINE_END.findall(good))}"
        if start:
            told = f"its mark says {encoding[:6].upper()}, but the bytes there are not; it was cut short or is no text"
        elif b"\x00" in data[:400]:
            told = "not UTF-8; it looks like UTF-16 without its byte order mark, or like no text at all"
        else:
            told = f"byte {data[error.start]:#04x} is not UTF-8"
        raise wrong(f"{where}, {at}: {told}; save the file in UTF-8") from None
    if "\x00" in text:
        line = 1 + len(LINE_END.findall(text, 0, text.index("\x00")))
        raise wrong(f"{where}, line {line}: a zero byte; this is not a text file, save it as text in UTF-8")
    return text


def read_text(
    path: str | Path,
    what: str = "file",
    limit: int = MAX_TEXT,
    wrong: type[BadInput] = BadInput,
    hint: str = "check the path",
) -> str:
    """``read_bytes`` and ``decoded``."""
    return decoded(read_bytes(path, what, limit, wrong, hint), f"{what} {short(path)}", wrong)


def lines(text: str) -> list[str]:
    """The lines of a text without their ends: ``\\n``, ``\\r\\n``, ``\\r``, and the line ends that Unicode has beside
    them (vertical tab, form feed, NEL, U+2028, U+2029). A last end makes no empty line."""
    found = LINE_END.split(text)
    return found[:-1] if found[-1] == "" else found


def parse_json(text: str, where: str, wrong: type[BadInput] = BadInput) -> Any:
    """JSON as the standard has it: no ``NaN`` or ``Infinity``, no key twice, no half surrogate pair, no nesting beyond
    ``MAX_DEPTH``.

    Raises:
        BadInput: named with line and column where there is one.
    """

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is no JSON number")

    def whole(digits: str) -> int:
        if len(digits) > MAX_DIGITS:
            raise ValueError(f"a number of {len(digits):,} digits")
        return int(digits)

    def number(digits: str) -> float:
        value = float(digits)
        if value in (float("inf"), float("-inf")):
            raise ValueError(f"{digits[:20]} is too large a number")
        return value

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(k for n, (k, _) in enumerate(pairs) if k in {p[0] for p in pairs[:n]})
            raise ValueError(f"the key {twice[:40]!r} is there twice")
        return found

    try:
        raw = json.loads(text, parse_constant=constant, parse_int=whole, parse_float=number, object_pairs_hook=table)
        if _depth(raw) > MAX_DEPTH:
            raise RecursionError
        _whole_text(raw)
    except RecursionError:
        raise wrong(f"{where} is nested more than {MAX_DEPTH} levels deep; is it the right file?") from None
    except ValueError as error:
        raise wrong(
            f"{where} is not JSON: {printable(error)}; it was changed or cut short, make or fetch it again"
        ) from None
    return raw


def _depth(value: Any) -> int:
    """Levels of lists and tables, found without recursion."""
    deepest, waiting = 0, [(value, 1)]
    while waiting:
        item, level = waiting.pop()
        if isinstance(item, dict | list):
            deepest = max(deepest, level)
            waiting += [(x, level + 1) for x in (item.values() if isinstance(item, dict) else item)]
    return deepest


def _whole_text(value: Any) -> None:
    """``ValueError`` where a text or key holds half a surrogate pair."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            waiting += item
        elif isinstance(item, str) and half_pair(item) is not None:
            raise ValueError(f"half a surrogate pair in the text {item[:40]!r}")


def half_pair(text: str) -> int | None:
    """Place of the first half of a surrogate pair in a text, which no encoding can write; ``None`` where all is
    well."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return error.start
    return None


def short(value: object, most: int = 160) -> str:
    """``printable`` text, its middle left out where it has more than ``most`` characters: a path or name for an
    error."""
    text = printable(value)
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :]}"


def brief(value: object, most: int = 60) -> str:
    """A value's ``repr``, printable and short, for an error; whatever it is: a number of thousands of digits, lists in
    lists, a tensor."""
    try:
        text = repr(value)
    except Exception:  # of a class from outside, too: an error is being written already
        text = f"a {type(value).__name__}"
    return short(text, most)


def printable(value: object) -> str:
    """Text from outside as a terminal may show it: control characters (escape codes with them), line and direction
    marks and half surrogate pairs stand as ``\\x1b``; line feeds and tabs stay."""
    text = str(value)
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in "\n\t" or not _hidden(c) else _escaped(c) for c in text)


def _hidden(char: str) -> bool:
    kind = unicodedata.category(char)
    return (
        kind in ("Cc", "Cs", "Zl", "Zp")
        or char in "\u061c\u200e\u200f"
        or "\u202a" <= char <= "\u202e"
        or ("\u2066" <= char <= "\u2069")
    )


def _escaped(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
