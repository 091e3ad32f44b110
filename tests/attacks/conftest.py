"""A target on a tiny model, as small as the contract allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from genward.core import Call, Sample, Sampler
from genward.core.records import row_seed
from genward.models.sd import StableDiffusion
from genward.ops.artifacts import content_hash
from genward.testing import tiny_sd


class FakeTarget:
    """``core.contracts.Target`` on a tiny model in double precision; keeps what it is told and counts rows."""

    def __init__(
        self, model: StableDiffusion, held: Mapping[str, int], *, needs_guidance: bool = False, guidance: float = 3.0
    ) -> None:
        self.model, self.held, self.needs_guidance = model, held, needs_guidance
        self.sampler = Sampler(steps=6, guidance=guidance)
        self.schedule = {**model.pipe.scheduler.config, "final_alpha": float(model.pipe.scheduler.final_alpha_cumprod)}
        self.kept: dict[str, tuple[Tensor, dict[str, Any]]] = {}
        self.calls: list[tuple[Call, float]] = []
        self.state: dict[str, Tensor] = {}
        self.saved = 0
        self.styles: tuple[str, ...] = ()
        self.poison: Callable[[Tensor, Call], Tensor] | None = None

    @property
    def alphas(self) -> Tensor:
        return self.model.alphas_cumprod

    def sample(self, cases: Sequence[Any]) -> list[Sample]:
        raise AssertionError("a gradient attack asks for no pictures")

    def references(self, concept: str) -> list[Image.Image]:
        random = np.random.default_rng(row_seed(concept) % 2**32)
        return [
            Image.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8))
            for _ in range(self.held.get(concept, 0))
        ]

    def text(self, prompts: Sequence[str], vectors: Mapping[str, Tensor] = {}) -> Tensor:  # noqa: B006 - never changed
        with self.model.learned(vectors):
            return self.model.encode(prompts)

    def predict(self, call: Call, *, guidance: float = 1.0) -> Tensor:
        self.calls.append((call, guidance))
        noise = self.model.predict(call)
        if guidance > 1:
            empty = self.model.encode([""]).detach()
            uncond = self.model.predict(call._replace(text=empty.expand(len(noise), -1, -1)))
            noise = uncond + guidance * (noise - uncond)
        return noise if self.poison is None else self.poison(noise, call)

    def latents(self, images: Sequence[Image.Image]) -> Tensor:
        pixels = (
            torch.stack([torch.from_numpy(np.asarray(i).copy()).permute(2, 0, 1) for i in images]).double() / 127.5 - 1
        )
        return self.model.encode_images(pixels)

    def word(self, text: str) -> Tensor:
        ids = self.model.pipe.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[0]
        mean: Tensor = self.model.text_encoder.get_input_embeddings()(ids).mean(0)
        return mean

    def keep(self, tensor: Tensor, **facts: Any) -> str:
        import json

        json.dumps(facts, allow_nan=False)
        name = content_hash({"": tensor.float()})
        self.kept[name] = (tensor, facts)
        return name

    def checkpoint(self, state: Mapping[str, Tensor] | None = None) -> Mapping[str, Tensor]:
        if state is not None:
            assert all(torch.isfinite(v).all() and len(v) for v in state.values())
            self.state, self.saved = {k: v.clone() for k, v in state.items()}, self.saved + 1
        return self.state


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("words")


@pytest.fixture(scope="session")
def model(words: Path) -> StableDiffusion:
    """With a masked BERT encoder as the lab's; in double precision, so that equality is not a matter of rounding."""
    tiny = tiny_sd(encoder="bert", folder=words)
    for part in (tiny.unet, tiny.text_encoder, tiny.pipe.vae):
        part.double()
    return tiny


@pytest.fixture
def target(model: StableDiffusion) -> Callable[..., FakeTarget]:
    """``target({concept: number of references}, needs_guidance=False)``"""

    def make(held: Mapping[str, int], **other: Any) -> FakeTarget:
        return FakeTarget(model, held, **other)

    return make
