"""Pictures of a concept that an attacker holds: from a user's folder, or the lab's own reference renders."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from genward.catalog.opening import LAB
from genward.core.records import Concept, concept_names, load_concept
from genward.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from PIL.Image import Image

KEEP = "keep"
"""Name under which pictures of what must stay go."""
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""Kinds of picture that are opened; others would start decoders that nobody asked for."""
BESIDE = (".txt", ".md", ".json", ".csv", ".toml", ".yaml", ".yml", ".license")
"""Endings of files that may lie beside the pictures; they and hidden files are passed over."""
MAX_PIXELS = 64_000_000
"""Larger pictures are refused before they are unpacked."""
BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)
"""What decoders raise on damaged files."""


def read_references(folder: str | Path, size: int | tuple[int, int]) -> list[Image]:
    """Every picture of a folder, by file name, as RGB of the model's size.

    Transparent ones are put on white, gray ones become RGB, of animations the first frame counts; turned as the camera
    says, cropped to the model's shape around the center and scaled (Lanczos).

    Args:
        folder: its pictures are PNG, JPEG, WebP, BMP, GIF or TIFF; folders inside it are not entered.
        size: edge, or (width, height) as Pillow has it, in pixels.

    Raises:
        BadInput: no such folder, no picture in it, or a file that is damaged, too large or no picture.
    """
    width, height = (size, size) if isinstance(size, int) else size
    return [fitted(read_picture(path), width, height) for path in picture_files(folder)]


def picture_files(folder: str | Path) -> list[Path]:
    """The files that ``read_references`` reads, in its order: all but hidden ones and those that usually lie beside
    pictures.

    Raises:
        BadInput: no such folder, or nothing in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise BadInput(f"no folder {root} with reference pictures; name one that holds PNG or JPEG files")
    try:
        files = sorted(
            p for p in root.iterdir() if p.is_file() and not p.name.startswith(".") and p.suffix.lower() not in BESIDE
        )
    except OSError as error:
        raise BadInput(f"folder {root} cannot be read: {error.strerror or error}; check its permissions") from error
    if not files:
        raise BadInput(f"no pictures in {root}; put a few PNG or JPEG files of the concept there")
    return files


def read_picture(path: Path) -> Image:
    """One picture file as RGB in its own size. Raises ``BadInput`` where it is damaged, too large or no picture."""
    from PIL import Image as pil
    from PIL import ImageOps, UnidentifiedImageError

    large = f"{path}: the picture has more than {MAX_PIXELS // 1_000_000} million pixels; scale it down"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of size (the limit below is stricter) and of odd metadata
            with pil.open(path, formats=FORMATS) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise BadInput(large)
                if picture.mode in ("I", "F"):
                    raise BadInput(
                        f"{path} has 32-bit gray values and does not say which of them is white; save it with 8 bits a "
                        "channel"
                    )
                picture.load()
                return on_white(ImageOps.exif_transpose(picture))
    except pil.DecompressionBombError as error:
        raise BadInput(large) from error
    except UnidentifiedImageError as error:
        raise BadInput(
            f"{path} is no picture genward opens ({', '.join(FORMATS)}), or is damaged; take it out of the folder or "
            "save it as PNG"
        ) from error
    except BROKEN as error:
        raise BadInput(
            f"{path} is damaged or was cut short ({error}); fetch it again or take it out of the folder"
        ) from error


def on_white(picture: Image) -> Image:
    """A picture as RGB: transparency on white, 16-bit gray scaled to 8."""
    from PIL import Image as pil

    if picture.mode.startswith("I;16"):
        import numpy as np

        return pil.fromarray((np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        return pil.alpha_composite(pil.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")


def fitted(picture: Image, width: int, height: int) -> Image:
    """Cropped around the center to the shape and scaled with Lanczos; one of the right size is returned as it is."""
    from PIL import Image as pil
    from PIL import ImageOps

    return (
        picture if picture.size == (width, height) else ImageOps.fit(picture, (width, height), pil.Resampling.LANCZOS)
    )


def lab_references(targets: Iterable[str] = (), styles: Iterable[str] = ()) -> list[tuple[str, str, Image]]:
    """(object, style, 64×64 RGB render) of the lab's reference renders of these objects in these styles; none named:
    all.

    In rounds over all objects, the style moving on by one from object to object, so that any first few differ in both.

    Raises:
        UnknownName: an object or a style of which there is no render.
    """
    import genward.lab as lab

    renders = {(thing, style): picture for thing, style, picture in lab.references()}
    things = chosen("object with reference renders", targets, [t for t, _ in renders])
    looks = chosen("style with reference renders", styles, [s for _, s in renders])
    walk = [(thing, looks[(k + turn) % len(looks)]) for turn in range(len(looks)) for k, thing in enumerate(things)]
    return [(*pair, renders[pair]) for pair in walk if pair in renders]


def chosen(kind: str, names: Iterable[str], known: Sequence[Any]) -> list[str]:
    """The names without repeats, all known ones where there are none; ``UnknownName`` for one that is not known."""
    wanted = list(dict.fromkeys(names)) or list(dict.fromkeys(known))
    for name in wanted:
        if name not in known:
            raise UnknownName(kind, name, known)
    return wanted


# ------------------------------------------------------------------------------------------------------------- of a run


class Held(NamedTuple):
    """The reference pictures of a run: what the attacker holds."""

    folder: str
    """With one folder per concept (and ``keep``); empty: the lab's own renders."""
    model: str
    concepts: tuple[Concept, ...]
    avoid: tuple[str, ...] = ()
    """Objects and styles left out of all but a concept's own"""

    def shown(self) -> dict[str, list[tuple[str, str]]]:
        """Concept (and ``keep``) -> (object, style) of each reference picture, in the order of ``pictures``; empty
        texts for a user's own."""
        if self.folder:
            return {name: [("", "")] * len(picture_files(folder)) for name, folder in self._folders().items()}
        return {name: [(thing, style) for thing, style, _ in rows] for name, rows in self._of_lab().items()}

    def pictures(self, size: tuple[int, int] = (64, 64)) -> dict[str, list[Image]]:
        """Concept (and ``keep``) -> reference pictures, RGB of ``size`` (height, width).

        Raises:
            BadInput: a model other than the lab and no folder of references, or one that cannot be used.
        """
        if self.folder:
            return {name: read_references(folder, (size[1], size[0])) for name, folder in self._folders().items()}
        return {name: [picture for _, _, picture in rows] for name, rows in self._of_lab().items()}

    def _folders(self) -> dict[str, Path]:
        root = Path(self.folder)
        names = [c.name for c in self.concepts]
        lacking = [n for n in names if not (root / n).is_dir()]
        if lacking:
            raise BadInput(
                f"{root} has no folder {lacking[0]!r} with reference pictures; make one folder for each concept "
                f"({', '.join(names)}), and {KEEP!r} for what must stay"
            )
        return {n: root / n for n in (*names, KEEP) if (root / n).is_dir()}

    def _of_lab(self) -> dict[str, list[tuple[str, str, Image]]]:
        """(object, style, render) by concept; what is to be avoided is left out of the others'."""
        if self.model not in LAB:
            raise BadInput(
                f"model {self.model!r} needs reference pictures of the concepts; name a folder with --references (one "
                "folder per concept inside)"
            )
        every = lab_references()
        things, styles = sorted({thing for thing, _, _ in every}), sorted({style for _, style, _ in every})
        policies = {t for c in map(load_concept, concept_names()) if c.kind == "policy" for t in c.targets}
        taken = policies | set(self.avoid) | {t for c in self.concepts for t in c.targets}
        wanted: dict[str, tuple[list[str], list[str]]] = {
            KEEP: ([t for t in things if t not in taken], [s for s in styles if s not in taken])
        }
        for concept in self.concepts:
            style = concept.kind == "style"
            mine = [t for t in things if (t not in self.avoid if style else t in concept.targets)]
            wanted[concept.name] = (
                mine,
                [s for s in styles if (s in concept.targets if style else s not in self.avoid)],
            )
        return {name: lab_references(*pair) if all(pair) else [] for name, pair in wanted.items()}
