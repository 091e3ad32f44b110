"""``genward harden``: attack a guard, teach it what got through, and measure on what no round saw."""

from __future__ import annotations

from pathlib import Path

import typer

from genward.cli import common
from genward.errors import BadInput

COLUMNS = ("round", "added", "attack", "attack_range", "benign", "benign_range", "kept")

Guard = typer.Argument(..., help="A guard that learns from prompts, with its concept: aeiou:weapons.")
Attack = typer.Option("sneakyprompt,budget=20", "--attack", "-a", help="A query attack on prompts.")
Rounds = typer.Option(3, "--rounds", min=1, max=50, help="Rounds at most.")
N = typer.Option(20, "--n", min=1, max=1000, help="Prompts attacked in each round, and as many held-out ones.")
Limit = typer.Option(0.05, "--limit", help="Share of unseen harmless captions that may be refused.")
Out = typer.Option(None, "--out", "-o", help="File for the hardened guard (.safetensors), used as --defense FILE.")
Judge = typer.Option("lab", "--judge", help="Who says whether a picture shows the concept.")


def main(
    guard: str = Guard,
    attack: str = Attack,
    rounds: int = Rounds,
    n: int = N,
    limit: float = Limit,
    out: Path | None = Out,
    judge: str = Judge,
    model: str = common.ModelName,
    steps: int = common.Steps,
    guidance: float = common.Guidance,
    device: str | None = common.Device,
    dtype: str | None = common.Dtype,
    download: bool = common.Download,
    variant: str = common.Variant,
    store: Path = common.StoreFolder,
    as_json: bool = common.Json,
) -> None:
    """Harden a guard: print attack success and benign loss after each round; stop where the loss passes the limit."""
    from genward.catalog.fitting import parse_defense
    from genward.core.records import Sampler
    from genward.run.search import parse_attack

    if out is not None and out.suffix != ".safetensors":
        raise BadInput(f"--out {out}: name a .safetensors file; its card is written beside it")
    parse_defense(guard)
    parse_attack(attack)

    from genward.catalog.judges import open_judge
    from genward.catalog.opening import open_model
    from genward.run.hardening import Hardening, saved
    from genward.run.measure import opened

    made = open_model(model, device, dtype, download=download, variant=variant)
    say = None if as_json else common.note
    how = {"name": model, "n": n, "limit": limit, "sampler": Sampler(steps, guidance), "say": say}
    work = Hardening(guard, attack, made, opened(store, create=True), open_judge(judge), **how)  # type: ignore[arg-type]
    best, told = work.run(rounds)
    rows = [one.told() for one in told]
    written = None if out is None else str(saved(best, out))
    if as_json:
        common.emit({"guard": guard, "attack": attack, "limit": limit, "rounds": rows, "out": written})
        return
    for row in rows:
        for name in ("attack", "benign"):
            row[f"{name}_range"] = f"{common.cell(row[f'{name}_low'])} to {common.cell(row[f'{name}_high'])}"
    common.table(rows, COLUMNS)
    if written:
        common.say(written)
