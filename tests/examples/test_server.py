"""The example server over loopback: batches of eight, statuses, ids in the audit, counters."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from PIL import Image, ImageChops

from genward.defenses.image_filter import ImageFilter
from genward.errors import BadInput, Conflict, GuardError, StoreError, http_status
from genward.serve.audit import read_audit
from genward.serve.metrics import Metrics
from genward.serve.protect import protect
from genward.testing import FakeJudge, tiny_pipeline

FOLDER = Path(__file__).resolve().parents[2] / "examples"


def loaded(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def example() -> Any:
    return loaded("server")


class Running:
    """The example's application behind uvicorn, on a free port of this machine, in a thread."""

    def __init__(self, example: Any, guarded: Any, counts: Metrics, wait: float = 0.3) -> None:
        self.service = example.Service(guarded, {"num_inference_steps": 2}, wait=wait)
        config = uvicorn.Config(example.app(self.service, counts), port=0, log_level="warning", ws="none")
        self.front = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.front.run)
        self.thread.start()
        while not self.front.started:
            assert self.thread.is_alive()
            time.sleep(0.01)
        (opened,) = self.front.servers[0].sockets
        self.url = f"http://127.0.0.1:{opened.getsockname()[1]}"

    def ask(self, body: Any, name: str = "", path: str = "/generate") -> tuple[int, dict[str, Any]]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"X-Request-Id": name} if name else {})
        try:
            with urllib.request.urlopen(request, timeout=60) as found:
                return found.status, json.load(found)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def ask_all(self, bodies: Sequence[Any]) -> list[tuple[int, dict[str, Any]]]:
        """All at once, each from a client of its own."""
        with ThreadPoolExecutor(len(bodies)) as pool:
            return list(pool.map(lambda k: self.ask(bodies[k], f"client-{k}"), range(len(bodies))))

    def stop(self) -> None:
        self.front.should_exit = True
        self.thread.join()


@pytest.fixture
def running(example: Any, tmp_path: Path) -> Iterator[Running]:
    counts, judge = Metrics(), ImageFilter(labels=("bright",), probe=FakeJudge(), threshold=2.0)
    with protect(tiny_pipeline(), "weapons", [judge], audit=tmp_path / "log.jsonl", metrics=counts) as guarded:
        made = Running(example, guarded, counts)
        yield made
        made.stop()


def picture(answer: tuple[int, dict[str, Any]]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(answer[1]["picture"])))


def test_eight_requests_are_one_batch_and_one_bad_prompt_is_one_400(running: Running, tmp_path: Path) -> None:
    bodies: list[dict[str, Any]] = [{"prompt": f"a cat {k}", "seed": k} for k in range(7)]
    bodies.insert(3, {"prompt": "a cat \x07"})
    found = running.ask_all(bodies)
    assert [status for status, _ in found] == [200] * 3 + [400] + [200] * 4
    assert sum(running.service.batches) == 8 and max(running.service.batches) > 1
    assert all(picture(f).size == (64, 64) for f in found if f[0] == 200)
    assert "control character" in found[3][1]["error"] and found[3][1]["by"] == "genward"
    assert [body["request"] for _, body in found] == [f"client-{k}" for k in range(8)]
    rows = list(read_audit(tmp_path / "log.jsonl"))
    assert sorted(r["request"] for r in rows) == [f"client-{k}" for k in range(8)]
    with urllib.request.urlopen(running.url + "/metrics") as text:
        assert 'action="released"' in text.read().decode()
    alone = picture(running.ask({"prompt": "a cat 0", "seed": 0}))
    beside = ImageChops.difference(alone, picture(found[0]))  # batches of other sizes may round otherwise
    assert max(high for _, high in beside.getextrema()) <= 2, "whoever shares the batch"


def test_a_full_batch_does_not_wait_and_a_ninth_request_is_of_the_next(example: Any) -> None:
    with protect(tiny_pipeline(), "weapons", ["normalize"], unguarded=["weapons"]) as guarded:
        running = Running(example, guarded, Metrics(), wait=30.0)
        try:
            began = time.monotonic()
            found = running.ask_all([{"prompt": f"a cat {k}", "seed": k} for k in range(8)])
            assert [status for status, _ in found] == [200] * 8 and time.monotonic() - began < 30
            assert running.service.batches == [8]
            running.service.wait = 0.0
            late = running.ask({"prompt": "a cat 3", "seed": 3})
            assert late[1]["picture"] == found[3][1]["picture"] and running.service.batches == [8, 1]
        finally:
            running.stop()


def test_one_guard_serves_the_server_and_other_threads(running: Running, example: Any) -> None:
    other = example.Service(running.service.guarded, {"num_inference_steps": 2}, wait=0.0)
    with ThreadPoolExecutor(9) as pool:
        direct = [pool.submit(running.service.guarded, f"a cat {k}", num_inference_steps=2) for k in range(3)]
        queued = [other.submit(f"a cat {k}", k) for k in range(3)]
        served = [pool.submit(running.ask, {"prompt": f"a cat {k}", "seed": k}) for k in range(3)]
        assert all(call.result().images[0].size == (64, 64) for call in direct)
        for one, two in zip(queued, served, strict=True):
            assert one.result().body["picture"] == two.result()[1]["picture"]
    other.close()
    assert other.submit("a cat").result().status == 503, "a closed service answers at once"


def test_a_client_that_went_away_costs_nothing_and_stops_nobody(example: Any) -> None:
    drawn: list[str] = []

    def guarded(prompts: list[str], **_: Any) -> Any:
        drawn.extend(prompts)
        raise GuardError("closed")

    service = example.Service(guarded, {}, wait=0.2)
    gone, there = service.submit("one"), service.submit("two")
    assert gone.cancel()
    assert there.result(30).status == 503 and drawn == ["two"] and service.batches == [1]
    service.close()


@pytest.mark.parametrize(
    "body",
    [b"no json", b"[1]", b"", {}, {"prompt": 3}, {"prompt": "a", "seed": -1}, {"prompt": "a", "seed": 2**63},
     {"prompt": "a", "seed": True}, {"prompt": "a", "steps": 500}, {"prompt": "half \ud800 of a pair"}],
)  # fmt: skip
def test_what_a_client_can_mend_is_a_400(running: Running, body: Any) -> None:
    status, told = running.ask(body)
    assert status == 400 and told["error"] and running.service.batches == []


def test_other_limits_of_the_front(running: Running) -> None:
    status, told = running.ask({"prompt": ""})  # an empty text is a text
    assert status == 200 and told["picture"]
    assert running.ask(b"x" * 70_000)[0] == 400 and running.ask({"prompt": "a"}, path="/draw")[0] == 404


def test_a_guard_that_blocks_and_one_that_fails(example: Any) -> None:
    for guard, status, action in (
        (ImageFilter(labels=("bright",), probe=FakeJudge(), threshold=0.0), 200, "blocked"),
        (ImageFilter(labels=("bright",), probe=Broken(), threshold=2.0), 503, "blocked"),
    ):
        with protect(tiny_pipeline(), "weapons", [guard]) as guarded:
            made = Running(example, guarded, Metrics())
            try:
                found, body = made.ask({"prompt": "a bomb", "seed": 1})
                assert (found, body["action"], body["picture"]) == (status, action, None)
                guarded.close()
                found, body = made.ask({"prompt": "a cat"})
                assert (found, body["error"]) == (503, "GuardError")
            finally:
                made.stop()


class Broken(FakeJudge):
    def judge(self, samples: Any) -> Any:
        raise RuntimeError("no judge today")


def test_errors_have_their_status() -> None:
    assert [http_status(e("x")) for e in (BadInput, Conflict, GuardError, StoreError, RuntimeError)] == [
        400,
        400,
        503,
        503,
        500,
    ]
