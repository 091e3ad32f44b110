"""Generate: prepare the plan's arms, then work off the batches that are not on disk yet.

A batch is the unit of writing: it stands in the store whole or not at all, so an interrupt or a kill loses at most the
batch in work, and what is made again after it has the same rows. Arms are written before their first sample. Pictures
that another run of the same arm already made are not made twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from genward.catalog.fitting import parse_defense, ready
from genward.catalog.labelling import seen_by
from genward.catalog.opening import Opener
from genward.core.contracts import Artifact, Defense
from genward.core.records import Case, Sample, Sampler
from genward.core.settings import stated, summed
from genward.core.spec import digest
from genward.errors import BadArtifact, BadInput, Conflict, DefenseInactive, GuardError, Inapplicable
from genward.run import memory
from genward.run.guard import arm_hash, arm_spec
from genward.run.plan import Plan, Work, batches
from genward.run.second import labels_of

if TYPE_CHECKING:
    from genward.models.rig import LiveRig
    from genward.models.sd import StableDiffusion
    from genward.store import Store

Progress = Callable[[str, int, int, str], None]
"""``progress(stage, done, total, about)`` with stage ``attack``, ``generate``, ``judge`` or a benchmark's own;
``about`` names what is in work and what comes next"""
Say = Callable[[str], None]


class Bound(NamedTuple):
    """A piece of work whose defenses are ready: what it takes to make its pictures."""

    work: Work
    arm: str
    defenses: tuple[Defense, ...]
    prepare_seconds: float
    record: Mapping[str, Any]
    """The arm written down, as the store keeps it."""
    sampler: Sampler
    labels_by: tuple[str, ...] = ()
    """Judges that its defenses were labelled by, or that look for its filters."""
    storage: int = 0
    """Bytes of what its fits learned."""


class Tally(NamedTuple):
    """What a stage did: rows made now, rows that were there, rows that ended as errors, seconds, and what was spent by
    name."""

    made: int
    there: int
    errors: int
    seconds: float
    costs: Mapping[str, float]
    peaks: Mapping[str, int] = {}
    """Arm -> bytes of memory at most while its rows were made, see ``run.memory``"""

    def plus(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(
            self.made + other.made,
            self.there + other.there,
            self.errors + other.errors,
            self.seconds + other.seconds,
            summed([self.costs, other.costs]),
            {**self.peaks, **{arm: max(n, self.peaks.get(arm, 0)) for arm, n in other.peaks.items()}},
        )


def prepare(
    plan: Plan,
    pieces: Sequence[Work],
    models: Opener,
    store: Store,
    *,
    refit: bool = False,
    progress: Say | None = None,
) -> list[Bound]:
    """Open the models, fit or reuse the defenses, check every chain, and write the arms down. No picture is made.

    What fits saw (captions and seeds) is reserved in the store, so that no evaluation can use it.

    Raises:
        StoreError: a fit saw what was already used for evaluation.
        Conflict: a chain contradicts itself; Inapplicable: it cannot act under the plan's sampler.
    """
    bound: list[Bound] = []
    prepared: dict[tuple[str, str], tuple[tuple[Defense, ...], float, tuple[str, ...], int]] = {}
    for work in pieces:
        model, sampler = models(work.model), work.sampler(plan)
        key = (work.model, work.defenses)
        if key not in prepared:
            chain = ready(
                parse_defense(work.defenses), model, store, refit=refit, progress=progress, labels_by=labels_of(plan)
            )
            with model.rig(chain.defenses):
                pass
            store.reserve("fit", fit_keys(chain.artifacts))
            stored = sum(t.numel() * t.element_size() for a in chain.artifacts for t in a.tensors.values())
            eyes = seen_by(chain.defenses, chain.artifacts)
            prepared[key] = (tuple(chain.defenses), chain.prepare_seconds, eyes, stored)
        defenses, seconds, eyes, stored = prepared[key]
        model.refuse(sampler, defenses)
        arm = arm_hash(model.spec, defenses, sampler)
        record = {
            **arm_spec(model.spec, defenses, sampler),
            "text": work.defenses,
            "model_name": work.model,
            "prepare_seconds": seconds,
        }
        store.put_arm(record, arm)
        bound.append(Bound(work, arm, defenses, seconds, record, sampler, eyes, stored))
    return bound


def named(piece: Bound) -> str:
    """A piece of work in words: ``uce (weapons)``."""
    return piece.work.label + (f" ({piece.work.concept})" if piece.work.concept else "")


def missing(cases: Sequence[Case], arm: str, there: set[str]) -> list[int]:
    """Positions of the cases whose sample is not among the ids ``there``."""
    return [k for k, case in enumerate(cases) if Sample(case, arm).id not in there]


def case_keys(cases: Sequence[Case]) -> set[str]:
    """What rows use up: captions and seeds, as the store reserves them."""
    return {f"caption:{c.prompt}" for c in cases} | {f"seed:{c.seed}" for c in cases}


def fit_keys(artifacts: Sequence[Artifact]) -> set[str]:
    """What fits saw, from their cards; the empty text belongs to nobody."""
    captions = {f"caption:{text}" for a in artifacts for text in a.card.get("captions", ()) if text}
    return captions | {f"seed:{seed}" for a in artifacts for seed in a.card.get("seeds", ())}


def generate(
    plan: Plan,
    bound: Sequence[Bound],
    models: Opener,
    store: Store,
    *,
    tensors: Mapping[str, Any] | None = None,
    retry: bool = False,
    progress: Progress | None = None,
) -> Tally:
    """Work off the planned batches that are not on disk. Interrupting it (Ctrl-C, SIGKILL) loses nothing that is
    finished.

    Args:
        tensors: content hash -> what rows name under ``inputs``.
        retry: make rows again that ended as errors.
        progress: told ``generate``, rows done, rows planned, the arm and the next one, after each batch.

    A row that fails alone is kept as status ``error`` with its reason and does not stop the others.

    Raises:
        DefenseInactive: a defense did not act; StoreError: the store cannot be written, or a row was used for fitting.
    """
    began, total = time.perf_counter(), sum(len(b.work.cases) for b in bound)
    store.reserve("evaluate", {key for b in bound for key in case_keys(b.work.cases)})
    tally = Tally(0, 0, 0, 0.0, {})
    for k, piece in enumerate(bound):
        there = store.done(piece.arm)
        if retry:
            there -= {row["id"] for row in store.samples([piece.arm]) if row["status"] == "error"}
        tally = tally._replace(
            there=tally.there + len(piece.work.cases) - len(missing(piece.work.cases, piece.arm, there))
        )
        about = f"{named(piece)}, then {named(bound[k + 1]) if k + 1 < len(bound) else 'judging'}"
        model, before = models(piece.work.model), tally.made
        counted = memory.start(model.device)
        for made in _work_off(plan, piece, model, store, there, tensors or {}):
            tally = tally._replace(
                made=tally.made + len(made),
                errors=tally.errors + sum(s.status == "error" for s in made),
                costs=summed([tally.costs, *(s.costs for s in made)]),
            )
            if progress is not None:
                progress("generate", tally.made + tally.there, total, about)
        most = memory.peak(model.device) if counted and tally.made > before else None
        if most is not None:
            tally = tally.plus(Tally(0, 0, 0, 0.0, {}, {piece.arm: most}))
    if progress is not None and bound:
        progress("generate", tally.made + tally.there, total, "then judging")
    return tally._replace(seconds=time.perf_counter() - began)


def _work_off(
    plan: Plan, piece: Bound, model: StableDiffusion, store: Store, there: set[str], tensors: Mapping[str, Any]
) -> Iterator[list[Sample]]:
    """Make and write the batches of one arm that miss rows; yields the rows written. Of a batch that is there in part
    only the rest is kept."""
    cut = [b for b in batches(plan, [piece.work]) if missing(b.cases, piece.arm, there)]
    if not cut:
        return
    if piece.work.cases[0].inputs.pictured:
        model = model.img2img
    with model.rig(piece.defenses) as rig:
        for batch in cut:
            fresh = missing(batch.cases, piece.arm, there)
            samples = make(model, rig, batch.cases, piece, tensors)
            kept = [samples[k] for k in fresh]
            store.put_samples(kept, f"{piece.arm}/{digest([s.id for s in kept])}")
            there.update(s.id for s in kept)
            yield kept


def make(
    model: StableDiffusion, rig: LiveRig, cases: Sequence[Case], piece: Bound, tensors: Mapping[str, Any] | None = None
) -> list[Sample]:
    """One batch through an open rig; where it raises, row by row, so that only the row at fault is lost."""
    try:
        samples = model.generate(
            cases, piece.sampler, piece.defenses, batch=len(cases), rig=rig, starts=tensors, vectors=tensors
        )
    except (DefenseInactive, Conflict, Inapplicable, BadArtifact):
        raise
    except (BadInput, GuardError, RuntimeError, ValueError, ArithmeticError, MemoryError) as error:
        if len(cases) > 1:
            return [s for case in cases for s in make(model, rig, [case], piece, tensors)]
        samples = [Sample(cases[0], status="error", why=f"{type(error).__name__}: {str(error)[:500]}")]
    for sample in samples:
        sample.arm = piece.arm
    return samples


def describe(bound: Sequence[Bound], sampler: Sampler) -> list[dict[str, Any]]:
    """The run's ``arms`` table: one row a label.

    An arm bound to each concept has several hashes: ``hashes``, ``spec`` and ``prepare`` are tables by concept (``*``:
        all concepts), and so is ``storage``, bytes of what was learned.

    Keys: ``label, hash, hashes, defenses, spec, control, model, prepare, prepare_seconds, storage, sampler,
    labels_by``.
    """
    rows: dict[str, dict[str, Any]] = {}
    for piece in bound:
        fresh: dict[str, Any] = {
            "label": piece.work.label,
            "hashes": {},
            "defenses": [],
            "spec": {},
            "control": piece.work.control,
            "prepare": {},
            "storage": {},
        }
        row = rows.setdefault(piece.work.label, fresh)
        key = piece.work.concept or "*"
        row["hashes"][key] = piece.arm
        row["defenses"].append(piece.work.defenses)
        row["spec"][key] = {"model": piece.record["model"], "defenses": piece.record["defenses"]}
        row["prepare"][key], row["storage"][key] = piece.prepare_seconds, piece.storage
        row["labels_by"] = sorted({*row.get("labels_by", ()), *piece.labels_by})
        row["model"], row["sampler"] = piece.work.model, stated(sampler)
    for row in rows.values():
        hashes = list(row["hashes"].values())
        row["hash"] = hashes[0] if len(hashes) == 1 else digest(hashes)
        row["prepare_seconds"] = sum(row["prepare"].values()) / len(hashes)
    return list(rows.values())
