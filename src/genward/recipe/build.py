"""``genward lab build``: the recipe that made the embedded models, stage by stage, resumable at any moment.

Stages, in order: ``data`` (icon sets), ``autoencoder``, ``unet`` (the trunk, then the branch that becomes the lab
model), ``judge`` (both judges), ``oracles`` (the branch that never sees the oracle's concepts, as many steps as the
lab's), ``references``, ``package`` (fp16 safetensors, manifest). Each reads what the
earlier ones left in the work folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from genward.errors import UnknownName
from genward.recipe.denoiser import stage_oracles, stage_unet
from genward.recipe.package import stage_edits, stage_erasers, stage_guards, stage_package, stage_references
from genward.recipe.stages import stage_autoencoder, stage_data, stage_judge
from genward.recipe.workshop import Report, Workshop, quiet

STAGES = ("data", "autoencoder", "unet", "judge", "oracles", "references", "package", "erasers", "guards", "edits")
RUN: dict[str, Callable[[Workshop], Any]] = {
    "data": stage_data,
    "autoencoder": stage_autoencoder,
    "unet": stage_unet,
    "judge": stage_judge,
    "oracles": stage_oracles,
    "references": stage_references,
    "package": stage_package,
    "erasers": stage_erasers,
    "guards": stage_guards,
    "edits": stage_edits,
}


def build(
    stages: Sequence[str] = STAGES,
    *,
    work: Path,
    icons: Path | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    scale: float = 1.0,
    second: bool = False,
    report: Report = quiet,
) -> None:
    """Run stages in the recipe's order; each resumes from its last checkpoint, so the same command goes on after a
    kill.

    Args:
        work: folder for checkpoints and results. icons: folder with the icon sets instead of fetching them.
        minutes: for each training part, instead of the recipe's. steps: exact steps for the denoiser's parts. scale:
            factor on all minutes.
        second: train the second lab, see ``Workshop.second``.

    Raises:
        UnknownName: no such stage; BadInput: what an earlier stage makes is missing.
    """
    for stage in stages:
        if stage not in RUN:
            raise UnknownName("stage", stage, STAGES)
    work.mkdir(parents=True, exist_ok=True)
    shop = Workshop(work, icons, scale, minutes, steps, report, second)
    for stage in STAGES:
        if stage in stages:
            RUN[stage](shop)
