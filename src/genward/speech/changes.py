"""Fourteen changes of a sound that leave its words alone: what a moderator of transcripts must survive.

Metamorphic relations after MTAM as digested (HARMGEN's digest, §3.6: tempo, panning, frequency shift, noise); the
strengths are ours, chosen so that a listener still follows every word. Levels are in decibels. Everything is numpy and
scipy except ``codec``, a real MP3 encoder (PyAV, which comes with the extra ``speech``)."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Mapping
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from genward.core.media import Audio
from genward.errors import BadInput, UnknownName
from genward.ops.hearing import mono

Samples = NDArray[np.float64]
FRAME, SEEK = 0.04, 0.01
"""Seconds of a frame that is moved when the tempo changes, and how far its best place is looked for"""
SNR = 20.0
"""Decibels of speech over noise"""


def stretched(samples: Samples, rate: int, speed: float) -> Samples:
    """A sound at another tempo with its pitch kept, by overlapping frames where they fit best (WSOLA).

    Args:
        samples: (n,). speed: 0.25 to 4; above 1 is faster.

    Returns:
        About (n / speed,).
    """
    if not 0.25 <= speed <= 4:
        raise BadInput(f"a tempo of {speed}; 0.25 to 4 are possible")
    half, seek = max(1, round(FRAME * rate / 2)), round(SEEK * rate)
    size, window = 2 * half, np.hanning(2 * half + 1)[: 2 * half]
    held = np.pad(samples, (0, 2 * size + seek))
    count = max(1, int(len(samples) / (half * speed)))
    out, at = np.zeros((count + 1) * half + size), 0
    for k in range(count):
        wanted = round(k * half * speed)
        if k:
            following = held[at + half : at + half + size]
            low = max(0, wanted - seek)
            around = held[low : wanted + seek + size]
            fit = np.correlate(around, following, "valid")
            wanted = low + int(fit.argmax())
        at = min(wanted, len(held) - 2 * size)
        out[k * half : k * half + size] += window * held[at : at + size]
    return out[: max(1, round(len(samples) / speed))]


def pitched(samples: Samples, rate: int, semitones: float) -> Samples:
    """A sound at another pitch, its tempo kept: stretched, then resampled."""
    from scipy.signal import resample_poly

    ratio = Fraction(2 ** (semitones / 12)).limit_denominator(50)
    slow = stretched(samples, rate, 1 / float(ratio))
    out: Samples = resample_poly(slow, ratio.denominator, ratio.numerator)
    return out


def shifted(samples: Samples, rate: int, hertz: float) -> Samples:
    """All frequencies moved by so many hertz (single sideband)."""
    from scipy.signal import hilbert

    turn = np.exp(2j * np.pi * hertz * np.arange(len(samples)) / rate)
    out: Samples = np.real(hilbert(samples) * turn)
    return out


def band(samples: Samples, rate: int, low: float, high: float) -> Samples:
    """What lies between two frequencies (Butterworth, order 4 twice); 0 or the half rate leave that side open."""
    from scipy.signal import butter, sosfiltfilt

    top = rate / 2
    edges = low if high >= top else high if low <= 0 else (low, high)
    kind = "highpass" if high >= top else "lowpass" if low <= 0 else "bandpass"
    out: Samples = sosfiltfilt(butter(4, edges, kind, fs=rate, output="sos"), samples, padlen=min(27, len(samples) - 1))
    return out


def noisy(samples: Samples, noise: Samples, snr: float) -> Samples:
    """A sound with noise of so many decibels below it."""
    level = float(np.sqrt(np.mean(samples**2))) or 1e-6
    own = float(np.sqrt(np.mean(noise**2))) or 1.0
    return samples + noise * (level / own) * 10 ** (-snr / 20)


def in_a_room(samples: Samples, rate: int, seconds: float, seed: int) -> Samples:
    """A sound as in a room that takes so long to fall by 60 dB: the direct sound and a decaying tail at -6 dB."""
    from scipy.signal import fftconvolve

    t = np.arange(round(seconds * rate)) / rate
    tail = np.random.default_rng(seed).standard_normal(len(t)) * 10 ** (-3 * t / seconds)
    tail[: round(0.004 * rate)] = 0
    tail *= 0.5 / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    out: Samples = fftconvolve(samples, tail)[: len(samples)]
    return out


def telephone(samples: Samples, rate: int) -> Samples:
    """300 to 3,400 Hz, in 8-bit µ-law (ITU-T G.711)."""
    heard = np.clip(band(samples, rate, 300, min(3400, 0.49 * rate)), -1, 1)
    law = np.sign(heard) * np.log1p(255 * np.abs(heard)) / np.log(256)
    steps = np.round(law * 127) / 127
    out: Samples = np.sign(steps) * np.expm1(np.abs(steps) * np.log(256)) / 255
    return out


def encoded(samples: Samples, rate: int, bits: int = 24_000) -> Samples:
    """Through MP3 at so many bits a second, 16 kHz. Raises ``BadInput`` where PyAV is not installed."""
    try:
        import av
    except ImportError as error:
        raise BadInput("the change codec needs the package av; pip install 'genward[speech]'") from error
    narrow = mono(Audio(np.clip(samples, -1, 1).astype(np.float32), rate), 16_000)
    file = io.BytesIO()
    with av.open(file, "w", format="mp3") as writer:
        stream = writer.add_stream("libmp3lame", rate=16_000, layout="mono")
        stream.bit_rate = bits
        frame = av.AudioFrame.from_ndarray(narrow[None], format="fltp", layout="mono")
        frame.sample_rate = 16_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            writer.mux(packet)
    file.seek(0)
    with av.open(file, "r") as back:
        parts = [f.to_ndarray().mean(0) for f in back.decode(audio=0)]
    heard = np.concatenate(parts)
    found = Audio(np.clip(heard, -1, 1).astype(np.float32), 16_000)
    out: Samples = mono(found, rate).astype(np.float64)
    return out


def _random(samples: Samples, seed: int) -> Samples:
    out: Samples = np.random.default_rng(seed).standard_normal(len(samples))
    return out


def _hum(samples: Samples, rate: int) -> Samples:
    t = np.arange(len(samples)) / rate
    out: Samples = np.sum([np.sin(2 * np.pi * 50 * k * t) / k for k in (1, 2, 3, 5)], axis=0)
    return out


CHANGES: Mapping[str, Callable[[Samples, int, int], Samples]] = {
    "slower": lambda x, rate, seed: stretched(x, rate, 0.8),
    "faster": lambda x, rate, seed: stretched(x, rate, 1.25),
    "lower": lambda x, rate, seed: pitched(x, rate, -3),
    "higher": lambda x, rate, seed: pitched(x, rate, 3),
    "shifted": lambda x, rate, seed: shifted(x, rate, 60),
    "panned": lambda x, rate, seed: np.stack([0.9 * x, 0.1 * x], 1),
    "quiet": lambda x, rate, seed: x * 10 ** (-26 / 20),
    "overdriven": lambda x, rate, seed: np.clip(x * 10 ** (14 / 20), -0.9, 0.9),
    "noise": lambda x, rate, seed: noisy(x, _random(x, seed), SNR),
    "hum": lambda x, rate, seed: noisy(x, _hum(x, rate), 10.0),
    "low-pass": lambda x, rate, seed: band(x, rate, 0, min(3000, 0.49 * rate)),
    "telephone": lambda x, rate, seed: telephone(x, rate),
    "codec": lambda x, rate, seed: encoded(x, rate),
    "room": lambda x, rate, seed: in_a_room(x, rate, 0.5, seed),
}
"""Name -> change of (n,) samples at a rate under a seed"""
HEARINGS = ("noise", "slower", "low-pass")
"""Those that a moderator listens through when it doubts a transcript (§3.6, step 5)"""


def changed(audio: Audio, name: str, seed: int = 0) -> Audio:
    """A sound after one of the ``CHANGES``, at its own rate; equal arguments give equal sounds.

    Args:
        audio: channels are averaged first. seed: of noise and rooms.

    Raises:
        UnknownName: no such change. BadInput: the sound is longer than ten minutes or hardly there.
    """
    if name not in CHANGES:
        raise UnknownName("change of a sound", name, CHANGES)
    samples = mono(audio, audio.rate).astype(np.float64)
    if len(samples) < 64:
        raise BadInput(f"a sound of {len(samples)} samples is too short to be changed; give 64 or more")
    luck = zlib.crc32(f"{name}|{seed}|{len(samples)}".encode())
    found = CHANGES[name](samples, audio.rate, luck)
    peak = float(np.abs(found).max())
    return Audio((found / max(1.0, peak)).astype(np.float32), audio.rate)
