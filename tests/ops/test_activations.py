"""Reading states of a generation: the right rows at the right steps, and pictures as if nothing were read."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from genward.core import Case, Sampler
from genward.errors import BadArtifact, BadInput, UnknownName
from genward.ops.activations import AtSite, collect, pooled, record, sources, stop_step
from genward.ops.asking import judged
from genward.ops.moments import Moments, Statistics, samples_of
from genward.ops.shards import Rows, Shards, joined
from genward.testing import FakeJudge, tiny_sd
from genward.testing.suites import CASES, same

SITE = "mid_block.attentions.0.tb.0"


@pytest.mark.parametrize(
    ("step", "steps", "index"),
    [(0.08, 50, 3), (0.08, 20, 1), (0.1, 30, 2), (0.0, 20, 0), (0.99, 20, 19), (1, 20, 1), (19, 20, 19), (0.5, 1, 0)],
)
def test_stop_step(step: float, steps: int, index: int) -> None:
    assert stop_step(step, steps) == index


def test_a_step_beyond_the_loop_is_refused() -> None:
    with pytest.raises(BadInput, match="loop of 20"):
        stop_step(20, 20)


def test_pooled_averages_a_grid() -> None:
    x = torch.arange(2 * 16 * 3, dtype=torch.float64).reshape(2, 16, 3)
    small = pooled(x, 2)
    for row in range(2):
        for place in range(4):
            y, z = divmod(place, 2)
            mine = [x[row, (2 * y + a) * 4 + 2 * z + b] for a in (0, 1) for b in (0, 1)]
            assert torch.allclose(small[row, place], torch.stack(mine).mean(0))
    assert pooled(x, 0) is x and pooled(x, 4) is x
    with pytest.raises(BadInput, match="no square"):
        pooled(x[:, :15], 2)


def test_states_are_those_of_the_loop() -> None:
    model = tiny_sd()
    sampler = Sampler(4, 3.0)
    seen: dict[int, Tensor] = {}

    @dataclass(frozen=True)
    class Watch:
        name: ClassVar[str] = "watch"

        def attach(self, rig: Any) -> None:
            rig.latents(lambda z, frame: seen.setdefault(frame.step, z.clone()))

    plain = model.generate(CASES, sampler, [Watch()])
    found = collect(model, CASES, sampler, sites=[SITE], parts=("latents", "text", "noise"), steps=(0, 2))
    assert same(plain, found.samples), "reading changes no picture"
    assert torch.allclose(found.states["latents"][:, 1].float(), seen[2], atol=5e-3)
    assert torch.allclose(found.states["text"].float(), model.encode([c.prompt for c in CASES]), atol=5e-3)
    assert found.states[SITE].shape == (3, 2, 16, 16) and found.states["noise"].shape == (3, 2, 4, 8, 8)
    assert found.states[SITE].dtype == torch.float16 and found.timesteps.tolist() == [751, 251]
    parted = collect(model, CASES, sampler, sites=[SITE], steps=(2,), batch=2)
    assert torch.allclose(parted.states[SITE][:, 0].float(), found.states[SITE][:, 1].float(), atol=2e-2)


def test_bad_requests() -> None:
    model = tiny_sd()
    with pytest.raises(UnknownName, match="mid_block"):
        collect(model, CASES, Sampler(2), sites=["mid_bloc"])
    with pytest.raises(BadInput, match="parts colors"):
        collect(model, CASES, Sampler(2), parts=("colors",))
    with pytest.raises(BadInput, match="loop of 2"):
        collect(model, CASES, Sampler(2), steps=(7,))


def test_judged_knows_what_it_could_not_say() -> None:
    samples = tiny_sd().generate(CASES, Sampler(2))
    samples[1].output = None
    truth = judged(FakeJudge(threshold=0.0), samples, ["bright"])
    assert truth[0, 0] == truth[2, 0] == 1 and bool(torch.isnan(truth[1, 0]))
    assert judged(FakeJudge(threshold=0.99), samples, ["bright"])[0, 0] == 0
    told = {s.sample: s.value for s in FakeJudge().judge(samples)}
    assert judged(FakeJudge(threshold=told[samples[0].id]), samples, ["bright"])[0, 0] == 1, (
        "a score at its threshold shows the label"
    )
    assert judged(FakeJudge(threshold=float(np.nextafter(told[samples[0].id], 2))), samples, ["bright"])[0, 0] == 0
    with pytest.raises(BadInput, match="says nothing about dark"):
        judged(FakeJudge(), samples, ["dark"])


def test_rows_ended_by_another_defense_are_nan() -> None:
    @dataclass(frozen=True)
    class End:
        name: ClassVar[str] = "end"

        def attach(self, rig: Any) -> None:
            def fn(call: Any, frame: Any) -> Any:
                if frame.step == 0:
                    rig.block(frame, frame.case == 1, "as an example")
                return call

            rig.inputs(fn)

    found = collect(
        tiny_sd(), [*CASES, Case("x", "a cup")], Sampler(3), parts=("latents",), steps=(1,), defenses=[End()]
    )
    assert torch.isnan(found.states["latents"]).flatten(1).any(1).tolist() == [False, True, False, False]


# ------------------------------------------------------------------------------------------------ shards and recordings


def rows(count: int, *shape: int, first: int = 0, step: int = 0, time: float = 500.0, seed: int = 0) -> Rows:
    state = torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))
    case, steps = torch.arange(first, first + count), torch.full((count,), step)
    return Rows(state, case, steps, torch.full((count,), time), torch.ones(count, dtype=torch.bool))


def test_memory_is_bounded_and_nothing_is_lost(tmp_path: Path) -> None:
    """200 calls of 64 KiB under a budget of 256 KiB: at most the budget and one call wait at once."""
    shards = Shards(tmp_path / "s", {"what": "x"}, budget=1 << 18)
    calls = [rows(8, 16, 128, first=8 * (k // 20), step=k % 20, seed=k) for k in range(200)]
    for batch in range(10):
        for call in calls[20 * batch : 20 * batch + 20]:
            shards.put("site", call)
        shards.commit(8 * batch, 8, {"label": torch.full((8, 1), float(batch % 2))})
    assert shards.peak <= (1 << 18) + calls[0].bytes and shards.cases == 80
    assert len(list((tmp_path / "s").glob("rows-*"))) >= 40
    again = Shards(tmp_path / "s", {"what": "x"})
    found = joined(list(again.stream("site")))
    whole = joined(calls)
    assert all(torch.equal(a, b) for a, b in zip(found, whole, strict=True))
    assert max(r.bytes for r in again.stream("site")) <= (1 << 18) + calls[0].bytes, "one shard at a time"
    assert again.about("label")[:, 0].tolist() == [float(k // 8 % 2) for k in range(80)]
    again.verify()
    with pytest.raises(BadArtifact, match="says nothing of 'colour'"):
        again.about("colour")


def test_the_process_stays_small(tmp_path: Path) -> None:
    """Half a gigabyte of states through a budget of 8 MB in a process of its own: its peak grows by less than 80 MB."""
    code = f"""
import resource, torch
from pathlib import Path
from genward.ops.shards import Rows, Shards
shards = Shards(Path({str(tmp_path / "s")!r}), {{}}, budget=8 << 20)
def call(k):
    return Rows(torch.full((32, 256, 64), float(k)), torch.arange(32), torch.full((32,), k), torch.full((32,), 1.0),
    torch.ones(32, dtype=torch.bool))
shards.put("s", call(0)); shards._flush()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for k in range(256):
    shards.put("s", call(k))
shards.commit(0, 32, {{}})
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert int(told.stdout) < 80, f"{told.stdout} MB"
    assert sum(p.stat().st_size for p in (tmp_path / "s").glob("rows-*")) > 500 << 20


def test_damage_and_strangers_are_told(tmp_path: Path) -> None:
    for name in ("a", "b"):
        shards = Shards(tmp_path / name, {"which": name})
        shards.put("site", rows(4, 3))
        shards.commit(0, 4, {})
    with pytest.raises(BadInput, match="another plan"):
        Shards(tmp_path / "a", {"which": "b"})
    (file,) = (tmp_path / "a").glob("rows-*")
    whole = file.read_bytes()
    file.write_bytes(whole[:-7])
    with pytest.raises(BadArtifact, match="cut short"):
        list(Shards(tmp_path / "a", {"which": "a"}).stream("site"))
    file.write_bytes((tmp_path / "b" / file.name).read_bytes())
    with pytest.raises(BadArtifact, match="belongs to another recording"):
        list(Shards(tmp_path / "a", {"which": "a"}).stream("site"))
    file.write_bytes(b"\xff" * len(whole))
    with pytest.raises(BadArtifact, match="cannot be read"):
        Shards(tmp_path / "a", {"which": "a"}).verify()
    file.unlink()
    with pytest.raises(BadArtifact, match="cannot be read"):
        Shards(tmp_path / "a", {"which": "a"}).verify()
    for text in (
        "",
        "{",
        "[]",
        '{"format": 1, "plan": 3, "batches": []}',
        '{"format": 1, "plan": "x", "batches": [{}]}',
    ):
        (tmp_path / "a" / "manifest.json").write_text(text, "utf-8")
        with pytest.raises(BadArtifact, match="no recording's manifest"):
            Shards(tmp_path / "a", {"which": "a"})
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "notes.txt").write_text("mine", "utf-8")
    with pytest.raises(BadInput, match="holds no recording"):
        Shards(tmp_path / "c", {})


class Killed(Exception):
    """Stands for a kill in the middle of a batch."""


def test_a_killed_recording_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, sampler = tiny_sd(), Sampler(3, 3.0)
    cases = [Case(f"c{k}", "a cup", seed=k) for k in range(7)]
    labels = {"label": torch.arange(7.0)[:, None]}

    def made(folder: Path | None, **more: Any) -> Any:
        read = sources([SITE], ("latents",), 2)
        return record(
            model, cases, sampler, read, steps=(0, 2), folder=folder, labels=labels, batch=3, budget=1024, **more
        )

    whole = made(tmp_path / "whole")
    real, calls = type(model).generate, 0

    def stops(self: Any, *given: Any, **how: Any) -> Any:
        nonlocal calls
        calls += 1
        out = real(self, *given, **how)
        if calls == 2:
            raise Killed
        return out

    monkeypatch.setattr(type(model), "generate", stops)
    with pytest.raises(Killed):
        made(tmp_path / "part")
    left = [p for p in (tmp_path / "part").glob("rows-00001-*")]
    assert (
        left
        and Shards(tmp_path / "part", json.loads((tmp_path / "part" / "manifest.json").read_text())["about"]).cases == 3
    )
    again = made(tmp_path / "part")
    assert calls == 4, "the first batch is not made again"
    for name in (SITE, "latents"):
        assert torch.equal(again.dense(name), whole.dense(name)) and again.dense(name).shape[:2] == (7, 2)
    assert again.about("label")[:, 0].tolist() == list(range(7))
    assert torch.equal(made(None).dense(SITE), whole.dense(SITE)) and calls == 7
    assert torch.equal(made(None, in_memory=True).dense(SITE), whole.dense(SITE))
    with pytest.raises(BadInput, match="another plan"):
        record(model, cases[:5], sampler, sources([SITE]), steps=(0, 2), folder=tmp_path / "whole", batch=3)


def test_a_recording_is_bounded_in_memory_and_on_disk(tmp_path: Path) -> None:
    """Through a model: at most the budget and one call of states wait; a batch tells what all will take."""
    model, sampler = tiny_sd(), Sampler(5, 3.0)
    cases = [Case(f"c{k}", "a cup", seed=k) for k in range(12)]
    found = record(model, cases, sampler, sources([SITE]), branch="both", folder=tmp_path / "a", batch=4, budget=4096)
    call = 8 * (
        16 * 16 * 2 + 8 + 8 + 4 + 1
    )  # rows of a guided call: 16 tokens of 16 channels in float16, and their keys
    assert 4096 <= found.shards.peak <= 4096 + call
    assert found.shards.bytes == sum(p.stat().st_size for p in (tmp_path / "a").glob("*.safetensors"))
    for folder in (tmp_path / "b", None):
        with pytest.raises(BadInput, match=r"12 cases would take .* the limit is 2e-05 GB; read fewer steps"):
            record(
                model, cases, sampler, sources([SITE]), folder=folder, in_memory=folder is None, batch=4, limit=20_000
            )
    assert Shards(tmp_path / "b", json.loads((tmp_path / "b" / "manifest.json").read_text())["about"]).cases == 4


def test_a_full_disk_in_the_middle_leaves_whole_batches_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, sampler = tiny_sd(), Sampler(2, 3.0)
    cases = [Case(f"c{k}", "a cup", seed=k) for k in range(6)]

    def made() -> Any:
        return record(model, cases, sampler, sources([SITE]), folder=tmp_path / "s", batch=2)

    real, written = Path.write_bytes, 0

    def full(self: Path, data: bytes) -> int:
        nonlocal written
        written += 1
        if written > 5:
            real(self, data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        return real(self, data)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(BadInput, match="No space left on device; name another folder or make room"):
            made()
    half = json.loads((tmp_path / "s" / "manifest.json").read_text())
    Shards(tmp_path / "s", half["about"]).verify()
    assert 0 < sum(b["count"] for b in half["batches"]) < 6
    whole = record(model, cases, sampler, sources([SITE]), in_memory=True, batch=2)
    assert torch.equal(made().dense(SITE), whole.dense(SITE))


def test_tokens_are_drawn_and_exact_states_not_rounded() -> None:
    model, sampler = tiny_sd(), Sampler(3, 3.0)
    one, other = (
        record(model, CASES, sampler, [AtSite(SITE, tokens=5, exact=True)], in_memory=True, batch=b).dense(SITE)
        for b in (1, 3)
    )
    whole = record(model, CASES, sampler, [AtSite(SITE, exact=True)], in_memory=True).dense(SITE)
    assert one.shape == (3, 3, 5, 16) and one.dtype == torch.float32
    assert torch.allclose(one, other, atol=1e-5), "the places do not depend on the batch"
    places = [[int((whole[0, s] - x).abs().sum(1).argmin()) for x in other[0, s]] for s in range(3)]
    for step in range(3):
        assert places[step] == sorted(set(places[step])) and torch.equal(other[:, step], whole[:, step, places[step]])
    assert places[0] != places[1] or places[1] != places[2], "other places at other steps"
    half = record(model, CASES, sampler, [AtSite(SITE)], in_memory=True).dense(SITE)
    assert half.dtype == torch.float16 and torch.equal(half, whole.half())
    with pytest.raises(BadInput, match="only one of them"):
        AtSite(SITE, pool=2, tokens=3)
    with pytest.raises(BadInput, match="no tokens"):
        record(model, CASES, sampler, [AtSite("mid_block", tokens=3)], in_memory=True)


def test_branches_are_told_apart() -> None:
    model, sampler = tiny_sd(), Sampler(2, 3.0)
    found = record(model, CASES, sampler, sources(parts=("text",)), branch="both", in_memory=True)
    one, other = (next(found.stream("text", conditional=c)) for c in (True, False))
    assert one.conditional.all() and not other.conditional.any() and len(one.case) == len(other.case) == 3
    assert torch.allclose(other.state.float(), model.encode([""]).expand(3, -1, -1), atol=5e-3)
    alone = record(model, CASES, sampler, sources(parts=("text",)), branch="unconditional", in_memory=True)
    assert torch.equal(next(alone.stream("text")).state, other.state)
    with pytest.raises(BadInput, match="several times"):
        found.dense("text")
    with pytest.raises(BadInput, match="'conditional', 'unconditional', 'both'"):
        record(model, CASES, sampler, [], branch="none", in_memory=True)


# ----------------------------------------------------------------------------------------------------------- statistics


def test_moments_are_those_of_all_rows_at_once() -> None:
    x = torch.randn(500, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3 + 100
    for full in (False, True):
        moments, other = Moments(full), Moments(full)
        for part in x[:300].split(7):
            moments.add(part)
        other.add(x[300:])
        moments.merge(other)
        moments.merge(Moments(full))
        moments.add(torch.tensor([[math.nan] * 5, [math.inf] * 5]))
        assert moments.count == 500 and torch.allclose(moments.mean, x.mean(0), rtol=1e-12)
        assert torch.allclose(moments.variance, x.var(0, correction=0), rtol=1e-10)
        assert torch.allclose(moments.second if not full else moments.second.diagonal(), x.square().mean(0), rtol=1e-12)
    away = x - x.mean(0)
    assert torch.allclose(moments.covariance, away.T @ away / 500, rtol=1e-9, atol=1e-9)
    with pytest.raises(BadInput, match="covariance=True"):
        _ = Moments().covariance
    with pytest.raises(BadInput, match="cannot be merged"):
        Moments(True).merge(Moments(False))


@pytest.mark.parametrize(("shape", "count"), [((5,), 1), ((7, 5), 7), ((5, 3, 2), 6)])
def test_vectors_of_every_stream(shape: tuple[int, ...], count: int) -> None:
    state = torch.randn(4, *shape)
    x = samples_of(state)
    assert x.shape == (4 * count, 5) and x.dtype == torch.float64
    own = state[1, 3] if len(shape) == 2 else state[1, :, 1, 1] if len(shape) == 3 else state[1]
    assert any(torch.equal(row, own.double()) for row in x)
    with pytest.raises(BadInput, match="is wanted"):
        samples_of(torch.zeros(3))


def test_statistics_are_keyed_by_timestep_and_interpolated() -> None:
    """Rows of other step numbers at the same noise level count together; between levels moments are linear."""
    found = Statistics(covariance=True)
    a, b = rows(50, 4, 3, time=800.0, step=1, seed=1), rows(50, 4, 3, time=800.0, step=7, seed=2)
    late = rows(60, 4, 3, time=400.0, step=3, seed=3)
    for part in (a, b, late):
        found.add(part, torch.zeros(len(part.case)))
    found.add(a, torch.full((50,), math.nan))
    assert found.labels == [-1, 0] and found.timesteps(0) == [400.0, 800.0] and found.timesteps() == [800.0]
    x, y = (torch.cat([p.state.flatten(0, 1) for p in parts]).double() for parts in ((a, b), (late,)))
    at = found.at(500.0, 0)
    mean = 0.25 * x.mean(0) + 0.75 * y.mean(0)
    second = 0.25 * x.T @ x / len(x) + 0.75 * y.T @ y / len(y)
    assert torch.allclose(at.mean, mean) and torch.allclose(at.covariance, second - torch.outer(mean, mean))
    assert torch.allclose(found.at(800.0, 0).mean, x.mean(0)) and at.count == 0.25 * 400 + 0.75 * 240
    assert torch.equal(found.at(30.0, 0).mean, found.at(400.0, 0).mean), "within one gap the nearest stands in"
    with pytest.raises(BadInput, match="outside the recorded ones"):
        found.at(-10.0, 0)
    with pytest.raises(BadInput, match="no row of label 3"):
        found.at(500.0, 3)
    with pytest.raises(BadInput, match="no timestep"):
        found.add(a._replace(timestep=torch.full((50,), math.nan)))


def test_statistics_of_a_recording_by_label() -> None:
    model = tiny_sd()
    cases = [Case(f"c{k}", p, seed=k) for k, p in enumerate(("a saw", "a cup", "a saw", "a dog"))]
    labels = {"label": torch.tensor([[1.0], [0.0], [1.0], [0.0]])}
    found = record(model, cases, Sampler(4, 3.0), sources([SITE]), in_memory=True, labels=labels)
    told = found.statistics(SITE, label="label")
    dense = found.dense(SITE).double()
    assert told.timesteps(1) == sorted(found.timesteps(SITE).tolist()) and told.labels == [0, 1]
    for step, time in enumerate(found.timesteps(SITE).tolist()):
        mine = dense[[0, 2], step].flatten(0, 1)
        assert torch.allclose(told.at(time, 1).mean, mine.mean(0)) and told.at(time, 1).count == len(mine)
    for part, label in found.labeled(SITE):
        assert label[:, 0].tolist() == [labels["label"][c, 0].item() for c in part.case.tolist()]
