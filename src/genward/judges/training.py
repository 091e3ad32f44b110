"""How the lab's judges are trained and calibrated: batches in, weights and a card out. Knows nothing of where pictures
come from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from genward.core.checkpoint import load_checkpoint, save_checkpoint
from genward.core.precision import autocast
from genward.errors import BadInput

Batch = tuple[Tensor, Tensor, Tensor]
"""Pixels (n, 3, 64, 64) in [-1, 1], multi-hot labels (n, labels), weights of each label's loss (n, labels)."""


def disturb(x: Tensor, generator: torch.Generator) -> Tensor:
    """Small changes a judge must not mind: brightness and contrast by up to 10 %, noise of up to 0.06, blur of every
    fourth picture."""
    n = len(x)
    scale = 1 + 0.1 * (2 * torch.rand(n, 1, 1, 1, generator=generator) - 1)
    shift = 0.06 * torch.randn(n, 3, 1, 1, generator=generator)
    noise = 0.06 * torch.rand(n, 1, 1, 1, generator=generator) * torch.randn(x.shape, generator=generator)
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = torch.where(torch.rand(n, 1, 1, 1, generator=generator) < 0.25, blurred, x)
    return ((x - 1) * scale + 1 + shift + noise).clamp(-1, 1)


def ahead(batches: Callable[[], Batch]) -> Iterator[Batch]:
    """Batches made one ahead in a second thread."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(batches)
        while True:
            batch, coming = coming.result(), pool.submit(batches)
            yield batch


def train(
    net: Any,
    batches: Callable[[], Batch],
    *,
    seconds: float,
    file: Path,
    peak: float = 2e-3,
    report: Callable[[dict[str, float]], None] = lambda _: None,
) -> dict[str, Tensor]:
    """Binary cross-entropy on every label for ``seconds`` of compute; returns averaged weights. Checkpoints once a
    minute and resumes.

    Raises:
        BadInput: the checkpoint in ``file`` is another network's.
    """
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net.to(where)
    optimizer = torch.optim.AdamW(net.parameters(), peak, weight_decay=1e-2)
    average, step, spent = _resumed(net, optimizer, file, where)
    began, saved, smooth = time.monotonic() - spent, time.monotonic(), 0.0
    net.train()
    for x, labels, weights in ahead(batches):
        if spent >= seconds:
            break
        for group in optimizer.param_groups:
            group["lr"] = _rate(peak, step, spent / seconds)
        with autocast(where):
            logits = net(x.to(where)).float()
        each = F.binary_cross_entropy_with_logits(logits, labels.to(where), reduction="none")
        loss = (each * weights.to(where)).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        _average(average, net.state_dict(), min(0.998, (1 + step) / (10 + step)))
        step, spent = step + 1, time.monotonic() - began
        smooth = 0.98 * smooth + 0.02 * loss.item() if smooth else loss.item()
        if step % 50 == 0:
            report({"step": step, "samples": step * len(x), "seconds": spent, "loss": smooth})
        if time.monotonic() - saved > 60 or spent >= seconds:
            state = {"weights": net.state_dict(), "optimizer": optimizer.state_dict(), "average": average}
            save_checkpoint(file, {**state, "step": step, "seconds": spent})
            saved = time.monotonic()
    net.cpu()
    return {k: v.cpu() for k, v in average.items()}


def _resumed(net: Any, optimizer: Any, file: Path, where: torch.device) -> tuple[dict[str, Tensor], int, float]:
    """Averaged weights, step and seconds spent: of the checkpoint, which is loaded, or of the beginning."""
    if not file.exists():
        return {k: v.detach().clone() for k, v in net.state_dict().items()}, 0, 0.0
    state = load_checkpoint(file, where)
    if {k: v.shape for k, v in state["weights"].items()} != {k: v.shape for k, v in net.state_dict().items()}:
        raise BadInput(f"{file} belongs to a judge of another shape; remove it and train anew")
    net.load_state_dict(state["weights"])
    optimizer.load_state_dict(state["optimizer"])
    return state["average"], int(state["step"]), float(state["seconds"])


def _rate(peak: float, step: int, done: float) -> float:
    """Learning rate: 100 steps of warm-up, a cosine to 1 % of the peak at the end of the time."""
    return peak * min(1.0, (step + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


@torch.no_grad()
def _average(average: dict[str, Tensor], live: dict[str, Tensor], keep: float) -> None:
    """Move the averaged weights towards the live ones; counters are copied."""
    for name, value in live.items():
        average[name] = torch.lerp(average[name], value, 1 - keep) if value.is_floating_point() else value.clone()


@torch.no_grad()
def probabilities(net: Any, x: Tensor, *, size: int = 128) -> Any:
    """(n, labels) float64 probabilities."""
    net.eval()
    return torch.cat([net(part).sigmoid() for part in x.split(size)]).double().numpy()


def calibrate(
    values: Any, truth: Any, names: Sequence[str], *, specificity: float = 0.995, floor: float = 0.3
) -> dict[str, dict[str, float]]:
    """Per-label thresholds and error rates.

    A label's threshold is the smallest one that keeps ``specificity`` on the calibration half (every second row), never
    below ``floor``; sensitivity and specificity are counted on the other half.

    Args:
        values: (n, labels) probabilities. truth: (n, labels), 1 present, 0 absent, NaN not known.
    """
    card = {}
    half = np.arange(len(values)) % 2 == 0
    for k, name in enumerate(names):
        v, t = values[:, k], truth[:, k]
        absent = v[half & (t == 0)]
        threshold = max(floor, float(np.quantile(absent, specificity)) if len(absent) else floor)
        there, gone = v[~half & (t == 1)], v[~half & (t == 0)]
        card[name] = {
            "sensitivity": float((there >= threshold).mean()) if len(there) else float("nan"),
            "specificity": float((gone < threshold).mean()) if len(gone) else float("nan"),
            "positives": float(len(there)),
            "negatives": float(len(gone)),
            "threshold": threshold,
        }
    return card


def agreement(
    first: Any,
    second: Any,
    card: Mapping[str, Mapping[str, float]],
    truth_card: Mapping[str, Mapping[str, float]],
    names: Sequence[str],
) -> dict[str, Any]:
    """The first judge's error rates on generated pictures, the second judge's decisions taken as truth.

    Args:
        first, second: (n, labels) probabilities of the two judges on the same pictures.
    """
    ours = np.stack([first[:, k] >= card[n]["threshold"] for k, n in enumerate(names)], 1)
    truth = np.stack([second[:, k] >= truth_card[n]["threshold"] for k, n in enumerate(names)], 1)
    both, only, missed, neither = (
        (ours & truth).sum(),
        (ours & ~truth).sum(),
        (~ours & truth).sum(),
        (~ours & ~truth).sum(),
    )
    return {
        "pictures": len(ours),
        "sensitivity": float(both / max(1, both + missed)),
        "specificity": float(neither / max(1, neither + only)),
        "positives": int(both + missed),
        "negatives": int(neither + only),
    }
