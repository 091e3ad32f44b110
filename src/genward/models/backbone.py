"""What the rig and the engine must know of a model family, as a protocol, and the families there are.

A backbone says which modules a live pipeline consists of, how its denoiser is called, in which order the rows of a
guided call come, and where it can be read. Nothing outside ``models`` knows these things by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from genward.core.contracts import Site
from genward.core.records import Call, Tokens
from genward.core.spec import Spec
from genward.errors import BadInput, Conflict
from genward.models.hooks import compiled, offloaded

FAMILIES: dict[str, str] = {
    "StableDiffusionPipeline": "genward.models.sd:StableDiffusion",
    "StableDiffusionImg2ImgPipeline": "genward.models.sd:StableDiffusion",
}
"""Pipeline class, or one that it is derived from -> the backbone that runs it."""


WITHOUT = (
    "Guards of the text and the finished picture alone (aeiou, normalize, image_filter) work on every text-to-image "
    "and inpainting pipeline, compiled or not"
)


class Layout(NamedTuple):
    """Whose rows a denoiser call holds."""

    case: Tensor
    """int (rows,): which case each row belongs to"""
    conditional: Tensor
    """bool (rows,): which rows carry the prompt"""


class Backbone(Protocol):
    """A live pipeline of one family."""

    pipe: Any
    spec: Spec
    site_table: dict[str, Site]
    parts: tuple[str, ...]
    """Attributes of the pipeline that must stay the same objects while a guard is open"""
    state_names: tuple[str, ...]
    """The pipeline's arguments that take text states: prompts', negatives'"""

    @property
    def denoiser(self) -> Any: ...
    @property
    def text_encoder(self) -> Any: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def distilled(self) -> bool:
        """Whether guidance is an input of the denoiser, so that there is no unconditional branch."""
        ...

    def layout(self, rows: int, cases: int) -> Layout | None:
        """Whose rows a call of ``rows`` rows holds, read from what arrives; ``None`` where no order is known."""
        ...

    def read(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Any, Tensor]:
        """(latents, timestep, text states) of a denoiser call's arguments."""
        ...

    def write(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], call: Call, timestep: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with a call's tensors in their places."""
        ...

    def text_arguments(self, states: tuple[Tensor, Tensor | None]) -> dict[str, Any]:
        """The pipeline's arguments that hand it text states in the place of texts."""
        ...

    def encode(self, texts: Sequence[str], copies: int = 1, **options: Any) -> Tensor: ...
    def encode_beside(self, states: Tensor, texts: Sequence[str], copies: int = 1, **options: Any) -> Tensor: ...
    def tokens(self, texts: Sequence[str]) -> Tokens: ...
    def read_texts(self, texts: Sequence[str]) -> Tokens:
        """Pass texts through the text encoder for those who read its states; their tokens, as many as were read."""
        ...

    def fits(self, text: str) -> bool: ...
    def denoise(self, call: Call) -> Tensor: ...
    def decode_pixels(self, latents: Tensor, generator: Any = None) -> Tensor: ...
    def latent_shape(self, height: int = 0, width: int = 0) -> tuple[int, int, int]: ...
    def learned(self, vectors: Mapping[str, Tensor]) -> AbstractContextManager[None]: ...


def family(pipe: Any) -> type[Any]:
    """The backbone class of a live pipeline.

    Raises:
        BadInput: no pipeline of a family that genward knows.
    """
    for cls in type(pipe).__mro__:
        if cls.__name__ in FAMILIES:
            module, _, name = FAMILIES[cls.__name__].partition(":")
            found: type[Any] = getattr(importlib.import_module(module), name)
            return found
    raise BadInput(
        f"a {type(pipe).__name__} cannot be guarded; give a {' or '.join(FAMILIES)}, or what genward.open_model "
        f"returns. {WITHOUT}"
    )


def check_pipe(pipe: Any) -> None:
    """Whether hooks and edits act on a live pipeline.

    Raises:
        BadInput: no pipeline of a known family, or one that lacks a part.
        Conflict: a part is compiled, or its weights are offloaded.
    """
    kind = family(pipe)
    for part in kind.needed:
        if getattr(pipe, part, None) is None:
            raise BadInput(f"this {type(pipe).__name__} has no {part}, and a guard needs it; load the whole pipeline")
    for part in kind.networks:
        module = getattr(pipe, part)
        if compiled(module):
            raise Conflict(
                f"the pipeline's {part} is compiled, and a compiled model can pass a guard by; give the uncompiled "
                "one. " + WITHOUT
            )
        if offloaded(module):
            raise Conflict(
                f"weights of the pipeline's {part} are offloaded one by one, where they can be neither checked nor "
                "edited; use pipe.to(device)"
            )
