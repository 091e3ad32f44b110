"""Pipelines that genward does not step into: any text-to-image or inpainting pipeline of diffusers, compiled ones too.

Nothing of the denoiser is hooked, read or edited. What a guard can have here is the text, through the pipeline's first
text encoder, and the finished picture. Whatever needs more is refused by ``serve.outside``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from genward.core.contracts import Site
from genward.core.records import Sampler, Tokens
from genward.core.settings import DIFFUSION
from genward.core.spec import Spec
from genward.errors import BadInput, Conflict
from genward.models.hooks import compiled, offloaded
from genward.models.sites import text_sites
from genward.models.text import TextEncoder, head_sites

DENOISERS = ("unet", "transformer", "decoder", "prior")
"""Parts that a denoiser is called by, the first that a pipeline has."""
PLAIN = frozenset({"num_images_per_prompt", "ip_adapter_image", "ip_adapter_image_embeds", "masked_image_latents"})
"""Arguments with ``image`` in their name that no pipeline must have given (the last three are refused at the call)."""
FOREIGN = ("image", "video", "audio", "frames")
"""Parts of argument names of other kinds of pipeline"""
LONGEST = 512
"""Tokens at which a tokenizer without a length of its own is cut"""


def kind_of(pipe: Any) -> str:
    """``text-to-image`` or ``inpainting``, read from what a pipeline's call takes.

    Raises:
        BadInput: it is no pipeline of diffusers, or one of another kind.
    """
    from diffusers import DiffusionPipeline

    name = type(pipe).__name__
    if not isinstance(pipe, DiffusionPipeline):
        raise BadInput(f"a {name} cannot be guarded; give a pipeline of diffusers, or what genward.open_model returns")
    takes = set(inspect.signature(type(pipe).__call__).parameters)
    missing = [a for a in ("prompt", "num_images_per_prompt", "output_type", "return_dict") if a not in takes]
    over = {"image", "mask_image"} if {"image", "mask_image"} <= takes else set()
    other = sorted(
        a for a in takes - PLAIN - over if any(word in a for word in FOREIGN) and not a.startswith("negative_ip_")
    )
    other = [a for a in other if not a.endswith(("_guidance_scale", "_seq_len"))]
    if missing or other:
        why = f"its call takes {', '.join(other)}" if other else f"its call takes no {', '.join(missing)}"
        raise BadInput(
            f"a {name} cannot be guarded: {why}. Pipelines that make pictures from text, and inpainting pipelines, can"
        )
    return "inpainting" if over else "text-to-image"


def inside(module: Any) -> Any:
    """A module itself, where ``torch.compile`` wrapped it."""
    return getattr(module, "_orig_mod", module)


class OutsidePipeline:
    """A pipeline whose denoiser genward leaves alone, with what guards of the text and of the picture need.

    Args:
        pipe: of diffusers, as it is called. spec: its identity.
    """

    family = DIFFUSION.name
    makes: ClassVar[str] = DIFFUSION.makes
    sampler_class: ClassVar[type[Sampler]] = Sampler
    distilled = False
    state_names: tuple[str, ...] = ()

    def __init__(self, pipe: Any, spec: Spec) -> None:
        self.pipe, self.spec, self.kind = pipe, spec, kind_of(pipe)
        self.denoiser_name = next((n for n in DENOISERS if getattr(pipe, n, None) is not None), "")
        self.parts = tuple(
            n
            for n in (self.denoiser_name, "text_encoder", "tokenizer", "vae")
            if n and getattr(pipe, n, None) is not None
        )
        self.site_table: dict[str, Site] = {}
        if self.text_encoder is not None:
            self.site_table |= text_sites(self.text_encoder)
            try:
                self.site_table |= head_sites(self.text_encoder)
            except BadInput:  # a language model, say: guards that read heads then find no site
                pass

    @property
    def sites(self) -> Mapping[str, Site]:
        return self.site_table

    @property
    def denoiser(self) -> Any:
        """The network that makes the picture, for locks and names alone: it is never called from here."""
        return inside(getattr(self.pipe, self.denoiser_name)) if self.denoiser_name else None

    unet = denoiser

    @property
    def text_encoder(self) -> Any:
        """The pipeline's first text encoder, without ``torch.compile``'s wrapper; ``None`` where it has none."""
        return inside(getattr(self.pipe, "text_encoder", None))

    @property
    def tokenizer(self) -> Any:
        return self.pipe.tokenizer

    @property
    def device(self) -> torch.device:
        return torch.device(self.pipe._execution_device)

    @property
    def dtype(self) -> torch.dtype:
        kind: torch.dtype = next(self.denoiser.parameters()).dtype
        return kind

    def readable(self, who: str) -> None:
        """Whether the text encoder's states can be read.

        Raises:
            BadInput: there is none. Conflict: its layers are compiled or offloaded, so hooks may be passed by.
        """
        name = type(self.pipe).__name__
        if self.text_encoder is None or getattr(self.pipe, "tokenizer", None) is None:
            raise BadInput(f"{who} reads the text encoder, and this {name} has none; use image_filter")
        if compiled(self.text_encoder) or offloaded(self.text_encoder):
            raise Conflict(
                f"{who} reads the text encoder, and that of this {name} is compiled in place or offloaded weight by "
                "weight; compile the denoiser alone, or wrap the encoder by torch.compile(encoder)"
            )

    @property
    def _length(self) -> int:
        return min(int(self.tokenizer.model_max_length), LONGEST)

    def _tokenized(self, texts: Sequence[str], padding: str = "max_length") -> Any:
        return self.tokenizer(
            list(texts), padding=padding, max_length=self._length, truncation=True, return_tensors="pt"
        )

    def _encoded(self, found: Any, masked: bool) -> Tensor:
        """The first encoder's states of tokenized texts."""
        encoder = self.text_encoder
        where = next(encoder.parameters()).device if getattr(encoder, "_hf_hook", None) is None else self.device
        mask = found.attention_mask.to(where) if masked else None
        with torch.no_grad():
            states: Tensor = encoder(found.input_ids.to(where), attention_mask=mask)[0]
        return states

    def encode(self, texts: Sequence[str], copies: int = 1, **options: Any) -> Tensor:
        """(n, t, c) states of the first text encoder; texts are cut and padded to the tokenizer's length."""
        masked = getattr(self.text_encoder.config, "model_type", "") != "clip_text_model"  # CLIP's is told none
        return self._encoded(self._tokenized(texts), masked)

    def read_texts(self, texts: Sequence[str]) -> Tokens:
        """Pass texts through the first text encoder for those who read its states, padded to the longest: CLIP's looks
        back only, others mask padding. Their tokens."""
        found = self._tokenized(texts, "longest")
        self._encoded(found, masked=True)
        return Tokens(found.input_ids, found.attention_mask.bool(), self.tokenizer.convert_ids_to_tokens)

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """Token ids, mask and strings (n, t) of what ``encode`` gives its encoder."""
        found = self._tokenized(texts)
        return Tokens(found.input_ids, found.attention_mask.bool(), self.tokenizer.convert_ids_to_tokens)

    def fits(self, text: str) -> bool:
        """Whether the first text encoder takes a text whole."""
        return len(self.tokenizer(text, truncation=True, max_length=self._length + 1).input_ids) <= self._length

    def heads(
        self, texts: Sequence[str], sites: Sequence[str], progress: Callable[[int, int], None] | None = None
    ) -> Iterator[Any]:
        """Head states of texts, for fits; see ``models.text.TextEncoder.heads``."""
        self.readable("a fit")
        encoder = TextEncoder(self.tokenizer, self.text_encoder, tokens=self._length)
        return encoder.heads(texts, sites, progress)
