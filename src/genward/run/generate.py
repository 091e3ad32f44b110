"""Generate: prepare the plan's arms, then work off the batches that are not on disk yet.

A batch is the unit of writing: it stands in the store whole or not at all, so an interrupt or a kill loses at most the batch in work, and
what is made again after it has the same rows. Arms are written before their first sample. Pictures that another run of the same arm
already made are not made twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from genward.core.contracts import Defense
from genward.core.records import Case, Sample, Sampler
from genward.errors import BadArtifact, BadInput, Conflict, DefenseInactive, GuardError, Inapplicable
from genward.run.fit import parse_defense, ready
from genward.run.guard import arm_hash, arm_spec
from genward.run.models import Opener
from genward.run.plan import Plan, Work, batches

if TYPE_CHECKING:
    from genward.models.rig import LiveRig
    from genward.models.sd import StableDiffusion
    from genward.store import Store

Progress = Callable[[int, int], None]
Say = Callable[[str], None]


class Bound(NamedTuple):
    """A piece of work whose defenses are ready: what it takes to make its pictures."""

    work: Work
    arm: str
    defenses: tuple[Defense, ...]
    prepare_seconds: float
    record: Mapping[str, Any]
    """The arm written down, as the store keeps it."""


class Tally(NamedTuple):
    """What a stage did: rows made now, rows that were there, rows that ended as errors, seconds, denoiser rows spent."""

    made: int
    there: int
    errors: int
    seconds: float
    passes: int


def prepare(plan: Plan, pieces: Sequence[Work], models: Opener, store: Store, *, refit: bool = False, progress: Say | None = None) -> list[Bound]:
    """Open the models, fit or reuse the defenses, check every chain, and write the arms down. No picture is made.

    Raises:
        Conflict: a chain contradicts itself; Inapplicable: it cannot act under the plan's sampler.
    """
    bound: list[Bound] = []
    prepared: dict[tuple[str, str], tuple[tuple[Defense, ...], float]] = {}
    for work in pieces:
        model = models(work.model)
        key = (work.model, work.defenses)
        if key not in prepared:
            chain = ready(parse_defense(work.defenses), model, store, refit=refit, progress=progress)
            with model.rig(chain.defenses):
                pass
            model._refuse(plan.sampler, chain.defenses)
            prepared[key] = (tuple(chain.defenses), chain.prepare_seconds)
        defenses, seconds = prepared[key]
        arm = arm_hash(model.spec, defenses, plan.sampler)
        record = {**arm_spec(model.spec, defenses, plan.sampler), "text": work.defenses, "model_name": work.model, "prepare_seconds": seconds}
        store.write_arm(arm, record)
        bound.append(Bound(work, arm, defenses, seconds, record))
    return bound


def missing(cases: Sequence[Case], arm: str, there: set[str]) -> list[int]:
    """Positions of the cases whose sample is not among the ids ``there``."""
    return [k for k, case in enumerate(cases) if Sample(case, arm).id not in there]


def generate(plan: Plan, bound: Sequence[Bound], models: Opener, store: Store, progress: Progress | None = None) -> Tally:
    """Work off the planned batches that are not on disk. Interrupting it (Ctrl-C, SIGKILL) loses nothing that is finished.

    Args:
        progress: ``progress(rows done, rows planned)`` after each batch.

    A row that fails alone is kept as status ``error`` with its reason and does not stop the others.

    Raises:
        DefenseInactive: a defense did not act; StoreError: the store cannot be written.
    """
    began, total = time.perf_counter(), sum(len(b.work.cases) for b in bound)
    made = there = errors = passes = 0
    for piece in bound:
        model = models(piece.work.model)
        on_disk = set(store.sample_ids(piece.arm))
        cut = [b for b in batches(plan, [piece.work]) if missing(b.cases, piece.arm, on_disk)]
        there_now = len(piece.work.cases) - sum(len(missing(b.cases, piece.arm, on_disk)) for b in cut)
        there += there_now
        if progress is not None:
            progress(made + there, total)
        if not cut:
            continue
        with model.rig(piece.defenses) as rig:
            for batch in cut:
                samples = make(model, rig, batch.cases, plan.sampler, piece)
                fresh = [samples[k] for k in missing(batch.cases, piece.arm, on_disk)]
                store.write_samples(fresh)
                on_disk |= {s.id for s in fresh}
                made += len(fresh)
                errors += sum(s.status == "error" for s in fresh)
                passes += sum(s.passes for s in samples)
                if progress is not None:
                    progress(made + there, total)
    return Tally(made, there, errors, time.perf_counter() - began, passes)


def make(model: StableDiffusion, rig: LiveRig, cases: Sequence[Case], sampler: Sampler, piece: Bound) -> list[Sample]:
    """One batch through an open rig; where it raises, row by row, so that only the row at fault is lost."""
    try:
        samples = model.generate(cases, sampler, piece.defenses, batch=len(cases), rig=rig)
    except (DefenseInactive, Conflict, Inapplicable, BadArtifact):
        raise
    except (BadInput, GuardError, RuntimeError, ValueError, ArithmeticError, MemoryError) as error:
        if len(cases) > 1:
            return [s for case in cases for s in make(model, rig, [case], sampler, piece)]
        samples = [Sample(cases[0], status="error", why=f"{type(error).__name__}: {str(error)[:500]}")]
    for sample in samples:
        sample.arm = piece.arm
    return samples


def describe(bound: Sequence[Bound], sampler: Sampler) -> list[dict[str, Any]]:
    """The run's ``arms`` table: one row a label; an arm bound to several concepts lists their hashes, specs and preparation times.

    Keys: ``label, hash, hashes, defenses, spec, control, model, prepare_seconds, sampler``.
    """
    from genward.core.spec import digest

    rows: dict[str, dict[str, Any]] = {}
    for piece in bound:
        row = rows.setdefault(
            piece.work.label, {"label": piece.work.label, "hashes": {}, "defenses": [], "spec": {}, "control": piece.work.control, "prepare": []}
        )
        row["hashes"][piece.work.concept or "*"] = piece.arm
        row["defenses"].append(piece.work.defenses)
        row["spec"][piece.work.concept or "*"] = {"model": piece.record["model"], "defenses": piece.record["defenses"]}
        row["prepare"].append(piece.prepare_seconds)
        row["model"], row["sampler"] = piece.work.model, asdict(sampler)
    for row in rows.values():
        hashes = list(row["hashes"].values())
        row["hash"] = hashes[0] if len(hashes) == 1 else digest(hashes)
        prepared = row.pop("prepare")
        row["prepare_seconds"] = sum(prepared) / len(prepared)
    return list(rows.values())
