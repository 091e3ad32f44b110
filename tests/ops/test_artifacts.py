"""Artifacts: what is saved comes back bit for bit; anything else is refused with a reason."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from genward.errors import BadArtifact, BadInput
from genward.ops import artifacts


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    return {
        "b": torch.randn(3, 4, generator=g).half(),
        "a": torch.randn(5, generator=g),
        "scalar": torch.tensor(0.5, dtype=torch.float64),
    }


def test_round_trip_is_bit_exact(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    saved = artifacts.save(tmp_path / "new" / "uce-v1.2", tensors, {"method": "uce", "settings": {"lam": 0.5}})
    for path in (tmp_path / "new" / "uce-v1.2.safetensors", tmp_path / "new" / "uce-v1.2.json"):
        loaded = artifacts.load(path, expect_shapes={"a": (5,), "b": (3, 4), "scalar": ()})
        assert loaded.hash == saved.hash == artifacts.identity(tensors, saved.card) and loaded.card == saved.card
        assert all(torch.equal(loaded.tensors[n], t) and loaded.tensors[n].dtype == t.dtype for n, t in tensors.items())
    assert saved.card["tensors"]["b"] == {"dtype": "float16", "shape": [3, 4]} and saved.card["settings"] == {
        "lam": 0.5
    }
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["uce-v1.2.json", "uce-v1.2.safetensors"], (
        "nothing is left aside"
    )
    again = artifacts.save(tmp_path / "again", saved.tensors, saved.card)
    assert again.hash == saved.hash and again.card == saved.card


def test_hash_sees_content_and_nothing_else(tensors: dict[str, Tensor]) -> None:
    base = artifacts.content_hash(tensors)
    assert base == artifacts.content_hash(dict(reversed(tensors.items())))
    assert base == artifacts.content_hash({**tensors, "b": tensors["b"].t().contiguous().t()}), "strides do not matter"
    changed = [
        {**tensors, "a": tensors["a"] + 1e-6},
        {**tensors, "a": tensors["a"].reshape(1, 5)},
        {**tensors, "a": tensors["a"].view(torch.int32)},
        {("c" if n == "a" else n): t for n, t in tensors.items()},
    ]
    assert len({base, *(artifacts.content_hash(c) for c in changed)}) == 5


@pytest.mark.parametrize("ending", artifacts.PICKLES)
def test_pickles_are_refused_unopened(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"model{ending}"
    path.write_bytes(b"this is never read")
    with pytest.raises(BadArtifact, match="pickle"):
        artifacts.load(path)
    path.unlink()
    with pytest.raises(BadArtifact, match="pickle"):
        artifacts.load(path)


def test_a_pickle_in_disguise_is_refused(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    artifacts.save(tmp_path / "x", tensors, {})
    for data in (pickle.dumps({"a": 1}), b"PK\x03\x04" + b"\0" * 64):
        (tmp_path / "x.safetensors").write_bytes(data)
        with pytest.raises(BadArtifact, match="in spite of its name"):
            artifacts.load(tmp_path / "x")


def _header(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    size = struct.unpack("<Q", data[:8])[0]
    header = change(data[8 : 8 + size])
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda d: b"",
    "seven bytes": lambda d: d[:7],
    "half the header": lambda d: d[:40],
    "one byte short": lambda d: d[:-1],
    "one byte more": lambda d: d + b"\0",
    "huge header length": lambda d: struct.pack("<Q", 2**62) + d[8:],
    "header is no JSON": lambda d: _header(d, lambda h: b"{" + h[1:-1] + b"x"),
    "unknown dtype": lambda d: _header(d, lambda h: h.replace(b'"F16"', b'"X16"')),
    "wrong offsets": lambda d: _header(d, lambda h: h.replace(b"[5]", b"[9]")),
    "one bit of content": lambda d: d[:-1] + bytes([d[-1] ^ 1]),
    "no tensors": lambda d: struct.pack("<Q", 2) + b"{}",
}


@pytest.mark.parametrize("damage", sorted(DAMAGE))
def test_damaged_tensors_are_refused(tmp_path: Path, tensors: dict[str, Tensor], damage: str) -> None:
    artifacts.save(tmp_path / "x", tensors, {})
    file = tmp_path / "x.safetensors"
    before = file.read_bytes()
    file.write_bytes(DAMAGE[damage](before))
    assert file.read_bytes() != before
    with pytest.raises(BadArtifact) as caught:
        artifacts.load(tmp_path / "x")
    assert str(tmp_path) in str(caught.value) and ";" in str(caught.value), "says which file and what to do"


@pytest.mark.parametrize(
    "card",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"hash": 3, "format": 1}',
        '{"hash": "00", "format": 2}',
        '{"hash": "00", "format": 1}',
        '{"hash": "00", "format": 99}',
        '{"hash": "00", "format": 2, "threshold": NaN}',
        '{"hash": "00", "format": 2, "threshold": 1e999}',
        "[" * 50_000,
        "\ufeff{}",
    ],
)
def test_damaged_cards_are_refused(tmp_path: Path, tensors: dict[str, Tensor], card: str) -> None:
    artifacts.save(tmp_path / "x", tensors, {})
    (tmp_path / "x.json").write_text(card, "utf-8")
    with pytest.raises(BadArtifact):
        artifacts.load(tmp_path / "x")


def test_shapes_names_dtypes_and_size_are_checked(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    artifacts.save(tmp_path / "x", tensors, {})
    good = {"a": (5,), "b": (3, 4), "scalar": ()}
    for expected, told in (
        ({**good, "a": (6,)}, "shape"),
        ({**good, "z": (1,)}, "lacks 'z'"),
        ({"a": (5,)}, "unexpected 'b', 'scalar'"),
    ):
        with pytest.raises(BadArtifact, match=told):
            artifacts.load(tmp_path / "x", expect_shapes=expected)
    with pytest.raises(BadArtifact, match="at most 10"):
        artifacts.load(tmp_path / "x", max_bytes=10)
    artifacts.save(tmp_path / "ints", {"n": torch.arange(3)}, {})
    with pytest.raises(BadArtifact, match="floating point"):
        artifacts.load(tmp_path / "ints")


def test_missing_halves(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    for ending in (".json", ".safetensors"):
        artifacts.save(tmp_path / "x", tensors, {})
        (tmp_path / f"x{ending}").unlink()
        with pytest.raises(BadArtifact, match="two files"):
            artifacts.load(tmp_path / "x")


def test_what_cannot_be_saved(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    with pytest.raises(BadInput, match="at least one"):
        artifacts.save(tmp_path / "x", {}, {})
    with pytest.raises(BadInput, match="not finite"):
        artifacts.save(tmp_path / "x", {"a": torch.tensor([1.0, float("nan")])}, {})
    for value in (float("inf"), {1, 2}, torch.ones(1)):
        with pytest.raises(BadInput, match="JSON"):
            artifacts.save(tmp_path / "x", tensors, {"value": value})
    with pytest.raises(BadInput, match="hash"):
        artifacts.make(tensors, {"hash": "mine"})
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(BadInput, match="cannot be written"):
        artifacts.save(tmp_path / "file" / "x", tensors, {})
    assert [p.name for p in tmp_path.iterdir()] == ["file"], "nothing half-written"


def test_an_artifact_does_not_alias_what_it_was_made_of(tensors: dict[str, Tensor]) -> None:
    made = artifacts.make(tensors, {})
    tensors["a"].zero_()
    assert artifacts.identity(made.tensors, made.card) == made.hash


def test_the_card_is_plain_json(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    artifacts.save(tmp_path / "x", tensors, {"captions": ["a café"], "pair": (1, 2)})
    card = json.loads((tmp_path / "x.json").read_text("utf-8"))
    assert card["captions"] == ["a café"] and card["pair"] == [1, 2] and card["format"] == artifacts.FORMAT


def test_a_whole_file_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "a.bin"
    artifacts.write_all({path: b"first"})
    assert path.read_bytes() == b"first"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BadInput, match="No space left on device; name another folder"):
        artifacts.write_all({path: b"second"})
    assert path.read_bytes() == b"first" and [p.name for p in path.parent.iterdir()] == ["a.bin"]
    with pytest.raises(BadInput, match="cannot be written"):
        artifacts.write_all({path / "below a file": b"x"})


def test_the_card_is_part_of_the_hash(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    base = artifacts.make(tensors, {"threshold": 0.5, "seconds": 1.0, "torch": "2.9"})
    assert artifacts.make(tensors, {"threshold": 0.5, "seconds": 2.0}).hash == base.hash, (
        "how long it took is no matter"
    )
    assert artifacts.make(tensors, {"threshold": 0.6}).hash != base.hash
    artifacts.save(tmp_path / "x", tensors, {"threshold": 0.5})
    file = tmp_path / "x.json"
    file.write_text(file.read_text("utf-8").replace("0.5", "0.9999"), "utf-8")
    with pytest.raises(BadArtifact, match="were changed"):
        artifacts.load(tmp_path / "x")
    more = artifacts.amended(base, {"rows": 3})
    assert more.card["rows"] == 3 and more.card["threshold"] == 0.5 and more.hash != base.hash


@pytest.mark.parametrize("fails", ["write-1", "write-2", "rename-1", "rename-2"])
def test_a_pair_is_one_commit(
    tmp_path: Path, tensors: dict[str, Tensor], fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the writing stops, the stem holds a whole artifact, the old or the new one, or none at all."""
    import os

    old = artifacts.save(tmp_path / "x", tensors, {"which": "old"})
    what, number = fails.split("-")
    room, name = {"write": (Path, "write_bytes"), "rename": (os, "replace")}[what]
    real, calls = getattr(room, name), 0

    def stops(*given: object) -> object:
        nonlocal calls
        calls += 1
        if calls == int(number):
            raise OSError(28, "No space left on device")
        return real(*given)

    monkeypatch.setattr(room, name, stops)
    with pytest.raises(BadInput, match="No space left"):
        artifacts.save(tmp_path / "x", {**tensors, "a": torch.zeros(5)}, {"which": "new"})
    monkeypatch.undo()
    if (tmp_path / "x.safetensors").is_file():
        assert what == "write" and artifacts.load(tmp_path / "x").hash == old.hash
    else:
        assert what == "rename", "a full disk leaves what was there"
    new = artifacts.save(tmp_path / "x", {**tensors, "a": torch.zeros(5)}, {"which": "new"})
    assert artifacts.load(tmp_path / "x").hash == new.hash and not list(tmp_path.glob(".*"))


def test_files_of_another_kind_are_named(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    artifacts.save(tmp_path / "x", tensors, {"seconds": 1.5, "captions": ["a cat"], "seeds": [1]})
    good = (tmp_path / "x.safetensors").read_bytes()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 3438167540\n".encode()
    for data, match in ((pointer, "git-LFS pointer"), (b"<!DOCTYPE html>" * 9, "a web page"), (good[:-1], "cut short")):
        (tmp_path / "x.safetensors").write_bytes(data)
        with pytest.raises(BadArtifact, match=match):
            artifacts.load(tmp_path / "x")
    (tmp_path / "x.safetensors").write_bytes(good)
    card = (tmp_path / "x.json").read_text()
    for old, new, match in (
        ('"seconds": 1.5', '"seconds": "long"', "seconds is 'long', which is text, where a number belongs"),
        ('"seconds": 1.5', '"seconds": -1', "seconds is -1"),
        ('"seconds": 1.5', '"seconds": null', "seconds is None"),
        ('"seconds": 1.5', '"seconds": 1.5, "settings": []', r"settings is \[\], which is a list, where a table"),
        ('"a cat"', "5", "5, which is a whole number stands among its captions"),
        ('"seconds": 1.5', '"seconds": NaN', "NaN is no JSON number"),
        ('"seconds": 1.5', '"x": ' + "[" * 50_000 + "]" * 50_000, "levels deep"),
    ):
        assert old in card
        (tmp_path / "x.json").write_text(card.replace(old, new))
        with pytest.raises(BadArtifact, match=match):
            artifacts.load(tmp_path / "x")
    small = {"a": torch.ones(4).to(torch.float8_e4m3fn)}
    with pytest.raises(BadInput, match="float8"):
        artifacts.save(tmp_path / "small", small, {})
