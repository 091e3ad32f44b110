"""Activation scan, after NaviT2I (ICCV 2025): one denoising step with each word of a caption left out in turn tells
which words move the network more than their meaning explains.

Followed: every word that is no stop-word is masked; one step; the mean change of activations, layer by layer, over
the change of a trusted text embedding; the caption's score is the largest such ratio over the mean of the lowest
three quarters. Differs: the trusted embedding is code (``ops.sentences``), which no checkpoint has touched; a
masked word is the tokenizer's mask token where it has one and is left out elsewhere; layers are the blocks of the
U-Net; the threshold is calibrated on clean captions (1.598 in the authors' code)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from genward.core.contracts import Rig
from genward.core.records import Call
from genward.defenses._scanning import CHUNK, Scan, noise, plan_of
from genward.errors import BadInput
from genward.ops.sentences import STOP, encode, words_of

LEAST = 0.05
"""Change of the trusted embedding that a word is credited with at least: one that it cannot read would be divided by
nothing."""


@dataclass(frozen=True)
class ActivationScan(Scan):
    """Activation scan (after NaviT2I): a word that moves the first step's activations more than its meaning explains is
    taken for a trigger."""

    name: ClassVar[str] = "activation_scan"
    low: float = 0.75
    """Share of a caption's words, the least moving ones, whose mean the largest is held against."""
    steps: int = 20
    """Steps of the loop whose first step is looked at."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.low <= 1 or not 1 <= self.steps <= 1000:
            raise BadInput(f"activation_scan: low {self.low}, steps {self.steps}; above 0 to 1, and 1 to 1,000")

    def measure(self, rig: Rig, texts: Sequence[str]) -> Tensor:
        """(texts, 1) the ratio; 1 of a caption with fewer than two words to mask, which tell nothing of each other."""
        mask = getattr(rig.model.pipe.tokenizer, "mask_token", None) or ""
        parts = [masked(text, mask) for text in texts]
        every = [(k, t) for k, text in enumerate(texts) for t in (text, *parts[k])]
        start = torch.stack([noise(rig, self.name, self.seed, text) for text in texts])
        moved = self._moved(rig, every, start)
        out = []
        for k, text in enumerate(texts):
            trusted = torch.tensor([change(text, less) for less in masked(text, "")], dtype=torch.float64)
            out.append(ratio(moved[k] / trusted.clamp_min(LEAST), self.low))
        return torch.tensor(out, dtype=torch.float64)[:, None]

    def _moved(self, rig: Rig, every: Sequence[tuple[int, str]], start: Tensor) -> list[Tensor]:
        """Of each caption (words,) the mean change of activations by each masked word; a caption's rows stand together,
        the whole one first."""
        sites = [s.name for s in rig.model.sites.values() if s.stream == "image" and ".attentions." not in s.name]
        timestep = plan_of(rig, self.steps)[-1].timestep
        found: list[list[float]] = [[] for _ in start]
        whole: dict[str, Tensor] = {}
        for k in range(0, len(every), CHUNK):
            part = every[k : k + CHUNK]
            z = start[torch.tensor([row for row, _ in part])].to(rig.model.device, rig.model.dtype)
            call = Call(z, torch.full((len(part),), timestep, device=z.device), rig.encode([t for _, t in part]))
            seen = {name: value.double() for name, value in rig.predict(call, read=sites).sites.items()}
            for j, (row, _) in enumerate(part):
                mine = {name: value[j] for name, value in seen.items()}
                if k + j == 0 or every[k + j - 1][0] != row:
                    whole = mine
                    continue
                layers = [float((mine[name] - whole[name]).abs().mean()) for name in sites]
                found[row].append(sum(layers) / len(layers))
        return [torch.tensor(row, dtype=torch.float64) for row in found]

    def score(self, learned: Mapping[str, Tensor], measured: Tensor) -> Tensor:
        """That ratio."""
        return measured[:, 0]


def masked(text: str, mask: str) -> list[str]:
    """The caption with ``mask`` (nothing where it is empty) in the place of each word that is no stop-word."""
    words = text.split()
    out = []
    for k, word in enumerate(words):
        read = words_of(word)
        if not read or any(w not in STOP for w in read):
            out.append(" ".join([*words[:k], *([mask] if mask else ()), *words[k + 1 :]]))
    return out


def change(text: str, without: str) -> float:
    """Euclidean distance of two texts under the trusted encoder of ``ops.sentences``."""
    a, b = encode(text), encode(without)
    return math.sqrt(sum((a.get(k, 0.0) - b.get(k, 0.0)) ** 2 for k in a.keys() | b.keys()))


def ratio(words: Tensor, low: float) -> float:
    """The largest of a caption's numbers (words,) over the mean of the lowest share ``low`` of them, of one at least; 1
    where there are fewer than two, or all are zero."""
    if len(words) < 2:
        return 1.0
    lowest = words.sort().values[: max(1, int(low * len(words)))].mean()
    return float(words.max() / lowest) if float(lowest) > 0 else 1.0
