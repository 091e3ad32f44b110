"""``genward run``: plan, generate, judge, measure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from genward.cli import common
from genward.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from genward.run.plan import Plan

PRESETS = ("quick", "standard", "full")
COLUMNS = (
    "arm",
    "concept",
    "variant",
    "crr",
    "interval",
    "n",
    "n_unscored",
    "retention",
    "drift",
    "frechet",
    "seconds_per_image",
    "extra_nfe",
)

GUARD_COLUMNS = (
    "arm", "policy", "unsafe_released", "interval", "n", "benign_blocked", "n_benign", "accuracy", "nfe_per_released", "nfe_per_blocked", "seconds_per_image",
)  # fmt: skip
PROMPT_COLUMNS = (
    "guard",
    "dataset",
    "split",
    "auroc",
    "low",
    "high",
    "auprc",
    "accuracy",
    "tpr_at_fpr1",
    "tpr_at_fpr5",
    "fpr",
    "n",
    "ms_per_prompt",
)


def recipe_of(benchmark: str, preset: str) -> str:
    """``erasure``, ``quick`` -> ``erasure-quick``; the path of a recipe file stays as it is."""
    if preset.endswith(".toml"):
        return preset
    if preset not in PRESETS:
        raise UnknownName("preset", preset, PRESETS)
    return f"{benchmark}-{preset}"


def show_costs(costs: Mapping[str, Any]) -> None:
    """The dry run's table, printed."""
    common.table(costs["arms"], ["arm", "rows", "nfe"])
    common.say(
        f"{costs['plan']}: {costs['rows']:,} images, {costs['nfe']:,} denoiser rows, about {costs['minutes']} "
        f"minutes at {costs['rate']:.3g} rows a second"
    )


def rate_of(plan: Plan, device: str | None, dtype: str | None, download: bool) -> float | None:
    """Denoiser rows a second: recorded for the lab on a CPU (``None``), measured for any other model or device."""
    from genward.catalog.opening import LAB, open_model
    from genward.run.plan import measured_rate

    if plan.model in LAB and device is None:
        return None
    return measured_rate(open_model(plan.model, device, dtype, download=download))


def show_cells(cells: list[dict[str, Any]]) -> None:
    """The matrix as text."""
    rows = [
        {**c, "interval": "-" if c.get("crr_low") is None else f"{c['crr_low']:.2f} … {c['crr_high']:.2f}"}
        for c in cells
    ]
    common.table(rows, COLUMNS)


def show_guards(cells: list[dict[str, Any]]) -> None:
    """The guards' table as text."""
    rows = [{**c, "interval": "-" if c.get("low") is None else f"{c['low']:.2f} … {c['high']:.2f}"} for c in cells]
    common.table(rows, GUARD_COLUMNS)


def prompt_guard(data: Path | None, out: Path, limit: int, seed: int, guards: list[str], as_json: bool) -> None:
    """``genward run prompt-guard``: prompt guards on the prompt sets of a folder; no picture is made."""
    from genward.run.prompt_guard import SPLITS, run_prompt_guard

    if data is None:
        raise BadInput("prompt-guard reads prompt sets from a folder; name it with --data")
    from genward.run.moderation import adapter
    from genward.run.results import command_line, provenance

    others = [adapter(text) for text in guards]
    with common.stages(as_json) as update:
        found = run_prompt_guard(data, out=out, limit=limit or None, seed=seed, progress=update, others=others)
    found["run"] |= provenance(command_line())
    if as_json:
        common.emit(found)
        return
    common.table([c for c in found["cells"] if not c["category"]], PROMPT_COLUMNS)
    common.table(
        [{"guard": guard, **row} for guard, row in found["run"]["means"].items()],
        ["guard", *(f"auroc_{s}{end}" for s in SPLITS for end in ("", "_pool"))],
    )
    common.note(
        "the second table has mean AUROC over sets; _pool: over sets of harmful rows only, against benign rows of "
        "others. --json has each category too"
    )


def main(
    benchmark: str = typer.Argument("erasure", help="Benchmark to run; see genward list benchmarks."),
    preset: str = typer.Option("quick", "--preset", "-p", help="quick, standard, full, or a recipe file."),
    name: str = typer.Option("", "--name", help="Name of the run; by default the recipe's."),
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
    n: int = typer.Option(0, "--n", min=0, help="Images a cell; 0 takes the recipe's."),
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
    data: Path | None = typer.Option(None, "--data", help="Folder of prompt sets, for prompt-guard."),
    out: Path = typer.Option(
        Path("prompt-guard"), "--out", "-o", help="Folder for what prompt-guard encodes and finds."
    ),
    guard: list[str] = typer.Option(
        [],
        "--guard",
        help="For prompt-guard, beside ours: text_classifier,model=…,labels=… or moderation,url=… (is sent the prompts); may be repeated.",
    ),
    store: Path = common.StoreFolder,
    refit: bool = common.Refit,
    retry: bool = typer.Option(False, "--retry", help="Make rows again that ended as errors."),
    dry: bool = typer.Option(False, "--dry-run", help="Say what it costs and stop."),
    device: str | None = common.Device,
    dtype: str | None = common.Dtype,
    download: bool = common.Download,
    as_json: bool = common.Json,
) -> None:
    """Run a benchmark: plan, generate, judge, measure. What is finished is kept; the same command resumes."""
    if benchmark == "prompt-guard":
        given = {
            "--preset": preset != "quick",
            "--model": model,
            "--concept": concept,
            "--defense": defense,
            "--prompts": prompts,
            "--judge": judge,
        }
        given |= {
            "--name": name,
            "--steps": steps,
            "--guidance": guidance is not None,
            "--references": references,
            "--refit": refit,
            "--retry": retry,
        }
        unused = [key for key, value in {**given, "--dry-run": dry}.items() if value]
        if unused:
            raise BadInput(
                f"prompt-guard makes no pictures and has no use for {', '.join(unused)}; leave it out (--data, --out, "
                "--n and --seed are its own)"
            )
        prompt_guard(data, out, n, seed or 0, guard, as_json)
        return
    from genward.catalog.plugins import entry
    from genward.run.loop import costs, run_plan
    from genward.run.plan import make_plan

    entry("benchmark", benchmark)
    recipe = recipe_of(benchmark, preset)
    plan = make_plan(
        recipe,
        name=name,
        model=model,
        concepts=concept,
        defenses=defense,
        n=n,
        steps=steps,
        guidance=guidance,
        seed=seed,
    )
    files = tuple(",".join([str(Path(path).resolve()), *rest]) for path, *rest in (text.split(",") for text in prompts))
    plan = replace(
        plan, judge=judge or plan.judge, references=references or plan.references, prompts=files or plan.prompts
    )
    if dry:
        cost = costs(plan, rate_of(plan, device, dtype, download))
        common.emit(cost) if as_json else show_costs(cost)
        return

    say = None if as_json else common.note
    with common.stages(as_json) as update:
        found = run_plan(
            plan,
            store,
            device=device,
            dtype=dtype,
            download=download,
            refit=refit,
            retry=retry,
            progress=update,
            say=say,
        )
    cells = found.get("guards") or found["cells"]
    if as_json:
        common.emit({"cells": cells, "run": found["run"]})
    else:
        show_guards(cells) if "guards" in found else show_cells(cells)
        common.note(f"run {plan.name} in {store}; report: genward report {plan.name} --store {store}")
    if found["run"]["errors"]:
        common.note(
            f"{found['run']['errors']} rows ended as errors; they are kept with their reason, and --retry makes them "
            "again"
        )
        raise typer.Exit(1)
