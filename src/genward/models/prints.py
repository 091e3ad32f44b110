"""A few numbers of each weight, to see whether a network is still the one that a guard was fitted on.

What a detector learned holds for one set of weights. Another checkpoint loaded into the open pipeline, an average
copied into it, a fused adapter, a cast to another dtype change the numbers in place, in the same module, where looking
at the module alone sees nothing. Eight numbers of each weight, read before and after every call, do."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

NUMBERS = 8
"""Read of each weight, spread evenly"""


class Print(NamedTuple):
    """What one weight was."""

    name: str
    parameter: weakref.ref[nn.Parameter]
    dtype: torch.dtype
    shape: torch.Size
    places: Tensor
    """int (dimensions, numbers): indices"""
    numbers: Tensor
    """(numbers,) on the CPU"""


def taken(network: nn.Module) -> list[Print]:
    """The prints of a network's floating-point weights; those that hold no numbers here (``meta``) have none."""
    out = []
    for name, weight in network.named_parameters():
        if not weight.is_floating_point() or weight.is_meta or not weight.numel():
            continue
        flat = torch.linspace(0, weight.numel() - 1, min(NUMBERS, weight.numel())).long()
        places = torch.stack(torch.unravel_index(flat, weight.shape)) if weight.dim() else torch.zeros(0, 1).long()
        numbers = _read(weight, places)
        out.append(Print(name, weakref.ref(weight), weight.dtype, weight.shape, places, numbers))
    return out


def changed(network: nn.Module, prints: Iterable[Print]) -> list[str]:
    """Names of the weights that hold other numbers, are of another dtype, or are gone.

    A weight is looked for by itself first, so that it is found under another name (wrapped by an adapter), then by its
    name, so that an embedding table that grew counts as the same where its old rows are."""
    now: Mapping[str, nn.Parameter] = dict(network.named_parameters())
    there = {id(weight): weight for weight in now.values()}
    lost = []
    for was in prints:
        mine = was.parameter()
        weight = there.get(id(mine), now.get(was.name)) if mine is not None else now.get(was.name)
        if weight is None or weight.is_meta or weight.dtype != was.dtype or not _covers(weight.shape, was.shape):
            lost.append(was.name)
        elif not torch.equal(_read(weight, was.places), was.numbers):
            lost.append(was.name)
    return lost


def _covers(shape: torch.Size, old: torch.Size) -> bool:
    return len(shape) == len(old) and all(a >= b for a, b in zip(shape, old, strict=True))


def _read(weight: Tensor, places: Tensor) -> Tensor:
    data = weight.detach()
    return (data[tuple(places.to(data.device))] if data.dim() else data[None].clone()).cpu()
