"""Stable Diffusion 1.x/2.x family: any stock ``StableDiffusionPipeline``, the lab's included.

The pipeline's own ``__call__`` does the sampling; everything that acts on it goes through ``genward.models.rig``.
"""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from genward.core import defending
from genward.core.contracts import Defense, Site
from genward.core.media import Image
from genward.core.precision import device_of, dtype_of
from genward.core.quiet import quiet_loading
from genward.core.reading import short
from genward.core.records import LATENTS, Call, Case, Prompt, Sample, Sampler, Tokens
from genward.core.settings import DIFFUSION
from genward.core.spec import Spec, file_hash
from genward.errors import BadInput, Blocked, Conflict, GenwardError, Inapplicable, UnknownName
from genward.models.identity import HOW, folder_spec, read_folder, spec_of
from genward.models.rig import LiveRig, PortError, Run, learned_tokens
from genward.models.sites import text_sites, unet_sites

Progress = Callable[[int, int], None]


class StableDiffusion:
    """A stock Stable Diffusion pipeline as a genward model.

    Args:
        pipe: a ``StableDiffusionPipeline`` (or a subclass that keeps its ``__call__``), on its device.
        spec: the model's identity: weights by content hash, dtype.
    """

    family = DIFFUSION.name
    makes: ClassVar[str] = DIFFUSION.makes
    sampler_class: ClassVar[type[Sampler]] = Sampler

    def __init__(self, pipe: Any, spec: Spec) -> None:
        self.pipe, self.spec = pipe, spec
        pipe.set_progress_bar_config(disable=True)
        self.site_table: dict[str, Site] = {**unet_sites(pipe.unet), **text_sites(pipe.text_encoder)}
        self.open_rig: LiveRig | None = None

    # ------------------------------------------------------------------------------------------------------ plain parts

    @property
    def sites(self) -> Mapping[str, Site]:
        return self.site_table

    @property
    def unet(self) -> Any:
        return self.pipe.unet

    @property
    def text_encoder(self) -> Any:
        return self.pipe.text_encoder

    @property
    def device(self) -> torch.device:
        return torch.device(self.pipe._execution_device)

    @property
    def dtype(self) -> torch.dtype:
        kind: torch.dtype = next(self.unet.parameters()).dtype
        return kind

    @property
    def alphas_cumprod(self) -> Tensor:
        """(1000,) float: the schedule's signal levels."""
        alphas: Tensor = self.pipe.scheduler.alphas_cumprod
        return alphas

    def size(self, sampler: Sampler) -> tuple[int, int]:
        """(height, width) in pixels."""
        edge = self.unet.config.sample_size * self.pipe.vae_scale_factor
        return sampler.height or edge, sampler.width or edge

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Text states (n, t, c) exactly as the pipeline makes them for its denoiser; no gradient is kept unless grad
        mode is on."""
        return self._encode(list(texts))

    def _encode(self, texts: list[str]) -> Tensor:
        states: Tensor = self.pipe.encode_prompt(texts, self.device, 1, False)[0]
        return states

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """Token ids, mask and strings (n, t) as the pipeline cuts the texts: padded and truncated to the tokenizer's
        length."""
        tokenizer = self.pipe.tokenizer
        found = tokenizer(
            list(texts),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        return Tokens(found.input_ids, found.attention_mask.bool(), tokenizer.convert_ids_to_tokens)

    def fits(self, text: str) -> bool:
        """Whether the encoder takes a text whole; what is longer than its window, the pipeline cuts."""
        length = self.pipe.tokenizer.model_max_length
        ids = self.pipe.tokenizer(text, truncation=True, max_length=length + 1).input_ids
        return bool(len(ids) <= length)

    @contextmanager
    def learned(self, vectors: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside, token texts like ``<3f9a12b4>`` stand for these (width,) embeddings, with gradient; see
        ``models.rig.learned_tokens``."""
        with learned_tokens(self, vectors):
            yield

    def denoise(self, call: Call) -> Tensor:
        """One denoiser call (rows, c, h, w); hooks of an open rig act unless it is inside ``predict``."""
        extra: dict[str, Any] = {}
        if call.skips is not None:
            extra = {
                "down_block_additional_residuals": call.skips[:-1],
                "mid_block_additional_residual": call.skips[-1],
            }
        noise: Tensor = self.unet(
            call.latents, call.timestep, encoder_hidden_states=call.text, return_dict=False, **extra
        )[0]
        return noise

    def predict(self, call: Call) -> Tensor:
        """The undefended denoiser's prediction (rows, c, h, w); gradients flow to the call's tensors."""
        return self.denoise(call)

    def trainable(self, match: str) -> Any:
        """A detached float32 copy of the U-Net whose parameters matching the pattern require gradients (no others)."""
        unet = copy.deepcopy(self.unet).float()
        found = 0
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_(bool(re.search(match, name)))
            found += parameter.requires_grad
        if not found:
            raise UnknownName("parameter pattern", match, dict(self.unet.named_parameters()))
        return unet

    def decode(self, latents: Tensor) -> list[Any]:
        """Latents (n, c, h, w) -> PIL images."""
        with torch.no_grad():
            pixels = self.pipe.vae.decode(
                latents.to(self.dtype) / self.pipe.vae.config.scaling_factor, return_dict=False
            )[0]
        return list(self.pipe.image_processor.postprocess(pixels.detach(), output_type="pil"))

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Pixels (n, 3, h, w) in [-1, 1] -> scaled latents (n, c, h/f, w/f), posterior mean."""
        with torch.no_grad():
            latents: Tensor = (
                self.pipe.vae.encode(pixels.to(self.device, self.dtype)).latent_dist.mean
                * self.pipe.vae.config.scaling_factor
            )
        return latents

    # ------------------------------------------------------------------------------------------------------- generation

    @contextmanager
    def rig(self, defenses: Sequence[Defense] = ()) -> Iterator[LiveRig]:
        """An open rig with the defenses attached in order; the model is as before when it closes."""
        with LiveRig(self).opened(defenses) as rig:
            yield rig

    def generate(
        self,
        cases: Sequence[Case],
        sampler: Sampler = Sampler(),  # noqa: B008 - frozen
        defenses: Sequence[Defense] = (),
        *,
        keep_latents: bool = False,
        batch: int = 32,
        starts: Mapping[str, Tensor] | None = None,
        vectors: Mapping[str, Tensor] | None = None,
        gradients: bool = False,
        progress: Progress | None = None,
        rig: LiveRig | None = None,
    ) -> list[Sample]:
        """Sample every case; one ``Sample`` a case, in order.

        Each row starts from noise of its own generator seeded with ``case.seed`` (or from ``starts`` under the hash
        that ``case.inputs["latents"]`` names, (c, h, w)), so its neighbors in the batch do not matter. ``vectors`` holds
        the learned embeddings by content hash; ``case.inputs`` names each under its token's text, which is
        ``token_text(hash)`` as the prompt writes it. A row is ``ok`` with a
        picture, ``refused`` by a defense, or ``error``.

        Raises:
            BadInput: a case, a size or a start latent cannot be used.
            Conflict, Inapplicable: the defenses contradict each other, the pipeline or the sampler.
            DefenseInactive: an attached defense was never called; no picture is returned.
        """
        cases = [c.checked() for c in cases]
        self.refuse(sampler, defenses)
        done: list[Sample] = []

        def work(open_rig: LiveRig) -> None:
            for k in range(0, len(cases), batch):
                part = cases[k : k + batch]
                with self.learned(_learned(part, vectors or {})):
                    done.extend(self._batch(open_rig, part, sampler, keep_latents, starts or {}, gradients))
                if progress is not None:
                    progress(len(done), len(cases))

        if rig is not None:
            work(rig)
        else:
            with self.rig(defenses) as opened:
                work(opened)
        return done

    def refuse(self, sampler: Sampler, defenses: Sequence[Defense]) -> None:
        """Raise ``Inapplicable`` for a defense that cannot act under the sampler, ``BadInput`` for a size that the
        model cannot make."""
        for defense in defenses:
            if sampler.guidance <= 1 and defending.needs_guidance(defense):
                raise Inapplicable(
                    f"{type(defense).name} acts through classifier-free guidance and has no effect at guidance "
                    f"{sampler.guidance:g}; "
                    "use guidance above 1 or leave it out"
                )
        height, width = self.size(sampler)
        if height % self.pipe.vae_scale_factor or width % self.pipe.vae_scale_factor:
            raise BadInput(f"{height}×{width} pixels; both edges must be multiples of {self.pipe.vae_scale_factor}")

    def _start(self, case: Case, sampler: Sampler, starts: Mapping[str, Tensor]) -> Tensor:
        height, width = self.size(sampler)
        shape = (
            self.unet.config.in_channels,
            height // self.pipe.vae_scale_factor,
            width // self.pipe.vae_scale_factor,
        )
        name = case.inputs.get(LATENTS)
        if name:
            if name not in starts:
                raise BadInput(f"case {case.id!r}: start latents {name} were not supplied")
            start = starts[name]
            if tuple(start.shape) != shape:
                raise BadInput(
                    f"case {case.id!r}: start latents have shape {tuple(start.shape)}, the model wants {shape}"
                )
            return start.to(self.dtype)
        return torch.randn(shape, generator=torch.Generator().manual_seed(case.seed), dtype=torch.float32).to(
            self.dtype
        )

    def _batch(
        self,
        rig: LiveRig,
        cases: Sequence[Case],
        sampler: Sampler,
        keep: bool,
        starts: Mapping[str, Tensor],
        gradients: bool,
    ) -> list[Sample]:
        began = time.perf_counter()
        self.pipe.scheduler.set_timesteps(sampler.steps)
        run = Run(len(cases), len(self.pipe.scheduler.timesteps), sampler.guidance, self.device)
        rig.begin(run)
        failure = ""
        latents: Tensor | None = None
        pictures: dict[int, Any] = {}
        try:
            latents = self._sample(rig, run, cases, sampler, starts, gradients)
            pictures = self._finish(rig, run, latents)
        except Blocked:
            pass
        except PortError as error:
            failure = str(error)
        if not failure:
            rig.verify()
        seconds = (time.perf_counter() - began) / len(cases)
        out = []
        for k, case in enumerate(cases):
            sample = Sample(
                case, status="ok", notes=run.notes.get(k, {}), seconds=seconds, costs={"nfe": round(float(run.nfe[k]))}
            )
            sample.verdicts = run.verdicts.get(k, [])
            if failure:
                sample.status, sample.why = "error", failure
            elif not run.alive[k]:
                sample.status, sample.why = "refused", run.why.get(k, "refused")
            elif k not in pictures:
                sample.status, sample.why = (
                    "error",
                    "the final latents hold numbers that are not finite; lower the guidance or the defense's strength",
                )
            else:
                sample.output = Image(pictures[k])
                sample.latents = latents[k] if keep and latents is not None else None
            out.append(sample)
        rig.run = None
        return out

    def _texts(self, rig: LiveRig, run: Run, cases: Sequence[Case]) -> tuple[Tensor, Tensor | None]:
        prompts = rig.prompt_stage([Prompt(c.prompt, c.negative) for c in cases])
        with rig.text_stage("prompt", [p.text for p in prompts]):
            positive = self._encode([p.text for p in prompts])
        if not run.doubled:
            return positive, None
        unique = list(dict.fromkeys(p.negative for p in prompts))
        if rig.of("text"):  # a text tap is told its rows: encode one row a case
            with rig.text_stage("negative", [p.negative for p in prompts]):
                return positive, self._encode([p.negative for p in prompts])
        states = self._encode(unique)
        return positive, states[torch.tensor([unique.index(p.negative) for p in prompts], device=states.device)]

    def _sample(
        self,
        rig: LiveRig,
        run: Run,
        cases: Sequence[Case],
        sampler: Sampler,
        starts: Mapping[str, Tensor],
        gradients: bool,
    ) -> Tensor:
        pipe = self.pipe
        if sampler.guidance > 1 and self.unet.config.time_cond_proj_dim is not None:
            raise Conflict(
                "this model takes its guidance as an embedding (a distilled model), so there is no unconditional "
                "branch; use guidance 1"
            )
        with torch.set_grad_enabled(gradients):
            positive, negative = self._texts(rig, run, cases)
            if not run.alive.any():
                raise Blocked("every row was refused")
            latents = torch.stack([self._start(c, sampler, starts) for c in cases]).to(self.device)
            timesteps = pipe.scheduler.timesteps
            scale = pipe.scheduler.init_noise_sigma
            latents = rig.latents_stage(latents * scale, 0, timesteps[0]) / scale if rig.of("latents") else latents

            def after_step(_: Any, i: int, __: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
                if i + 1 < run.steps:
                    return {"latents": rig.latents_stage(kwargs["latents"], i + 1, timesteps[i + 1])}
                return {}

            height, width = self.size(sampler)
            arguments: dict[str, Any] = {
                "prompt_embeds": positive,
                "negative_prompt_embeds": negative,
                "latents": latents,
                "num_inference_steps": sampler.steps,
                "guidance_scale": sampler.guidance,
                "height": height,
                "width": width,
                "eta": sampler.eta,
                "generator": [torch.Generator().manual_seed(c.seed + 2**62) for c in cases],
                "output_type": "latent",
                "callback_on_step_end": after_step,
            }
            stock: Any = type(pipe).__call__
            call = stock.__wrapped__ if gradients else stock  # __call__ is under no_grad, whatever the caller's mode
            final: Tensor = call(pipe, **arguments).images
            return final

    def _finish(self, rig: LiveRig, run: Run, latents: Tensor) -> dict[int, Any]:
        """Decode the survivors, run the image ports and the pipeline's own safety checker on them."""
        finite = torch.isfinite(latents.detach()).flatten(1).all(1).cpu()
        index = (run.alive & finite).nonzero().flatten()
        if not len(index):
            return {}
        images = rig.image_stage(self.decode(latents[index.to(latents.device)]), index)
        if getattr(self.pipe, "safety_checker", None) is not None:
            flagged = self._safety(images)
            for k, bad in enumerate(flagged):
                if bad:
                    case = int(index[k])
                    run.alive[case] = False
                    run.why.setdefault(case, "safety checker: the pipeline's own checker flagged the picture")
        return {int(case): image for case, image in zip(index, images, strict=True)}

    def _safety(self, images: list[Any]) -> list[bool]:
        import numpy as np

        pixels = np.stack([np.asarray(i.convert("RGB"), dtype=np.float32) / 255 for i in images])
        features = self.pipe.feature_extractor(images, return_tensors="pt").to(self.device)
        _, flagged = self.pipe.safety_checker(images=pixels, clip_input=features.pixel_values.to(self.dtype))
        return list(flagged)

    # ----------------------------------------------------------------------------------------------------------- export

    def export(self, folder: str | Path, defenses: Sequence[Defense]) -> Path:
        """Write the pipeline with its edited weights as a stock diffusers folder that loads without genward.

        Raises:
            Conflict: a defense acts through a port that is not a weight edit; nothing is written.
        """
        folder = Path(folder)
        if folder.exists() and any(folder.iterdir()):
            raise BadInput(f"{folder} is not empty; name a new folder")
        with self.rig(defenses) as rig:
            for port in rig.ports:
                raise Conflict(
                    f"{port.owner} acts through its {port.kind} port while sampling and cannot be written into "
                    "weights; serve it with a guard instead"
                )
            self.pipe.save_pretrained(folder, safe_serialization=True)
        card = {"model": self.spec.to_json(), "defenses": [Spec.of("defense", d).to_json() for d in defenses]}
        (folder / "genward.json").write_text(json.dumps(card, indent=1), "utf-8")
        return folder


def token_text(name: str) -> str:
    """How a learned embedding of that content hash is written in a prompt: ``<`` + 12 hex digits + ``>``."""
    return f"<{name[:12]}>"


def _learned(cases: Sequence[Case], vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Token text -> embedding of every learned embedding that the cases name."""
    wanted = [(c.id, text, name) for c in cases for text, name in c.inputs.items() if text != LATENTS]
    missing = [(case, name) for case, _, name in wanted if name not in vectors]
    if missing:
        raise BadInput(f"case {missing[0][0]!r}: learned embedding {missing[0][1]} was not supplied")
    return {text: vectors[name] for _, text, name in wanted}


def load_pipeline(
    source: str, *, device: str | None = None, dtype: str = "float32", download: bool = False, variant: str = ""
) -> StableDiffusion:
    """Load a local folder or a hub id; safetensors only, no remote code, no download unless asked for.

    Args:
        variant: which copy of the weights to read where a folder holds several (``fp16``); see ``models.identity``.

    Raises:
        BadInput: no such folder, not a pipeline, pickled or truncated weights, no such dtype, device or variant, or not
            on this machine and ``download`` is off.
    """
    kind, where = dtype_of(dtype), device_of(device)
    folder = Path(source)
    if not _is_folder(folder):
        folder = _snapshot(source, download)
    found = read_folder(folder, variant)
    if not found.kind.startswith("StableDiffusionPipeline"):
        raise BadInput(
            f"{folder} holds a {short(found.kind, 60)!r}; this version of genward runs StableDiffusionPipeline"
        )
    from diffusers import StableDiffusionPipeline

    try:
        with quiet_loading():
            pipe = StableDiffusionPipeline.from_pretrained(
                str(folder), use_safetensors=True, dtype=kind, local_files_only=True, variant=found.variant or None
            )
    except GenwardError:
        raise
    except Exception as error:
        raise BadInput(
            f"the pipeline in {folder} cannot be loaded: {type(error).__name__}: {short(error, 300)}; check its files "
            "against their source"
        ) from error
    pipe.to(where)
    name = folder.name if _is_folder(Path(source)) else source
    return StableDiffusion(pipe, spec_of(folder, found.files, name, dtype))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _snapshot(source: str, download: bool) -> Path:
    if Path(source).suffix in (".safetensors", ".ckpt"):
        raise BadInput(f"model {short(source)!r} is a single-file checkpoint, no diffusers folder; {HOW}")
    if not re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", source) or source.startswith("."):
        raise BadInput(
            f"model {short(source)!r}: no such folder, and not a hub id (owner/name); 'lab' is the embedded model"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                source, local_files_only=not download, allow_patterns=["*.json", "*.txt", "*.model", "*/*.safetensors"]
            )
        )
    except Exception as error:
        hint = "check the name and the network" if download else "pass --download to fetch it, or give a local folder"
        raise BadInput(f"model {source!r} is not on this machine ({type(error).__name__}); {hint}") from error


__all__ = ["StableDiffusion", "file_hash", "folder_spec", "load_pipeline"]
