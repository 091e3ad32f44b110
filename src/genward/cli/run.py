"""``genward run``: plan, generate, judge, measure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import typer

from genward.cli import common
from genward.errors import BadInput

if TYPE_CHECKING:
    from genward.catalog.opening import Opener
    from genward.run.plan import Plan


Benchmark = typer.Argument("erasure", help="Benchmark to run; see genward list benchmarks.")
Preset = typer.Option(
    "", "--preset", "-p", help="quick (the default), standard, full, or a recipe file; see genward list recipes."
)
Name = typer.Option(
    "",
    "--name",
    help="Name of the run; by default benchmark and preset, or the recipe file's; a hash where the store has another.",
)
Model = typer.Option("", "--model", "-m", help="lab, a hub id or a folder; by default the recipe's.")
Concept = typer.Option([], "--concept", "-c", help="Concept or file, instead of the recipe's; may be repeated.")
Defense = typer.Option(
    [],
    "--defense",
    "-d",
    help="Instead of the recipe's arms, as uce:{concept} or label=uce:weapons; may be repeated.",
)
Rows = typer.Option(0, "--n", min=0, help="Rows per cell; 0 takes the recipe's.")
Given = typer.Option([], "--set", help="A field of the benchmark, as n=24 or variants=name;scene; may be repeated.")
Steps = typer.Option(0, "--steps", min=0, max=1000, help="Sampling steps; 0 takes the recipe's.")
Guidance = typer.Option(None, "--guidance", "-g", min=0, max=100, help="Guidance; by default the recipe's.")
Seed = typer.Option(None, "--seed", min=0, help="Another number gives other starting noise everywhere.")
Judge = typer.Option("", "--judge", "-j", help="Judge to use; by default the recipe's. See genward list judges.")
Second = typer.Option(
    "", "--second", help="Second judge that sees every picture too, none for none; on the lab its other one."
)
Labels = typer.Option(
    "", "--labels-by", help="Judge that labels what defenses learn from and filters; the lab's that does not score."
)
References = typer.Option(
    "",
    "--references",
    help="Folder of reference pictures, one folder a concept (for m-erasure on a model of one's own).",
)
Prompts = typer.Option(
    [],
    "--prompts",
    help="CSV of prompts instead of a concept's own, as rows.csv or rows.csv,concept=church,harm=object:church; "
    "may be repeated.",
)
Data = typer.Option("", "--data", help="Folder of prompt sets, for prompt-guard.")
Guard = typer.Option(
    [],
    "--guard",
    help="For prompt-guard, beside ours: text_classifier,model=…,labels=… or moderation,url=… (is sent the prompts); "
    "may be repeated.",
)
Retry = typer.Option(False, "--retry", help="Make rows again that ended as errors.")
Fresh = typer.Option(False, "--fresh", help="Make every row again, and score it, in place of those that are there.")
Search = typer.Option(False, "--search", help="Search attacks again, even where found ones are at hand.")
Dry = typer.Option(False, "--dry-run", help="Say what it costs here, build every chain, open every judge, and stop.")


SPENT = {"nfe": "denoiser rows"}
"""Names of costs in words."""


def show_costs(costs: Mapping[str, Any]) -> None:
    """The dry run's table, printed: the whole run by arm, then what is left of it on this machine."""
    from genward.run.outlook import in_words

    common.table(costs["arms"], ["arm", "rows", *costs["costs"]])
    spent = "".join(f", {costs[name]:,} {SPENT.get(name, name)}" for name in costs["costs"])
    common.say(f"{costs['plan']}: {costs['rows']:,} rows{spent} in all")
    common.say(in_words(costs["left"]))


def at_hand(plan: Plan, models: Opener, store: Any) -> Plan:
    """The plan without optional arms that are not fitted; each is named on stderr."""
    from genward.run.optional import fitted

    return fitted(plan, models, store, common.note)


def costs_of(plan: Plan, store: Path, models: Opener, refit: bool) -> dict[str, Any]:
    """``costs.dry_run``, with ``costs.expected`` for the store as ``left``; a store that does not exist holds nothing
    and is not made."""
    from genward.run.costs import dry_run
    from genward.run.outlook import expected
    from genward.run.storing import open_store

    def told(held: Any) -> dict[str, Any]:
        mine = at_hand(plan, models, held)
        return {**dry_run(mine), "left": expected(mine, models, held, refit=refit)}

    if (store / "schema.json").is_file():
        return told(open_store(store))
    with TemporaryDirectory() as folder:
        return told(open_store(folder, create=True))


def show_first(metrics: Mapping[str, Any]) -> None:
    """The table of the rows that no search added."""
    show({**metrics, "cells": [c for c in metrics["cells"] if c.get("n", 1) or c.get("n_unscored")]})
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
    benchmark: str = Benchmark,
    preset: str = Preset,
    name: str = Name,
    model: str = Model,
    concept: list[str] = Concept,
    defense: list[str] = Defense,
    n: int = Rows,
    given: list[str] = Given,
    steps: int = Steps,
    guidance: float | None = Guidance,
    seed: int | None = Seed,
    judge: str = Judge,
    second: str = Second,
    labels_by: str = Labels,
    references: str = References,
    prompts: list[str] = Prompts,
    data: str = Data,
    guard: list[str] = Guard,
    store: Path = common.StoreFolder,
    refit: bool = common.Refit,
    retry: bool = Retry,
    fresh: bool = Fresh,
    search: bool = Search,
    dry: bool = Dry,
    device: str | None = common.Device,
    dtype: str | None = common.Dtype,
    variant: str = common.Variant,
    download: bool = common.Download,
    as_json: bool = common.Json,
) -> None:
    """Run a benchmark: plan, generate, judge, measure. What is finished is kept; the same command resumes."""
    from genward.catalog.opening import opener
    from genward.catalog.plugins import entry
    from genward.run.loop import named
    from genward.run.plan import make_plan
    from genward.run.recipes import recipe_of
    from genward.run.storing import open_store

    benchmark = entry("benchmark", benchmark).name
    own = {"concepts": tuple(concept), "n": n or None, "seed": seed, "references": references}
    own |= {"prompts": full_paths(prompts), "data": str(Path(data).resolve()) if data else "", "others": tuple(guard)}
    names = {"name": name, "model": model, "judge": judge, "second": second, "labels_by": labels_by}
    plan = make_plan(
        recipe_of(benchmark, preset),
        benchmark=benchmark,
        defenses=defense,
        steps=steps,
        guidance=guidance,
        **names,
        **fields_given(benchmark, given, own),
    )
    models = opener(device, dtype, download=download, variant=variant)
    if dry:
        return (common.emit if as_json else show_costs)(costs_of(plan, store, models, refit))
    opened = open_store(store, create=True)
    plan = at_hand(plan, models, opened) if name else named(at_hand(plan, models, opened), opened)
    found = worked_off(plan, opened, as_json, models=models, refit=refit, retry=retry, fresh=fresh, search_again=search)
    if finish(plan, found, store, as_json):
        raise typer.Exit(1)


def worked_off(plan: Plan, store: Any, quiet: bool, **how: Any) -> dict[str, Any]:
    """``run_plan`` with progress, words and first figures for a person, unless quiet."""
    from genward.run.loop import run_plan

    say, first = (None, None) if quiet else (common.note, show_first)
    with common.stages(quiet) as update:
        return run_plan(plan, store, progress=update, say=say, first=first, **how)


def full_paths(prompts: list[str]) -> tuple[str, ...]:
    """CSV entries, ``rows.csv,field=value``, with the whole path, so that the plan can be read from anywhere."""
    return tuple(",".join([str(Path(path).resolve()), *rest]) for path, *rest in (text.split(",") for text in prompts))


def finish(plan: Plan, found: dict[str, Any], store: Path, as_json: bool) -> bool:
    """Print a run's tables; whether rows ended as errors or a column was not scored."""
    from genward.run.known import unscored
    from genward.run.second import same_eye

    if as_json:
        common.emit({"cells": found[type(plan.benchmark).table], "run": found["run"]})
    else:
        show(found)
        common.note(f"run {plan.name} in {store}; report: genward report {plan.name} --store {store}")
    for line in same_eye(found):
        common.note(f"{line}: labelled or filtered by the judge that scores it")
    if found["run"]["errors"]:
        common.note(
            f"{found['run']['errors']} rows ended as errors; they are kept with their reason, and --retry makes them "
            "again"
        )
    empty = unscored(found, type(plan.benchmark).table, type(plan.benchmark).figure)
    for line in empty:
        common.note(f"not scored: {line}")
    return bool(found["run"]["errors"] or empty)
