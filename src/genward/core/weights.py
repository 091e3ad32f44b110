"""Weight files as they lie on a disk: what is wrong with one, said before any library opens it. Loads no torch.

A safetensors file is eight bytes (the length of its header), the header (JSON: names, dtypes, shapes, places), and the
tensors' bytes without a gap."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

from genward.core.reading import parse_json
from genward.errors import BadInput

MAX_HEADER = 64 << 20
"""Longest header that is read, bytes."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
"""Endings of files that can run code when they are opened."""
BEGINNINGS = (
    (b"version https://git-lfs", "is a git-LFS pointer, not the weights; run `git lfs pull` in its folder"),
    (b"<!DOCTYPE", "is a web page, not the weights; fetch it again, signed in if need be"),
    (b"<!doctype", "is a web page, not the weights; fetch it again, signed in if need be"),
    (b"<html", "is a web page, not the weights; fetch it again, signed in if need be"),
    (b"PK", "is a pickle or a zip archive in spite of its name, which genward never opens; convert it to safetensors"),
    (b"\x80", "is a pickle in spite of its name, which genward never opens; convert it to safetensors"),
    (b"GGUF", "is a GGUF file in spite of its name; give the safetensors weights"),
)


def problem(path: Path) -> str:
    """What is wrong with a safetensors file by its beginning, header and length, as the rest of a sentence that begins
    with its name; empty where nothing is. The tensors are not read."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            return "is no plain file; give the weights themselves"
        with path.open("rb") as stream:
            start = stream.read(64)
            size = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else -1
            known = next((told for mark, told in BEGINNINGS if start.startswith(mark)), "")
            header = b""
            if 0 <= size <= min(MAX_HEADER, status.st_size - 8):
                stream.seek(8)
                header = stream.read(size)
    except (OSError, ValueError) as error:
        return f"cannot be read: {getattr(error, 'strerror', None) or error}; check the path"
    if not header:
        return known or f"is no safetensors file or was cut short ({status.st_size:,} bytes); fetch it again"
    try:
        table = parse_json(header.decode("utf-8"), "its header")
        ends = [entry["data_offsets"][1] for name, entry in table.items() if name != "__metadata__"]
        whole = 8 + size + max([0, *ends])
    except (BadInput, UnicodeDecodeError, KeyError, IndexError, TypeError, AttributeError):
        return known or "has a damaged header; fetch it again"
    if whole != status.st_size:
        return f"was cut short or damaged: {status.st_size:,} bytes instead of {whole:,}; fetch it again"
    return ""
