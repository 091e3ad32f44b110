"""A stock pipeline called under guards: its signature, its random numbers, its scheduler; refused rows instead of black
pictures.

``Guarded`` binds the arguments as the pipeline itself would, encodes the texts under the text guards, and lets the
pipeline's own ``__call__`` sample from the user's generators with the guards stepping in through the rig. Without
defenses the output is the pipeline's, bit for bit.

Fail closed: a guard that raises, returns a score that is not a number, takes longer than ``timeout`` or was never
called refuses the rows it should have guarded; so do an interrupted loop and latents that are not finite."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from genward.core import defending
from genward.core.contracts import Defense, Site, Window
from genward.core.records import Call, Frame, Prediction, Prompt, Verdict
from genward.core.spec import Spec, digest
from genward.errors import BadInput, Blocked, Conflict, GenwardError, GuardError, Inapplicable, UnknownName
from genward.models.rig import LiveRig, PortError, Run
from genward.serve.audit import Audit
from genward.serve.prompts import checked_negatives, checked_prompts

if TYPE_CHECKING:
    from genward.models.sd import StableDiffusion
    from genward.serve.policy import Policy

OUTPUTS = ("pil", "np", "pt", "latent")
LOOP = ("tap", "inputs", "guidance", "latents")
"""Ports inside the sampling loop."""
RANK = {"flagged": 1, "steered": 2, "blocked": 3}


class RowVerdict(NamedTuple):
    """What became of one row, and the one decision that counts most (blocked, then steered, then flagged)."""

    action: str
    """``released`` | ``flagged`` | ``steered`` | ``blocked``; there is a picture unless it is ``blocked``"""
    by: str = ""
    stage: str = ""
    """``text`` | ``denoise`` | ``decode``"""
    step: int = -1
    score: float | None = None
    threshold: float | None = None
    category: str = ""
    why: str = ""
    tokens: tuple[tuple[str, float], ...] = ()
    failed: bool = False
    """Whether the row is blocked because a guard did not do its work, not because of what it found"""
    nfe: int = 0
    """Denoiser rows spent"""
    notes: Mapping[str, list[float]] = {}
    """What guards measured: signal -> numbers, one a call"""
    every: tuple[Verdict, ...] = ()
    """All that defenses said about the row, in order"""


@dataclass
class GuardedOutput:
    """What a guarded call returns; reads like the stock pipeline's output."""

    images: Any
    """PIL: one a row, ``None`` where it was blocked. Arrays and latents: the released rows alone, see ``index``."""
    nsfw_content_detected: list[bool] | None
    """One a row; ``None`` where nothing is attached that could tell."""
    verdicts: list[RowVerdict]
    index: list[int]
    """Rows that were released; row ``i`` of an array is row ``index[i]`` of the call."""
    seconds: float = 0.0

    def to_tuple(self) -> tuple[Any, list[bool] | None]:
        return self.images, self.nsfw_content_detected

    def __getitem__(self, key: Any) -> Any:
        return getattr(self, key) if isinstance(key, str) else self.to_tuple()[key]


@dataclass(frozen=True)
class Rule:
    """What a policy says about one attached defense."""

    category: str = ""
    actions: Mapping[str, str] = field(default_factory=dict)
    """Category -> action"""

    def flags(self, category: str) -> bool:
        """Whether what the defense would block is only flagged."""
        actions = [self.actions[category]] if category in self.actions else list(self.actions.values())
        return bool(actions) and all(a == "flag" for a in actions)


class GuardRig(LiveRig):
    """A rig that knows the policy: it turns blocks into flags where the policy says so, watches the clock, and believes
    no score that is not a number."""

    def __init__(self, model: StableDiffusion, timeout: float | None = None) -> None:
        super().__init__(model)
        self.timeout = timeout
        self.rule = Rule()
        self.failed: set[int] = set()

    def _add(self, kind: str, fn: Callable[..., Any], during: Window = (0.0, 1.0), site: Site | None = None) -> None:
        rule, owner = self.rule, self._owner

        def acting(*args: Any) -> Any:
            self.rule = rule
            try:
                return fn(*args) if self.timeout is None else timed(self, fn, args, self.timeout, owner, kind)
            except (GuardError, Conflict, Inapplicable):
                raise
            except GenwardError as error:  # in a service it is the guard's failure, whatever it complains about
                raise PortError(owner, kind, error) from error

        super()._add(kind, acting, during, site)

    def begin(self, run: Run) -> None:
        self.refuse_left()
        super().begin(run)
        self.failed = set()

    def verify(self) -> None:
        super().verify()
        self.refuse_left()

    def _heard(self, what: str) -> None:
        if threading.current_thread() in self.left:
            raise GuardError(f"rig.{what}: this guard took too long and its rows are refused already")

    def predict(self, call: Call, *, weights: str = "live", read: Sequence[str] = ()) -> Prediction:
        self._heard("predict")
        return super().predict(call, weights=weights, read=read)

    def _running(self, what: str) -> Run:
        self._heard(what)
        return super()._running(what)

    @contextmanager
    def _untapped(self) -> Iterator[None]:
        self._heard("predict")
        with super()._untapped():
            yield

    def refuse(self, cases: Sequence[int], by: str, stage: str, step: int, why: str, *, failed: bool = True) -> None:
        """End cases for a reason that is no defense's decision."""
        run = self._running("refuse")
        for case in cases:
            if bool(run.alive[case]):
                run.alive[case] = False
                run.why.setdefault(case, f"{by}: {why}")
                run.verdicts.setdefault(case, []).append(Verdict("blocked", by, stage, step, why=why))
                if failed:
                    self.failed.add(case)

    def block(
        self,
        frame: Frame,
        rows: Tensor,
        why: str,
        *,
        score: Tensor | None = None,
        threshold: float | None = None,
        category: str | Sequence[str] = "",
        tokens: Sequence[Sequence[tuple[str, float]]] | None = None,
    ) -> None:
        """As ``LiveRig.block``, after the policy: rows of a category that is only flagged go on."""
        self._running("block")
        index = self._rows(frame, rows)
        names = [category] * len(frame.case) if isinstance(category, str) else list(category)
        names = [name or self.rule.category for name in names]
        numbers = None if score is None else score.detach().float().flatten().cpu()
        flagged = [
            r for r in index if self.rule.flags(names[r]) and (numbers is None or bool(torch.isfinite(numbers[r])))
        ]
        blocked = [r for r in index if r not in flagged]
        if flagged:
            self.flag(
                frame, torch.tensor(flagged), why, score=score, threshold=threshold, category=names, tokens=tokens
            )
        if blocked:
            super().block(
                frame, torch.tensor(blocked), why, score=score, threshold=threshold, category=names, tokens=tokens
            )
        if numbers is not None:
            self.failed |= {int(frame.case[r]) for r in blocked if not bool(torch.isfinite(numbers[r]))}

    def note(self, frame: Frame, **signals: Tensor) -> None:
        """As ``LiveRig.note``; a row whose ``….score`` is not a number is refused."""
        self._running("note")
        super().note(frame, **signals)
        for name, value in signals.items():
            if name.endswith(".score") or name == self._speaker().partition(":")[0]:
                broken = ~torch.isfinite(value.detach().float().flatten().cpu()) & frame.conditional.cpu()
                self.refuse(
                    sorted(set(frame.case.cpu()[broken].tolist())),
                    self._speaker(),
                    frame.stage,
                    frame.step,
                    f"{name} is not a number",
                )


def ruled(defense: Defense, rule: Rule, name: str) -> Any:
    """A defense that tells the rig which rule is its own before it attaches itself."""

    class Ruled:
        def attach(self, rig: GuardRig) -> None:
            rig.rule = rule
            defense.attach(rig)

    Ruled.name = name  # type: ignore[attr-defined]
    return Ruled()


def timed(rig: GuardRig, fn: Callable[..., Any], args: tuple[Any, ...], seconds: float, owner: str, kind: str) -> Any:
    """``fn(*args)`` in a thread that is waited for so long and then left to itself.

    Raises:
        PortError: it took longer. What ``fn`` raises is raised here.
    """
    out: dict[str, Any] = {}
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def work() -> None:
        try:
            with torch.inference_mode(inference), torch.set_grad_enabled(grad and not inference):
                out["value"] = fn(*args)
        except BaseException as error:
            out["error"] = error

    thread = threading.Thread(target=work, name=owner, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        rig.left.add(thread)
        raise PortError(owner, kind, TimeoutError(f"it took longer than {seconds:g} s"))
    if "error" in out:
        raise out["error"]
    return out["value"]


# ------------------------------------------------------------------------------------------------------------- the call


@dataclass(frozen=True)
class Asked:
    """One call, read and checked."""

    given: dict[str, Any]
    """The pipeline's own arguments, defaults filled in"""
    prompts: list[str]
    """Empty where embeddings were given in their place"""
    negatives: list[str]
    count: int
    """Prompts"""
    copies: int
    """Pictures a prompt"""
    guidance: float
    """Scale of classifier-free guidance, 1 where there is none"""

    @property
    def rows(self) -> int:
        return self.count * self.copies

    def row_texts(self) -> list[Prompt]:
        """One (prompt, negative) a row, in the pipeline's order: all pictures of a prompt side by side."""
        pairs = zip(self.prompts or [""] * self.count, self.negatives, strict=True)
        return [Prompt(p, n) for p, n in pairs for _ in range(self.copies)]


class Guarded:
    """A guarded pipeline: call it as the pipeline itself. Made by ``genward.protect``; works until that closes.

    Attributes:
        pipe: the user's pipeline. model: the same as a genward model. policy: what is guarded.
        defenses: attached, in order of application. named: the same by the names that verdicts use. last: the output of
            the latest call.
    """

    def __init__(
        self, model: StableDiffusion, policy: Policy, named: Mapping[str, Defense], rig: GuardRig, audit: Audit | None
    ) -> None:
        self.model, self.policy, self.named, self.rig, self.audit = model, policy, dict(named), rig, audit
        self.defenses = tuple(self.named.values())
        self.last: GuardedOutput | None = None
        self._lock = threading.Lock()
        self._signature = inspect.signature(type(model.pipe).__call__)

    @property
    def pipe(self) -> Any:
        return self.model.pipe

    @property
    def hash(self) -> str:
        """Identity of what guards: policy, model and defenses in order; audit records carry it."""
        chain = [Spec.of("defense", d).to_json() for d in self.defenses]
        return digest({"policy": self.policy.hash, "model": self.model.spec.to_json(), "defenses": chain})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Generate under guard. Arguments are the pipeline's own (``prompt``, ``generator``, ``callback_on_step_end``,
        …).

        Returns:
            A ``GuardedOutput``; with ``return_dict=False`` the pair (images, nsfw_content_detected), and ``last`` holds
            the rest.

        Raises:
            UnknownName: an argument that the pipeline does not have. BadInput: prompts, sizes, generators or latents
                that cannot be used or do not match.
            Conflict, Inapplicable: the arguments contradict a guard. StoreError: the audit record could not be written.
            GuardError: the guard is closed.
        """
        with self._lock:
            output, whole = self._guarded(args, kwargs, observe=False)
        return output if whole else output.to_tuple()

    def observe(self, *args: Any, **kwargs: Any) -> GuardedOutput:
        """A call for its measurements: it stops sampling when no guard looks any more, returns no pictures and writes
        no audit record."""
        with self._lock:
            return self._guarded(args, kwargs, observe=True)[0]

    def _guarded(self, args: tuple[Any, ...], kwargs: dict[str, Any], observe: bool) -> tuple[GuardedOutput, bool]:
        """The output, and whether it was asked for whole (``return_dict``)."""
        if self.model.open_rig is not self.rig:
            raise GuardError(
                "this guard is closed; call it inside its with block: with genward.protect(pipe) as guarded: ..."
            )
        began = time.perf_counter()
        asked = read_call(self, args, kwargs)
        steps = timesteps_of(self.pipe, asked.given)
        run = Run(asked.rows, len(steps), asked.guidance, self.model.device)
        texts = asked.row_texts()
        try:
            self.rig.begin(run)
            released = _Call(self, asked, run, steps, observe).released()
            kind = asked.given["output_type"]
            output = collect(self.rig, run, kind, released, bool(self.defenses) or (self._checker and kind != "latent"))
        finally:
            self.rig.run = self.rig.now = None
            with suppress(AttributeError):
                self.pipe.maybe_free_model_hooks()
        output.seconds = time.perf_counter() - began
        if self.audit is not None and not observe:
            self.audit.write(self._records(output, texts))
        self.last = output
        return output, bool(asked.given["return_dict"])

    @property
    def _checker(self) -> bool:
        return getattr(self.pipe, "safety_checker", None) is not None

    def _records(self, output: GuardedOutput, texts: Sequence[Prompt]) -> list[dict[str, Any]]:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        known = {"time": stamp, "guard": self.hash, "policy": self.policy.name}
        keys = ("action", "by", "stage", "step", "score", "threshold", "category", "failed", "nfe", "why")
        out = []
        for row, (verdict, text) in enumerate(zip(output.verdicts, texts, strict=True)):
            record = {key: getattr(verdict, key) for key in keys}
            for key in ("score", "threshold"):
                record[key] = None if record[key] is None or not np.isfinite(record[key]) else record[key]
            out.append(
                {
                    **known,
                    "row": row,
                    "prompt": text.text,
                    "negative": text.negative,
                    **record,
                    "tokens": verdict.tokens,
                }
            )
        return out


def read_call(guarded: Guarded, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Asked:
    """Bind and check a call's arguments; see ``Guarded.__call__`` for what is raised."""
    pipe, signature = guarded.pipe, guarded._signature
    known = {
        n for n, p in signature.parameters.items() if p.kind is not inspect.Parameter.VAR_KEYWORD and n != "self"
    } | {"callback", "callback_steps"}
    for key in kwargs:
        if key not in known:
            raise UnknownName(f"argument of {type(pipe).__name__}", key, known)
    try:
        bound = signature.bind(pipe, *args, **kwargs)
    except TypeError as error:
        raise BadInput(f"{type(pipe).__name__}: {error}") from error
    bound.apply_defaults()
    given = {**bound.arguments, **bound.arguments.get("kwargs", {})}
    given = {k: v for k, v in given.items() if k not in ("self", "kwargs")}
    if given["output_type"] not in OUTPUTS:
        raise UnknownName("output_type", str(given["output_type"]), OUTPUTS)
    copies = given["num_images_per_prompt"]
    if isinstance(copies, bool) or not isinstance(copies, int) or copies < 1:
        raise BadInput(f"num_images_per_prompt is {copies!r}; give a whole number of at least 1")
    scale = given["guidance_scale"]
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not np.isfinite(scale):
        raise BadInput(f"guidance_scale is {scale!r}; give a finite number")
    distilled = pipe.unet.config.time_cond_proj_dim is not None
    guidance = float(scale) if scale > 1 and not distilled else 1.0
    prompts, negatives, count = _texts(guarded, given)
    asked = Asked(given, prompts, negatives, count, copies, guidance)
    _matching(pipe, asked)
    if guarded.defenses:
        _guardable(guarded, asked, distilled)
    return asked


def _texts(guarded: Guarded, given: dict[str, Any]) -> tuple[list[str], list[str], int]:
    """Prompts, negatives and their number."""
    embeds, negative_embeds = given["prompt_embeds"], given["negative_prompt_embeds"]
    if embeds is None:
        prompts = checked_prompts(given["prompt"])
        count = len(prompts)
    else:
        if given["prompt"] is not None:
            raise BadInput("prompt and prompt_embeds are both given; give one of them")
        if not torch.is_tensor(embeds) or embeds.ndim != 3:
            raise BadInput("prompt_embeds is no tensor of (prompts, tokens, width)")
        prompts, count = [], len(embeds)
    readers = sorted({p.owner for p in guarded.rig.of("prompts") + guarded.rig.of("text")})
    if readers and (embeds is not None or negative_embeds is not None):
        what = "prompt_embeds" if embeds is not None else "negative_prompt_embeds"
        raise Conflict(
            f"{what}: {', '.join(readers)} reads the text, and embeddings have none; give the prompt, or leave that "
            "guard out"
        )
    if negative_embeds is not None and given["negative_prompt"] is not None:
        raise BadInput("negative_prompt and negative_prompt_embeds are both given; give one of them")
    return prompts, checked_negatives(given["negative_prompt"], count), count


def _matching(pipe: Any, asked: Asked) -> None:
    """Generators, latents and start pictures fit the number of rows."""
    given, rows = asked.given, asked.rows
    generator = given["generator"]
    if isinstance(generator, list | tuple):
        if len(generator) != rows:
            raise BadInput(
                f"{len(generator)} generators for {rows} pictures ({asked.count} prompts × {asked.copies}); give one, "
                "or one a picture"
            )
        given["generator"] = generator = list(generator)
    for one in generator if isinstance(generator, list) else [generator]:
        if one is not None and not isinstance(one, torch.Generator):
            raise BadInput(f"generator is {type(one).__name__}; give a torch.Generator, or a list with one a picture")
    latents = given.get("latents")
    if latents is not None:
        edge = (
            pipe.unet.config.sample_size * pipe.vae_scale_factor
            if isinstance(pipe.unet.config.sample_size, int)
            else None
        )
        height, width = ((given.get(k) or edge) for k in ("height", "width"))
        wanted = (
            rows,
            pipe.unet.config.in_channels,
            *(None if x is None else x // pipe.vae_scale_factor for x in (height, width)),
        )
        if (
            not torch.is_tensor(latents)
            or latents.ndim != 4
            or any(w is not None and w != x for w, x in zip(wanted, latents.shape, strict=True))
        ):
            found = tuple(latents.shape) if torch.is_tensor(latents) else type(latents).__name__
            raise BadInput(f"latents are {found}; this call wants {wanted}, one row a picture")
    image = given.get("image")
    pictures = len(image) if isinstance(image, list) or getattr(image, "ndim", 0) == 4 else 1  # type: ignore[arg-type]
    if "image" in given:
        if image is None:
            raise BadInput("image is missing; this pipeline starts from a picture")
        if pictures > asked.count or asked.count % pictures:
            raise BadInput(f"{pictures} pictures for {asked.count} prompts; give one, or one a prompt")


def _guardable(guarded: Guarded, asked: Asked, distilled: bool) -> None:
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
    for defense in guarded.defenses:
        if asked.guidance <= 1 and defending.needs_guidance(defense):
            raise Inapplicable(
                f"{type(defense).name} acts through classifier-free guidance and has no effect at guidance_scale "
                f"{given['guidance_scale']:g}"
            )


def timesteps_of(pipe: Any, given: Mapping[str, Any]) -> Tensor:
    """(steps,) the timesteps that a call will go through, as the pipeline itself works them out."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import retrieve_timesteps

    device = pipe._execution_device
    steps, timesteps, sigmas = given["num_inference_steps"], given["timesteps"], given["sigmas"]
    if timesteps is None and sigmas is None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise BadInput(f"num_inference_steps is {steps!r}; give a whole number of at least 1")
    found, steps = retrieve_timesteps(pipe.scheduler, steps, device, timesteps, sigmas)
    if "strength" in given:
        strength = given["strength"]
        if not isinstance(strength, int | float) or not 0 <= strength <= 1:
            raise BadInput(f"strength is {strength!r}; give a number from 0 to 1")
        found, _ = pipe.get_timesteps(steps, strength, device)
    if not len(found):
        raise BadInput(f"strength {given.get('strength')} of {steps} steps leaves no step to take; raise either")
    steps_taken: Tensor = found
    return steps_taken


@dataclass(frozen=True)
class Released:
    """Rows that came through, and what they are."""

    index: list[int]
    data: Any
    """PIL pictures, an array, or a tensor: one a released row"""


class _Call:
    """One call on its way through the pipeline."""

    def __init__(self, guarded: Guarded, asked: Asked, run: Run, timesteps: Tensor, observe: bool) -> None:
        self.guarded, self.asked, self.run, self.timesteps, self.observe = guarded, asked, run, timesteps, observe
        self.pipe, self.rig, self.model = guarded.pipe, guarded.rig, guarded.model
        self.seen = -1
        """Last step that was finished"""
        self.stopped = False
        """Whether sampling was ended on purpose, in ``observe``"""

    def released(self) -> Released:
        """Run the call; whatever a guard fails to do refuses the rows that are still alive."""
        given = self.asked.given
        try:
            with torch.no_grad():
                embeds = self.texts()
                if not self.run.alive.any():
                    raise Blocked("every row was refused")
                if self.observe and not self.due(0):
                    raise Blocked("no guard looks any further")
                latents = self.sample(*embeds)
                released = self.finish(latents)
            if not self.stopped:
                self.rig.verify()
            keep = [k for k, row in enumerate(released.index) if bool(self.run.alive[row])]
            return Released([released.index[k] for k in keep], _pick(released.data, keep))
        except Blocked:
            pass
        except GuardError as error:
            self.fail(error)
        return Released([], _nothing(self.pipe, given))

    def fail(self, error: GuardError) -> None:
        """Refuse every row that is left because a guard did not do its work."""
        frame = self.rig.now
        first = str(error).partition(":")[0]
        owner = getattr(error, "owner", "") or (first if first in {p.owner for p in self.rig.ports} else "genward")
        stage, step = (
            (frame.stage, frame.step)
            if frame is not None
            else ("text" if self.seen < 0 and self.rig.calls == 0 else "denoise", self.seen)
        )
        self.rig.refuse(range(self.asked.rows), owner, stage, step, str(error).removeprefix(f"{owner}: "))

    # --------------------------------------------------------------------------------------------------------- the text

    def texts(self) -> tuple[Tensor, Tensor | None]:
        """(rows, t, c) states of the prompts, and of the negatives under guidance; encoded as the stock call does where
        no guard reads them."""
        asked, given = self.asked, self.asked.given
        prompts = self.rig.prompt_stage(asked.row_texts()) if asked.prompts else asked.row_texts()
        if self.rig.of("text"):
            with self.rig.text_stage("prompt", [p.text for p in prompts]):
                positive = self.encode([p.text for p in prompts], 1, given["clip_skip"])
            if not self.run.doubled:
                return positive, None
            with self.rig.text_stage("negative", [p.negative for p in prompts]):
                return positive, self.encode([p.negative for p in prompts], 1)
        positive = given["prompt_embeds"]
        if positive is None:
            positive = self.each([p.text for p in prompts], given["clip_skip"])
        else:
            positive = positive.to(self.model.device, self.model.text_encoder.dtype).repeat_interleave(asked.copies, 0)
        if not self.run.doubled:
            return positive, None
        negative = given["negative_prompt_embeds"]
        if negative is None:
            return positive, self.each([p.negative for p in prompts])
        if negative.shape != (len(positive) // asked.copies, *positive.shape[1:]):
            raise BadInput(
                f"negative_prompt_embeds are {tuple(negative.shape)}; give one of the prompts' shape a prompt"
            )
        return positive, negative.to(positive.device, positive.dtype).repeat_interleave(asked.copies, 0)

    def each(self, texts: list[str], clip_skip: int | None = None) -> Tensor:
        """States of the rows' texts; pictures of one prompt share one encoding, as in the stock call, unless a guard
        told them apart."""
        copies = self.asked.copies
        groups = [texts[k : k + copies] for k in range(0, len(texts), copies)]
        if all(len(set(group)) == 1 for group in groups):
            return self.encode([group[0] for group in groups], copies, clip_skip)
        return self.encode(texts, 1, clip_skip)

    def encode(self, texts: list[str], copies: int, clip_skip: int | None = None) -> Tensor:
        scale = (self.asked.given.get("cross_attention_kwargs") or {}).get("scale")
        states: Tensor = self.pipe.encode_prompt(
            texts, self.model.device, copies, False, clip_skip=clip_skip, lora_scale=scale
        )[0]
        return states

    # --------------------------------------------------------------------------------------------------------- the loop

    def sample(self, positive: Tensor, negative: Tensor | None) -> Tensor:
        """Final latents (rows, c, h, w) by the pipeline's own ``__call__``."""
        arguments = {
            k: v for k, v in self.asked.given.items() if v is not None or k not in ("callback", "callback_steps")
        }
        mine = arguments["callback_on_step_end"]
        wanted = list(getattr(mine, "tensor_inputs", None) or arguments["callback_on_step_end_tensor_inputs"] or [])
        arguments |= {
            "prompt": None,
            "negative_prompt": None,
            "prompt_embeds": positive,
            "negative_prompt_embeds": negative,
            "num_images_per_prompt": 1,
            "output_type": "latent",
            "return_dict": True,
            "callback_on_step_end": self.after_step(mine, wanted),
            "callback_on_step_end_tensor_inputs": list(dict.fromkeys([*wanted, "latents"])),
        }
        with self.first_latents():
            final: Tensor = self.pipe(**arguments).images
        if (
            self.guarded.defenses
            and not self.stopped
            and self.seen + 1 < self.run.steps
            and any(self.rig.of(kind) for kind in LOOP)
        ):
            why = f"sampling was interrupted after step {self.seen}, so the guards did not see all of it"
            self.rig.refuse(range(self.asked.rows), "genward", "denoise", self.seen, why)
        return final

    def after_step(self, mine: Callable[..., Any] | None, wanted: Sequence[str]) -> Callable[..., Any]:
        """The user's callback, then the guards' turn before the next step."""

        def call(pipe: Any, i: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
            self.seen = i
            out = dict((mine(pipe, i, t, {k: kwargs[k] for k in wanted}) if mine is not None else None) or {})
            if {"prompt_embeds", "negative_prompt_embeds"} & set(out) and (
                self.rig.of("prompts") or self.rig.of("text")
            ):
                raise Conflict(
                    "callback_on_step_end changes the text states after the text guards have read them; leave them "
                    "alone"
                )
            if self.run.doubled and pipe.guidance_scale > 1:
                self.run.guidance = float(pipe.guidance_scale)
            if i + 1 < self.run.steps:
                latents = out.get("latents", kwargs["latents"])
                out["latents"] = self.rig.latents_stage(latents, i + 1, self.timesteps[i + 1])
                if self.observe and not self.due(i + 1):
                    self.stopped, pipe._interrupt = True, True
            return out

        return call

    def due(self, step: int) -> bool:
        """Whether a guard still looks at this step or a later one, by its ports' windows and its own word
        (``last_look``)."""
        if self.rig.of("images"):
            return True
        looks = {name: defending.last_look(d, self.run.steps) for name, d in self.guarded.named.items()}
        said = {name: step for name, step in looks.items() if step is not None}
        left = range(step, self.run.steps)
        return any(
            p.kind in LOOP and p.active(k, self.run.steps) and k <= said.get(p.owner, k)
            for p in self.rig.ports
            for k in left
        )

    @contextmanager
    def first_latents(self) -> Iterator[None]:
        """The guards' turn before the first step: the latents as the pipeline prepares them, its random numbers
        included."""
        if not self.rig.of("latents"):
            yield
            return
        stock, before = self.pipe.prepare_latents, vars(self.pipe).get("prepare_latents")

        def prepare(*args: Any, **kwargs: Any) -> Tensor:
            return self.rig.latents_stage(stock(*args, **kwargs), 0, self.timesteps[0])

        self.pipe.prepare_latents = prepare
        try:
            yield
        finally:
            del self.pipe.prepare_latents
            if before is not None:
                self.pipe.prepare_latents = before

    # ------------------------------------------------------------------------------------------------------ the picture

    def finish(self, latents: Tensor) -> Released:
        """Decode the survivors and let the picture guards and the pipeline's own checker look at them."""
        run, kind = self.run, self.asked.given["output_type"]
        finite = torch.isfinite(latents).flatten(1).all(1).cpu()
        broken = (run.alive & ~finite).nonzero().flatten().tolist()
        self.rig.refuse(
            broken,
            "genward",
            "decode",
            run.steps,
            "the final latents are not finite; lower the guidance or a defense's strength",
        )
        index: list[int] = run.alive.nonzero().flatten().tolist()
        if not index or (self.observe and not self.rig.of("images")):
            return Released([], _nothing(self.pipe, self.asked.given))
        whole = len(index) == len(latents)
        latents = latents if whole else latents[torch.tensor(index, device=latents.device)]
        looked_at = bool(self.rig.of("images")) or (self.guarded._checker and bool(self.guarded.defenses))
        if kind == "latent" and not looked_at:
            return Released(index, latents)
        generator = self.asked.given["generator"]
        generator = [generator[k] for k in index] if isinstance(generator, list) and not whole else generator
        pixels = self.pipe.vae.decode(
            latents / self.pipe.vae.config.scaling_factor, return_dict=False, generator=generator
        )[0]
        pictures = self.pictures(pixels, index) if looked_at or self.guarded._checker or kind == "pil" else None
        if kind == "latent":
            return Released(index, latents)
        if kind == "pil":
            return Released(index, pictures)
        data = self.pipe.image_processor.postprocess(pixels, output_type=kind, do_denormalize=[True] * len(index))
        return Released(index, data if pictures is None else self.replaced(data, pixels, pictures))

    def pictures(self, pixels: Tensor, index: list[int]) -> list[Any]:
        """PIL pictures after the picture guards; rows that they or the checker refuse are ended in the run."""
        images = list(
            self.pipe.image_processor.postprocess(pixels, output_type="pil", do_denormalize=[True] * len(index))
        )
        images = self.rig.image_stage(images, torch.tensor(index)) if self.rig.of("images") else images
        if self.guarded._checker:
            try:
                self.safety(images, index)
            except Exception as error:
                raise PortError("safety_checker", "images", error) from error
        return images

    def safety(self, images: list[Any], index: list[int]) -> None:
        """The pipeline's own safety checker; diffusers' is decided without its loop."""
        from genward.ops import safety_checker

        checker = self.pipe.safety_checker
        clip = (
            self.pipe.feature_extractor(images, return_tensors="pt")
            .to(self.model.device)
            .pixel_values.to(self.model.text_encoder.dtype)
        )
        if safety_checker.like_diffusers(checker):
            decision = safety_checker.check(checker, clip)
            flags, found = decision.flagged, [float(x) for x in decision.score]
        else:
            arrays = np.stack([np.asarray(i.convert("RGB"), np.float32) / 255 for i in images])
            flags, found = checker(images=arrays, clip_input=clip)[1], []
        for k, case in enumerate(index):
            if flags[k] and bool(self.run.alive[case]):
                self.rig.refuse(
                    [case],
                    "safety_checker",
                    "decode",
                    self.run.steps,
                    "the pipeline's own checker flagged the picture",
                    failed=False,
                )
                if found:
                    self.run.verdicts[case][-1] = self.run.verdicts[case][-1]._replace(score=found[k], threshold=0.0)

    def replaced(self, data: Any, pixels: Tensor, pictures: list[Any]) -> Any:
        """Arrays of the pictures: the decoder's own numbers, or a guard's picture where it gave another one."""
        stock = self.pipe.image_processor.postprocess(pixels, output_type="pil", do_denormalize=[True] * len(pictures))
        for k, (before, after) in enumerate(zip(stock, pictures, strict=True)):
            if before.tobytes() != after.convert("RGB").tobytes():
                array = np.asarray(after.convert("RGB"), np.float32) / 255
                data[k] = torch.from_numpy(array).permute(2, 0, 1).to(data) if torch.is_tensor(data) else array
        return data


def _pick(data: Any, keep: list[int]) -> Any:
    if isinstance(data, list):
        return [data[k] for k in keep]
    return data if len(keep) == len(data) else data[keep]


def _nothing(pipe: Any, given: Mapping[str, Any]) -> Any:
    """No picture, in the form that was asked for."""
    if given["output_type"] == "pil":
        return []
    edge = pipe.unet.config.sample_size if isinstance(pipe.unet.config.sample_size, int) else 1
    height, width = (given.get(k) or edge * pipe.vae_scale_factor for k in ("height", "width"))
    if given["output_type"] == "np":
        return np.zeros((0, height, width, 3), np.float32)
    if given["output_type"] == "pt":
        return torch.zeros((0, 3, height, width))
    return torch.zeros(
        (0, pipe.unet.config.in_channels, height // pipe.vae_scale_factor, width // pipe.vae_scale_factor)
    )


def collect(rig: GuardRig, run: Run, kind: str, released: Released, told: bool) -> GuardedOutput:
    """Put a call's rows together: pictures in their places and one verdict a row."""
    verdicts = [row_verdict(run, case, case in rig.failed) for case in range(run.cases)]
    images = released.data
    if kind == "pil":
        images = [None] * run.cases
        for case, picture in zip(released.index, released.data, strict=True):
            images[case] = picture
    return GuardedOutput(images, [v.action == "blocked" for v in verdicts] if told else None, verdicts, released.index)


def row_verdict(run: Run, case: int, failed: bool) -> RowVerdict:
    """The decision that counts most for a row, with everything that was said about it."""
    said = tuple(run.verdicts.get(case, ()))
    facts: dict[str, Any] = {"nfe": round(float(run.nfe[case])), "notes": run.notes.get(case, {}), "every": said}
    if not bool(run.alive[case]):
        blocking = [v for v in said if v.action == "blocked"]
        by, _, why = run.why.get(case, "refused").partition(": ")
        first = blocking[0] if blocking else Verdict("blocked", by, "", -1, why=why)
    elif not said:
        return RowVerdict("released", **facts)
    else:
        first = max(said, key=lambda v: RANK.get(v.action, 0))  # of equals the first
    tokens = first.tokens or next((v.tokens for v in said if v.defense == first.defense and v.tokens), ())
    return RowVerdict(
        first.action,
        first.defense,
        first.stage,
        first.step,
        first.score,
        first.threshold,
        first.category,
        first.why,
        tokens,
        failed and first.action == "blocked",
        **facts,
    )
