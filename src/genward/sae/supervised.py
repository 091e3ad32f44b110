"""A sparse autoencoder in which every concept of a vocabulary owns one latent, after SAEmnesia (arXiv 2509.21379).

A trained autoencoder is trained on with labels: ``MSE + beta · (L_CA + eta · L_DC) + lambda · L1`` (beta 3.0, eta 0.1,
lambda 0.01, from the authors' working code). Each concept is assigned a latent by score; concept alignment L_CA pulls
that latent up where the concept is, decorrelation L_DC keeps objects and styles apart, L1 keeps codes small. Ours: an
assignment over the whole score matrix (Hungarian; the authors' greedy order is a setting), L_CA with negatives on
inner products that are not rectified and weighs both sides alike, taken where in a map a latent is largest (an object
covers a part of it), pictures and not maps are split, the decoder stays at unit length, states are divided by their
spread, so that the weights of the terms mean the same on every site; a step reconstructs some tokens of each map."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from genward.core import defending
from genward.core.contracts import Artifact, FitTools
from genward.core.records import Case, Concept, row_seed
from genward.core.spec import digest
from genward.errors import BadInput, GenwardError
from genward.ops import artifacts
from genward.ops.activations import Recording
from genward.sae.autoencoder import Sae, decode, encode, logits, sae_of, top_k
from genward.sae.fit import SaeSettings, captions_of, drawn_cases, maps_of, recorded, rounded, shared_sae
from genward.sae.training import Maps, shuffled, tangent, unit_rows

FORMS = ("balanced", "negatives", "positives")
POOLS = ("top", "mean")
TOP = 8
"""``top`` is the mean of the largest of so many tokens."""
ASSIGNMENTS = ("hungarian", "greedy")
GROUPS = ("object", "style")


@dataclass(frozen=True)
class Supervision:
    """How an autoencoder is trained on with labels."""

    name: ClassVar[str] = "sae-supervised"
    loss: str = "balanced"
    """Concept alignment: ``balanced``, cross-entropy on inner products in which the concepts that are there weigh as
    much as all that are not; ``negatives``, its plain mean (authors' newer code); ``positives``, the paper's formula on
    rectified ones."""
    pool: str = "top"
    """What of a map it looks at: ``top``, the mean of the largest eighth of the tokens; ``mean`` of all (authors)."""
    assign: str = "hungarian"
    """``hungarian`` or ``greedy``"""
    beta: float = 3.0
    eta: float = 0.1
    sparsity: float = 0.01
    """lambda, weight of L1"""
    images: int = 240
    """Pictures whose labels are learned from."""
    sampling_steps: int = 10
    """Steps of their sampling, each of which is recorded (authors: 50)."""
    epochs: int = 60
    """At most; it ends early after ``patience`` epochs without a better loss on held-out pictures (authors: 150)."""
    patience: int = 5
    maps: int = 32
    """Maps of a step (authors: 128)."""
    tokens: int = 8
    """Tokens of each map that a step reconstructs; 0: all (authors). Labels always look at whole maps."""
    lr: float = 1e-3
    """Rate of Adam (authors: 5e-6, over some thousand times more steps)."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("loss", FORMS), ("pool", POOLS), ("assign", ASSIGNMENTS)):
            if getattr(self, name) not in known:
                raise BadInput(f"{name} {getattr(self, name)!r}; {' or '.join(map(repr, known))} are possible")
        least = min(self.images, self.sampling_steps, self.epochs, self.patience, self.maps)
        if least < 1 or self.tokens < 0 or not self.lr > 0:
            raise BadInput(
                "images, sampling_steps, epochs, patience and maps must be at least 1, tokens at least 0, lr above 0"
            )
        if min(self.beta, self.eta, self.sparsity) < 0:
            raise BadInput("beta, eta and sparsity must be at least 0")


# --------------------------------------------------------------------------------------------------------------- terms


def alignment(activity: Tensor, present: Tensor, form: str) -> Tensor:
    """L_CA of assigned latents.

    Args:
        activity: (maps, concepts), ``pooled``: rectified inner products for ``positives``, plain ones for the others.
        present: bool (maps, concepts).
    """
    if form == "negatives":
        return functional.binary_cross_entropy_with_logits(activity, present.to(activity.dtype))
    there = functional.softplus(-activity[present]).mean() if bool(present.any()) else activity.sum() * 0
    if form == "positives" or bool(present.all()):
        return there
    return (there + functional.softplus(activity[~present]).mean()) / 2


def pooled(values: Tensor, how: str) -> Tensor:
    """(maps, concepts) of values (maps, tokens, concepts): their mean, or (``top``) that of the largest eighth."""
    if how == "top":
        values = values.topk(-(-values.shape[1] // TOP), dim=1, sorted=False).values
    return values.mean(1)


def squared_correlation(first: Tensor, second: Tensor) -> Tensor:
    """(a, b) squared Pearson correlation of the columns of (maps, a) and (maps, b): 1 for equal columns, whatever their
    length and unit; 0 where one is constant."""
    one, two = first - first.mean(0), second - second.mean(0)
    bottom = one.square().sum(0)[:, None] * two.square().sum(0)[None, :]
    return (one.T @ two).square() / bottom.clamp_min(1e-20)


def decorrelation(activity: Tensor, style: Tensor) -> Tensor:
    """L_DC: mean squared correlation over the batch between latents of objects and of styles; pairs within a group are
    free.

    Args:
        activity: (maps, concepts), rectified. style: bool (concepts,).
    """
    if not bool(style.any()) or bool(style.all()):
        return activity.sum() * 0
    return squared_correlation(activity[:, ~style], activity[:, style]).mean()


class Terms(NamedTuple):
    total: Tensor
    mse: Tensor
    ca: Tensor
    dc: Tensor
    l1: Tensor


def loss_of(
    x: Tensor, sae: Sae, assigned: Tensor, present: Tensor, style: Tensor, plan: Supervision, some: Tensor | None = None
) -> Terms:
    """The whole loss of maps (maps, tokens, d).

    Args:
        some: int64, the tokens whose codes count in MSE and L1; ``None``: all.
    """
    inner = logits(x if some is None else x[:, some], sae)
    mse = (decode(top_k(inner, sae.k), sae) - (x if some is None else x[:, some])).square().mean()
    l1 = inner.relu().clamp(max=100.0).mean()
    mine = x @ sae.encoder[assigned].T + (sae.encoder_bias[assigned] - sae.encoder[assigned] @ sae.bias)
    ca = alignment(pooled(mine.relu() if plan.loss == "positives" else mine, plan.pool), present, plan.loss)
    dc = decorrelation(mine.relu().mean(1), style)
    return Terms(mse + plan.beta * (ca + plan.eta * dc) + plan.sparsity * l1, mse, ca, dc, l1)


def some_tokens(count: int, plan: Supervision, random: torch.Generator) -> Tensor | None:
    """Which of a map's tokens a step reconstructs."""
    return torch.randperm(count, generator=random)[: plan.tokens] if 0 < plan.tokens < count else None


# ---------------------------------------------------------------------------------------------------------- assignment


def assign(table: Tensor, style: Tensor, how: str) -> list[int]:
    """A latent of its own for each concept.

    Args:
        table: (concepts, n) scores, NaN in the rows of concepts that were never seen. style: bool (concepts,).
        how: ``hungarian``: the largest sum of scores; ``greedy``: objects first, then by best score, each taking its
            best latent that is free; concepts without scores take the lowest free ones.

    Raises:
        BadInput: more concepts than latents.
    """
    concepts, n = table.shape
    if concepts > n:
        raise BadInput(f"{concepts} concepts and {n} latents; take a larger expansion")
    if how == "hungarian":
        from scipy.optimize import linear_sum_assignment

        rows, columns = linear_sum_assignment(table.nan_to_num(nan=0.0).numpy(), maximize=True)
        return [int(c) for _, c in sorted(zip(rows, columns, strict=True))]
    known = ~torch.isnan(table).any(1)
    best = table.nan_to_num(nan=-torch.inf).max(1).values
    order = sorted(range(concepts), key=lambda c: (not bool(known[c]), bool(style[c]), -float(best[c]), c))
    free, found = set(range(n)), {}
    for c in order:
        choices = sorted(free)
        pick = choices[int(table[c, choices].argmax())] if bool(known[c]) else choices[0]
        found[c] = pick
        free.discard(pick)
    return [found[c] for c in range(concepts)]


def concept_scores(maps: Iterator[Maps], sae: Sae, present: Tensor) -> Tensor:
    """float64 (concepts, n): a concept's share of each latent less the pooled share of all maps without it, mean over
    timesteps; NaN for a concept that is in no map, or in all.

    Args:
        present: bool (cases, concepts).
    """
    told: dict[float, tuple[Tensor, Tensor, Tensor]] = {}
    count = present.shape[1]
    for part in maps:
        code = encode(part.x, sae).mean(1).double()
        for moment in part.timestep.unique().tolist():
            rows = part.timestep == moment
            here = present[part.case[rows]].double()
            new = (here.T @ code[rows], here.sum(0), torch.cat([code[rows].sum(0), torch.tensor([float(rows.sum())])]))
            old = told.get(moment)
            told[moment] = new if old is None else (old[0] + new[0], old[1] + new[1], old[2] + new[2])
    out = torch.zeros(count, sae.latents, dtype=torch.float64)
    for shown, number, total in told.values():
        rest = total[-1] - number
        mine, theirs = shown / number[:, None], (total[:-1] - shown) / rest[:, None]
        out += mine / (mine.sum(1, keepdim=True) + 1e-8) - theirs / (theirs.sum(1, keepdim=True) + 1e-8)
    return out / max(1, len(told))


# ------------------------------------------------------------------------------------------------------------ training


def labels_of(cases: Sequence[Case]) -> tuple[list[tuple[str, str]], Tensor]:
    """(name, group of ``GROUPS``) of every concept that the cases show, and bool (cases, concepts) which show it."""
    objects = dict.fromkeys(c.group for c in cases if c.group)
    styles = dict.fromkeys(c.variant for c in cases if c.variant)
    names = [(n, "object") for n in objects] + [(n, "style") for n in styles]
    rows = [[name == (c.group if kind == "object" else c.variant) for name, kind in names] for c in cases]
    return names, torch.tensor(rows)


class Labeled(NamedTuple):
    """What labels made of an autoencoder."""

    tensors: dict[str, Tensor]
    """As an artifact holds them"""
    assigned: list[int]
    """Latent of each concept"""
    facts: dict[str, Any]
    """For a card: losses on held-out pictures before and after each epoch, mean peak score there before and after"""


def learned(
    found: Recording, base: Sae, present: Tensor, style: Tensor, site: str, plan: Supervision, tools: FitTools
) -> Labeled:
    """An autoencoder trained on with the labels of recorded pictures. One picture in five is held out: it decides when
    training ends, and tells the figures.

    Args:
        base: stays as it is. present: bool (cases, concepts). style: bool (concepts,).
    """
    held = torch.arange(found.cases) % 5 == 4

    def maps(wanted: Tensor) -> Iterator[Maps]:
        return maps_of(found, site, wanted)

    assigned = assign(concept_scores(maps(~held), base, present), style, plan.assign)
    labels = (torch.tensor(assigned), present, style)
    trained, losses = _trained(maps, ~held, base, labels, plan, tools, found.cases)
    tensors = rounded(trained)
    pairs = (("base", base), ("supervised", sae_of(tensors, base.k)))
    peaks = {which: peak(concept_scores(maps(held), each, present)) for which, each in pairs}
    return Labeled(tensors, assigned, {"losses": losses, "peak": peaks})


def fit_supervised(
    model: Any, base: Artifact, cases: Sequence[Case], settings: SaeSettings, plan: Supervision, tools: FitTools
) -> Artifact:
    """The autoencoder trained on with the labels of the cases, see ``learned``."""
    began = time.perf_counter()
    drawn = replace(settings, sampling_steps=plan.sampling_steps)
    found = recorded(model, cases, drawn, tools, len(cases), name="labeled")
    names, present = labels_of(cases)
    style = torch.tensor([kind == "style" for _, kind in names])
    made = learned(found, sae_of(base.tensors, settings.k), present, style, settings.site, plan, tools)
    seconds = time.perf_counter() - began + float(base.card["seconds"])
    card = artifacts.fit_card(plan, [], model, [c.prompt for c in cases], [c.seed for c in cases], seconds)
    owned = [[name, kind, latent] for (name, kind), latent in zip(names, made.assigned, strict=True)]
    card |= {"site": settings.site, "k": settings.k, "sae": base.hash, "assigned": owned}
    return artifacts.make(made.tensors, card | made.facts)


def peak(table: Tensor) -> float:
    """Mean over concepts of their best latent's score; concepts without scores are left out."""
    known = table[~torch.isnan(table).any(1)]
    return float(known.max(1).values.mean()) if len(known) else 0.0


def _trained(
    maps: Any,
    used: Tensor,
    sae: Sae,
    labels: tuple[Tensor, Tensor, Tensor],
    plan: Supervision,
    tools: FitTools,
    before: int,
) -> tuple[Sae, list[float]]:
    """The autoencoder with the smallest loss on held-out pictures, and that loss before and after each epoch."""
    assigned, present, style = labels
    spread = _spread(maps(used), sae)
    encoder, inner, decoder, outer = (t.clone() for t in sae[:4] if isinstance(t, Tensor))
    weights = [torch.nn.Parameter(t) for t in (encoder, inner / spread, unit_rows(decoder), outer / spread)]
    adam = torch.optim.Adam(weights, lr=plan.lr, eps=1e-8)

    def now() -> Sae:
        return Sae(weights[0], weights[1], weights[2], weights[3], sae.k)

    def terms(part: Maps, random: torch.Generator) -> Terms:
        some = some_tokens(part.x.shape[1], plan, random)
        return loss_of(part.x / spread, now(), assigned, present[part.case], style, plan, some)

    def held_loss() -> float:
        same = torch.Generator().manual_seed(row_seed("sae-supervised", plan.seed, "held"))
        with torch.no_grad():
            found = [(float(terms(p, same).total), len(p.x)) for p in shuffled(maps(~used), plan.maps, 0)]
        return sum(v * n for v, n in found) / sum(n for _, n in found) if found else float("nan")

    state: dict[str, Any] = {"losses": [held_loss()], "best": [w.detach().clone() for w in weights], "at": 0}
    taken = tools.checkpoint(part="supervised")
    if taken is not None:
        state = {n: taken[n] for n in ("losses", "best", "at")}
        _restore(weights, taken["weights"])
        adam.load_state_dict(taken["adam"])
    for epoch in range(len(state["losses"]) - 1, plan.epochs):
        if epoch - int(state["at"]) >= plan.patience:
            break
        order = row_seed("sae-supervised", plan.seed, epoch)
        random = torch.Generator().manual_seed(order)
        for part in shuffled(maps(used), plan.maps, order):
            _step(terms(part, random).total, weights, adam, plan)
        state["losses"] = [*state["losses"], held_loss()]
        if not state["losses"][-1] >= state["losses"][int(state["at"])]:
            state["at"], state["best"] = epoch + 1, [w.detach().clone() for w in weights]
        tools.progress(before + epoch + 1, before + plan.epochs, state["losses"][-1])
        if tools.due():
            tools.checkpoint(state | {"weights": weights, "adam": adam.state_dict()}, part="supervised")
    encoder, inner, decoder, outer = state["best"]
    return Sae(encoder, inner * spread, decoder, outer * spread, sae.k), list(state["losses"])


def _restore(weights: Sequence[Any], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(weights, values, strict=True):
            parameter.copy_(value)


def _step(loss: Tensor, weights: Sequence[Any], adam: Any, plan: Supervision) -> None:
    if not bool(torch.isfinite(loss)):
        raise GenwardError(
            f"supervised autoencoder: loss {float(loss.detach())}; lower lr (now {plan.lr:g}), nothing was kept"
        )
    adam.zero_grad(set_to_none=True)
    loss.backward()
    weights[2].grad = tangent(weights[2].grad, weights[2].detach())
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    adam.step()
    with torch.no_grad():
        weights[2].copy_(unit_rows(weights[2]))


def _spread(maps: Iterator[Maps], sae: Sae) -> float:
    """Root mean square of what is left of states when the bias is taken off."""
    total, number = 0.0, 0
    for part in maps:
        away = (part.x - sae.bias).double()
        total, number = total + float(away.square().sum()), number + away.numel()
    if not total > 0:
        raise GenwardError("every state at this site is the same vector; labels have nothing to be learned from")
    return math.sqrt(total / number)


def shared_supervised(
    model: Any, concepts: Sequence[Concept], settings: SaeSettings, plan: Supervision, tools: FitTools
) -> Artifact:
    """The supervised autoencoder of these settings on this model: the one that is kept, else fitted now (and the base
    before it)."""
    rows = captions_of(concepts, tools.words)
    about: Mapping[str, Any] = {
        "base": defending.fields(settings),
        "settings": defending.fields(plan),
        "model": model.spec.hash,
        "captions": digest([list(r) for r in rows]),
    }

    def make(mine: Any) -> Artifact:
        base = shared_sae(model, concepts, settings, mine)
        cases = drawn_cases(rows, plan.images, plan.seed, plan.name)
        return fit_supervised(model, base, cases, settings, plan, mine)

    found = tools.shared(plan.name, about, make)
    artifacts.refuse_other(found, model, "the supervised autoencoder")
    return found


def assigned_to(artifact: Artifact, targets: Sequence[str]) -> list[int]:
    """The latents that targets own.

    Raises:
        BadInput: a target has none.
    """
    table = {str(name): int(latent) for name, _, latent in artifact.card["assigned"]}
    missing = [t for t in targets if t not in table]
    if missing:
        raise BadInput(
            f"no latent belongs to {missing[0]!r}: the labels that the autoencoder was trained with are "
            f"{', '.join(list(table)[:6])}, …; erase one of these, or use saeuron, which needs no label"
        )
    return [table[t] for t in targets]
