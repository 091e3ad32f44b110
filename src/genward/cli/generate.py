"""``genward generate``: pictures from prompts, with or without defenses, side by side where there are several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from genward.cli import common
from genward.core.files import written
from genward.errors import BadInput

if TYPE_CHECKING:
    from PIL.Image import Image

    from genward.core.records import Case, Sample

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
GAP = 4
"""Pixels between the pictures of a grid."""


def columns_for(count: int) -> int:
    """Columns of a grid a little wider than high."""
    return min(count, max(1, round(math.sqrt(count) * 1.4)))


def grid(images: Sequence[Image | None], columns: int) -> Image:
    """Pictures of one size, row by row on white; a gray field where a row was refused or failed.

    Raises:
        ValueError: there is no picture at all.
    """
    from PIL import Image as Pillow

    width, height = next((i.size for i in images if i is not None), (0, 0))
    if not width:
        raise ValueError("a grid wants at least one picture")
    rows = -(-len(images) // columns)
    sheet = Pillow.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), "white")
    for k, image in enumerate(images):
        corner = (k % columns * (width + GAP), k // columns * (height + GAP))
        sheet.paste(image if image is not None else Pillow.new("RGB", (width, height), "#999999"), corner)
    return sheet


def _draw(images: Sequence[Image | None], out: Path, columns: int) -> None:
    """One picture as it is, several as a grid, into a file."""
    sheet = (images[0] if len(images) == 1 else None) or grid(images, columns)
    with written(out) as path:
        sheet.save(path)


def cases_of(prompts: Sequence[str], seed: int, n: int, negative: str) -> list[Case]:
    """``n`` cases a prompt, seeds counting up from ``seed``; ``BadInput`` for an empty prompt or one that is no
    text."""
    from genward.core.records import Case

    for prompt in prompts:
        if not prompt.strip():
            raise BadInput("the prompt is empty; say what to draw, as in 'a cat in twemoji style'")
    return [
        Case(f"cli/{k}/{j}", p, seed=seed + j, negative=negative).checked()
        for k, p in enumerate(prompts)
        for j in range(n)
    ]


def told(defense: str, sample: Sample) -> dict[str, Any]:
    """One row of the JSON."""
    case = sample.case
    row = {"defense": defense, "prompt": case.prompt, "seed": case.seed, "status": sample.status, "why": sample.why}
    return {**row, "arm": sample.arm, "seconds": sample.seconds, "nfe": sample.nfe}


def spoken(model: str) -> bool:
    """Whether a model makes sound; known from its name."""
    from genward.catalog.opening import family_of

    return family_of(model).makes == "audio"


def _speak(prompts: Sequence[str], out: Path, defenses: Sequence[str], name: str, seed: int, as_json: bool) -> None:
    """One prompt as a WAV file, from a speech service behind at most one chain of defenses."""
    from genward.catalog.fitting import parse_defense, ready
    from genward.catalog.opening import open_model

    if out == DEFAULT_OUT:
        out = out.with_suffix(".wav")
    if out.suffix.lower() != ".wav":
        raise BadInput(f"--out {out}: {name} makes sound; the name of its file ends in .wav")
    if len(prompts) != 1 or len(defenses) != 1:
        raise BadInput(
            f"{len(prompts)} prompts and {len(defenses)} chains; a file holds the sound of one prompt behind one chain"
        )
    model = open_model(name)
    chain = ready(parse_defense(defenses[0]), model, None)
    (sample,) = model.generate(cases_of(prompts, seed, 1, ""), defenses=chain.defenses)
    if sample.audio is not None:
        with written(out) as path:
            path.write_bytes(sample.audio.encoded())
    if as_json:
        common.emit({"out": str(out) if sample.audio else None, "samples": [told(defenses[0], sample)]})
    elif sample.audio is not None:
        common.say(out)
    else:
        common.note(f"{sample.status}: {sample.why}")
    if sample.status == "error":
        raise typer.Exit(1)


DEFAULT_OUT = Path("genward.png")
Prompt = typer.Argument(..., help="What to draw, as in 'a cat in twemoji style'; several make columns.")
Out = typer.Option(DEFAULT_OUT, "--out", "-o", help="Picture to write.")
Defense = typer.Option(
    ["none"],
    "--defense",
    "-d",
    help="As uce:weapons, sld:weapons,preset=strong, a+b for a chain; several make rows.",
)
N = typer.Option(1, "--n", min=1, max=1024, help="Pictures a prompt.")


def main(
    prompt: list[str] = Prompt,
    out: Path = Out,
    defense: list[str] = Defense,
    model: str = common.ModelName,
    negative: str = common.Negative,
    seed: int = common.FirstSeed,
    steps: int = common.Steps,
    guidance: float = common.Guidance,
    n: int = N,
    refit: bool = common.Refit,
    device: str | None = common.Device,
    dtype: str | None = common.Dtype,
    download: bool = common.Download,
    variant: str = common.Variant,
    store: Path = common.StoreFolder,
    as_json: bool = common.Json,
) -> None:
    """Make pictures from prompts, with or without defenses: several of either make a grid."""
    if spoken(model):
        return _speak(prompt * n, out, defense, model, seed, as_json)
    if out.suffix.lower() not in SUFFIXES:
        raise BadInput(f"--out {out}: the name of a picture ends in one of {', '.join(SUFFIXES)}")
    cases = cases_of(prompt, seed, n, negative)

    from genward.catalog.opening import open_model
    from genward.core.records import Sampler
    from genward.run.guard import Guard

    opened = open_model(model, device, dtype, download=download, variant=variant)
    for text in dict.fromkeys([*prompt, negative]):
        if not opened.fits(text):
            common.note(f"prompt {text[:40]!r}… is longer than this model's text encoder reads; its end is ignored")
    made: list[tuple[str, Sample]] = []
    for text in defense:
        guard = Guard.of(opened, text, refit=refit, store=store, progress=None if as_json else common.note)
        with common.progress(text, as_json) as update:
            made += [(text, s) for s in guard.generate(cases, Sampler(steps=steps, guidance=guidance), progress=update)]
    images = [s.image for _, s in made]
    whole = any(i is not None for i in images)
    if whole:
        _draw(images, out, len(cases) if len(defense) > 1 or len(prompt) > 1 else columns_for(len(cases)))
    if as_json:
        common.emit(
            {
                "out": str(out) if whole else None,
                "model": opened.spec.hash,
                "samples": [told(text, s) for text, s in made],
            }
        )
    else:
        for text, sample in made:
            if sample.status != "ok":
                common.note(f"{sample.status}: {text}, seed {sample.case.seed}: {sample.why}")
        if whole:
            common.say(out)
    if any(s.status == "error" for _, s in made):
        raise typer.Exit(1)
