"""Stable Diffusion 1.x/2.x family: any stock ``StableDiffusionPipeline``, the lab's included.

What the family looks like (its parts, how its denoiser is called, its row order) and how it is loaded. Rows are sampled
by ``models.sampling``; everything that acts on the pipeline goes through ``models.rig``."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from genward.core import defending
from genward.core.contracts import Defense, Site
from genward.core.quiet import quiet_loading
from genward.core.records import Call, Case, Sample, Sampler, Tokens
from genward.core.settings import DIFFUSION
from genward.core.spec import Spec, file_hash
from genward.errors import BadInput, Conflict, Inapplicable
from genward.models.backbone import Layout
from genward.models.hooks import learned_tokens
from genward.models.identity import folder_spec
from genward.models.rig import LiveRig, rig_on
from genward.models.rows import alike, checked, job_of, learned_of, samples, token_text
from genward.models.sampling import sample
from genward.models.sites import named, text_sites, unet_sites
from genward.models.text import TextEncoder

Progress = Callable[[int, int], None]
CAUSAL = ("clip_text_model", "clip")
"""Kinds of text encoders in which a token sees those before it only"""


class StableDiffusion:
    """A stock Stable Diffusion pipeline as a genward model.

    Args:
        pipe: a ``StableDiffusionPipeline`` (or a subclass that keeps its ``__call__``), on its device.
        spec: the model's identity: weights by content hash, dtype.
    """

    family = DIFFUSION.name
    makes: ClassVar[str] = DIFFUSION.makes
    sampler_class: ClassVar[type[Sampler]] = Sampler
    needed: ClassVar[tuple[str, ...]] = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    """What a pipeline must have"""
    networks: ClassVar[tuple[str, ...]] = ("unet", "vae", "text_encoder")
    """Parts with weights, the denoiser first"""
    parts: tuple[str, ...] = ("unet", "text_encoder", "vae", "scheduler")
    state_names: tuple[str, ...] = ("prompt_embeds", "negative_prompt_embeds")

    def __init__(self, pipe: Any, spec: Spec) -> None:
        self.pipe, self.spec = pipe, spec
        pipe.set_progress_bar_config(disable=True)
        self.site_table: dict[str, Site] = {**unet_sites(pipe.unet), **text_sites(pipe.text_encoder)}

    @property
    def open_rig(self) -> LiveRig | None:
        """The rig that is open on this model's denoiser, opened through whatever model or pipeline."""
        found = rig_on(self.denoiser)
        return found if isinstance(found, LiveRig) else None

    # ------------------------------------------------------------------------------------------------------ plain parts

    @property
    def sites(self) -> Mapping[str, Site]:
        return self.site_table

    @property
    def unet(self) -> Any:
        return self.pipe.unet

    @property
    def denoiser(self) -> Any:
        """The network that predicts the noise; ``predict`` calls it."""
        return self.pipe.unet

    @property
    def scheduler(self) -> Any:
        return self.pipe.scheduler

    @property
    def tokenizer(self) -> Any:
        return self.pipe.tokenizer

    @property
    def distilled(self) -> bool:
        """Whether guidance is an input of the denoiser, so that there is no unconditional branch."""
        return self.denoiser.config.time_cond_proj_dim is not None

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

    def latent_shape(self, height: int = 0, width: int = 0) -> tuple[int, int, int]:
        """(channels, h, w) of one row's latents; a height or width of 0 pixels takes the model's own size."""
        own, scale = self.denoiser.config.sample_size, self.pipe.vae_scale_factor
        edges = own if isinstance(own, list | tuple) else (own, own)
        return (self.denoiser.config.in_channels, height // scale or edges[0], width // scale or edges[1])

    def encode(self, texts: Sequence[str], copies: int = 1, **options: Any) -> Tensor:
        """Text states (n · copies, t, c) exactly as the pipeline makes them for its denoiser; no gradient is kept
        unless grad mode is on. Options are those of the pipeline's ``encode_prompt``."""
        states: Tensor = self.pipe.encode_prompt(list(texts), self.device, copies, False, **options)[0]
        return states

    def encode_beside(self, states: Tensor, texts: Sequence[str], copies: int = 1, **options: Any) -> Tensor:
        """States of negative texts as long as the given states (n, t, c) of prompts, as the pipeline makes them.

        Raises:
            BadInput: states longer than the encoder's window, for which it can make no negative ones.
        """
        window = int(self.pipe.tokenizer.model_max_length)
        if states.shape[1] > window:
            raise BadInput(
                f"prompt_embeds hold {states.shape[1]} tokens and this text encoder makes at most {window}; give "
                "negative_prompt_embeds of the same length"
            )
        found: Tensor = self.pipe.encode_prompt(
            None, self.device, copies, True, negative_prompt=list(texts), prompt_embeds=states, **options
        )[1]
        return found

    def tokens(self, texts: Sequence[str], padding: str = "max_length") -> Tokens:
        """Token ids, mask and strings (n, t) as the pipeline cuts the texts: truncated to the tokenizer's length and
        padded to it, or to the ``longest``."""
        tokenizer = self.pipe.tokenizer
        found = tokenizer(
            list(texts), padding=padding, max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        )
        return Tokens(found.input_ids, found.attention_mask.bool(), tokenizer.convert_ids_to_tokens)

    def read_texts(self, texts: Sequence[str]) -> Tokens:
        """Pass texts through the text encoder for those who read its states, padded to the longest of them where that
        leaves real tokens alone (the encoder masks padding, or is CLIP's, which looks back only); their tokens."""
        encoder, told = self.text_encoder, self.text_encoder.config
        if not getattr(told, "use_attention_mask", False) and told.model_type not in CAUSAL:
            self.encode(texts)
            return self.tokens(texts)
        if hasattr(self.pipe, "maybe_convert_prompt"):  # embeddings that a user loaded may take several tokens
            texts = self.pipe.maybe_convert_prompt(list(texts), self.pipe.tokenizer)
        found = self.tokens(texts, "longest")
        device = next(encoder.parameters()).device
        encoder(found.ids.to(device), attention_mask=found.mask.long().to(device))
        return found

    def fits(self, text: str) -> bool:
        """Whether the encoder takes a text whole; what is longer than its window, the pipeline cuts."""
        length = self.pipe.tokenizer.model_max_length
        ids = self.pipe.tokenizer(text, truncation=True, max_length=length + 1).input_ids
        return bool(len(ids) <= length)

    def short_heads(self, texts: Sequence[str], sites: Sequence[str]) -> Iterator[Any]:
        """Head states of texts without padding, as ``models.text.TextEncoder.heads`` gives them: for readers of
        states, where padding leaves those of real tokens alone (``ops.short_texts.exact``)."""
        encoder = TextEncoder(self.pipe.tokenizer, self.text_encoder, tokens=self.pipe.tokenizer.model_max_length)
        return encoder.heads(texts, sites)

    @contextmanager
    def learned(self, vectors: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside, token texts like ``<3f9a12b4>`` stand for these (width,) embeddings, with gradient; see
        ``models.hooks.learned_tokens``."""
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

    def layout(self, rows: int, cases: int) -> Layout | None:
        """``[unconditional; conditional]`` rows, or conditional ones alone."""
        index = torch.arange(cases)
        if rows == cases:
            return Layout(index, torch.ones(cases, dtype=torch.bool))
        if rows == 2 * cases:
            return Layout(index.repeat(2), torch.arange(rows) >= cases)
        return None

    def read(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Any, Tensor]:
        """(latents, timestep, text states) of a U-Net call's arguments."""
        latents = args[0] if args else kwargs["sample"]
        timestep = args[1] if len(args) > 1 else kwargs["timestep"]
        return latents, timestep, args[2] if len(args) > 2 else kwargs["encoder_hidden_states"]

    def write(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], call: Call, timestep: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with a call's tensors in their places."""
        named = {k: v for k, v in kwargs.items() if k not in ("sample", "timestep")}
        named["encoder_hidden_states"] = call.text
        if call.skips is not None:
            named |= {
                "down_block_additional_residuals": call.skips[:-1],
                "mid_block_additional_residual": call.skips[-1],
            }
        if len(args) > 2:
            del named["encoder_hidden_states"]
            return (call.latents, timestep, call.text, *args[3:]), named
        return (call.latents, timestep), named

    def text_arguments(self, states: tuple[Tensor, Tensor | None]) -> dict[str, Any]:
        """The pipeline's arguments that hand it text states in the place of texts."""
        texts = dict.fromkeys(("prompt", "negative_prompt"))
        return {**texts, **dict(zip(self.state_names, states, strict=True)), "num_images_per_prompt": 1}

    def decode_pixels(self, latents: Tensor, generator: Any = None) -> Tensor:
        """Latents (n, c, h, w) -> pixels (n, 3, h·f, w·f) as the pipeline's decoder gives them."""
        pixels: Tensor = self.pipe.vae.decode(
            latents / self.pipe.vae.config.scaling_factor, return_dict=False, generator=generator
        )[0]
        return pixels

    def predict(self, call: Call) -> Tensor:
        """The undefended denoiser's prediction (rows, c, h, w); gradients flow to the call's tensors."""
        return self.denoise(call)

    def trainable(self, match: str) -> Any:
        """A detached float32 copy of the U-Net whose parameters matching the pattern require gradients (no others)."""
        unet = copy.deepcopy(self.unet).float()
        found = set(named(dict(unet.named_parameters()), match))
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_(name in found)
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
        """Sample every case; one ``Sample`` per case, in order.

        Each row starts from noise of its own generator seeded with ``case.seed`` (or from ``starts`` under the hash
        that ``case.inputs["latents"]`` names, (c, h, w), or over the picture, (3, h, w), that ``picture@<strength>``
        names, by diffusers' img2img pipeline), so its neighbors in the batch do not matter. ``vectors``
        holds the learned embeddings by content hash; ``case.inputs`` names each under its token's text, which is
        ``token_text(hash)`` as the prompt writes it. A row is ``ok`` with a picture, ``refused`` by a defense, or
        ``error`` where a defense did not do its work or nothing can be shown.

        Raises:
            BadInput: a case, a size or a start latent cannot be used.
            Conflict, Inapplicable: the defenses contradict each other, the pipeline or the sampler.
            GuardError: an attached defense was never called (``DefenseInactive``), or the model was changed under it;
                no picture is returned.
        """
        cases = checked(cases)
        self.refuse(sampler, defenses)
        if sampler.guidance > 1 and self.distilled:
            raise Conflict(
                "this model takes its guidance as an embedding (a distilled model), so there is no unconditional "
                "branch; use guidance 1"
            )
        done: list[Sample] = []

        def work(opened: LiveRig, rows: Sequence[Case]) -> None:
            for k in range(0, len(rows), batch):
                part = rows[k : k + batch]
                with self.learned(learned_of(part, vectors or {})):
                    began = time.perf_counter()
                    outcome = sample(opened, job_of(opened.model, part, sampler, starts or {}, gradients=gradients))
                    done.extend(samples(part, outcome, time.perf_counter() - began, keep=keep_latents))
                if progress is not None:
                    progress(len(done), len(cases))

        for pictured, rows in alike(cases):
            if rig is None:
                with (self.img2img if pictured else self).rig(defenses) as opened:
                    work(opened, rows)
            elif pictured and not hasattr(rig.model.pipe, "get_timesteps"):
                raise BadInput("these rows start from pictures; open the rig on the model's `img2img`")
            else:
                work(rig, rows)
        return done

    @property
    def img2img(self) -> StableDiffusion:
        """The same networks in diffusers' pipeline that starts from pictures."""
        if hasattr(self.pipe, "get_timesteps"):
            return self
        from diffusers import StableDiffusionImg2ImgPipeline

        pipe = StableDiffusionImg2ImgPipeline(**self.pipe.components, requires_safety_checker=False)
        return type(self)(pipe, self.spec)

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
            with quiet_loading():
                self.pipe.save_pretrained(folder, safe_serialization=True)
        card = {"model": self.spec.to_json(), "defenses": [Spec.of("defense", d).to_json() for d in defenses]}
        (folder / "genward.json").write_text(json.dumps(card, indent=1), "utf-8")
        return folder


__all__ = ["StableDiffusion", "token_text", "file_hash", "folder_spec"]
