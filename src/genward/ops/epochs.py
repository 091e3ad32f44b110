"""Training of the small networks that guards learn: epochs over shuffled items with cosine decay, the best epoch on
held rows kept."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from genward.errors import GenwardError
from genward.ops.finetune import Progress

__all__ = ["train_epochs"]


def train_epochs(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    items: int,
    loss: Callable[[Tensor], Tensor],
    held: Callable[[], float],
    *,
    epochs: int,
    batch: int,
    seed: int,
    name: str,
    progress: Progress | None = None,
) -> list[float]:
    """Train in place; dropout and shuffling have their own random numbers, the caller's are as before. Returns
    ``held()`` after each epoch.

    Args:
        items: there are; ``loss`` gets int64 (n,) numbers of some of them and gives a scalar with gradient.
        held: the state with the highest finite value is kept, the last one where none is finite.
        name: of the method, for messages.
        progress: ``progress(epoch, epochs, mean loss)``.

    Raises:
        GenwardError: the loss is not finite; the network is then not to be used.
    """
    shuffle = torch.Generator().manual_seed(seed)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-items // batch))
    rate = optimizer.param_groups[0]["lr"]
    best, kept, found = -math.inf, None, []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for epoch in range(epochs):
            net.train()
            total = 0.0
            for part in torch.randperm(items, generator=shuffle).split(batch):
                value = loss(part)
                if not bool(torch.isfinite(value)):
                    raise GenwardError(
                        f"{name}: loss {float(value.detach())} in epoch {epoch + 1} of {epochs}; lower lr (now "
                        f"{rate:g}), nothing was kept"
                    )
                optimizer.zero_grad(set_to_none=True)
                value.backward()
                optimizer.step()
                schedule.step()
                total += float(value.detach()) * len(part)
            found.append(held())
            if found[-1] > best:
                best, kept = found[-1], {k: v.clone() for k, v in net.state_dict().items()}
            if progress is not None:
                progress(epoch + 1, epochs, total / items)
    if kept is not None:
        net.load_state_dict(kept)
    net.eval()
    return found
