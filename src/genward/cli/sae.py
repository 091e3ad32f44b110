"""``genward sae``: what a sparse autoencoder knows of a concept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from genward.cli import common
from genward.core.config import store_folder
from genward.errors import BadInput

app = typer.Typer(help="Sparse autoencoders: show.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _root() -> None:
    """Sparse autoencoders of a model's states (made by genward fit sae)."""


@app.command()
def show(
    concept: str = typer.Argument(..., help="Concept or concept file."),
    out: Path | None = typer.Option(None, "--out", "-o", help="Sheet to write, PNG; by default sae-CONCEPT.png."),
    method: str = typer.Option(
        "saeuron",
        "--method",
        help="How its latent is found: saeuron (by score) or saemnesia (by label); fields after commas.",
    ),
    pictures: int = typer.Option(4, "--pictures", min=1, max=64, help="Lines of the sheet."),
    per: int = typer.Option(6, "--per", min=4, help="Pictures of each class that the figures are taken on."),
    store: Path = typer.Option(
        store_folder,
        "--store",
        "-s",
        show_default=common.WHERE,
        help="Folder whose fits/ keeps the autoencoder.",
    ),
    model: str = common.ModelName,
    device: str | None = common.Device,
    dtype: str | None = common.Dtype,
    as_json: bool = common.Json,
) -> None:
    """Draw where a concept's latent fires over the steps, and print its score, its purity and k-NN on a few latents."""
    from genward.catalog.fitting import parse_defense, template
    from genward.core.records import load_concept

    name, _, options = method.partition(",")
    if name not in ("saeuron", "saemnesia"):
        raise BadInput(f"--method {name}: saeuron or saemnesia find latents")
    about = load_concept(concept)
    settings = template(parse_defense(f"{name}:{concept}" + (f",{options}" if options else ""))[0])
    file = out or Path(f"sae-{about.name}.png")
    if file.suffix.lower() != ".png":
        raise BadInput(f"--out {file}: the sheet is a PNG; end the name in .png")

    from genward.catalog.opening import open_model
    from genward.catalog.sae_view import view

    found = view(
        open_model(model, device, dtype), about, settings, store / "fits", pictures, per,
        None if as_json else common.note,
    )  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    found.sheet.save(file)
    told: dict[str, Any] = {
        "latents": found.rows,
        "neighbors": found.neighbors,
        "steps": found.steps,
        "sheet": str(file),
    }
    if as_json:
        common.emit(told)
        return
    common.table(found.rows, ["target", "latent", "score", "peak", "purity"])
    common.say()
    common.table([found.neighbors], ["best", "random", "all", "chance", "latents"])
    common.say(f"\n{file}: the picture, then its steps {', '.join(str(s + 1) for s in found.steps)}")
