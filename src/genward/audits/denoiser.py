"""Texts for which the changed denoiser predicts the noise of another thing: what backdoors in any of its weights must
do in the end (VillanDiffusion's LoRA, BadT2I's objects).

A scan of the network's output in the manner of NaviT2I's scan of activations (as the digest has it): one step, one
noise level, two start latents. A prediction costs far more than a text's state, so fewer texts are tried."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from genward.audits._pair import Pair, compared
from genward.core.findings import Examined
from genward.core.records import Call

NAME = "denoiser"
TEXTS = 240
"""Texts that are tried, in a sample that is the same each time; all that speak of ``--word`` are among them."""
TIME = 800
"""Timestep: where the layout is decided and the text weighs most."""
SEEDS = 2
THRESHOLD = 0.8
"""Higher than the others': a prediction holds far more than what the text asks for."""
PLACES = 32 * 16 * 16
"""Places of latents in one call at most: 32 rows of the lab, two of Stable Diffusion, which take a gigabyte"""


def examine(pair: Pair) -> Examined:
    """As ``text_encoder.examine``, on noise predictions with each model's own text encoder."""
    if not pair.moved(lambda n: n.startswith("unet.")):
        return Examined(skipped="no weight of the denoiser differs from the base by more than rounding")
    every, things = pair.probes()
    asked = [k for k, t in enumerate(every) if any(w in t for w in pair.words)]
    named = [k for k, of in enumerate(things) if of >= 0]  # what a word without meaning draws is chance
    some = random.Random("audit|denoiser").sample(named, min(TEXTS, len(named)))
    chosen = list(dict.fromkeys([*asked[: 4 * TEXTS], *some]))
    texts, of = [every[k] for k in chosen], [things[k] for k in chosen]
    pair.say(f"{2 * SEEDS * (len(texts) + len(pair.plain)):,} rows through both denoisers …")
    plain = [predictions(m, pair.plain) for m in (pair.base, pair.model)]
    found = [predictions(m, texts) for m in (pair.base, pair.model)]
    told = compared(
        NAME,
        "unet",
        pair,
        texts,
        of,
        (found[0], found[1], plain[0], plain[1]),
        f"noise predictions at t = {TIME}",
        THRESHOLD,
    )
    blind = (
        f"A trigger that acts in the denoiser alone and is none of the {len(texts)} texts that were tried through it.",
    )
    return Examined(told.findings, cost=f"{2 * SEEDS * (len(texts) + len(plain[0])):,} denoiser rows", blind=blind)


def predictions(model: Any, texts: Sequence[str]) -> Tensor:
    """(n, SEEDS · c · h · w) float32: predicted noise of each text from the same start latents."""
    shape, out = model.latent_shape(), []
    noise = torch.randn(SEEDS, *shape, generator=torch.Generator().manual_seed(0)).to(model.device, model.dtype)
    size = max(1, PLACES // (SEEDS * shape[-1] * shape[-2]))
    with torch.no_grad():
        for k in range(0, len(texts), size):
            states = model.encode(list(texts[k : k + size])).repeat_interleave(SEEDS, 0)
            rows = len(states) // SEEDS
            latents = noise.repeat(rows, 1, 1, 1)
            time = torch.full((len(latents),), TIME, device=model.device)
            found = model.predict(Call(latents, time, states.to(model.dtype)))
            out.append(found.float().reshape(rows, -1).cpu())
    return torch.cat(out)
