"""``genward lab``: the embedded model: its card, its figures measured again, the recipe that made it."""

from __future__ import annotations

import typer

from genward.cli import common

app = typer.Typer(help="The embedded model: info, evaluate, build.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def info(as_json: bool = common.Json) -> None:
    """What the embedded model is made of, and its figures as recorded."""
    raise NotImplementedError


@app.command()
def evaluate(as_json: bool = common.Json) -> None:
    """Measure the card's figures again on this machine."""
    raise NotImplementedError


@app.command()
def build(as_json: bool = common.Json) -> None:
    """The recipe: download the icons, train autoencoder, denoiser, judges and oracle. Resumes after a kill."""
    raise NotImplementedError
