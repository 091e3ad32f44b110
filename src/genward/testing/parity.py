"""The parity law: what a benchmark measures is what a guarded pipeline does.

``StableDiffusion.generate`` (cases and seeds) and ``genward.protect`` (a stock call) are two callers of one engine. On
the same rows under the same defenses they give equal pictures bit for bit, equal verdicts and equal failures."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from genward.core.records import Case, Sample, Sampler
from genward.errors import BadInput, Blocked, GuardError, UnguardedInput
from genward.models.rows import start_noise, step_generator
from genward.models.sd import StableDiffusion
from genward.testing.suites import CASES


class Row(NamedTuple):
    """What one row came to, from either caller."""

    action: str
    """``released`` | ``blocked`` | ``failed``"""
    picture: Any
    """(h, w, 3) uint8, ``None`` where there is none"""
    verdicts: tuple[Any, ...]
    notes: dict[str, list[float]]
    nfe: int

    def differs(self, other: Row, *, batch: bool = False) -> str:
        """What is not equal, in words; empty where all is.

        Args:
            batch: the rows come from batches of other sizes, whose sums are rounded otherwise: pictures may be one
                level of 255 apart, and numbers beside them are not compared.
        """
        equal = {
            "action": self.action == other.action,
            "picture": _alike(self.picture, other.picture, 1 if batch else 0),
            "verdicts": batch or repr(self.verdicts) == repr(other.verdicts),
            "notes": batch or repr(self.notes) == repr(other.notes),
            "nfe": self.nfe == other.nfe,
        }
        wrong = [name for name, ok in equal.items() if not ok]
        return ", ".join(f"{n}: {getattr(self, n)!r:.300} against {getattr(other, n)!r:.300}" for n in wrong)


def _alike(a: Any, b: Any, levels: int) -> bool:
    """Whether two pictures, or none, are equal to so many levels."""
    if a is None or b is None:
        return a is None and b is None
    return a.shape == b.shape and int(np.abs(a.astype(int) - b.astype(int)).max()) <= levels


def _of_sample(sample: Sample) -> Row:
    action = {"ok": "released", "refused": "blocked", "error": "failed"}[sample.status]
    picture = None if sample.image is None else np.asarray(sample.image)
    verdicts = tuple(v._replace(category="") for v in sample.verdicts)  # protect fills in the policy's own name
    return Row(action, picture, verdicts, dict(sample.notes), sample.nfe)


def generated(
    model: StableDiffusion, defenses: Sequence[Any], cases: Sequence[Case], sampler: Sampler
) -> list[Row] | type[Exception]:
    """The rows that ``generate`` makes, or the kind of error that ends it."""
    try:
        return [_of_sample(s) for s in model.generate(cases, sampler, defenses, batch=len(cases))]
    except (BadInput, GuardError) as error:
        return type(error)


def protected(guarded: Any, cases: Sequence[Case], sampler: Sampler) -> list[Row] | type[Exception]:
    """The same rows from a guarded call: equal starts and equal generators."""
    model = guarded.model
    shape = model.latent_shape(*model.size(sampler))
    try:
        out = guarded(
            [c.prompt for c in cases],
            negative_prompt=[c.negative for c in cases],
            latents=torch.stack([start_noise(c.seed, shape).to(model.dtype) for c in cases]).to(model.device),
            generator=[step_generator(c.seed) for c in cases],
            num_inference_steps=sampler.steps,
            guidance_scale=sampler.guidance,
            eta=sampler.eta,
        )
    except BadInput as error:
        return type(error)
    rows = []
    for verdict, picture in zip(out.verdicts, out.images, strict=True):
        action = "failed" if verdict.failed else "blocked" if verdict.action == "blocked" else "released"
        said = tuple(v._replace(category="") for v in verdict.every)
        rows.append(Row(action, None if picture is None else np.asarray(picture), said, verdict.notes, verdict.nfe))
    return rows


# ------------------------------------------------------------------------------------------------------------- faults


@dataclass(frozen=True)
class Fault:
    """A defense that goes wrong in one way, at the latents port of the second step."""

    name: ClassVar[str] = "fault"
    kind: str = "raises"

    def attach(self, rig: Any) -> None:
        def fn(latents: Any, frame: Any) -> Any:
            if frame.step != 1:
                return latents
            if self.kind == "raises":
                raise ZeroDivisionError("on purpose")
            if self.kind == "blocked":
                raise Blocked("on purpose")
            if self.kind == "shape":
                return latents[:, :1]
            first = (frame.case == 0).to(latents.device)
            if self.kind == "score":
                rig.note(frame, **{"fault.score": torch.where(first, torch.nan, 0.5)})
                return latents
            if self.kind == "block":
                rig.block(frame, first, "on purpose", score=torch.full((len(first),), torch.nan), threshold=0.5)
                return latents
            return torch.where(first[:, None, None, None], torch.nan, latents)

        rig.latents(fn)


FAULTS = ("raises", "blocked", "shape", "score", "block", "latents")
"""Kinds of ``Fault``."""


class Checker:
    """A pipeline's own safety checker that flags the brighter pictures of a call, or raises."""

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken

    def __call__(self, images: Any, clip_input: Any) -> tuple[Any, list[bool]]:
        if self.broken:
            raise ZeroDivisionError("on purpose")
        light = [float(np.mean(i)) for i in images]
        return images, [x > float(np.mean(light)) for x in light]


class Pixels:
    """The part of a feature extractor that a pipeline calls."""

    def __call__(self, images: Any, return_tensors: str = "pt") -> Any:
        from transformers import BatchFeature

        rows = [np.asarray(i.convert("RGB"), np.float32) / 255 for i in images]
        return BatchFeature({"pixel_values": torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2)})


@contextmanager
def own_checker(pipe: Any, broken: bool) -> Iterator[None]:
    """Inside, the pipeline has a safety checker of its own."""
    before = pipe.safety_checker, pipe.feature_extractor
    pipe.safety_checker, pipe.feature_extractor = Checker(broken), Pixels()
    try:
        yield
    finally:
        pipe.safety_checker, pipe.feature_extractor = before


# ---------------------------------------------------------------------------------------------------------------- law


def parity_laws(
    model: StableDiffusion,
    make: Callable[[], Any] | Sequence[Any],
    *,
    cases: Sequence[Case] = CASES,
    sampler: Sampler | None = None,
    faults: Sequence[str] = FAULTS,
) -> None:
    """Assert that ``generate`` and ``protect`` do the same on the same rows under the same defenses.

    Looked at are the defenses alone; with the pipeline's own safety checker, one that raises as well; with texts that
    hold control characters, half a surrogate pair or a direction override; and beside a defense that raises, blocks
    everything, returns a wrong shape, scores NaN, blocks by NaN, or makes latents that are not finite.

    Args:
        model: a tiny model.
        make: builds the defense, or the chain itself.
        faults: kinds of ``Fault`` to put after the chain.
    """
    from genward.serve.protect import protect

    chain = list(make) if isinstance(make, Sequence) else [make()]
    sampler = sampler or Sampler(steps=5, guidance=3.0)

    def compare(defenses: Sequence[Any], rows: Sequence[Case], what: str) -> None:
        with (
            warnings.catch_warnings(),
            protect(model, "weapons", defenses, unguarded="weapons") as guarded,
        ):
            warnings.simplefilter("ignore", UnguardedInput)  # rows may start from noise of their own
            theirs, followed = protected(guarded, rows, sampler), list(guarded.defenses)
        ours = generated(model, followed, rows, sampler)
        names = "+".join(type(d).name for d in chain) or "no defense"
        apart = isinstance(ours, type) and isinstance(theirs, list)
        if isinstance(ours, type) and isinstance(theirs, list):  # the run stops where the service refuses
            lost = [k for k, r in enumerate(theirs) if r.action != "released"]
            assert all(theirs[k].picture is None for k in lost), f"{names}, {what}: released"
            told = lost if ours is BadInput else [k for k in lost if theirs[k].action == "failed"]
            assert told, f"{names}, {what}: generate failed, protect did not"
            kept = [k for k in range(len(rows)) if k not in lost]  # one bad prompt refuses its own row
            ours = generated(model, followed, [rows[k] for k in kept], sampler) if kept else []
            assert isinstance(ours, list), f"{names}, {what}: generate fails without the refused rows too"
            theirs = [theirs[k] for k in kept]
        if isinstance(ours, type) or isinstance(theirs, type):
            assert ours is theirs, f"{names}, {what}: generate gave {ours}, protect {theirs}"
            return
        for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert not (wrong := a.differs(b, batch=apart)), f"{names}, {what}, row {k}: {wrong}"

    compare(chain, cases, "alone")
    compare(chain, [c._replace(negative="fog") for c in cases], "with negative texts")
    for broken in (False, True):
        with own_checker(model.pipe, broken):
            compare(chain, cases, "with a safety checker that raises" if broken else "with a safety checker")
    for text in ("a \x07 cat", "a \ud800 cat", "a \u202e cat", "a \x00 cat"):
        for field in ("prompt", "negative"):
            bad: dict[str, Any] = {field: text}
            compare(chain, [cases[0]._replace(**bad), *cases[1:]], f"with {text!r} as {field}")
    for kind in faults:
        compare([*chain, Fault(kind)], cases, f"beside a defense that goes wrong ({kind})")
