"""Weights that change in place under an open guard: what was fitted on the model refuses, what was not goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from genward.core.contracts import Artifact
from genward.models import prints
from genward.serve.identity import identity
from genward.serve.protect import protect
from genward.testing import tiny_pipeline

CALL: dict[str, Any] = {"prompt": "a cat", "num_inference_steps": 2, "guidance_scale": 3.0}
TOLD = "are not those that the guard was opened on"


@dataclass(frozen=True)
class Learned:
    """A guard of the tests that was fitted on a model and reads its texts, or the latents on their way."""

    name: ClassVar[str] = "learned"
    port: str = "latents"
    artifact: Artifact | None = None

    def attach(self, rig: Any) -> None:
        if self.port == "text":
            rig.tap("text.0.heads", lambda states, frame: None)
        else:
            rig.latents(lambda latents, frame: latents)


def fitted(pipe: Any, port: str = "latents") -> Learned:
    card = {"model_hash": identity(pipe).hash}
    return Learned(port, Artifact({"a": torch.zeros(1)}, card, "0"))


def mean(pipe: Any) -> None:
    for mine, other in zip(pipe.unet.parameters(), tiny_pipeline(seed=1).unet.parameters(), strict=True):
        mine.data.lerp_(other.data, 0.1)


def fused(pipe: Any) -> None:
    weight = next(p for n, p in pipe.unet.named_parameters() if "attn2.to_k" in n)
    weight.data += 1e-3 * torch.randn(len(weight), 1) @ torch.randn(1, weight.shape[1])


CHANGES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "another text encoder": (
        "text_encoder",
        lambda pipe: pipe.text_encoder.load_state_dict(tiny_pipeline(seed=1).text_encoder.state_dict()),
    ),
    "another denoiser": ("denoiser", lambda pipe: pipe.unet.load_state_dict(tiny_pipeline(seed=1).unet.state_dict())),
    "an average": ("denoiser", mean),
    "a fused adapter": ("denoiser", fused),
    "another dtype": ("text_encoder", lambda pipe: pipe.text_encoder.to(torch.float64)),
    "new parameters": (
        "denoiser",
        lambda pipe: pipe.unet.load_state_dict(tiny_pipeline(seed=1).unet.state_dict(), assign=True),
    ),
}


@pytest.mark.parametrize("how", CHANGES)
def test_a_fitted_guard_refuses_a_model_that_changed(how: str) -> None:
    part, change = CHANGES[how]
    pipe = tiny_pipeline()
    with protect(pipe, "weapons", [fitted(pipe)]) as guarded:
        assert guarded(**CALL).index == [0]
        change(pipe)
        out = guarded(**CALL)
        assert out.images == [None] and out.verdicts[0].failed
        assert TOLD in out.verdicts[0].why and part in out.verdicts[0].why
    if how == "a fused adapter":
        with protect(pipe, "weapons", [fitted(pipe)]) as guarded:
            assert guarded(**CALL).index == [0], "opened again"


def test_a_change_in_the_middle_of_a_call_is_seen_at_its_end() -> None:
    pipe = tiny_pipeline()

    def late(p: Any, i: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        mean(p)
        return {}

    with protect(pipe, "weapons", [fitted(pipe)]) as guarded:
        assert guarded(**CALL, callback_on_step_end=late).images == [None]


def test_what_was_not_fitted_and_what_reads_texts_alone_go_on() -> None:
    for made in (lambda pipe: Learned(), lambda pipe: fitted(pipe, "text")):
        pipe = tiny_pipeline()
        with protect(pipe, "weapons", [made(pipe)]) as guarded:
            mean(pipe)
            assert guarded(**CALL).index == [0]


class Wrapped(torch.nn.Module):
    """As an adapter wraps a layer."""

    def __init__(self, base: torch.nn.Module) -> None:
        super().__init__()
        self.base_layer = base

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.base_layer(*args, **kwargs)


def test_wrapped_layers_and_longer_tables_are_the_same_weights() -> None:
    pipe = tiny_pipeline()
    before = prints.taken(pipe.text_encoder), prints.taken(pipe.unet)
    pipe.tokenizer.add_tokens(["<new>"])
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer) + 1, mean_resizing=False)
    attention = next(m for n, m in pipe.unet.named_modules() if n.endswith("attn2"))
    attention.to_k = Wrapped(attention.to_k)
    assert prints.changed(pipe.text_encoder, before[0]) == prints.changed(pipe.unet, before[1]) == []
    attention.to_k.base_layer.weight.data.add_(1e-3)
    assert len(prints.changed(pipe.unet, before[1])) == 1
    pipe.text_encoder.to(torch.bfloat16)
    assert len(prints.changed(pipe.text_encoder, before[0])) == len(before[0])
    assert prints.taken(torch.nn.Linear(2, 2, device="meta")) == []
    scalar = torch.nn.Module()
    scalar.x = torch.nn.Parameter(torch.tensor(1.0))
    kept = prints.taken(scalar)
    assert prints.changed(scalar, kept) == []
    scalar.x.data.add_(1)
    assert prints.changed(scalar, kept) == ["x"]
