"""How a safety patch is trained: what it is to leave alone, and the loss of one step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from genward.core.records import Call, Concept
from genward.defenses import _counterfactual as counterfactual
from genward.defenses import _patch_net as nets
from genward.errors import BadInput
from genward.ops import phrases
from genward.ops.finetune import add_noise, frozen_of, training_target
from genward.ops.prompt_pairs import Pair


class Training(Protocol):
    """The settings of ``SafePatch`` that a step reads."""

    @property
    def loss(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def batch(self) -> int: ...
    @property
    def dropout(self) -> float: ...
    @property
    def keep(self) -> float: ...
    @property
    def residual(self) -> float: ...


class Benign(NamedTuple):
    """What is to be left as it is."""

    texts: list[str]
    """Caption of each row"""
    latents: Tensor
    """(rows, c, h, w) final latents of its picture"""


def spread(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs of all groups in turn."""
    turn: Counter[int] = Counter()
    keyed = []
    for pair in pairs:
        keyed.append((turn[pair.group], pair.group, pair))
        turn[pair.group] += 1
    return [pair for *_, pair in sorted(keyed, key=lambda k: k[:2])]


def benign(concepts: Sequence[Concept]) -> tuple[list[str], list[str]]:
    """Captions to leave alone: near ones (neighbors) and far ones (what the concepts keep); one stands for the other
    where a file has none.

    Raises:
        BadInput: the concepts have neither.
    """
    gone = {p for c in concepts for p in c.phrases}
    near = [f"in {n} style" if c.kind == "style" else phrases.article(n) for c in concepts for n in c.neighbors]
    far = [text for c in concepts for text in c.keep]
    near, far = ([t for t in dict.fromkeys(texts) if t not in gone] for texts in (near, far))
    if not near and not far:
        raise BadInput("safepatch needs captions to leave alone; add neighbors or keep to the concept file")
    return near or far, far or near


def patch_step(
    model: Any,
    net: Any,
    found: counterfactual.Counterfactuals,
    others: Benign,
    states: Tensor,
    settings: Training,
    random: torch.Generator,
) -> Callable[[int], Tensor]:
    """The loss of one optimizer step as a function of its number; random numbers come from ``random`` alone.

    Half of the rows are of the concept: noised pictures of a pair, of either side under ``difference``, of the safe
    side under ``outcome``; the other half are benign pictures under their own captions.

    Args:
        states: (1, t, d) of the instruction.
    """
    with torch.no_grad():
        prompts, safes = (encoded(model, [getattr(p, k) for p in found.pairs]) for k in ("concept", "safe"))
        harmless, empty = encoded(model, others.texts), model.encode([""]).float()
    sides, kept = torch.stack([found.unsafe, found.safe]).to(model.device), others.latents.to(model.device)
    alphas, kind = model.alphas_cumprod, model.pipe.scheduler.config.prediction_type
    base = frozen_of(model)
    patched = nets.patched_prediction(model, net, lambda text: nets.read_text(text, states, settings.text))
    rows, half = settings.batch, settings.batch // 2

    def drawn(size: int, count: int) -> Tensor:
        return torch.randint(size, (count,), generator=random)

    def loss(step: int) -> Tensor:
        pick, other = drawn(len(found.pairs), half), drawn(len(kept), rows - half)
        side = drawn(2, half) if settings.loss == "difference" else torch.ones(half, dtype=torch.long)
        clean = torch.cat([sides[side, pick], kept[other]])
        t = drawn(len(alphas), rows).to(clean.device)
        noise = torch.randn(clean.shape, generator=random).to(clean.device)
        noised = add_noise(clean, noise, t, alphas)
        dropped = (torch.rand(rows, generator=random) < settings.dropout).to(clean.device)[:, None, None]
        prompt, wanted = (
            torch.where(dropped, empty, torch.cat([mine[pick], harmless[other]])) for mine in (prompts, safes)
        )
        with torch.no_grad():
            target = base(noised, t, wanted)
        got, size = patched(Call(noised, t, prompt))
        aim = training_target(clean, noise, t, alphas, kind)
        value = nets.rectifying(settings.loss, got[:half], target[:half], aim[:half])
        value = value + settings.keep * nets.keeping(got[half:], target[half:])
        return value + settings.residual * size if settings.residual else value

    return loss


def encoded(model: Any, texts: Sequence[str]) -> Tensor:
    """Text states (rows, t, d), float32; each text is encoded once."""
    each = list(dict.fromkeys(texts))
    states: Tensor = model.encode(each).float()
    return states[[each.index(t) for t in texts]]


def tenths(losses: Sequence[float]) -> list[float]:
    """Means of the losses over each tenth of the training."""
    size = max(1, len(losses) // 10)
    return [round(sum(part) / len(part), 6) for part in (losses[k : k + size] for k in range(0, len(losses), size))]
