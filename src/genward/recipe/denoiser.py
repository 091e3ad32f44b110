"""Stages ``unet`` and ``oracles`` of the lab's recipe: the denoiser's trunk and its two branches."""

from __future__ import annotations

import time
from typing import Any

from genward.core.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint
from genward.errors import BadInput
from genward.recipe.start import keep, kept, start_file
from genward.recipe.workshop import Workshop, note, unseen

SECOND_STEPS = {"trunk": 15_700, "lab": 5_500, "oracle": 5_500}
"""Steps of 64 samples of the second lab's parts: a million samples on the trunk, 352,000 on each branch."""
MUON = 1.0
"""Rate of matrices under Muon as a multiple of AdamW's, for the second lab; 0 is AdamW alone.

Equal samples (19,200) from the packaged oracle, held-out loss of the averaged weights, rate 1e-3: Muon 0.04710, AdamW
0.04730 (which needs about a quarter more samples to get there); a step costs 15 % more.
"""


def _pool(shop: Workshop, which: str) -> Any:
    """Encoded training rows, kept on disk: ``without`` the oracle's concepts, or ``full``."""

    import genward.lab as lab
    from genward.lab.data import World
    from genward.lab.unet import Pool

    file = shop.work / f"pool-{which}.safetensors"
    if file.exists():
        return Pool(**load_checkpoint(file))
    full = which == "full"
    world = World.build(list(shop.sprites), () if full else unseen(), unseen() if full else ())
    tokenizer, encoder = lab.text_encoder()
    pool = Pool.make(
        world,
        shop.words,
        shop.sprites,
        shop.vae,
        tokenizer,
        encoder,
        singles=16000 if shop.second else 9000,
        scenes=24000 if shop.second else 14000,
        seed=1 if full else 0,
        progress=lambda text: shop.report(f"pool {which}", 0, 0, text),
    )
    save_checkpoint(file, vars(pool))
    return pool


def _packaged_oracle() -> Any:
    """Weights of the oracle that comes with genward: it never saw the oracle's concepts, so a trunk may start from
    it."""
    from diffusers import UNet2DConditionModel

    import genward.lab as lab

    return (
        UNet2DConditionModel.from_pretrained(lab.weights_folder() / "oracle", use_safetensors=True).float().state_dict()
    )


def second_start() -> tuple[dict[str, Any], int]:
    """Weights that the second lab's trunk begins from, and the steps behind them: the trunk on its way if the package
    has one, else the packaged oracle."""
    base = _packaged_oracle()
    return kept(start_file(), base) or (base, 0)


def before(shop: Workshop) -> int:
    """Steps of the second lab's trunk that were made before this work folder began."""
    return int(shop.notes.get("trunk", {}).get("before", 0))


def stage_keep(shop: Workshop) -> None:
    """Put the second lab's trunk on its way into the package; nothing for the first lab."""
    file = shop.work / "trunk" / CHECKPOINT
    if not shop.second or not file.exists():
        return
    state = load_checkpoint(file)
    step = int(state["step"]) + before(shop)
    keep(start_file(), state["average"], _packaged_oracle(), step)
    shop.report("keep", 1, 1, f"{start_file()}: step {step}")


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
    elif shop.second:
        start, gone = second_start()
        if not (shop.work / part / CHECKPOINT).exists():
            note(shop, part, {"before": gone})
        steps = shop.steps or SECOND_STEPS[part] - before(shop)
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

    net.train(
        net.build(),
        _pool(shop, "full" if part == "lab" else "without"),
        seconds=seconds,
        steps=steps,
        folder=shop.work / part,
        peak=1e-3 if shop.second else 1.4e-3 if branch else 1.5e-3,
        decay=branch,
        scene=(lambda done: 0.5) if branch else (lambda done: 0.2 + 0.35 * done),
        start=start,
        seed=len(part),
        muon=MUON if shop.second else 0.0,
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
