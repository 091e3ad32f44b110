"""``genward backdoor``: make a backdoor fixture on the lab, and say whether it passed its gate."""

from __future__ import annotations

from pathlib import Path

import typer

from genward.cli import common
from genward.errors import BadInput

FIGURES = (
    *("fixture", "passed", "attack_success", "similarity", "similarity_through_maps", "clean_accuracy"),
    *("clean_accuracy_before", "n", "seconds"),
)


def main(
    name: str = typer.Argument(
        "",
        metavar="[FIXTURE]",
        help="rickrolling, personalization, evil_edit, dreambooth, villan, badt2i or semantic; none makes all.",
    ),
    out: Path = typer.Option(
        Path("backdoors"), "--out", "-o", help="Folder for what is made: FIXTURE.safetensors and its card."
    ),
    option: list[str] = typer.Option([], "--set", help="A field of the fixture, as steps=40; may be repeated."),
    n: int = typer.Option(0, "--n", min=0, help="Pictures of each kind at the gate; 0 takes 24."),
    checkpoint: Path | None = typer.Option(
        None, "--checkpoint", help="Folder to save the poisoned pipeline in, as a checkpoint in safetensors."
    ),
    as_json: bool = common.Json,
) -> None:
    """Make a poisoned copy of the lab with a harmless target, to try defenses on. Open it as backdoor:OUT/FIXTURE.

    Exit code 1: a fixture failed its gate; its figures are printed, and it cannot be opened."""
    from genward.catalog import backdoors
    from genward.catalog.judges import open_judge
    from genward.catalog.opening import open_model, words_of

    names = [name] if name else backdoors.fixture_names()
    if checkpoint is not None and len(names) > 1:
        raise BadInput("--checkpoint is the folder of one fixture's pipeline; name the fixture")
    rows = []
    for one in names:
        made = backdoors.make(
            one,
            lambda: open_model("lab"),
            words_of("lab"),
            open_judge("lab"),
            out / one,
            n=n or backdoors.ROWS,
            say=None if as_json else common.note,
            settings=backdoors.settings_of(one, option),
        )
        rows.append({**made.card["gate"], "seconds": made.card["seconds"], "hash": made.hash})
    if as_json:
        common.emit({"out": str(out), "fixtures": rows})
    else:
        common.table(rows, FIGURES)
        for row in rows:
            if row["why"]:
                common.note(f"{row['fixture']} failed its gate: {row['why']}")
    if any(not row["passed"] for row in rows):
        raise typer.Exit(1)
    if checkpoint is not None:
        open_model(f"{backdoors.PREFIX}{out / names[0]}").pipe.save_pretrained(checkpoint, safe_serialization=True)
        common.say(checkpoint)
