"""What SafeRedir learns from: paired trajectories as items, and figures of a network on held-out pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from genward.core.records import Case
from genward.ops import saferedir_net as nets
from genward.ops.detection import auroc


def paired_items(
    model: Any,
    found: Mapping[str, Tensor],
    timesteps: Tensor,
    cases: Sequence[Case],
    twins: Sequence[tuple[str, str]],
    harm: Tensor | None = None,
) -> tuple[nets.Items, list[str]]:
    """Items and the pair of each row, from ``cases`` as ``SafeRedir.cases`` makes them; rows that cannot be used are
    left out.

    Args:
        found: float16 ``latents`` (cases, steps, c, h, w) and ``text`` (cases, tokens, width). timesteps: (steps,).
        harm: (cases,) 1 where the picture shows the concept, 0 where not, NaN unknown; ``None`` labels by the caption's
            side.
    """
    texts = found["text"]
    first = {(c.group, c.variant): k for k, c in reversed(list(enumerate(cases)))}
    masks = {}
    for k, pair in enumerate(twins):
        ids = model.tokens(list(pair)).ids
        masks[f"pair-{k}"] = nets.concept_mask(ids[0], ids[1])
    unsafe = torch.tensor([c.variant == "unsafe" for c in cases])
    label = unsafe.float() if harm is None else harm
    usable = ~torch.isnan(label) & torch.isfinite(found["latents"].float()).flatten(1).all(1)
    twin = torch.tensor([first.get((c.group, "safe"), k) for k, c in enumerate(cases)])
    unknown = torch.full((texts.shape[1],), float("nan"))
    mask = torch.stack([masks.get(c.group, unknown) for c in cases])
    whole = nets.Items(
        found["latents"],
        timesteps,
        texts,
        label.nan_to_num().long(),
        texts[twin],
        unsafe & (label == 1),
        mask,
    )
    rows = usable.nonzero().flatten()
    return whole.take(rows), [cases[k].group for k in rows.tolist()]


def held_figures(net: nets.Redirector, items: nets.Items, how: nets.Training) -> dict[str, Any]:
    """On held-out pairs: AUROC of the classifier at each step, and cosine to the safe twin's states before and after
    the shift."""
    scores = nets.unsafe_scores(net, items)
    found = [auroc(scores[:, k].numpy(), items.label.numpy()) for k in range(scores.shape[1])]
    told: dict[str, Any] = {"rows": len(items.label), "auroc": [round(x, 4) for x in found if x == x]}
    if bool(items.paired.any()):
        told["cosine"] = [round(x, 4) for x in nets.nearness(net, items, 0, how)]
    return told
