"""Changes of a sound: what they do to pitch, length and level, against plain measurements."""

from __future__ import annotations

import numpy as np
import pytest

from genward.core.media import Audio
from genward.errors import BadInput, UnknownName
from genward.speech.changes import CHANGES, HEARINGS, band, changed, noisy, shifted, stretched

RATE = 16_000


def tone(hertz: float, seconds: float = 1.0) -> Audio:
    t = np.arange(round(seconds * RATE)) / RATE
    return Audio((0.3 * np.sin(2 * np.pi * hertz * t)).astype(np.float32), RATE)


def pitch(samples: np.ndarray, rate: int = RATE) -> float:
    """Frequency of the strongest line, in Hz."""
    held = samples if samples.ndim == 1 else samples.mean(1)
    spectrum = np.abs(np.fft.rfft(held * np.hanning(len(held))))
    return float(spectrum.argmax() * rate / len(held))


@pytest.mark.parametrize(
    ("name", "ratio", "length"),
    [("slower", 1, 1.25), ("faster", 1, 0.8), ("lower", 2**-0.25, 1), ("higher", 2**0.25, 1), ("codec", 1, 1)],
)
def test_pitch_and_length(name: str, ratio: float, length: float) -> None:
    found = changed(tone(440), name)
    assert found.seconds == pytest.approx(length, rel=0.08) and found.rate == RATE
    assert pitch(found.samples) == pytest.approx(440 * ratio, rel=0.02)


def test_a_tempo_of_one_changes_nothing_in_the_middle() -> None:
    held = 0.3 * np.random.default_rng(2).uniform(-1, 1, RATE)  # a tone fits at every period of it
    found = stretched(held, RATE, 1.0)
    assert len(found) == len(held) and np.abs(found[2000:-2000] - held[2000:-2000]).max() < 1e-6
    with pytest.raises(BadInput, match="tempo"):
        stretched(held, RATE, 9.0)


def test_levels_and_bands() -> None:
    held = tone(440).samples.astype(np.float64)
    noise = np.random.default_rng(0).standard_normal(len(held))
    added = noisy(held, noise, 20.0) - held
    assert 10 * np.log10(np.mean(held**2) / np.mean(added**2)) == pytest.approx(20.0, abs=1e-6)
    assert pitch(shifted(held, RATE, 60)) == pytest.approx(500, abs=2)
    for low, high, kept in ((0, 1000, True), (1000, RATE, False), (300, 600, True)):
        assert (np.mean(band(held, RATE, low, high) ** 2) > 0.5 * np.mean(held**2)) == kept
    assert changed(tone(440), "quiet").samples.max() == pytest.approx(0.3 * 10 ** (-26 / 20), rel=1e-3)
    sides = changed(tone(440), "panned").samples
    assert sides.shape == (RATE, 2) and np.abs(sides[:, 0]).max() > 8 * np.abs(sides[:, 1]).max()


def test_there_are_fourteen_and_each_is_the_same_again() -> None:
    assert len(CHANGES) == 14 and set(HEARINGS) <= set(CHANGES)
    sound = Audio(0.3 * np.random.default_rng(1).uniform(-1, 1, (24_000, 2)).astype(np.float32), 24_000)
    for name in CHANGES:
        found = changed(sound, name, 3)
        assert found == changed(sound, name, 3) and float(np.abs(found.samples).max()) <= 1, name
        assert found != sound
    assert changed(sound, "noise", 3) != changed(sound, "noise", 4)
    with pytest.raises(UnknownName, match="slower"):
        changed(sound, "slowr")
    with pytest.raises(BadInput, match="too short"):
        changed(Audio(np.zeros(10, np.float32), RATE), "noise")
