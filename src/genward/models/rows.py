"""Cases as rows of the batch engine, and its outcome as samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from genward.core.media import Image
from genward.core.reading import brief
from genward.core.records import LATENTS, PICTURE, Case, Prompt, Sample, Sampler
from genward.core.texts import checked_text
from genward.errors import BadInput
from genward.models.ports import PortError
from genward.models.sampling import Job, Outcome


def start_noise(seed: int, shape: Sequence[int]) -> Tensor:
    """(c, h, w) float32: the latents that a row of this seed starts from, whatever its neighbors in the batch."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def step_generator(seed: int) -> torch.Generator:
    """Where the sampler's own noise of a row of this seed comes from."""
    return torch.Generator().manual_seed(seed + 2**62)


def samples(cases: Sequence[Case], outcome: Outcome, seconds: float, *, keep: bool = False) -> list[Sample]:
    """A batch's outcome as one sample per case.

    Raises:
        GuardError: a guard was not called, or the model is not what it was opened on; every further batch would end the
            same way. What a defense's own code raises makes rows ``error``.
    """
    if outcome.failure is not None and not isinstance(outcome.failure, PortError):
        raise outcome.failure
    run, pictures = outcome.run, dict(zip(outcome.index, outcome.data, strict=True))
    made = []
    for k, case in enumerate(cases):
        costs: dict[str, float] = {"nfe": round(float(run.nfe[k]))}
        one = Sample(case, notes=run.notes.get(k, {}), seconds=seconds / len(cases), costs=costs)
        one.verdicts = run.verdicts.get(k, [])
        if k in pictures:
            one.output = Image(pictures[k])
            one.latents = outcome.latents[k] if keep and outcome.latents is not None else None
        else:
            one.status = "error" if k in run.failed else "refused"
            one.why = run.why.get(k, "refused")
        made.append(one)
    return made


def token_text(name: str) -> str:
    """How a learned embedding of that content hash is written in a prompt: ``<`` + 12 hex digits + ``>``."""
    return f"<{name[:12]}>"


def token(name: str) -> bool:
    """Whether a case's input of this name is a learned embedding."""
    return name != LATENTS and not name.startswith(PICTURE)


def strength_of(case: Case) -> float | None:
    """How much of its start picture a row draws over, 0 to 1; ``None`` where it starts from latents or noise.

    Raises:
        BadInput: a strength that is none, several start pictures, or latents beside one.
    """
    given = [name.removeprefix(PICTURE) for name in case.inputs if name.startswith(PICTURE)]
    if not given:
        return None
    if len(given) > 1 or LATENTS in case.inputs:
        raise BadInput(f"case {case.id!r}: it starts from several things; one picture, or latents, is possible")
    try:
        strength = float(given[0])
    except ValueError:
        strength = -1.0
    if not 0 < strength <= 1:
        raise BadInput(f"case {case.id!r}: strength {brief(given[0])} of its start picture; give a number up to 1")
    return strength


def checked(cases: Sequence[Case]) -> list[Case]:
    """The cases, or ``BadInput`` for one with a field or a text that cannot be used."""
    found = [c.checked() for c in cases]
    for case in found:
        checked_text(case.prompt, f"case {case.id!r}: the prompt")
        checked_text(case.negative, f"case {case.id!r}: the negative prompt")
    return found


def alike(cases: Sequence[Case]) -> list[tuple[bool, list[Case]]]:
    """The cases in runs that one pipeline can sample together, in order: (whether they start from pictures, the run).
    What starts from pictures has one strength."""
    runs = groupby(cases, strength_of)
    return [(strength is not None, list(run)) for strength, run in runs]


def learned_of(cases: Sequence[Case], vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Token text -> embedding of every learned embedding that the cases name."""
    wanted = [(c.id, text, name) for c in cases for text, name in c.inputs.items() if token(text)]
    missing = [(case, name) for case, _, name in wanted if name not in vectors]
    if missing:
        raise BadInput(f"case {missing[0][0]!r}: learned embedding {missing[0][1]} was not supplied")
    return {text: vectors[name] for _, text, name in wanted}


def start_of(model: Any, case: Case, sampler: Sampler, starts: Mapping[str, Tensor]) -> Tensor:
    shape = model.latent_shape(*model.size(sampler))
    name = case.inputs.get(LATENTS)
    if name:
        if name not in starts:
            raise BadInput(f"case {case.id!r}: start latents {name} were not supplied")
        start = starts[name]
        if tuple(start.shape) != shape:
            raise BadInput(f"case {case.id!r}: start latents have shape {tuple(start.shape)}, the model wants {shape}")
        return start.to(model.dtype)
    return start_noise(case.seed, shape).to(model.dtype)


def picture_of(model: Any, case: Case, sampler: Sampler, starts: Mapping[str, Tensor]) -> Tensor:
    """(3, h, w) in [0, 1] the picture that a row starts from."""
    ((name, key),) = [(name, key) for name, key in case.inputs.items() if name.startswith(PICTURE)]
    if key not in starts:
        raise BadInput(f"case {case.id!r}: start picture {key} was not supplied")
    picture, wanted = starts[key], (3, *model.size(sampler))
    if tuple(picture.shape) != wanted or not bool(((picture >= 0) & (picture <= 1)).all()):
        raise BadInput(
            f"case {case.id!r}: start picture {key} is {tuple(picture.shape)}; {wanted} from 0 to 1 is wanted"
        )
    return picture


def job_of(
    model: Any, cases: Sequence[Case], sampler: Sampler, starts: Mapping[str, Tensor], *, gradients: bool = False
) -> Job:
    """The cases as a call of the pipeline: each row's start and its random numbers are its own. They are ``alike``."""
    strength = strength_of(cases[0])
    if strength is not None:
        return _over_pictures(model, cases, sampler, starts, strength, gradients=gradients)
    height, width = model.size(sampler)
    model.scheduler.set_timesteps(sampler.steps)
    arguments: dict[str, Any] = {
        "latents": torch.stack([start_of(model, c, sampler, starts) for c in cases]).to(model.device),
        "num_inference_steps": sampler.steps,
        "guidance_scale": sampler.guidance,
        "height": height,
        "width": width,
        "eta": sampler.eta,
        "generator": [step_generator(c.seed) for c in cases],
    }
    prompts = [Prompt(c.prompt, c.negative) for c in cases]
    return Job(prompts, model.scheduler.timesteps, sampler.guidance, arguments, gradients=gradients)


def _over_pictures(
    model: Any,
    cases: Sequence[Case],
    sampler: Sampler,
    starts: Mapping[str, Tensor],
    strength: float,
    *,
    gradients: bool,
) -> Job:
    """A call of the img2img pipeline; the noise on a row's picture comes from its own seed."""
    model.scheduler.set_timesteps(sampler.steps)
    timesteps, left = model.pipe.get_timesteps(sampler.steps, strength, model.device)
    if left < 1:
        raise BadInput(f"strength {strength:g} of {sampler.steps} steps leaves no step to take; raise either")
    arguments: dict[str, Any] = {
        "image": torch.stack([picture_of(model, c, sampler, starts) for c in cases]),
        "strength": strength,
        "num_inference_steps": sampler.steps,
        "guidance_scale": sampler.guidance,
        "eta": sampler.eta,
        "generator": [torch.Generator().manual_seed(c.seed) for c in cases],
    }
    prompts = [Prompt(c.prompt, c.negative) for c in cases]
    return Job(prompts, timesteps, sampler.guidance, arguments, gradients=gradients)
