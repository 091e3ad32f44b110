"""Recipes by name: the presets that stand beside the benchmarks, and files of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from genward.catalog import plugins
from genward.core.typed import read_toml
from genward.errors import BadInput, UnknownName

ORDER = ("quick", "standard", "full")
"""Order of a benchmark's presets."""
HINT = "see docs/recipes.md for its fields"


class Recipe(NamedTuple):
    """A preset that stands beside a benchmark."""

    file: Path
    origin: str
    """The distribution that it comes from"""


def recipes() -> dict[str, Recipe]:
    """``erasure-quick`` -> every preset that stands beside a benchmark, ours and those of plug-ins."""
    found = {}
    for entry in plugins.entries("benchmark").values():
        folder = plugins.folder_of(entry)
        for file in sorted((folder / "presets").glob("*.toml")) if folder else ():
            found[f"{entry.name}-{file.stem}"] = Recipe(file, entry.origin)
    return found


def recipe_names() -> list[str]:
    """Names of the recipes that come with the benchmarks."""
    return sorted(recipes())


def presets_of(benchmark: str) -> list[str]:
    """Names of a benchmark's presets, ``quick`` first."""
    head = f"{benchmark}-"
    mine = [name.removeprefix(head) for name, recipe in recipes().items() if name == f"{head}{recipe.file.stem}"]
    return sorted(mine, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def recipe_of(benchmark: str, preset: str) -> str:
    """``erasure``, ``quick`` -> ``erasure-quick``; the path of a recipe file stays as it is. Without a preset it is
    ``quick``, or the benchmark's first.

    Raises:
        UnknownName: no such preset. BadInput: the benchmark has none, and no file is given.
    """
    if preset.endswith(".toml"):
        return preset
    known = presets_of(benchmark)
    if not known:
        raise BadInput(f"benchmark {benchmark!r} comes without presets; name a recipe file with --preset ./mine.toml")
    if preset and preset not in known:
        raise UnknownName(f"preset of {benchmark}", preset, known)
    return f"{benchmark}-{preset or known[0]}"


def read_recipe(name: str | Path) -> dict[str, Any]:
    """The tables of a recipe by name (``erasure-quick``) or of a TOML file.

    Raises:
        UnknownName: no such recipe; BadInput: the file is missing or not TOML.
    """
    text = str(name)
    if text.endswith(".toml") or "/" in text:
        return read_toml(text, "recipe", HINT, missing=f"give a TOML file or one of: {', '.join(recipe_names())}")
    known = {n.replace("-", "_"): recipe.file for n, recipe in recipes().items()}
    if text.replace("-", "_") not in known:
        raise UnknownName("recipe", text, recipe_names())
    return read_toml(known[text.replace("-", "_")], "recipe", HINT)
