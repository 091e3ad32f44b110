"""Head states of texts read without padding equal a pipeline's own; where they would not, the pipeline encodes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from genward import lab
from genward.core.spec import Spec
from genward.models.sd import StableDiffusion
from genward.ops import heads, text_states
from genward.testing import tiny_sd

TEXTS = ["a saw", "a red saw beside two very old hammers in noto style", "a cat", "a saw " * 60, "", "two cats"] * 2
TEXTS = [f"{t} {k}" for k, t in enumerate(TEXTS)]


@pytest.fixture(scope="module", params=["clip", "bert", "lab"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    if request.param == "lab":
        return StableDiffusion(lab.pipeline(), Spec("model", "lab"))
    return tiny_sd(encoder=request.param, folder=tmp_path_factory.mktemp("words"))


def test_they_are_those_of_the_pipeline(model: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    how = {"text": heads.natural_readout(model.text_encoder)}
    sites = [name for name, site in model.sites.items() if site.stream == "heads"]
    padded = text_states._through_rig(model, TEXTS, sites, how)
    monkeypatch.setattr(text_states, "_through_rig", lambda *_: pytest.fail("padding was encoded"))
    found, about = text_states.read_texts(model, TEXTS, "auto", ())
    assert about.readout == how and found.keys() == padded.keys()
    for site, states in found.items():
        assert states.dtype == torch.float32 and torch.allclose(states, padded[site], atol=1e-4)


def test_an_encoder_that_reads_its_padding_is_read_with_it(tmp_path: Path) -> None:
    model = tiny_sd(encoder="bert", folder=tmp_path)
    model.text_encoder.config.use_attention_mask = False
    sites = [name for name, site in model.sites.items() if site.stream == "heads"]
    found, about = text_states.read_texts(model, TEXTS, "auto", ())
    padded = text_states._through_rig(model, TEXTS, sites, about.readout)
    assert all(torch.equal(found[site], padded[site]) for site in sites)


def test_a_rig_reads_texts_without_padding(model: StableDiffusion) -> None:
    sites, texts = [name for name, site in model.sites.items() if site.stream == "heads"], ["a saw", "a", "a cat"]
    whole = model.tokens(texts)
    with model.rig() as rig:
        short, tokens = rig.read(texts, sites)
        model.read_texts, kept = lambda texts: (model.encode(texts), whole)[1], model.read_texts  # type: ignore[method-assign]
        padded, _ = rig.read(texts, sites)
        model.read_texts = kept  # type: ignore[method-assign]
    count = tokens.ids.shape[1]
    assert torch.equal(tokens.mask, whole.mask[:, :count]) and not bool(whole.mask[:, count:].any())
    assert 0 < count < whole.ids.shape[1]
    for site in sites:
        assert short[site].shape[1] == count
        assert torch.allclose(short[site][tokens.mask], padded[site][:, :count][tokens.mask], atol=1e-4)


def test_a_rig_keeps_the_padding_that_an_encoder_reads(tmp_path: Path) -> None:
    model = tiny_sd(encoder="bert", folder=tmp_path)
    model.text_encoder.config.use_attention_mask = False
    assert torch.equal(model.read_texts(TEXTS[:3]).ids, model.tokens(TEXTS[:3]).ids)
