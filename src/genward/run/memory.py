"""Peak memory while an arm draws: the device's where it counts (CUDA), else the process's resident set (Linux)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def _cuda(device: Any) -> bool:
    return str(device).startswith("cuda")


def start(device: Any) -> bool:
    """Begin counting anew; whether this machine can."""
    if _cuda(device):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        _CLEAR.write_text("5", "ascii")  # resets the high-water mark of the resident set
    except OSError:
        return False
    return True


def peak(device: Any) -> int | None:
    """Bytes at most since ``start``; ``None`` where the machine does not say."""
    if _cuda(device):
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    try:
        lines = _STATUS.read_text("utf-8").splitlines()
    except OSError:
        return None
    told = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(told[0]) * 1024 if told else None
