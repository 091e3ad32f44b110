"""Training of sparse autoencoders: the published rules, one by one, and the loop that puts them together.

As SAeUron's release trains (arXiv 2501.18052, digest of its code): BatchTopK while training and TopK per token
afterwards, decoder rows of unit length with gradients along their tangents, a decoder that begins as the encoder, a
bias that begins as the geometric median, fraction of variance unexplained plus 1/32 of the AuxK loss of dead latents
(Gao et al., arXiv 2406.04093), Adam with linear decay. Ours: states are divided by their overall spread while training,
so that rates mean the same on every site; the scale is folded into the two biases afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genward.core.contracts import FitTools
from genward.core.records import row_seed
from genward.errors import BadInput, GenwardError
from genward.sae.autoencoder import Sae, batch_top_k, encode, logits, top_k, unexplained
from genward.sae.autoencoder import decode as decoded

ACTIVATIONS = ("batch_topk", "topk")
SAMPLE = 16_384
"""Tokens, at most, from which median and spread are taken."""


# --------------------------------------------------------------------------------------------------------------- rules


def geometric_median(x: Tensor, rounds: int = 200, tolerance: float = 1e-9) -> Tensor:
    """(d,) point with the smallest sum of distances to vectors (tokens, d), by Weiszfeld's iteration in float64."""
    x = x.double()
    guess: Tensor = x.mean(0)
    for _ in range(rounds):
        weight = 1 / (x - guess).norm(dim=1).clamp_min(1e-12)
        new: Tensor = (weight[:, None] * x).sum(0) / weight.sum()
        moved = float((new - guess).norm())
        guess = new
        if moved <= tolerance * (1 + float(guess.norm())):
            break
    return guess


def unit_rows(matrix: Tensor) -> Tensor:
    """(n, d) with rows of length 1."""
    length: Tensor = matrix.norm(dim=1, keepdim=True)
    return matrix / length.clamp_min(1e-12)


def tangent(gradient: Tensor, rows: Tensor) -> Tensor:
    """A gradient (n, d) without what points along the unit rows (n, d): those may only turn."""
    return gradient - (gradient * rows).sum(1, keepdim=True) * rows


def aux_loss(x: Tensor, reconstruction: Tensor, values: Tensor, dead: Tensor, decoder: Tensor) -> Tensor:
    """AuxK: how badly dead latents explain the error, over the variance of x; 0 where none is dead.

    Half of the width of x, at most, of the dead latents reconstruct ``x - reconstruction``; where fewer are dead the
    loss weighs less in proportion (as the release does).

    Args:
        x, reconstruction: (tokens, d). values: rectified inner products (tokens, n). dead: bool (n,).
    """
    number, wanted = int(dead.sum()), max(1, x.shape[1] // 2)
    if not number:
        return x.new_zeros(())
    error = (x - reconstruction).detach()
    mine = top_k(values[:, dead], min(wanted, number)) @ decoder[dead]
    return min(number / wanted, 1.0) * (mine - error).square().sum() / (x - x.mean(0)).square().sum()


def idle_after(idle: Tensor, fired: Tensor, tokens: int) -> Tensor:
    """int64 (n,) tokens since each latent last fired, after a batch of ``tokens`` in which ``fired`` (n,) did."""
    return torch.where(fired, torch.zeros_like(idle), idle + tokens)


# ------------------------------------------------------------------------------------------------------------ material


class Maps(NamedTuple):
    """Maps of a batch."""

    x: Tensor
    """float32 (maps, tokens, d)"""
    case: Tensor
    """int64 (maps,)"""
    timestep: Tensor
    """float32 (maps,)"""


def shuffled(stream: Iterator[Maps], size: int, seed: int, buffer: int = 256 << 20) -> Iterator[Maps]:
    """Batches of maps in an order that depends on the seed alone, from a pool of at most ``buffer`` bytes (and what the
    stream hands over at once); the pool is mixed before it is drawn from, and half emptied before it is filled up."""
    random = torch.Generator().manual_seed(seed)
    pool: Maps | None = None
    for more in stream:
        pool = more if pool is None else Maps(*(torch.cat(each) for each in zip(pool, more, strict=True)))
        if pool.x.numel() * pool.x.element_size() < buffer:
            continue
        order = torch.randperm(len(pool.x), generator=random)
        half = max(size, len(order) // 2 // size * size)
        for part in order[:half].split(size):
            yield Maps(*(each[part] for each in pool))
        pool = Maps(*(each[order[half:]] for each in pool)) if half < len(order) else None
    if pool is not None:
        for part in torch.randperm(len(pool.x), generator=random).split(size):
            yield Maps(*(each[part] for each in pool))


# ------------------------------------------------------------------------------------------------------------ the loop


@dataclass(frozen=True)
class Training:
    """How an autoencoder is trained."""

    latents: int
    k: int = 32
    activation: str = "batch_topk"
    """``batch_topk`` (the release) or ``topk`` per token"""
    epochs: int = 5
    maps: int = 64
    """Maps of a batch; the release takes 4,096 tokens"""
    lr: float = 4e-4
    dead_after: int = 100_000
    """Tokens without firing after which a latent counts as dead (10 million of 1,060 million in the release)"""
    aux: float = 1 / 32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise BadInput(f"activation {self.activation!r}; {' or '.join(map(repr, ACTIVATIONS))} are possible")
        if not 1 <= self.k <= self.latents or min(self.epochs, self.maps, self.dead_after) < 1:
            raise BadInput(
                f"a sparse autoencoder of {self.latents} latents with k {self.k}: k must lie between 1 and their "
                "number, epochs, maps and dead_after must be at least 1"
            )
        if not self.lr > 0 or not self.aux >= 0:
            raise BadInput(f"lr {self.lr} must be above 0, aux {self.aux} at least 0")


class Trained(NamedTuple):
    sae: Sae
    """float32, in the units of the states"""
    losses: list[float]
    """Fraction of variance unexplained after each epoch, mean over its batches"""
    idle: Tensor
    """int64 (n,) tokens since each latent last fired"""


def start(sample: Tensor, plan: Training) -> tuple[list[Tensor], float]:
    """Parameters in the order of ``Sae`` at the beginning, for states divided by the scale, and the scale."""
    median = geometric_median(sample)
    scale = float((sample.double() - median).square().mean().sqrt())
    if not scale > 0:
        raise GenwardError(
            "every state at this site is the same vector; a sparse autoencoder has nothing to learn there"
        )
    random = torch.Generator().manual_seed(row_seed("sae", plan.seed, "start"))
    width = sample.shape[1]
    encoder = (2 * torch.rand(plan.latents, width, generator=random) - 1) / width**0.5
    return [encoder, torch.zeros(plan.latents), unit_rows(encoder), (median / scale).float()], scale


def loss_of(x: Tensor, sae: Sae, plan: Training, idle: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, fraction of variance unexplained, bool (n,) latents that fired) of tokens (tokens, d)."""
    values = logits(x, sae).relu()
    code = (batch_top_k if plan.activation == "batch_topk" else top_k)(values, plan.k)
    back = decoded(code, sae)
    share = unexplained(x, back)
    loss = share + plan.aux * aux_loss(x, back, values, idle > plan.dead_after, sae.decoder) if plan.aux else share
    return loss, share.detach(), (code.detach() > 0).any(0)


def train(
    epoch: Callable[[int], Iterator[Maps]],
    sample: Tensor,
    batches: int,
    plan: Training,
    tools: FitTools,
    before: int = 0,
) -> Trained:
    """Train an autoencoder; a training that was stopped goes on at its last checkpoint (part ``sae``) and ends at the
    same bits.

    Args:
        epoch: number of an epoch -> its batches, the same ones each time it is asked.
        sample: tokens (tokens, d) for median and spread. batches: of an epoch, for the decay of the rate.
        before: steps of the whole fit that are done when the training begins.

    Raises:
        GenwardError: the loss is not finite, or every state is the same.
    """
    first, scale = start(sample, plan)
    weights = [torch.nn.Parameter(t) for t in first]
    adam = torch.optim.Adam(weights, lr=plan.lr, eps=6.25e-10)
    total = plan.epochs * max(1, batches)
    state: dict[str, Any] = {"step": 0, "losses": [], "sum": 0.0, "idle": torch.zeros(plan.latents, dtype=torch.long)}
    taken = tools.checkpoint(part="sae")
    if taken is not None:
        state = _taken_up(taken, weights, adam)
    done = 0
    for number in range(plan.epochs):
        if number < len(state["losses"]):
            done += batches
            continue
        for maps in epoch(number):
            done += 1
            if done <= state["step"]:
                continue
            adam.param_groups[0]["lr"] = plan.lr * (1 - (done - 1) / total)
            state["sum"] += _step(maps.x.flatten(0, 1) / scale, weights, adam, plan, state)
            state["step"] = done
            tools.progress(before + done, before + total, state["sum"] / (done - number * batches))
            if tools.due():
                tools.checkpoint(state | {"weights": weights, "adam": adam.state_dict()}, part="sae")
        state["losses"] = [*state["losses"], state["sum"] / batches]
        state["sum"] = 0.0
    encoder, inner, decoder, outer = (w.detach() for w in weights)
    return Trained(Sae(encoder, inner * scale, decoder, outer * scale, plan.k), state["losses"], state["idle"])


def _step(x: Tensor, weights: list[Any], adam: Any, plan: Training, state: dict[str, Any]) -> float:
    """One step of the optimizer; returns the fraction of variance unexplained before it."""
    loss, share, fired = loss_of(x, Sae(weights[0], weights[1], weights[2], weights[3], plan.k), plan, state["idle"])
    if not bool(torch.isfinite(loss)):
        raise GenwardError(
            f"sparse autoencoder: loss {float(loss.detach())} at step {state['step'] + 1}; lower lr (now {plan.lr:g}), "
            "nothing was kept"
        )
    state["idle"] = idle_after(state["idle"], fired, len(x))
    adam.zero_grad(set_to_none=True)
    loss.backward()
    decoder = weights[2]
    decoder.grad = tangent(decoder.grad, decoder.detach())
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    adam.step()
    with torch.no_grad():
        decoder.copy_(unit_rows(decoder))
    return float(share)


def _taken_up(taken: Mapping[str, Any], weights: list[Any], adam: Any) -> dict[str, Any]:
    with torch.no_grad():
        for parameter, value in zip(weights, taken["weights"], strict=True):
            parameter.copy_(value)
    adam.load_state_dict(taken["adam"])
    return {name: taken[name] for name in ("step", "losses", "sum", "idle")}


def quality(batches: Iterator[Maps], sae: Sae) -> dict[str, Any]:
    """How well an autoencoder explains maps, TopK per token: ``fvu``, ``l0`` (latents of a token that are not zero),
    ``dead`` (share of the latents that fire in no token), ``tokens``.

    Raises:
        BadInput: there is no map.
    """
    error = spread = active = 0.0
    total = torch.zeros(sae.width, dtype=torch.float64)
    tokens, fired = 0, torch.zeros(sae.latents, dtype=torch.bool)
    for maps in batches:
        x = maps.x.flatten(0, 1)
        code = encode(x, sae)
        error += float((x - decoded(code, sae)).double().square().sum())
        away = (x - sae.bias).double()
        spread, total = spread + float(away.square().sum()), total + away.sum(0)
        active += float((code > 0).sum())
        fired |= (code > 0).any(0)
        tokens += len(x)
    if not tokens:
        raise BadInput("there is no map to measure an autoencoder on; record more pictures")
    spread -= float(total.square().sum()) / tokens  # around the mean, not around the bias
    return {"fvu": error / spread, "l0": active / tokens, "dead": float((~fired).double().mean()), "tokens": tokens}
