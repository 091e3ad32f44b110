"""States of prompts: what a text encoder's heads say about each row, kept beside the run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genward.benchmarks.prompt_guard.sets import PromptRow
from genward.core.files import written
from genward.core.spec import digest

Tell = Callable[[str, int, int, str], None]
"""``tell(stage, done, total, about)``"""
TOKENS = 256
SUMMARY = "summary"
"""Where an encoder's ``heads`` keep its final states."""


class Table(NamedTuple):
    """All rows of a run with their states, set by set."""

    rows: list[PromptRow]
    heads: NDArray[np.float32]
    """(n, sites · heads · dim) read-out head states, as float16 keeps them"""
    embedding: NDArray[np.float32]
    """(n, width) mean of the encoder's output over tokens"""
    ms: float
    """Milliseconds of encoding a prompt, in batches, measured where rows were encoded now, else NaN"""


def encode(
    texts: Sequence[str], encoder: Any, progress: Callable[[int, int], None] | None = None
) -> tuple[NDArray[np.float16], float]:
    """((n, heads' states and sentence embedding) float16, seconds) of texts; read-out over tokens as the encoder's kind
    wants it."""
    from genward.ops import heads

    how = heads.natural_readout(encoder.encoder)
    out: NDArray[np.float16] | None = None
    began = time.perf_counter()
    for rows, states, mask, _ in encoder.heads(texts, progress=progress):
        parts = [heads.read_out(states[site], mask, how) for site in encoder.sites] + [
            heads.read_out(states[SUMMARY], mask, how)
        ]
        found = np.concatenate([p.float().cpu().numpy() for p in parts], axis=1).astype(np.float16)
        if out is None:
            out = np.zeros((len(texts), found.shape[1]), np.float16)
        out[rows] = found
    return (np.zeros((0, 0), np.float16) if out is None else out), time.perf_counter() - began


def _told(tell: Tell, name: str, before: int, total: int, done: int, _: int) -> None:
    tell("encode", before + done, total, name)


def states_of(sets: Mapping[str, Sequence[PromptRow]], encoder: Any, out: Path, tell: Tell) -> Table:
    """Encode every row, or read what an earlier run with the same encoder and texts kept in ``out/states``."""
    from safetensors.numpy import load_file, save_file

    from genward.ops.heads import encoder_hash

    who, seconds, fresh = encoder_hash(encoder.encoder), 0.0, 0
    parts: list[NDArray[np.float16]] = []
    rows: list[PromptRow] = []
    total, done = sum(map(len, sets.values())), 0
    for name, found in sets.items():
        texts = [r.text for r in found]
        key = digest([who, encoder.tokens, [t.encode("utf-8", "replace").hex() for t in texts]])
        file = out / "states" / f"{name}-{key}.safetensors"
        if file.is_file():
            parts.append(load_file(file)["states"])
        else:
            told = partial(_told, tell, name, done, total)
            states, took = encode(texts, encoder, told)
            parts.append(states)
            seconds, fresh = seconds + took, fresh + len(texts)
            with written(file) as aside:
                save_file({"states": states}, aside)
        rows += found
        done += len(found)
        tell("encode", done, total, name)
    states = np.concatenate(parts)
    width = (
        encoder.encoder.config.hidden_size
        if hasattr(encoder.encoder.config, "hidden_size")
        else encoder.encoder.config.d_model
    )
    return Table(
        rows,
        states[:, :-width].astype(np.float32),
        states[:, -width:].astype(np.float32),
        1000 * seconds / fresh if fresh else math.nan,
    )


def time_encoding(table: Table, coder: Any) -> float:
    """Milliseconds a prompt in batches, on some rows, where all states came from an earlier run."""
    texts = [r.text for r in table.rows[:: max(1, len(table.rows) // 128)]][:128]
    _, seconds = encode(texts, coder)
    return 1000 * seconds / len(texts)
