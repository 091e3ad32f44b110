"""What voices and ears share: optional packages opened by name, samples as sounds, texts and speeds checked."""

from __future__ import annotations

import threading
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from genward.core.media import Audio
from genward.core.reading import short
from genward.errors import BadInput, EngineError

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXTRA = "pip install 'genward[speech]'"
LOCK = threading.RLock()
"""Of the engines, whose code is not known to be safe in several threads"""


def needed(module: str, package: str) -> Any:
    """An optional package's module. Raises ``EngineError`` that says how to get it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise EngineError(f"the package {package} cannot be imported ({short(error)}); {EXTRA}") from error


def version_of(package: str) -> str:
    """Its installed version, empty where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def made(samples: NDArray[Any], rate: int, text: str) -> Audio:
    """An engine's samples as a sound, clipped to full scale.

    Raises:
        BadInput: there are none: nothing in the text can be spoken. EngineError: they are not finite.
    """
    import numpy as np

    held = np.asarray(samples, np.float32).ravel()
    if not held.size:
        raise BadInput(f"nothing in {short(text)!r} can be spoken; give a text with words")
    if not bool(np.isfinite(held).all()):
        raise EngineError(f"the voice made samples that are not finite of {short(text)!r}; use another voice")
    return Audio(np.clip(held, -1.0, 1.0), rate)


def spoken_text(text: str) -> str:
    """The text, or ``BadInput`` where it has no letter and no digit."""
    if not any(c.isalnum() for c in text):
        raise BadInput(f"nothing in {short(text)!r} can be spoken; give a text with words")
    return text


def checked_speed(speed: float) -> float:
    if not 0.5 <= speed <= 2.0:
        raise BadInput(f"a speed of {speed:g}; 0.5 to 2 times the usual one are possible")
    return speed
