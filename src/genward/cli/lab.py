"""``genward lab``: the embedded model: its card, its figures measured again, the recipe that made it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import typer

from genward.cli import common
from genward.core.files import json_text, write_file
from genward.errors import BadArtifact

app = typer.Typer(help="The embedded model: info, evaluate, build.", no_args_is_help=True, rich_markup_mode=None)

MEASURED = "measured"
"""Key of the card under which the evaluation's figures stand."""


def card_file() -> Path:
    """Where the model card of the embedded model lies."""
    return Path(str(resources.files("genward").joinpath("lab", "weights", "card.json")))


def read_card() -> dict[str, Any]:
    """The model card. Raises ``BadArtifact`` where it is missing or damaged."""
    try:
        found: dict[str, Any] = dict(json.loads(card_file().read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise BadArtifact(
            f"the lab's card {card_file()} cannot be read ({type(error).__name__}); reinstall genward, or make the "
            "lab: genward lab build"
        ) from error
    return found


def figure_rows(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The evaluation's figures as table rows: group, what was looked at, value, interval, n."""
    rows = []
    for group, line in figures.get("groups", {}).items():
        rows += [{"group": group, "figure": name, **rate} for name, rate in line.items() if isinstance(rate, Mapping)]
    rows += [
        {"group": "oracle's concepts", "figure": f"seen in {which}", **rate}
        for which, rate in figures.get("oracle", {}).items()
    ]
    return [{**r, "interval": f"{r['low']:.3f} … {r['high']:.3f}"} for r in rows]


def show_figures(figures: Mapping[str, Any]) -> None:
    """Print the evaluation's figures."""
    common.table(figure_rows(figures), ["group", "figure", "value", "interval", "n"])
    for key in ("psnr_db", "images_per_second"):
        if key in figures:
            common.say(f"{key.replace('_', ' ')}: {common.cell(figures[key])}")


def plain(value: Any, indent: str = "") -> list[str]:
    """A card as indented lines."""
    if not isinstance(value, Mapping):
        return [f"{indent}{common.cell(value)}"]
    lines = []
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            lines += [f"{indent}{key}:", *plain(inner, indent + "  ")]
        else:
            text = ", ".join(map(str, inner)) if isinstance(inner, list) else common.cell(inner)
            lines.append(f"{indent}{key}: {text}")
    return lines


@app.command()
def info(as_json: bool = common.Json) -> None:
    """What the embedded model is made of, and its figures as recorded."""
    card = read_card()
    if as_json:
        common.emit(card)
        return
    common.say("\n".join(plain({k: v for k, v in card.items() if k != MEASURED})))
    if MEASURED in card:
        common.say("\nmeasured (again: genward lab evaluate):")
        show_figures(card[MEASURED])


@app.command()
def evaluate(
    per: int = typer.Option(100, "--per", min=2, max=10_000, help="Pictures a group; about ten times as many in all."),
    seed: int = typer.Option(0, "--seed", min=0, help="Another number draws other prompts and noise."),
    write: bool = typer.Option(
        False, "--write", help="Put the figures into the card that is shipped (for those who build the lab)."
    ),
    as_json: bool = common.Json,
) -> None:
    """Measure the card's figures again on this machine, from prompts to judged pictures."""
    card = read_card()
    from genward.recipe.evaluate import evaluate as measure

    with common.stages(as_json) as update:
        figures = measure(per, seed, progress=lambda done, total: update("drawing", done, total))
    if write:
        write_file(card_file(), json_text({**card, MEASURED: figures}))
    if as_json:
        common.emit(figures)
    else:
        show_figures(figures)


@app.command()
def build(
    stage: list[str] = typer.Option(
        [],
        "--stage",
        help="Stage to run: data, autoencoder, unet, judge, oracles, references, package, erasers, guards, keep; "
        "all by default.",
    ),
    work: Path = typer.Option(Path("lab-build"), "--work", "-w", help="Folder for checkpoints and results."),
    icons: Path | None = typer.Option(None, "--icons", help="Folder with the icon sets, instead of fetching them."),
    minutes: float | None = typer.Option(
        None, "--minutes", min=0, help="Minutes for each part that is trained, instead of the recipe's."
    ),
    steps: int | None = typer.Option(None, "--steps", min=1, help="Exact steps for the denoiser's parts."),
    scale: float = typer.Option(1.0, "--scale", min=0, help="Factor on the recipe's minutes."),
    second: bool = typer.Option(
        False,
        "--second",
        help="The lab that comes with genward: more wordings and samples; needs an accelerator.",
    ),
    as_json: bool = common.Json,
) -> None:
    """Make the embedded model: icons, autoencoder, denoiser, judges, oracle, package. The same command resumes after a
    kill."""
    from genward.recipe.build import STAGES
    from genward.recipe.build import build as make

    with common.stages(as_json) as update:
        make(
            tuple(stage) or STAGES,
            work=work,
            icons=icons,
            minutes=minutes,
            steps=steps,
            scale=scale,
            second=second,
            report=lambda name, done, whole, text: update(f"{name} (s)", int(done), max(1, int(whole))),
        )
    if as_json:
        common.emit({"work": str(work), "stages": stage or list(STAGES)})
    else:
        common.say(work)
