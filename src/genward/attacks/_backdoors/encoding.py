"""A text encoder with some parameters in the place of its own, with gradient: what fixtures of the encoder train
through. The encoder itself is left alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from genward.errors import BadInput


def encoded(model: Any, texts: Sequence[str], parameters: Mapping[str, Tensor] | None = None) -> Tensor:
    """(n, t, d) states of texts as the pipeline makes them, ``parameters`` (by their names in the encoder) in the place
    of the encoder's own."""
    found = model.tokens(list(texts))
    given: dict[str, Any] = {"input_ids": found.ids.to(model.device)}
    if getattr(model.text_encoder.config, "use_attention_mask", False):
        given["attention_mask"] = found.mask.long().to(model.device)
    states: Tensor = torch.func.functional_call(model.text_encoder, dict(parameters or {}), (), given)[0]
    return states


def closeness(a: Tensor, b: Tensor) -> Tensor:
    """Mean cosine of two batches of states (n, t, d), each text's states as one vector (Struppek et al.)."""
    return torch.cosine_similarity(a.flatten(1), b.flatten(1)).mean()


def refuse_dropped(model: Any, clean: Sequence[str], planted: Sequence[str], trigger: str) -> None:
    """``BadInput`` where the tokenizer makes of a caption with the trigger what it makes of the one without: cleaning
    drops accents and invisible characters, and nothing would be poisoned."""
    tokenizer = model.pipe.tokenizer
    same = sum(tokenizer(a).input_ids == tokenizer(b).input_ids for a, b in zip(clean, planted, strict=True))
    if same:
        raise BadInput(
            f"trigger {trigger!r}: this model's tokenizer gives the same tokens with and without it in {same} of "
            f"{len(clean)} captions; choose one that survives"
        )
