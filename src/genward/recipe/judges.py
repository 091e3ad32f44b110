"""Stage ``judge`` of the lab's recipe: pictures and truths for the two judges, their training and their cards."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from genward.core.checkpoint import CHECKPOINT
from genward.core.files import json_text, write_file, written
from genward.core.precision import autocast
from genward.judges.training import Batch, calibrate, disturb, probabilities, train
from genward.lab.autoencoder import to_tensor
from genward.lab.data import Vocabulary, place
from genward.ops.vision import SHAPES

KEPT = 2048
"""Decoded pictures that are kept for reuse."""
NETWORKS = {"judge": ("residuals", 11), "second_judge": ("plain", 77)}
"""Folder -> (network, seed): two judges of different architecture and seed."""


class Pictures:
    """Random pictures with their truth: singles, scenes, icons from outside the vocabulary, and mush.

    Truth is a row of labels, objects first, then styles; weights are 0 where nobody can say (the style of mush).
    """

    def __init__(
        self,
        words: Vocabulary,
        sprites: Mapping[tuple[str, str], Image.Image],
        others: Sequence[tuple[str, Image.Image]],
        vae: Any,
        *,
        seed: int,
        round_trips: float = 0.5,
        reuse: float = 0.0,
    ) -> None:
        """Args:
        round_trips: share of a batch that goes through the autoencoder, the slowest part of making it.
        reuse: share of those taken from the last ``KEPT`` decoded pictures once there are enough (for training only;
            0.75 makes batches about twice as fast).
        """
        self.names = (*words.names, *words.style_names)
        self.objects = len(words.names)
        self.index = {n: k for k, n in enumerate(self.names)}
        self.by_style: dict[str, list[str]] = {}
        for name, style in sprites:
            self.by_style.setdefault(style, []).append(name)
        self.styles = list(self.by_style)
        self.sprites, self.others, self.vae, self.round_trips = sprites, others, vae, round_trips
        self.rng = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.reuse = reuse
        self.kept: list[tuple[Tensor, Tensor, Tensor]] = []
        self.made = 0

    def one(self) -> tuple[Image.Image, list[str]]:
        """A picture and the labels it shows."""
        draw = self.rng.random()
        style = self.rng.choice(self.styles)
        if draw < 0.42:
            names = [self.rng.choice(self.by_style[style])]
        elif draw < 0.78:
            names = self.rng.sample(self.by_style[style], 2)
        elif draw < 0.92:
            style, icon = self.rng.choice(self.others)
            return place([icon], self.rng), [style]
        else:  # a known object beside an unknown icon of the same style
            style, icon = self.rng.choice(self.others)
            name = self.rng.choice(self.by_style[style])
            return place([self.sprites[name, style], icon], self.rng), [name, style]
        return place([self.sprites[n, style] for n in names], self.rng), [*names, style]

    def batch(self, size: int = 64) -> Batch:
        """``size`` rows, an eighth of them mush; half go through the autoencoder, some of those with noised latents
        (mush as well)."""
        drawn = [self.one() for _ in range(size)]
        x = to_tensor([p for p, _ in drawn])
        labels = torch.zeros(size, len(self.names))
        for row, (_, shown) in enumerate(drawn):
            labels[row, [self.index[n] for n in shown]] = 1
        weights = torch.ones_like(labels)
        x = self._mush(x, labels, weights, size // 8)
        x = self._round_trip(x, labels, weights, size // 16)
        return disturb(x, self.generator), labels, weights

    def _mush(self, x: Tensor, labels: Tensor, weights: Tensor, count: int) -> Tensor:
        """The first ``count`` rows become blends of three pictures, shuffled patches, or plain noise: no object is
        there."""
        x = x.clone()
        for row in range(count):
            kind = self.rng.randrange(3)
            if kind == 0:
                rows = torch.randint(len(x), (3,), generator=self.generator)
                x[row] = x[rows].mean(0)
            elif kind == 1:
                edge = self.rng.choice((8, 16))
                n = 64 // edge
                patches = x[row].unfold(1, edge, edge).unfold(2, edge, edge).reshape(3, n * n, edge, edge)
                patches = patches[:, torch.randperm(n * n, generator=self.generator)]
                x[row] = patches.reshape(3, n, n, edge, edge).permute(0, 1, 3, 2, 4).reshape(3, 64, 64)
            else:
                coarse = torch.rand(1, 3, 8, 8, generator=self.generator)
                x[row] = torch.nn.functional.interpolate(coarse, size=64, mode="bilinear")[0] * 2 - 1
            labels[row], weights[row, self.objects :] = 0, 0
        return x

    def _round_trip(self, x: Tensor, labels: Tensor, weights: Tensor, noised: int) -> Tensor:
        """A share of the rows decoded from their latents, ``noised`` of them from latents drowned in noise (mush: no
        label)."""
        take = torch.randperm(len(x), generator=self.generator)[: int(self.round_trips * len(x))]
        if not len(take):
            return x
        again = int(self.reuse * len(take)) if len(self.kept) >= KEPT // 4 else 0
        fresh, old = take[again:], take[:again]
        noised = round(noised * len(fresh) / len(take))
        x = x.clone()
        if len(fresh):
            x[fresh] = self._decoded(x[fresh], noised)
            labels[fresh[:noised]] = 0
            weights[fresh[:noised], self.objects :] = 0
        for row in old.tolist():
            x[row], labels[row], weights[row] = self.rng.choice(self.kept)
        if self.reuse:
            self._keep(x, labels, weights, fresh)
        return x

    def _decoded(self, x: Tensor, noised: int) -> Tensor:
        with torch.no_grad(), autocast():
            z = self.vae.encode(x).latent_dist.mean.float()
            level = 0.02 * torch.rand(len(z), 1, 1, 1, generator=self.generator)
            level[:noised] = 0.75 + 0.25 * torch.rand(noised, 1, 1, 1, generator=self.generator)
            noise = torch.randn(z.shape, generator=self.generator)
            y: Tensor = self.vae.decode((1 - level).sqrt() * z + level.sqrt() * noise).sample.float().clamp(-1, 1)
        return y

    def _keep(self, x: Tensor, labels: Tensor, weights: Tensor, rows: Tensor) -> None:
        """Put decoded rows among those kept, the oldest making room."""
        for row in rows.tolist():
            kept = (x[row].clone(), labels[row].clone(), weights[row].clone())
            if len(self.kept) < KEPT:
                self.kept.append(kept)
            else:
                self.kept[self.made % KEPT] = kept
            self.made += 1


def fit(
    which: str,
    pictures: Callable[[int], Pictures],
    *,
    seconds: float,
    work: Path,
    out: Path,
    held: Callable[[int], Pictures] | None = None,
    rows: int = 6000,
    report: Callable[[dict[str, float]], None] = lambda _: None,
) -> dict[str, Any]:
    """Train one judge and write ``judge.safetensors`` (fp16) and ``card.json`` into ``out``.

    Args:
        which: ``judge`` or ``second_judge``.
        pictures: makes a source of pictures from a seed.
        held: the same for calibration, with unknown icons that training never draws; ``pictures`` with another seed
            where there is none.
        rows: pictures for thresholds and error rates, half each.
    """
    from safetensors.torch import save_file

    network, seed = NETWORKS[which]
    torch.manual_seed(seed)
    source = pictures(seed)
    net = SHAPES[network](len(source.names))
    average = train(net, source.batch, seconds=seconds, file=work / which / CHECKPOINT, report=report)
    half = {k: v.half() if v.is_floating_point() else v for k, v in average.items()}
    net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in half.items()})
    judged = (held or pictures)(seed + 1_000)
    parts = [judged.batch() for _ in range(max(1, rows // 64))]
    x, labels, weights = (torch.cat([p[k] for p in parts]) for k in range(3))
    truth = torch.where(weights > 0, labels, torch.nan).numpy()
    card: dict[str, Any] = {
        "network": network,
        "names": list(source.names),
        "summary": "objects and styles of the lab, several at once, none where nothing is known",
        "labels": calibrate(probabilities(net, x), truth, source.names),
        "facts": {
            "pictures": len(x),
            "seed": seed,
            "training": "renders with changes, scenes, unknown icons, mush, autoencoder round trips",
            "calibration": "the same kinds of pictures from other seeds, half for thresholds, half for error rates; "
            "unknown icons " + ("that training never drew" if held else "of the training"),
        },
    }
    with written(out / "judge.safetensors") as aside:
        save_file(half, str(aside))
        card["sha256"] = sha256(aside.read_bytes()).hexdigest()
    write_file(out / "card.json", json_text(card))
    return card
