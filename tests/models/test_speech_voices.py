"""Voices that really speak."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genward.core.sound import silent
from genward.core.speech import Voice
from genward.errors import BadInput, EngineError, Inapplicable, UnknownName
from genward.models.speech_engines import made, version_of
from genward.models.speech_voices import (
    FliteVoice,
    HibariVoice,
    PicoVoice,
    TransformersVoice,
    hibari_phonemes,
    open_voice,
)

TEXT = "Please start the engine."
flite = pytest.mark.skipif(shutil.which("flite") is None, reason="wants the program flite: apt-get install flite")


def test_hibari_says_the_same_for_the_same_seed() -> None:
    voice = HibariVoice()
    first, again, other = voice.speak(TEXT, 1), voice.speak(TEXT, 1), voice.speak(TEXT, 2)
    assert first == again != other and first.rate == 24_000 and 1 < first.seconds < 4 and not silent(first)
    fast = voice.tuned("", 1.5)
    assert isinstance(fast, Voice) and fast.speak(TEXT, 1).seconds < 0.8 * first.seconds
    assert fast.spec == voice.spec and len(voice.spec.fields["weights"]) == 16, "a sampler holds the speed"


def test_phonemes_are_spoken() -> None:
    assert hibari_phonemes("K EH T AH L".split()) == "kˈɛtəl" and hibari_phonemes(["B", "AH", "T"]) == "bˈʌt"
    assert hibari_phonemes("T IY | CH AA R".split()) == "tˈi ʧˈɑɹ" and hibari_phonemes(["HH", "M"]) == "hm"
    assert not silent(HibariVoice().speak("", 0, "K EH T AH L".split()))
    with pytest.raises(Inapplicable, match="no phonemes"):
        PicoVoice().speak("", 0, ["K"])


@pytest.mark.parametrize("text", ["", "  ", "…!?"])
def test_nothing_to_say_is_refused(text: str) -> None:
    for voice in (HibariVoice(), PicoVoice()):
        with pytest.raises(BadInput, match="can be spoken"):
            voice.speak(text)


def test_pico_has_two_speakers() -> None:
    one, two = (open_voice(f"pico/{name}").speak(TEXT) for name in ("en-US", "en-GB"))
    assert one.rate == two.rate == 16_000 and one != two and not silent(one) and not silent(two)


@flite
def test_flite_speaks_text_and_phonemes_and_knows_its_speakers() -> None:
    voice = open_voice("flite/rms")
    assert voice.speak(TEXT) == voice.speak(TEXT, 7) and voice.speak(TEXT).rate == 16_000
    assert not silent(voice.speak("-o /tmp/nowhere < & hello")), "a text is no option"
    assert not silent(voice.speak("", 0, "K EH T AH L".split()))
    assert voice.tuned("", 2.0).speak(TEXT).seconds < 0.7 * voice.speak(TEXT).seconds
    with pytest.raises(UnknownName, match="flite speaker"):
        open_voice("flite/nobody")
    with pytest.raises(EngineError, match="more than 1e-06 s"):
        FliteVoice(timeout=1e-6).speak(TEXT)


def test_what_is_not_there_is_named_with_a_way_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown voice 'hibary'; did you mean hibari"):
        open_voice("hibary")
    with pytest.raises(UnknownName, match="hibari speaker"):
        open_voice("hibari/nobody")
    monkeypatch.setenv("HIBARI_HOME", str(tmp_path))
    with pytest.raises(EngineError, match="not on this machine"):
        HibariVoice().tuned("emma", 1.0)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EngineError, match="apt-get install flite"):
        FliteVoice().speak(TEXT)
    monkeypatch.setitem(sys.modules, "py_nanotts", None)
    with pytest.raises(EngineError, match=r"py-nanotts cannot be imported .* pip install 'genward\[speech\]'"):
        PicoVoice().speak(TEXT)
    assert version_of("no-such-package") == ""


def test_samples_are_held_against_what_a_sound_may_be() -> None:
    assert float(np.abs(made(np.array([3.0, -3.0]), 8000, "x").samples).max()) == 1.0
    with pytest.raises(BadInput, match="can be spoken"):
        made(np.zeros(0), 8000, "x")
    with pytest.raises(EngineError, match="not finite"):
        made(np.array([np.nan]), 8000, "x")
    for speed in (0.1, 3.0):
        with pytest.raises(BadInput, match="speed"):
            HibariVoice(speed=speed)


@pytest.fixture(scope="module")
def vits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny VITS model of random weights, saved as transformers saves it."""
    import torch
    from transformers import VitsConfig, VitsModel, VitsTokenizer

    folder = tmp_path_factory.mktemp("vits")
    letters = {c: k for k, c in enumerate("_ abcdefghijklmnopqrstuvwxyz'")}
    (folder / "vocab.json").write_text(json.dumps(letters))
    torch.manual_seed(0)
    config = VitsConfig(
        vocab_size=len(letters), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=16, flow_size=16,
        spectrogram_bins=17, upsample_initial_channel=16, upsample_rates=[4, 4], upsample_kernel_sizes=[8, 8],
        resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1, 3]], prior_encoder_num_flows=1,
        prior_encoder_num_wavenet_layers=1, posterior_encoder_num_wavenet_layers=1, duration_predictor_num_flows=1,
        duration_predictor_filter_channels=16, sampling_rate=8000,
    )  # fmt: skip
    VitsModel(config).save_pretrained(folder)
    VitsTokenizer(
        str(folder / "vocab.json"), phonemize=False, is_uroman=False, pad_token="_", unk_token=" "
    ).save_pretrained(folder)  # noqa: E501
    return folder


def test_a_transformers_model_speaks_from_its_folder(vits: Path) -> None:
    import torch

    voice: Any = open_voice(str(vits))
    assert isinstance(voice, TransformersVoice) and voice.spec.fields["class"] == "VitsModel"
    state = torch.random.get_rng_state()
    first, again, other = voice.speak("hello there", 1), voice.speak("hello there", 1), voice.speak("hello there", 2)
    assert first == again != other and first.rate == 8000
    assert bool((torch.random.get_rng_state() == state).all()), "the process's generator is left alone"
    rate = voice.model.speaking_rate
    assert voice.tuned("", 2.0).speak("hello there", 1) != first and voice.model.speaking_rate == rate
    with pytest.raises(UnknownName):
        voice.tuned("somebody", 1.0)
    with pytest.raises(Inapplicable):
        voice.speak("", 0, ["K"])


def test_folders_without_safetensors_are_refused(tmp_path: Path, vits: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04pickle")
    with pytest.raises(BadInput, match="no safetensors"):
        open_voice(str(tmp_path))
    shutil.copy(vits / "model.safetensors", tmp_path)
    with pytest.raises(BadInput, match="cannot be loaded as a voice"):
        open_voice(str(tmp_path))
    with pytest.raises(BadInput, match="sampling_rate"):
        TransformersVoice(type("M", (), {"config": None})(), None, "x")
