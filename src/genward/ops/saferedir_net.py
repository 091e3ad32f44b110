"""SafeRedir's network (arXiv 2601.08623; shapes after the authors' code): is this trajectory state unsafe, and where
should its text states go.

Built for any number of tokens, text width and latent channels. At ``width`` 1, four latent channels and 768-wide text
it has the authors' sizes (14,573,574 parameters); smaller widths scale the hidden sizes. What differs, by field: the
delta's trunk may read each token (theirs is computed once and repeated, so all tokens share one direction); the mask
acts after the normalization, where theirs, acting before it, cancels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genward.core.contracts import FitTools
from genward.errors import BadArtifact, BadInput
from genward.ops.detection import auroc
from genward.ops.epochs import Epochs, train_epochs
from genward.ops.tools import QUIET

TRUNKS = ("token", "shared")
SEES = ("both", "text", "latent")
RANK = 16
"""Of the authors' map at the end of the delta's trunk: all its directions lie in a space of so many dimensions."""
TIME = 320
"""Width of the sinusoidal time embedding, as in the authors' code."""
Shape = Mapping[str, Any]
"""``{"trunk", "sees", "tokens", "text", "channels", "width", "dropout", "mask_norm", "rank"}``; without ``mask_norm``,
as in artifacts of earlier versions, the mask predictor has no layer normalization, and ``rank`` is ``RANK``"""


class Redirection(NamedTuple):
    """The network's answer: ``logits`` (rows, 2), class 1 unsafe; ``delta`` (rows, t, c); ``mask`` (rows, t); ``alpha``
    (rows, t)."""

    logits: Tensor
    delta: Tensor
    mask: Tensor
    alpha: Tensor


# ------------------------------------------------------------------------------------------------------- pure functions


def sinusoid(timestep: Tensor, width: int = TIME) -> Tensor:
    """(rows,) -> (rows, width): ``[sin, cos]`` of frequencies ``10,000^(-k/half)``."""
    half = width // 2
    angles = timestep.float()[:, None] * torch.exp(
        -math.log(10_000.0) * torch.arange(half, device=timestep.device, dtype=torch.float32) / half
    )
    return torch.cat([angles.sin(), angles.cos()], 1)


def shift(text: Tensor, out: Redirection, strength: float, masked: bool) -> Tensor:
    """What is added to the text states: ``s · α ⊙ Δ/|Δ| ⊙ |token|``, times the mask where ``masked``.

    Args:
        text: (rows, t, c), the prompt's own states. out: of the network for these rows.

    Returns:
        (rows, t, c). Without the mask a token moves by at most ``strength`` of its own length.
    """
    size = strength * out.alpha[..., None] * text.norm(dim=-1, keepdim=True)
    if masked:
        size = size * out.mask[..., None]
    moved: Tensor = size * out.delta / out.delta.norm(dim=-1, keepdim=True).clamp_min(1e-8)
    return moved


class Weights(NamedTuple):
    """Weights of the loss's parts: embedding target, mask, no shift on safe rows, small mask, distance within the
    embedding target."""

    target: float = 1.0
    mask: float = 0.5
    still: float = 0.1
    sparse: float = 0.01
    distance: float = 0.1


def redirection_loss(
    out: Redirection,
    moved: Tensor,
    text: Tensor,
    label: Tensor,
    safe: Tensor,
    paired: Tensor,
    mask: Tensor,
    weights: Weights = Weights(),  # noqa: B008
) -> Tensor:
    """Cross-entropy of the class, and for unsafe rows that have a safe twin the distance of the moved text states to
    the twin's.

    ``CE + target·y·[1 - cos + distance·MSE] + mask·y·BCE(mask, m*) + still·(1 - y)·|αΔ|² + sparse·mean(mask)``; the
    embedding and mask terms are averaged over the paired rows, the others over theirs.

    Args:
        moved: ``shift(...)`` as it is applied (rows, t, c). text: the states it is added to. label: int (rows,), 1
            unsafe.
        safe: (rows, t, c) of the twin. paired: bool (rows,), unsafe with a twin. mask: (rows, t) in {0, 1}, NaN where
            it is not known.
    """
    loss = F.cross_entropy(out.logits, label)
    if bool(paired.any()):
        near, goal = (text + moved)[paired], safe[paired]
        loss = (
            loss
            + weights.target
            * (1 - F.cosine_similarity(near, goal, dim=-1) + weights.distance * (near - goal).square().mean(-1)).mean()
        )
        known = ~torch.isnan(mask[paired])
        if bool(known.any()):
            loss = loss + weights.mask * F.binary_cross_entropy(
                out.mask[paired][known].clamp(1e-6, 1 - 1e-6), mask[paired][known]
            )
    still = label == 0
    if bool(still.any()):
        loss = loss + weights.still * (out.alpha[..., None] * out.delta)[still].square().mean()
    return loss + weights.sparse * out.mask.mean()


def concept_mask(unsafe: Tensor, safe: Tensor) -> Tensor:
    """(t,) token ids of two texts of equal length -> (t,) float: 1 where they differ. Of unequal lengths every later
    token would differ."""
    return (unsafe != safe).float()


# ---------------------------------------------------------------------------------------------------------- the network


class Residual(nn.Module):
    """Two 3×3 convolutions with batch normalization and a 1×1 skip, stride 1."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(inside, outside, 3, padding=1), nn.Conv2d(outside, outside, 3, padding=1)
        self.norm1, self.norm2 = nn.BatchNorm2d(outside), nn.BatchNorm2d(outside)
        self.skip = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.first(x)))
        return F.relu(self.norm2(self.second(y)) + self.skip(x))


class SingleQuery(nn.Module):
    """One of the parallel heads: the joint state asks, prompt tokens answer; the mean of the values is added before the
    norm."""

    def __init__(self, joint: int, text: int) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(joint, text), nn.Linear(text, text), nn.Linear(text, text)
        self.norm = nn.LayerNorm(text)

    def forward(self, joint: Tensor, prompt: Tensor) -> Tensor:
        k, v = self.k(prompt), self.v(prompt)
        attention = (self.q(joint)[:, None] @ k.transpose(1, 2) / math.sqrt(k.shape[-1])).softmax(-1)
        out: Tensor = self.norm((attention @ v)[:, 0] + v.mean(1))
        return out


class Redirector(nn.Module):
    """Classifier and delta generator; ``forward(latents (rows, 4, h, w), prompt (rows, t, c), timestep (rows,)) ->
    Redirection``."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        text, tokens, drop = shape["text"], shape["tokens"], shape["dropout"]

        def wide(size: int) -> int:
            return max(8, round(size * float(shape["width"])))

        self.trunk_kind, self.sees = shape["trunk"], shape["sees"]
        a, b, c = wide(64), wide(128), wide(256)
        self.latent = nn.Sequential(Residual(shape["channels"], a), Residual(a, b), Residual(b, c))
        self.latent_out = nn.Sequential(nn.Linear(c, wide(512)), nn.ReLU(), nn.Dropout(drop))
        self.time = nn.Sequential(nn.Linear(TIME, wide(64)), nn.SiLU(), nn.LayerNorm(wide(64)))
        joint = wide(512) + wide(64)
        self.attention = nn.ModuleList(SingleQuery(joint, text) for _ in range(4 if shape["width"] >= 0.5 else 1))
        self.gathered = nn.Sequential(nn.Linear(len(self.attention) * text, text), nn.LayerNorm(text))
        self.classifier = nn.Sequential(
            nn.Linear(joint + 2 * text, wide(256)), nn.ReLU(), nn.Dropout(drop), nn.Linear(wide(256), 2)
        )
        inside = joint + text + (text if self.trunk_kind == "token" else 0)
        self.trunk = nn.Sequential(nn.Linear(inside, wide(512)), nn.ReLU(), nn.Linear(wide(512), text))
        rank = int(shape.get("rank", RANK))
        self.low = nn.Sequential(nn.Linear(text, rank, bias=False), nn.Linear(rank, text, bias=False))
        self.scale = nn.Parameter(torch.ones(()))
        self.position = nn.Parameter(torch.randn(1, tokens, text))
        self.gate = nn.Linear(text, 1)
        heads = next(h for h in (4, 2, 1) if text % h == 0)
        self.among = nn.MultiheadAttention(text, heads, batch_first=True)
        norm = [nn.LayerNorm(b)] if shape.get("mask_norm", False) else []
        self.mask = nn.Sequential(nn.Linear(text, b), *norm, nn.ReLU(), nn.Linear(b, 1))
        self.alpha = nn.Sequential(nn.Linear(text, wide(256)), nn.ReLU(), nn.Linear(wide(256), 1))

    def forward(self, latents: Tensor, prompt: Tensor, timestep: Tensor) -> Redirection:
        joint = torch.cat([self.latent_out(self.latent(latents).mean((2, 3))), self.time(sinusoid(timestep))], 1)
        c = self.gathered(torch.cat([head(joint, prompt) for head in self.attention], 1))
        logits = self.classifier(self._seen(joint, prompt, c))
        both = torch.cat([joint, c], 1)
        if self.trunk_kind == "token":
            delta = self.trunk(torch.cat([both[:, None].expand(-1, prompt.shape[1], -1), prompt], -1))
        else:
            delta = self.trunk(both)[:, None].expand_as(prompt)
        delta = self.scale * self.low(delta)
        gate = (self.gate(prompt + self.position)).sigmoid()
        attended = self.among(prompt, prompt, prompt, need_weights=False)[0]
        mask = self.mask(attended)[..., 0].sigmoid()
        alpha = self.alpha(prompt)[..., 0].sigmoid()
        return Redirection(logits, delta * gate * mask[..., None], mask, alpha)

    def _seen(self, joint: Tensor, prompt: Tensor, c: Tensor) -> Tensor:
        """What the classifier reads; the ablations blank the latents (and the time) or the text."""
        mean = prompt.mean(1)
        if self.sees == "latent":
            mean, c = torch.zeros_like(mean), torch.zeros_like(c)
        if self.sees == "text":
            joint, c = torch.zeros_like(joint), torch.zeros_like(c)
        return torch.cat([joint, mean, c], 1)


def build(shape: Shape, seed: int | None = None) -> Redirector:
    """The network of a shape; random weights from ``seed`` where it is given. ``BadArtifact`` where the shape cannot be
    read."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0 if seed is None else seed)
        try:
            return Redirector(shape)
        except (KeyError, TypeError, RuntimeError, StopIteration) as error:
            raise BadArtifact(
                f"this is no shape of a SafeRedir network ({type(error).__name__}: {error}); fit it again"
            ) from error


def pack(net: nn.Module) -> dict[str, Tensor]:
    """Its weights in float16, by name; the batch counters of normalization are left out."""
    return {name: value.detach().cpu().half() for name, value in net.state_dict().items() if value.is_floating_point()}


def unpack(shape: Shape, tensors: Mapping[str, Tensor]) -> Redirector:
    """The network of an artifact in float32, for reading only. ``BadArtifact`` where names or shapes are not its
    own."""
    net = build(shape)
    own = {name for name, value in net.state_dict().items() if value.is_floating_point()}
    if own != set(tensors):
        raise BadArtifact(
            f"the weights are not those of this SafeRedir network ({len(own ^ set(tensors))} names differ); fit it "
            "again"
        )
    try:
        net.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=False)
    except RuntimeError as error:
        raise BadArtifact(
            f"the weights are not those of this SafeRedir network: {str(error)[:200]}; fit it again"
        ) from error
    return net.eval().requires_grad_(False)


def size(shape: Shape) -> int:
    """Number of parameters of a shape, without making them."""
    with torch.device("meta"):
        return sum(p.numel() for p in Redirector(shape).parameters())


# ------------------------------------------------------------------------------------------------------------- training


class Items(NamedTuple):
    """What is learned from, one row a trajectory."""

    latents: Tensor
    """float16 (rows, steps, c, h, w)"""
    timesteps: Tensor
    """(steps,)"""
    text: Tensor
    """(rows, t, width)"""
    label: Tensor
    """int64 (rows,): 1 unsafe"""
    safe: Tensor
    """(rows, t, width): text states of the safe twin; anything where there is none"""
    paired: Tensor
    """bool (rows,): unsafe and with a twin"""
    mask: Tensor
    """(rows, t): 1 on the concept's tokens; NaN where it is not known"""

    def take(self, rows: Tensor) -> Items:
        return Items(self.latents[rows], self.timesteps, *(x[rows] for x in self[2:]))


Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(latents, timestep (rows,), text) -> prediction``, differentiable in the text"""


class Training(NamedTuple):
    """How it is trained; ``scale`` and ``masked`` are those of use."""

    epochs: int
    batch: int
    lr: float
    scale: float
    masked: bool
    denoiser: float
    seed: int


def batch_loss(
    net: Redirector, items: Items, row: Tensor, step: Tensor, how: Training, denoise: Denoise | None = None
) -> Tensor:
    """``redirection_loss`` of some rows at some steps, plus ``denoiser`` times the distance of the predictions under
    moved and safe text."""
    latents, timestep, text = items.latents[row, step].float(), items.timesteps[step], items.text[row].float()
    out = net(latents, text, timestep)
    moved = shift(text, out, how.scale, how.masked)
    safe, paired = items.safe[row].float(), items.paired[row]
    loss = redirection_loss(out, moved, text, items.label[row], safe, paired, items.mask[row])
    if how.denoiser and denoise is not None and bool(paired.any()):
        with torch.no_grad():
            goal = denoise(latents[paired], timestep[paired], safe[paired])
        loss = (
            loss
            + how.denoiser * (denoise(latents[paired], timestep[paired], (text + moved)[paired]) - goal).square().mean()
        )
    return loss


def train(
    net: Redirector,
    items: Items,
    held: Tensor,
    how: Training,
    denoise: Denoise | None = None,
    tools: FitTools = QUIET,
    before: int = 0,
) -> list[float]:
    """Train in place with AdamW over rows × steps; the state of the epoch with the best ``held_score`` is kept. Returns
    those scores.

    Not the loss decides: its cross-entropy rises on held rows once the classifier is sure of labels that the judge got
    wrong, after an epoch or two, when the shift has learned next to nothing yet.

    Args:
        held: bool (rows,): whole pairs that are not trained on.

    Raises:
        BadInput: rows of one class only. GenwardError: the loss is not finite.
    """
    rows, steps = (~held).nonzero().flatten(), items.latents.shape[1]
    if len(items.label[rows].unique()) < 2:
        raise BadInput(
            "saferedir learns from unsafe and safe trajectories and got only one kind; add pairs, seeds, or captions "
            "of the other kind"
        )

    def loss(part: Tensor) -> Tensor:
        return batch_loss(net, items, rows[part // steps], part % steps, how, denoise)

    optimizer = torch.optim.AdamW(net.parameters(), how.lr)
    plan = Epochs(how.epochs, how.batch, how.seed, "saferedir", before)
    part = items.take(held.nonzero().flatten())
    return train_epochs(net, optimizer, len(rows) * steps, loss, lambda: held_score(net, part, how), plan, tools)


def held_score(net: Redirector, items: Items, how: Training) -> float:
    """Mean AUROC of the classifier over the steps, plus the mean cosine of paired rows' moved text states to the safe
    twin's over steps and tokens; each where it can be had, minus infinity where neither can."""
    found = []
    if len(items.label.unique()) == 2:
        scores = unsafe_scores(net, items).numpy()
        found.append(sum(auroc(scores[:, k], items.label.numpy()) for k in range(scores.shape[1])) / scores.shape[1])
    if bool(items.paired.any()):
        near = [nearness(net, items, k, how)[1] for k in range(items.latents.shape[1])]
        found.append(sum(near) / len(near))
    return sum(found) if found else -math.inf


def nearness(net: Redirector, items: Items, step: int, how: Training) -> tuple[float, float]:
    """Mean cosine of paired rows' text states to their safe twins', before and after the shift at one step."""
    part = items.take(items.paired.nonzero().flatten())
    text, safe = part.text.float(), part.safe.float()
    net.eval()
    with torch.no_grad():
        out = net(part.latents[:, step].float(), text, part.timesteps[step].expand(len(text)))
        moved = text + shift(text, out, how.scale, how.masked)
    before, after = (float(torch.cosine_similarity(x, safe, dim=-1).mean()) for x in (text, moved))
    return before, after


def unsafe_scores(net: Redirector, items: Items, batch: int = 256) -> Tensor:
    """Probabilities of being unsafe, (rows, steps)."""
    net.eval()
    out = []
    with torch.no_grad():
        for rows in torch.arange(len(items.label)).split(batch):
            part = items.take(rows)
            each = [
                net(part.latents[:, s].float(), part.text.float(), t.expand(len(rows))).logits.softmax(1)[:, 1]
                for s, t in enumerate(items.timesteps)
            ]
            out.append(torch.stack(each, 1))
    return torch.cat(out)
