"""Pipelines of the Stable Diffusion family from folders and hub ids: safetensors only, no remote code."""

from __future__ import annotations

import re
from pathlib import Path

from genward.core.precision import device_of, dtype_of
from genward.core.quiet import quiet_loading
from genward.core.reading import short
from genward.errors import BadInput, GenwardError
from genward.models.identity import HOW, read_folder, spec_of
from genward.models.sd import StableDiffusion


def load_pipeline(
    source: str, *, device: str | None = None, dtype: str = "float32", download: bool = False, variant: str = ""
) -> StableDiffusion:
    """Load a local folder or a hub id; safetensors only, no remote code, no download unless asked for.

    Args:
        variant: which copy of the weights to read where a folder holds several (``fp16``); see ``models.identity``.

    Raises:
        BadInput: no such folder, not a pipeline, pickled or truncated weights, no such dtype, device or variant, or not
            on this machine and ``download`` is off.
    """
    kind, where = dtype_of(dtype), device_of(device)
    folder = Path(source)
    if not _is_folder(folder):
        folder = _snapshot(source, download)
    found = read_folder(folder, variant)
    if not found.kind.startswith("StableDiffusionPipeline"):
        raise BadInput(
            f"{folder} holds a {short(found.kind, 60)!r}; this version of genward runs StableDiffusionPipeline"
        )
    from diffusers import StableDiffusionPipeline

    try:
        with quiet_loading():
            pipe = StableDiffusionPipeline.from_pretrained(
                str(folder), use_safetensors=True, dtype=kind, local_files_only=True, variant=found.variant or None
            )
    except GenwardError:
        raise
    except Exception as error:
        raise BadInput(
            f"the pipeline in {folder} cannot be loaded: {type(error).__name__}: {short(error, 300)}; check its files "
            "against their source"
        ) from error
    pipe.to(where)
    name = folder.name if _is_folder(Path(source)) else source
    return StableDiffusion(pipe, spec_of(folder, found.files, name, dtype))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _snapshot(source: str, download: bool) -> Path:
    if Path(source).suffix in (".safetensors", ".ckpt"):
        raise BadInput(f"model {short(source)!r} is a single-file checkpoint, no diffusers folder; {HOW}")
    if not re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", source) or source.startswith("."):
        raise BadInput(
            f"model {short(source)!r}: no such folder, and not a hub id (owner/name); 'lab' is the embedded model"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                source, local_files_only=not download, allow_patterns=["*.json", "*.txt", "*.model", "*/*.safetensors"]
            )
        )
    except Exception as error:
        hint = "check the name and the network" if download else "pass --download to fetch it, or give a local folder"
        raise BadInput(f"model {source!r} is not on this machine ({type(error).__name__}); {hint}") from error
