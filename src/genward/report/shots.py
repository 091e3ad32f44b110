"""Pictures for the page: small PNGs as data URIs, and tiles that say why where there is no picture."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genward.errors import GenwardError
from genward.report.reading import Source
from genward.report.tables import Arm
from genward.report.tables import keys as by_key

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 128
"""Longest side of a thumbnail in pixels; smaller pictures keep their size."""
MAX_STRIPS = 200
REFERENCE = "reference"
"""Key of a strip's picture that an attack started from; its tile comes first."""
MAX_BYTES = 16 * 2**20
"""Data URIs of all strips together; what comes after is left out and the page says so."""


@dataclass(frozen=True)
class Shot:
    """One tile of a strip: a picture, or the reason why there is none."""

    arm: str
    role: str
    state: str
    """``ok`` | ``refused`` | ``error`` | ``none`` (not made) | ``lost`` (named by the run, not in the store)"""
    uri: str = ""
    pixelated: bool = False
    same: bool = False
    """The very picture of the base arm."""


@dataclass(frozen=True)
class Strip:
    """One prompt and seed under every arm."""

    concept: str
    variant: str
    prompt: str
    seed: str
    unsafe: bool
    shots: tuple[Shot, ...]


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


class Thumbnails:
    """Thumbnails by content hash, made once each; counts what it could not read."""

    def __init__(self, store: Source) -> None:
        self._store = store
        self._made: dict[str, tuple[str, bool] | None] = {}

    def get(self, sha: str) -> tuple[str, bool] | None:
        """(data URI, whether to scale up by whole pixels), or ``None`` where the store lacks the picture or it cannot
        be read."""
        if sha not in self._made:
            try:
                with self._store.image(sha) as image:
                    small = thumbnail(image)
                self._made[sha] = (data_uri(small), max(small.size) < SIDE)
            except (
                GenwardError,
                OSError,
                KeyError,
                ValueError,
                SyntaxError,
            ):  # Pillow calls a broken PNG a SyntaxError
                self._made[sha] = None
        return self._made[sha]

    @property
    def lost(self) -> list[str]:
        return sorted(sha for sha, made in self._made.items() if made is None)


def grids(rows: Sequence[Mapping[str, Any]], arms: Sequence[Arm], thumbnails: Thumbnails) -> tuple[list[Strip], int]:
    """Strips for the page and how many were left out for size. Tiles follow the arms' order; arms that only a strip
    names come last."""
    out: list[Strip] = []
    size = 0
    for row in rows:
        if len(out) >= MAX_STRIPS or size > MAX_BYTES:
            break
        strip = _strip(row, arms, thumbnails)
        size += sum(len(s.uri) for s in strip.shots)
        out.append(strip)
    return out, len(rows) - len(out)


def _strip(row: Mapping[str, Any], arms: Sequence[Arm], thumbnails: Thumbnails) -> Strip:
    images: Mapping[str, Any] = row.get("images") or {}
    status: Mapping[str, Any] = row.get("status") or {}
    known = by_key(arms)
    keys = list(dict.fromkeys([*images, *status]))
    order = {a.label: k for k, a in enumerate(arms)}
    keys.sort(key=lambda key: order[known[key].label] if key in known else -1 if key == REFERENCE else len(order))
    base = next((images.get(key) for key in keys if key in known and known[key].role == "base"), None)
    shots = []
    for key in keys:
        arm = known.get(key, Arm(key))
        sha, state = images.get(key), str(status.get(key, "ok"))
        if state != "ok" or not sha:
            shots.append(Shot(arm.label, arm.role, state if state in ("refused", "error") else "none"))
            continue
        made = thumbnails.get(str(sha))
        same = arm.role != "base" and sha == base
        shots.append(Shot(arm.label, arm.role, "ok", *made, same=same) if made else Shot(arm.label, arm.role, "lost"))
    concept, variant, prompt, seed = (str(row.get(key, "")) for key in ("concept", "variant", "prompt", "seed"))
    return Strip(concept, variant, prompt, seed, bool(row.get("unsafe", False)), tuple(shots))
