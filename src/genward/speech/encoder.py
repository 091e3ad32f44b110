"""The encoder of a Whisper model in torch, from the file that the embedded recognizer runs, so that gradients reach the
sound. The recognizer itself (CTranslate2) has none.

Layout of the file (CTranslate2 binary version 6, as read from it): version, name, revision, number of variables; each
variable its name, dimensions, type and bytes. Only float16 and float32 variables are read."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from genward.errors import BadArtifact, BadInput

RATE, HOP, WINDOW, MELS = 16_000, 160, 400, 80
HEADS = 6
"""Of tiny models"""
KINDS = {0: np.float32, 4: np.float16}
"""Number of a type in the file -> numpy's"""
MAX_NAME = 200


def read_variables(path: Path, prefix: str) -> dict[str, Tensor]:
    """Name without the prefix -> float32 tensor, of those variables whose names begin with it.

    Raises:
        BadArtifact: a file of another layout, or one that was cut short.
    """
    try:
        data = path.read_bytes()
        at = 0

        def take(form: str) -> int:
            nonlocal at
            (value,) = struct.unpack_from(form, data, at)
            at += struct.calcsize(form)
            return int(value)

        def text() -> str:
            nonlocal at
            size = take("<H")
            at += size
            return data[at - size : at].rstrip(b"\0").decode()

        if take("<I") != 6 or text() != "WhisperSpec":
            raise ValueError("it is no Whisper model of version 6")
        take("<I")
        found: dict[str, Tensor] = {}
        for _ in range(take("<I")):
            name, rank = text(), take("<B")
            shape = tuple(take("<I") for _ in range(rank))
            kind, size = take("<B"), take("<I")
            if name.startswith(prefix) and kind in KINDS:
                values = np.frombuffer(data, KINDS[kind], size // np.dtype(KINDS[kind]).itemsize, at)
                found[name.removeprefix(prefix)] = torch.from_numpy(values.astype(np.float32).reshape(shape))
            at += size
        if not found or at > len(data):
            raise ValueError("it was cut short")
        return found
    except (OSError, ValueError, struct.error, UnicodeDecodeError) as error:
        raise BadArtifact(f"{path} is not a recognizer that can be read ({error}); install it again") from error


class Encoder:
    """Sound to hidden states, with gradient.

    Args:
        weights: as ``read_variables`` gives them for ``encoder/``. filters: (mels, 201) of the recognizer's own.
    """

    def __init__(self, weights: Mapping[str, Tensor], filters: Tensor) -> None:
        self.w, self.filters = dict(weights), filters
        self.layers = len({k.split("/")[0] for k in self.w if k.startswith("layer_") and k[6].isdigit()})
        self.window = torch.hann_window(WINDOW)

    def mel(self, samples: Tensor) -> Tensor:
        """(mels, frames) log spectrum of (n,) samples at 16 kHz, scaled as the recognizer wants it."""
        spectrum = torch.stft(samples, WINDOW, HOP, window=self.window, return_complex=True)[:, :-1]
        logs = torch.log10(torch.clamp(self.filters @ spectrum.abs() ** 2, min=1e-10))
        return (torch.maximum(logs, logs.max() - 8.0) + 4.0) / 4.0

    def __call__(self, samples: Tensor) -> Tensor:
        """(frames / 2, width) states of a sound of up to 30 seconds."""
        w = self.w
        x = functional.gelu(functional.conv1d(self.mel(samples)[None], w["conv1/weight"], w["conv1/bias"], padding=1))
        x = functional.gelu(functional.conv1d(x, w["conv2/weight"], w["conv2/bias"], stride=2, padding=1))
        x = x[0].T
        x = x + w["position_encodings/encodings"][: len(x)]
        for k in range(self.layers):
            x = x + self._attended(self._norm(x, f"layer_{k}/self_attention/layer_norm"), f"layer_{k}/self_attention")
            y = self._norm(x, f"layer_{k}/ffn/layer_norm")
            x = x + self._linear(functional.gelu(self._linear(y, f"layer_{k}/ffn/linear_0")), f"layer_{k}/ffn/linear_1")
        return self._norm(x, "layer_norm")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return functional.linear(x, self.w[f"{name}/weight"], self.w.get(f"{name}/bias"))

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.w[f"{name}/gamma"], self.w[f"{name}/beta"])

    def _attended(self, x: Tensor, name: str) -> Tensor:
        n, width = x.shape
        q, k, v = self._linear(x, f"{name}/linear_0").view(n, 3, HEADS, width // HEADS).permute(1, 2, 0, 3)
        found = functional.scaled_dot_product_attention(q[None], k[None], v[None])[0]
        return self._linear(found.permute(1, 0, 2).reshape(n, width), f"{name}/linear_1")


@cache
def embedded_encoder() -> Encoder:
    """The encoder of the embedded recognizer (Whisper tiny.en). Raises ``BadInput`` where it is not installed."""
    from genward.ops.ears import recognizer_folder

    try:
        from faster_whisper.feature_extractor import FeatureExtractor
    except ImportError as error:
        raise BadInput("the embedded recognizer is not installed; pip install 'genward[speech]'") from error
    filters: Any = FeatureExtractor(feature_size=MELS).mel_filters
    folder = recognizer_folder()
    return Encoder(read_variables(folder / "model.bin", "encoder/"), torch.from_numpy(np.asarray(filters, np.float32)))
