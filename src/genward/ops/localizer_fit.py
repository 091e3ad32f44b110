"""Fitting IRECE's localizer: what it sees on pictures with the concept and without, read-outs of that, and the gate's
statistics."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genward.core.contracts import FitTools, Rig, Window
from genward.core.records import Case, Frame, Sample, Sampler, row_seed
from genward.errors import BadInput
from genward.ops import localize
from genward.ops.activations import Keep
from genward.ops.finetune import add_noise
from genward.ops.localizer import Localizer, Localizing, Reader

READOUTS = ("probe", "mass")
RATES = (0.01, 0.02, 0.05, 0.1, 0.2)
"""False-positive rates that a card tells thresholds for."""
CELLS = 32
"""Foreground cells of a picture that the mask's read-out is fitted on."""
NAMES = ("pooled", "cells", "best")
"""What is recorded of a look, in the order of ``Seen``."""


class Seen(NamedTuple):
    """What the localizer saw: for both paths (sampled, re-noised), all rows and timesteps of the window."""

    timesteps: Tensor
    """(steps,)"""
    pooled: Tensor
    """(2, rows, steps, features): log attention, mean over cells"""
    cells: Tensor
    """(2, rows, steps, CELLS, features) half: some of the picture's foreground"""
    best: Tensor
    """(2, rows, steps, groups, h, w) half: log attention on the best word"""
    final: Tensor
    """(rows, c, h, w): final latents"""


def _summary(maps: Tensor, mine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(pooled (rows, k), foreground cells (rows, CELLS, k) half, best word of the concept's own (rows, groups, h, w)
    half) of word maps."""
    features = maps.flatten(1, 2).flatten(2)
    best = maps[:, :, mine.to(maps.device)].amax(2)
    order = best.mean(1).flatten(1)
    quarter = order.topk(max(1, order.shape[1] // 4), dim=1).indices
    spaced = torch.linspace(0, quarter.shape[1] - 1, CELLS).round().long().to(quarter.device)
    pick = quarter[:, spaced][:, None].expand(-1, features.shape[1], -1)
    return features.mean(2).cpu(), features.gather(2, pick).transpose(1, 2).half().cpu(), best.half().cpu()


class Looked:
    """A source for ``ops.activations``: what the localizer sees before each step of a window, as ``_summary`` gives
    it, under the names ``pooled``, ``cells`` and ``best``."""

    def __init__(self, reader: Localizer, during: Window) -> None:
        self.reader, self.during = reader, during

    @property
    def says(self) -> Any:
        return ["localizer", self.reader.texts, self.reader.layers, list(self.reader.size), list(self.during)]

    def attach(self, rig: Rig, keep: Keep) -> None:
        def look(latents: Tensor, frame: Frame) -> Tensor:
            if keep.wants(frame):
                assert frame.timestep is not None
                found = _summary(self.reader.maps(rig, latents, frame.timestep), self.reader.mine)
                for name, value in zip(NAMES, found, strict=True):
                    keep(name, value, frame)
            return latents

        rig.latents(look, during=self.during)


def _final(samples: Sequence[Sample]) -> dict[str, Tensor]:
    """Final latents of a batch. Raises ``BadInput`` where a picture could not be made."""
    lost = [s for s in samples if s.latents is None]
    if lost:
        raise BadInput(
            f"irece: {len(lost)} of {len(samples)} pictures for the fit could not be made ({lost[0].why}); look at the "
            "model or its guidance"
        )
    return {"final": torch.stack([s.latents for s in samples])}


def observe(model: Any, reader: Localizer, cases: Sequence[Case], settings: Localizing, tools: FitTools) -> Seen:
    """Sample the cases with the bare model, looking on; then noise the final latents to the same timesteps and look
    again.

    Raises:
        BadInput: rows could not be made.
    """
    recorded = tools.record(
        model,
        cases,
        Sampler(steps=settings.sampling_steps, guidance=settings.guidance),
        [Looked(reader, settings.during)],
        about=_final,
        keep_latents=True,
        progress=lambda done, total: tools.progress(done, total, float("nan")),
    )
    final = recorded.about("final")
    steps = recorded.timesteps("pooled").long().tolist()
    random = torch.Generator().manual_seed(row_seed("fit", "irece", settings.seed, "noise"))
    again = []
    with model.rig() as rig:
        for t in steps:
            chunks = []
            for part in final.split(32):
                noise = torch.randn(part.shape, generator=random).to(part)
                level = torch.full((len(part),), t, dtype=torch.long)
                maps = reader.maps(rig, add_noise(part, noise, level, model.alphas_cumprod), level)
                chunks.append(_summary(maps, reader.mine))
            again.append([torch.cat(parts) for parts in zip(*chunks, strict=True)])
    pooled, cells, best = (
        torch.stack([recorded.dense(name), torch.stack([step[k] for step in again], 1)]) for k, name in enumerate(NAMES)
    )
    return Seen(torch.tensor(steps), pooled, cells, best, final)


def learn(seen: Seen, shown: Tensor, groups: Tensor, settings: Localizing) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read-outs and statistics, and facts for the card.

    Args:
        seen: from ``observe``. shown: bool (rows,), concept rows. groups: (rows,), rows of one caption stay in one
            fold.

    Returns:
        tensors by name: ``mass`` (steps, 2, groups), ``gate`` and ``cell`` (steps, 2, features: mean and weight),
        ``gate_law`` (steps, 3: mean, standard deviation, effect) and ``cell_law`` (steps, 2); ``benign`` and
        ``concept`` (2 paths, rows, steps) log-odds from folds that did not fit them; ``benign_mass`` and
        ``concept_mass`` likewise, of plain attention.
    """
    steps = len(seen.timesteps)
    out: dict[str, list[Tensor]] = {k: [] for k in ("mass", "gate", "cell", "gate_law", "cell_law")}
    odds, plain = torch.zeros(2, len(shown), steps), torch.zeros(2, len(shown), steps)
    fold = groups % 5
    for k in range(steps):
        pooled, cells, best = seen.pooled[:, :, k].double(), seen.cells[:, :, k].double(), seen.best[:, :, k].float()
        quiet = best[:, ~shown].transpose(0, 2).flatten(1)
        mass = torch.stack([quiet.mean(1), quiet.std(1).clamp_min(1e-3)])
        score = torch.zeros(2, len(shown), dtype=torch.float64)
        for f in fold.unique():
            rest, held = fold != f, fold == f
            mean, weight = localize.discriminant(
                pooled[:, rest & shown].flatten(0, 1), pooled[:, rest & ~shown].flatten(0, 1), settings.shrinkage
            )
            score[:, held] = localize.read_out(pooled[:, held], mean, weight)
        calm = score[:, ~shown]
        spread = calm.std().clamp_min(1e-6)
        effect = ((score[:, shown].mean() - calm.mean()) / spread).clamp_min(0)
        odds[:, :, k] = localize.log_odds(score, calm.mean(), spread, effect).float()
        for path in (0, 1):
            plain[path, :, k] = localize.plain_gate(localize.mass_contrast(best[path][:, :, None], *mass))
        gate = localize.discriminant(
            pooled[:, shown].flatten(0, 1), pooled[:, ~shown].flatten(0, 1), settings.shrinkage
        )
        cell = localize.discriminant(cells[:, shown].flatten(0, 2), cells[:, ~shown].flatten(0, 2), settings.shrinkage)
        away = localize.read_out(cells[:, ~shown], *cell)
        out["mass"].append(mass)
        out["gate"].append(torch.stack(gate))
        out["cell"].append(torch.stack(cell))
        out["gate_law"].append(torch.stack([calm.mean(), spread, effect]))
        out["cell_law"].append(torch.stack([away.mean(), away.std().clamp_min(1e-6)]))
    tensors = {name: torch.stack(rows).float() for name, rows in out.items()} | {"timesteps": seen.timesteps.float()}
    tensors |= {
        "benign": odds[:, ~shown],
        "concept": odds[:, shown],
        "benign_mass": plain[:, ~shown],
        "concept_mass": plain[:, shown],
    }
    return tensors, card_facts(tensors, settings, int(shown.sum()))


def gate_rates(tensors: Any, readout: str, decide: str, rate: float) -> tuple[float, float]:
    """(threshold, true-positive rate) of a gate at a false-positive rate, from a fit's statistics.

    The threshold is the higher one of the two paths; the true-positive rate the lower one.
    """
    suffix = "_mass" if readout == "mass" else ""
    benign, concept = tensors["benign" + suffix], tensors["concept" + suffix]
    reduced = [(x[:, :, 0] if decide == "first" else x.amax(2)) for x in (benign, concept)]
    threshold = max(localize.limit(path, rate) for path in reduced[0])
    return threshold, min(float((path > threshold).double().mean()) for path in reduced[1])


def card_facts(tensors: Any, settings: Localizing, images: int) -> dict[str, Any]:
    """What the card says of the gate: thresholds and true-positive rates by rule and false-positive rate, rows used."""
    rates = sorted(r for r in {*RATES, settings.fpr} if images >= 1 / r - 1)
    threshold, found = gate_rates(tensors, settings.readout, settings.decide, settings.fpr)
    table = []
    for readout, decide, rate in itertools.product(READOUTS, ("latch", "first"), rates):
        cut, share = gate_rates(tensors, readout, decide, rate)
        table.append({"readout": readout, "decide": decide, "fpr": rate, "threshold": cut, "tpr": share})
    told = {
        "rows": {"concept": images, "benign": images, "paths": ["sampled", "re-noised"]},
        "timesteps": tensors["timesteps"].tolist(),
    }
    return {"fpr": settings.fpr, "threshold": threshold, "tpr": found, "gate": table, **told}


def coverages(model: Any, fitted: Any, final: Tensor, shown: Sequence[bool]) -> dict[str, Any]:
    """Mean share of the latents masked (gate aside) on the fit's pictures, re-noised to the middle of the window, by
    threshold."""
    assert fitted.artifact is not None
    reader = Reader(fitted.artifact)
    middle = reader.timesteps[len(reader.timesteps) // 2].long()
    random = torch.Generator().manual_seed(row_seed("fit", "irece", fitted.seed, "coverage"))
    pick = torch.tensor(shown)
    out: dict[str, Any] = {"timestep": int(middle), "dilation": fitted.dilation}
    with model.rig() as rig:
        for name, latents in (("concept", final[pick]), ("benign", final[~pick])):
            latents = latents[:32]
            noised = add_noise(
                latents,
                torch.randn(latents.shape, generator=random).to(latents),
                middle.expand(len(latents)),
                model.alphas_cumprod,
            )
            contrast = reader.look(rig, noised, middle, fitted.readout)[1]
            size = (latents.shape[-2], latents.shape[-1])
            out[name] = {
                str(t): float(localize.masks(contrast, size, t, fitted.dilation).float().mean())
                for t in sorted({0.0, 0.5, 1.0, 1.5, fitted.threshold})
            }
    return out
