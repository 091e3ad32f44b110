"""``genward attack``: one attack on one arm, its cost said first, success before and after."""

from __future__ import annotations

from pathlib import Path

import typer

from genward.cli import common

COLUMNS = ("pre", "success", "queries", "status", "prompt", "found")
SHARES = ("pre", "success", "total")

Name = typer.Argument(..., help="As unlearndiffatk, or sneakyprompt,budget=30 (genward list attacks).")
Defense = typer.Option("", "--defense", "-d", help="The arm: uce:weapons, a+b for a chain; none for the model alone.")
Concept = typer.Option("weapons", "--concept", "-c", help="What is to come back: a concept or its file.")
N = typer.Option(5, "--n", min=1, max=1000, help="Prompts that are attacked.")
Seed = typer.Option(0, "--seed", min=0, max=2**31, help="Another number gives other starting noise.")
Judge = typer.Option("lab", "--judge", help="Who says whether a picture shows the concept.")
References = typer.Option("", "--references", help="Folder with one folder of pictures per concept.")
Again = typer.Option(False, "--search", help="Search again, even where the store holds what was found.")


def main(
    name: str = Name,
    defense: str = Defense,
    concept: str = Concept,
    n: int = N,
    seed: int = Seed,
    model: str = common.ModelName,
    judge: str = Judge,
    steps: int = common.Steps,
    guidance: float = common.Guidance,
    references: str = References,
    again: bool = Again,
    device: str | None = common.Device,
    dtype: str | None = common.Dtype,
    download: bool = common.Download,
    variant: str = common.Variant,
    store: Path = common.StoreFolder,
    as_json: bool = common.Json,
) -> None:
    """Attack one arm: say what it will cost, then print success before, of the attack and in total, and the prompts."""
    from genward.catalog.fitting import parse_defense
    from genward.core.records import Sampler, load_concept
    from genward.run.search import parse_attack

    parse_attack(name)
    load_concept(concept)
    chain = "" if defense == "none" else defense
    if chain:
        parse_defense(chain)
    sampler = Sampler(steps, guidance)

    from genward.catalog.judges import open_judge
    from genward.catalog.opening import open_model
    from genward.run.attacking import attack_once
    from genward.run.measure import opened

    who = open_judge(judge)
    made = open_model(model, device, dtype, download=download, variant=variant)
    settings = {"name": model, "defense": chain, "concept": concept, "n": n, "seed": seed, "references": references}
    say = None if as_json else common.note
    found = attack_once(
        name, made, opened(store, create=True), who, sampler=sampler, again=again, say=say, **settings  # type: ignore[arg-type]
    )  # fmt: skip
    if as_json:
        common.emit(found)
        return
    common.table(found["rows"], COLUMNS)
    for key in SHARES:
        low, high = common.cell(found[f"{key}_low"]), common.cell(found[f"{key}_high"])
        of = found["n_attacked"] if key == "success" else found["n"]
        common.say(f"{key:8} {common.cell(found[key])} ({low} to {high}) of {of}")
    cost = found["cost"]
    common.note(f"{cost['nfe']:,.0f} denoiser rows, {cost['pictures']:,.0f} pictures, {cost['seconds']:.0f} s")
    if found["vanished"]:
        common.note(
            f"the gradient was zero on {100 * found['vanished']:.0f} % of the prompts: this figure tells nothing about "
            "the defense; try sneakyprompt or paraphrase"
        )
