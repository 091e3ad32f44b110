"""A picture service behind guards, with FastAPI: requests of several clients are drawn together, eight at most.

    pip install 'genward[server]'
    python examples/server.py --policy weapons --port 8000
    curl -s localhost:8000/generate -d '{"prompt": "a cat in noto style", "seed": 1}'
    curl -s localhost:8000/metrics

``Service`` is what a server of any kind needs (a queue, a thread that draws, answers with a status); ``app`` puts it
behind two routes. One guard serves all requests, and may be used by other threads beside it.

Answers: 200 with the picture, or without one where a guard blocked the row; 400 for what the client can mend; 503 where
a guard did not do its work or the record could not be written, in which case nothing is released."""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import queue
import threading
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Annotated, Any, NamedTuple

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import genward
from genward.errors import BadInput, GenwardError, http_status
from genward.serve.metrics import Metrics

MOST = 8
"""Rows of a batch"""
WAIT = 0.02
"""Seconds that a request waits for others to be drawn with"""
LARGEST = 64 * 1024
"""Bytes of a request"""


class Wanted(BaseModel):
    """The body of a request. The prompt itself is judged by the guard, a row at a time."""

    model_config = ConfigDict(strict=True, extra="forbid")
    prompt: str
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


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
        self._closed, self._door = False, threading.Lock()
        self._thread = threading.Thread(target=self._work, name="drawing", daemon=True)
        self._thread.start()

    def submit(self, prompt: str, seed: int = 0, name: str = "") -> Future[Answer]:
        """Queue a request; its answer comes in the future. A full queue, or a closed one, is a 503 at once."""
        asked = Asked(prompt, seed, name or uuid.uuid4().hex, Future())
        with self._door:
            try:
                if self._closed:
                    raise queue.Full
                self._queue.put_nowait(asked)
            except queue.Full:
                told = "the service is closing" if self._closed else "too many requests are waiting; try again"
                asked.answer.set_result(Answer(503, {"request": asked.name, "error": told}))
        return asked.answer

    def close(self) -> None:
        """Draw what is queued, then stop. Closing twice is closing once."""
        with self._door:
            first, self._closed = not self._closed, True
        if first:
            self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        last = False
        while not last and (first := self._queue.get()) is not None:
            batch = [first]
            while len(batch) < self.most and not last:
                try:
                    more = self._queue.get(timeout=self.wait)
                except queue.Empty:
                    break
                last = more is None
                batch += [] if more is None else [more]
            # A client that went away costs nothing; from here on a future cannot be canceled.
            batch = [one for one in batch if one.answer.set_running_or_notify_cancel()]
            if batch:
                self.batches.append(len(batch))
                for one, answer in zip(batch, self._drawn(batch), strict=True):
                    one.answer.set_result(answer)

    def _drawn(self, batch: Sequence[Asked]) -> list[Answer]:
        try:
            out = self.guarded(
                [one.prompt for one in batch],
                generator=[torch.Generator().manual_seed(one.seed) for one in batch],
                request_id=[one.name for one in batch],
                **self.how,
            )
            rows = zip(batch, out.images, out.verdicts, strict=True)
            return [answer_of(one.name, image, verdict) for one, image, verdict in rows]
        except Exception as error:  # of the whole call: every row gets it
            return [failed(error, one.name) for one in batch]


def failed(error: Exception, name: str = "") -> Answer:
    """What an error is answered with. Only what the client can mend is told in words."""
    status = http_status(error)
    body = {"request": name} if name else {}
    return Answer(status, {**body, "error": str(error) if status < 500 else type(error).__name__})


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


async def wanted(request: Request) -> Wanted:
    """The body of a request, of limited size. ``BadInput`` for anything else than what ``Wanted`` says."""
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > LARGEST:
            raise BadInput(f"a body of up to {LARGEST:,} bytes is read")
    try:
        return Wanted.model_validate_json(bytes(data))
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in error.errors()[:3])
        raise BadInput(f'{told}; {{"prompt": "a cat", "seed": 1}} would do') from None


def app(service: Service, metrics: Metrics) -> FastAPI:
    """The service behind ``POST /generate`` and ``GET /metrics``; it is closed when the server stops."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    made = FastAPI(title="Guarded pictures", lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)

    @made.exception_handler(GenwardError)
    async def refused(_: Request, error: Exception) -> JSONResponse:
        answer = failed(error)
        return JSONResponse(answer.body, answer.status)

    @made.post("/generate")
    async def generate(request: Request) -> JSONResponse:
        given = await wanted(request)
        name = request.headers.get("x-request-id", "")
        name = name if name.isprintable() and len(name) <= 200 else ""
        answer = await asyncio.wrap_future(service.submit(given.prompt, given.seed, name))
        return JSONResponse(answer.body, answer.status)

    @made.get("/metrics")
    async def counters() -> PlainTextResponse:
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4")

    return made


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
        front = app(Service(guarded, {"num_inference_steps": given.steps}), metrics)
        uvicorn.run(front, host="127.0.0.1", port=given.port)


if __name__ == "__main__":
    main()
