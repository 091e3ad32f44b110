"""Text states without padding: what readers of states need, several times cheaper than what a denoiser is given.

Texts are sorted by their number of tokens and each batch is padded to its own longest text. That leaves the states of
real tokens alone where the encoder masks padding or looks back only (CLIP); ``exact`` finds out by trying it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

CLOSE = 1e-3
"""Largest difference, relative to the largest state, that counts as rounding (float32 gives about 1e-6)."""

FEW = 8
"""At most so many texts are encoded as the pipeline does; trying costs as much."""


def token_counts(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Tokens of each text, marks included, as its pipeline cuts it."""
    length = tokenizer.model_max_length
    return [len(ids) for ids in tokenizer(list(texts), truncation=True, max_length=length).input_ids]


def _encode(model: Any, texts: Sequence[str]) -> Tensor:
    """(n, t, d) last hidden states, padded to the longest of the texts, otherwise as diffusers' pipeline encodes."""
    tokenizer, encoder = model.pipe.tokenizer, model.text_encoder
    device = next(encoder.parameters()).device
    found = tokenizer(
        list(texts), padding="longest", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
    )
    masked = getattr(encoder.config, "use_attention_mask", None)
    mask = found.attention_mask.to(device) if masked else None
    with torch.no_grad():
        states: Tensor = encoder(found.input_ids.to(device), attention_mask=mask)[0]
    return states


def exact(model: Any, text: str) -> bool:
    """Whether a text's states are what the pipeline makes them, with padding behind them."""
    own = _encode(model, [text])[0]
    with torch.no_grad():
        stock = model.encode([text])[0][: len(own)].to(own)
    return bool((own - stock).abs().max() <= CLOSE * stock.abs().max())


def own_states(model: Any, texts: Sequence[str], batch: int = 128) -> list[Tensor]:
    """(tokens, d) float64 states of each text's own tokens, marks included and padding left out.

    Where padding would change them (``exact``), texts are encoded with all of it, as the pipeline does.

    Args:
        model: of the Stable Diffusion family.
        texts: any number. batch: texts an encoding.
    """
    if not texts:
        return []
    counts = token_counts(model.pipe.tokenizer, texts)
    order = sorted(range(len(texts)), key=counts.__getitem__)
    short = len(texts) > FEW and exact(model, texts[order[len(order) // 2]])
    out: dict[int, Tensor] = {}
    for k in range(0, len(order), batch):
        part = order[k : k + batch]
        these = [texts[j] for j in part]
        with torch.no_grad():
            states = (_encode(model, these) if short else model.encode(these)).double()
        out.update((j, row[: counts[j]]) for j, row in zip(part, states, strict=True))
    return [out[j] for j in range(len(texts))]
