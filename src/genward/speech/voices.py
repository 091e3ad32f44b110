"""What speaks: the embedded voice, a speech endpoint, a command. Text in, sound out; nothing here refuses anything."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from genward.core.media import Audio
from genward.errors import BadInput, GenwardError
from genward.ops.cmudict import spoken_alphabet

PHONEMES = re.compile(r"\{([A-Z ]+)\}")
"""``{AE M B ER}`` in a text"""
PLACES = re.compile(r"\{(?:text|file|speed)\}")
HIBARI = "hibari-tts 0.2.1, voice heart"


class Voice(Protocol):
    """A synthesizer."""

    name: str

    def speak(self, text: str, seed: int, speed: float = 1.0) -> Audio:
        """The text as sound; equal texts and seeds give equal sounds where the engine can.

        Args:
            text: words, and phonemes where the engine takes them. seed: of its noise. speed: rate of speech, 0.5 to 2.

        Raises:
            BadInput: nothing to say, phonemes that the engine does not know, or a speed that it does not have.
            GenwardError: the engine failed.
        """
        ...


class EmbeddedVoice:
    """hibari-tts: a neural voice in its wheel (Apache-2.0), 24 kHz, seedable, takes phonemes."""

    name = HIBARI

    def __init__(self) -> None:
        try:
            from hibari import Hibari
        except ImportError as error:
            raise BadInput("the embedded voice is not installed; pip install 'genward[speech]'") from error
        self._engine = Hibari(threads=1)

    def speak(self, text: str, seed: int, speed: float = 1.0) -> Audio:
        """(n,) float32 at 24,000 Hz."""
        said = PHONEMES.sub(lambda m: f"[p](/{spoken_alphabet(m[1].split())}/)", checked_text(text))
        return finished(self._engine(said, speed=speed, seed=seed % 2**32), int(self._engine.sample_rate))


@dataclass(frozen=True)
class EndpointVoice:
    """Any OpenAI-compatible ``/v1/audio/speech``; answers in WAV are read."""

    url: str
    """As ``http://127.0.0.1:8000/v1``"""
    model: str = "tts"
    voice: str = "default"
    key: str = ""
    timeout: float = 60.0

    @property
    def name(self) -> str:
        return f"{self.url} {self.model} {self.voice}"

    def speak(self, text: str, seed: int, speed: float = 1.0) -> Audio:
        """What the endpoint answers. Raises ``GenwardError`` where it does not, or not with a sound."""
        body = {"model": self.model, "voice": self.voice, "input": checked_text(text), "response_format": "wav"}
        data = json.dumps({**body, "seed": seed, "speed": speed}).encode()
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self.key}"} if self.key else {})}
        request = urllib.request.Request(f"{self.url.rstrip('/')}/audio/speech", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                found = answer.read(64 << 20)
        except urllib.error.HTTPError as error:
            raise GenwardError(f"{self.url} answered {error.code} {error.reason}; see its log") from error
        except (urllib.error.URLError, TimeoutError, OSError) as error:
            raise GenwardError(f"{self.url} cannot be reached ({error}); check the address") from error
        return Audio.decoded(found)


@dataclass(frozen=True)
class CommandVoice:
    """A command-line synthesizer that writes a WAV file, as ``flite -t {text} -o {file}``; no shell is involved."""

    command: Sequence[str]
    """``{text}`` and ``{file}`` stand for what is said and where it is written, ``{speed}`` for the rate of speech."""
    timeout: float = 60.0

    @property
    def name(self) -> str:
        return self.command[0]

    def speak(self, text: str, seed: int, speed: float = 1.0) -> Audio:
        """What the command wrote. Raises ``GenwardError`` where it failed, ``BadInput`` for a speed that the command
        has no place for."""
        said = checked_text(text)
        if speed != 1.0 and not any("{speed}" in w for w in self.command):
            raise BadInput(f"{self.name} is asked to speak at {speed:g} times its rate; put {{speed}} into its command")
        if said.startswith("-"):
            said = " " + said  # no option of the command
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "said.wav"
            given = {"{file}": str(file), "{speed}": f"{speed:g}", "{text}": said}
            words = [PLACES.sub(lambda m: given[m[0]], w) for w in self.command]
            try:
                done = subprocess.run(words, capture_output=True, timeout=self.timeout, check=False)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise GenwardError(f"{self.command[0]} cannot speak: {error}") from error
            if done.returncode or not file.is_file():
                told = done.stderr.decode("utf-8", "replace").strip()[:200]
                raise GenwardError(f"{self.command[0]} ended with {done.returncode}: {told or 'it wrote no sound'}")
            return Audio.decoded(file.read_bytes())


def checked_text(text: str) -> str:
    """The text, or ``BadInput`` where there is nothing to say in it."""
    if not any(c.isalnum() for c in text):
        raise BadInput(f"{text[:40]!r} holds nothing to say; give words")
    return text


def finished(samples: Any, rate: int) -> Audio:
    """An engine's samples as a sound: finite, not above full scale."""
    found = np.asarray(samples, np.float32).reshape(-1)
    if not found.size or not bool(np.isfinite(found).all()):
        raise GenwardError("the voice made no sound, or one that is not finite")
    return Audio(found / max(1.0, float(np.abs(found).max())), rate)
