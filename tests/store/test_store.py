"""The store: whole or not there, never twice, nothing damaged taken for sound."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genward.core import Audio, Case, Inputs, Sample, Score, digest, files
from genward.core import Image as Picture
from genward.core.contracts import Card
from genward.errors import BadInput, StoreError, UnknownName
from genward.store import PURPOSES, Store, parts

ARM = {"model": "tiny", "defenses": [], "sampler": {"steps": 2}}


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8))


def sample(k: int, arm: str, status: str = "ok", **more: Any) -> Sample:
    case = Case(
        f"weapons/name/{k:04d}", f"a bomb, number {k}", "harm", "weapons", 2**62 + k, variant="name", group="bomb"
    )
    output = Picture(picture(k)) if status == "ok" else None
    return Sample(case, arm, status, output, **{"seconds": 0.25, "costs": {"nfe": 40}, **more})


def batch(arm: str, start: int = 0, n: int = 3) -> list[Sample]:
    return [sample(k, arm) for k in range(start, start + n)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def arm(store: Store) -> str:
    return store.put_arm(ARM)


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


# ---------------------------------------------------------------------------------------------------------- round trips


def test_arms(store: Store) -> None:
    assert store.arms() == []
    name = store.put_arm(ARM)
    assert name == digest(ARM) == store.put_arm(dict(reversed(ARM.items())))
    assert store.arm(name) == ARM and store.arms() == [name]
    assert store.put_arm({**ARM, "prepare_seconds": 1.0}, "abc123") == "abc123"
    store.put_arm({**ARM, "prepare_seconds": 2.0}, "abc123")
    assert store.arm("abc123")["prepare_seconds"] == 1.0, "the first record stays"
    with pytest.raises(UnknownName, match="abc123"):
        store.arm("abc124")


def test_samples_come_back_as_they_went_in(store: Store, arm: str) -> None:
    given = sample(1, arm, notes={"norm": [1.0, math.nan, np.float32(2)], "rows": np.arange(3)}, why="")
    given.case = given.case._replace(
        inputs=Inputs({"latents": "ef", "<ab>": "ab"}), negative="bad", parent="p", queries=7
    )
    refused, failed = sample(2, arm, "refused", why="guard: a bomb"), sample(3, arm, "error", why="MemoryError")
    path = store.put_samples([failed, given, refused], "b0")
    assert path.parent == store.root / "samples" and store.parts() == {"b0"}
    rows = store.samples()
    assert [r["case"] for r in rows] == [s.case.id for s in (given, refused, failed)], "sorted by case"
    assert list(rows[0]) == parts.SAMPLES.names
    assert rows[0]["seed"] == given.case.seed and rows[0]["inputs"] == {"latents": "ef", "<ab>": "ab"}
    assert json.loads(rows[0]["notes"]) == {"norm": [1.0, None, 2.0], "rows": [0, 1, 2]}
    assert [(r["status"], r["why"], bool(r["output"])) for r in rows] == [
        ("ok", "", True),
        ("refused", "guard: a bomb", False),
        ("error", "MemoryError", False),
    ]
    back = store.load(rows[0])
    assert back.case == given.case and back.id == given.id == rows[0]["id"] and back.nfe == 40 and back.seconds == 0.25
    assert rows[0]["costs"] == {"nfe": 40} and (rows[0]["mime"], rows[1]["mime"]) == ("image/png", "")
    assert (
        back.image is not None
        and back.output == given.output
        and np.array_equal(np.asarray(back.image), np.asarray(given.image))
    )
    assert store.load(rows[1]).image is None
    assert store.done(arm) == {given.id, refused.id, failed.id} and store.done("other") == set()
    assert Store(store.root).samples([arm]) == rows and store.samples(["other"]) == [] and store.samples([]) == []
    assert store.check() == []


def test_a_batch_put_again_replaces_itself_and_duplicates_collapse(store: Store, arm: str) -> None:
    store.put_samples(batch(arm), "b0")
    before = store.done(arm)
    store.put_samples(batch(arm), "b0")
    assert len(store.samples()) == 3 and store.parts() == {"b0"}
    store.put_samples(batch(arm, 0, 2), "b0")
    assert len(store.samples()) == 2 and store.done(arm) < before, "the index follows the file"
    store.put_samples(batch(arm), "b1")
    assert len(store.samples()) == 3
    error = sample(9, arm, "error", why="first try")
    store.put_samples([error], "a")
    store.put_samples([sample(9, arm)], "b")
    store.put_samples([sample(9, arm, "error", why="third try")], "c")
    assert [r["status"] for r in store.samples() if r["id"] == error.id] == ["ok"]


def test_equal_pixels_are_one_file_named_by_its_bytes(store: Store) -> None:
    image = picture(0)
    sha = store.put_image(image)
    tagged = image.copy()
    tagged.info.update(dpi=(300, 300), icc_profile=b"x" * 64, Software="y")
    assert store.put_image(tagged) == sha
    assert hashlib.sha256(store.media_path(sha).read_bytes()).hexdigest() == sha
    assert store.media_path(sha).parent.name == sha[:2]
    for mode in ("L", "RGBA", "P", "1"):
        other = store.put_image(image.convert(mode))
        assert other != sha and store.image(other).size == image.size
    store.media_path(sha).write_bytes(b"cut")
    assert store.put_image(image) == sha and store.image(sha).size == (8, 8), "a damaged file is written again"


def test_sounds_are_kept_beside_pictures(store: Store, arm: str) -> None:
    sound = Audio(np.sin(np.arange(400) / 5), 8000)
    given = sample(1, arm)
    given.output, given.costs = sound, {"samples": 400}
    store.put_samples([given, sample(2, arm)], "b0")
    rows = store.samples()
    assert [r["mime"] for r in rows] == ["audio/wav", "image/png"] and rows[0]["costs"] == {"samples": 400}
    path = store.media_path(rows[0]["output"], rows[0]["mime"])
    assert path == store.root / "media" / sound.sha[:2] / f"{sound.sha}.wav" and path.read_bytes() == sound.encoded()
    back = store.load(rows[0])
    assert back.audio == sound == back.output and back.image is None and back.nfe == 0 and back.id == given.id
    assert store.put_media(sound) == sound.sha and store.check() == []
    with pytest.raises(UnknownName, match="video/mp4"):
        store.media_path(sound.sha, "video/mp4")
    path.write_bytes(b"cut")
    assert any("audio" in line and "corrupt" in line for line in store.check())
    with pytest.raises(StoreError, match="corrupt"):
        store.load(rows[0])
    path.unlink()
    assert any("audio" in line and "missing" in line for line in store.check())


def test_scores_and_features(store: Store, arm: str) -> None:
    made = batch(arm)
    store.put_samples(made, "b0")
    card = Card("fake", "words", {"bomb": {"sensitivity": 0.9, "threshold": 0.5}})
    ids = [s.id for s in made]
    store.put_scores(
        "j1", [Score(ids[0], "bomb", 0.75), Score(ids[1], "bomb", math.nan, "blank")], card=card, spec={"kind": "judge"}
    )
    assert store.judge("j1")["card"]["labels"]["bomb"]["sensitivity"] == 0.9 and store.judge("j1")["spec"] == {
        "kind": "judge"
    }
    assert store.judged("j1") == set(ids[:2]) and store.judges() == ["j1"]
    assert (
        store.judge("j2") == {}
        and store.scores("j2") == []
        and store.judged("j2") == set()
        and store.features("j2") == {}
    )
    store.put_scores("j1", (Score(i, "bomb", 0.5) for i in ids[1:]), key="later")
    assert store.judge("j1")["card"]["name"] == "fake", "kept where a batch brings none"
    rows = store.scores("j1")
    assert [(r["sample"], r["value"], r["why"]) for r in rows] == sorted(
        (i, v, "") for i, v in zip(ids, (0.75, 0.5, 0.5), strict=True)
    ), "a number beats NaN"
    vectors = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    store.put_features("j1", dict(zip(ids, vectors, strict=True)))
    store.put_features("j1", {ids[0]: np.full(5, np.nan)}, key="second")
    back = store.features("j1")
    assert set(back) == set(ids) and all(
        np.array_equal(back[i], v) and back[i].dtype == np.float32 for i, v in zip(ids, vectors, strict=True)
    )
    assert store.check() == []
    with pytest.raises(BadInput, match="same width"):
        store.put_features("j1", {"a": [1.0], "b": [1.0, 2.0]})
    with pytest.raises(BadInput):
        store.put_features("j1", {})
    with pytest.raises(BadInput, match="empty batch"):
        store.put_scores("j1", [])


def test_runs_and_json(store: Store) -> None:
    folder = store.run_folder("erasure-quick")
    assert not folder.exists() and store.runs() == []
    store.write_json(
        folder / "metrics.json",
        {"a": math.nan, "b": (1, np.float64(2)), "c": {"d": Path("x")}, "e": np.int64(3), "f": {"z", "y"}},
    )
    assert store.read_json("runs/erasure-quick/metrics.json") == {
        "a": None,
        "b": [1, 2.0],
        "c": {"d": "x"},
        "e": 3,
        "f": ["y", "z"],
    }
    store.write_text("runs/erasure-quick/plan.toml", "é = 1\n")
    assert (folder / "plan.toml").read_text("utf-8") == "é = 1\n" and store.runs() == ["erasure-quick"]
    with pytest.raises(BadInput, match="object"):
        store.write_json("runs/x.json", {"a": object()})
    for bad in ("../out.json", "/etc/x.json", "runs/../../x"):
        with pytest.raises(StoreError, match="outside"):
            store.write_json(bad, {})
    for name in ("", "..", "a/b", ".hidden", "x" * 200, "a\nb"):
        with pytest.raises(StoreError, match="folder's name"):
            store.run_folder(name)
    with pytest.raises(StoreError, match="missing"):
        store.read_json("runs/none.json")


# --------------------------------------------------------------------------------------------------------- reservations


def test_an_overlap_of_purposes_is_refused(store: Store) -> None:
    store.reserve("fit", [f"seed:{k}" for k in range(10)])
    store.reserve("fit", ["seed:3", "seed:11"])
    store.reserve("fit", [])
    with pytest.raises(
        StoreError, match=r"5 of 6 keys for evaluate belong to fit: 'seed:5', 'seed:6', 'seed:7', …"
    ) as caught:
        store.reserve("evaluate", [f"seed:{k}" for k in range(5, 10)] + ["seed:99"])
    assert "seed:8" not in str(caught.value)
    assert store.reserved("evaluate") == set(), "nothing of a refused batch is kept"
    store.reserve("evaluate", ["seed:99"])
    with pytest.raises(StoreError, match="1 of 1 keys for calibrate belong to evaluate"):
        Store(store.root).reserve("calibrate", ["seed:99"])
    before = snapshot(store.root)
    store.reserve("evaluate", ["seed:99"])
    assert snapshot(store.root) == before
    assert store.reserved("fit") == {f"seed:{k}" for k in (*range(10), 11)} and store.check() == []
    with pytest.raises(UnknownName, match="evaluate"):
        store.reserve("evaluation", ["x"])


def test_another_process_that_came_between(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    write = parts.write_part

    def slow(*args: Any) -> Path:
        monkeypatch.setattr(parts, "write_part", write)
        Store(store.root).reserve("fit", ["k"])
        return write(*args)

    monkeypatch.setattr(parts, "write_part", slow)
    with pytest.raises(StoreError, match="belong to fit"):
        store.reserve("evaluate", ["k", "l"])
    assert store.reserved("evaluate") == set() and store.reserved("fit") == {"k"}


# --------------------------------------------------------------------------------------------------------- kills, disks


def test_a_file_left_in_the_making_is_never_read_and_goes_on_opening(store: Store, arm: str) -> None:
    store.put_samples(batch(arm), "b0")
    before = snapshot(store.root)
    part = next((store.root / "samples").iterdir())
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    ).stdout.strip()
    host = files.socket.gethostname()
    left = [
        store.root / "tmp" / f"{host}~{gone}~aa",
        store.root / "tmp" / f"{host}~{os.getpid()}~bb",
        store.root / "tmp" / "no name of ours",
    ]
    for path in left:
        path.write_bytes(part.read_bytes()[:200])
    working = store.root / "tmp" / f"{host}~{os.getppid()}~cc"
    working.write_bytes(b"of a process that runs")
    assert len(store.samples()) == 3 and store.check() == []
    again = Store(store.root)
    assert not any(path.exists() for path in left) and working.exists()
    os.utime(working, (time.time() - 2 * files.STALE,) * 2)
    assert len(Store(store.root).samples()) == 3 and not working.exists()
    assert len(again.samples()) == 3 and snapshot(store.root) == before


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_store_writer import ARM, batch
from genward.store import Store
store = Store(sys.argv[1])
arm = store.put_arm(ARM)
print("ready", flush=True)
for k in range(10_000):
    store.put_samples(batch(arm, k % 20 * 3), f"b{k % 20}")
"""


def test_a_kill_at_any_moment_leaves_it_whole(tmp_path: Path) -> None:
    root = tmp_path / "store"
    (tmp_path / "test_store_writer.py").write_bytes(Path(__file__).read_bytes())
    for k in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(root), str(tmp_path)], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
            time.sleep(0.03 + 0.041 * k)
            writer.send_signal(signal.SIGKILL)
            writer.wait(20)
        store = Store(root)
        rows = store.samples()
        assert store.check() == [] and len(rows) == 3 * len(store.parts()), "whole batches only"
        assert [p.name for p in (root / "tmp").iterdir()] == []
    arm = store.put_arm(ARM)
    for k in range(20):
        store.put_samples(batch(arm, k * 3), f"b{k}")
    straight = Store(tmp_path / "straight")
    straight.put_arm(ARM)
    for k in range(20):
        straight.put_samples(batch(arm, k * 3), f"b{k}")
    assert snapshot(root) == snapshot(straight.root), "resumed equals uninterrupted, bit for bit"


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EACCES, "permissions"),
        (errno.EROFS, "--store"),
        (errno.EIO, "check the disk"),
    ],
)
def test_a_disk_that_fails_says_so_and_leaves_nothing(
    store: Store, arm: str, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    store.put_samples(batch(arm), "b0")
    before = snapshot(store.root)
    for call in ("fsync", "replace"):

        def fail(*_: Any) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            with pytest.raises(StoreError, match=message):
                store.put_samples(batch(arm, 3), "b1")
        assert snapshot(store.root) == before
    store.put_samples(batch(arm, 3), "b1")
    assert len(store.samples()) == 6


def test_places_that_cannot_be_written(tmp_path: Path, store: Store, arm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="is a file"):
        Store(tmp_path / "file")
    with pytest.raises(StoreError, match="each other's place"):
        Store(tmp_path / "file" / "store")

    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(StoreError, match="cannot be written: Permission denied; name another folder with --store"):
        Store(tmp_path / "other")
    with pytest.raises(StoreError, match="cannot be written"):
        store.put_samples(batch(arm), "b0")
    assert Store(store.root, create=False).arms() == [arm], "reading needs no writing"


# --------------------------------------------------------------------------------------------------------------- schema


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema": 1}', "has schema 1, older than the schema 2 .*name a new folder with --store .*and run again"),
        ('{"schema": 3}', "has schema 3, newer than the schema 2 .*update genward"),
        ('{"schema": "1"}', "names no schema"),
        ("[]", "names no schema"),
        ("{", "is not JSON"),
        ("\xff", "names no schema|is not JSON"),
    ],
)
def test_another_schema_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "schema.json").write_text(content, "latin-1")
    before = snapshot(tmp_path)
    with pytest.raises(StoreError, match=message):
        Store(tmp_path)
    assert snapshot(tmp_path) == before


def test_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no store at .*genward run"):
        Store(tmp_path / "none", create=False)
    assert not (tmp_path / "none").exists()
    (tmp_path / "old" / "samples").mkdir(parents=True)
    with pytest.raises(StoreError, match="without schema.json"):
        Store(tmp_path / "old")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(StoreError, match=r"holds other files \(thesis.tex\)"):
        Store(tmp_path / "mine")
    (tmp_path / "new" / "fits").mkdir(parents=True)
    (tmp_path / "new" / ".gitignore").write_text("*")
    assert Store(tmp_path / "new").fits.is_dir(), "fits may come before the first run"
    assert Store(tmp_path / "new", create=False).read_json("schema.json") == {"schema": 2}


# --------------------------------------------------------------------------------------------------------------- damage


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 0xFF
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [cut, empty, flip])
def test_a_damaged_part_is_named_and_resuming_after_its_deletion_heals(
    store: Store, arm: str, damage: Callable[[Path], None]
) -> None:
    store.put_samples(batch(arm), "b0")
    path = store.put_samples(batch(arm, 3), "b1")
    whole = snapshot(store.root)
    damage(path)
    for read in (store.samples, lambda: Store(store.root).samples([arm])):
        with pytest.raises(StoreError, match=rf"{path.name} is truncated or damaged .*delete it and resume"):
            read()
    assert [line for line in store.check() if path.name in line]
    path.unlink()
    assert store.parts() == {"b0"} and len(store.done(arm)) == 3
    store.put_samples(batch(arm, 3), "b1")
    assert snapshot(store.root) == whole


def test_damaged_scores_features_and_foreign_parquet(store: Store, arm: str) -> None:
    made = batch(arm)
    store.put_samples(made, "b0")
    scores = store.put_scores("j", [Score(s.id, "x", 0.5) for s in made])
    features = store.put_features("j", {s.id: np.ones(4) for s in made})
    reserved = store.root / "reserved" / "fit"
    store.reserve("fit", ["a"])
    for path in (scores, features, next(reserved.iterdir())):
        cut(path)
    for read in (
        lambda: store.scores("j"),
        lambda: store.judged("j"),
        lambda: store.features("j"),
        lambda: store.reserve("fit", ["b"]),
    ):
        with pytest.raises(StoreError, match="truncated or damaged"):
            read()
    assert len(store.check()) == 3
    alien = store.root / "samples" / "part-0.parquet"
    parts.pq.write_table(parts.pa.table({"id": [1], "arm": ["x"]}), alien)
    with pytest.raises(StoreError, match="another schema"):
        store.samples()
    with pytest.raises(StoreError, match="not written by this schema"):
        store.parts()


def test_a_corrupt_or_missing_picture(store: Store, arm: str) -> None:
    store.put_samples(batch(arm), "b0")
    rows = store.samples()
    first, second = store.media_path(rows[0]["output"]), store.media_path(rows[1]["output"])
    Image.open(second).save(first)  # a sound PNG, another picture
    second.unlink()
    with pytest.raises(StoreError, match=f"{first.name} is corrupt; delete it"):
        store.image(rows[0]["output"])
    with pytest.raises(StoreError, match="missing"):
        store.load(rows[1])
    problems = store.check()
    assert len(problems) == 2 and "corrupt" in problems[0] and "missing" in problems[1]
    for bad in ("", "abc", "../../etc/passwd", "g" * 64):
        with pytest.raises(StoreError, match="names no picture"):
            store.image(bad)
    store.put_samples(batch(arm), "b0")
    assert store.check() == []


def test_check_finds_what_does_not_fit_together(store: Store, arm: str) -> None:
    store.put_samples(batch(arm), "b0")
    store.put_scores("j", [Score("nobody", "x", 0.5)])
    (store.root / "arms" / arm / "arm.json").write_text("{")
    rows = [r | {"prompt": "another", "inputs": "{}", "costs": "{}"} for r in store.samples()[:1]]
    columns = {name: [r[name] for r in rows] for name in parts.SAMPLES.names}
    path = parts.write_part(store.root, store.root / "samples", "b1", columns, parts.SAMPLES)
    path.rename(path.with_name("part-moved.parquet"))
    for k, purpose in enumerate(PURPOSES[:2]):
        parts.write_part(store.root, store.root / "reserved" / purpose, f"r{k}", {"key": ["same"]}, parts.RESERVED)
    found = "\n".join(store.check())
    for words in (
        "arm.json is not JSON",
        "not the hash of its arm and case",
        "not named after it",
        "1 of 1 samples are not in this store",
        "reserved for fit and for",
    ):
        assert words in found
    with pytest.raises(StoreError, match="not JSON"):
        store.arm(arm)


# ------------------------------------------------------------------------------------------------------------ bad input


def test_rows_that_cannot_be_kept(store: Store, arm: str) -> None:
    no_output = sample(0, arm)
    no_output.output = None
    odd = sample(0, arm, "refused")
    odd.status = "fine"
    big = sample(0, arm)
    big.case = big.case._replace(seed=2**70)
    lone = sample(0, arm)
    lone.case = lone.case._replace(prompt="\ud800")
    noted = sample(0, arm, notes={"x": object()})
    for rows, error, message in (
        ([], BadInput, "empty batch"),
        ([no_output], BadInput, "no output"),
        ([odd], BadInput, "one of ok, refused, error"),
        ([big], BadInput, "64-bit"),
        ([lone], BadInput, "surrogate"),
        ([noted], BadInput, "cannot be kept"),
        ([sample(0, "unknown")], StoreError, "put_arm before"),
        ([sample(0, "")], StoreError, "put_arm before"),
    ):
        with pytest.raises(error, match=message):
            store.put_samples(rows, "b0")
    with pytest.raises(BadInput, match="key"):
        store.put_samples(batch(arm), "")
    assert store.samples() == [] and store.parts() == set()


def test_many_writers_at_once(tmp_path: Path) -> None:
    (tmp_path / "test_store_writer.py").write_bytes(Path(__file__).read_bytes())
    code = WRITER.replace("range(10_000)", "range(int(sys.argv[3]), int(sys.argv[3]) + 8)")
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "s"), str(tmp_path), str(5 * k)], stdout=subprocess.DEVNULL
        )
        for k in range(3)
    ]
    assert [w.wait(60) for w in writers] == [0, 0, 0]
    store = Store(tmp_path / "s")
    assert store.parts() == {f"b{k}" for k in range(18)} and len(store.samples()) == 54 and store.check() == []


def test_a_store_may_be_named_by_way_of_the_folder_above(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    Store(tmp_path / "s").write_json(tmp_path / "s" / "runs" / "x" / "metrics.json", {"n": 1})
    store = Store(tmp_path / "here" / ".." / "s")
    assert store.read_json(store.run_folder("x") / "metrics.json") == {"n": 1}
    with pytest.raises(StoreError, match="outside"):
        store.read_json(store.root / ".." / "t.json")
