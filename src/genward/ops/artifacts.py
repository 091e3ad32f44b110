"""Files of what a method learned: ``<stem>.safetensors`` beside its card ``<stem>.json``. Pickles are never opened.

Identity is the SHA-256 of the tensors' content (names, dtypes, shapes, bytes) and of the card without what differs
between two fits of the same thing (``VOLATILE``); it stands in the card and is checked on loading, so a threshold that
was changed by hand is noticed, and so are tensors and a card that do not belong together.

The pair is one commit: both files are written aside, then the card is renamed into place, then the tensors. A stem
without its ``.safetensors`` holds nothing; whatever stops the writing, what was there before stays or nothing is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genward.core import defending
from genward.core.contracts import Artifact
from genward.core.files import json_text, write_files, written
from genward.core.reading import parse_json, read_bytes, read_text, short
from genward.core.records import Concept
from genward.core.typed import shown
from genward.core.weights import problem
from genward.errors import BadArtifact, BadInput

FORMAT = 2
"""Version of the card: 2 has the card in the hash, 1 had the tensors alone."""
MAX_BYTES = 4 << 30
"""Largest tensor file that is opened."""
MAX_CARD = 16 << 20
"""Largest card and largest safetensors header that is read, bytes."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""Floating point numbers of an artifact's tensors; smaller ones (float8) cannot be computed with."""
PACKED = torch.int8
"""What weights may be packed in, beside their scales."""
KINDS: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    "method": (str, "text"),
    "model_hash": (str, "text"),
    "model": (dict, "a table"),
    "settings": (dict, "a table"),
    "concepts": ((dict, list), "a table"),
    "seconds": ((int, float), "a number"),
    "captions": (list, "a list of texts"),
    "seeds": (list, "a list of whole numbers"),
}
"""What the fields of a card that every method writes must hold, where they are there."""
RESERVED = ("format", "hash", "tensors")
"""Fields of the card that ``save`` writes."""
VOLATILE = ("seconds", "torch")
"""Fields of the card that two fits of the same thing may differ in."""


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (64 hex digits) over names, dtypes, shapes and bytes, in the order of the names; device and strides do
    not matter."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        total.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return total.hexdigest()


def identity(tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> str:
    """SHA-256 (64 hex digits) of an artifact: its tensors, and its card but for the hash itself and ``VOLATILE``."""
    kept = {k: v for k, v in card.items() if k not in ("hash", *VOLATILE)}
    plain = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(f"{content_hash(tensors)}\n{plain}".encode()).hexdigest()


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
        if value.is_floating_point() and value.dtype not in FLOATS:
            raise BadInput(f"tensor {short(name, 60)!r} of an artifact is {value.dtype}; save float16 to float64")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise BadInput(
                f"tensor {name!r} of an artifact holds numbers that are not finite; fit again with a lower learning "
                "rate or strength"
            )
    used = [k for k in RESERVED if k in card]
    if used:
        raise BadInput(f"the card uses {', '.join(used)}, which genward writes itself; rename them")
    shapes = {
        name: {"dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape)}
        for name, value in kept.items()
    }
    try:
        plain = json.loads(json.dumps({"format": FORMAT, "hash": "", **card, "tensors": shapes}, allow_nan=False))
        json_text(plain).encode()
        plain["hash"] = digest = identity(kept, plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(
            f"the card of an artifact cannot be written as JSON: {short(error)}; use numbers, text, lists and tables"
        ) from error
    return Artifact(kept, plain, digest)


def amended(artifact: Artifact, facts: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> Artifact:
    """The artifact with more on its card (what stands there already is written over), and with other tensors if given.

    Raises:
        BadInput: see ``make``.
    """
    kept = {k: v for k, v in artifact.card.items() if k not in RESERVED}
    return make(artifact.tensors if tensors is None else tensors, {**kept, **facts})


def save(path_stem: str | Path, tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> Artifact:
    """Write ``<stem>.safetensors`` and ``<stem>.json`` in one commit (see the module's text); returns what ``load``
    would.

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
    _write_pair(
        _with(stem, ".safetensors"), to_bytes(dict(artifact.tensors)), _with(stem, ".json"), json_text(artifact.card)
    )
    return artifact


def _write_pair(tensors: Path, data: bytes, card: Path, text: str) -> None:
    """Both files or neither: whole copies aside first, which is where a full disk shows; then the old tensors go, so
    that no moment has a card beside tensors that are not its own."""
    try:
        with written(tensors) as new_tensors, written(card) as new_card:
            new_tensors.write_bytes(data)
            new_card.write_bytes(text.encode())
            tensors.unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(
            f"{tensors} cannot be written: {error.strerror or error}; name another folder or make room"
        ) from error


def write_all(files: Mapping[Path, bytes]) -> None:
    """``core.files.write_files``, the last one vouching for the others. Raises ``BadInput`` where they cannot be
    written."""
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
    try:
        digest = identity(tensors, card)
    except ValueError as error:
        raise BadArtifact(f"{stem}: its card holds a number that is not finite; fit again") from error
    if digest != card["hash"]:
        raise BadArtifact(
            f"{stem}: hash of tensors and card is {digest[:16]}…, the card says {str(card['hash'])[:16]}…; they do not "
            "belong together or were changed, fit again"
        )
    for name, value in tensors.items():
        if value.dtype == PACKED:
            continue
        if not value.is_floating_point():
            raise BadArtifact(
                f"{stem}: tensor {name!r} is {value.dtype}; artifacts hold floating point numbers, or int8"
            )
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
    acting, values = defending.at_attach(method), defending.fields(method)
    return {
        "method": type(method).name,
        "settings": {name: value for name, value in values.items() if name not in acting},
        "concepts": {c.name: c.hash for c in concepts},
        "model": model.spec.to_json(),
        "model_hash": model.spec.hash,
        "captions": list(dict.fromkeys(captions)),
        "seeds": sorted(set(seeds)),
        "seconds": round(seconds, 2),
        "torch": torch.__version__,
    }


def refuse_other(artifact: Artifact | None, model: Any, who: str) -> None:
    """``BadArtifact`` where the card says that it was fitted on another model than this one (another dtype counts)."""
    fitted = None if artifact is None else artifact.card.get("model_hash")
    spec = getattr(model, "spec", None)
    if fitted is None or spec is None or spec.hash == fitted:
        return
    theirs = artifact.card.get("model") if artifact is not None else None
    fields = theirs.get("fields", {}) if isinstance(theirs, Mapping) else {}
    dtype, mine = (f.get("dtype", "") if isinstance(f, Mapping) else "" for f in (fields, spec.fields))
    kind = f" ({dtype} there, {mine} here)" if dtype != mine else ""
    raise BadArtifact(
        f"{who} was fitted on model {fitted}, this one is {spec.hash}{kind}; fit it again on this model (genward fit)"
    )


def _stem(path: Path) -> Path:
    return path.with_suffix("") if path.suffix.lower() in (".safetensors", ".json") else path


def _with(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)


def _read_card(path: Path) -> dict[str, Any]:
    told = "an artifact is two files, .safetensors and .json of one name"
    text = read_text(path, "card", MAX_CARD, BadArtifact, told)
    card = parse_json(text, f"card {short(path)}", BadArtifact)
    if not isinstance(card, dict) or not isinstance(card.get("hash"), str):
        raise BadArtifact(f"{path} is no artifact's card (a table with a hash); fit again")
    if card.get("format") != FORMAT:
        raise BadArtifact(
            f"{path} has card format {card.get('format')!r}, this version reads {FORMAT}; fit again or use the "
            "matching genward"
        )
    for key, (kinds, said) in KINDS.items():
        value = card.get(key)
        if key in card and (isinstance(value, bool) or not isinstance(value, kinds)):
            raise BadArtifact(f"{short(path)}: {key} is {shown(value)}, where {said} belongs; fit again")
    for key in ("captions", "seeds"):
        kind = str if key == "captions" else int
        wrong = next((v for v in card.get(key) or () if isinstance(v, bool) or not isinstance(v, kind)), None)
        if wrong is not None:
            raise BadArtifact(f"{short(path)}: {shown(wrong)} stands among its {key}; fit again")
    if not 0 <= card.get("seconds", 0) < 1e12:
        raise BadArtifact(f"{short(path)}: seconds is {shown(card['seconds'])}; fit again")
    return card


def _read_tensors(path: Path, limit: int) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    data = read_bytes(
        path, "artifact", limit, BadArtifact, "an artifact is two files, .safetensors and .json of one name"
    )
    told = problem(path)
    if told:
        raise BadArtifact(f"{short(path)} {told.replace('fetch it again', 'fetch or fit it again')}")
    try:
        tensors = from_bytes(data)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise BadArtifact(f"{path} is damaged or was cut short: {error}; fetch or fit it again") from error
    if not tensors:
        raise BadArtifact(f"{path} holds no tensors; fit again")
    for name, value in tensors.items():
        if value.is_floating_point() and value.dtype not in FLOATS:
            raise BadArtifact(
                f"{short(path)}: tensor {short(name, 60)!r} is {value.dtype}; float16 to float64 are read"
            )
    return tensors
