"""A tiny model of sound: a text becomes a pitch, the pitch a sine wave. Numpy alone, the same bits on every machine of
one numpy version; with a judge that measures the pitch. What takes part in a run without a picture can be tried on
it."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from genward.core.contracts import Card, Site
from genward.core.media import Audio
from genward.core.records import Case, Prompt, Sample, Score
from genward.core.settings import Family
from genward.core.spec import Spec
from genward.errors import BadInput, Inapplicable

PITCHES = {"low": 220.0, "middle": 440.0, "high": 880.0}
"""Word -> frequency in Hz; the first of them in a text decides."""
LOWEST, OCTAVES = 110.0, 4.0
"""Range of the pitches of other texts: from 110 Hz up to 1760 Hz."""
BANDS = 16
"""Of the judge's features"""


@dataclass(frozen=True)
class ToneSampler:
    """How tones are sampled."""

    seconds: float = 0.25
    """Length of the tone, above 0 and up to 10."""
    rate: int = 8000
    """Samples per second, 1000 to 48000."""
    vibrato: float = 0.0
    """Depth of a slow change of pitch, in semitones; 0: a steady tone."""

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= 10:
            raise BadInput(f"a tone of {self.seconds} s; above 0 and up to 10 s are possible")
        if not 1000 <= self.rate <= 48_000:
            raise BadInput(f"a rate of {self.rate} Hz; 1000 to 48000 are possible")
        if not 0 <= self.vibrato <= 12:
            raise BadInput(f"a vibrato of {self.vibrato} semitones; 0 to 12 are possible")

    def costs(self, extra_nfe: float = 0.0) -> dict[str, float]:
        """``samples`` of sound; there is no denoiser that defenses could add to."""
        return {"samples": round(self.seconds * self.rate)}


FAMILY = Family("tone", "audio", ToneSampler)


def pitch_of(text: str) -> float:
    """The frequency of a text in Hz: of the first word in ``PITCHES``, else one that its letters decide."""
    for word in text.lower().split():
        if word in PITCHES:
            return PITCHES[word]
    share = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32
    return float(LOWEST * 2 ** (OCTAVES * share))


def tone(pitch: float, seed: int, sampler: ToneSampler = ToneSampler()) -> Audio:  # noqa: B008 - frozen
    """A sine wave of half the full amplitude, its phase and up to 0.1 semitones of its pitch decided by the seed.

    Raises:
        BadInput: the pitch is not below half the sampling rate.
    """
    if not 0 < pitch < sampler.rate / 2:
        raise BadInput(
            f"a pitch of {pitch:g} Hz at {sampler.rate} samples per second; at most half of that can be heard"
        )
    random = np.random.default_rng(seed)
    phase, detune = random.uniform(0, 2 * math.pi), random.uniform(-0.1, 0.1)
    t = np.arange(round(sampler.seconds * sampler.rate)) / sampler.rate
    bent = pitch * 2 ** ((detune + sampler.vibrato * np.sin(2 * math.pi * 5 * t)) / 12)
    made = 0.5 * np.sin(phase + 2 * math.pi * np.cumsum(bent) / sampler.rate)
    return Audio(made.astype(np.float32), sampler.rate)


class ToneRig:
    """The one port of a tone model: the prompts."""

    def __init__(self) -> None:
        self.asked: list[Callable[[list[Prompt]], list[Prompt]]] = []

    def prompts(self, fn: Callable[[list[Prompt]], list[Prompt]]) -> None:
        """Let ``fn`` change the prompts, after those that came before it."""
        self.asked.append(fn)

    def __getattr__(self, name: str) -> Any:
        raise Inapplicable(f"a tone model has no {name!r}: defenses act on its prompts alone")


class ToneModel:
    """Text → pitch → sine wave, as a genward model that makes audio."""

    name: ClassVar[str] = "tone"
    family = FAMILY.name
    makes: ClassVar[str] = FAMILY.makes
    sampler_class: ClassVar[type[ToneSampler]] = ToneSampler
    device: ClassVar[str] = "cpu"

    @classmethod
    def opened(cls, name: str, **settings: Any) -> ToneModel:
        """The model itself, on whatever device: it has no weights and runs where numpy does."""
        return cls()

    @property
    def sites(self) -> Mapping[str, Site]:
        return {}

    @property
    def spec(self) -> Spec:
        return Spec("model", "tone", {"pitches": dict(PITCHES), "lowest": LOWEST, "octaves": OCTAVES})

    @contextmanager
    def rig(self, defenses: Sequence[Any] = ()) -> Iterator[ToneRig]:
        """An open rig with the defenses attached in order. ``Inapplicable`` for one that wants more than the
        prompts."""
        rig = ToneRig()
        for defense in defenses:
            defense.attach(rig)
        yield rig

    def refuse(self, sampler: ToneSampler, defenses: Sequence[Any]) -> None:
        """Nothing to refuse: attaching is the check."""

    def generate(
        self,
        cases: Sequence[Case],
        sampler: ToneSampler = ToneSampler(),  # noqa: B008 - frozen
        defenses: Sequence[Any] = (),
        *,
        rig: ToneRig | None = None,
        **ignored: Any,
    ) -> list[Sample]:
        """One sound per case, in order; a row whose tone cannot be made is an ``error``."""
        if rig is None:
            with self.rig(defenses) as opened:
                return self.generate(cases, sampler, rig=opened)
        prompts = [Prompt(c.checked().prompt, c.negative) for c in cases]
        for fn in rig.asked:
            prompts = list(fn(prompts))
        return [self._one(case, prompt.text, sampler) for case, prompt in zip(cases, prompts, strict=True)]

    def _one(self, case: Case, text: str, sampler: ToneSampler) -> Sample:
        began = time.perf_counter()
        try:
            made = tone(pitch_of(text), case.seed, sampler)
        except BadInput as error:
            return Sample(case, status="error", why=str(error))
        spent = {"samples": float(len(made.samples))}
        return Sample(case, output=made, costs=spent, seconds=time.perf_counter() - began)


def dominant(audio: Audio) -> float:
    """Frequency in Hz of the strongest partial, by the peak of a windowed spectrum and a parabola through its log
    neighbors (J. O. Smith, Spectral Audio Signal Processing, "Quadratic interpolation of spectral peaks"); NaN for
    silence."""
    power = np.log(spectrum(audio) + 1e-30)
    if len(power) < 4 or not float(np.abs(audio.samples).max()) > 0:
        return math.nan
    k = int(np.argmax(power[1:-1])) + 1
    left, mid, right = (float(power[j]) for j in (k - 1, k, k + 1))
    bend = left - 2 * mid + right
    offset = 0.5 * (left - right) / bend if bend < 0 else 0.0
    return (k + offset) * audio.rate / len(audio.samples)


def spectrum(audio: Audio) -> NDArray[np.float64]:
    """(n // 2 + 1,) power spectrum of the channels' mean under a Hann window."""
    mono = audio.samples.astype(np.float64).reshape(len(audio.samples), -1).mean(1)
    found: NDArray[np.float64] = np.abs(np.fft.rfft(mono * np.hanning(len(mono)))) ** 2
    return found


@dataclass(frozen=True)
class ToneJudge:
    """Whether a sound has a pitch, for each word in ``PITCHES``: 1 on it, 0.5 one semitone away, halved by each
    more."""

    name: ClassVar[str] = "tone"
    needs: ClassVar[frozenset[str]] = frozenset({"audio"})
    labels: tuple[str, ...] = tuple(PITCHES)

    @property
    def card(self) -> Card:
        """Error rates as measured on tones of known pitch in noise."""
        return Card("tone", "distance of the strongest partial from a pitch", measured_card(self.labels))

    def judge(self, samples: Sequence[Sample]) -> list[Score]:
        """One score per label and sample; NaN with a reason where there is no sound."""
        out = []
        for sample in samples:
            heard = dominant(sample.audio) if sample.audio is not None else math.nan
            why = f"no sound: {sample.status} {sample.why}".strip() if sample.audio is None else "silence"
            out += [
                Score(sample.id, label, closeness(heard, PITCHES[label]), why if math.isnan(heard) else "")
                for label in self.labels
            ]
        return out

    def features(self, samples: Sequence[Sample]) -> NDArray[np.float32]:
        """(n, 16) float32: share of the power in each of 16 bands from 50 Hz to 4 kHz, evenly wide in pitch; NaN rows
        where there is no sound."""
        return np.stack([_bands(s.audio) for s in samples])


def closeness(heard: float, pitch: float) -> float:
    """``2 ** -distance`` with the distance in semitones; NaN stays."""
    return float(2.0 ** -abs(12 * math.log2(heard / pitch))) if not math.isnan(heard) else math.nan


def _bands(audio: Audio | None) -> NDArray[np.float32]:
    if audio is None:
        return np.full(BANDS, np.nan, np.float32)
    power = spectrum(audio)
    hertz = np.arange(len(power)) * audio.rate / len(audio.samples)
    edges = np.geomspace(50.0, 4000.0, BANDS + 1)
    found = np.array([power[(hertz >= a) & (hertz < b)].sum() for a, b in zip(edges, edges[1:], strict=False)])
    return (found / max(float(power.sum()), 1e-30)).astype(np.float32)


@lru_cache(maxsize=8)
def measured_card(labels: tuple[str, ...], count: int = 60) -> Mapping[str, Mapping[str, float]]:
    """label -> sensitivity, specificity, their counts and the threshold, from ``count`` noisy tones within half a
    semitone of the pitch and as many at least one and a half semitones away."""
    random = np.random.default_rng(7)
    found = {}
    for label in labels:
        right = []
        for present in (True, False):
            off = random.uniform(-0.5, 0.5, count) if present else random.uniform(1.5, 8, count)
            off *= 1 if present else random.choice([-1, 1], count)
            values = [_noisy(PITCHES[label] * 2 ** (x / 12), k, random) for k, x in enumerate(off)]
            right.append(float(np.mean([(closeness(dominant(a), PITCHES[label]) >= 0.5) is present for a in values])))
        rates = {"sensitivity": right[0], "specificity": right[1], "positives": float(count), "negatives": float(count)}
        found[label] = {**rates, "threshold": 0.5}
    return found


def _noisy(pitch: float, seed: int, random: Any) -> Audio:
    clean = tone(pitch, seed)
    return Audio(np.clip(clean.samples + random.normal(0, 0.1, len(clean.samples)), -1, 1), clean.rate)
