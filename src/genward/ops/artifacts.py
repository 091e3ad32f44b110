"""Files of what a method learned: ``<stem>.safetensors`` beside its card ``<stem>.json``. Pickles are never opened.

Identity is the SHA-256 of the tensors' content (names, dtypes, shapes, bytes); it stands in the card and is checked on
loading, so tensors and card that do not belong together are noticed, half-written pairs included."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genward.core.contracts import Artifact
from genward.core.files import json_text, write_files
from genward.core.records import Concept
from genward.errors import BadArtifact, BadInput

FORMAT = 1
"""Version of the card."""
MAX_BYTES = 4 << 30
"""Largest tensor file that is opened."""
MAX_CARD = 16 << 20
"""Largest card and largest safetensors header that is read, bytes."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
RESERVED = ("format", "hash", "tensors")
"""Fields of the card that ``save`` writes."""


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (64 hex digits) over names, dtypes, shapes and bytes, in the order of the names; device and strides do
    not matter."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        total.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return total.hexdigest()


def make(tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> Artifact:
    """An artifact in memory: contiguous copies on the CPU, the card completed with format, hash and shapes.

    Raises:
        BadInput: no tensors, numbers that are not finite, or a card that JSON cannot hold or that uses a reserved
            field.
    """
    if not tensors:
        raise BadInput("an artifact needs at least one tensor")
    kept = {str(name): value.detach().cpu().contiguous().clone() for name, value in sorted(tensors.items())}
    for name, value in kept.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise BadInput(
                f"tensor {name!r} of an artifact holds numbers that are not finite; fit again with a lower learning "
                "rate or strength"
            )
    used = [k for k in RESERVED if k in card]
    if used:
        raise BadInput(f"the card uses {', '.join(used)}, which genward writes itself; rename them")
    digest = content_hash(kept)
    shapes = {
        name: {"dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape)}
        for name, value in kept.items()
    }
    try:
        plain = json.loads(json.dumps({"format": FORMAT, "hash": digest, **card, "tensors": shapes}, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"the card of an artifact cannot be written as JSON: {error}; use numbers, text, lists and tables"
        ) from error
    return Artifact(kept, plain, digest)


def save(path_stem: str | Path, tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> Artifact:
    """Write ``<stem>.safetensors`` and ``<stem>.json``, both aside and then renamed, the card last; returns what ``load`` would.

    Args:
        path_stem: path without ending; a ``.safetensors`` or ``.json`` ending is taken off. Missing folders are made.
        tensors: name -> tensor.
        card: what is known about them, as JSON can hold it; fields that an earlier ``make`` wrote are written anew.

    Raises:
        BadInput: they cannot be written there, or see ``make``.
    """
    from safetensors.torch import save as to_bytes

    artifact = make(tensors, {k: v for k, v in card.items() if k not in RESERVED})
    stem = _stem(Path(path_stem))
    card_text = json_text(artifact.card)
    write_all({_with(stem, ".safetensors"): to_bytes(dict(artifact.tensors)), _with(stem, ".json"): card_text.encode()})
    return artifact


def write_all(files: Mapping[Path, bytes]) -> None:
    """``core.files.write_files``, the card last. Raises ``BadInput`` where they cannot be written."""
    try:
        write_files(files)
    except OSError as error:
        raise BadInput(
            f"{next(iter(files))} cannot be written: {error.strerror or error}; name another folder or make room"
        ) from error


def load(
    path: str | Path, expect_shapes: Mapping[str, Sequence[int]] | None = None, *, max_bytes: int = MAX_BYTES
) -> Artifact:
    """Read an artifact and check it against its card.

    Args:
        path: the stem, or either of the two files.
        expect_shapes: name -> shape that must be there, and nothing else.
        max_bytes: larger files are refused unread.

    Raises:
        BadArtifact: missing, a pickle, too large, truncated, a broken header or card, a wrong hash, dtype, name or
            shape.
    """
    path = Path(path)
    if path.suffix.lower() in PICKLES:
        raise BadArtifact(
            f"{path} is a pickle by its ending, and genward never opens one (it can run code); convert it to "
            "safetensors where you trust it"
        )
    stem = _stem(path)
    card = _read_card(_with(stem, ".json"))
    tensors = _read_tensors(_with(stem, ".safetensors"), max_bytes)
    digest = content_hash(tensors)
    if digest != card["hash"]:
        raise BadArtifact(
            f"{stem}: the tensors' hash is {digest[:16]}…, the card says {str(card['hash'])[:16]}…; they do not belong "
            "together, fit again"
        )
    for name, value in tensors.items():
        if not value.is_floating_point():
            raise BadArtifact(f"{stem}: tensor {name!r} is {value.dtype}; artifacts hold floating point numbers")
        if not bool(torch.isfinite(value).all()):
            raise BadArtifact(f"{stem}: tensor {name!r} holds numbers that are not finite; fit again")
    if expect_shapes is not None:
        check_shapes(tensors, expect_shapes, str(stem))
    return Artifact(tensors, card, digest)


def check_shapes(tensors: Mapping[str, Tensor], expect: Mapping[str, Sequence[int]], where: str) -> None:
    """``BadArtifact`` unless names and shapes are exactly the expected ones."""
    missing, extra = sorted(set(expect) - set(tensors)), sorted(set(tensors) - set(expect))
    if missing or extra:
        told = "; ".join(
            f"{what} {', '.join(map(repr, names[:4]))}"
            for what, names in (("it lacks", missing), ("it has unexpected", extra))
            if names
        )
        raise BadArtifact(f"{where}: {told}; it was fitted for another model or method")
    for name, shape in expect.items():
        if tuple(tensors[name].shape) != tuple(shape):
            raise BadArtifact(
                f"{where}: tensor {name!r} has shape {tuple(tensors[name].shape)}, {tuple(shape)} is needed; it was "
                "fitted for another model or method"
            )


def fit_card(
    method: Any, concepts: Sequence[Concept], model: Any, captions: Sequence[str], seeds: Sequence[int], seconds: float
) -> dict[str, Any]:
    """The card of a fitted defense: method and settings, concepts, the model it belongs to, and the rows it saw (kept
    out of evaluation)."""
    fields = [f.name for f in dataclasses.fields(method) if f.name not in type(method).at_attach]
    return {
        "method": type(method).name,
        "settings": {name: getattr(method, name) for name in fields},
        "concepts": {c.name: c.hash for c in concepts},
        "model": model.spec.to_json(),
        "model_hash": model.spec.hash,
        "captions": list(dict.fromkeys(captions)),
        "seeds": sorted(set(seeds)),
        "seconds": round(seconds, 2),
        "torch": torch.__version__,
    }


def _stem(path: Path) -> Path:
    return path.with_suffix("") if path.suffix.lower() in (".safetensors", ".json") else path


def _with(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)


def _read(path: Path, limit: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > limit:
            raise BadArtifact(f"{path} has {size:,} bytes, at most {limit:,} are opened; is it the right file?")
        return path.read_bytes()
    except OSError as error:
        raise BadArtifact(
            f"{path} cannot be read: {error.strerror or error}; an artifact is two files, .safetensors and .json of "
            "one name"
        ) from error


def _read_card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(_read(path, MAX_CARD).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadArtifact(f"{path} is no JSON card: {error}; fit again") from error
    if not isinstance(card, dict) or not isinstance(card.get("hash"), str):
        raise BadArtifact(f"{path} is no artifact's card (a table with a hash); fit again")
    if card.get("format") != FORMAT:
        raise BadArtifact(
            f"{path} has card format {card.get('format')!r}, this version reads {FORMAT}; fit again or use the "
            "matching genward"
        )
    return card


def _read_tensors(path: Path, limit: int) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    data = _read(path, limit)
    if data[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise BadArtifact(
            f"{path} holds a pickle or a zip archive in spite of its name, and genward never opens one; convert it to "
            "safetensors"
        )
    if len(data) < 8 or struct.unpack("<Q", data[:8])[0] > min(len(data) - 8, MAX_CARD):
        raise BadArtifact(
            f"{path} is no safetensors file or was cut short ({len(data):,} bytes); fetch or fit it again"
        )
    try:
        tensors = from_bytes(data)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise BadArtifact(f"{path} is damaged or was cut short: {error}; fetch or fit it again") from error
    if not tensors:
        raise BadArtifact(f"{path} holds no tensors; fit again")
    return tensors
