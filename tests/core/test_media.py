"""Pictures and sounds: one encoding each, named by its bytes."""

from __future__ import annotations

import io
import subprocess
import sys
import wave

import numpy as np
import pytest
from PIL import Image as pil

from genward.core import Audio, Image, Media, decode
from genward.errors import BadInput, UnknownName


def tone(n: int = 100, channels: int = 0) -> np.ndarray:
    wave_ = np.sin(np.arange(n) / 3).astype(np.float32)
    return np.stack([wave_ * (k + 1) / channels for k in range(channels)], 1) if channels else wave_


def picture(mode: str = "RGB") -> pil.Image:
    return pil.fromarray(np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)).convert(mode)


@pytest.mark.parametrize(
    "given", [Image(picture()), Image(picture("L")), Audio(tone(), 8000), Audio(tone(channels=2), 44100)]
)
def test_what_is_written_comes_back(given: Media) -> None:
    assert isinstance(given, Media)
    back = decode(given.encoded(), given.mime)
    assert type(back) is type(given) and back == given and back.sha == given.sha and hash(back) == hash(given)
    assert back.encoded() == given.encoded() and len(given.sha) == 64


def test_sound_keeps_its_samples_rate_and_channels() -> None:
    given = Audio(tone(channels=2), 16000)
    back = decode(given.encoded(), "audio/wav")
    assert isinstance(back, Audio) and back.rate == 16000 and back.channels == 2 and back.samples.shape == (100, 2)
    assert np.abs(back.samples - given.samples).max() <= 0.5 / 32767 + 1e-7 and given.seconds == 100 / 16000
    with wave.open(io.BytesIO(given.encoded())) as file:  # any player's view of it
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate(), file.getnframes()) == (2, 2, 16000, 100)
    ends = decode(Audio(np.array([-1.0, 0.0, 1.0], np.float32), 8000).encoded(), "audio/wav")
    assert isinstance(ends, Audio) and ends.samples.tolist() == [-1.0, 0.0, 1.0]


def test_media_are_frozen_and_apart() -> None:
    source = tone()
    held = Audio(source, 8000)
    source[0] = 0.5
    assert held.samples[0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        held.samples[0] = 1.0
    assert held != Audio(tone(), 8001) and held != Image(picture()) and Image(picture()) != Image(picture("L"))


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.zeros((2, 2, 2)), 8000, "shape"),
        (np.zeros(0), 8000, "shape"),
        (np.array([np.nan]), 8000, "not finite"),
        (np.array([1.5]), 8000, r"amplitude of 1\.5"),
        (np.zeros(3), 0, "rate of 0"),
        (np.zeros(3), 8000.0, "rate of 8000.0"),
        (np.zeros(3), True, "rate of True"),
    ],
)
def test_unusable_sounds_are_refused(samples: np.ndarray, rate: int, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Audio(samples, rate)


def test_other_bytes_are_refused() -> None:
    with pytest.raises(BadInput, match="no PNG"):
        decode(b"x" * 40, "image/png")
    with pytest.raises(BadInput, match="no WAV"):
        decode(Audio(tone(), 8000).encoded()[:20], "audio/wav")
    with pytest.raises(UnknownName, match="video/mp4"):
        decode(b"", "video/mp4")
    eight = io.BytesIO()
    with wave.open(eight, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(8000)
        file.writeframes(b"\x80" * 10)
    with pytest.raises(BadInput, match="16-bit"):
        decode(eight.getvalue(), "audio/wav")


def test_core_loads_neither_torch_nor_pil() -> None:
    code = "import sys, genward.core; print({'torch', 'PIL', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
