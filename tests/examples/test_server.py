"""The example server over loopback: batches of eight, statuses, ids in the audit, counters."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

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
    """A server of the example in a thread."""

    def __init__(self, example: Any, guarded: Any, counts: Metrics) -> None:
        self.service = example.Service(guarded, {"num_inference_steps": 2}, wait=0.3)
        self.front = example.server(self.service, counts)
        self.url = f"http://127.0.0.1:{self.front.server_address[1]}"
        self.thread = threading.Thread(target=self.front.serve_forever)
        self.thread.start()

    def ask(self, body: Any, name: str = "", path: str = "/generate") -> tuple[int, dict[str, Any]]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"X-Request-Id": name} if name else {})
        try:
            with urllib.request.urlopen(request, timeout=60) as found:
                return found.status, json.load(found)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def stop(self) -> None:
        self.front.shutdown()
        self.front.server_close()
        self.service.close()
        self.thread.join()


@pytest.fixture
def running(example: Any, tmp_path: Path) -> Iterator[Running]:
    counts, judge = Metrics(), ImageFilter(labels=("bright",), probe=FakeJudge(), threshold=2.0)
    with protect(tiny_pipeline(), "weapons", [judge], audit=tmp_path / "log.jsonl", metrics=counts) as guarded:
        made = Running(example, guarded, counts)
        yield made
        made.stop()


def test_eight_requests_are_one_batch_and_one_bad_prompt_is_one_400(running: Running, tmp_path: Path) -> None:
    bodies: list[dict[str, Any]] = [{"prompt": f"a cat {k}", "seed": k} for k in range(7)]
    bodies.insert(3, {"prompt": "half \ud800 of a pair"})
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda k: running.ask(bodies[k], f"client-{k}"), range(8)))
    assert [status for status, _ in found] == [200] * 3 + [400] + [200] * 4
    assert sum(running.service.batches) == 8 and max(running.service.batches) > 1
    pictures = [Image.open(io.BytesIO(base64.b64decode(body["picture"]))) for s, body in found if s == 200]
    assert all(p.size == (64, 64) for p in pictures)
    assert "surrogate" in found[3][1]["error"] and [body["request"] for _, body in found] == [
        f"client-{k}" for k in range(8)
    ]
    rows = list(read_audit(tmp_path / "log.jsonl"))
    assert sorted(r["request"] for r in rows) == [f"client-{k}" for k in range(8)]
    with urllib.request.urlopen(running.url + "/metrics") as text:
        assert 'action="released"' in text.read().decode()
    alone = running.ask({"prompt": "a cat 0", "seed": 0})[1]["picture"]
    assert alone == found[0][1]["picture"]  # whoever shares the batch


@pytest.mark.parametrize("body", [b"no json", b"[1]", {}, {"prompt": 3}, {"prompt": "a", "seed": -1}, {"prompt": ""}])
def test_what_a_client_can_mend_is_a_400(running: Running, body: Any) -> None:
    status, told = running.ask(body)
    if body == {"prompt": ""}:  # an empty text is a text
        assert status == 200 and told["picture"]
    else:
        assert status == 400 and told["error"]
    assert running.ask(b"x" * 70_000)[0] == 400 and running.ask({"prompt": "a"}, path="/draw")[0] == 400


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
