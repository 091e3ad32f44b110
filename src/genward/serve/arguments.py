"""Reading and checking the arguments of a stock call: whatever the pipeline takes, and nothing that goes past a
guard."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from genward.core import defending
from genward.core.records import Prompt
from genward.core.texts import Rows, checked_negatives, checked_rows
from genward.errors import BadInput, Conflict, Inapplicable, Unguarded, UnguardedInput, UnknownName
from genward.models.sampling import Job

if TYPE_CHECKING:
    from genward.core.contracts import Defense
    from genward.models.rig import LiveRig
    from genward.models.sd import StableDiffusion

OUTPUTS = ("pil", "np", "pt", "latent")
NEEDED = (
    "prompt_embeds",
    "negative_prompt_embeds",
    "num_images_per_prompt",
    "callback_on_step_end",
    "callback_on_step_end_tensor_inputs",
    "output_type",
    "return_dict",
    "guidance_scale",
    "num_inference_steps",
)
"""Arguments through which a guarded call acts."""
TAKEN = ("callback_on_step_end", "callback_on_step_end_tensor_inputs", "output_type", "return_dict")
"""Arguments that the engine gives itself."""


LOOK = "add image_filter with a judge of this model's pictures, or keep the input under your own control"
FULL, HALF = 0.9, 0.5
"""Shares of the training timesteps below which start latents hold a picture rather than noise: with timesteps of the
user's own, and with the scheduler's."""


class Caller(Protocol):
    """What reading a call needs to know of a guarded pipeline (``serve.call.Guarded``)."""

    model: StableDiffusion
    named: dict[str, Defense]
    defenses: tuple[Defense, ...]
    known: dict[str, Any]
    told_of_latents: bool

    @property
    def rig(self) -> LiveRig: ...
    @property
    def pipe(self) -> Any: ...


@dataclass(frozen=True)
class Asked:
    """One call, read and checked."""

    given: dict[str, Any]
    """The pipeline's own arguments, defaults filled in"""
    named: frozenset[str]
    """Those that the user gave"""
    prompts: list[str]
    """Empty where embeddings were given in their place"""
    negatives: list[str]
    count: int
    """Prompts"""
    copies: int
    """Pictures per prompt"""
    guidance: float
    """Scale of classifier-free guidance, 1 where there is none"""
    bad: Mapping[int, str] = field(default_factory=dict)
    """Prompt -> why it cannot be used; its rows are refused, the others are not"""

    @property
    def bad_rows(self) -> dict[int, str]:
        return {k * self.copies + j: why for k, why in self.bad.items() for j in range(self.copies)}

    @property
    def rows(self) -> int:
        return self.count * self.copies

    def row_texts(self) -> list[Prompt]:
        """One (prompt, negative) per row, in the pipeline's order: all pictures of a prompt side by side."""
        pairs = zip(self.prompts or [""] * self.count, self.negatives, strict=True)
        return [Prompt(p, n) for p, n in pairs for _ in range(self.copies)]


def call_arguments(kind: type) -> dict[str, Any]:
    """Arguments of a pipeline's ``__call__`` and their defaults; of a derived class that passes others on
    (``**kwargs``) those of its parents as well."""
    known: dict[str, Any] = {}
    for cls in kind.__mro__:
        if "__call__" not in vars(cls):
            continue
        parameters = inspect.signature(vars(cls)["__call__"]).parameters.values()
        for p in parameters:
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "self":
                known.setdefault(p.name, None if p.default is p.empty else p.default)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return known


def known_arguments(kind: type) -> dict[str, Any]:
    """``call_arguments``, and the two that a stock call still takes by their old names.

    Raises:
        BadInput: a pipeline without an argument that a guarded call needs.
    """
    known = call_arguments(kind)
    missing = [name for name in NEEDED if name not in known]
    if missing:
        raise BadInput(
            f"{kind.__name__} takes no {', '.join(missing)}, so its texts and steps cannot be guarded; use a pipeline "
            "whose call takes what StableDiffusionPipeline takes"
        )
    return {**known, "callback": None, "callback_steps": None}


def bound(kind: type, pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments by name. Where a derived class takes ``*args``, their order is that of the class it hands them to.

    Raises:
        BadInput: more arguments than the call takes, one given twice, or one that is missing.
    """
    try:
        signature = inspect.signature(kind.__call__)
        if any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values()):
            for cls in kind.__mro__:
                own = inspect.signature(vars(cls)["__call__"]) if "__call__" in vars(cls) else None
                if own is not None and not any(p.kind is p.VAR_POSITIONAL for p in own.parameters.values()):
                    signature = own
                    break
            placed = signature.bind_partial(pipe, *args).arguments
            twice = sorted(set(placed) & set(kwargs))
            if twice:
                raise TypeError(f"multiple values for argument {twice[0]!r}")
            return {**placed, **kwargs}
        found = signature.bind(pipe, *args, **kwargs).arguments
    except TypeError as error:
        raise BadInput(f"{kind.__name__}: {error}") from error
    return {**found, **found.get("kwargs", {})}


def read_call(guarded: Caller, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Asked:
    """Bind and check a call's arguments; see ``serve.call.Guarded.__call__`` for what is raised."""
    pipe, known = guarded.pipe, guarded.known
    for key in kwargs:
        if key not in known:
            raise UnknownName(f"argument of {type(pipe).__name__}", key, known)
    mine = {k: v for k, v in bound(type(pipe), pipe, args, kwargs).items() if k in known}
    given = {**known, **mine}
    if given["output_type"] not in OUTPUTS:
        raise UnknownName("output_type", str(given["output_type"]), OUTPUTS)
    copies = count_of(given["num_images_per_prompt"])
    scale = given["guidance_scale"]
    if isinstance(scale, bool) or not isinstance(scale, Real) or not np.isfinite(float(scale)):
        raise BadInput(f"guidance_scale is {scale!r}; give a finite number")
    distilled = guarded.model.distilled
    guidance = float(scale) if float(scale) > 1 and not distilled else 1.0
    found, negatives, count = _texts(guarded, given)
    asked = Asked(given, frozenset(mine), found.texts, negatives, count, copies, guidance, found.bad)
    _matching(guarded, asked)
    if guarded.defenses:
        _guardable(guarded, asked, distilled)
    return asked


def count_of(copies: Any) -> int:
    """Pictures a prompt, or ``BadInput``."""
    if isinstance(copies, bool) or not isinstance(copies, Integral) or int(copies) < 1:
        raise BadInput(f"num_images_per_prompt is {copies!r}; give a whole number of at least 1")
    return int(copies)


def _texts(guarded: Caller, given: dict[str, Any]) -> tuple[Rows, list[str], int]:
    """Prompts, negatives and their number."""
    embeds, negative_embeds = given["prompt_embeds"], given["negative_prompt_embeds"]
    if embeds is None:
        prompts = checked_rows(given["prompt"])
        count = len(prompts.texts)
    else:
        if given["prompt"] is not None:
            raise BadInput("prompt and prompt_embeds are both given; give one of them")
        if not torch.is_tensor(embeds) or embeds.ndim != 3:
            raise BadInput("prompt_embeds is no tensor of (prompts, tokens, width)")
        prompts, count = Rows([], {}), len(embeds)
    readers = sorted({p.owner for kind in ("prompts", "readings", "passages", "text") for p in guarded.rig.of(kind)})
    if readers and (embeds is not None or negative_embeds is not None):
        what = "prompt_embeds" if embeds is not None else "negative_prompt_embeds"
        raise Conflict(
            f"{what}: {', '.join(readers)} reads the text, and embeddings have none; give the prompt, or leave that "
            "guard out"
        )
    if negative_embeds is not None and given["negative_prompt"] is not None:
        raise BadInput("negative_prompt and negative_prompt_embeds are both given; give one of them")
    if embeds is not None and negative_embeds is not None and negative_embeds.shape != embeds.shape:
        raise BadInput(
            f"negative_prompt_embeds are {tuple(negative_embeds.shape)}; give one of the prompts' shape, "
            f"{tuple(embeds.shape)}, per prompt"
        )
    return prompts, checked_negatives(given["negative_prompt"], count), count


def _matching(guarded: Caller, asked: Asked) -> None:
    """Generators, latents and start pictures fit the number of rows."""
    model = guarded.model
    given, rows = asked.given, asked.rows
    generator = given["generator"]
    if isinstance(generator, list | tuple):
        if len(generator) != rows:
            raise BadInput(
                f"{len(generator)} generators for {rows} pictures ({asked.count} prompts × {asked.copies}); give one, "
                "or one per picture"
            )
        given["generator"] = generator = list(generator)
    for one in generator if isinstance(generator, list) else [generator]:
        if one is not None and not isinstance(one, torch.Generator):
            raise BadInput(f"generator is {type(one).__name__}; give a torch.Generator, or a list with one per picture")
    latents = given.get("latents")
    if latents is not None:
        wanted = (rows, *model.latent_shape(given.get("height") or 0, given.get("width") or 0))
        if not torch.is_tensor(latents) or latents.ndim != 4 or tuple(latents.shape) != wanted:
            found = tuple(latents.shape) if torch.is_tensor(latents) else type(latents).__name__
            raise BadInput(f"latents are {found}; this call wants {wanted}, one row a picture")
    image = given.get("image")
    if "image" in given:
        if image is None:
            raise BadInput("image is missing; this pipeline starts from a picture")
        pictures = len(image) if isinstance(image, list) or getattr(image, "ndim", 0) == 4 else 1
        if pictures > rows or rows % pictures:
            copies = f" with {asked.copies} pictures each" if asked.copies > 1 else ""
            raise BadInput(
                f"{pictures} pictures for {asked.count} prompts{copies}; give one, or a number that divides {rows}"
            )


def _guardable(guarded: Caller, asked: Asked, distilled: bool) -> None:
    """What the rig cannot follow, or what would go past a guard, is refused before any picture is made."""
    given, rig = asked.given, guarded.rig
    if distilled:
        raise Conflict(
            "this model takes its guidance as an embedding (a distilled model); rows cannot be ended one by one in it, "
            "so it cannot be guarded"
        )
    for key in ("ip_adapter_image", "ip_adapter_image_embeds"):
        if given.get(key) is not None:
            raise Conflict(f"{key}: a picture prompt goes past every text guard and cannot be guarded; leave it out")
    extra = set(given.get("cross_attention_kwargs") or {}) - {"scale"}
    if extra:
        raise Conflict(
            f"cross_attention_kwargs: {', '.join(sorted(extra))} cannot be guarded; only scale (of LoRA weights) can"
        )
    if given.get("guidance_rescale") and rig.of("guidance"):
        raise Conflict(
            f"guidance_rescale contradicts {rig.of('guidance')[0].owner}, which owns guidance; leave one of them out"
        )
    if given.get("latents") is not None:
        _start_latents(guarded, given)
    for defense in guarded.defenses:
        if asked.guidance <= 1 and defending.needs_guidance(defense):
            raise Inapplicable(
                f"{type(defense).name} acts through classifier-free guidance and has no effect at guidance_scale "
                f"{given['guidance_scale']:g}"
            )


def _start_latents(guarded: Caller, given: Mapping[str, Any]) -> None:
    """Start latents that hold a picture are refused where no guard looks at pictures; noise of the user's own is said
    to go unseen, once a guard."""
    if guarded.rig.of("images"):
        return
    who, own = ", ".join(guarded.named), given.get("timesteps") is not None or given.get("sigmas") is not None
    first = float(timesteps_of(guarded.pipe, given)[0])
    least = (FULL if own else HALF) * int(guarded.pipe.scheduler.config.num_train_timesteps)
    if first < least:
        raise Unguarded(
            f"latents that sampling starts from at timestep {first:g} hold a picture, and none of {who} looks at "
            f"pictures; {LOOK}, or start at {least:g} or above"
        )
    if not guarded.told_of_latents:
        guarded.told_of_latents = True
        warnings.warn(f"{who}: no guard looks at start latents; {LOOK}", UnguardedInput, stacklevel=5)


def timesteps_of(pipe: Any, given: Mapping[str, Any]) -> Tensor:
    """(steps,) the timesteps that a call will go through, as the pipeline itself works them out."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import retrieve_timesteps

    device = pipe._execution_device
    steps, timesteps, sigmas = given["num_inference_steps"], given.get("timesteps"), given.get("sigmas")
    whole = isinstance(steps, Integral) and not isinstance(steps, bool)
    if timesteps is None and sigmas is None and (not whole or int(steps) < 1):
        raise BadInput(f"num_inference_steps is {steps!r}; give a whole number of at least 1")
    found, steps = retrieve_timesteps(pipe.scheduler, steps, device, timesteps, sigmas)
    if "strength" in given:
        strength = given["strength"]
        if isinstance(strength, bool) or not isinstance(strength, Real) or not 0 <= float(strength) <= 1:
            raise BadInput(f"strength is {strength!r}; give a number from 0 to 1")
        found, _ = pipe.get_timesteps(steps, strength, device)
    if not len(found):
        raise BadInput(f"strength {given.get('strength')} of {steps} steps leaves no step to take; raise either")
    steps_taken: Tensor = found
    return steps_taken


def last_looks(guarded: Caller, given: Mapping[str, Any]) -> dict[str, int]:
    """Name -> last step at which a defense looks, where it says so."""
    steps = len(timesteps_of(guarded.pipe, given))
    looks = {name: defending.last_look(d, steps) for name, d in guarded.named.items()}
    return {name: step for name, step in looks.items() if step is not None}


def job_of(guarded: Caller, asked: Asked, observe: bool) -> Job:
    """The call for the batch engine: the user's own arguments, without what the engine gives itself."""
    given, steps = asked.given, asked.given["num_inference_steps"]
    mine = given["callback_on_step_end"]
    wanted = getattr(mine, "tensor_inputs", None) or given["callback_on_step_end_tensor_inputs"] or []
    dropped = {*TAKEN, *(k for k in ("callback", "callback_steps") if given[k] is None)}
    arguments = {k: v for k, v in given.items() if k in asked.named and k not in dropped}
    if isinstance(steps, Integral) and "num_inference_steps" in arguments:
        arguments["num_inference_steps"] = int(steps)
    return Job(
        prompts=asked.row_texts(),
        bad=asked.bad_rows,
        timesteps=timesteps_of(guarded.pipe, given),
        guidance=asked.guidance,
        arguments=arguments,
        copies=asked.copies,
        states=(given["prompt_embeds"], given["negative_prompt_embeds"]),
        callback=mine,
        wanted=tuple(wanted),
        output=given["output_type"],
        observe=observe,
        last_looks=last_looks(guarded, asked.given) if observe else {},
    )
