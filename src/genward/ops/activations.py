"""The recorder: states at any site of a model, read through the rig while it generates, and kept with what they belong
to.

One recorder serves every method that learns from states. What is read is a **source** (a site, the latents, the
prompt's states, the guidance direction, or a method's own); which calls are read is a set of steps; rows go, with
their case, step, **timestep** and branch, to ``ops.shards`` in bounded memory, and a recording that was killed goes on
at the batch where it was. What is known of whole cases, such as labels told by a judge, is kept with them, and comes
out again row by row.

Nothing is changed: ports of a source return what they were given."""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from genward.core.contracts import Defense, Rig
from genward.core.records import Case, Frame, Sample, Sampler
from genward.core.spec import Spec, canonical, digest
from genward.errors import BadArtifact, BadInput
from genward.ops.moments import Statistics, statistics
from genward.ops.shards import BUDGET, Rows, Shards
from genward.ops.sources import PARTS, AtInput, AtSite, Direction, Keep, Source, pooled, sources, stop_step

__all__ = [
    "BRANCHES", "LABEL", "PARTS", "AtInput", "AtSite", "Direction", "Early", "Keep", "Recorder", "Recording", "Source",
    "collect",
    "pooled", "record", "sources", "states_of", "stop_step",
]  # fmt: skip

BRANCHES = ("conditional", "unconditional", "both")
"""Rows that are kept: those that carry the prompt, the others, or all."""
LIMIT = 64 << 30
"""Bytes that a recording may take unless another limit is given."""
LABEL = "label"
"""Name under which ``record`` keeps the labels of cases."""


# ------------------------------------------------------------------------------------------------------------ recording


@dataclass
class Recorder:
    """Attach it as a defense for one batch of cases: it hands the rows of the wanted calls to ``shards``."""

    name: ClassVar[str] = "recorder"
    sources: Sequence[Source]
    shards: Shards
    steps: Sequence[int] | None = None
    """0-based steps that are read; ``None``: every call, those outside a loop included"""
    branch: str = "conditional"
    first: int = 0
    """Index of the batch's first case"""

    def attach(self, rig: Rig) -> None:
        for source in self.sources:
            source.attach(rig, self)

    def wants(self, frame: Frame) -> bool:
        return self.steps is None or frame.step in self.steps

    def opens(self, frame: Frame) -> bool:
        return frame.step == (0 if self.steps is None else min(self.steps))

    def __call__(self, name: str, state: Tensor, frame: Frame) -> None:
        if not self.wants(frame):
            return
        if len(state) != len(frame.case):
            raise BadInput(f"{name}: {len(state)} states for {len(frame.case)} rows of the call; one each is needed")
        rows = frame.conditional if self.branch == "conditional" else ~frame.conditional
        picked = (torch.ones_like(frame.conditional) if self.branch == "both" else rows).nonzero().flatten().cpu()
        nothing = torch.full((len(frame.case),), float("nan"))
        times = nothing if frame.timestep is None else frame.timestep.detach().float().cpu().expand(len(nothing))
        kept = state.detach()[picked.to(state.device)].to("cpu", copy=True)
        case = frame.case.cpu()[picked].long() + self.first
        step = torch.full((len(picked),), frame.step)
        self.shards.put(name, Rows(kept, case, step, times[picked].clone(), frame.conditional.cpu()[picked]))


class Recording(NamedTuple):
    """States on disk (or in memory), by name."""

    shards: Shards
    steps: tuple[int, ...]
    """Steps that were read; empty where every call was"""
    samples: list[Sample]
    """Samples of the cases recorded by this call, with their pictures where ``keep_samples``; a recording that was
    taken up does not have the earlier ones"""

    @property
    def cases(self) -> int:
        return self.shards.cases

    def stream(self, name: str, conditional: bool | None = None) -> Iterator[Rows]:
        """Rows under a name, one shard at a time; ``conditional`` picks one branch."""
        for rows in self.shards.stream(name):
            found = rows if conditional is None else rows.take((rows.conditional == conditional).nonzero().flatten())
            if len(found.state):
                yield found

    def labeled(self, name: str, label: str = LABEL) -> Iterator[tuple[Rows, Tensor]]:
        """``stream`` with the label of each row's case, (rows, …)."""
        labels = self.about(label)
        for rows in self.stream(name):
            yield rows, labels[rows.case]

    def about(self, name: str) -> Tensor:
        """(cases, …) what is known of the cases."""
        return self.shards.about(name)

    def statistics(
        self, name: str, *, covariance: bool = False, label: str = "", conditional: bool | None = None
    ) -> Statistics:
        """Moments by timestep, and by label (a column of whole numbers, (cases,)) where one is named; one pass."""
        labels = self.about(label) if label else None
        parts = self.stream(name, conditional)
        return statistics(((r, None if labels is None else labels[r.case].flatten()) for r in parts), covariance)

    def timesteps(self, name: str) -> Tensor:
        """float32 (steps,) timestep of each step that was read, in the order of the loop.

        Raises:
            BadArtifact: nothing was recorded under the name at one of the steps.
        """
        found: dict[int, float] = {}
        for rows in self.shards.stream(name):
            found |= dict(zip(rows.step.tolist(), rows.timestep.tolist(), strict=True))
        missing = [s for s in self.steps if s not in found]
        if missing or not found:
            raise BadArtifact(
                f"nothing was recorded at {name!r} at step {missing[0] if missing else 0}: every row ended before"
            )
        return torch.tensor([found[s] for s in self.steps or sorted(found)])

    def dense(self, name: str, steps: Sequence[int] | None = None) -> Tensor:
        """(cases, steps, …) in one tensor, NaN where a row had ended before: for what is small enough to train on.

        Args:
            steps: the ones that are wanted; those that were read by default.

        Raises:
            BadArtifact: nothing was recorded under the name. BadInput: more than one row for a case and step.
        """
        seen = {s for rows in self.shards.stream(name) for s in rows.step.tolist()}
        known = tuple(steps if steps is not None else self.steps or sorted(seen))
        if not seen & set(known):
            raise BadArtifact(
                f"nothing was recorded at {name!r}: every row ended before step {known[0] if known else 0}"
            )
        place = torch.full((max(*seen, *known) + 2,), -1)
        place[torch.tensor(known)] = torch.arange(len(known))
        out: Tensor | None = None
        filled = torch.zeros(self.cases, len(known), dtype=torch.bool)
        for rows in self.shards.stream(name):
            rows = rows.take((place[rows.step] >= 0).nonzero().flatten())
            if out is None and len(rows.state):
                dtype = rows.state.dtype if rows.state.is_floating_point() else torch.float32
                out = torch.full((self.cases, len(known), *rows.state.shape[1:]), float("nan"), dtype=dtype)
            at = place[rows.step]
            twice = len(set(zip(rows.case.tolist(), at.tolist(), strict=True))) < len(at)
            if out is not None:
                if twice or bool(filled[rows.case, at].any()):
                    raise BadInput(
                        f"{name!r} was read several times per case and step; take stream() instead of dense()"
                    )
                filled[rows.case, at] = True
                out[rows.case, at] = rows.state.to(out.dtype)
        assert out is not None
        return out

    def remove(self) -> None:
        """Delete what was recorded."""
        self.shards.remove()


def record(
    model: Any,
    cases: Sequence[Case],
    sampler: Sampler,
    sources: Sequence[Source],
    *,
    steps: Sequence[float] | None = None,
    branch: str = "conditional",
    folder: Path | None = None,
    in_memory: bool = False,
    about: Callable[[list[Sample]], Mapping[str, Tensor]] | None = None,
    labels: Mapping[str, Tensor] | None = None,
    defenses: Sequence[Defense] = (),
    keep_latents: bool = False,
    keep_samples: bool = False,
    batch: int = 32,
    budget: int = BUDGET,
    limit: int = LIMIT,
    progress: Callable[[int, int], None] | None = None,
) -> Recording:
    """Generate the cases and keep their states; what a killed call of the same arguments left is not made again.

    Costs a generation per case. Memory: see ``ops.shards.Shards``, and a batch's pictures; all with ``in_memory``.

    Args:
        steps: that are read, as ``stop_step`` reads them; ``None``: every call.
        branch: one of ``BRANCHES``.
        folder: of the shards; a temporary one without it.
        about: called with the samples of each batch: tensors (batch, …) to keep with its cases, such as labels from a
            judge. It does not enter the plan: record into another folder for another judge.
        labels: tensors (cases, …) that are known beforehand and kept with the cases.
        defenses: attached before the reading, such as an erasure whose states are wanted.
        keep_latents: whether samples carry their final latents, for ``about``.
        keep_samples: whether this call's samples come back, pictures included.
        limit: bytes that the whole recording may take, judged by the batches that are written.

    Raises:
        BadInput: no case, no such step, a folder of another recording, a full disk, or more states than ``limit``; what
            was committed stays. BadArtifact: its shards are damaged. UnknownName: no such site.
    """
    if not cases:
        raise BadInput("no case was given")
    if branch not in BRANCHES:
        raise BadInput(f"branch {branch!r}; {', '.join(map(repr, BRANCHES))} are possible")
    wanted = None if steps is None else tuple(sorted({stop_step(s, sampler.steps) for s in steps}))
    plan = {} if in_memory else _plan(model, cases, sampler, sources, defenses, keep_latents)
    plan |= {"steps": wanted, "branch": branch, "batch": batch, "about": sorted(labels or ())}
    shards = _shards(folder, plan, budget, in_memory)
    samples: list[Sample] = []
    for start in range(shards.cases, len(cases), batch):
        part = cases[start : start + batch]
        recorder = Recorder(sources, shards, wanted, branch, start)
        made = model.generate(part, sampler, [*defenses, recorder], batch=len(part), keep_latents=keep_latents)
        known = {name: value[start : start + len(part)] for name, value in (labels or {}).items()}
        shards.commit(start, len(part), known | dict(about(made) if about is not None else {}))
        samples += made if keep_samples else []
        _refuse_more(shards, len(cases), limit)
        if progress is not None:
            progress(start + len(part), len(cases))
    return Recording(shards, wanted or (), samples)


def _refuse_more(shards: Shards, cases: int, limit: int) -> None:
    """``BadInput`` where the batches so far say that all cases will take more than ``limit`` bytes."""
    coming = shards.bytes * cases / max(1, shards.cases)
    if coming > limit:
        raise BadInput(
            f"the states of {cases} cases would take {coming / 1e9:.3g} GB, the limit is {limit / 1e9:.3g} GB; read "
            "fewer steps, sites or cases, pool or draw tokens, or raise limit"
        )


def _shards(folder: Path | None, plan: Mapping[str, Any], budget: int, in_memory: bool) -> Shards:
    """Shards in memory, in a folder, or in a temporary one that goes with them."""
    if in_memory or folder is not None:
        return Shards(None if in_memory else folder, plan, budget)
    temporary = Path(tempfile.mkdtemp(prefix="genward-states-"))
    made = Shards(temporary, plan, budget)
    weakref.finalize(made, shutil.rmtree, temporary, ignore_errors=True)
    return made


def _plan(
    model: Any,
    cases: Sequence[Case],
    sampler: Sampler,
    sources: Sequence[Source],
    defenses: Sequence[Any],
    latents: bool,
) -> dict[str, Any]:
    """What decides a recording, as JSON; the cases by their digest, since a manifest is written with each batch."""
    plain: dict[str, Any] = json.loads(
        canonical({"sampler": sampler, "sources": [s.says for s in sources], "latents": latents})
    )
    return plain | {
        "model": model.spec.hash,
        "cases": digest([c.named() for c in cases], length=32),
        "rows": len(cases),
        "defenses": [Spec.of("defense", d).hash for d in defenses],
    }


# ---------------------------------------------------------------------------------------------------- all in one tensor


class Early(NamedTuple):
    """States of generations: one row per case, at the steps that were asked for."""

    samples: list[Sample]
    states: Mapping[str, Tensor]
    """Site or part -> float16 (cases, steps, …); ``text`` is (cases, tokens, width), the same at every step."""
    timesteps: Tensor
    """int64 (steps,)"""


def states_of(found: Recording, names: Sequence[str]) -> Early:
    """A small recording in one tensor per name."""
    states = {n: found.dense(n, found.steps[:1])[:, 0] if n == "text" else found.dense(n) for n in names}
    timed = next((n for n in names if n != "text"), "clock")
    return Early(found.samples, states, found.timesteps(timed).long())


def collect(
    model: Any,
    cases: Sequence[Case],
    sampler: Sampler,
    *,
    sites: Sequence[str] = (),
    parts: Sequence[str] = ("text",),
    steps: Sequence[float] = (1,),
    pool: int = 0,
    defenses: Sequence[Defense] = (),
    batch: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> Early:
    """Generate some cases and keep their states in memory, pictures with them; for more cases, ``record`` streams.

    Costs a whole generation per case: ``steps`` denoiser rows, twice that under guidance.

    Args:
        steps: as ``stop_step`` reads them. pool: edge of the grid that token sites are averaged to, 0 for none.
        defenses: attached before the reading, such as an erasure.

    Raises:
        BadInput: a step that the loop does not have, or a part that is not known. UnknownName: no such site.
        BadArtifact: every row ended before a step.
    """
    read = sources(sites, parts, pool) + ([] if {*sites, *parts} - {"text"} else [AtInput("clock")])
    found = record(
        model, cases, sampler, read, steps=steps, in_memory=True, defenses=defenses,
        keep_samples=True, batch=batch, progress=progress,
    )  # fmt: skip
    return states_of(found, (*sites, *parts))
