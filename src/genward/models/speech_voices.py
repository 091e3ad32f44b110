"""Voices: engines that speak, each behind ``core.speech.Voice``. An engine is imported and loaded by the first text
that it speaks, and shared by all its speakers.

``hibari`` is the embedded one: neural, its weights in its wheel. ``pico`` and ``flite`` are older engines with other
timbres. A folder holds a model that transformers turns into sound in one call (VITS and its like); ``speech_served``
has the client of a server. Engines read mark-up of their own in the text (hibari ``[word](/ipa/)``): what was said is
told by the sound's transcript, not by the text."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from genward.core.media import Audio
from genward.core.pronouncing import VOWELS
from genward.core.reading import short
from genward.core.sound import read_sound
from genward.core.spec import Spec, file_hash
from genward.core.speech import Voice
from genward.errors import BadInput, EngineError, Inapplicable, UnknownName
from genward.models.speech_engines import LOCK, checked_speed, made, needed, spoken_text, version_of
from genward.models.speech_served import ServedVoice

WORD = "|"
"""Stands between the words of a phoneme sequence."""


# -------------------------------------------------------------------------------------------------------------- hibari

_HIBARI = {
    "AA": "ɑ", "AE": "æ", "AH": "ə", "AO": "ɔ", "AW": "W", "AY": "I", "EH": "ɛ", "ER": "əɹ", "EY": "A", "IH": "ɪ",
    "IY": "i", "OW": "O", "OY": "Y", "UH": "ʊ", "UW": "u", "CH": "ʧ", "DH": "ð", "G": "ɡ", "HH": "h", "JH": "ʤ",
    "NG": "ŋ", "R": "ɹ", "SH": "ʃ", "TH": "θ", "Y": "j", "ZH": "ʒ",
}  # fmt: skip
"""ARPABET -> the alphabet of hibari, where it is not the lower-case letter; diphthongs are capitals there."""
_STRESSED = {"AH": "ʌ", "ER": "ɜɹ"}


def hibari_phonemes(phonemes: Sequence[str]) -> str:
    """ARPABET symbols in hibari's alphabet. The dictionary marks no stress: a word's first full vowel gets it, its
    first vowel where it has none but AH."""
    out = []
    for word in " ".join(phonemes).split(WORD):
        phones = word.split()
        vowels = [k for k, p in enumerate(phones) if p in VOWELS]
        stressed = next((k for k in vowels if phones[k] != "AH"), vowels[0] if vowels else -1)
        out.append("".join(_hibari_sign(p, k == stressed) for k, p in enumerate(phones)))
    return " ".join(out)


def _hibari_sign(phone: str, stressed: bool) -> str:
    plain = _HIBARI.get(phone, phone.lower())
    return f"ˈ{_STRESSED.get(phone, plain)}" if stressed else plain


@dataclass(frozen=True)
class HibariVoice:
    """The embedded voice: hibari-tts, 24 kHz. A seed fixes its breath noise, and with it every sample."""

    name: ClassVar[str] = "hibari"
    speaker: str = "heart"
    """One whose weights are on this machine; nothing is downloaded."""
    speed: float = 1.0
    """0.5 to 2"""

    def __post_init__(self) -> None:
        checked_speed(self.speed)

    @property
    def spec(self) -> Spec:
        path = _hibari_weights(self.speaker)
        return Spec("voice", self.name, {"speaker": self.speaker, "weights": file_hash(path)[:16]})

    def tuned(self, speaker: str, speed: float) -> HibariVoice:
        found = replace(self, speaker=speaker or self.speaker, speed=speed)
        _hibari_weights(found.speaker)
        return found

    def speak(self, text: str, seed: int = 0, phonemes: Sequence[str] | None = None) -> Audio:
        """24 kHz, mono, the same bits for the same seed on one machine."""
        engine = _hibari(self.speaker)
        with LOCK:
            if phonemes is not None:
                samples = engine.from_phonemes(hibari_phonemes(phonemes), speed=self.speed, seed=seed)
            else:
                samples = engine(spoken_text(text), speed=self.speed, seed=seed)
        return made(samples, engine.sample_rate, text)


def _hibari_weights(speaker: str) -> Path:
    voices = needed("hibari.voices", "hibari-tts")
    if speaker not in voices.VOICES:
        raise UnknownName("hibari speaker", speaker, voices.VOICES)
    try:
        return Path(voices.voice_path(speaker, download_missing=False))
    except FileNotFoundError as error:
        raise EngineError(
            f"the weights of hibari's speaker {speaker!r} are not on this machine ({error}); use 'heart', which comes "
            "with it"
        ) from error


@cache
def _hibari(speaker: str) -> Any:
    path = _hibari_weights(speaker)
    return needed("hibari", "hibari-tts").Hibari(voice=speaker, model=str(path), threads=1)


# ---------------------------------------------------------------------------------------------------------------- pico

PICO = ("en-US", "en-GB")
"""Its English speakers."""


@dataclass(frozen=True)
class PicoVoice:
    """SVOX Pico by py-nanotts, 16 kHz. It takes no seed, and now and then repeats a text with other last bits."""

    name: ClassVar[str] = "pico"
    speaker: str = "en-US"
    """``en-US`` | ``en-GB``"""
    speed: float = 1.0
    """0.5 to 2"""

    def __post_init__(self) -> None:
        checked_speed(self.speed)
        if self.speaker not in PICO:
            raise UnknownName("pico speaker", self.speaker, PICO)

    @property
    def spec(self) -> Spec:
        return Spec("voice", self.name, {"speaker": self.speaker, "version": version_of("py-nanotts")})

    def tuned(self, speaker: str, speed: float) -> PicoVoice:
        return replace(self, speaker=speaker or self.speaker, speed=speed)

    def speak(self, text: str, seed: int = 0, phonemes: Sequence[str] | None = None) -> Audio:
        """16 kHz, mono; the seed is not used."""
        import numpy as np

        if phonemes is not None:
            raise Inapplicable("the voice pico takes no phonemes; use hibari or flite")
        engine = needed("py_nanotts", "py-nanotts").NanoTTS()
        with LOCK:
            raw = engine.speak(spoken_text(text), voice=self.speaker, speed=self.speed)
        return made(np.frombuffer(raw, "<i2").astype(np.float32) / 32_768, 16_000, text)


# --------------------------------------------------------------------------------------------------------------- flite


@dataclass(frozen=True)
class FliteVoice:
    """Flite by its command line (Debian package flite), 8 or 16 kHz; deterministic, takes no seed."""

    name: ClassVar[str] = "flite"
    speaker: str = "slt"
    """One of those that the program lists: slt, rms, awb, kal, kal16"""
    speed: float = 1.0
    """0.5 to 2"""
    timeout: float = 60.0
    """Seconds that a text may take"""

    def __post_init__(self) -> None:
        checked_speed(self.speed)

    @property
    def spec(self) -> Spec:
        return Spec("voice", self.name, {"speaker": self.speaker, "program": _flite_hash()})

    def tuned(self, speaker: str, speed: float) -> FliteVoice:
        found = replace(self, speaker=speaker or self.speaker, speed=speed)
        if found.speaker not in _flite_speakers():  # the program itself falls back to another one without a word
            raise UnknownName("flite speaker", found.speaker, _flite_speakers())
        return found

    def speak(self, text: str, seed: int = 0, phonemes: Sequence[str] | None = None) -> Audio:
        """16 kHz (kal: 8 kHz), mono; the seed is not used."""
        self.tuned(self.speaker, self.speed)
        if phonemes is not None:
            given = ["-p", " ".join(["pau", *(p.lower() for p in phonemes if p != WORD), "pau"])]
        else:
            given = ["-t", spoken_text(text)]
        with tempfile.TemporaryDirectory(prefix="genward-flite-") as folder:
            out = Path(folder) / "spoken.wav"
            stretch = f"duration_stretch={1 / self.speed:.4f}"
            _ran([_flite(), "-voice", self.speaker, "--setf", stretch, *given, "-o", str(out)], self.timeout)
            if not out.is_file():
                raise EngineError(f"flite wrote no sound of {short(text)!r}; use another voice")
            return read_sound(out.read_bytes())


def _flite() -> str:
    found = shutil.which("flite")
    if found is None:
        raise EngineError("the program flite is not installed; apt-get install flite, or use another voice")
    return found


def _ran(command: Sequence[str], timeout: float) -> str:
    """What a program printed. Raises ``EngineError`` where it fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout, check=True, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"flite took more than {timeout:g} s; give it a shorter text") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode("utf-8", "replace")
        raise EngineError(f"flite ended with {error.returncode}: {short(said)}; check its installation") from error
    except (OSError, ValueError) as error:
        raise EngineError(f"flite cannot be run: {short(error)}; check its installation") from error
    return done.stdout.decode("utf-8", "replace")


@cache
def _flite_speakers() -> tuple[str, ...]:
    return tuple(_ran([_flite(), "-lv"], 20.0).partition(":")[2].split())


@cache
def _flite_hash() -> str:
    return hashlib.sha256(Path(_flite()).read_bytes()).hexdigest()[:16]


# -------------------------------------------------------------------------------------------------------- transformers


@dataclass(frozen=True, eq=False)
class TransformersVoice:
    """A model of transformers that turns token ids into a waveform in one call: VITS, MMS and their like."""

    name: ClassVar[str] = "transformers"
    model: Any
    """With ``config.sampling_rate``; its output has ``waveform``"""
    tokenizer: Any
    identity: str
    """Hash of the files that it was loaded from"""
    speed: float = 1.0
    """0.5 to 2, where the model has a ``speaking_rate``"""

    def __post_init__(self) -> None:
        checked_speed(self.speed)
        if not isinstance(getattr(self.model.config, "sampling_rate", None), int):
            raise BadInput("a model without config.sampling_rate is no voice; give a VITS model")

    @classmethod
    def load(cls, folder: str | Path, device: str | None = None) -> TransformersVoice:
        """The model and tokenizer of a local folder; safetensors alone, nothing is downloaded, no code of the folder's
        own is run.

        Raises:
            BadInput: no such folder, or nothing in it that can be loaded.
        """
        from transformers import AutoModelForTextToWaveform, AutoTokenizer

        place = Path(folder)
        files = sorted(p for p in place.glob("*") if p.suffix in (".safetensors", ".json", ".txt"))
        if not any(p.suffix == ".safetensors" for p in files):
            raise BadInput(f"{short(str(folder))} holds no safetensors file; give a folder with a text-to-speech model")
        try:
            model = AutoModelForTextToWaveform.from_pretrained(place, use_safetensors=True, local_files_only=True)
            tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise BadInput(f"{short(str(folder))} cannot be loaded as a voice: {short(error)}") from error
        whole = hashlib.sha256("".join(f"{p.name}:{file_hash(p)}\n" for p in files).encode()).hexdigest()
        return cls(model.eval().to(device or "cpu"), tokenizer, whole[:16])

    @property
    def spec(self) -> Spec:
        return Spec("voice", self.name, {"class": type(self.model).__name__, "files": self.identity})

    def tuned(self, speaker: str, speed: float) -> TransformersVoice:
        if speaker:
            raise UnknownName("speaker of this model", speaker, [])
        return replace(self, speed=speed)

    def speak(self, text: str, seed: int = 0, phonemes: Sequence[str] | None = None) -> Audio:
        """Mono, at the model's own rate; the seed fixes all its noise, and the process's generators stay as they
        were."""
        import torch

        if phonemes is not None:
            raise Inapplicable("a transformers voice takes no phonemes; use hibari or flite")
        given = self.tokenizer(spoken_text(text), return_tensors="pt")
        if not given["input_ids"].shape[-1]:
            raise BadInput(f"the voice's tokenizer finds nothing in {short(text)!r}; give a text in its alphabet")
        inputs = {k: v.to(self.model.device) for k, v in given.items() if k in ("input_ids", "attention_mask")}
        with LOCK, torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed % 2**63)
            before = getattr(self.model, "speaking_rate", None)
            if before is not None:
                self.model.speaking_rate = before * self.speed
            try:
                wave = self.model(**inputs).waveform
            finally:
                if before is not None:
                    self.model.speaking_rate = before
        return made(wave[0].float().cpu().numpy(), self.model.config.sampling_rate, text)


STOCK: dict[str, Callable[[], Voice]] = {"hibari": HibariVoice, "pico": PicoVoice, "flite": FliteVoice}
"""Engines by name."""


def open_voice(name: str, device: str | None = None) -> Voice:
    """``hibari``, ``pico``, ``flite``, one with a speaker (``flite/rms``), the address of a server
    (``http://127.0.0.1:8000/v1``, with ``#model`` behind it where it has several), or a folder.

    Raises:
        UnknownName: an engine or a speaker that does not exist. BadInput: nothing usable in the folder.
        EngineError: the engine is not installed.
    """
    if name.startswith(("http://", "https://")):
        address, _, model = name.partition("#")
        return ServedVoice(address, model) if model else ServedVoice(address)
    engine, _, speaker = name.partition("/")
    if engine in STOCK:
        return STOCK[engine]().tuned(speaker, 1.0)
    if Path(name).is_dir():
        return TransformersVoice.load(name, device)
    raise UnknownName("voice", name, [*STOCK, "http://…", "FOLDER"])
