"""A guard that lives as long as a server: opened and closed without a ``with``, reloaded, shared, forgotten."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import random
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import genward
from genward import lab
from genward.core import Artifact
from genward.defenses.image_filter import ImageFilter
from genward.errors import BadInput, Conflict, GuardError, UnguardedInput, UnknownName
from genward.serve.audit import read_audit, request_ids
from genward.serve.metrics import Metrics, labelled
from genward.serve.protect import protect
from genward.testing import EXAMPLES, FakeJudge, tiny_pipeline

Fade, Stop = EXAMPLES["example-weights"], EXAMPLES["example-block"]
CALL: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3.0}


def filtered(threshold: float, **fields: Any) -> ImageFilter:
    return ImageFilter(labels=("bright",), probe=FakeJudge(), threshold=threshold, **fields)


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_pipeline()


def weights(pipe: Any) -> torch.Tensor:
    return torch.cat([p.flatten() for p in pipe.unet.parameters()])


def hooks(pipe: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in pipe.unet.modules())


def test_open_and_close_without_a_block(pipe: Any) -> None:
    before = weights(pipe)
    guarded = protect(pipe, "weapons", [Fade(strength=0.5)]).open()
    assert not torch.equal(weights(pipe), before) and not guarded.closed
    assert guarded("a cat", **CALL).index == [0]
    guarded.close()
    guarded.close()
    assert guarded.closed and torch.equal(weights(pipe), before) and hooks(pipe) == 0
    with pytest.raises(GuardError, match="closed.*open()"):
        guarded("a cat", **CALL)
    with pytest.raises(GuardError, match="closed"):
        guarded.reload("weapons")
    with protect(pipe, "weapons", [Fade()]).open() as again:  # an open guard is a block of its own, too
        assert again("a cat", **CALL).index == [0]
    assert hooks(pipe) == 0


def test_opening_and_reloading_leave_the_process_random_numbers_where_they_stood(pipe: Any) -> None:
    @dataclass(frozen=True)
    class Draws:
        name: ClassVar[str] = "draws"

        def attach(self, rig: Any) -> None:
            torch.nn.Linear(4, 4)
            np.random.rand()
            random.random()
            rig.inputs(lambda call, frame: call)

    def stand() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), np.random.get_state()[2], random.getstate()

    before = stand()
    guarded = protect(pipe, "weapons", [Draws()]).open()
    assert stand() == before
    guarded.reload("weapons")
    guarded.close()
    assert stand() == before


def test_a_record_stays_in_the_folder_it_was_opened_in(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with protect(pipe, "weapons", [filtered(2.0)], audit="guard.jsonl") as guarded:
        monkeypatch.chdir(tmp_path / "elsewhere")
        guarded("a cat", **CALL)
    assert len(list(read_audit(tmp_path / "guard.jsonl"))) == 1
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_model_under_an_open_guard_is_not_copied(pipe: Any) -> None:
    with protect(pipe, "weapons", [Fade(strength=0.5)]):
        for part in (pipe, pipe.unet):
            with pytest.raises(Conflict, match="cannot be copied"):
                copy.deepcopy(part)
    assert hooks(copy.deepcopy(pipe)) == 0


def test_a_guard_that_nobody_holds_closes_itself(pipe: Any) -> None:
    before = weights(pipe)
    guarded = protect(pipe, "weapons", [Fade(strength=0.5)]).open()
    assert hooks(pipe) > 0
    with pytest.raises(Conflict, match="already has an open rig"):
        protect(pipe, "weapons", [Fade()]).open()
    del guarded
    gc.collect()
    assert hooks(pipe) == 0 and torch.equal(weights(pipe), before)
    protect(pipe, "weapons", [Fade()]).open().close()


def test_a_policy_is_reloaded_and_what_cannot_be_opened_changes_nothing(pipe: Any) -> None:
    guarded = protect(pipe, "weapons", [filtered(0.0)]).open()
    try:
        assert guarded("a cat", **CALL).verdicts[0].action == "blocked"
        first = guarded.hash
        guarded.reload("rude", [filtered(2.0)])
        assert guarded.policy.name == "rude" and guarded.hash != first
        assert guarded("a cat", **CALL).verdicts[0].action == "released"
        with pytest.raises(UnknownName, match="no-such"):
            guarded.reload("no-such-policy")
        with pytest.raises(Conflict, match="own the guidance port"):  # attached before it is refused
            guarded.reload("weapons", [Owner(), Owner()])
        assert guarded.policy.name == "rude" and guarded("a cat", **CALL).verdicts[0].action == "released"
    finally:
        guarded.close()
    assert hooks(pipe) == 0


@dataclass(frozen=True)
class Owner:
    """Owns guidance, which only one can."""

    name: ClassVar[str] = "owner"

    def attach(self, rig: Any) -> None:
        rig.guidance(lambda uncond, cond, call, frame: cond)


def test_one_guard_is_shared_by_threads(pipe: Any) -> None:
    alone: dict[int, Any] = {}
    shared: dict[int, Any] = {}
    with protect(pipe, "weapons", [filtered(2.0)]) as guarded:

        def work(k: int, into: dict[int, Any]) -> None:
            noise = torch.Generator().manual_seed(k)
            into[k] = guarded(f"a cat {k}", generator=noise, **CALL).images[0].tobytes()

        for k in range(6):
            work(k, alone)
        threads = [threading.Thread(target=work, args=(k, shared)) for k in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert shared == alone


def test_async_calls_leave_the_loop_free(pipe: Any) -> None:
    async def serve(guarded: Any) -> tuple[int, list[Any]]:
        ticks, done = 0, asyncio.Event()

        async def tick() -> None:
            nonlocal ticks
            while not done.is_set():
                ticks += 1
                await asyncio.sleep(0.001)

        beside = asyncio.create_task(tick())
        found = await asyncio.gather(*(guarded.acall(f"a cat {k}", **CALL) for k in range(3)))
        done.set()
        await beside
        return ticks, list(found)

    with protect(pipe, "weapons", [filtered(2.0)]) as guarded:
        ticks, found = asyncio.run(serve(guarded))
    assert ticks > 3 and [out.index for out in found] == [[0]] * 3


def test_one_bad_prompt_costs_its_own_row(pipe: Any) -> None:
    prompts = ["a cat", "half \ud800 of a pair", *(f"a dog {k}" for k in range(5)), "x" * 2001]
    noise = [torch.Generator().manual_seed(k) for k in range(8)]
    with protect(pipe, "weapons", [filtered(2.0)]) as guarded:
        out = guarded(prompts, generator=noise, **CALL)
        assert out.index == [0, 2, 3, 4, 5, 6] and out.images[1] is out.images[7] is None
        first, last = out.verdicts[1], out.verdicts[7]
        assert (first.by, first.stage, first.failed) == ("genward", "text", False)
        assert "surrogate" in first.why and "2,001 characters" in last.why
        good = [p for k, p in enumerate(prompts) if k in out.index]
        noise = [torch.Generator().manual_seed(k) for k in out.index]
        alone = guarded(good, generator=noise, **CALL)
        assert [i.tobytes() for i in alone.images] == [out.images[k].tobytes() for k in out.index]
        with pytest.raises(BadInput, match="surrogate"):
            guarded("half \ud800 of a pair", **CALL)
        with pytest.raises(BadInput, match="2,001"):
            guarded(["\ud800", "x" * 2001], **CALL)


def test_records_have_scores_of_released_rows_milliseconds_and_the_callers_id(pipe: Any, tmp_path: Path) -> None:
    log, counts = tmp_path / "audit.jsonl", Metrics()
    with protect(pipe, "weapons", [filtered(2.0), Flags()], audit=log, metrics=counts) as guarded:
        guarded(["a cat", "a dog"], num_images_per_prompt=2, request_id=["first", "second"], **CALL)
        guarded("a key", request_id="third", **CALL)
        with pytest.raises(BadInput, match="one a prompt"):
            guarded(["a", "b"], request_id=["only one"], **CALL)
    rows = list(read_audit(log))
    assert [r["request"] for r in rows] == ["first", "first", "second", "second", "third"]
    assert all(0 <= r["scores"]["image_filter"] <= 1 and r["milliseconds"] > 0 for r in rows)
    assert {r["action"] for r in rows} == {"flagged"} and all(r["categories"] == ["weapons"] for r in rows)
    assert "a cat" not in log.read_text("utf-8")
    text = counts.text()
    assert 'genward_rows_total{policy="weapons",action="flagged",by="flags",category="weapons"} 5' in text
    assert 'genward_call_seconds_count{policy="weapons"} 2' in text
    assert 'genward_guard_score_bucket{policy="weapons",guard="image_filter",le="+Inf"} 5' in text
    lines = [line for line in text.splitlines() if line.startswith("genward_guard_score_bucket") and "image" in line]
    values = [int(line.rpartition(" ")[2]) for line in lines]
    assert values == sorted(values)  # bins of Prometheus are cumulative


@dataclass(frozen=True)
class Flags:
    """A guard of the tests that flags every picture and scores nothing."""

    name: ClassVar[str] = "flags"

    def attach(self, rig: Any) -> None:
        def look(images: list[Any]) -> list[Any]:
            rig.flag(rig.now, torch.ones(len(images), dtype=torch.bool), "a picture", category="weapons")
            return images

        rig.images(look)


def test_a_monitor_that_fails_does_not_hold_up_pictures(pipe: Any) -> None:
    seen: list[Any] = []

    def hook(records: Any) -> None:
        seen.extend(records)
        raise OSError("no route to the monitor")

    with protect(pipe, "weapons", [filtered(2.0)], metrics=hook) as guarded:
        with pytest.warns(RuntimeWarning, match="metrics failed.*no route"):
            assert guarded("a cat", **CALL).index == [0]
    assert len(seen) == 1 and "prompt" not in seen[0] and "tokens" not in seen[0]


def test_labels_are_escaped() -> None:
    assert labelled([("a", 'x"y\\z\n')]) == '{a="x\\"y\\\\z\\n"}' and labelled([]) == ""


@pytest.mark.parametrize("given", [["a"] * 3, 7, "", "x" * 201, "line\nend", [1, 2]])
def test_ids_that_are_none_are_refused(given: Any) -> None:
    with pytest.raises(BadInput, match="request_id"):
        request_ids(given, ["a cat", "a dog"])
    assert request_ids(None, "a cat") == [] and request_ids("r", ["a", "b"]) == ["r", "r"]


def test_what_a_chain_does_not_look_at_is_warned_of_when_it_is_opened(pipe: Any) -> None:
    with pytest.warns(UnguardedInput, match="normalize alone"):
        protect(pipe, "weapons", ["normalize"]).open().close()


def test_the_labs_guard_opens_within_five_seconds() -> None:
    pipe = lab.pipeline()
    protect(pipe, "weapons", ["normalize", "aeiou", "wukong", "image_filter"]).open().close()  # imports are paid once
    began = time.process_time()
    guarded = genward.protect(pipe, "weapons", ["normalize", "aeiou", "wukong", "image_filter"]).open()
    took = time.process_time() - began
    guarded.close()
    assert took < 5, f"{took:.1f} s"
    assert isinstance(guarded.named["aeiou"].artifact, Artifact) and json.dumps(guarded.hash)
