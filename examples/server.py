"""A picture service behind guards: requests of several clients are drawn together, at most eight at a time.

    python examples/server.py --policy weapons --port 8000
    curl -s localhost:8000/generate -d '{"prompt": "a cat in noto style", "seed": 1}'
    curl -s localhost:8000/metrics

``Service`` is what a server of any kind needs (a queue, a thread that draws, answers with a status). The front below is
the standard library's, so that nothing has to be installed; FastAPI does not come with genward, and a route of it is
``await asyncio.wrap_future(service.submit(prompt, seed, request_id))``.

Answers: 200 with the picture, or without one where a guard blocked the row; 400 for what the client can mend; 503 where
a guard did not do its work or the record could not be written, in which case nothing is released."""

from __future__ import annotations

import argparse
import base64
import io
import json
import queue
import threading
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import torch

import genward
from genward.errors import BadInput, http_status
from genward.serve.metrics import Metrics

MOST = 8
"""Rows of a batch"""
WAIT = 0.02
"""Seconds that a request waits for others to be drawn with"""
LARGEST = 64 * 1024
"""Bytes of a request"""


class Answer(NamedTuple):
    """What a request comes back with."""

    status: int
    body: dict[str, Any]


class Asked(NamedTuple):
    """One request on its way."""

    prompt: str
    seed: int
    name: str
    answer: Future[Answer]


class Service:
    """Draws requests in batches under one guard, in a thread of its own.

    Args:
        guarded: an open guard. how: arguments of every call (``num_inference_steps``). most, wait: of a batch.
    """

    def __init__(self, guarded: Any, how: Mapping[str, Any], most: int = MOST, wait: float = WAIT) -> None:
        self.guarded, self.how, self.most, self.wait = guarded, dict(how), most, wait
        self.batches: list[int] = []
        """Rows of the batches so far"""
        self._queue: queue.Queue[Asked | None] = queue.Queue(maxsize=256)
        self._thread = threading.Thread(target=self._work, name="drawing", daemon=True)
        self._thread.start()

    def submit(self, prompt: Any, seed: Any = 0, name: str = "") -> Future[Answer]:
        """Queue a request; its answer comes in the future. A full queue is answered with 503 at once."""
        answer: Future[Answer] = Future()
        name = name or uuid.uuid4().hex
        if not isinstance(prompt, str) or isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            told = "prompt is a text, seed a whole number from 0 on"
            answer.set_result(Answer(400, {"request": name, "error": told}))
            return answer
        try:
            self._queue.put_nowait(Asked(prompt, seed, name, answer))
        except queue.Full:
            answer.set_result(Answer(503, {"request": name, "error": "too many requests are waiting; try again"}))
        return answer

    def close(self) -> None:
        """Draw what is queued, then stop."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, last = [first], False
            while len(batch) < self.most and not last:
                try:
                    more = self._queue.get(timeout=self.wait)
                except queue.Empty:
                    break
                last = more is None
                batch += [] if more is None else [more]
            self.batches.append(len(batch))
            for one, answer in zip(batch, self._drawn(batch), strict=True):
                one.answer.set_result(answer)
            if last:
                return

    def _drawn(self, batch: Sequence[Asked]) -> list[Answer]:
        try:
            out = self.guarded(
                [one.prompt for one in batch],
                generator=[torch.Generator().manual_seed(one.seed) for one in batch],
                request_id=[one.name for one in batch],
                **self.how,
            )
        except Exception as error:  # of the whole call: every row gets it
            told = str(error) if http_status(error) < 500 else type(error).__name__
            return [Answer(http_status(error), {"request": one.name, "error": told}) for one in batch]
        rows = zip(batch, out.images, out.verdicts, strict=True)
        return [answer_of(one.name, image, verdict) for one, image, verdict in rows]


def answer_of(name: str, image: Any, verdict: Any) -> Answer:
    """One row's answer. Why a guard blocked it stays in the record: it would teach how to get by."""
    body: dict[str, Any] = {"request": name, "action": verdict.action, "by": verdict.by, "picture": None}
    if verdict.failed:
        return Answer(503, {**body, "error": "a guard did not do its work; nothing is released"})
    if verdict.action == "blocked" and verdict.by == "genward":
        return Answer(400, {**body, "error": verdict.why})
    if image is not None:
        stream = io.BytesIO()
        image.save(stream, "PNG")
        body["picture"] = base64.b64encode(stream.getvalue()).decode()
    return Answer(200, body)


def server(service: Service, metrics: Metrics, port: int = 0) -> ThreadingHTTPServer:
    """An HTTP server on this machine alone; ``server_address[1]`` is its port. Not started yet."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._send(200, metrics.text().encode(), "text/plain; version=0.0.4")
            else:
                self._json(Answer(404, {"error": "POST /generate and GET /metrics are there"}))

        def do_POST(self) -> None:
            try:
                size = int(self.headers.get("Content-Length", "0"))
                if self.path != "/generate" or not 0 < size <= LARGEST:
                    raise BadInput(f"POST /generate with a JSON body of up to {LARGEST:,} bytes")
                given = json.loads(self.rfile.read(size))
                if not isinstance(given, dict):
                    raise BadInput('a JSON object is wanted, {"prompt": "a cat", "seed": 1} say')
            except (BadInput, ValueError) as error:
                self._json(Answer(400, {"error": str(error)}))
                return
            name = self.headers.get("X-Request-Id", "")
            name = name if name.isprintable() and len(name) <= 200 else ""
            self._json(service.submit(given.get("prompt"), given.get("seed", 0), name).result())

        def _json(self, answer: Answer) -> None:
            self._send(answer.status, json.dumps(answer.body).encode(), "application/json")

        def _send(self, status: int, data: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Nothing: the audit is the log."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def main() -> None:
    parser = argparse.ArgumentParser(description="A picture service behind guards, on this machine alone.")
    parser.add_argument("--model", default="lab", help="lab, or a folder")
    parser.add_argument("--policy", default="weapons")
    parser.add_argument("--defense", "-d", action="append", help="a guard of the chain; may be repeated")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--audit", default="guard.jsonl")
    given = parser.parse_args()
    metrics = Metrics()
    chain = given.defense or ["normalize", "aeiou", "wukong"]
    opening = genward.protect(
        genward.open_model(given.model), given.policy, chain, audit=given.audit, metrics=metrics, timeout=30
    )
    with opening as guarded:
        service = Service(guarded, {"num_inference_steps": given.steps})
        front = server(service, metrics, given.port)
        print(f"http://127.0.0.1:{front.server_address[1]}", flush=True)
        try:
            front.serve_forever()
        except KeyboardInterrupt:
            pass
        finally:
            front.server_close()
            service.close()


if __name__ == "__main__":
    main()
