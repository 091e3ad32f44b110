"""Other packages' notices, kept from the user where genward has said what matters itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

LEVELS = "TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"
"""Environment variables that both packages read when they are imported."""


def quiet_process() -> None:
    """Let diffusers and transformers print errors only, in this process, unless the environment says otherwise.

    For programs of genward's own: a library must leave the levels of its user's process alone. Acts on what is
    imported afterwards.
    """
    for name in LEVELS:
        os.environ.setdefault(name, "error")


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Inside, loading a model prints errors only: no "no safety checker", no missing torchvision, no bar for 0.1 s of
    reading weights. The levels are as before afterwards."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    levels, bar = (
        (diffusers_logging.get_verbosity(), transformers_logging.get_verbosity()),
        transformers_logging.is_progress_bar_enabled(),
    )
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(levels[0])
        transformers_logging.set_verbosity(levels[1])
        if bar:
            transformers_logging.enable_progress_bar()
