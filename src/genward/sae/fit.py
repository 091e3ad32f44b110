"""A sparse autoencoder of one site of a model: pictures of its vocabulary, recorded states, training, one artifact.

Several methods stand on the same autoencoder: it is made once for a site and its settings, kept beside the fits, and
found by its key (``Tools.shared``). Its numbers are float16, and everything that is measured with it afterwards is
measured with the rounded ones."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from genward.core import defending
from genward.core.contracts import Artifact, FitTools
from genward.core.records import Case, Concept, Sampler, row_seed
from genward.core.spec import digest
from genward.errors import BadInput
from genward.ops import artifacts, phrases
from genward.ops.activations import Recording, sources
from genward.ops.captions import styled
from genward.sae.autoencoder import Sae, sae_of, tokens_of
from genward.sae.training import SAMPLE, Maps, Training, quality, shuffled, train

STREAMS = ("image", "tokens")
HELD = 10
"""One in so many pictures is kept out of training; quality is measured on these."""
BUFFER = 256 << 20
"""Bytes of maps that wait to be mixed."""


@dataclass(frozen=True)
class SaeSettings:
    """A sparse autoencoder of a site."""

    name: ClassVar[str] = "sae"
    site: str = "up_blocks.1.attentions.1"
    """Where; the release's site for objects on Stable Diffusion 1.5."""
    expansion: int = 16
    """Latents for each channel of the site."""
    k: int = 32
    """Latents of a token that are not zero."""
    images: int = 300
    """Pictures whose states are learned from."""
    sampling_steps: int = 20
    """Steps of their sampling."""
    guidance: float = 4.0
    """Guidance of their sampling (the release: 9)."""
    every: int = 2
    """Every so many steps are recorded."""
    activation: str = "batch_topk"
    """``batch_topk`` or ``topk``, while training; afterwards it is TopK per token."""
    epochs: int = 8
    """Times that every state is seen."""
    lr: float = 4e-4
    """Rate of Adam, decaying to 0."""
    dead_after: int = 100_000
    """Tokens without firing after which a latent counts as dead."""
    seed: int = 0
    """Of pictures and training."""

    def __post_init__(self) -> None:
        if min(self.expansion, self.k, self.sampling_steps, self.every, self.epochs) < 1 or self.images < HELD:
            raise BadInput(
                f"sae: expansion, k, sampling_steps, every and epochs must be at least 1, images at least {HELD}"
            )


def captions_of(concepts: Sequence[Concept], words: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(caption, object, style) to learn a site's states from; the style is empty where none is named.

    Every object of the vocabulary by its names and synonyms, in every style; without a vocabulary the concepts' phrases
    and what they keep, each an object of its own name. Nothing held out for evaluation is among them, and no evaluation
    caption names a style in this way.

    Raises:
        BadInput: neither a vocabulary nor a concept.
    """
    things: Mapping[str, Mapping[str, Sequence[str]]] = words.get("things", {})
    if things:
        styles = [str(s) for s in words.get("styles", ())] or [""]
        return [
            (styled(phrase, style), name, style)
            for name, levels in things.items()
            for phrase in (*levels.get("name", ()), *levels.get("synonym", ()))
            for style in styles
        ]
    if not concepts:
        raise BadInput("this model has no vocabulary; name concepts whose phrases are drawn (--concept)")
    named = [(text, name, "") for name, texts in classes_of(concepts).items() for text in texts]
    return named + [(text, text, "") for text in phrases.preserved(concepts) if text]


def classes_of(concepts: Sequence[Concept]) -> dict[str, list[str]]:
    """Captions by target: a target's own phrases where the concept's phrases divide evenly among its targets, else all
    of them under the concept's name."""
    found: dict[str, list[str]] = {}
    for concept in concepts:
        texts = [caption for caption, _ in phrases.pairs([concept])]
        count = len(concept.targets)
        if concept.kind == "style" or len(concept.phrases) % count:
            found.setdefault(concept.targets[0] if count == 1 else concept.name, []).extend(texts)
            continue
        per = len(concept.phrases) // count
        for place, target in enumerate(concept.targets):
            found.setdefault(target, []).extend(concept.phrases[place * per : (place + 1) * per])
    return found


def drawn_cases(rows: Sequence[tuple[str, str, str]], images: int, seed: int, owner: str) -> list[Case]:
    """Cases of captions in a mixed order, every object and style about equally often; ``group`` is the object,
    ``variant`` the style."""
    mixed = random.Random(row_seed("fit", owner, seed, "captions"))
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for row in rows:
        groups.setdefault(row[1], []).append(row)
    turns = {name: mixed.sample(mine, len(mine)) for name, mine in groups.items()}
    order: list[str] = []
    while len(order) < images:
        order += mixed.sample(list(turns), len(turns))
    used: dict[str, int] = dict.fromkeys(turns, 0)
    cases = []
    for k, name in enumerate(order[:images]):
        text, _, style = turns[name][used[name] % len(turns[name])]
        used[name] += 1
        cases.append(Case(f"{owner}-{k}", text, seed=row_seed("fit", owner, seed, k), group=name, variant=style))
    return cases


def refuse_site(model: Any, site: str) -> int:
    """Channels of a site. Raises ``BadInput`` for one whose states are no map of image tokens; an unknown one is
    refused where it is tapped."""
    found = model.sites.get(site)
    if found is None:
        return 0
    if found.stream not in STREAMS:
        raise BadInput(f"site {site} carries {found.stream}; a sparse autoencoder takes {' or '.join(STREAMS)}")
    return int(found.channels)


def recorded(
    model: Any, cases: Sequence[Case], settings: Any, tools: FitTools, total: int, every: int = 1, name: str = "states"
) -> Recording:
    """States of the conditional rows at ``settings.site``, at every so many steps; progress is in pictures."""
    found: Recording = tools.record(
        model,
        cases,
        Sampler(steps=settings.sampling_steps, guidance=settings.guidance),
        sources([settings.site]),
        name=name,
        steps=list(range(0, settings.sampling_steps, every)),
        progress=lambda done, _: tools.progress(done, total, float("nan")),
    )
    return found


def maps_of(found: Recording, site: str, wanted: Tensor | None = None) -> Iterator[Maps]:
    """Recorded maps as tokens in float32; those that are not finite are left out.

    Args:
        wanted: bool (cases,), whose maps to take.
    """
    for rows in found.stream(site):
        keep = torch.isfinite(rows.state).flatten(1).all(1)
        if wanted is not None:
            keep &= wanted[rows.case]
        if bool(keep.any()):
            mine = rows.take(keep.nonzero().flatten())
            yield Maps(tokens_of(mine.state).float(), mine.case, mine.timestep)


def survey(found: Recording, site: str, wanted: Tensor) -> tuple[int, Tensor]:
    """Number of maps, and a sample of at most about ``SAMPLE`` tokens (tokens, d) from all over them."""
    count = sum(len(maps.x) for maps in maps_of(found, site, wanted))
    taken: list[Tensor] = []
    for maps in maps_of(found, site, wanted):
        flat = maps.x.flatten(0, 1)
        stride = max(1, count * maps.x.shape[1] // SAMPLE) | 1  # odd, so that it does not meet the same places
        taken.append(flat[::stride].clone())
    return count, torch.cat(taken) if taken else torch.zeros(0, 1)


def fit_sae(model: Any, cases: Sequence[Case], settings: SaeSettings, tools: FitTools) -> Artifact:
    """The autoencoder of a site, from pictures of the cases; the model is not changed.

    Costs a picture a case, and the training. A fit that was stopped goes on where it was and ends at the same bits.

    Raises:
        BadInput: a site without a map of image tokens. UnknownName: no such site. GenwardError: the training diverged.
    """
    began = time.perf_counter()
    refuse_site(model, settings.site)
    found = recorded(model, cases, settings, tools, len(cases), settings.every)
    held = torch.arange(found.cases) % HELD == HELD - 1
    count, sample = survey(found, settings.site, ~held)
    if not count:
        raise BadInput(f"no state of {settings.site} was recorded; every row ended before its first step")
    tokens, width = next(maps_of(found, settings.site)).x.shape[1:]
    plan = Training(
        latents=settings.expansion * width, k=settings.k, activation=settings.activation, epochs=settings.epochs,
        maps=max(1, 4096 // tokens), lr=settings.lr, dead_after=settings.dead_after, seed=settings.seed,
    )  # fmt: skip

    def epoch(number: int) -> Iterator[Maps]:
        seed = row_seed("sae", settings.seed, "epoch", number)
        return shuffled(maps_of(found, settings.site, ~held), plan.maps, seed, BUFFER)

    batches = sum(1 for _ in epoch(0))
    trained = train(epoch, sample, batches, plan, tools, before=len(cases))
    tensors = rounded(trained.sae)
    told = quality(maps_of(found, settings.site, held), sae_of(tensors, settings.k))
    card = artifacts.fit_card(
        settings, [], model, [c.prompt for c in cases], [c.seed for c in cases], time.perf_counter() - began
    )
    card |= {"site": settings.site, "k": settings.k, "grid_tokens": int(tokens), "held": told, "losses": trained.losses}
    return artifacts.make(tensors, card)


def rounded(sae: Sae) -> dict[str, Tensor]:
    """The tensors of an artifact, float16, by their names.

    Raises:
        BadInput: a number is too large for float16.
    """
    made = {name: getattr(sae, name).half() for name in Sae._fields[:4]}
    if not all(bool(torch.isfinite(t).all()) for t in made.values()):
        raise BadInput("a weight of the sparse autoencoder is too large for float16; train with a lower rate")
    return made


def shared_sae(model: Any, concepts: Sequence[Concept], settings: SaeSettings, tools: FitTools) -> Artifact:
    """The autoencoder of these settings on this model: the one that is kept, else fitted now.

    Raises:
        see ``fit_sae``; BadArtifact: the one that is kept is damaged or of another model.
    """
    rows = captions_of(concepts, tools.words)
    about = {
        "settings": defending.fields(settings),
        "model": model.spec.hash,
        "captions": digest([list(r) for r in rows]),
    }
    cases = drawn_cases(rows, settings.images, settings.seed, "sae")
    found = tools.shared("sae", about, lambda mine: fit_sae(model, cases, settings, mine))
    artifacts.refuse_other(found, model, "the sparse autoencoder")
    return found


__all__ = [
    "SaeSettings", "captions_of", "classes_of", "drawn_cases", "fit_sae", "maps_of", "recorded",
    "refuse_site", "rounded", "shared_sae", "survey",
]  # fmt: skip
