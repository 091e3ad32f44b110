"""Second recognizers beside Whisper (``ops.ears``), with errors of their own: pocketsphinx, and hama, which hears
phonemes, so that no respelling fools it. Each is imported when it is first opened."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genward.core.media import Audio
from genward.errors import BadInput, UnknownName
from genward.ops.ears import RATE, WHISPER, Ear, Transcript, ear
from genward.ops.hearing import SILENT, mono
from genward.speech.phoneme_runs import ipa_sounds, sound_words
from genward.speech.phonemes import english_lexicon

LEAD = 0.2
"""Seconds of silence that pocketsphinx wants on both sides"""
PACKAGES = {"pocketsphinx": "pocketsphinx", "hama": "hama"}
"""Recognizer -> its package"""


def needed(module: str, package: str) -> Any:
    """An optional package's module. Raises ``BadInput`` that says how to get it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise BadInput(f"the package {package} is not installed ({error}); pip install {package}") from error


def prepared(audio: Audio, lead: float = 0.0) -> NDArray[np.float32] | None:
    """(n,) samples at 16 kHz with ``lead`` seconds of silence on both sides; ``None`` for silence."""
    samples = mono(audio, RATE)
    if len(samples) < RATE // 10 or float(np.abs(samples).max()) < SILENT:
        return None
    found: NDArray[np.float32] = np.pad(samples, round(lead * RATE))
    return found


class SphinxEar:
    """pocketsphinx with its own model of American English."""

    name = "pocketsphinx"

    def __init__(self) -> None:
        self._engine = needed("pocketsphinx", "pocketsphinx").Decoder(samprate=RATE, loglevel="FATAL")
        self._lock = threading.Lock()

    def hear(self, audio: Audio) -> Transcript:
        """Lower-case words. Raises ``BadInput`` for a sound of more than ten minutes."""
        samples = prepared(audio, LEAD)
        if samples is None:
            return Transcript("")
        with self._lock:
            self._engine.start_utt()
            try:
                self._engine.process_raw((samples * 32_767).astype("<i2").tobytes(), full_utt=True)
            finally:
                self._engine.end_utt()
            words = [s.word.partition("(")[0] for s in self._engine.seg() or () if s.word[:1] not in "<[+"]
        return Transcript(" ".join(words))


class HamaEar:
    """hama: phonemes, which are read as words here."""

    name = "hama"

    def __init__(self) -> None:
        self._engine = needed("hama", "hama").ASRModel()
        self._lock = threading.Lock()

    def hear(self, audio: Audio) -> Transcript:
        """What its phonemes say. Raises ``BadInput`` for a sound of more than ten minutes."""
        samples = prepared(audio)
        if samples is None:
            return Transcript("")
        with self._lock:
            told = str(self._engine.transcribe_waveform(samples, RATE).word_phoneme_text)
        return Transcript(words_of_ipa(told))


def words_of_ipa(text: str) -> str:
    """Words of a text in IPA, ``|`` between them; one that says no word is left out."""
    lexicon = english_lexicon()
    parts = [ipa_sounds(part.replace(" ", "")) for part in text.split("|")]
    return " ".join(w for said in parts if said for w in sound_words(said, lexicon))


EARS: Mapping[str, Callable[[], Ear]] = {"whisper": ear, "pocketsphinx": SphinxEar, "hama": HamaEar}
"""Recognizers by name; ``whisper`` is the embedded one."""


@cache
def opened(name: str) -> Ear:
    """A recognizer by name, loaded once. Raises ``UnknownName``, or ``BadInput`` where its package is missing."""
    if name not in EARS:
        raise UnknownName("recognizer", name, EARS)
    return EARS[name]()


__all__ = ["EARS", "WHISPER", "HamaEar", "SphinxEar", "opened", "prepared", "words_of_ipa"]
