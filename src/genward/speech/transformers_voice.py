"""A voice from a folder: models of transformers that turn tokens into a waveform in one call (VITS, MMS and their
like)."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genward.core.media import Audio
from genward.core.reading import short
from genward.errors import BadInput
from genward.speech.voices import checked_text, finished

READ = (".safetensors", ".json", ".txt")
"""Files of a folder that make it the voice that it is"""


@dataclass(frozen=True, eq=False)
class TransformersVoice:
    """A model and its tokenizer as a voice; texts that need phonemes are for others.

    Raises:
        BadInput: a model that says no sampling rate.
    """

    model: Any
    """With ``config.sampling_rate``; its output has ``waveform``"""
    tokenizer: Any
    identity: str = "in memory"
    """Hash of the files that it was loaded from"""
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(getattr(self.model.config, "sampling_rate", None), int):
            raise BadInput("a model without config.sampling_rate is no voice; give a VITS model")

    @property
    def name(self) -> str:
        return f"transformers {type(self.model).__name__} {self.identity}"

    @classmethod
    def load(cls, folder: str | Path) -> TransformersVoice:
        """The model and tokenizer of a local folder: safetensors alone, nothing is downloaded, no code of the folder's
        own is run.

        Raises:
            BadInput: no such folder, or nothing in it that can be loaded.
        """
        from transformers import AutoModelForTextToWaveform, AutoTokenizer

        place = Path(folder)
        files = sorted(p for p in place.glob("*") if p.suffix in READ and p.is_file())
        if not any(p.suffix == ".safetensors" for p in files):
            raise BadInput(f"{short(str(folder))} holds no safetensors file; give a folder with a text-to-speech model")
        try:
            model = AutoModelForTextToWaveform.from_pretrained(place, use_safetensors=True, local_files_only=True)
            tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise BadInput(f"{short(str(folder))} cannot be loaded as a voice: {short(error)}") from error
        whole = hashlib.sha256()
        for path in files:
            with path.open("rb") as file:
                whole.update(f"{path.name}:{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return cls(model.eval(), tokenizer, whole.hexdigest()[:16])

    def speak(self, text: str, seed: int, speed: float = 1.0) -> Audio:
        """Mono, at the model's own rate; the seed fixes all its noise, and the process's generators stay as they were.

        Raises:
            BadInput: nothing to say, phonemes, a speed that the model does not have, or nothing that its tokenizer
                knows.
        """
        import torch

        if "{" in checked_text(text):
            raise BadInput("a voice of transformers takes no phonemes in braces; use the embedded voice")
        given = self.tokenizer(text, return_tensors="pt")
        if not given["input_ids"].shape[-1]:
            raise BadInput(f"the voice's tokenizer finds nothing in {short(text)!r}; give a text in its alphabet")
        usual = getattr(self.model, "speaking_rate", None)
        if usual is None and speed != 1.0:
            raise BadInput(f"{self.name} is asked to speak at {speed:g} times its rate, which it cannot")
        inputs = {k: v for k, v in given.items() if k in ("input_ids", "attention_mask")}
        with self._lock, torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed % 2**63)
            try:
                if usual is not None:
                    self.model.speaking_rate = usual * speed
                wave = self.model(**inputs).waveform
            finally:
                if usual is not None:
                    self.model.speaking_rate = usual
        return finished(wave[0].float().cpu().numpy(), self.model.config.sampling_rate)
