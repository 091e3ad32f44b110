"""``genward run``: plan, generate, judge, measure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import typer

from genward.cli import common
from genward.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from genward.catalog.opening import Opener
    from genward.run.plan import Plan


def recipe_of(benchmark: str, preset: str) -> str:
    """``erasure``, ``quick`` -> ``erasure-quick``; the path of a recipe file stays as it is. Without a preset it is
    ``quick``, or the benchmark's first."""
    from genward.run.recipes import presets_of

    if preset.endswith(".toml"):
        return preset
    known = presets_of(benchmark)
    if not known:
        raise BadInput(f"benchmark {benchmark!r} comes without presets; name a recipe file with --preset ./mine.toml")
    if preset and preset not in known:
        raise UnknownName(f"preset of {benchmark}", preset, known)
    return f"{benchmark}-{preset or known[0]}"


SPENT = {"nfe": "denoiser rows"}
"""Names of costs in words."""


def show_costs(costs: Mapping[str, Any]) -> None:
    """The dry run's table, printed: the whole run by arm, then what is left of it on this machine."""
    from genward.run.outlook import in_words

    common.table(costs["arms"], ["arm", "rows", *costs["costs"]])
    spent = "".join(f", {costs[name]:,} {SPENT.get(name, name)}" for name in costs["costs"])
    common.say(f"{costs['plan']}: {costs['rows']:,} rows{spent} in all")
    common.say(in_words(costs["left"]))


def costs_of(plan: Plan, store: Path, models: Opener, refit: bool) -> dict[str, Any]:
    """``costs.dry_run``, with ``costs.expected`` for the store as ``left``; a store that does not exist holds nothing
    and is not made."""
    from genward.run.costs import dry_run
    from genward.run.outlook import expected
    from genward.run.storing import open_store

    if (store / "schema.json").is_file():
        return {**dry_run(plan), "left": expected(plan, models, open_store(store), refit=refit)}
    with TemporaryDirectory() as folder:
        return {**dry_run(plan), "left": expected(plan, models, open_store(folder, create=True), refit=refit)}


def show_first(metrics: Mapping[str, Any]) -> None:
    """The table of the rows that no search added."""
    show({**metrics, "cells": [c for c in metrics["cells"] if c["n"] or c.get("n_unscored")]})
    common.note("the first table: attacks are searched now, their columns follow")


def show(metrics: Mapping[str, Any]) -> None:
    """A run's tables as text, as its benchmark wants them printed."""
    from genward.catalog.plugins import find

    for part in find("benchmark", str(metrics["run"]["benchmark"])).printed(metrics):
        common.table(part.rows, part.columns)
        if part.note:
            common.note(part.note)


def fields_given(benchmark: str, texts: list[str], own: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a benchmark from ``field=value`` texts and from the options that stand for one.

    Raises:
        UnknownName, BadInput: the benchmark has no such field, or the text does not read as its value.
    """
    from genward.catalog.plugins import fields, options
    from genward.core.options import parts

    known = [name for name, *_ in fields("benchmark", benchmark)]
    for name in (name for name, value in own.items() if value not in (None, (), "", 0) and name not in known):
        raise BadInput(
            f"benchmark {benchmark!r} has no {name}; it has {', '.join(known)} (genward show benchmark {benchmark})"
        )
    given = {k: v for text in texts for k, v in parts("field", f"{benchmark},{text}")[1].items()}
    return {k: v for k, v in own.items() if k in known} | options("benchmark", benchmark, given)


def main(
    benchmark: str = typer.Argument("erasure", help="Benchmark to run; see genward list benchmarks."),
    preset: str = typer.Option(
        "", "--preset", "-p", help="quick (the default), standard, full, or a recipe file; see genward list recipes."
    ),
    name: str = typer.Option(
        "", "--name", help="Name of the run; by default benchmark and preset, and a hash where the store has another."
    ),
    model: str = typer.Option("", "--model", "-m", help="lab, a hub id or a folder; by default the recipe's."),
    concept: list[str] = typer.Option(
        [], "--concept", "-c", help="Concept or file, instead of the recipe's; may be repeated."
    ),
    defense: list[str] = typer.Option(
        [],
        "--defense",
        "-d",
        help="Instead of the recipe's arms, as uce:{concept} or label=uce:weapons; may be repeated.",
    ),
    n: int = typer.Option(0, "--n", min=0, help="Rows per cell; 0 takes the recipe's."),
    given: list[str] = typer.Option(
        [], "--set", help="A field of the benchmark, as n=24 or variants=name;scene; may be repeated."
    ),
    steps: int = typer.Option(0, "--steps", min=0, max=1000, help="Sampling steps; 0 takes the recipe's."),
    guidance: float | None = typer.Option(
        None, "--guidance", "-g", min=0, max=100, help="Guidance; by default the recipe's."
    ),
    seed: int | None = typer.Option(
        None, "--seed", min=0, help="Another number gives other starting noise everywhere."
    ),
    judge: str = typer.Option(
        "", "--judge", "-j", help="Judge to use; by default the recipe's. See genward list judges."
    ),
    references: str = typer.Option(
        "",
        "--references",
        help="Folder of reference pictures, one folder a concept (for m-erasure on a model of one's own).",
    ),
    prompts: list[str] = typer.Option(
        [],
        "--prompts",
        help="CSV of prompts instead of a concept's own, as rows.csv or rows.csv,concept=church,harm=object:church; may be repeated.",
    ),
    data: str = typer.Option("", "--data", help="Folder of prompt sets, for prompt-guard."),
    guard: list[str] = typer.Option(
        [],
        "--guard",
        help="For prompt-guard, beside ours: text_classifier,model=…,labels=… or moderation,url=… (is sent the prompts); may be repeated.",
    ),
    store: Path = common.StoreFolder,
    refit: bool = common.Refit,
    retry: bool = typer.Option(False, "--retry", help="Make rows again that ended as errors."),
    fresh: bool = typer.Option(
        False, "--fresh", help="Make every row again, and score it, in place of those that are there."
    ),
    search: bool = typer.Option(False, "--search", help="Search attacks again, even where found ones are at hand."),
    dry: bool = typer.Option(
        False, "--dry-run", help="Say what it costs here, build every chain, open every judge, and stop."
    ),
    device: str | None = common.Device,
    dtype: str | None = common.Dtype,
    download: bool = common.Download,
    as_json: bool = common.Json,
) -> None:
    """Run a benchmark: plan, generate, judge, measure. What is finished is kept; the same command resumes."""
    from genward.catalog.opening import opener
    from genward.catalog.plugins import entry
    from genward.run.known import unscored
    from genward.run.loop import named, run_plan
    from genward.run.plan import make_plan
    from genward.run.storing import open_store

    benchmark = entry("benchmark", benchmark).name
    files = tuple(",".join([str(Path(path).resolve()), *rest]) for path, *rest in (text.split(",") for text in prompts))
    own = {"concepts": tuple(concept), "n": n, "seed": seed, "references": references, "prompts": files}
    own |= {"data": str(Path(data).resolve()) if data else "", "others": tuple(guard)}
    plan = make_plan(
        recipe_of(benchmark, preset),
        benchmark=benchmark,
        name=name,
        model=model,
        defenses=defense,
        steps=steps,
        guidance=guidance,
        judge=judge,
        **fields_given(benchmark, given, {**own, "n": n or None}),
    )
    if dry:
        cost = costs_of(plan, store, opener(device, dtype, download=download), refit)
        common.emit(cost) if as_json else show_costs(cost)
        return

    opened = open_store(store, create=True)
    plan = plan if name else named(plan, opened)
    say = None if as_json else common.note
    with common.stages(as_json) as update:
        found = run_plan(
            plan,
            opened,
            device=device,
            dtype=dtype,
            download=download,
            refit=refit,
            retry=retry,
            fresh=fresh,
            search_again=search,
            progress=update,
            say=say,
            first=None if as_json else show_first,
        )
    if as_json:
        common.emit({"cells": found[type(plan.benchmark).table], "run": found["run"]})
    else:
        show(found)
        common.note(f"run {plan.name} in {store}; report: genward report {plan.name} --store {store}")
    if found["run"]["errors"]:
        common.note(
            f"{found['run']['errors']} rows ended as errors; they are kept with their reason, and --retry makes them "
            "again"
        )
    empty = unscored(found, type(plan.benchmark).table, type(plan.benchmark).figure)
    for line in empty:
        common.note(f"not scored: {line}")
    if found["run"]["errors"] or empty:
        raise typer.Exit(1)
