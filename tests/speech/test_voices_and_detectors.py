"""Voices of transformers on a tiny model built here, second ears, naturalness, detectors of synthetic speech."""

from __future__ import annotations

import json
import math
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genward.core.media import Audio
from genward.errors import BadArtifact, BadInput, UnknownName
from genward.ops.ears import Whisper, hear_together
from genward.ops.hearing import word_error_rate
from genward.speech import naturalness
from genward.speech.deepfake import (
    ClassifierDetector,
    SmallDetector,
    embedded_detector,
    equal_error_rate,
    features,
    read_detector,
)
from genward.speech.ears import EARS, HamaEar, opened, words_of_ipa
from genward.speech.transformers_voice import TransformersVoice
from genward.speech.voices import EmbeddedVoice

RATE = 16_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VITS model with random weights, as it would lie on a disk."""
    import torch
    from transformers import VitsConfig, VitsModel, VitsTokenizer

    place = tmp_path_factory.mktemp("voice")
    letters = "_ abcdefghijklmnopqrstuvwxyz"
    (place / "vocab.json").write_text(json.dumps({c: k for k, c in enumerate(letters)}))
    tokenizer = VitsTokenizer(str(place / "vocab.json"), phonemize=False, is_uroman=False, pad_token="_")
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16, "flow_size": 16}
    config = VitsConfig(
        vocab_size=len(letters), spectrogram_bins=9, upsample_initial_channel=16, upsample_rates=[4, 4],
        upsample_kernel_sizes=[8, 8], resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1, 3]],
        prior_encoder_num_flows=1, prior_encoder_num_wavenet_layers=1, posterior_encoder_num_wavenet_layers=1,
        duration_predictor_num_flows=1, depth_separable_num_layers=1, use_stochastic_duration_prediction=False,
        sampling_rate=RATE, **small,
    )  # fmt: skip
    VitsModel(config).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def test_a_folder_speaks(folder: Path, tmp_path: Path) -> None:
    import torch

    voice = TransformersVoice.load(folder)
    before = torch.random.get_rng_state()
    said = voice.speak("hello there", 1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert said.rate == RATE and said == voice.speak("hello there", 1) != voice.speak("hello there", 2)
    assert TransformersVoice.load(folder).name == voice.name and voice.model.speaking_rate == 1.0
    for text, told in (("", "nothing to say"), ("say {AE M}", "no phonemes")):
        with pytest.raises(BadInput, match=told):
            voice.speak(text, 0)
    with pytest.raises(BadInput, match="safetensors"):
        TransformersVoice.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(BadInput, match="cannot be loaded"):
        TransformersVoice.load(tmp_path)


def test_a_second_ear_hears_and_missing_ones_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    sphinx = opened("pocketsphinx")
    said = EmbeddedVoice().speak("the weather will be dry with a light wind from the west", 1)
    heard = sphinx.hear(said).text.split()
    assert sphinx is opened("pocketsphinx") and len({"weather", "dry", "light", "wind", "west"} & set(heard)) >= 3
    assert sphinx.hear(Audio(np.zeros(RATE, np.float32), RATE)).text == ""
    assert words_of_ipa("ˈæmbɚ | ˈkɛtəl") == "amber kettle" and set(EARS) == {"whisper", "pocketsphinx", "hama"}
    monkeypatch.setitem(sys.modules, "hama", None)
    with pytest.raises(BadInput, match="pip install hama"):
        HamaEar()
    with pytest.raises(UnknownName, match="whisper"):
        opened("wisper")


def test_sounds_are_heard_together() -> None:
    whisper, voice = Whisper(), EmbeddedVoice()
    texts = ["there are three good restaurants near the station", "the museum is closed on mondays"]
    sounds = [voice.speak(t, k) for k, t in enumerate(texts)]
    found = hear_together(whisper, [sounds[0], Audio(np.zeros(RATE, np.float32), RATE), sounds[1]])
    assert found[1].text == ""
    assert all(word_error_rate(t, found[k].text) <= 0.25 for t, k in zip(texts, (0, 2), strict=True))
    assert hear_together(whisper, []) == []
    with pytest.raises(BadInput, match="one by one"):
        hear_together(whisper, [Audio(np.zeros(31 * 1000, np.float32), 1000)])


def test_naturalness_is_a_number_or_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = Audio(np.full(RATE, 0.1, np.float32), RATE)
    if not naturalness.installed():
        value, why = naturalness.naturalness(sound)
        assert math.isnan(value) and "pip install speechmos" in why
    given: list[tuple[int, int]] = []

    def run(samples: np.ndarray, sr: int) -> dict[str, Any]:
        given.append((len(samples), sr))
        return {"ovrl_mos": 3.5}

    monkeypatch.setattr(naturalness, "installed", lambda: True)
    monkeypatch.setattr(naturalness, "_engine", lambda: types.SimpleNamespace(run=run))
    assert naturalness.naturalness(sound) == (3.5, "") and given == [(RATE, RATE)]
    assert "too short" in naturalness.naturalness(Audio(np.zeros(100, np.float32), RATE))[1]
    monkeypatch.setattr(naturalness, "_engine", lambda: types.SimpleNamespace(run=lambda *a, **k: {}))
    assert "KeyError" in naturalness.naturalness(sound)[1]


def slow_rate(high: Sequence[float], low: Sequence[float]) -> float:
    """The smallest gap over every threshold, counted one by one."""
    best = (2.0, 0.5)
    for t in sorted({*high, *low, math.inf}):
        missed, alarms = sum(s < t for s in high) / len(high), sum(s >= t for s in low) / len(low)
        best = min(best, (abs(missed - alarms), (missed + alarms) / 2))
    return best[1]


def test_equal_error_rate_and_its_direction() -> None:
    rng = np.random.default_rng(0)
    for shift in (-1.0, 0.3, 2.0):
        high, low = rng.standard_normal(60) + shift, rng.standard_normal(45)
        found = equal_error_rate(high.tolist(), low.tolist())
        assert found.eer == pytest.approx(slow_rate(high.tolist(), low.tolist()), abs=0.02)
        assert found.direction == ("inverted" if found.eer > 0.5 else "as named")
    assert equal_error_rate([1, 2], [0, 0.5]).eer == 0 and equal_error_rate([0], [1]).direction == "inverted"
    for bad in (([], [1.0]), ([math.nan], [0.0])):
        with pytest.raises(BadInput, match="finite scores"):
            equal_error_rate(*bad)


def hum(hertz: float, seed: int) -> Audio:
    t = np.arange(RATE) / RATE
    wave = 0.3 * np.sin(2 * np.pi * hertz * t) * (1 + 0.5 * np.sin(2 * np.pi * 4 * t))
    return Audio((wave + 0.01 * np.random.default_rng(seed).standard_normal(RATE)).clip(-1, 1).astype(np.float32), RATE)


def test_a_small_detector_learns_reads_back_and_refuses_damage() -> None:
    made = SmallDetector.fitted([hum(300, k) for k in range(8)], [hum(900, k) for k in range(8)])
    assert made.score(hum(300, 99)) > 0.9 and made.score(hum(900, 99)) < 0.1
    text = json.dumps(made.to_json({"about": "hums"}))
    again, facts = read_detector(text, "x")
    assert again.score(hum(300, 99)) == pytest.approx(made.score(hum(300, 99)), abs=1e-3) and facts["about"] == "hums"
    silence = Audio(np.zeros(RATE, np.float32), RATE)
    assert features(silence) is None and math.isnan(made.score(silence))
    for wrong in ("{}", "[]", "no", text.replace('"constant"', '"other"')):
        with pytest.raises(BadArtifact, match="damaged"):
            read_detector(wrong, "x")
    with pytest.raises(BadInput, match="five"):
        SmallDetector.fitted([silence] * 9, [hum(900, k) for k in range(8)])


def test_the_detector_that_comes_along_says_what_it_is() -> None:
    detector, facts = embedded_detector()
    assert detector.score(EmbeddedVoice().speak("there are three good restaurants near the station", 5)) > 0.5
    assert "no recorded speech" in facts["other"] and set(facts["direction"].values()) <= {"as named", "inverted"}


def test_a_classifier_of_transformers_is_a_detector(tmp_path: Path) -> None:
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

    config = Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8, 8),
        conv_stride=(5, 4), conv_kernel=(10, 8), num_feat_extract_layers=2, num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, classifier_proj_size=8, id2label={0: "real", 1: "fake"}, label2id={},
    )  # fmt: skip
    Wav2Vec2ForSequenceClassification(config).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(feature_size=1, sampling_rate=RATE).save_pretrained(tmp_path)
    fake, real = (ClassifierDetector(tmp_path, label) for label in ("fake", "real"))
    assert fake.score(hum(300, 0)) == pytest.approx(1 - real.score(hum(300, 0)), abs=1e-5)
    assert math.isnan(fake.score(Audio(np.zeros(RATE, np.float32), RATE)))
    with pytest.raises(BadInput, match="fake, real"):
        ClassifierDetector(tmp_path, "synthetic")
    with pytest.raises(BadInput, match="cannot be loaded"):
        ClassifierDetector(tmp_path / "none", "fake")
