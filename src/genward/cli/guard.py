"""``genward guard``: pictures under a policy; the table says which rows were released and who blocked the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from genward.cli import common
from genward.core.files import write_file
from genward.core.media import Image
from genward.errors import BadInput

if TYPE_CHECKING:
    from genward.serve.call import GuardedOutput, RowVerdict

COLUMNS = (
    "row",
    "prompt",
    "seed",
    "verdict",
    "by",
    "stage",
    "step",
    "score",
    "threshold",
    "category",
    "nfe",
    "picture",
)
WIDE = 40
"""Characters of a prompt that fit into the table."""
SHARES = 3
"""Tokens that the table shows of a verdict."""


def told(prompt: str, seed: int, verdict: RowVerdict, picture: Path | None) -> dict[str, Any]:
    """One row of the JSON."""
    facts = {
        "by": verdict.by,
        "stage": verdict.stage,
        "step": verdict.step,
        "score": verdict.score,
        "threshold": verdict.threshold,
    }
    more = {
        "category": verdict.category,
        "why": verdict.why,
        "failed": verdict.failed,
        "nfe": verdict.nfe,
        "tokens": verdict.tokens,
    }
    return {
        "prompt": prompt,
        "seed": seed,
        "verdict": verdict.action,
        **facts,
        **more,
        "notes": verdict.notes,
        "picture": str(picture) if picture else None,
    }


def shown(row: int, data: dict[str, Any]) -> dict[str, Any]:
    """One row of the table."""
    text = " ".join(str(data["prompt"]).split())
    step = None if data["step"] < 0 else data["step"]
    words = " ".join(f"{t} {x:+.2g}" for t, x in sorted(data["tokens"], key=lambda pair: -pair[1])[:SHARES])
    named = {key: data[key] or None for key in ("by", "stage", "category", "picture")}
    return {
        **data,
        **named,
        "row": row,
        "step": step,
        "prompt": text if len(text) <= WIDE else text[: WIDE - 1] + "…",
        "tokens": words,
    }


def saved(out: Path, rows: Sequence[tuple[str, int]], made: GuardedOutput, n: int) -> list[dict[str, Any]]:
    """Write the pictures that were released; one row of the JSON for each."""
    data = []
    for k, ((text, number), image, verdict) in enumerate(zip(rows, made.images, made.verdicts, strict=True)):
        picture = out / f"{k // n:03d}-{number}.png"
        if image is None:
            picture.unlink(missing_ok=True)  # of an earlier call; it would pass for this row's
        else:
            write_file(picture, Image(image).encoded())
        data.append(told(text, number, verdict, None if image is None else picture))
    return data


def printed(data: Sequence[dict[str, Any]]) -> None:
    """The table, and the reasons below it."""
    columns = [*COLUMNS, "tokens"] if any(row["tokens"] for row in data) else COLUMNS
    common.table([shown(k, row) for k, row in enumerate(data)], columns)
    for row in data:
        if row["why"]:
            common.note(f"{row['verdict']}: {row['why']}")


def check_rows(prompts: list[str], n: int) -> None:
    """``BadInput`` where no prompt can be used (one of several costs its own rows), or for more rows than one batch
    takes."""
    from genward.core.texts import checked_rows

    if n * len(prompts) > 1024:
        raise BadInput(
            f"{n} pictures of {len(prompts)} prompts are {n * len(prompts):,} rows in one batch; ask for at most 1,024"
        )
    checked_rows(list(prompts))


Prompt = typer.Argument(..., help="What to draw, as in 'a cat in twemoji style'; several make several rows.")
Policy = typer.Option("weapons", "--policy", "-p", help="Policy, concept, or a policy file (.toml).")
Defense = typer.Option(
    ["aeiou", "wukong"],
    "--defense",
    "-d",
    help="As aeiou, sld:weapons, image_filter; several make a chain, in order.",
)
Out = typer.Option(Path("genward-guard"), "--out", "-o", help="Folder for the pictures that are released.")
N = typer.Option(1, "--n", min=1, max=256, help="Pictures a prompt.")
Audit = typer.Option(None, "--audit", help="File for one JSON line a row, with hashes of prompts, not prompts.")
Open = typer.Option([], "--unguarded", help="A category of the policy that may stay without a guard; several times.")
Timeout = typer.Option(None, "--timeout", help="Seconds that a guard may take each time it is called.")


def main(
    prompt: list[str] = Prompt,
    policy: str = Policy,
    defense: list[str] = Defense,
    unguarded: list[str] = Open,
    out: Path = Out,
    model: str = common.ModelName,
    negative: str = common.Negative,
    seed: int = common.FirstSeed,
    steps: int = common.Steps,
    guidance: float = common.Guidance,
    n: int = N,
    audit: Path | None = Audit,
    timeout: float | None = Timeout,
    device: str | None = common.Device,
    dtype: str | None = common.Dtype,
    download: bool = common.Download,
    variant: str = common.Variant,
    store: Path = common.StoreFolder,
    fit: bool = common.Fit,
    as_json: bool = common.Json,
) -> None:
    """Make pictures under a policy: print a verdict a row, save what is released. Exit code 1 if a guard failed."""
    if out.exists() and not out.is_dir():
        raise BadInput(f"--out {out} is a file; name a folder")
    from genward.catalog.fitting import parse_defense
    from genward.serve.policy import load_policy

    rules = load_policy(policy)
    for text in defense:
        parse_defense(text)
    check_rows(prompt, n)

    import torch

    from genward.catalog.opening import open_model
    from genward.serve.protect import protect

    opened = open_model(model, device, dtype, download=download, variant=variant)
    rows = [(p, seed + j) for p in prompt for j in range(n)]
    generators = [torch.Generator().manual_seed(s) for _, s in rows]
    chain = [d for d in defense if d != "none"]
    say = None if as_json else common.note
    how: dict[str, Any] = {"store": store, "audit": audit, "timeout": timeout, "fit": fit, "progress": say}
    with protect(opened, rules, chain, unguarded=unguarded, **how) as guarded:
        made = guarded(
            list(prompt), negative_prompt=negative or None, num_images_per_prompt=n, num_inference_steps=steps,
            guidance_scale=guidance, generator=generators,
        )  # fmt: skip
    data = saved(out, rows, made, n)
    if as_json:
        facts = {"policy": rules.name, "guard": guarded.hash, "model": opened.spec.hash, "seconds": made.seconds}
        common.emit({**facts, "rows": data})
    else:
        printed(data)
    if any(v.failed for v in made.verdicts):
        raise typer.Exit(1)
