"""``genward export``: a model with its weights edited, as a stock diffusers folder."""

from __future__ import annotations

from pathlib import Path

import typer

from genward.cli import common
from genward.errors import BadInput


def main(
    defense: str = typer.Argument(
        ..., metavar="METHOD:CONCEPT", help="A defense that edits weights, as uce:weapons; a+b for a chain."
    ),
    out: Path = typer.Option(..., "--out", "-o", help="New folder."),
    model: str = common.ModelName,
    refit: bool = common.Refit,
    store: Path = common.StoreFolder,
    device: str | None = common.Device,
    dtype: str | None = common.Dtype,
    download: bool = common.Download,
    variant: str = common.Variant,
    as_json: bool = common.Json,
) -> None:
    """Write the model with its edited weights as a stock diffusers folder that loads without genward."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"--out {out}: it is there already and is not an empty folder; name a new folder")

    from genward.catalog.fitting import parse_defense, ready
    from genward.catalog.opening import open_model

    requests = parse_defense(defense)
    opened = open_model(model, device, dtype, download=download, variant=variant)
    chain = ready(requests, opened, store, refit=refit, progress=None if as_json else common.note)
    folder = opened.export(out, chain.defenses)
    if as_json:
        common.emit({"out": str(folder), "model": opened.spec.hash, "defense": defense})
    else:
        common.say(folder)
