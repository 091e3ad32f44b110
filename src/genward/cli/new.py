"""``genward new``: a package to begin with."""

from __future__ import annotations

from pathlib import Path

import typer

from genward.cli import common
from genward.errors import UnknownName

KINDS = ("defense",)


def main(
    kind: str = typer.Argument(..., help="What to begin: defense."),
    name: str = typer.Argument(..., help="Its name, as my_method."),
    out: Path | None = typer.Option(None, "--out", "-o", help="Folder to write; by default genward-my-method here."),
    as_json: bool = common.Json,
) -> None:
    """Write a package with a defense of your own: the method, its test, its entry point. It runs as it is."""
    if kind not in KINDS:
        raise UnknownName("kind of package", kind, KINDS)
    from genward.catalog.scaffold import new_defense

    folder = out or Path(f"genward-{name.replace('_', '-')}")
    made = new_defense(name, folder)
    if as_json:
        common.emit({"folder": str(folder), "files": [str(p) for p in made]})
        return
    for path in made:
        common.say(path)
    common.note(f"next: pip install -e '{folder}[test]', python -m pytest {folder}, then genward show defense {name}")
