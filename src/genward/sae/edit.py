"""What methods on a sparse autoencoder do to a state: scale latents, or fill flagged tokens from their surroundings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genward.core.contracts import Rig
from genward.core.records import Frame
from genward.errors import BadArtifact, BadInput
from genward.sae.autoencoder import ERRORS, edited, grid_of, state_of, tokens_of, values_over
from genward.sae.concepts import NEVER, Latents

BRANCHES = ("both", "conditional")
FOUND = "multiplier"
"""Tensor of an artifact: the multiplier that the fit found."""
RULES = ("product", "scale")
"""What a latent z above its floor becomes: ``product`` is ``z · multiplier · mean`` (the releases' code), ``scale`` is
``z · multiplier``."""


def check_fields(who: str, fields: Any) -> None:
    """``BadInput`` for a setting that no method on an autoencoder can use."""
    if fields.branch not in BRANCHES:
        raise BadInput(f"{who}: branch {fields.branch!r}; {' or '.join(map(repr, BRANCHES))} are possible")
    if min(fields.images, fields.others, fields.sampling_steps, fields.expansion, fields.k, fields.sae_epochs) < 1:
        raise BadInput(f"{who}: images, others, sampling_steps, expansion, k and sae_epochs must be at least 1")
    if not 0 <= fields.during[0] < fields.during[1] <= 1:
        raise BadInput(
            f"{who}: window {fields.during} is no part of the loop; give (start, end), 0 <= start < end <= 1"
        )


def check_edit(who: str, fields: Any) -> None:
    """``BadInput`` for a strength, multiplier, rule or error that an edit cannot use."""
    if fields.error not in ERRORS or fields.rule not in RULES:
        raise BadInput(f"{who}: error must be one of {', '.join(ERRORS)}, rule one of {', '.join(RULES)}")
    if not 0 <= fields.strength <= 1 or not (fields.multiplier is None or abs(fields.multiplier) <= 1e4):
        raise BadInput(f"{who}: strength must lie in [0, 1], multiplier between -10000 and 10000")
    if fields.rule == "scale" and fields.multiplier is None:
        raise BadInput(f"{who}: a fit finds the multiplier of rule=product; with rule=scale give one (multiplier=-5)")


def multiplier_of(settings: Any, who: str) -> float:
    """What latents are multiplied with: the field's number, or the one that the fit found.

    Raises:
        BadArtifact: the artifact holds none.
    """
    if settings.multiplier is not None:
        return float(settings.multiplier)
    found = settings.artifact.tensors.get(FOUND)
    if found is None or found.numel() != 1 or not abs(float(found)) <= 1e4:
        raise BadArtifact(f"{who}: its artifact holds no multiplier; give one (multiplier=-10), or fit it again")
    return float(found)


def refuse_width(rig: Rig, site: str, found: Latents, who: str) -> None:
    """``BadArtifact`` where the site behind the rig has other channels than the autoencoder."""
    known = rig.model.sites.get(site)
    if known is not None and known.channels != found.sae.width:
        raise BadArtifact(
            f"{who}: its autoencoder has width {found.sae.width}, {site} has {known.channels} channels; it was fitted "
            "for another site or model"
        )


def per_token(rows: Tensor, tokens: int) -> Tensor:
    """(rows, m) -> (rows · tokens, m)."""
    return rows[:, None].expand(-1, tokens, -1).flatten(0, 1)


def watched(floor: Tensor, frame: Frame, branch: str) -> Tensor:
    """Floors (rows, m) that leave unconditional rows out where only the conditional ones are to be changed."""
    if branch == "both":
        return floor
    return torch.where(frame.conditional.to(floor.device)[:, None], floor, torch.full_like(floor, NEVER))


def put_on_record(rig: Rig, frame: Frame, hit: Tensor, who: str, why: str) -> None:
    """Note the share of tokens (rows, tokens) that were changed in each row, and that rows were steered."""
    share = hit.detach().float().mean(1)
    rig.note(frame, **{f"{who}.tokens": share})
    rig.flag(frame, (share > 0) & frame.conditional.to(share.device), why, action="steered")


def attach_edit(rig: Rig, settings: Any, found: Latents, who: str) -> None:
    """Tap the method's site: latents above their floor are scaled, in the tokens where they are; at strength 0 nothing
    is."""
    refuse_width(rig, settings.site, found, who)
    multiplier = multiplier_of(settings, who)
    if settings.error == "paper" and not found.whole:
        raise BadArtifact(
            f"{who}: error=paper decodes every latent, and its artifact holds the decoder of its own alone; fit it "
            "with error=paper"
        )

    def fn(state: Tensor, frame: Frame) -> Tensor | None:
        if settings.strength == 0:
            return None
        x = tokens_of(state)
        assert frame.timestep is not None
        floor, mean = found.at(frame.timestep.to(state.device).expand(len(x)))
        wanted = multiplier * (mean if settings.rule == "product" else torch.ones_like(mean))
        factor = 1 + settings.strength * (wanted - 1)
        floor = watched(floor, frame, settings.branch)
        out = edited(
            x.flatten(0, 1), found.sae, found.latents.to(x.device), per_token(floor, x.shape[1]),
            per_token(factor, x.shape[1]), settings.error,
        ).view_as(x)  # fmt: skip
        put_on_record(rig, frame, (out != x).any(2), who, "latents of the concept were turned down")
        return state_of(out, state)

    rig.tap(settings.site, fn, during=settings.during)


# -------------------------------------------------------------------------------------------------------------- filling


def flagged_tokens(x: Tensor, found: Latents, floor: Tensor) -> Tensor:
    """bool (rows, tokens): where a chosen latent exceeds its floor (rows, m), in tokens (rows, tokens, d)."""
    flat = x.detach().flatten(0, 1)
    mine = found.sae.to(flat)
    rows, _ = values_over(flat.to(mine.bias.dtype), mine, found.latents.to(x.device), per_token(floor, x.shape[1]))
    hit = torch.zeros(len(flat), dtype=torch.bool, device=x.device)
    hit[rows] = True
    return hit.view(x.shape[:2])


def grown(flagged: Tensor, grid: tuple[int, int], rings: int) -> Tensor:
    """Flags (rows, tokens) with so many rings of neighbors around them."""
    if not rings:
        return flagged
    maps = flagged.float().view(-1, 1, *grid)
    wide = torch.nn.functional.max_pool2d(maps, 2 * rings + 1, stride=1, padding=rings)
    return wide.flatten(1) > 0


def filled(x: Tensor, flagged: Tensor, grid: tuple[int, int], neighbors: int, bare: Tensor) -> Tensor:
    """Tokens with the flagged ones replaced by the mean of their nearest unflagged ones of the same map; all others
    keep their bits. Of equally near ones the earlier in the map comes first.

    Args:
        x: (rows, tokens, d). flagged: bool (rows, tokens). neighbors: how many; 1 takes the nearest.
        bare: (d,) what a map becomes in which every token is flagged.
    """
    rows = flagged.any(1).nonzero().flatten()
    if not len(rows):
        return x
    height, width = grid
    y, z = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([y.flatten(), z.flatten()], 1).double().to(x.device)
    apart = torch.cdist(places, places) + 1e-9 * torch.arange(len(places), device=x.device)
    mine = flagged[rows]
    far = apart[None] + 1e9 * mine[:, None, :]
    near = far.topk(min(neighbors, x.shape[1]), dim=2, largest=False)
    usable = (near.values < 1e8).to(x.dtype)
    source = x[rows].gather(1, near.indices.flatten(1)[..., None].expand(-1, -1, x.shape[2]))
    source = source.view(*near.indices.shape, x.shape[2]) * usable[..., None]
    number = usable.sum(2, keepdim=True)
    mean = source.sum(2) / number.clamp_min(1)
    new = torch.where(number > 0, mean, bare.to(x))
    return x.index_copy(0, rows, torch.where(mine[..., None], new.to(x.dtype), x[rows]))


def attach_fill(rig: Rig, settings: Any, found: Latents, who: str) -> None:
    """Tap the method's site: tokens in which a latent exceeds its floor times ``threshold`` are filled from their
    surroundings."""
    refuse_width(rig, settings.site, found, who)

    def fn(state: Tensor, frame: Frame) -> Tensor:
        x = tokens_of(state)
        assert frame.timestep is not None
        floor, _ = found.at(frame.timestep.to(state.device).expand(len(x)))
        floor = torch.where(floor < NEVER, floor * settings.threshold, floor).clamp(max=NEVER)
        hit = flagged_tokens(x, found, watched(floor, frame, settings.branch))
        hit = grown(hit, grid_of(state), settings.dilation)
        put_on_record(rig, frame, hit, who, "tokens that show the concept were filled from around them")
        return state_of(filled(x, hit, grid_of(state), settings.neighbors, found.sae.bias), state)

    rig.tap(settings.site, fn, during=settings.during)
