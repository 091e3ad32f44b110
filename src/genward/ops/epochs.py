"""Training of the small networks that guards learn: epochs over shuffled items with cosine decay, the best epoch on
held rows kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from genward.core.contracts import FitTools
from genward.errors import GenwardError

__all__ = ["Epochs", "train_epochs"]


class Epochs(NamedTuple):
    """How long, in what batches and in whose name."""

    epochs: int
    batch: int
    seed: int
    name: str
    """Of the method, for messages"""
    before: int = 0
    """Steps of the whole fit that are done when the training begins; progress counts on from there"""


def train_epochs(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    items: int,
    loss: Callable[[Tensor], Tensor],
    held: Callable[[], float],
    plan: Epochs,
    tools: FitTools,
) -> list[float]:
    """Train in place; dropout and shuffling have their own random numbers, the caller's are as before. Returns
    ``held()`` after each epoch.

    After an epoch the state may be kept (``tools.checkpoint``, part ``epochs``); a training that was stopped goes on
    from there and ends at the same bits.

    Args:
        items: there are; ``loss`` gets int64 (n,) numbers of some of them and gives a scalar with gradient.
        held: the state with the highest finite value is kept, the last one where none is finite.

    Raises:
        GenwardError: the loss is not finite; the network is then not to be used.
    """
    shuffle = torch.Generator().manual_seed(plan.seed)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, plan.epochs * -(-items // plan.batch))
    rate = optimizer.param_groups[0]["lr"]
    state: dict[str, Any] = {"epoch": 0, "best": -math.inf, "kept": None, "found": []}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        taken = tools.checkpoint(part="epochs")
        if taken is not None:
            state = _taken_up(taken, net, optimizer, schedule, shuffle)
        for epoch in range(int(state["epoch"]), plan.epochs):
            net.train()
            total = 0.0
            for part in torch.randperm(items, generator=shuffle).split(plan.batch):
                value = loss(part)
                if not bool(torch.isfinite(value)):
                    raise GenwardError(
                        f"{plan.name}: loss {float(value.detach())} in epoch {epoch + 1} of {plan.epochs}; lower lr "
                        f"(now {rate:g}), nothing was kept"
                    )
                optimizer.zero_grad(set_to_none=True)
                value.backward()
                optimizer.step()
                schedule.step()
                total += float(value.detach()) * len(part)
            state["found"].append(held())
            if state["found"][-1] > state["best"]:
                state["best"] = state["found"][-1]
                state["kept"] = {k: v.clone() for k, v in net.state_dict().items()}
            state["epoch"] = epoch + 1
            tools.progress(plan.before + epoch + 1, plan.before + plan.epochs, total / items)
            if tools.due():
                tools.checkpoint(state | _live(net, optimizer, schedule, shuffle), part="epochs")
    if state["kept"] is not None:
        net.load_state_dict(state["kept"])
    net.eval()
    return list(state["found"])


def _live(net: nn.Module, optimizer: Any, schedule: Any, shuffle: torch.Generator) -> dict[str, Any]:
    """What an epoch changes beside the figures."""
    return {
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "shuffle": shuffle.get_state(),
        "random": torch.random.get_rng_state(),
    }


def _taken_up(taken: Any, net: nn.Module, optimizer: Any, schedule: Any, shuffle: torch.Generator) -> dict[str, Any]:
    """The figures of a checkpoint, everything else put back where it was."""
    net.load_state_dict(taken["net"])
    optimizer.load_state_dict(taken["optimizer"])
    schedule.load_state_dict(taken["schedule"])
    shuffle.set_state(taken["shuffle"])
    torch.random.set_rng_state(taken["random"])
    return {k: taken[k] for k in ("epoch", "best", "kept", "found")}
