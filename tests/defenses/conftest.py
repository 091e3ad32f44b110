"""A scripted rig for port-level tests, and small concepts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from genward.core import Call, Concept, Frame, Prediction, Prompt
from genward.errors import UnknownName
from genward.models.sd import StableDiffusion
from genward.testing import tiny_sd


class FakeRig:
    """Keeps what is attached; ``encode`` and ``predict`` answer from given functions and are counted."""

    def __init__(
        self, predict: Callable[[Call], Tensor] | None = None, weights: dict[str, Tensor] | None = None
    ) -> None:
        self.attached: dict[str, Any] = {}
        self.encoded: list[str] = []
        self.predicted: list[Call] = []
        self.parameters = weights or {}
        self._predict = predict

    def prompts(self, fn: Callable[[list[Prompt]], list[Prompt]]) -> None:
        self.attached["prompts"] = fn

    def readings(self, fn: Callable[[list[str]], list[str]]) -> None:
        self.attached["readings"] = fn

    def starts(self, fn: Callable[[list[Any]], object]) -> None:
        self.attached["starts"] = fn

    def guidance(self, fn: Any, *, during: tuple[float, float] = (0.0, 1.0)) -> None:
        self.attached["guidance"] = fn

    def weights(self, match: str, edit: Callable[[str, Tensor], Tensor]) -> None:
        import re

        names = [n for n in self.parameters if re.search(match, n)]
        if not names:
            raise UnknownName("parameter pattern", match, self.parameters)
        for name in names:
            self.parameters[name] = edit(name, self.parameters[name])

    def fits(self, text: str) -> bool:
        return len(text.split()) <= 60

    def encode(self, texts: Sequence[str]) -> Tensor:
        self.encoded += texts
        return torch.full((len(texts), 2, 3), 7.0, dtype=torch.float64)

    def predict(self, call: Call, *, weights: str = "live", read: Sequence[str] = ()) -> Prediction:
        assert self._predict is not None
        self.predicted.append(call)
        return Prediction(self._predict(call), {})


@pytest.fixture
def fake_rig() -> type[FakeRig]:
    return FakeRig


@pytest.fixture
def frame() -> Callable[..., Frame]:
    """``frame(step, cases, steps=50, guidance=7.5)``"""

    def make(step: int, cases: Sequence[int], steps: int = 50, guidance: float = 7.5) -> Frame:
        index = torch.tensor(list(cases))
        return Frame(
            "denoise",
            step,
            steps,
            torch.full((len(index),), 500),
            guidance,
            "",
            torch.ones(len(index), dtype=torch.bool),
            index,
        )

    return make


@pytest.fixture(scope="session")
def model() -> StableDiffusion:
    return tiny_sd()


@pytest.fixture(scope="session")
def deep() -> StableDiffusion:
    """The block layout of Stable Diffusion 1.5."""
    return tiny_sd(deep=True)


@pytest.fixture(scope="session")
def masked(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    """With a masked BERT encoder of 28 tokens, as the lab's."""
    return tiny_sd(encoder="bert", folder=tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="session")
def concept() -> Concept:
    return Concept(
        "tools",
        "policy",
        "Two small things.",
        targets=("saw", "axe"),
        phrases=("a saw", "a small saw", "an axe", "a hatchet"),
        anchors=("a cup", "a bowl"),
        anchor="a cup",
        neighbors=("hammer",),
        keep=("a dog", "a red apple"),
    )
