"""States without padding equal the pipeline's own; where they would not, padding stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from genward import lab
from genward.core.spec import Spec
from genward.models.sd import StableDiffusion
from genward.ops.short_texts import exact, own_states, token_counts
from genward.testing import tiny_sd

TEXTS = ["", "a saw", "a red saw beside two very old hammers in noto style", "a cat", "a saw " * 60, "a saw"] * 2


@pytest.fixture(scope="module", params=["clip", "bert", "lab"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    if request.param == "lab":
        return StableDiffusion(lab.pipeline(), Spec("model", "lab"))
    return tiny_sd(encoder=request.param, folder=tmp_path_factory.mktemp("words"))


def test_states_are_the_pipelines(model: StableDiffusion) -> None:
    found, counts = own_states(model, TEXTS, batch=2), token_counts(model.pipe.tokenizer, TEXTS)
    assert exact(model, TEXTS[2])
    with torch.no_grad():
        for text, count, states in zip(TEXTS, counts, found, strict=True):
            wanted = model.encode([text])[0].double()
            assert states.shape == (count, wanted.shape[1]) and count <= len(wanted)
            assert torch.allclose(states, wanted[:count], atol=1e-4)
    assert own_states(model, []) == []


def test_an_encoder_that_reads_its_padding_keeps_it(tmp_path: Path) -> None:
    model = tiny_sd(encoder="bert", folder=tmp_path)
    model.text_encoder.config.use_attention_mask = False
    assert not exact(model, "a saw")
    found = own_states(model, TEXTS)
    with torch.no_grad():
        for text, states in zip(TEXTS, found, strict=True):
            assert torch.allclose(states, model.encode([text])[0, : len(states)].double(), atol=1e-6)
