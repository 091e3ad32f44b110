"""ActErase's parts: scores of feed-forward activations, masks of pairs, their aggregation, and the patch (Sun et al.,
arXiv 2601.00267, sections 3.2 to 3.4).

A pair is a caption of the concept and the same caption made safe. Both run on the same latents; where the safe one's
activations are strong and the concept's are stronger still, the concept lives, and the safe ones, averaged, take their
place from then on. Feed-forward networks are read at their second linear map, so a gated one (GEGLU, as in Stable
Diffusion) and a plain one are alike: what that map is given is the product behind the gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genward.core.contracts import Rig
from genward.core.records import Call, Frame, Prompt
from genward.errors import BadArtifact, Inapplicable
from genward.ops.activations import Recording
from genward.ops.sources import Keep

EXACT = 1 << 24
"""Whole numbers that float32 holds."""


# ----------------------------------------------------------------------------------------------------------------- rule


def scores(hidden: Tensor, weight: Tensor, site: str = "output") -> Tensor:
    """How strongly each activation takes part.

    Args:
        hidden: (rows, n, h) what the second linear map is given. weight: (c, h) of that map.
        site: ``output``: (rows, n, c), ``sum_j |W_ij| · |h_j|``, the paper's ``W|x|`` read with absolute weights (it
            has one entry for each output); ``hidden``: (rows, n, h), ``|h_j| · ||W_:j||``, ConceptPrune's form.
    """
    if site == "hidden":
        return hidden.abs() * weight.square().sum(0).sqrt()
    return hidden.abs() @ weight.abs().T


def mask_of(source: Tensor, target: Tensor, tau: float, form: str = "fraction", within: str = "layer") -> Tensor:
    """bool (rows, n, c): ``(I_s >= tau) and (I_s < I_t)`` (section 3.2).

    Args:
        source, target: (rows, n, c) scores of the safe caption and of the concept's.
        tau: threshold; under ``fraction`` the share of the largest scores that pass it, at least one.
        form: ``fraction`` or ``absolute``. within: what the share is of, a row's whole ``layer`` or each ``token``.
    """
    if form == "absolute":
        strong = source >= tau
    else:
        flat = source.flatten(1)[:, None] if within == "layer" else source
        count = min(flat.shape[-1], max(1, int(tau * flat.shape[-1] + 0.5)))
        least = flat.topk(count, dim=-1).values[..., -1:]
        strong = source >= least
    return strong & (source < target)


def agreed(counts: Tensor, pairs: int, agree: float) -> Tensor:
    """bool: places that at least a share ``agree`` of the pairs marked, and one at least."""
    return counts >= max(1.0, agree * pairs - 1e-9)


def aggregate(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Several concepts' (mask, safe activations) as one: ``OR_i M_i`` and ``sum_i M_i x_i / max(1, sum_i M_i)``
    (section 3.4)."""
    number = torch.stack([mask for mask, _ in parts]).sum(0)
    safe = torch.stack([torch.where(mask, x, torch.zeros_like(x)) for mask, x in parts]).sum(0)
    return number > 0, safe / number.clamp(min=1)


def patched(x: Tensor, mask: Tensor, safe: Tensor, rows: Tensor, strength: float = 1.0) -> Tensor:
    """``M · x_safe + (1 - M) · x`` in the rows that are meant (section 3.3); at strength below 1 part of the way.

    Args:
        x: (rows, n, c). mask, safe: (n, c), (1, c) or with rows before them. rows: bool (rows,).
    """
    new = safe.to(x) if strength == 1 else x + strength * (safe.to(x) - x)
    return torch.where(mask & rows.to(x.device)[:, None, None], new, x)


# ----------------------------------------------------------------------------------------------------------- collecting


@dataclass
class _Held:
    """What a source carries through one batch."""

    text: Tensor = field(default_factory=lambda: torch.zeros(0))
    """(cases, t, d) states of the concept's captions"""
    target: dict[str, Tensor] = field(default_factory=dict)
    """Site -> scores of the concept's caption at this step"""
    mask: dict[str, Tensor] = field(default_factory=dict)
    total: dict[str, Tensor] = field(default_factory=dict)
    """Site -> sum over the steps so far of the safe activations"""


@dataclass(frozen=True)
class Pairs:
    """A source for ``ops.activations``: masks and safe activations of pairs, one row a case.

    Cases carry the concept's caption; it is exchanged for the safe one before the text encoder, so the trajectory is
    the safe one's, and read beside it on the same latents (one denoiser row a step more). In memory, beside a call's
    states: a mask and a sum of float32 for each case of the batch and each site. What is kept at the last step are the
    union of a case's masks and the mean of its safe activations; each step's own where asked for."""

    safe: Mapping[str, str]
    """Caption of the concept -> the safe one"""
    sites: tuple[str, ...]
    """Names of feed-forward sites, ``….ff``"""
    site: str = "output"
    tau: float = 0.01
    form: str = "fraction"
    within: str = "layer"
    axis: str = "tokens"
    masks: str = "union"
    average: str = "all"

    @property
    def says(self) -> Any:
        return ["acterase", sorted(self.safe.items()), list(self.sites), self.site, self.tau, self.form, self.within,
                self.axis, self.masks, self.average]  # fmt: skip

    def attach(self, rig: Rig, keep: Keep) -> None:
        held = _Held()
        weights = {name: second_map(rig.model, name) for name in self.sites}

        def begin(prompts: list[Prompt]) -> list[Prompt]:
            held.text = rig.encode([p.text for p in prompts])
            held.mask, held.total = {}, {}
            return [p._replace(text=self.safe[p.text]) for p in prompts]

        def before(call: Call, frame: Frame) -> Call:
            pick = frame.conditional.to(call.latents.device)
            text = held.text[frame.case[frame.conditional].to(held.text.device)].to(call.text)
            asked = Call(call.latents[pick], call.timestep[pick], text)
            found = rig.predict(asked, read=[hidden_of(name) for name in self.sites]).sites
            held.target = {n: self._score(found[hidden_of(n)], weights[n]) for n in self.sites}
            return call

        rig.prompts(begin)
        rig.inputs(before)
        for name in self.sites:
            self._watch(rig, keep, held, name, weights[name])

    def _score(self, hidden: Tensor, weight: Tensor) -> Tensor:
        found = scores(hidden.float(), weight.float(), self.site)
        return found.mean(1, keepdim=True) if self.axis == "channels" else found

    def _watch(self, rig: Rig, keep: Keep, held: _Held, name: str, weight: Tensor) -> None:
        def mark(hidden: Tensor, frame: Frame) -> None:
            mine = hidden[frame.conditional.to(hidden.device)]
            new = mask_of(self._score(mine, weight), held.target.pop(name), self.tau, self.form, self.within)
            held.mask[name] = new | held.mask[name] if self.masks == "union" and name in held.mask else new
            if self.site == "hidden":
                add(hidden, frame)

        def add(x: Tensor, frame: Frame) -> None:
            mine = x[frame.conditional.to(x.device)].float()
            mine = mine.mean(1, keepdim=True) if self.axis == "channels" else mine
            held.total[name] = held.total[name] + mine if self.average == "all" and name in held.total else mine
            last, share = frame.step == frame.steps - 1, frame.steps if self.average == "all" else 1
            inner = _conditional(frame)
            if last or self.masks == "timestep":
                keep(mask_name(name), held.mask[name].to(torch.uint8), inner)
            if last or self.average == "timestep":
                keep(safe_name(name), held.total[name] / share, inner)

        rig.tap(hidden_of(name), mark)
        if self.site == "output":
            rig.tap(name, add)


def hidden_of(name: str) -> str:
    """The site of what the second linear map of a feed-forward network is given."""
    return f"{name}.hidden"


def mask_name(name: str) -> str:
    return f"{name} mask"


def safe_name(name: str) -> str:
    return f"{name} safe"


def second_map(model: Any, name: str) -> Tensor:
    """(c, h) weight of a feed-forward network's second linear map."""
    found: Tensor = model.denoiser.get_submodule(model.sites[name].path).net[2].weight.detach()
    return found


def _conditional(frame: Frame) -> Frame:
    pick = frame.conditional
    time = None if frame.timestep is None else frame.timestep[pick.to(frame.timestep.device)]
    return frame._replace(conditional=pick[pick], case=frame.case[pick.to(frame.case.device)], timestep=time)


def learned(found: Recording, name: str, groups: Tensor, agree: float) -> tuple[Tensor, Tensor, Tensor]:
    """What a recording of ``Pairs`` says of a site: (timesteps (k,), mask (k, n, c), safe activations (k, n, c)), one
    entry where neither differs by timestep. Groups of pairs (concepts) are aggregated; one shard is in memory at a
    time."""
    parts = []
    for group in groups.unique().tolist():
        pairs = int((groups == group).sum())
        times, counts = _summed(found, mask_name(name), groups == group)
        clock, safe = _summed(found, safe_name(name), groups == group)
        mask = agreed(counts, pairs, agree)
        times = clock if len(clock) > len(times) else times
        shape = (len(times), *mask.shape[1:])
        parts.append((mask.expand(shape), (safe / pairs).float().expand(shape)))
    return times, *aggregate(parts)


def _summed(found: Recording, name: str, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """(timesteps (k,), float64 sums (k, n, c) over the chosen cases), in the order of the steps."""
    sums: dict[int, Tensor] = {}
    times: dict[int, float] = {}
    for rows in found.stream(name):
        for step in rows.step.unique().tolist():
            pick = (rows.step == step) & chosen[rows.case]
            if bool(pick.any()):
                sums[step] = sums.get(step, 0.0) + rows.state[pick].double().sum(0)
                times[step] = float(rows.timestep[pick][0])
    order = sorted(sums)
    return torch.tensor([times[k] for k in order]), torch.stack([sums[k] for k in order])


# ------------------------------------------------------------------------------------------------------------- keeping


class Patch(NamedTuple):
    """Where a site is patched, and with what."""

    times: Tensor
    """(k,) timesteps of the entries; one entry holds at all"""
    mask: Tensor
    """bool (k, n, c)"""
    safe: Tensor
    """float32 (k, n, c)"""

    def at(self, timestep: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mask and safe activations, (n, c), or (rows, n, c) where rows are at several timesteps: of the nearest entry,
        its activations linear between the two entries around the timestep where both have them.

        Raises:
            Inapplicable: a timestep that lies outside those that were learned from by more than their widest gap.
        """
        if len(self.times) == 1 or timestep is None:
            return self.mask[0], self.safe[0]
        levels = timestep.float().cpu().tolist()
        entries = {t: self._entry(t) for t in dict.fromkeys(levels)}
        if len(entries) == 1:
            return entries[levels[0]]
        return torch.stack([entries[t][0] for t in levels]), torch.stack([entries[t][1] for t in levels])

    def _entry(self, level: float) -> tuple[Tensor, Tensor]:
        times = self.times.cpu()
        order = times.argsort().tolist()
        sorted_times = times[order]
        reach = float(sorted_times.diff().max())
        if not float(sorted_times[0]) - reach <= level <= float(sorted_times[-1]) + reach:
            raise Inapplicable(
                f"acterase: timestep {level:g} lies outside those it learned from ({sorted_times[0]:g} to "
                f"{sorted_times[-1]:g}); fit it with more sampling_steps, or average=all and masks=union"
            )
        k = int(torch.searchsorted(sorted_times, torch.tensor(level)))
        low, high = order[max(0, k - 1)], order[min(k, len(order) - 1)]
        gap = float(times[high] - times[low])
        share = 0.0 if gap == 0 else min(1.0, max(0.0, (level - float(times[low])) / gap))
        near = high if share >= 0.5 else low
        both = self.mask[low] & self.mask[high]
        between = (1 - share) * self.safe[low] + share * self.safe[high]
        return self.mask[near], torch.where(both, between, self.safe[near])

    def to(self, x: Tensor) -> Patch:
        return Patch(self.times, self.mask.to(x.device), self.safe.to(x.device, x.dtype))


def packed(name: str, times: Tensor, mask: Tensor, safe: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of a site: marked places and their activations alone, for a mask is sparse.

    ``….places``: whole numbers below n · c, entry after entry; ``….counts`` (k,): how many of them are each entry's;
    ``….values``: the activations there; ``….shape``: n and c; ``….times`` (k,)."""
    flat = mask.flatten(1)
    places = torch.cat([row.nonzero().flatten() for row in flat])
    values = torch.cat([x[row] for x, row in zip(safe.flatten(1), flat, strict=True)])
    whole = torch.float32 if flat.shape[1] <= EXACT else torch.float64
    return {
        f"{name}.places": places.to(whole),
        f"{name}.counts": flat.sum(1).float(),
        f"{name}.values": values.to(dtype),
        f"{name}.shape": torch.tensor(mask.shape[1:]).float(),
        f"{name}.times": times.float(),
    }


def names_of(tensors: Mapping[str, Tensor]) -> list[str]:
    """Sites of an artifact."""
    return [n.removesuffix(".places") for n in tensors if n.endswith(".places")]


def unpacked(tensors: Mapping[str, Tensor], name: str) -> Patch:
    """The patch of a site.

    Raises:
        BadArtifact: tensors are missing, or their numbers do not go together.
    """
    try:
        places, counts, values, shape, times = (
            tensors[f"{name}.{part}"] for part in ("places", "counts", "values", "shape", "times")
        )
        n, c = (int(x) for x in shape)
        size, each = n * c, counts.long()
        whole = bool((places == places.round()).all()) and bool((counts == each).all())
        if not whole or n < 1 or c < 1 or bool((each < 0).any()) or int(each.sum()) != len(places):
            raise ValueError("counts, places and shape")
        if len(values) != len(places) or len(times) != len(each) or not len(times) or len(times.unique()) < len(times):
            raise ValueError("values and timesteps")
        entry, place = torch.arange(len(each)).repeat_interleave(each), places.long()
        if len(place) and not (0 <= int(place.min()) and int(place.max()) < size):
            raise ValueError("places outside the site")
    except (KeyError, ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise BadArtifact(
            f"acterase: what was learned of {name!r} does not go together ({error}); fit it again"
        ) from error
    mask, safe = torch.zeros(len(each), size, dtype=torch.bool), torch.zeros(len(each), size)
    mask[entry, place] = True
    safe[entry, place] = values.float()
    return Patch(times, mask.view(-1, n, c), safe.view(-1, n, c))
