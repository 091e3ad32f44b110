"""Sounds read, resampled, cut and joined."""

from __future__ import annotations

import io
import math
import struct
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genward.core import Audio
from genward.core.sound import (
    MAX_SECONDS,
    at_rate,
    cut,
    joined,
    levels,
    listenable,
    mono,
    quietest,
    read_sound,
    silence,
    silent,
    trimmed,
)
from genward.errors import BadInput


def sine(hertz: float, seconds: float = 0.5, rate: int = 24_000, gain: float = 0.5) -> Audio:
    return Audio(gain * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate), rate)


def riff(form: bytes, data: bytes, size: int | None = None) -> bytes:
    chunks = b"fmt " + struct.pack("<I", len(form)) + form
    chunks += b"data" + struct.pack("<I", len(data) if size is None else size) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def form(kind: int, channels: int, rate: int, bits: int) -> bytes:
    width = channels * bits // 8
    return struct.pack("<HHIIHH", kind, channels, rate, rate * width, width, bits)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100])
def test_resampling_keeps_the_pitch_and_the_level(rate: int) -> None:
    before = sine(440)
    after = at_rate(before, rate)
    assert after.rate == rate and after.seconds == pytest.approx(before.seconds, abs=1e-3)
    power = np.abs(np.fft.rfft(after.samples * np.hanning(len(after.samples))))
    assert np.argmax(power) * rate / len(after.samples) == pytest.approx(440, abs=2)
    middle = slice(rate // 10, -rate // 10)
    assert np.abs(after.samples[middle]).max() == pytest.approx(0.5, abs=0.01)
    assert at_rate(after, rate) is after


def test_channels_are_averaged_and_full_scale_stays_full_scale() -> None:
    left = sine(300).samples
    stereo = Audio(np.stack([left, -left], 1), 24_000)
    assert silent(stereo) and mono(stereo).shape == left.shape and not silent(sine(300))
    square = Audio(np.sign(sine(100).samples), 24_000)
    assert np.abs(at_rate(square, 16_000).samples).max() <= 1.0, "the filter rings over at edges"
    for wrong in (0, -1, 2.5, True):
        with pytest.raises(BadInput, match="sampling rate"):
            at_rate(square, wrong)  # type: ignore[arg-type]


def test_cutting_and_joining_count_samples() -> None:
    tone, other = sine(300, 0.5), sine(600, 0.25, rate=16_000)
    assert cut(tone, 0.1, 0.2).seconds == pytest.approx(0.1) and len(cut(tone, 0.3, 0.3).samples) == 1
    assert cut(tone, -1, 99).seconds == tone.seconds
    both = joined([tone, other], 0.2)
    assert both.rate == 24_000 and both.seconds == pytest.approx(0.95)
    pause = cut(both, 0.51, 0.69)
    assert silent(pause) and float(np.abs(both.samples[0])) == 0.0
    assert silent(silence(0.1, 8000)) and len(silence(0, 8000).samples) == 1
    for wrong in (([], 0.1), ([tone], -0.1)):
        with pytest.raises(BadInput, match="one sound"):
            joined(*wrong)


def test_silence_is_trimmed_and_the_quietest_place_is_found() -> None:
    whole = joined([silence(0.4, 24_000), sine(300), silence(0.3, 24_000), sine(300), silence(0.4, 24_000)])
    assert trimmed(whole).seconds == pytest.approx(1.3 + 0.06, abs=0.02)
    assert 0.9 < quietest(whole, 0.95, 0.2) < 1.2 and trimmed(silence(1, 8000)).seconds == 1
    assert quietest(whole, 99.0) == whole.seconds
    assert levels(sine(300)).max() == pytest.approx(20 * math.log10(0.5 / math.sqrt(2)), abs=0.3)


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
@pytest.mark.parametrize("channels", [1, 2])
def test_pcm_of_any_width_is_read(bits: int, channels: int) -> None:
    values = np.round(sine(300, 0.02).samples.astype(np.float64) * (2 ** (bits - 1) - 1)).astype(np.int64)
    if bits == 8:
        raw = (values + 128).astype(np.uint8).tobytes()
    else:
        raw = b"".join(int(v).to_bytes(bits // 8, "little", signed=True) for v in np.repeat(values, channels))
    raw = np.repeat(np.frombuffer(raw, np.uint8), channels).tobytes() if bits == 8 else raw
    found = read_sound(riff(form(1, channels, 24_000, bits), raw))
    assert (found.channels, found.rate) == (channels, 24_000)
    assert np.allclose(mono(found), sine(300, 0.02).samples, atol=1.5 / 2 ** (bits - 1) + 1e-6)


def test_floats_streams_and_our_own_files_are_read(tmp_path: Path) -> None:
    tone = sine(300, 0.1)
    assert read_sound(tone.encoded()) == tone
    (tmp_path / "a.wav").write_bytes(tone.encoded())
    assert read_sound(tmp_path / "a.wav") == read_sound(str(tmp_path / "a.wav")) == tone
    loud = (tone.samples * 4).astype("<f4").tobytes()
    clipped = read_sound(riff(form(3, 1, 24_000, 32), loud))
    assert float(np.abs(clipped.samples).max()) == 1.0
    streamed = riff(form(1, 1, 24_000, 16), tone.encoded()[44:], size=0xFFFFFFFF)
    assert read_sound(streamed) == tone
    extensible = form(0xFFFE, 1, 24_000, 16) + struct.pack("<HHIH", 22, 16, 0, 1) + bytes(14)
    assert read_sound(riff(extensible, tone.encoded()[44:])) == tone


BAD = {
    "empty": (b"", "no WAV sound"),
    "mp3": (b"ID3\x04" + bytes(2000), "no WAV sound"),
    "truncated": (sine(300).encoded()[:-1000], "cut short"),
    "header only": (sine(300).encoded()[:44], "cut short"),
    "no data": (riff(form(1, 1, 8000, 16), b""), "no sound"),
    "mu-law": (riff(form(7, 1, 8000, 8), bytes(100)), "kind 7"),
    "no rate": (riff(form(1, 1, 0, 16), bytes(100)), "0 Hz"),
    "no channels": (riff(form(1, 0, 8000, 16), bytes(100)), "0 channels"),
    "not finite": (riff(form(3, 1, 8000, 32), np.array([np.nan, 0], "<f4").tobytes()), "not finite"),
    "too long": (riff(form(1, 1, 8, 8), bytes(8 * 1000)), "at most 900 s"),
    "no format": (b"RIFF\0\0\0\0WAVEdata\x04\0\0\0\0\0\0\0", "without its format"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_sound_is_refused_with_the_reason(case: str) -> None:
    data, why = BAD[case]
    with pytest.raises(BadInput, match=why):
        read_sound(data)


def test_missing_files_and_long_sounds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        read_sound(tmp_path / "nothing.wav")
    with pytest.raises(BadInput, match="cut it"):
        listenable(Audio(np.zeros(int(MAX_SECONDS) + 1), 1))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 80), st.binary(min_size=1, max_size=8))
def test_no_bytes_break_the_reader(junk: bytes, at: int, patch: bytes) -> None:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(60))
    whole = bytearray(buffer.getvalue())
    whole[at : at + len(patch)] = patch
    for data in (junk, b"RIFF0000WAVE" + junk, bytes(whole)):
        try:
            assert read_sound(data).seconds > 0
        except BadInput:
            pass
