"""``genward list``: what there is, read from source and data files without importing any of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import typer

from genward.cli import common
from genward.errors import UnknownName

Rows = list[dict[str, str]]


def plugins(room: str) -> Callable[[], Rows]:
    """A reader of the plug-ins of one room."""

    def read() -> Rows:
        from genward.catalog import plugins as catalog

        return [{"name": e.name, "summary": e.summary, "from": e.origin} for e in catalog.entries(room).values()]

    return read


def concepts() -> Rows:
    from genward.core.records import concept_names, load_concept

    return [{"name": name, "summary": load_concept(name).summary, "from": "genward"} for name in concept_names()]


def recipes() -> Rows:
    from genward.run import recipes as known

    return [
        {"name": name, "summary": recipe_summary(known.read_recipe(name)), "from": recipe.origin}
        for name, recipe in sorted(known.recipes().items())
    ]


def recipe_summary(tables: dict[str, object]) -> str:
    """One line from a recipe's tables: its arms and concepts, where it has any, and its rows."""
    arms, named, n = tables.get("arm"), tables.get("concepts"), tables.get("n")
    told = [f"{len(arms)} arms"] if isinstance(arms, list) and arms else []
    if named:
        told.append(", ".join(map(str, named)) if isinstance(named, list) else str(named))
    if n is not None:
        told.append(f"{n} sample{'s' * (n != 1)} per cell" if arms else f"at most {n} rows per set")
    return ", ".join(told)


def models() -> Rows:
    summaries = {
        "lab": "The embedded text-to-image model.",
        "lab:oracle": "Its twin that never saw some of the concepts.",
    }
    from genward.catalog.backdoors import PREFIX, shipped
    from genward.catalog.opening import LAB, speech_services

    known = [{"name": name, "summary": summaries.get(name, ""), "from": "genward"} for name in LAB]
    told = "A poisoned copy of the lab, to try defenses on."
    known += [
        {"name": f"{PREFIX}{p.stem}", "summary": told, "from": "genward"} for p in sorted(shipped().glob("*.json"))
    ]
    known += [{"name": name, "summary": summary, "from": "genward"} for name, summary in speech_services().items()]
    known += plugins("models")()
    return [*known, {"name": "FOLDER or owner/name", "summary": "Any stock StableDiffusionPipeline.", "from": "you"}]


KINDS: dict[str, Callable[[], Rows]] = {
    **{room: plugins(room) for room in ("defenses", "attacks", "judges", "benchmarks")},
    "concepts": concepts,
    "recipes": recipes,
    "models": models,
}


def kind_of(word: str) -> str:
    """``defense`` or ``defenses`` -> ``defenses``."""
    plural = word if word.endswith("s") else f"{word}s"
    if plural not in KINDS:
        raise UnknownName("kind", word, KINDS)
    return plural


def list_runs(store: Path, as_json: bool) -> None:
    """The runs of a store."""
    from genward.run.comparing import runs_of

    found = runs_of(store)
    if as_json:
        common.emit({"runs": found})
    else:
        common.table(found, ("name", "benchmark", "state", "rows", "date"))


def main(
    kind: str = typer.Argument("", help=f"One of: {', '.join(KINDS)}; all of them by default. Or runs, of a store."),
    store: Path = common.StoreFolder,
    as_json: bool = common.Json,
) -> None:
    """List what there is: defenses, attacks, judges, benchmarks, concepts, recipes, models.

    `runs` lists those of a store."""
    if kind in ("run", "runs"):
        return list_runs(store, as_json)
    wanted = [kind_of(kind)] if kind else list(KINDS)
    found = {k: KINDS[k]() for k in wanted}
    if as_json:
        common.emit(found)
        return
    for k, rows in found.items():
        if len(found) > 1:
            if not rows:
                continue
            common.say(f"{k}:")
        for row in rows:
            origin = "" if row["from"] in ("genward", "you") else f"  [{row['from']}]"
            common.say(f"  {row['name']:<22} {row['summary'].replace('``', '')}{origin}".rstrip())
