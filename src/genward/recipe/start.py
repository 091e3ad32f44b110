"""The second lab's trunk on its way: its averaged weights in the package, so that training goes on from them elsewhere.

Kept as differences from the packaged oracle, whole numbers of 8 bits with one scale per output channel: half the size
of fp16 weights, and a relative error of the weights below 1 %, which the next hundred steps undo.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genward.errors import BadArtifact

if TYPE_CHECKING:
    from torch import Tensor

SCALE = "/scale"
"""Ending of the name under which a tensor's scales stand."""


def start_file() -> Path:
    """Where the trunk on its way lies in the package; the file may be missing."""
    import genward.lab as lab

    return lab.weights_folder().parent / "second" / "trunk.safetensors"


def coded(weights: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Differences of ``weights`` from ``base`` as int8 with float32 scales (channels,); vectors as float32.

    Args:
        weights, base: tensors of equal names and shapes.
    """
    import torch

    out = {}
    for name, value in weights.items():
        gap = value.float() - base[name].float()
        if gap.ndim < 2:
            out[name] = gap
            continue
        scale = gap.flatten(1).abs().amax(1).clamp(min=1e-12) / 127
        out[name + SCALE] = scale
        out[name] = (gap / scale.view(-1, *[1] * (gap.ndim - 1))).round().to(torch.int8)
    return out


def decoded(tensors: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that ``coded`` wrote down, float32.

    Raises:
        BadArtifact: names or shapes are not those of ``base``.
    """
    out = {}
    for name, value in base.items():
        gap = tensors.get(name)
        if gap is None or gap.shape != value.shape:
            raise BadArtifact(
                f"the second lab's trunk does not fit the packaged oracle (at {name}); remove it and start again"
            )
        if gap.ndim >= 2:
            gap = gap.float() * tensors[name + SCALE].view(-1, *[1] * (gap.ndim - 1))
        out[name] = value.float() + gap.float()
    return out


def keep(file: Path, weights: Mapping[str, Tensor], base: Mapping[str, Tensor], step: int) -> None:
    """Write the trunk's averaged weights and its step into ``file``, whole or not at all."""
    from safetensors.torch import save

    from genward.core.files import write_file

    tensors = {name: value.contiguous() for name, value in coded(weights, base).items()}
    write_file(file, save(tensors, metadata={"step": str(step)}))


def kept(file: Path, base: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], int] | None:
    """Averaged weights and step of the trunk in ``file``; ``None`` where there is no such file.

    Raises:
        BadArtifact: the file is damaged, or was made beside another oracle.
    """
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        return None
    try:
        with safe_open(str(file), "pt") as opened:
            step = int((opened.metadata() or {})["step"])
            tensors: dict[str, Any] = {name: opened.get_tensor(name) for name in opened.keys()}
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise BadArtifact(f"{file} cannot be read ({type(error).__name__}); remove it and start again") from error
    return decoded(tensors, base), step
