"""Limits that keep the house readable: modules and functions of a size that one can take in, no room that holds
everything, no two files that need each other."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import genward

SOURCE = Path(genward.__file__).parent
MODULE, FUNCTION, SHARE = 450, 60, 0.20
"""Lines of a module, lines of a function, share of all lines in one room"""


def functions(tree: ast.AST) -> list[tuple[str, int]]:
    """Name and lines of every function, its decorators left out."""
    return [
        (node.name, (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def named(tree: ast.AST) -> set[str]:
    """Dotted names that a file imports anywhere, in functions and for types as well."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def module_of(path: Path, root: Path) -> str:
    return ".".join((root.name, *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")


def problems(root: Path) -> list[str]:
    """What in a package goes over a limit."""
    told: list[str] = []
    rooms: Counter[str] = Counter()
    needs: dict[str, set[str]] = {}
    for path in sorted(root.rglob("*.py")):
        text = path.read_text("utf-8")
        place, lines, tree = str(path.relative_to(root)), len(text.splitlines()), ast.parse(text)
        rooms[path.relative_to(root).parts[0]] += lines
        needs[module_of(path, root)] = named(tree)
        if lines > MODULE:
            told.append(f"{place} has {lines} lines")
        told += [f"{place}: {name} has {long} lines" for name, long in functions(tree) if long > FUNCTION]
    told += [f"{a} and {b} import each other" for a in needs for b in needs[a] if a < b and a in needs.get(b, ())]
    whole = rooms.total()
    return told + [f"{room} holds {n / whole:.0%} of the lines" for room, n in rooms.items() if n > SHARE * whole]


def test_the_house_keeps_its_limits() -> None:
    assert not problems(SOURCE), "\n".join(problems(SOURCE))


def test_what_goes_over_a_limit_is_named(tmp_path: Path) -> None:
    root = tmp_path / "house"
    (root / "big").mkdir(parents=True)
    (root / "__init__.py").write_text("")
    (root / "a.py").write_text("def f():\n    import house.b\n")
    (root / "b.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.a import f\n")
    (root / "big" / "c.py").write_text("def g():\n" + "    pass\n" * FUNCTION + "\n" * MODULE)
    found = "\n".join(problems(root))
    for told in ("c.py has 511 lines", "g has 61 lines", "house.a and house.b import each other", "big holds"):
        assert told in found
