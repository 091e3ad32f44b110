"""``genward fit``: let a defense learn a concept, and keep what it learned as a file."""

from __future__ import annotations

from pathlib import Path

import typer

from genward.cli import common
from genward.errors import BadInput


def stem_of(out: Path) -> Path:
    """The path without ``.safetensors``; ``BadInput`` for another suffix, which would not be what is written."""
    if out.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"):
        raise BadInput(
            f"--out {out}: what is written is safetensors and a JSON card, never a pickle; end the name in .safetensors"
        )
    return out.with_suffix("") if out.suffix == ".safetensors" else out


def main(
    method: str = typer.Argument(..., help="A defense that learns; fields after commas, as in esd,variant=u."),
    concept: str = typer.Option(..., "--concept", "-c", help="Concept or concept file."),
    out: Path = typer.Option(
        ..., "--out", "-o", help="File to write, as in fitted/esd.safetensors; its card goes beside it."
    ),
    model: str = common.ModelName,
    device: str | None = common.Device,
    dtype: str | None = common.Dtype,
    download: bool = common.Download,
    variant: str = common.Variant,
    as_json: bool = common.Json,
) -> None:
    """Fit a defense on a concept and write what it learned: safetensors and a JSON card. Use it with --defense FILE."""
    stem = stem_of(out)
    from genward.catalog.fitting import parse_defense
    from genward.core.records import load_concept

    name, _, options = method.partition(",")
    requests = parse_defense(f"{name}:{concept}" + (f",{options}" if options else ""))
    if len(requests) != 1 or requests[0].artifact:
        raise BadInput(f"method {method!r}: name one defense that learns, as in uce (genward list defenses)")
    about = load_concept(concept)

    from genward.catalog.fitting import fit_artifact, template
    from genward.catalog.opening import open_model
    from genward.core.defending import artifact_field

    defense = template(requests[0])
    if artifact_field(defense) is None:
        raise BadInput(
            f"defense {name!r} learns nothing, so there is nothing to fit; use it as it is: --defense {name}:{concept}"
        )
    opened = open_model(model, device, dtype, download=download, variant=variant)
    artifact = fit_artifact(name, defense, about, opened, stem, None if as_json else common.note)
    path = stem.with_name(stem.name + ".safetensors")
    if as_json:
        common.emit({"out": str(path), "hash": artifact.hash, "card": dict(artifact.card)})
    else:
        common.say(path)
