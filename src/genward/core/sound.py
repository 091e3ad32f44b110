"""Pure functions on sounds: reading, resampling, cutting, joining. Times are in seconds, levels in decibels of full
scale. scipy is imported by the first sound that changes its rate."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from genward.core.media import FULL, MAX_RATE, Audio
from genward.core.reading import short
from genward.errors import BadInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_SECONDS = 900.0
"""Longest sound that is listened to."""
MAX_BYTES = 512 << 20
"""Longest file that is read."""
QUIET = -50.0
"""Level in dB under which a frame counts as silence."""
FRAME = 0.01
"""Seconds of a frame whose level is measured."""
STREAMED = 0xFFFFFFFF
"""Length that a WAV header announces where the sender did not know it."""
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE


def mono(audio: Audio) -> NDArray[np.float32]:
    """(n,) mean of the channels."""
    held = audio.samples
    return held if held.ndim == 1 else held.mean(axis=1).astype(held.dtype)


def at_rate(audio: Audio, rate: int) -> Audio:
    """The sound, mono, at another sampling rate: polyphase filtering with scipy's default Kaiser window.

    Raises:
        BadInput: ``rate`` is no whole number of Hz from 1 to ``MAX_RATE``.
    """
    if isinstance(rate, bool) or not isinstance(rate, int) or not 1 <= rate <= MAX_RATE:
        raise BadInput(f"a sampling rate of {rate!r}; a whole number of Hz from 1 to {MAX_RATE:,} will do")
    if audio.rate == rate:
        return audio if audio.samples.ndim == 1 else Audio(mono(audio), rate)
    import numpy as np
    from scipy.signal import resample_poly

    common = math.gcd(audio.rate, rate)
    made = resample_poly(mono(audio).astype(np.float64), rate // common, audio.rate // common)
    return Audio(np.clip(made, -1.0, 1.0).astype(np.float32), rate)  # the filter rings over at edges of loud sounds


def levels(audio: Audio, frame: float = FRAME) -> NDArray[np.float64]:
    """(frames,) root mean square of each frame in dB of full scale, at least -120; the last frame may be shorter."""
    import numpy as np

    held = mono(audio).astype(np.float64)
    size = max(1, round(frame * audio.rate))
    starts = np.arange(0, len(held), size)
    power = np.add.reduceat(held**2, starts) / np.minimum(size, len(held) - starts)
    found: NDArray[np.float64] = 10 * np.log10(np.maximum(power, 1e-12))
    return found


def silent(audio: Audio, quiet: float = QUIET) -> bool:
    """Whether no frame of the sound is louder than ``quiet`` dB."""
    return bool(levels(audio).max() <= quiet)


def silence(seconds: float, rate: int) -> Audio:
    """At least one sample of nothing."""
    import numpy as np

    return Audio(np.zeros(max(1, round(seconds * rate)), np.float32), rate)


def cut(audio: Audio, start: float, end: float) -> Audio:
    """The part from ``start`` to ``end`` seconds, clipped to the sound; at least one sample."""
    first = min(max(0, round(start * audio.rate)), len(audio.samples) - 1)
    return Audio(audio.samples[first : max(first + 1, round(end * audio.rate))], audio.rate)


def trimmed(audio: Audio, quiet: float = QUIET, keep: float = 0.03) -> Audio:
    """The sound without the silence before and after, ``keep`` seconds of it left; a silent one stays as it is."""
    import numpy as np

    loud = np.flatnonzero(levels(audio) > quiet)
    if not len(loud):
        return audio
    return cut(audio, loud[0] * FRAME - keep, (loud[-1] + 1) * FRAME + keep)


def joined(audios: Sequence[Audio], pause: float = 0.0, fade: float = 0.003) -> Audio:
    """Sounds one after the other, mono, at the first one's rate, with ``pause`` seconds between them; each begins and
    ends with a linear fade of ``fade`` seconds, so that a join does not click.

    Raises:
        BadInput: no sound, or a negative pause.
    """
    import numpy as np

    if not audios or pause < 0:
        raise BadInput(f"{len(audios)} sounds joined with {pause:g} s between them; one sound and 0 s at least")
    rate = audios[0].rate
    gap = np.zeros(round(pause * rate), np.float32)
    parts: list[NDArray[np.float32]] = []
    for audio in audios:
        held = mono(at_rate(audio, rate)).copy()
        ramp = np.linspace(0.0, 1.0, min(round(fade * rate), len(held) // 2), endpoint=False, dtype=np.float32)
        held[: len(ramp)] *= ramp
        held[len(held) - len(ramp) :] *= ramp[::-1]
        parts += [held, gap]
    return Audio(np.concatenate(parts[:-1]), rate)


def pauses(audio: Audio, least: float = 0.15, quiet: float = QUIET) -> list[tuple[float, float]]:
    """(start, end) in seconds, rising, of the stretches of at least ``least`` seconds that are no louder than ``quiet``
    dB, those at both ends of the sound left out."""
    loud = [k for k, level in enumerate(levels(audio)) if level > quiet]
    ends = zip(loud, loud[1:], strict=False)
    return [((a + 1) * FRAME, b * FRAME) for a, b in ends if (b - a - 1) * FRAME >= least - 1e-9]


def quietest(audio: Audio, around: float, reach: float = 0.12) -> float:
    """The middle of the quietest frame within ``reach`` seconds of a time, the nearest of them: where a cut is heard
    least."""
    found = levels(audio)
    first = max(0, math.floor((around - reach) / FRAME))
    last = min(len(found), math.ceil((around + reach) / FRAME) + 1)
    if first >= last:
        return min(max(0.0, around), audio.seconds)
    floor = float(found[first:last].min()) + 1.0  # a dB of tolerance: in a pause the nearest place is as good as any
    near = (k for k in range(first, last) if found[k] <= floor)
    best = min(near, key=lambda k: abs((k + 0.5) * FRAME - around))
    return min((best + 0.5) * FRAME, audio.seconds)


def read_sound(source: bytes | str | Path) -> Audio:
    """A WAV file, or its bytes: PCM of 8, 16, 24 or 32 bits or IEEE floats of 32 or 64, any channels and rate.

    A header that announces no length (``0xFFFFFFFF``, as streaming servers send it) is taken to mean all that follows.
    What lies beyond [-1, 1] in a file of floats is clipped.

    Raises:
        BadInput: no such file, no WAV sound, one that is cut short, compressed, or longer than ``MAX_SECONDS``.
    """
    where = "the sound" if isinstance(source, bytes) else f"sound {short(source)}"
    return _decoded(source if isinstance(source, bytes) else _bytes(Path(source), where), where)


def _bytes(path: Path, where: str) -> bytes:
    try:
        if not path.is_file():
            raise BadInput(f"{where}: no such file; give a WAV file")
        if path.stat().st_size > MAX_BYTES:
            raise BadInput(f"{where}: {path.stat().st_size:,} bytes; at most {MAX_BYTES:,} are read")
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{where} cannot be read: {short(error)}") from error


def _chunks(data: bytes, where: str) -> Iterator[tuple[bytes, bytes]]:
    """(name, content) of each chunk of a RIFF file."""
    at = 12
    while at + 8 <= len(data):
        name, size = data[at : at + 4], struct.unpack_from("<I", data, at + 4)[0]
        if name == b"data" and size == STREAMED:
            size = len(data) - at - 8
        if at + 8 + size > len(data):
            raise BadInput(f"{where} is cut short: {len(data) - at - 8:,} of {size:,} bytes are there; get it again")
        yield name, data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def _decoded(data: bytes, where: str) -> Audio:
    import numpy as np

    if len(data) < 12 or data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise BadInput(f"{where}: {len(data):,} bytes are no WAV sound; convert it to WAV first")
    form, raw = b"", None
    for name, content in _chunks(data, where):
        if name == b"fmt ":
            form = content
        elif name == b"data":
            raw = content
            break
    if len(form) < 16 or raw is None:
        raise BadInput(f"{where}: a WAV file without its {'format' if len(form) < 16 else 'samples'}; get it again")
    kind, channels, rate = struct.unpack_from("<HHI", form)
    bits = struct.unpack_from("<H", form, 14)[0]
    if kind == EXTENSIBLE and len(form) >= 26:
        kind = struct.unpack_from("<H", form, 24)[0]
    values = _values(raw, kind, bits, where)
    if not 1 <= channels <= 64 or not 1 <= rate <= MAX_RATE or len(values) < channels:
        raise BadInput(f"{where}: {len(values):,} samples, {channels} channels, {rate:,} Hz; no sound that can be used")
    values = values[: len(values) // channels * channels]
    if len(values) / channels / rate > MAX_SECONDS:
        raise BadInput(f"{where} lasts {len(values) / channels / rate:.0f} s; at most {MAX_SECONDS:.0f} s are read")
    if not bool(np.isfinite(values).all()):
        raise BadInput(f"{where} holds samples that are not finite; make it again")
    held = np.clip(values, -1.0, 1.0).astype(np.float32)
    return Audio(held if channels == 1 else held.reshape(-1, channels), rate)


def _values(raw: bytes, kind: int, bits: int, where: str) -> NDArray[np.float64]:
    """Samples in file order, full scale at 1."""
    import numpy as np

    if (kind, bits) not in {(PCM, 8), (PCM, 16), (PCM, 24), (PCM, 32), (FLOAT, 32), (FLOAT, 64)}:
        raise BadInput(f"{where}: WAV of kind {kind} with {bits} bits; PCM of 8 to 32 bits or floats are read")
    raw = raw[: len(raw) // (bits // 8) * (bits // 8)]
    if kind == FLOAT:
        return np.frombuffer(raw, f"<f{bits // 8}").astype(np.float64)
    if bits == 8:
        return (np.frombuffer(raw, np.uint8).astype(np.float64) - 128) / 127
    if bits == 16:
        return np.frombuffer(raw, "<i2").astype(np.float64) / FULL
    if bits == 24:
        padded = np.zeros((len(raw) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        return padded.view("<i4").ravel().astype(np.float64) / 2**31
    return np.frombuffer(raw, "<i4").astype(np.float64) / 2**31


def listenable(audio: Audio) -> Audio:
    """The sound itself, or ``BadInput`` where it is longer than ``MAX_SECONDS``."""
    if audio.seconds > MAX_SECONDS:
        raise BadInput(f"a sound of {audio.seconds:.0f} s; at most {MAX_SECONDS:.0f} s are listened to, cut it")
    return audio


def total(audios: Iterable[Audio]) -> float:
    """Seconds of sounds together."""
    return sum(audio.seconds for audio in audios)
