"""Samples for the page: small PNGs and short sounds as data URIs, and tiles that say why where there is nothing."""

from __future__ import annotations

import base64
import io
import wave
from typing import TYPE_CHECKING, NamedTuple

from genward.core.blocks import Player, Shot, Strip
from genward.errors import GenwardError
from genward.report.reading import Source

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 128
"""Longest side of a thumbnail in pixels; smaller pictures keep their size."""
MAX_STRIPS = 200
MAX_BYTES = 16 * 2**20
"""Data URIs of the page together; strips that come after are left out, and so are sounds, and the page says so."""
MAX_SOUND = 2**20
"""Bytes of one sound's file; a larger one stays in the store."""
BROKEN = (GenwardError, OSError, KeyError, ValueError, SyntaxError)
"""What a store or Pillow may raise for a file that is not there or broken; Pillow calls a broken PNG a SyntaxError."""


class Made(NamedTuple):
    """One sample ready for the page."""

    state: str
    """``ok`` | ``refused`` | ``error`` | ``none`` (not made) | ``lost`` (named by the run, not in the store) |
    ``large`` (too long for the page)"""
    uri: str = ""
    sound: bool = False
    pixelated: bool = False
    """Scale up by whole pixels"""
    seconds: float | None = None
    """How long the sound is, where that is known"""


def thumbnail(image: Image, side: int = SIDE) -> Image:
    """An RGB copy no larger than ``side`` in either direction; transparent pixels on white."""
    from PIL import Image as pil

    if image.mode in ("RGBA", "LA", "P", "PA"):
        over = image.convert("RGBA")
        image = pil.alpha_composite(pil.new("RGBA", over.size, "white"), over)
    image = image.convert("RGB")
    scale = side / max(image.size)
    if scale < 1:
        image = image.resize(
            (max(1, round(image.width * scale)), max(1, round(image.height * scale))), pil.Resampling.LANCZOS
        )
    return image


def data_uri(image: Image) -> str:
    """A PNG data URI; equal pixels give equal text."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def seconds_of(data: bytes, mime: str) -> float | None:
    """How long a WAV file is, from its header; ``None`` for other types and for what is no WAV."""
    if mime not in ("audio/wav", "audio/x-wav", "audio/wave"):
        return None
    try:
        with wave.open(io.BytesIO(data), "rb") as file:
            return file.getnframes() / file.getframerate()
    except (wave.Error, EOFError, ZeroDivisionError):
        return None


class Album:
    """The page's samples by content hash, each made once; counts what it could not read and what it left out."""

    def __init__(self, store: Source) -> None:
        self._store = store
        self._made: dict[tuple[str, str], Made] = {}
        self._strips = 0
        self._bytes = 0
        self.left_out = 0
        """Strips that the page had no room for."""

    def strip(self, strip: Strip) -> list[Made] | None:
        """A strip's samples, one for each of its tiles; ``None`` where the page has no room for it."""
        if self.left_out or self._strips >= MAX_STRIPS or self._bytes > MAX_BYTES:
            self.left_out += 1
            return None
        made = [self.shot(shot) for shot in strip.shots]
        self._strips += 1
        self._bytes += sum(len(m.uri) for m in made)
        return made

    def shot(self, shot: Shot) -> Made:
        """One tile."""
        return self._get(shot.sha, shot.mime) if shot.status == "ok" else Made(shot.status)

    def player(self, player: Player) -> Made:
        """One player; ``large`` where its file, or the page with it, would be too large."""
        if player.data:
            made = self._sound(player.data, player.mime)
        else:
            made = self._get(player.sha, player.mime)
        if self._bytes + len(made.uri) > MAX_BYTES:
            made = Made("large", sound=True, seconds=made.seconds)
        self._bytes += len(made.uri)
        return made

    @property
    def lost(self) -> list[str]:
        """Hashes that the store lacks or cannot read."""
        return sorted({sha for (sha, _), made in self._made.items() if made.state == "lost"})

    def _get(self, sha: str, mime: str) -> Made:
        if (sha, mime) not in self._made:
            try:
                self._made[sha, mime] = self._read(sha, mime)
            except BROKEN:
                self._made[sha, mime] = Made("lost", sound=mime.startswith("audio/"))
        return self._made[sha, mime]

    def _read(self, sha: str, mime: str) -> Made:
        if mime.startswith("audio/"):
            return self._sound(self._store.media(sha, mime).encoded(), mime)
        with self._store.image(sha) as image:
            small = thumbnail(image)
        return Made("ok", data_uri(small), pixelated=max(small.size) < SIDE)

    def _sound(self, data: bytes, mime: str) -> Made:
        seconds = seconds_of(data, mime)
        if len(data) > MAX_SOUND:
            return Made("large", sound=True, seconds=seconds)
        return Made("ok", f"data:{mime};base64,{base64.b64encode(data).decode()}", sound=True, seconds=seconds)
