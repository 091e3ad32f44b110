"""``genward fit``: let a defense learn a concept, and keep what it learned as a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer

from genward.cli import common
from genward.core.config import store_folder
from genward.errors import BadInput


def stem_of(out: Path) -> Path:
    """The path without ``.safetensors``; ``BadInput`` for another suffix, which would not be what is written."""
    if out.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"):
        raise BadInput(
            f"--out {out}: what is written is safetensors and a JSON card, never a pickle; end the name in .safetensors"
        )
    return out.with_suffix("") if out.suffix == ".safetensors" else out


def _autoencoder(
    settings: dict[str, Any],
    concepts: Sequence[str],
    store: Path,
    opened: Callable[[], Any],
    as_json: bool,
) -> None:
    """``genward fit sae``: into the store, where the methods that stand on it look for it."""
    from genward.catalog.autoencoder import fit_autoencoder, settings_of
    from genward.core.records import load_concept

    about = [load_concept(c) for c in concepts]
    wanted = settings_of(settings)
    found = fit_autoencoder(opened(), wanted, store / "fits", about, None if as_json else common.note)
    held = found.card["held"]
    if as_json:
        common.emit({"store": str(store), "hash": found.hash, "card": dict(found.card)})
        return
    common.say(
        f"{found.card['site']}: {len(found.tensors['encoder'])} latents, k {found.card['k']}; on held-out pictures "
        f"{held['fvu']:.3f} of the variance unexplained, {held['l0']:.1f} latents a token, {held['dead']:.1%} dead"
    )


def main(
    method: str = typer.Argument(
        ...,
        help="A defense that learns; fields after commas, as in esd,variant=u. Or sae: what saeuron, saemnesia and "
        "per share.",
    ),
    concept: list[str] = typer.Option(
        [], "--concept", "-c", help="Concept or concept file; of sae, only where the model has no vocabulary."
    ),
    out: Path | None = typer.Option(
        None, "--out", "-o", help="File to write, as in fitted/esd.safetensors; its card goes beside it."
    ),
    site: str = typer.Option("", "--site", help="Of sae: the place in the denoiser (genward show model lab)."),
    expansion: int = typer.Option(0, "--expansion", min=0, help="Of sae: latents for each channel of the site."),
    k: int = typer.Option(0, "--k", min=0, help="Of sae: latents of a token that are not zero."),
    images: int = typer.Option(0, "--images", min=0, help="Of sae: pictures to learn from."),
    epochs: int = typer.Option(0, "--epochs", min=0, help="Of sae: times that every state is seen."),
    store: Path = typer.Option(
        store_folder,
        "--store",
        "-s",
        show_default=common.WHERE,
        help="Folder whose fits/ keeps what several methods share.",
    ),
    model: str = common.ModelName,
    device: str | None = common.Device,
    dtype: str | None = common.Dtype,
    download: bool = common.Download,
    variant: str = common.Variant,
    as_json: bool = common.Json,
) -> None:
    """Fit a defense on a concept and write what it learned: safetensors and a JSON card. Use it with --defense FILE."""
    given = {"site": site, "expansion": expansion, "k": k, "images": images, "epochs": epochs}
    settings = {name: value for name, value in given.items() if value}

    def opened() -> Any:
        from genward.catalog.opening import open_model

        return open_model(model, device, dtype, download=download, variant=variant)

    if method == "sae":
        if out is not None:
            raise BadInput("a sparse autoencoder goes to the store, where the methods look for it; leave out --out")
        _autoencoder(settings, concept, store, opened, as_json)
        return
    if settings:
        raise BadInput(
            f"--{next(iter(settings))} is for genward fit sae; a method's own fields stand behind its name: "
            f"{method},{next(iter(settings))}=…"
        )
    if len(concept) != 1 or out is None:
        raise BadInput("name one concept (--concept weapons) and a file to write (--out fitted/esd.safetensors)")
    _method(method, concept[0], out, store, opened, as_json)


def _method(method: str, concept: str, out: Path, store: Path, opened: Callable[[], Any], as_json: bool) -> None:
    stem = stem_of(out)
    from genward.catalog.fitting import fit_artifact, parse_defense, template
    from genward.core.defending import artifact_field
    from genward.core.records import load_concept

    name, _, options = method.partition(",")
    requests = parse_defense(f"{name}:{concept}" + (f",{options}" if options else ""))
    if len(requests) != 1 or requests[0].artifact:
        raise BadInput(f"method {method!r}: name one defense that learns, as in uce (genward list defenses)")
    about = load_concept(concept)
    defense = template(requests[0])
    if artifact_field(defense) is None:
        raise BadInput(
            f"defense {name!r} learns nothing, so there is nothing to fit; use it as it is: --defense {name}:{concept}"
        )
    artifact = fit_artifact(name, defense, about, opened(), stem, None if as_json else common.note, store / "fits")
    path = stem.with_name(stem.name + ".safetensors")
    if as_json:
        common.emit({"out": str(path), "hash": artifact.hash, "card": dict(artifact.card)})
    else:
        common.say(path)
