"""What judges that wrap a Hugging Face model share: find it on this machine, trust only safetensors, load it quietly,
prepare pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from genward.core.quiet import quiet_loading
from genward.core.records import Sample
from genward.core.spec import file_hash
from genward.errors import BadArtifact, BadInput, GenwardError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_RATIO = 50
"""A picture longer than so many times its other side is not judged: preparing it would take gigabytes."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")
T = TypeVar("T")


def local_folder(model: str, *, download: bool, judge: str) -> Path:
    """The folder of a model: itself, or the snapshot of a hub id.

    Raises:
        BadInput: nothing was named, no such folder, or a hub id that is not on this machine while ``download`` is off.
        BadArtifact: a folder without configuration or without safetensors.
    """
    if not model:
        raise BadInput(
            f"judge {judge!r} was not told which model to use; set its field `model` to a folder written by "
            "save_pretrained, or to a hub id"
        )
    folder = Path(model)
    if not folder.is_dir():
        folder = _snapshot(model, download, judge)
    if not (folder / "config.json").is_file():
        raise BadArtifact(
            f"{folder} is no model (it has no config.json); give a folder written by save_pretrained, or a hub id"
        )
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
        found = f"only {pickles[0]}, which genward never loads" if pickles else "no weights"
        raise BadArtifact(f"{folder} holds {found}; write it anew with save_pretrained, which makes safetensors")
    return folder


def _snapshot(model: str, download: bool, judge: str) -> Path:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model) or model.startswith("."):
        raise BadInput(f"model {model!r} of judge {judge!r}: no such folder, and not a hub id (owner/name)")
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(model, local_files_only=not download, allow_patterns=["*.json", "*.txt", "*.safetensors"])
        )
    except Exception as error:
        hint = "check the name and the network" if download else "set download=true to fetch it, or give a local folder"
        raise BadInput(
            f"model {model!r} of judge {judge!r} is not on this machine ({type(error).__name__}); {hint}"
        ) from error


def config_of(folder: Path) -> dict[str, Any]:
    """``config.json`` as a table; ``BadArtifact`` where it is none."""
    try:
        raw = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise BadArtifact(f"{folder / 'config.json'} cannot be read ({error}); get the model anew") from error
    if not isinstance(raw, dict):
        raise BadArtifact(f"{folder / 'config.json'} is a {type(raw).__name__}, not a table; get the model anew")
    return raw


def hashes(folder: Path) -> dict[str, str]:
    """File name -> SHA-256 of the weights, configurations and word lists in a folder (not below it)."""
    return {
        p.name: file_hash(p)
        for p in sorted(folder.iterdir())
        if p.suffix in (".safetensors", ".json", ".txt") and p.is_file()
    }


def loaded(folder: Path, load: Callable[[], tuple[T, Any]]) -> T:
    """Run a loader that returns (model, loading info); anything that goes wrong, new random weights included, is
    ``BadArtifact``."""
    try:
        with quiet_loading():
            model, info = load()
    except GenwardError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise BadArtifact(
            f"the model in {folder} cannot be loaded ({type(error).__name__}: {text}); check its files against their "
            "source"
        ) from error
    lacking = sorted([*info.get("missing_keys", ()), *(str(k) for k in info.get("mismatched_keys", ()))])
    if lacking:
        shown = ", ".join(lacking[:3]) + (", …" if len(lacking) > 3 else "")
        raise BadArtifact(
            f"the weights in {folder} lack {len(lacking)} tensors ({shown}); they would be random: give a model "
            "trained for this task"
        )
    return model


def device_of(name: str) -> Any:
    """A torch device; ``""`` takes CUDA where there is one, else the CPU. ``BadInput`` for a device that does not
    exist."""
    import torch

    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"device {name!r} cannot be used ({str(error).splitlines()[0][:120]}); try cpu") from error
    return device


def unusable(sample: Sample) -> str:
    """Why a sample's picture cannot be judged; empty where it can."""
    if sample.image is None:
        return f"no picture: {sample.status} {sample.why}".strip()
    width, height = sample.image.size
    if min(width, height) < 1 or max(width, height) > MAX_RATIO * min(width, height):
        return f"a picture of {width}×{height} pixels; at most {MAX_RATIO} times as long as wide can be judged"
    return ""


def pixels(processor: Any, pictures: Sequence[Image]) -> Any:
    """(n, 3, h, w) float32 tensor as the processor prepares RGB pictures, each by itself, since sizes may differ."""
    import torch

    rows = [
        processor(images=[np.asarray(p.convert("RGB"))], input_data_format="channels_last", return_tensors="pt")[
            "pixel_values"
        ]
        for p in pictures
    ]
    return torch.cat([torch.as_tensor(row, dtype=torch.float32) for row in rows])
