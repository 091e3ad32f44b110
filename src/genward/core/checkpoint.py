"""Checkpoints of long trainings: a tree of tensors and plain values in one safetensors file, written aside and renamed.
Nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genward.core.files import written
from genward.errors import BadArtifact, BadInput

if TYPE_CHECKING:
    from torch import Tensor

CHECKPOINT = "checkpoint.safetensors"
"""Name of a training's state in its folder."""
TREE = "tree"
"""Key of the file's metadata that holds the tree, tensors by name."""


def save_checkpoint(file: Path, state: Any) -> None:
    """Write ``state`` whole or not at all; folders are made.

    Args:
        state: tensors of any dtype and shape, numbers, texts, ``None``, and dicts (keys: text or whole numbers), lists
            and tuples of them, as an optimizer's ``state_dict`` is.

    Raises:
        BadInput: a value of another kind.
    """
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    tree = _plain(state, tensors, "")
    with written(file) as aside:
        save_file(tensors, str(aside), metadata={TREE: json.dumps(tree)})


def load_checkpoint(file: Path, device: Any = "cpu") -> Any:
    """What ``save_checkpoint`` wrote, tensors on ``device``.

    Raises:
        BadArtifact: the file is missing, cut short, or none of ours.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), "pt", device=str(device)) as opened:
            tree = json.loads((opened.metadata() or {})[TREE])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}
        return _made(tree, tensors)
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise BadArtifact(
            f"{file} is no checkpoint that can be read ({type(error).__name__}: {str(error)[:120]}); remove it and "
            "train anew"
        ) from error


def _plain(value: Any, tensors: dict[str, Tensor], name: str) -> list[Any]:
    """``[kind, content]`` with tensors put aside under the names that stand in their place."""
    import torch

    if isinstance(value, torch.Tensor):
        tensors[name] = value.detach().cpu().contiguous()
        return ["tensor", name]
    if isinstance(value, Mapping) and all(isinstance(k, str | int) for k in value):
        return ["dict", [[k, _plain(v, tensors, f"{name}/{k}")] for k, v in value.items()]]
    if isinstance(value, list | tuple):
        return [type(value).__name__, [_plain(v, tensors, f"{name}/{k}") for k, v in enumerate(value)]]
    if value is None or isinstance(value, bool | int | float | str):
        return ["value", value]
    raise BadInput(
        f"a checkpoint cannot hold a {type(value).__name__} (at {name or 'its top'}); tensors, numbers, texts, dicts "
        "and lists go in"
    )


def _made(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    kind, content = tree
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {k: _made(v, tensors) for k, v in content}
    if kind in ("list", "tuple"):
        return (list if kind == "list" else tuple)(_made(v, tensors) for v in content)
    return content
