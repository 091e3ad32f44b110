"""IRECE's localizer: where a concept is in the latents, by the cross-attention of the un-erased model on a text of its
own. See ``defenses.irece`` for the method and ``ops.localize`` for the mathematics."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from genward.core.contracts import Artifact, Window
from genward.core.records import Call, Concept
from genward.errors import BadArtifact, BadInput, Conflict
from genward.ops import deciding, localize, phrases

ARTICLES = ("a", "an", "the", "and", ",")


class Localizing(Protocol):
    """Settings that the localizer and its fit read; see ``defenses.irece.Irece``."""

    @property
    def template(self) -> str: ...
    @property
    def phrases(self) -> tuple[str, ...]: ...
    @property
    def contrast(self) -> tuple[str, ...] | None: ...
    @property
    def layers(self) -> str: ...
    @property
    def edges(self) -> tuple[int, int]: ...
    @property
    def during(self) -> Window: ...
    @property
    def readout(self) -> str: ...
    @property
    def threshold(self) -> float: ...
    @property
    def dilation(self) -> int: ...
    @property
    def fpr(self) -> float: ...
    @property
    def decide(self) -> str: ...
    @property
    def sampling_steps(self) -> int: ...
    @property
    def guidance(self) -> float: ...
    @property
    def shrinkage(self) -> float: ...
    @property
    def seed(self) -> int: ...


class Localizer(NamedTuple):
    """What is read: text states (n, t, d) of each localizer, the positions of its words, how many of them, in front,
    are the concept's own, the sites, and the size (h, w) of the maps."""

    texts: list[str]
    states: Tensor
    words: list[list[int]]
    own: list[int]
    layers: list[str]
    size: tuple[int, int]

    def marks(self) -> Tensor:
        """The words (n, t): 1 the concept's own, 2 the contrast's, else 0."""
        out = torch.zeros(self.states.shape[:2])
        for k, (at, own) in enumerate(zip(self.words, self.own, strict=True)):
            out[k, at[:own]], out[k, at[own:]] = 1, 2
        return out

    @property
    def mine(self) -> Tensor:
        """bool (words of all localizers,): the concept's own, in the order of ``maps``."""
        pairs = zip(self.words, self.own, strict=True)
        return torch.tensor([k < own for at, own in pairs for k in range(len(at))])

    def maps(self, rig: Any, latents: Tensor, timestep: Tensor) -> Tensor:
        """Log attention (rows, groups, words, h, w) of the un-erased model on latents (rows, c, h, w) at one
        timestep."""
        count, rows = len(self.states), len(latents)
        states = self.states.to(latents.device, latents.dtype).repeat_interleave(rows, dim=0)
        call = Call(
            latents.repeat(count, 1, 1, 1), timestep.to(latents.device).reshape(-1)[:1].expand(count * rows), states
        )
        with torch.no_grad():
            sites = rig.predict(call, weights="clean", read=self.layers).sites
            height, width = latents.shape[-2:]
            return localize.word_maps(
                {name: sites[name] for name in self.layers}, self.words, (height, width), self.size
            )


def localizer_phrases(concepts: Sequence[Concept], settings: Localizing) -> list[str]:
    """What fills the template: the given phrases, else one list of the names of all targets."""
    if settings.phrases:
        return list(settings.phrases)
    names = [p for c in concepts for p in phrases.spread(c)[: max(1, len(c.targets))]]
    if not names:
        raise BadInput("the concept has no phrases; there is nothing to localize")
    return [", ".join(dict.fromkeys(names))]


def contrast_words(concepts: Sequence[Concept], settings: Localizing) -> list[str]:
    """What stands behind the concept's words in a localizer's text: the given words, else the near neighbors."""
    if settings.contrast is not None:
        return list(settings.contrast)
    targets = {t for c in concepts for t in c.targets}
    return [n for n in dict.fromkeys(n for c in concepts for n in c.neighbors) if n not in targets]


def with_contrast(model: Any, template: str, phrase: str, contrast: Sequence[str]) -> str:
    """The phrase with as many contrast words behind it as the encoder reads whole."""
    for word in contrast:
        longer = f"{phrase}, {word}"
        if not model.fits(phrases.fill(template, longer)):
            break
        phrase = longer
    return phrase


def word_positions(tokenizer: Any, template: str, text: str, length: int) -> list[int]:
    """Positions of the phrase's tokens in a filled template, without articles and commas (with them, where nothing else
    is left)."""
    before, after = template.split("{}")

    def bare(part: str) -> list[int]:
        return list(tokenizer(part, add_special_tokens=False).input_ids) if part.strip() else []

    row = tokenizer(text, padding="max_length", max_length=length, truncation=True)
    ids, end = list(row.input_ids), sum(row.attention_mask) - 1
    cut = len(tokenizer(text).input_ids) > length
    found = list(range(1 + len(bare(before)), end - (0 if cut else len(bare(after)))))
    tokens = tokenizer.convert_ids_to_tokens(ids)
    mark = "</w>" if any(t.endswith("</w>") for t in tokens) else ""
    words = [k for k in found if tokens[k] not in {a + mark for a in ARTICLES}]
    if not (words or found):
        raise BadInput(f"localizer {text!r}: the encoder leaves no token of the phrase; shorten the template")
    return words or found


def localizer(model: Any, concepts: Sequence[Concept], settings: Localizing) -> Localizer:
    """The localizer for a model: texts encoded once, layers chosen by pattern and map edge.

    Raises:
        BadInput: no cross-attention layer matches.
    """
    named, contrast = localizer_phrases(concepts, settings), contrast_words(concepts, settings)
    texts = [phrases.fill(settings.template, with_contrast(model, settings.template, p, contrast)) for p in named]
    with torch.no_grad():
        states = model.encode(texts).detach().cpu()
    tokenizer, length = model.pipe.tokenizer, states.shape[1]
    words = [word_positions(tokenizer, settings.template, t, length) for t in texts]
    alone = [phrases.fill(settings.template, p) for p in named]
    own = [len(word_positions(tokenizer, settings.template, t, length)) for t in alone]
    names = [n for n in model.sites if n.endswith(".attn2.probs") and re.search(settings.layers, n)]
    channels, edge, _ = model.latent_shape()
    found, largest = [], 0
    with model.rig() as rig, torch.no_grad():
        empty = torch.zeros(1, channels, edge, edge, device=model.device, dtype=model.dtype)
        call = Call(empty, torch.ones(1, dtype=torch.long, device=model.device), states[:1].to(model.device))
        for name, probs in rig.predict(call, read=names).sites.items():
            side = localize.grid(probs.shape[2], edge, edge)[0]
            if settings.edges[0] <= side <= settings.edges[1]:
                found.append(name)
                largest = max(largest, side)
    if not found:
        raise BadInput(
            f"irece: no cross-attention layer matches {settings.layers!r} with maps of {settings.edges[0]} to "
            f"{settings.edges[1]} cells; widen edges"
        )
    return Localizer(texts, states, words, own, [n for n in names if n in found], (largest, largest))


def refuse_sigmas(scheduler: Any) -> None:
    """``Conflict`` for samplers whose latents do not keep their variance: the localizer would see them on the wrong
    scale."""
    if float(getattr(scheduler, "init_noise_sigma", 1.0)) != 1.0:
        raise Conflict(
            f"irece reads latents of a variance-preserving sampler, {type(scheduler).__name__} is none; use DDIM, "
            "PNDM, DPM++ or UniPC"
        )


def blank_latents(model: Any) -> Tensor:
    """Latents (c, h, w) of a white picture of the model's size."""
    edge = model.latent_shape()[1] * model.pipe.vae_scale_factor
    white: Tensor = model.encode_images(torch.ones(1, 3, edge, edge))[0]
    return white.float().cpu()


# -------------------------------------------------------------------------------------------------------- a fitted one


class Reader:
    """A fitted localizer: presence statistic and contrast map of latents.

    Raises:
        BadArtifact: tensors or card are not those of an irece fit.
    """

    def __init__(self, artifact: Artifact) -> None:
        try:
            t, card = artifact.tensors, artifact.card
            marks = t["words"]
            words = [
                [*(row == 1).nonzero().flatten().tolist(), *(row == 2).nonzero().flatten().tolist()] for row in marks
            ]
            own = [int((row == 1).sum()) for row in marks]
            height, width = card["size"]
            texts, layers = list(card["localizers"]), list(card["layers"])
            if not texts or not layers or not len(texts) == len(words) == len(t["states"]) or not all(own):
                raise ValueError(f"{len(texts)} localizers with {len(words)} lists of words in {len(layers)} layers")
            self.localizer = Localizer(texts, t["states"], words, own, layers, (int(height), int(width)))
            self.timesteps, self.mass, self.gate, self.cell = t["timesteps"], t["mass"], t["gate"], t["cell"]
            self.gate_law, self.cell_law, self.blank, self.alphas = (
                t["gate_law"],
                t["cell_law"],
                t["blank"],
                t["alphas"],
            )
            if not self._shapes():
                raise ValueError("tensors whose shapes do not belong together")
            deciding.all_in_range(self.alphas, 0, 1, "irece: its signal levels")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadArtifact(
                f"irece: the artifact lacks what a fit writes ({type(error).__name__}: {error}); fit it again"
            ) from error

    def _shapes(self) -> bool:
        """Whether every timestep has its statistics and read-outs, all of one width."""
        steps, groups = len(self.timesteps), self.mass.shape[-1]
        features = self.gate.shape[-1]
        return (
            steps > 0
            and tuple(self.mass.shape) == (steps, 2, groups)
            and tuple(self.gate.shape) == tuple(self.cell.shape) == (steps, 2, features)
            and tuple(self.gate_law.shape) == (steps, 3)
            and tuple(self.cell_law.shape) == (steps, 2)
            and self.blank.ndim == 3
            and self.alphas.ndim == 1
        )

    def look(self, rig: Any, latents: Tensor, timestep: Tensor, readout: str) -> tuple[Tensor, Tensor]:
        """(statistic (rows,), contrast (rows, h, w)) of latents (rows, c, h, w) at a timestep; the nearest fitted
        timestep's read-outs act."""
        maps = self.localizer.maps(rig, latents, timestep)
        k = int((self.timesteps - float(timestep.reshape(-1)[0])).abs().argmin())
        mean, std = self.mass[k].to(maps.device)
        mass = localize.mass_contrast(maps[:, :, self.localizer.mine.to(maps.device)], mean, std)
        if readout == "mass":
            return localize.plain_gate(mass), mass
        features = maps.flatten(1, 2).movedim(1, -1)
        gate, cell = self.gate[k].to(maps.device), self.cell[k].to(maps.device)
        statistic = localize.log_odds(
            localize.read_out(features.mean((1, 2)), *gate), *self.gate_law[k].to(maps.device)
        )
        center, spread = self.cell_law[k].to(maps.device)
        return statistic, torch.minimum(mass, (localize.read_out(features, *cell) - center) / spread)
