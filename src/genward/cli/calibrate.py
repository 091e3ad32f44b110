"""``genward calibrate``: a guard's threshold at a chosen false-positive rate, on benign prompts of the user's own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from genward.cli import common
from genward.core.files import write_file
from genward.errors import BadInput

if TYPE_CHECKING:
    from genward.serve.calibrate import Calibrated


def printed(found: Calibrated, fpr: float) -> None:
    """The threshold, what it blocks, and whether the prompts were enough."""
    common.note(
        f"{found.defense}, {found.category}: threshold {found.threshold:.6g}, reached by {found.measured:.2%} of "
        f"{found.n} benign prompts"
    )
    common.note(f"95 % interval of that rate on prompts like these: {found.low:.2%} to {found.high:.2%}")
    for line in found.caught:
        share = f"{line.k / line.n:.0%}, 95 % interval {line.low:.0%} to {line.high:.0%}"
        common.note(f"{line.guard}: catches {line.k} of {line.n} harmful prompts ({share})")
    if found.caught and found.caught[-1].missed:
        lets = found.caught[-1].missed
        more = f" and {len(lets) - SHOWN} more" if len(lets) > SHOWN else ""
        common.note(f"warning: at this threshold it lets out {', '.join(map(repr, lets[:SHOWN]))}{more}")
    if fpr and found.n * fpr < 1:
        common.note(
            f"{found.n} prompts are too few for a rate of {fpr:g}: the threshold lies above all of them; give "
            f"{math.ceil(1 / fpr):,} or more"
        )


def harmful_prompts(path: Path | None) -> list[str]:
    """The prompts of the file; none, and a word about it, without one."""
    from genward.core.texts import checked_prompts, read_prompts

    if path is None:
        common.note(
            "no --harmful file: what is still caught is counted on the concept's own phrases, which it was fitted on"
        )
        return []
    return checked_prompts(read_prompts(path))


Defense = typer.Argument(..., help="A guard with a score, as aeiou:weapons.")
Benign = typer.Option(
    ..., "--benign", "-b", help="Text file, one benign prompt a line; the more like your users', the better."
)
Harmful = typer.Option(
    None,
    "--harmful",
    help="Text file, one prompt a line that should be caught; by default the concept's own phrases are tried.",
)
Chain = typer.Option([], "--chain", help="Another guard that will stand beside this one; may be repeated.")
SHOWN = 5
"""Prompts that a warning names."""
Fpr = typer.Option(0.01, "--fpr", help="Share of benign prompts that may be blocked.")
Out = typer.Option(Path("policy.toml"), "--out", "-o", help="Policy file to write; give it to --policy.")
Policy = typer.Option(
    None,
    "--policy",
    "-p",
    help="Policy that gets the threshold; by default one of the guard's concept. May be --out itself.",
)
Steps = typer.Option(
    20, "--steps", min=1, max=1000, help="Sampling steps, as you will use them; guards of the text alone take none."
)
Guidance = typer.Option(4.0, "--guidance", "-g", min=0, max=100, help="Classifier-free guidance, as you will use it.")
Seed = typer.Option(0, "--seed", min=0, help="Seed of the first prompt's noise; the next ones count up.")
Batch = typer.Option(32, "--batch", min=1, max=1024, help="Prompts at a time.")


def main(
    defense: str = Defense,
    benign: Path = Benign,
    harmful: Path | None = Harmful,
    chain: list[str] = Chain,
    fpr: float = Fpr,
    out: Path = Out,
    policy: str | None = Policy,
    model: str = common.ModelName,
    steps: int = Steps,
    guidance: float = Guidance,
    seed: int = Seed,
    batch: int = Batch,
    device: str | None = common.Device,
    dtype: str | None = common.Dtype,
    download: bool = common.Download,
    variant: str = common.Variant,
    store: Path = common.StoreFolder,
    fit: bool = common.Fit,
    as_json: bool = common.Json,
) -> None:
    """Set a guard's threshold so that at most the given share of your benign prompts is blocked, and write a policy
    file."""
    if out.suffix != ".toml":
        raise BadInput(f"--out {out}: a policy file ends in .toml")
    if not 0 <= fpr < 1:
        raise BadInput(f"--fpr {fpr}; give a number from 0 to below 1, 0.01 say")
    from genward.catalog.fitting import parse_defense
    from genward.core.texts import BENIGN_LABELS, checked_prompts, read_prompts
    from genward.serve import calibrate as calibration
    from genward.serve.policy import dump_policy, load_policy

    request = calibration.one_request(defense)
    base = load_policy(policy) if policy else None
    for text in chain:
        parse_defense(text)
    prompts = read_prompts(benign, BENIGN_LABELS)
    checked_prompts(prompts)
    bad = harmful_prompts(harmful)

    from genward.catalog.opening import open_model

    opened = open_model(model, device, dtype, download=download, variant=variant)
    say = None if as_json else common.note
    with common.progress("benign prompts", as_json) as update:
        found = calibration.calibrate(
            opened, request, prompts, fpr, harmful=bad, chain=chain,
            policy=base, steps=steps, guidance=guidance, seed=seed, batch=batch, store=store, fit=fit,
            say=say, progress=update,
        )  # fmt: skip
    text = dump_policy(found.policy)
    write_file(out, text)
    if as_json:
        facts = {k: v for k, v in found._asdict().items() if k not in ("policy", "scores")}
        facts["caught"] = [line._asdict() for line in found.caught]
        common.emit({"out": str(out), **facts, "scores": found.scores})
        return
    printed(found, fpr)
    common.say(out)
