"""Reference pictures: what a user's folder may hold, and the lab's own renders."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genward import lab
from genward.errors import BadInput, UnknownName
from genward.run import references
from genward.run.references import lab_references, read_references


def gradient(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(
        np.stack([x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), np.full_like(x, 90)], 2).astype(np.uint8)
    )


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def test_right_size_is_untouched_and_names_give_the_order(tmp_path: Path) -> None:
    pictures = [gradient(64, 64), gradient(64, 64).rotate(90)]
    pictures[1].save(tmp_path / "b.png")
    pictures[0].save(tmp_path / "a.png")
    found = read_references(tmp_path, 64)
    assert [np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(found, pictures, strict=True)] == [True, True]


def test_other_sizes_are_cropped_around_the_center_and_scaled(tmp_path: Path) -> None:
    wide = Image.new("RGB", (300, 100), "red")
    wide.paste("lime", (100, 0, 200, 100))
    wide.save(tmp_path / "wide.png")
    gradient(7, 400).save(tmp_path / "thin.bmp")
    gradient(16, 16).save(tmp_path / "small.webp", lossless=True)
    found = read_references(tmp_path, (32, 32))
    assert [p.size for p in found] == [(32, 32)] * 3 and {p.mode for p in found} == {"RGB"}
    center = np.asarray(found[2])[:, 4:-4]
    assert (center == (0, 255, 0)).all(), "the middle third of the wide picture is left"
    assert read_references(tmp_path, (48, 24))[0].size == (48, 24)


def test_gray_palette_alpha_and_turned(tmp_path: Path) -> None:
    Image.new("L", (8, 8), 77).save(tmp_path / "a-gray.png")
    Image.fromarray(np.full((8, 8), 77 * 257, np.uint16)).save(tmp_path / "b-gray16.png")
    clear = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    clear.paste((200, 0, 0, 128), (0, 0, 4, 8))
    clear.save(tmp_path / "c-alpha.png")
    clear.convert("LA").save(tmp_path / "d-gray-alpha.png")
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "e-clear-palette.png", transparency=1)
    palette.save(tmp_path / "f-palette.gif")
    Image.new("CMYK", (8, 8), (0, 0, 0, 0)).save(tmp_path / "g-cmyk.jpg")
    turned = Image.new("RGB", (8, 8), "white")
    turned.paste("black", (0, 0, 8, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "h-turned.png", exif=exif)
    found = [np.asarray(p).astype(int) for p in read_references(tmp_path, 8)]
    assert all(p.shape == (8, 8, 3) for p in found)
    assert (found[0] == 77).all() and (found[1] == 77).all()
    assert abs(found[2][0, 0] - (227, 127, 127)).max() <= 1 and (found[2][0, 7] == 255).all()
    assert found[3][0, 0, 0] < 200 and (found[3][0, 7] == 255).all()
    assert (found[4] == 255).all() and (found[5] == (10, 20, 30)).all() and (found[6] >= 254).all()
    assert (found[7][:, :4] == 255).all() and (found[7][:, 4:] == 0).all(), "turned a quarter, as the camera says"


@pytest.mark.parametrize("width, height", [(30_000, 30_000), (10_000, 9_000), (8_001, 8_000)])
def test_huge_pictures_are_refused_unread(tmp_path: Path, width: int, height: int) -> None:
    (tmp_path / "huge.png").write_bytes(png_header(width, height))
    with pytest.raises(BadInput, match=r"huge\.png.*64 million pixels; scale it down"):
        read_references(tmp_path, 64)


def test_damaged_files(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for ending in ("png", "jpg", "webp", "gif", "bmp", "tiff"):
        noise.save(tmp_path / f"whole.{ending}")
        data = (tmp_path / f"whole.{ending}").read_bytes()
        (tmp_path / f"whole.{ending}").unlink()
        for length in (0, 3, 20, len(data) // 2, len(data) * 9 // 10):
            broken = tmp_path / f"broken.{ending}"
            broken.write_bytes(data[:length])
            with pytest.raises(BadInput, match=rf"broken\.{ending}.*(damaged|no picture)"):
                read_references(tmp_path, 64)
            broken.unlink()
    (tmp_path / "header.png").write_bytes(png_header(32, 32))
    with pytest.raises(BadInput, match=r"header\.png is damaged"):
        read_references(tmp_path, 64)


def test_what_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no folder"):
        read_references(tmp_path / "absent", 64)
    with pytest.raises(BadInput, match="no pictures in"):
        read_references(tmp_path, 64)
    (tmp_path / "LICENSE.txt").write_text("free", "utf-8")
    (tmp_path / ".DS_Store").write_bytes(b"\x00")
    (tmp_path / "more").mkdir()
    with pytest.raises(BadInput, match="no pictures in"):
        read_references(tmp_path, 64)
    with pytest.raises(BadInput, match="no folder"):
        read_references(tmp_path / "LICENSE.txt", 64)
    gradient(64, 64).save(tmp_path / "one.png")
    assert len(read_references(tmp_path, 64)) == 1
    (tmp_path / "script.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    with pytest.raises(BadInput, match=r"script\.eps is no picture genward opens"):
        read_references(tmp_path, 64)
    (tmp_path / "script.eps").unlink()
    Image.new("I", (4, 4), 70_000).save(tmp_path / "deep.tiff")
    with pytest.raises(BadInput, match=r"deep\.tiff has 32-bit gray"):
        read_references(tmp_path, 64)


def test_lab_references() -> None:
    everything = lab.references()
    by_name = {(thing, style): np.asarray(p) for thing, style, p in everything}
    assert len(lab_references()) == len(everything)
    banana = [np.asarray(p) for _, _, p in lab_references(["banana"])]
    styles = list(dict.fromkeys(s for t, s, _ in everything if t == "banana"))
    assert len(banana) == len(styles) and all(
        np.array_equal(a, by_name["banana", s]) for a, s in zip(banana, styles, strict=True)
    )
    two = [p for _, _, p in lab_references(["banana", "cat"])]
    assert np.array_equal(np.asarray(two[0]), by_name["banana", styles[0]]) and np.array_equal(
        np.asarray(two[1]), by_name["cat", styles[1]]
    )
    assert (
        len({np.asarray(p).tobytes() for p in two})
        == len(two)
        == len(banana) + sum(t == "cat" for t, _, _ in everything)
    )
    only = lab_references(styles=["twemoji"])
    assert all(np.array_equal(np.asarray(p), by_name[thing, style]) and style == "twemoji" for thing, style, p in only)
    assert len(only) == sum(s == "twemoji" for _, s, _ in everything)
    assert len(lab_references(["banana", "banana"], ["twemoji"])) == 1
    for wrong in ({"targets": ["bananna"]}, {"styles": ["twemojy"]}):
        with pytest.raises(UnknownName, match="did you mean"):
            lab_references(**wrong)


def test_chosen_keeps_the_order() -> None:
    assert references.chosen("x", ["b", "a", "b"], ["a", "b", "c"]) == ["b", "a"] and references.chosen(
        "x", [], ["a", "b", "a"]
    ) == ["a", "b"]
