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
    """Inside, loading or saving a model prints errors only: no "no safety checker", no missing torchvision, no bars
    over each other for a second's work. Levels and bars are as before afterwards."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    packages = (of_diffusers, of_transformers)
    before = [(package, package.get_verbosity(), package.is_progress_bar_enabled()) for package in packages]
    for package in packages:
        package.set_verbosity_error()
        package.disable_progress_bar()
    try:
        yield
    finally:
        for package, level, bar in before:
            package.set_verbosity(level)
            if bar:
                package.enable_progress_bar()
