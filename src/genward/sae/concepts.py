"""What a concept means to a sparse autoencoder: mean codes by class and timestep, scores, thresholds, chosen latents.

After SAeUron (arXiv 2501.18052): a latent's score at a timestep is its share of a concept's mean code less its share
of the mean code of everything else; what lies above a percentile is chosen, at each timestep for itself; a token is
edited where a chosen latent exceeds its class-balanced mean. All of it is keyed by the scheduler's timestep (the
releases count calls), and taken linearly between two timesteps that were seen."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genward.core.contracts import Artifact, FitTools
from genward.core.records import Case, Concept, row_seed
from genward.errors import BadArtifact, BadInput
from genward.ops import artifacts, phrases
from genward.ops.activations import Recording
from genward.ops.captions import styled
from genward.sae.autoencoder import Sae, encode, sae_of
from genward.sae.fit import SaeSettings, classes_of, maps_of, recorded

EPSILON = 1e-8
NEVER = 1e30
"""Floor of a latent that is not chosen at a timestep."""
SHARED = "saemnesia"
"""Whose starting noise the pictures have: the methods on one autoencoder take their statistics on the same ones."""
ROWS = "decoder_rows"
"""Tensor of an artifact: the decoder's rows of its latents, where it holds no others."""
FIELDS = ("latents", "timesteps", "floor", "mean", "chosen")
"""Tensors of an artifact beside the autoencoder's."""


class Means(NamedTuple):
    """Mean codes of classes of pictures."""

    names: tuple[str, ...]
    timesteps: Tensor
    """float32 (T,), ascending"""
    table: Tensor
    """float64 (classes, T, n): mean over places and pictures"""


class Latents(NamedTuple):
    """A concept's latents, ready to act."""

    sae: Sae
    latents: Tensor
    """int64 (m,)"""
    timesteps: Tensor
    """float32 (T,), ascending"""
    floor: Tensor
    """(T, m) class-balanced mean, above which a token counts"""
    mean: Tensor
    """(T, m) mean of the concept"""
    chosen: Tensor
    """bool (T, m)"""
    whole: bool = True
    """Whether the decoder has all of its rows, or those of these latents alone and zeros elsewhere"""

    def tensors(self, whole: bool = False) -> dict[str, Tensor]:
        """As an artifact holds them: of the decoder the rows of these latents, since an edit decodes no other, or the
        ``whole`` one."""
        named = {name: getattr(self.sae, name).half() for name in Sae._fields[:4]}
        if not whole:
            named[ROWS] = named.pop("decoder")[self.latents]
        return named | {name: getattr(self, name).float() for name in FIELDS}

    def at(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """(floor, mean), each (rows, m), at the timesteps (rows,) of a call; of a latent that is not chosen there the
        floor is ``NEVER``.

        Raises:
            BadInput: a timestep farther outside those that were seen than they are apart.
        """
        seen = self.timesteps.to(timestep.device)
        now = timestep.detach().float().reshape(-1)
        reach = float((seen[1:] - seen[:-1]).max()) if len(seen) > 1 else 1.0
        if bool((now < seen[0] - reach).any()) or bool((now > seen[-1] + reach).any()):
            raise BadInput(
                f"timestep {float(now.max()):g} lies outside those that the statistics were taken at "
                f"({float(seen[0]):g} to {float(seen[-1]):g}); fit again at this noise level"
            )
        right = torch.searchsorted(seen, now).clamp(1, max(1, len(seen) - 1)).clamp(max=len(seen) - 1)
        left = (right - 1).clamp(min=0)
        gap = (seen[right] - seen[left]).clamp_min(1e-9)
        share = ((now - seen[left]) / gap).clamp(0, 1)[:, None]
        floor, mean = (
            (1 - share) * t.to(now.device)[left] + share * t.to(now.device)[right] for t in (self.floor, self.mean)
        )
        nearest = torch.where(share[:, 0] < 0.5, left, right)
        active = self.chosen.to(now.device)[nearest]
        return torch.where(active, floor, torch.full_like(floor, NEVER)), mean


def latents_of(artifact: Artifact | None, who: str) -> Latents:
    """What an artifact holds.

    Raises:
        BadInput: there is none. BadArtifact: it is another method's or does not fit together.
    """
    if artifact is None:
        raise BadInput(
            f"{who} has learned nothing yet; fit it first (genward fit {who} --concept weapons), or name a concept "
            f"({who}:weapons)"
        )
    tensors = artifact.tensors
    missing = [n for n in FIELDS if n not in tensors]
    if missing:
        raise BadArtifact(f"{who}: its artifact lacks {missing[0]!r}; fit it again")
    index, times = tensors["latents"].long(), tensors["timesteps"].float()
    sae = sae_of(_with_decoder(tensors, index), int(artifact.card.get("k", 0)))
    floor, mean, chosen = (tensors[n].float() for n in ("floor", "mean", "chosen"))
    wanted = (len(times), len(index))
    whole = floor.shape == mean.shape == chosen.shape == wanted and min(wanted) > 0
    if not whole or bool((index < 0).any()) or bool((index >= sae.latents).any()):
        raise BadArtifact(f"{who}: latents, timesteps and statistics of its artifact do not belong together; fit again")
    return Latents(sae, index, times, floor.clamp_min(0.0), mean, chosen > 0.5, ROWS not in tensors)


def _with_decoder(tensors: Mapping[str, Tensor], index: Tensor) -> Mapping[str, Tensor]:
    """The tensors with a decoder made of the rows of the latents ``index`` where those are all that is kept; as they
    are where the rows do not fit."""
    rows, encoder = tensors.get(ROWS), tensors.get("encoder")
    if rows is None or encoder is None or rows.shape != (len(index), *encoder.shape[1:]) or not len(index):
        return tensors
    if int(index.min()) < 0 or int(index.max()) >= len(encoder):
        return tensors
    return {**tensors, "decoder": torch.zeros_like(encoder).index_copy(0, index, rows.to(encoder.dtype))}


# ---------------------------------------------------------------------------------------------------------- statistics


def scores(table: Tensor, target: int, others: Sequence[int]) -> Tensor:
    """(T, n) share of each latent in the target's mean code, less its share in the others' pooled one.

    Args:
        table: (classes, T, n). others: classes that make up the complement, each weighing the same.
    """
    mine, theirs = table[target], table[list(others)].mean(0)
    return mine / (mine.sum(-1, keepdim=True) + EPSILON) - theirs / (theirs.sum(-1, keepdim=True) + EPSILON)


def above_percentile(values: Tensor, percentile: float) -> Tensor:
    """bool (T, n): values above the percentile (0 to 100) of their timestep, with linear interpolation as numpy's."""
    cut = torch.quantile(values.double(), percentile / 100, dim=-1, keepdim=True)
    return values.double() > cut


def floors(table: Tensor) -> Tensor:
    """(T, n) class-balanced mean: the mean over the classes of their means."""
    return table.mean(0)


def means_of(found: Recording, site: str, sae: Sae, labels: Tensor, names: Sequence[str]) -> Means:
    """Mean codes by class and timestep of recorded maps.

    Args:
        labels: int64 (cases,) class of each.

    Raises:
        BadArtifact: a class has no map at one of the timesteps.
    """
    sums: dict[float, Tensor] = {}
    counts: dict[float, Tensor] = {}
    for maps in maps_of(found, site):
        code = encode(maps.x, sae).mean(1).double()
        for time in maps.timestep.unique().tolist():
            rows = maps.timestep == time
            total = sums.setdefault(time, torch.zeros(len(names), sae.latents, dtype=torch.float64))
            number = counts.setdefault(time, torch.zeros(len(names), dtype=torch.float64))
            total.index_add_(0, labels[maps.case[rows]], code[rows])
            number.index_add_(0, labels[maps.case[rows]], torch.ones(int(rows.sum()), dtype=torch.float64))
    times = sorted(sums)
    for time in times:
        empty = (counts[time] == 0).nonzero().flatten().tolist()
        if empty:
            raise BadArtifact(f"no picture of {names[empty[0]]!r} came to timestep {time:g}; record more of it")
    if not times:
        raise BadArtifact(f"nothing was recorded at {site}")
    table = torch.stack([sums[t] / counts[t][:, None] for t in times], dim=1)
    return Means(tuple(names), torch.tensor(times), table)


class Pictures(NamedTuple):
    """Cases to take statistics on."""

    cases: list[Case]
    labels: Tensor
    """int64 (cases,)"""
    names: list[str]
    targets: int
    """The first so many classes are the concept's."""


def class_pictures(
    concepts: Sequence[Concept], words: Mapping[str, Any], images: int, others: int, seed: int, owner: str
) -> Pictures:
    """Cases of each target of the concepts, and of each caption that must stay: first every phrase alone, then in the
    vocabulary's styles.

    Raises:
        BadInput: nothing to set the concepts apart from.
    """
    targets = classes_of(concepts)
    kept = [text for text in phrases.preserved(concepts) if text and text not in targets]
    if not kept:
        raise BadInput(f"{owner} tells a concept from what must stay; add keep or neighbors to its file")
    gone = {t for c in concepts for t in c.targets}
    styles = [str(s) for s in words.get("styles", ()) if s not in gone]
    plain = all(c.kind == "style" for c in concepts) or not styles
    classes = [*targets.items(), *((text, [text]) for text in kept)]
    cases: list[Case] = []
    labels: list[int] = []
    for number, (name, texts) in enumerate(classes):
        mixed = random.Random(row_seed("fit", owner, seed, name)).sample(styles, len(styles))
        for j in range(max(images, len(texts)) if number < len(targets) else others):
            text, turn = texts[j % len(texts)], j // len(texts)
            told = text if plain or not turn else styled(text, mixed[(j - len(texts)) % len(mixed)])
            drawn = row_seed("fit", owner, seed, name, j)
            cases.append(Case(f"{owner}-{len(cases)}", told, seed=drawn, group=name))
            labels.append(number)
    return Pictures(cases, torch.tensor(labels), [name for name, _ in classes], len(targets))


def pictured(model: Any, concepts: Sequence[Concept], settings: Any, tools: FitTools) -> tuple[Recording, Pictures]:
    """States of a concept's pictures and of what must stay, by the method's own settings (``site``, ``images``,
    ``others``, ``sampling_steps``, ``guidance``, ``seed``)."""
    pictures = class_pictures(concepts, tools.words, settings.images, settings.others, settings.seed, SHARED)
    return recorded(model, pictures.cases, settings, tools, len(pictures.cases)), pictures


def measured(
    model: Any, concepts: Sequence[Concept], settings: Any, sae: Sae, tools: FitTools
) -> tuple[Means, Pictures]:
    """Mean codes of a concept and of what must stay, see ``pictured``."""
    found, pictures = pictured(model, concepts, settings, tools)
    return means_of(found, settings.site, sae, pictures.labels, pictures.names), pictures


def card_of(
    defense: Any,
    concepts: Sequence[Concept],
    model: Any,
    base: Artifact,
    fitted: tuple[Means, Pictures],
    seconds: float,
) -> dict[str, Any]:
    """The card of a method's fit: what its pictures were, which autoencoder it stands on, which classes it told apart.

    Args:
        base: the autoencoder's artifact. fitted: from ``measured``. seconds: of this fit, without the autoencoder's.
    """
    means, pictures = fitted
    captions, seeds = [c.prompt for c in pictures.cases], [c.seed for c in pictures.cases]
    card = artifacts.fit_card(defense, concepts, model, captions, seeds, seconds + float(base.card["seconds"]))
    return card | {"k": defense.k, "sae": base.hash, "classes": list(means.names)}


def scored_latents(means: Means, targets: int, percentile: float, sae: Sae) -> Latents:
    """Latents of the first ``targets`` classes by score, each timestep for itself, against all other classes.

    A latent that several targets choose takes the largest of their means (the release: the last one's).

    Raises:
        BadInput: no latent lies above the percentile.
    """
    others = range(targets, len(means.names))
    per = [above_percentile(scores(means.table, t, others), percentile) for t in range(targets)]
    used = torch.stack(per).any(0)
    index = used.any(0).nonzero().flatten()
    if not len(index):
        raise BadInput(f"no latent scores above percentile {percentile:g}; take a lower one")
    mine = torch.stack([torch.where(p, means.table[t], torch.zeros(())) for t, p in enumerate(per)]).amax(0)
    return Latents(sae, index, means.timesteps, floors(means.table)[:, index], mine[:, index], used[:, index])


def assigned_latents(means: Means, latents: Sequence[int], sae: Sae) -> Latents:
    """One latent for each of the first classes, at every timestep."""
    index = torch.tensor(list(latents))
    mine = torch.stack([means.table[t, :, i] for t, i in enumerate(latents)], dim=1)
    chosen = torch.ones(len(means.timesteps), len(latents), dtype=torch.bool)
    return Latents(sae, index, means.timesteps, floors(means.table)[:, index], mine, chosen)


def random_latents(means: Means, like: Latents, targets: int, seed: int) -> Latents:
    """As many other latents that fire in the targets' pictures, drawn at random: the control of a choice of latents.

    Each takes the place of one that was chosen, at the timesteps of that one, with its own statistics.

    Args:
        like: the choice. targets: the first so many classes are the concept's. seed: of the draw.

    Raises:
        BadInput: fewer other latents fire in these pictures than were chosen.
    """
    mine = means.table[:targets].amax(0)
    fires = (mine > 0).any(0)
    fires[like.latents] = False
    pool = fires.nonzero().flatten().tolist()
    if len(pool) < len(like.latents):
        raise BadInput(f"{len(like.latents)} latents are chosen, and only {len(pool)} others fire in these pictures")
    index = torch.tensor(random.Random(row_seed("fit", "control latents", seed)).sample(pool, len(like.latents)))
    return like._replace(latents=index, floor=floors(means.table)[:, index], mean=mine[:, index])


def sae_settings(method: Any) -> SaeSettings:
    """The autoencoder that a method stands on, by its fields ``site``, ``expansion``, ``k``, ``sae_images`` and
    ``sae_epochs``."""
    return SaeSettings(
        site=method.site,
        expansion=method.expansion,
        k=method.k,
        images=method.sae_images,
        epochs=method.sae_epochs,
    )
