"""The process's random numbers, left as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def chance_kept() -> Iterator[None]:
    """Inside, numbers may be drawn from the process's generators (Python's, numpy's, torch's on the CPU and on CUDA
    devices that are in use); afterwards these stand where they stood.

    Building a network draws its first weights, so that opening a guard would change the picture that a user's own
    ``torch.manual_seed`` stands for."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
