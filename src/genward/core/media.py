"""What models make: pictures and sound, each with one encoding whose bytes name it.

``Image`` and ``Audio`` share the protocol ``Media``: what they are (``kind``), how they are written (``mime``,
``extension``, ``encoded``) and their identity (``sha``, of the encoded bytes). ``decode`` is the way back. PIL and
numpy are imported by the first picture or sound, not by this module."""

from __future__ import annotations

import hashlib
import io
import wave
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from genward.errors import BadInput, UnknownName

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image as Picture

MAX_RATE = 768_000
"""Highest sampling rate in Hz that is accepted."""
FULL = 32_767
"""What a sample of 1.0 becomes in 16 bits; -1.0 becomes ``-FULL``."""


@runtime_checkable
class Media(Protocol):
    """One output of a model. Equal encodings are equal media."""

    kind: ClassVar[str]
    """``image`` | ``audio``"""
    mime: ClassVar[str]
    extension: ClassVar[str]
    """Of its file, without the dot"""

    def encoded(self) -> bytes:
        """The file's bytes: equal content, equal bytes, no metadata."""
        ...

    @property
    def sha(self) -> str:
        """SHA-256 of ``encoded()``, 64 hex digits."""
        ...


class _Encoded(ABC):
    """Identity by the encoded bytes."""

    kind: ClassVar[str]

    @abstractmethod
    def encoded(self) -> bytes: ...

    @property
    def sha(self) -> str:
        """SHA-256 of ``encoded()``, 64 hex digits."""
        return hashlib.sha256(self.encoded()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return self is other or (type(other) is type(self) and self.encoded() == other.encoded())

    def __hash__(self) -> int:
        return hash((self.kind, self.sha))


@dataclass(frozen=True, eq=False)
class Image(_Encoded):
    """A picture, kept as PNG."""

    picture: Picture
    """A PIL image of any size; modes other than RGB, RGBA and L are converted to RGB."""

    kind: ClassVar[str] = "image"
    mime: ClassVar[str] = "image/png"
    extension: ClassVar[str] = "png"

    def encoded(self) -> bytes:
        """The picture as PNG without metadata: equal pixels, equal bytes."""
        from PIL import Image as pil

        picture = self.picture
        if picture.mode not in ("RGB", "RGBA", "L"):
            picture = picture.convert("RGB")
        buffer = io.BytesIO()
        pil.frombytes(picture.mode, picture.size, picture.tobytes()).save(buffer, "PNG")
        return buffer.getvalue()

    @classmethod
    def decoded(cls, data: bytes) -> Image:
        """The picture of a PNG file's bytes. Raises ``BadInput`` where they are none."""
        from PIL import Image as pil
        from PIL import UnidentifiedImageError

        try:
            picture = pil.open(io.BytesIO(data), formats=("PNG",))
            picture.load()
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
            raise BadInput(f"{len(data):,} bytes are no PNG picture ({error}); make the sample again") from error
        return cls(picture)


@dataclass(frozen=True, eq=False)
class Audio(_Encoded):
    """A sound, kept as WAV with 16-bit samples.

    Raises:
        BadInput: samples of another shape, not finite or beyond [-1, 1], or a rate that is no positive whole number.
    """

    samples: NDArray[np.float32]
    """(n,) or (n, channels) amplitudes in [-1, 1]; a read-only float32 copy is held."""
    rate: int
    """Samples per second and channel, Hz"""

    kind: ClassVar[str] = "audio"
    mime: ClassVar[str] = "audio/wav"
    extension: ClassVar[str] = "wav"

    def __post_init__(self) -> None:
        import numpy as np

        held = np.array(self.samples, np.float32)
        if held.ndim not in (1, 2) or not held.size or (held.ndim == 2 and held.shape[1] > 64):
            raise BadInput(
                f"samples of shape {held.shape}; (n,) or (n, channels) with n > 0 and up to 64 channels is a sound"
            )
        if not bool(np.isfinite(held).all()):
            raise BadInput("a sound holds samples that are not finite; the model that made it went astray")
        if float(np.abs(held).max()) > 1:
            raise BadInput(f"a sound reaches an amplitude of {float(np.abs(held).max()):.4g}; scale it to [-1, 1]")
        if isinstance(self.rate, bool) or not isinstance(self.rate, int) or not 1 <= self.rate <= MAX_RATE:
            raise BadInput(f"a sampling rate of {self.rate!r}; a whole number of Hz from 1 to {MAX_RATE:,} will do")
        held.flags.writeable = False
        object.__setattr__(self, "samples", held)

    @property
    def channels(self) -> int:
        return 1 if self.samples.ndim == 1 else int(self.samples.shape[1])

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate

    def encoded(self) -> bytes:
        """The sound as WAV, PCM with 16 bits: equal samples (to 1/32767), equal bytes."""
        import numpy as np

        whole = np.rint(self.samples.astype(np.float64) * FULL).astype("<i2")
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as file:
            file.setnchannels(self.channels)
            file.setsampwidth(2)
            file.setframerate(self.rate)
            file.writeframes(whole.tobytes())
        return buffer.getvalue()

    @classmethod
    def decoded(cls, data: bytes) -> Audio:
        """The sound of a WAV file's bytes, (n,) for one channel. Raises ``BadInput`` where they are no PCM of 16
        bits."""
        import numpy as np

        try:
            with wave.open(io.BytesIO(data), "rb") as file:
                channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
                told = file.getnframes()
                raw = file.readframes(told)
        except (wave.Error, EOFError, ValueError) as error:
            raise BadInput(f"{len(data):,} bytes are no WAV sound ({error}); make the sample again") from error
        if width != 2:
            raise BadInput(f"a WAV sound of {8 * width} bits; 16-bit PCM is read")
        if len(raw) < told * width * channels < STREAMED:
            raise BadInput(f"a WAV sound that was cut short: {len(raw):,} of {told * width * channels:,} bytes")
        held = np.maximum(np.frombuffer(raw, "<i2").astype(np.float64) / FULL, -1.0).astype(np.float32)
        return cls(held if channels == 1 else held.reshape(-1, channels), rate)


STREAMED = 0x7FFFFFFF
"""Bytes that a server announces which does not know the length yet, or more"""
MEDIA: dict[str, Any] = {kind.mime: kind for kind in (Image, Audio)}
"""Mime type -> class."""
KINDS = tuple(kind.kind for kind in MEDIA.values())


def decode(data: bytes, mime: str) -> Media:
    """What ``encoded`` wrote. Raises ``UnknownName`` for another mime type, ``BadInput`` for other bytes."""
    if mime not in MEDIA:
        raise UnknownName("media type", mime, MEDIA)
    found: Media = MEDIA[mime].decoded(data)
    return found
