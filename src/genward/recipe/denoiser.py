"""Stages ``unet`` and ``oracles`` of the lab's recipe: the denoiser's trunk and its two branches."""

from __future__ import annotations

import copy
import os
import time
from typing import Any

from genward.core.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint
from genward.errors import BadInput
from genward.recipe.workshop import Workshop, note, unseen

BATCH, SECOND_BATCH = 64, 512
"""Rows of a step: of the recipe for two CPU cores, and of the second lab's, for an accelerator."""
SECOND_STEPS = {"trunk": 2_850, "lab": 2_100, "oracle": 2_100}
"""Steps of the second lab's parts: 1.46 million samples on the trunk, 1.08 million on each branch."""
ROWS, SECOND_ROWS = (9_000, 14_000), (60_000, 120_000)
"""Pictures of one object and scenes in a pool."""
PEAK = {"trunk": 1.5e-3, "lab": 1.4e-3, "oracle": 1.4e-3}
"""Highest learning rate of each part."""
SECOND_PEAK = 1.3e-3
"""Of the second lab's parts; at 3e-3 the loss became nan after 290 steps."""


def _pool(shop: Workshop, which: str) -> Any:
    """Encoded training rows, kept on disk: ``without`` the oracle's concepts, or ``full``."""

    import genward.lab as lab
    from genward.lab.data import World
    from genward.lab.unet import Pool, device

    file = shop.work / f"pool-{which}.safetensors"
    if file.exists():
        return Pool(**load_checkpoint(file))
    full = which == "full"
    singles, scenes = SECOND_ROWS if shop.second else ROWS
    world = World.build(list(shop.sprites), () if full else unseen(), unseen() if full else ())
    tokenizer, encoder = lab.text_encoder()
    encoder.to(device())
    pool = Pool.make(
        world,
        shop.words,
        shop.sprites,
        copy.deepcopy(shop.vae).to(device()),
        tokenizer,
        encoder,
        singles=singles,
        scenes=scenes,
        seed=1 if full else 0,
        workers=os.cpu_count() or 1,
        progress=lambda text: shop.report(f"pool {which}", 0, 0, text),
    )
    save_checkpoint(file, vars(pool))
    return pool


def _part(shop: Workshop, part: str) -> None:
    """Train one part of the denoiser: ``trunk``, ``lab`` or ``oracle``."""
    import torch

    from genward.lab import unet as net

    torch.manual_seed(0)
    branch = part != "trunk"
    start, steps = None, shop.steps
    if steps is None and shop.second:
        steps = SECOND_STEPS[part]
    if branch:
        trunk = shop.work / "trunk" / CHECKPOINT
        if not trunk.exists():
            raise BadInput(f"no trunk in {trunk.parent}; run the unet stage first")
        start = load_checkpoint(trunk)["average"]
    if part == "oracle":
        lab_file = shop.work / "lab" / CHECKPOINT
        if not lab_file.exists():
            raise BadInput(
                f"no lab branch in {lab_file.parent}; the oracle takes as many steps as it, so run the unet stage first"
            )
        steps = int(load_checkpoint(lab_file)["step"])
    seconds = shop.seconds("branch" if branch else "trunk")
    began = time.monotonic()

    def tell(line: dict[str, float]) -> None:
        whole = seconds if steps is None else (time.monotonic() - began) * steps / max(1.0, line["step"])
        shop.report(
            part,
            line["seconds"] if steps is None else time.monotonic() - began,
            whole,
            f"step {line['step']:.0f}, loss {line['loss']:.4f}",
        )

    where = net.device()
    hardware = torch.cuda.get_device_name() if where.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    note(shop, part, {"hardware": hardware, "torch": torch.__version__})
    net.train(
        net.build(),
        _pool(shop, "full" if part == "lab" else "without"),
        seconds=seconds,
        steps=steps,
        folder=shop.work / part,
        peak=SECOND_PEAK if shop.second else PEAK[part],
        decay=branch,
        scene=(lambda done: 0.5) if branch else (lambda done: 0.2 + 0.35 * done),
        start=start,
        seed=len(part),
        batch=SECOND_BATCH if shop.second else BATCH,
        compiled=shop.second,
        report=tell,
    )


def stage_unet(shop: Workshop) -> None:
    """The trunk without the oracle's concepts, then the branch with everything: the lab model."""
    _part(shop, "trunk")
    _part(shop, "lab")


def stage_oracles(shop: Workshop) -> None:
    """The branch that goes on without the oracle's concepts, as many steps as the lab's."""
    _part(shop, "oracle")
