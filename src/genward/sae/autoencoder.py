"""Sparse autoencoders on a model's states: TopK codes, and edits that enter the state as a sparse difference.

The code of a token x is ``z = TopK(ReLU(E (x - b) + e), k)``, its reconstruction ``z D + b`` with rows of D of unit
length (Gao et al., arXiv 2406.04093; SAeUron, arXiv 2501.18052). An edit changes a few latents. What it adds to x is
``(z' - z) D``, so the reconstruction error stands as it was, and a token whose latents are left alone keeps its bits.
Nothing but the touched latents is decoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from genward.errors import BadArtifact, BadInput

ERRORS = ("kept", "paper")
"""What becomes of the reconstruction error of an edited state: it is kept, or it enters with the sign of the released
code, which adds ``x̂ - x`` where ``x - x̂`` belongs."""

FIRST = 256
"""Latents that a token's TopK is looked for in at first."""


class Sae(NamedTuple):
    """A sparse autoencoder of n latents on states of width d."""

    encoder: Tensor
    """(n, d)"""
    encoder_bias: Tensor
    """(n,)"""
    decoder: Tensor
    """(n, d), rows of unit length"""
    bias: Tensor
    """(d,), taken off the input and added to the output"""
    k: int
    """Latents of a token that are not zero, at most"""

    @property
    def latents(self) -> int:
        return len(self.encoder)

    @property
    def width(self) -> int:
        return len(self.bias)

    def to(self, like: Tensor) -> Sae:
        """On the device of a state, in its dtype or float32 where that is wider."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        encoder, inner, decoder, outer = (t.to(like.device, dtype) for t in self[:4])
        return Sae(encoder, inner, decoder, outer, self.k)


def sae_of(tensors: Mapping[str, Tensor], k: int) -> Sae:
    """The autoencoder that an artifact holds, float32.

    Raises:
        BadArtifact: tensors are missing or do not fit one another, or ``k`` is none of its numbers.
    """
    try:
        encoder, inner, decoder, outer = (tensors[n].float() for n in ("encoder", "encoder_bias", "decoder", "bias"))
    except KeyError as error:
        raise BadArtifact(f"no sparse autoencoder: tensor {error} is missing; fit it again") from error
    n, d = encoder.shape if encoder.ndim == 2 else (0, 0)
    if not n or inner.shape != (n,) or decoder.shape != (n, d) or outer.shape != (d,) or not 1 <= k <= n:
        raise BadArtifact(
            f"no sparse autoencoder: encoder {tuple(encoder.shape)}, its bias {tuple(inner.shape)}, decoder "
            f"{tuple(decoder.shape)}, bias {tuple(outer.shape)}, k {k} do not belong together; fit it again"
        )
    return Sae(encoder, inner, decoder, outer, k)


# -------------------------------------------------------------------------------------------------------------- states


def tokens_of(state: Tensor) -> Tensor:
    """A state as tokens (rows, tokens, d): (rows, c, h, w) one per place, (rows, tokens, c) as it is.

    Raises:
        BadInput: another number of dimensions.
    """
    if state.ndim == 4:
        return state.flatten(2).transpose(1, 2)
    if state.ndim == 3:
        return state
    raise BadInput(f"a state of shape {tuple(state.shape)}; (rows, c, h, w) or (rows, tokens, c) is wanted")


def state_of(tokens: Tensor, like: Tensor) -> Tensor:
    """Tokens put back into the shape of the state that they came from."""
    return tokens.transpose(1, 2).reshape(like.shape) if like.ndim == 4 else tokens


def grid_of(state: Tensor) -> tuple[int, int]:
    """Height and width of the grid that a state's tokens lie on.

    Raises:
        BadInput: tokens (rows, n, c) that are no square.
    """
    if state.ndim == 4:
        return int(state.shape[2]), int(state.shape[3])
    side = round(state.shape[1] ** 0.5)
    if side * side != state.shape[1]:
        raise BadInput(f"{state.shape[1]} image tokens are no square; take a site whose stream is image")
    return side, side


# --------------------------------------------------------------------------------------------------------------- codes


def logits(x: Tensor, sae: Sae) -> Tensor:
    """(…, n) inner products before ReLU; the bias is folded in, which spares a gradient with respect to x."""
    return x @ sae.encoder.T + (sae.encoder_bias - sae.encoder @ sae.bias)


def top_k(values: Tensor, k: int) -> Tensor:
    """(…, n) with all but the k largest of each row set to zero; negative ones too."""
    values = values.relu()
    if k >= values.shape[-1]:
        return values
    found = values.topk(k, dim=-1, sorted=False)
    return torch.zeros_like(values).scatter(-1, found.indices, found.values)


def batch_top_k(values: Tensor, k: int) -> Tensor:
    """(tokens, n) with all but the ``tokens · k`` largest of the whole batch set to zero (Bussmann et al., arXiv
    2412.06410); negative ones too."""
    values = values.relu()
    flat = values.flatten()
    positive = flat.detach().nonzero().flatten()
    wanted = min(k * len(values), len(flat))
    if len(positive) <= wanted:
        return values
    kept = positive[flat.detach()[positive].topk(wanted, sorted=False).indices]
    mask = torch.zeros_like(flat).index_fill(0, kept, 1.0)
    return (flat * mask).view_as(values)


def encode(x: Tensor, sae: Sae) -> Tensor:
    """(…, n) code of tokens (…, d), TopK per token."""
    return top_k(logits(x, sae), sae.k)


def decode(code: Tensor, sae: Sae) -> Tensor:
    """(…, d) reconstruction of codes (…, n)."""
    return code @ sae.decoder + sae.bias


def unexplained(x: Tensor, reconstruction: Tensor) -> Tensor:
    """Fraction of variance unexplained of tokens (tokens, d): squared error over squared distance from their mean."""
    return (x - reconstruction).square().sum() / (x - x.mean(0)).square().sum()


# --------------------------------------------------------------------------------------------------------------- edits


def values_over(x: Tensor, sae: Sae, latents: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Code of some latents in the tokens where one of them lies above its floor; 0 for a latent below its own.

    The inner products of those latents alone tell which tokens can be concerned; for these, others are worked out until
    so many of them are larger that TopK cannot hold the latent.

    Args:
        x: tokens (tokens, d). latents: int64 (m,). floor: (tokens, m) or (m,), at least 0.

    Returns:
        int64 (hits,) tokens and their code (hits, m).
    """
    values = x @ sae.encoder[latents].T + (sae.encoder_bias[latents] - sae.encoder[latents] @ sae.bias)
    over = values.detach() > floor
    token, place = over.nonzero().unbind(1)
    if len(token):
        over[token, place] = _in_top_k(x.detach(), sae, token, latents[place], values.detach()[token, place])
    rows = over.any(1).nonzero().flatten()
    return rows, torch.where(over[rows], values[rows], torch.zeros_like(values[:1]))


def _in_top_k(x: Tensor, sae: Sae, token: Tensor, latent: Tensor, value: Tensor) -> Tensor:
    """bool (pairs,): whether fewer than k other latents of a token lie above the value of this one.

    Latents are gone through in stretches that double; a pair is done with as soon as k are above it, which for most is
    the first stretch.

    Args:
        x: tokens (tokens, d). token, latent: int64 (pairs,). value: (pairs,) inner products, above 0.
    """
    offset = sae.encoder_bias - sae.encoder @ sae.bias
    above = torch.zeros(len(token), dtype=torch.long, device=x.device)
    alive = torch.arange(len(token), device=x.device)
    start, stop = 0, min(sae.latents, FIRST)
    while start < stop and len(alive):
        rows, back = token[alive].unique(return_inverse=True)
        part = x[rows] @ sae.encoder[start:stop].T + offset[start:stop]
        larger = part[back] > value[alive, None]
        own = latent[alive] - start  # products of other shapes differ in their last bits: none is above itself
        mine = ((own >= 0) & (own < stop - start)).nonzero().flatten()
        larger[mine, own[mine]] = False
        above[alive] += larger.sum(1)
        alive = alive[above[alive] < sae.k]
        start, stop = stop, min(sae.latents, 2 * stop)
    return above < sae.k


def edited(x: Tensor, sae: Sae, latents: Tensor, floor: Tensor, factor: Tensor, error: str = "kept") -> Tensor:
    """Tokens with some latents scaled where they exceed their floor: ``z -> factor · z``.

    Args:
        x: tokens (tokens, d). latents: int64 (m,). floor, factor: (tokens, m) or (m,), floors at least 0.
        error: one of ``ERRORS``; ``kept`` leaves tokens without a hit as the same bits, ``paper`` sends every token
            through the autoencoder: ``2 x̂ - x`` and the difference.
    """
    mine = sae.to(x)
    wide = x.to(mine.bias.dtype)
    rows, code = values_over(wide, mine, latents, floor)
    out = x.clone()
    if error == "paper":
        out = (2 * decode(encode(wide, mine), mine) - wide).to(x.dtype)
    if not len(rows):
        return out
    floors, factors = (v[rows] if v.ndim == 2 else v for v in (floor, factor))
    change = torch.where(code > floors, (factors - 1) * code, torch.zeros_like(code)) @ mine.decoder[latents]
    out[rows] = (out[rows].to(wide.dtype) + change).to(x.dtype)
    return out
