"""Noise aimed at the recognizer, and the encoder that its gradients come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from genward.core.media import Audio
from genward.errors import BadArtifact, BadInput, UnknownName
from genward.ops.ears import RATE, ear, recognizer_folder
from genward.speech.aimed import Aimed, aimed_of, bent, treated
from genward.speech.encoder import embedded_encoder, read_variables


def sound(seconds: float = 1.0) -> Audio:
    rng = np.random.default_rng(0)
    t = np.arange(round(seconds * RATE)) / RATE
    voice = sum(np.sin(2 * np.pi * 140 * k * t) / k for k in range(1, 12)) * (1 + np.sin(2 * np.pi * 3 * t))
    return Audio((0.1 * voice + 0.001 * rng.standard_normal(len(t))).astype(np.float32), RATE)


def test_the_encoder_is_the_recognizers_own() -> None:
    ctranslate2 = pytest.importorskip("ctranslate2")
    samples = np.pad(sound(2.0).samples, (0, 28 * RATE))
    encoder = embedded_encoder()
    mel = encoder.mel(torch.from_numpy(samples)).numpy()
    engine = ctranslate2.models.Whisper(str(recognizer_folder()), compute_type="float32", intra_threads=1)
    theirs = np.array(engine.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(mel[None]))))[0]
    with torch.no_grad():
        ours = encoder(torch.from_numpy(samples)).numpy()
    assert ours.shape == theirs.shape and np.abs(ours - theirs).mean() < 2e-3 * np.abs(theirs).mean()
    filters = ear()._engine.feature_extractor  # type: ignore[attr-defined]
    assert np.abs(filters(samples, padding=0)[:, :3000] - mel).max() < 1e-3


def test_noise_has_its_level_and_leads_the_encoder_further_astray_than_chance() -> None:
    held, encoder = sound().samples.astype(np.float64), embedded_encoder()
    noise = bent(held, Aimed(30, 4), encoder, 0)
    assert 20 * np.log10(np.linalg.norm(held) / np.linalg.norm(noise)) == pytest.approx(30, abs=1e-3)
    chance = np.random.default_rng(1).standard_normal(len(held))
    chance *= np.linalg.norm(noise) / np.linalg.norm(chance)

    def far(added: np.ndarray) -> float:
        with torch.no_grad():
            clean, other = (encoder(torch.from_numpy(x.astype(np.float32))) for x in (held, held + added))
        return float(((clean - other) ** 2).mean())

    assert far(noise) > 2 * far(chance)


def test_a_change_is_named_and_the_same_again() -> None:
    assert aimed_of(Aimed(25, 3).text()) == Aimed(25, 3) and aimed_of("aimed:30:12").snr == 30
    assert treated(sound(), "aimed:30:1", 5) == treated(sound(), "aimed:30:1", 5)
    assert treated(sound(), "quiet") != sound()
    for wrong in ("aimed", "aimed:x:1", "aimed:30:0", "aimed:99:1", "aimed:30:1000"):
        with pytest.raises(BadInput, match="no change of a sound"):
            aimed_of(wrong)
    with pytest.raises(UnknownName):
        treated(sound(), "nothing")
    with pytest.raises(BadInput, match="0.025 to 30"):
        treated(Audio(np.zeros(31 * 1000, np.float32), 1000), "aimed:30:1")


def test_files_of_another_layout_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    whole = (recognizer_folder() / "model.bin").read_bytes()
    for content in (b"", b"x" * 40, whole[:5000], b"\x07\0\0\0" + whole[4:200]):
        file.write_bytes(content)
        with pytest.raises(BadArtifact, match="cannot be read|install it again"):
            read_variables(file, "encoder/")
    with pytest.raises(BadArtifact):
        read_variables(tmp_path / "none", "encoder/")
