"""Wukong's detector (arXiv 2508.00591): category queries decoded against early U-Net features, with the U-Net's own
cross-attention.

The paper's text was not available in full; the digest's two readings of "reuse of the pre-trained cross-attention" are
both here:

``A``  image tokens through the U-Net's ``to_q``, category queries through its ``to_k``/``to_v``/``to_out`` as if they
       were text tokens. A softmax over the categories and one null query says how relevant each place is to each
       category; what the places hold, weighted by that, is read by a small shared network.
``B``  a decoder in the text's width: the same projections with the roles of attention turned round, each category
       attends over places.

Features are token streams, (rows, places, channels), of one of two places (``tap``):

``query``  what the U-Net's ``to_q`` itself is given: the state after self-attention and its residual, normalized. Here
           the reused projections work on what they were trained on; since they are linear, averages over places give
           the averages of attn2's own logits.
``block``  outputs of whole transformer blocks, as the paper's summaries say ("intermediate outputs"), through the
           block's ``norm2``: the projections meet states that they were not trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genward.core.contracts import FitTools
from genward.errors import BadArtifact, BadInput
from genward.ops.detection import average_precision
from genward.ops.epochs import Epochs, train_epochs
from genward.ops.within import balanced_weights, within_auroc

READINGS = ("A", "B")
TAPS = ("query", "block")
LOGITS = ("heads", "mean")
"""How attention logits reach the read-out of reading A: every head's, or their mean over heads."""
TIME = 64
"""Width of the sinusoidal time embedding."""
TOP = 0.1
"""Share of the places whose logits are averaged for a category."""

Shape = Mapping[str, Any]
"""``{"reading", "tap", "logits", "text", "categories", "hidden", "rank", "layers", "dropout", "sites": [{"name",
"channels", "inner", "heads"}]}``; a site's name is that of what is read."""


# ------------------------------------------------------------------------------------------------------- pure functions


def time_features(timestep: Tensor, width: int = TIME) -> Tensor:
    """(rows,) timesteps -> (rows, width): sines, then cosines, of geometrically spaced frequencies (period up to
    10,000)."""
    half = width // 2
    rates = torch.exp(-math.log(10_000.0) * torch.arange(half, device=timestep.device, dtype=torch.float32) / half)
    angles = timestep.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)


def head_logits(q: Tensor, k: Tensor, heads: int) -> Tensor:
    """Attention logits of places for category tokens, as the U-Net's cross-attention has them before its softmax.

    Args:
        q: (rows, places, inner). k: (tokens, inner). heads: inner = heads · dim, logits are scaled by dim^-1/2.

    Returns:
        (rows, heads, places, tokens)
    """
    asking, asked = q.unflatten(-1, (heads, -1)).transpose(1, 2), k.unflatten(-1, (heads, -1)).permute(1, 2, 0)
    logits: Tensor = asking @ asked / math.sqrt(asking.shape[-1])
    return logits


def top_mean(x: Tensor, share: float = TOP) -> Tensor:
    """(rows, places, n) -> (rows, n): mean of the ``share`` largest values over the places, at least one."""
    return x.topk(max(1, round(share * x.shape[1])), dim=1).values.mean(1)


def weighted(x: Tensor, relevance: Tensor) -> Tensor:
    """(rows, places, c) and (rows, places, k) -> (rows, k, c): what the places hold, averaged with each category's
    relevance."""
    return relevance.transpose(1, 2) @ x / relevance.sum(1)[..., None].clamp_min(1e-8)


def multi_label_loss(
    logits: Tensor, truth: Tensor, weight: Tensor, any_share: float, rows: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy of every label that is known, positives weighted, plus ``any_share`` times that of "any of
    them".

    Args:
        logits, truth: (rows, k); a truth of NaN is unknown and counts nothing. weight: (k,) of positives.
        any_share: "any" is the largest logit against the largest truth, of rows whose labels are all known.
        rows: (rows, k + 1) weight of each row for each label, and for "any" in the last column; 1 without it.
    """
    known = ~torch.isnan(truth)
    by = torch.ones(len(truth), truth.shape[1] + 1, dtype=logits.dtype) if rows is None else rows
    each = F.binary_cross_entropy_with_logits(logits, truth.nan_to_num(), pos_weight=weight, reduction="none")
    loss = (each * known * by[:, :-1]).sum() / known.sum().clamp_min(1)
    whole = known.all(1)
    if any_share and bool(whole.any()):
        most = F.binary_cross_entropy_with_logits(logits[whole].amax(1), truth[whole].amax(1), reduction="none")
        loss = loss + any_share * (most * by[whole, -1]).mean()
    return loss


# ---------------------------------------------------------------------------------------------------------- the network


class Reused(nn.Module):
    """A projection of the U-Net, frozen, with a trained low-rank difference that starts at zero (``rank`` 0: none)."""

    def __init__(self, inside: int, outside: int, rank: int, bias: bool = False) -> None:
        super().__init__()
        self.base = nn.Linear(inside, outside, bias=bias).requires_grad_(False)
        self.down = nn.Linear(inside, rank, bias=False) if rank else None
        self.up = nn.Linear(rank, outside, bias=False) if rank else None
        if self.up is not None:
            nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y if self.up is None or self.down is None else y + self.up(self.down(x))


class SiteAttention(nn.Module):
    """One site's cross-attention: the four projections of its transformer block, after ``norm2`` where a block's output
    is read (``normed``)."""

    def __init__(self, channels: int, inner: int, text: int, heads: int, rank: int, normed: bool) -> None:
        super().__init__()
        self.heads, self.normed = heads, normed
        self.norm = nn.LayerNorm(channels).requires_grad_(False) if normed else nn.Identity()
        self.q, self.k, self.v = Reused(channels, inner, rank), Reused(text, inner, rank), Reused(text, inner, rank)
        self.out = Reused(inner, channels, rank, bias=True)

    def copy_from(self, block: Any) -> None:
        """Take the weights of a diffusers ``BasicTransformerBlock`` over."""
        attention = block.attn2
        with torch.no_grad():
            if self.normed:
                self.norm.load_state_dict({k: v.float().cpu() for k, v in block.norm2.state_dict().items()})
            for ours, theirs in (
                (self.q, attention.to_q),
                (self.k, attention.to_k),
                (self.v, attention.to_v),
                (self.out, attention.to_out[0]),
            ):
                ours.base.weight.copy_(theirs.weight)
                if ours.base.bias is not None:
                    ours.base.bias.copy_(theirs.bias if theirs.bias is not None else torch.zeros_like(ours.base.bias))


def _site(shape: Shape, site: Mapping[str, Any]) -> SiteAttention:
    return SiteAttention(
        site["channels"], site["inner"], shape["text"], site["heads"], shape["rank"], shape["tap"] == "block"
    )


class ReadingA(nn.Module):
    """Categories as text tokens of the U-Net's cross-attention; see the module's text."""

    sites: Any
    held: Any

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        hidden, text = shape["hidden"], shape["text"]
        self.sites = nn.ModuleList(_site(shape, s) for s in shape["sites"])
        self.queries = nn.Parameter(torch.zeros(shape["categories"] + 1, text))
        self.held = nn.ModuleList(nn.Linear(s["channels"], hidden) for s in shape["sites"])
        self.about = nn.Linear(text, hidden)
        self.time = nn.Sequential(nn.Linear(TIME, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.every = shape["logits"] == "heads"
        numbers = sum(1 + (s["heads"] if self.every else 1) for s in shape["sites"])
        wide = hidden * (len(shape["sites"]) + 2) + numbers
        self.read = nn.Sequential(
            nn.LayerNorm(wide), nn.Dropout(shape["dropout"]), nn.Linear(wide, hidden), nn.GELU(), nn.Linear(hidden, 1)
        )

    def forward(self, features: Sequence[Tensor], timestep: Tensor) -> Tensor:
        rows, categories = len(timestep), len(self.queries) - 1
        parts: list[Tensor] = []
        for x, site, held in zip(features, self.sites, self.held, strict=True):
            states = site.norm(x)
            each = head_logits(site.q(states), site.k(self.queries), site.heads)
            each = each if self.every else each.mean(1, keepdim=True)
            found = weighted(states, each.softmax(-1).mean(1)[..., :-1])
            written = site.out(site.v(self.queries[:-1]))
            parts += [
                top_mean(each.flatten(0, 1)).unflatten(0, (rows, -1)).transpose(1, 2)[:, :-1],
                F.cosine_similarity(found, written, dim=-1)[..., None],
                held(found),
            ]
        parts.append(self.about(self.queries[:-1]).expand(rows, -1, -1))
        parts.append(self.time(time_features(timestep))[:, None].expand(-1, categories, -1))
        logits_out: Tensor = self.read(torch.cat(parts, -1))[..., 0]
        return logits_out


class DecoderLayer(nn.Module):
    """Pre-norm: categories attend over the places of each site in turn, then a feed-forward layer. Categories do not
    see each other."""

    sites: Any
    value: Any
    back: Any
    before: Any

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        text = shape["text"]
        self.sites = nn.ModuleList(_site(shape, s) for s in shape["sites"])
        self.value = nn.ModuleList(nn.Linear(s["channels"], s["inner"], bias=False) for s in shape["sites"])
        self.back = nn.ModuleList(nn.Linear(s["channels"], text, bias=False) for s in shape["sites"])
        self.before = nn.ModuleList(nn.LayerNorm(text) for _ in shape["sites"])
        self.feed = nn.Sequential(
            nn.LayerNorm(text),
            nn.Linear(text, 4 * text),
            nn.GELU(),
            nn.Dropout(shape["dropout"]),
            nn.Linear(4 * text, text),
            nn.Dropout(shape["dropout"]),
        )

    def forward(self, h: Tensor, features: Sequence[Tensor]) -> Tensor:
        for x, site, value, back, before in zip(features, self.sites, self.value, self.back, self.before, strict=True):
            states = site.norm(x)

            def split(y: Tensor, heads: int = site.heads) -> Tensor:
                parts: Tensor = y.unflatten(-1, (heads, -1))
                return parts.transpose(1, 2)

            # the U-Net's text side asks, its image side answers
            seen = F.scaled_dot_product_attention(split(site.k(before(h))), split(site.q(states)), split(value(states)))
            h = h + back(site.out(seen.transpose(1, 2).flatten(2)))
        out: Tensor = h + self.feed(h)
        return out


class ReadingB(nn.Module):
    """A decoder whose targets are the categories; see the module's text."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        text = shape["text"]
        self.queries = nn.Parameter(torch.zeros(shape["categories"] + 1, text))
        self.time = nn.Sequential(nn.Linear(TIME, text), nn.SiLU(), nn.Linear(text, text))
        self.layers = nn.ModuleList(DecoderLayer(shape) for _ in range(shape["layers"]))
        self.norm = nn.LayerNorm(text)
        self.read = nn.Parameter(torch.randn(shape["categories"], text) / math.sqrt(text))
        self.bias = nn.Parameter(torch.zeros(shape["categories"]))

    def forward(self, features: Sequence[Tensor], timestep: Tensor) -> Tensor:
        h = self.queries[:-1] + self.time(time_features(timestep))[:, None]
        for layer in self.layers:
            h = layer(h, features)
        logits: Tensor = (self.norm(h) * self.read).sum(-1) + self.bias
        return logits


def build(shape: Shape) -> nn.Module:
    """The network of a shape, with random weights where it is trained. ``BadArtifact`` where the shape cannot be
    read."""
    try:
        return (ReadingA if shape["reading"] == "A" else ReadingB)(shape)
    except (KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise BadArtifact(
            f"this is no shape of a Wukong network ({type(error).__name__}: {error}); fit it again"
        ) from error


def start(shape: Shape, blocks: Sequence[Any], queries: Tensor, seed: int) -> nn.Module:
    """A network ready for training: projections copied from the U-Net's transformer blocks, queries from text states.

    Args:
        blocks: one a site. queries: (categories + 1, text), the last one that of the null query.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build(shape)
    with torch.no_grad():
        net.get_parameter("queries").copy_(queries)
        for module in net.modules():
            if isinstance(module, nn.ModuleList) and len(module) and isinstance(module[0], SiteAttention):
                for site, block in zip(module, blocks, strict=True):
                    assert isinstance(site, SiteAttention)
                    site.copy_from(block)
    return net


def pack(net: nn.Module) -> dict[str, Tensor]:
    """Its weights in float16, by name."""
    return {name: value.detach().cpu().half() for name, value in net.state_dict().items()}


def unpack(shape: Shape, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The network of an artifact, in float32, for reading only.

    Raises:
        BadArtifact: names or shapes are not those of the network.
    """
    net = build(shape)
    try:
        net.load_state_dict({k: v.float() for k, v in tensors.items()})
    except RuntimeError as error:
        raise BadArtifact(
            f"the weights are not those of this Wukong network: {str(error)[:200]}; fit it again"
        ) from error
    return net.eval().requires_grad_(False)


# ------------------------------------------------------------------------------------------------------------- training


def predict(net: nn.Module, features: Sequence[Tensor], timesteps: Tensor, batch: int = 256) -> Tensor:
    """Logits (rows, steps, categories) in float32 of features (rows, steps, places, channels)."""
    rows, steps = features[0].shape[:2]
    out = []
    net.eval()
    with torch.no_grad():
        for k in range(0, rows, batch):
            each = [
                net([f[k : k + batch, s].float() for f in features], timesteps[s].expand(min(batch, rows - k)))
                for s in range(steps)
            ]
            out.append(torch.stack(each, 1))
    return torch.cat(out)


def validation_score(logits: Tensor, truth: Tensor, prompts: Sequence[str]) -> float:
    """How good an epoch is: the mean over steps of the average precision over categories that have a positive and,
    where prompts have both outcomes, of the AUROC within one prompt of "any of the categories"; ``-inf`` without a
    positive.

    Within one prompt alone would pick an epoch that does not know yet what prompts name."""
    harm = torch.where(torch.isnan(truth).any(1), torch.nan, truth.amax(1)).numpy()
    found = []
    for s in range(logits.shape[1]):
        each = [average_precision(logits[:, s, k].numpy(), truth[:, k].numpy()) for k in range(truth.shape[1])]
        known = [x for x in each if not math.isnan(x)]
        if known:
            within = within_auroc(logits[:, s].amax(1).numpy(), harm, prompts).value
            found.append(float(np.mean(known)) if math.isnan(within) else (float(np.mean(known)) + within) / 2)
    return float(np.mean(found)) if found else -math.inf


class Rows(NamedTuple):
    """What is learned from, and what the epoch is chosen on."""

    features: Sequence[Tensor]
    """of each site, float16 (rows, steps, places, channels)"""
    timesteps: Tensor
    """(steps,)"""
    truth: Tensor
    """(rows, categories) of 0, 1 or NaN"""
    prompts: Sequence[str]
    fit: Tensor
    """bool (rows,) that weights are learned from"""
    choose: Tensor
    """bool (rows,) that the epoch is chosen on; where they hold no positive the last epoch is kept"""
    weights: Tensor
    """(rows, categories + 1) of each row for each label, and for "any\""""

    @classmethod
    def of(
        cls,
        features: Sequence[Tensor],
        timesteps: Tensor,
        truth: Tensor,
        prompts: Sequence[str],
        fit: Tensor,
        choose: Tensor,
        balance: float,
    ) -> Rows:
        """With weights that balance the outcomes of each prompt (``within.balanced_weights``) among the rows of
        ``fit``."""
        harm = torch.where(torch.isnan(truth).any(1), torch.nan, truth.amax(1))
        known = torch.cat([truth, harm[:, None]], 1)
        known[~fit] = torch.nan
        weights = torch.from_numpy(balanced_weights(known.numpy(), prompts, balance)).float()
        return cls(features, timesteps, truth, prompts, fit, choose, weights)


class Training(NamedTuple):
    """How it is trained."""

    epochs: int
    batch: int
    lr: float
    weight_decay: float
    any_share: float
    """Weight of the loss on any of the categories at all"""
    seed: int


def train(net: nn.Module, rows: Rows, how: Training, tools: FitTools, before: int = 0) -> list[float]:
    """Train in place: AdamW with cosine decay over rows × steps, the state of the best epoch on the rows of ``choose``
    kept.

    Args:
        before: steps of the whole fit that came before, for progress.

    Returns:
        Validation scores, one per epoch.

    Raises:
        BadInput: no row to train on has a positive or a negative label. GenwardError: the loss is not finite.
    """
    mine, steps = rows.fit.nonzero().flatten(), rows.features[0].shape[1]
    known = rows.truth[mine]
    positives, negatives = (known == 1).sum(0).float(), (known == 0).sum(0).float()
    if not positives.any() or not negatives.any():
        raise BadInput("the rows to learn from show the concept never or always; add prompts of both kinds, or seeds")
    weight = (negatives.clamp_min(1) / positives.clamp_min(1)).sqrt()
    chosen = [f[rows.choose] for f in rows.features]
    texts = [p for p, use in zip(rows.prompts, rows.choose.tolist(), strict=True) if use]

    def loss(part: Tensor) -> Tensor:
        row, step = mine[part // steps], part % steps
        logits = net([f[row, step].float() for f in rows.features], rows.timesteps[step])
        return multi_label_loss(logits, rows.truth[row], weight, how.any_share, rows.weights[row])

    def score() -> float:
        if not texts:
            return -math.inf
        return validation_score(predict(net, chosen, rows.timesteps), rows.truth[rows.choose], texts)

    wanted = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(wanted, how.lr, weight_decay=how.weight_decay)
    plan = Epochs(how.epochs, how.batch, how.seed, "wukong", before)
    return train_epochs(net, optimizer, len(mine) * steps, loss, score, plan, tools)
