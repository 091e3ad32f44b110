"""The batch engine: rows of a pipeline on their way from texts to pictures, with the guards of an open rig stepping in.

There is one. ``StableDiffusion.generate`` calls it with a seed per row, ``serve`` with the user's own arguments; on
equal rows both get equal pictures, verdicts and failures (``genward.testing.parity_laws``). The pipeline's own
``__call__`` does the sampling; without defenses its output is the stock pipeline's, bit for bit.

Fail closed. Steps are counted from the pipeline's own step callback. A guard that raises, notes a score that is not a
number, or was not called at a step at which it should have been refuses the rows that are left; so do an interrupted
loop, parts of the pipeline that are not those the rig was opened on, edited weights that were changed, and final
latents that are not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from genward.core.records import Prompt
from genward.errors import Blocked, Conflict, GuardError
from genward.models import safety_checker
from genward.models.ports import LOOP, PortError, Run

if TYPE_CHECKING:
    from genward.models.rig import LiveRig

BROKEN = "the final latents are not finite; lower the guidance or a defense's strength"


@dataclass(frozen=True)
class Job:
    """One call of a pipeline, read and checked."""

    prompts: Sequence[Prompt]
    """(prompt, negative) per row, in the pipeline's order: all pictures of a prompt side by side"""
    timesteps: Tensor
    """(steps,) that the call will go through"""
    guidance: float
    """Scale of classifier-free guidance, at most 1 where there is none"""
    arguments: Mapping[str, Any]
    """The pipeline's own, without texts, text states and callbacks"""
    bad: Mapping[int, str] = field(default_factory=dict)
    """Row -> why its prompt, which is empty here, could not be used: it is refused before anything is read"""
    copies: int = 1
    """Pictures per prompt"""
    states: tuple[Tensor | None, Tensor | None] = (None, None)
    """(prompts, t, c) text states given in the place of texts, and of negative texts"""
    callback: Callable[..., Any] | None = None
    """The user's ``callback_on_step_end``"""
    wanted: tuple[str, ...] = ()
    """What it is told"""
    output: str = "pil"
    """``pil`` | ``np`` | ``pt`` | ``latent``"""
    gradients: bool = False
    """Whether the final latents keep their graph"""
    observe: bool = False
    """Stop when no guard looks any more; no pictures"""
    last_looks: Mapping[str, int] = field(default_factory=dict)
    """Owner -> last step at which it looks, where it says so; for ``observe``"""


@dataclass(frozen=True)
class Outcome:
    """What became of a job's rows."""

    run: Run
    index: list[int]
    """Rows that came through"""
    data: Any
    """PIL pictures, an array or a tensor: one per row that came through"""
    latents: Tensor | None = None
    """(rows, c, h, w) final latents of all rows, where the loop ended"""
    failure: GuardError | None = None
    """Why every row that was left was refused, where a guard did not do its work"""


class _Enough(Exception):
    """There is nothing more to do; no guard's word."""


def sample(rig: LiveRig, job: Job) -> Outcome:
    """Run a job through the pipeline under the rig's guards.

    Raises:
        GuardError: a guard that took too long in an earlier call still runs.
        Conflict, Inapplicable, BadInput: a guard or the pipeline says that the call cannot be made as asked.
    """
    run = Run(len(job.prompts), len(job.timesteps), job.guidance, rig.model.device)
    rig.begin(run)
    try:
        return _Batch(rig, job, run).outcome()
    finally:
        rig.end()
        with suppress(AttributeError):
            rig.model.pipe.maybe_free_model_hooks()


class _Batch:
    """One job on its way."""

    def __init__(self, rig: LiveRig, job: Job, run: Run) -> None:
        self.rig, self.job, self.run = rig, job, run
        self.model, self.pipe = rig.model, rig.model.pipe
        self.stopped = False
        """Whether sampling was ended on purpose, in ``observe``"""
        self.latents: Tensor | None = None

    def outcome(self) -> Outcome:
        """Run the job; whatever a guard fails to do refuses the rows that are still alive."""
        failure: GuardError | None = None
        index: list[int] = []
        data: Any = None
        try:
            self.rig.inspect()
            for row, why in self.job.bad.items():
                self.rig.refuse([row], "genward", "text", -1, why, failed=False)
            index, data = self._through()
        except GuardError as error:
            failure = error
            self._fail(error)
        keep = [k for k, row in enumerate(index) if bool(self.run.alive[row])]
        if not keep:
            return Outcome(self.run, [], nothing(self), self.latents, failure)
        return Outcome(self.run, [index[k] for k in keep], _pick(data, keep), self.latents, failure)

    def _through(self) -> tuple[list[int], Any]:
        """(rows that came through, what they are)."""
        found: tuple[list[int], Any] = ([], None)
        try:
            with torch.set_grad_enabled(self.job.gradients):
                states = self._texts()
                self._starts()
                if not self.run.alive.any() or (self.job.observe and not self._due(0)):
                    raise _Enough
                self.latents = self._loop(states)
            with torch.no_grad():
                found = self._finish(self.latents.detach())
        except _Enough:
            pass
        except Blocked as error:
            self._block(error)
        if not (self.stopped or self.job.observe):
            self.rig.verify()
        return found

    def _place(self) -> tuple[str, int]:
        frame = self.rig.now
        if frame is not None:
            return frame.stage, frame.step
        return ("denoise", self.run.seen) if self.run.entered else ("text", -1)

    def _block(self, error: Blocked) -> None:
        """A guard raised ``Blocked``: every row that is left is blocked by it."""
        stage, step = self._place()
        self.rig.refuse(range(self.run.cases), error.owner or "genward", stage, step, str(error), failed=False)

    def _fail(self, error: GuardError) -> None:
        """Refuse every row that is left because a guard did not do its work."""
        first = str(error).partition(":")[0]
        owner = getattr(error, "owner", "") or (first if first in {p.owner for p in self.rig.ports} else "genward")
        self.rig.refuse(range(self.run.cases), owner, *self._place(), str(error).removeprefix(f"{owner}: "))

    # --------------------------------------------------------------------------------------------------------- the text

    def _texts(self) -> tuple[Tensor, Tensor | None]:
        """(rows, t, c) states of the prompts, and of the negatives under guidance; encoded as the stock call does where
        no guard reads them."""
        job, rig = self.job, self.rig
        given, negative = job.states
        prompts = list(job.prompts) if given is not None else rig.prompt_stage(list(job.prompts))
        options = {"clip_skip": job.arguments.get("clip_skip")}
        if rig.of("text"):  # a text tap is told its rows: encode one text per row
            with rig.text_stage("prompt", [p.text for p in prompts]):
                positive = self.model.encode([p.text for p in prompts], **self._scaled(options))
            if not self.run.guided:
                return positive, None
            with rig.text_stage("negative", [p.negative for p in prompts]):
                return positive, self.model.encode([p.negative for p in prompts], **self._scaled({}))
        if given is None:
            positive = self._each([p.text for p in prompts], options)
        else:
            positive = given.to(self.model.device, self.model.text_encoder.dtype).repeat_interleave(job.copies, 0)
        if not self.run.guided:
            return positive, None
        if negative is None and given is not None:
            texts = [p.negative for p in prompts[:: job.copies]]
            return positive, self.model.encode_beside(given, texts, job.copies, **self._scaled(options))
        if negative is None:
            return positive, self._each([p.negative for p in prompts], {})
        return positive, negative.to(positive.device, positive.dtype).repeat_interleave(job.copies, 0)

    def _scaled(self, options: dict[str, Any]) -> dict[str, Any]:
        scale = (self.job.arguments.get("cross_attention_kwargs") or {}).get("scale")
        return options if scale is None else {**options, "lora_scale": scale}

    def _each(self, texts: list[str], options: dict[str, Any]) -> Tensor:
        """States of the rows' texts; pictures of one prompt share one encoding, as in the stock call, unless a guard
        told them apart."""
        copies = self.job.copies
        groups = [texts[k : k + copies] for k in range(0, len(texts), copies)]
        if all(len(set(group)) == 1 for group in groups):
            return self.model.encode([group[0] for group in groups], copies, **self._scaled(options))
        return self.model.encode(texts, **self._scaled(options))

    # ---------------------------------------------------------------------------------------------- the start pictures

    def _starts(self) -> None:
        """Show the pictures that the rows start from to the guards, as the pipeline will read them: resized, one per
        row, those given as latents decoded. A row whose picture is not finite is refused."""
        given, run = self.job.arguments.get("image"), self.run
        run.pictured = given is not None
        if given is None or not self.rig.of("starts") or not run.alive.any() or self.job.observe:
            return
        with torch.no_grad():
            pixels = self.pipe.image_processor.preprocess(given)
            if pixels.shape[1] == self.model.latent_shape()[0]:
                pixels = self.model.decode_pixels(pixels.to(self.model.device, self.model.dtype))
            finite = torch.isfinite(pixels).flatten(1).all(1).tolist()
        lost = [row for row in range(run.cases) if not finite[row % len(pixels)]]
        self.rig.refuse(lost, "genward", "start", -1, "its start picture holds numbers that are not finite")
        index = run.alive.nonzero().flatten()
        pictures = self._pil(pixels.nan_to_num())
        if len(index):
            self.rig.start_stage([pictures[row % len(pictures)] for row in index.tolist()], index)

    # --------------------------------------------------------------------------------------------------------- the loop

    def _loop(self, states: tuple[Tensor, Tensor | None]) -> Tensor:
        """Final latents (rows, c, h, w) by the pipeline's own ``__call__``."""
        job, run = self.job, self.run
        arguments = {
            **job.arguments,
            **self.model.text_arguments(states),
            "output_type": "latent",
            "return_dict": True,
            "callback_on_step_end": self._after_step,
            "callback_on_step_end_tensor_inputs": list(dict.fromkeys([*job.wanted, "latents"])),
        }
        call: Any = type(self.pipe).__call__
        if job.gradients:  # __call__ is under no_grad, whatever the caller's mode
            call = getattr(call, "__wrapped__", call)
        run.step, run.entered = 0, True
        with self._first_latents():
            final: Tensor = call(self.pipe, **arguments).images
        unseen = run.seen + 1 < run.steps and any(self.rig.of(kind) for kind in LOOP)
        if unseen and not self.stopped:
            why = (
                f"sampling was interrupted after step {run.seen}, so the guards did not see all of it"
                if run.seen >= 0
                else "the pipeline never said that a step was finished, so nobody knows what the guards saw"
            )
            self.rig.refuse(range(run.cases), "genward", "denoise", run.seen, why)
        return final

    def _after_step(self, pipe: Any, i: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The user's callback, then the guards' turn before the next step."""
        job, run, rig = self.job, self.run, self.rig
        told = {k: kwargs[k] for k in job.wanted}
        given = job.callback(pipe, i, t, told) if job.callback is not None else None
        out = dict(given or {})
        if given is told:  # handed back as it was given: what is still the same object is no change
            out = {k: v for k, v in out.items() if v is not kwargs.get(k)}
        if rig.of("prompts") or rig.of("text"):
            self._same_states(out, kwargs)
        if not self.model.distilled:  # a callback may have switched guidance off
            run.guidance = float(pipe.guidance_scale)
        rig.stepped(i)
        run.step = i + 1
        if i + 1 < run.steps:
            latents = out.get("latents", kwargs["latents"])
            out["latents"] = rig.latents_stage(latents, i + 1, self.job.timesteps[i + 1])
            if job.observe and not self._due(i + 1):
                self.stopped, pipe._interrupt = True, True
        return out

    def _same_states(self, out: Mapping[str, Any], kwargs: Mapping[str, Any]) -> None:
        """``Conflict`` where a callback gives other text states than the guards have read; dropping the unconditional
        half is no change."""
        for name in set(out) & set(self.model.state_names):
            new, old = out[name], kwargs.get(name)
            if torch.is_tensor(new) and torch.is_tensor(old) and self.run.cases == len(new) < len(old):
                if torch.equal(new, old[-len(new) :]):
                    continue
            raise Conflict(
                "callback_on_step_end changes the text states after the text guards have read them; leave them alone"
            )

    def _due(self, step: int) -> bool:
        """Whether a guard still looks at this step or a later one, by its ports' windows and its own word
        (``last_look``)."""
        if self.rig.of("images"):
            return True
        said, steps = self.job.last_looks, self.run.steps
        return any(
            p.kind in LOOP and p.active(k, steps) and k <= said.get(p.owner, k)
            for p in self.rig.ports
            for k in range(step, steps)
        )

    @contextmanager
    def _first_latents(self) -> Iterator[None]:
        """The guards' turn before the first step: the latents as the pipeline prepares them, its random numbers
        included."""
        if not self.rig.of("latents"):
            yield
            return
        stock, before = self.pipe.prepare_latents, vars(self.pipe).get("prepare_latents")

        def prepare(*args: Any, **kwargs: Any) -> Tensor:
            return self.rig.latents_stage(stock(*args, **kwargs), 0, self.job.timesteps[0])

        self.pipe.prepare_latents = prepare
        try:
            yield
        finally:
            del self.pipe.prepare_latents
            if before is not None:
                self.pipe.prepare_latents = before

    # ------------------------------------------------------------------------------------------------------ the picture

    def _finish(self, latents: Tensor) -> tuple[list[int], Any]:
        """Decode the survivors and let the picture guards and the pipeline's own checker look at them."""
        run, kind = self.run, self.job.output
        finite = torch.isfinite(latents).flatten(1).all(1).cpu()
        self.rig.refuse((run.alive & ~finite).nonzero().flatten().tolist(), "genward", "decode", run.steps, BROKEN)
        index: list[int] = run.alive.nonzero().flatten().tolist()
        if not index or (self.job.observe and not self.rig.of("images")):
            return [], None
        whole = len(index) == len(latents)
        latents = latents if whole else latents[torch.tensor(index, device=latents.device)]
        looked_at = bool(self.rig.of("images")) or (self._checker and self.rig.guarding)
        if kind == "latent" and not looked_at:
            return index, latents
        generator = self.job.arguments.get("generator")
        generator = [generator[k] for k in index] if isinstance(generator, list) and not whole else generator
        pixels = self.model.decode_pixels(latents, generator)
        pictures = self._pictures(pixels, index) if looked_at or self._checker or kind == "pil" else None
        if kind == "latent":
            return index, latents
        if kind == "pil":
            return index, pictures
        data = self.pipe.image_processor.postprocess(pixels, output_type=kind, do_denormalize=[True] * len(index))
        return index, data if pictures is None else self._replaced(data, pixels, pictures)

    @property
    def _checker(self) -> bool:
        return getattr(self.pipe, "safety_checker", None) is not None

    def _pil(self, pixels: Tensor) -> list[Any]:
        processor = self.pipe.image_processor
        return list(processor.postprocess(pixels, output_type="pil", do_denormalize=[True] * len(pixels)))

    def _pictures(self, pixels: Tensor, index: list[int]) -> list[Any]:
        """PIL pictures after the picture guards; rows that they or the checker refuse are ended in the run."""
        images = self._pil(pixels)
        images = self.rig.image_stage(images, torch.tensor(index)) if self.rig.of("images") else images
        if self._checker:
            try:
                self._safety(images, index)
            except Exception as error:
                raise PortError("safety_checker", "images", error) from error
        return images

    def _safety(self, images: list[Any], index: list[int]) -> None:
        """The pipeline's own safety checker; diffusers' is decided without its loop."""
        checker, run = self.pipe.safety_checker, self.run
        clip = self.pipe.feature_extractor(images, return_tensors="pt").to(self.model.device)
        values = clip.pixel_values.to(self.model.text_encoder.dtype)
        if safety_checker.like_diffusers(checker):
            decision = safety_checker.check(checker, values)
            flags, found = decision.flagged, [float(x) for x in decision.score]
        else:
            arrays = np.stack([np.asarray(i.convert("RGB"), np.float32) / 255 for i in images])
            flags, found = checker(images=arrays, clip_input=values)[1], []
        if len(flags) != len(index):
            raise ValueError(f"it said {len(flags)} things about {len(index)} pictures")
        for k, case in enumerate(index):
            if flags[k] and bool(run.alive[case]):
                why = "the pipeline's own checker flagged the picture"
                self.rig.refuse([case], "safety_checker", "decode", run.steps, why, failed=False)
                if found:
                    run.verdicts[case][-1] = run.verdicts[case][-1]._replace(score=found[k], threshold=0.0)

    def _replaced(self, data: Any, pixels: Tensor, pictures: list[Any]) -> Any:
        """Arrays of the pictures: the decoder's own numbers, or a guard's picture where it gave another one."""
        for k, (before, after) in enumerate(zip(self._pil(pixels), pictures, strict=True)):
            if before.tobytes() != after.convert("RGB").tobytes():
                array = np.asarray(after.convert("RGB"), np.float32) / 255
                data[k] = torch.from_numpy(array).permute(2, 0, 1).to(data) if torch.is_tensor(data) else array
        return data


def _pick(data: Any, keep: list[int]) -> Any:
    if isinstance(data, list):
        return [data[k] for k in keep]
    return data if len(keep) == len(data) else data[keep]


def nothing(batch: _Batch) -> Any:
    """No picture, in the form that was asked for."""
    kind, given = batch.job.output, batch.job.arguments
    if kind == "pil":
        return []
    channels, rows, columns = batch.model.latent_shape(given.get("height") or 0, given.get("width") or 0)
    scale = batch.pipe.vae_scale_factor
    if kind == "np":
        return np.zeros((0, rows * scale, columns * scale, 3), np.float32)
    if kind == "pt":
        return torch.zeros((0, 3, rows * scale, columns * scale))
    return torch.zeros((0, channels, rows, columns))
