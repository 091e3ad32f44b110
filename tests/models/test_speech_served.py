"""The client of speech servers, against a real one on this machine that speaks with hibari."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from genward.core import Case
from genward.errors import BadInput, Declined, EngineError, Inapplicable
from genward.models.speech import SpeechModel, SpeechSampler
from genward.models.speech_served import ServedVoice
from genward.models.speech_voices import HibariVoice, open_voice

TEXT = "Please start the engine."


class Handler(BaseHTTPRequestHandler):
    """``POST /v1/audio/speech`` with hibari; a plan says what the next requests meet instead."""

    plan: ClassVar[list[Any]] = []
    asked: ClassVar[list[tuple[str, dict[str, Any], str]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body, self.headers.get("Authorization", "")))
        step = self.plan.pop(0) if self.plan else None
        if step == "slow":
            time.sleep(1.0)
        if isinstance(step, tuple):
            self.answer(*step)
        elif step == "broken off":
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(b"RIFF")
            self.close_connection = True
        else:
            sound = HibariVoice().speak(body["input"], 0).encoded()
            self.answer(200, sound[:-999] if step == "cut" else sound)

    def answer(self, status: int, body: bytes, **heads: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **heads}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            pass  # the client has gone

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    Handler.plan.clear()
    Handler.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def error(message: str, code: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "code": code, "type": "invalid_request_error"}}).encode()


def voice(address: str, **fields: Any) -> ServedVoice:
    return ServedVoice(address, pause=0.01, **fields)


def test_a_server_speaks(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert voice(address).speak(TEXT) == HibariVoice().speak(TEXT, 0), "no proxy on the way to this machine"
    path, body, key = Handler.asked[0]
    wanted = {"model": "tts-1", "voice": "alloy", "input": TEXT, "speed": 1.0, "response_format": "wav"}
    assert (path, body, key) == ("/v1/audio/speech", wanted, "")
    monkeypatch.setenv("GENWARD_SPEECH_KEY", "abc")
    model = SpeechModel.opened(f"speech:{address}#small")
    (sample,) = model.generate([Case("a", TEXT)], SpeechSampler(voice="verse", speed=1.5))
    assert sample.status == "ok" and sample.audio is not None
    _, body, key = Handler.asked[1]
    assert (body["model"], body["voice"], body["speed"], key) == ("small", "verse", 1.5, "Bearer abc")
    assert "abc" not in json.dumps(model.spec.to_json()), "no key in an identity"


@pytest.mark.parametrize("step", [(503, b"busy"), (429, error("slow down")), "broken off", "slow"], ids=str)
def test_what_may_go_better_next_time_is_tried_again(address: str, step: Any) -> None:
    Handler.plan += [step]
    assert voice(address, timeout=0.5).speak(TEXT).seconds > 1 and len(Handler.asked) == 2


def test_a_server_may_say_how_long_to_wait(address: str) -> None:
    Handler.plan += [(429, error("slow down"))]
    Handler.answer, plain = (
        (lambda self, s, b, **h: plain(self, s, b, **h, **({"Retry_After": "1"} if s == 429 else {}))),
        Handler.answer,
    )  # type: ignore[method-assign]  # noqa: E501
    try:
        began = time.perf_counter()
        voice(address).speak(TEXT)
        assert time.perf_counter() - began >= 1
    finally:
        Handler.answer = plain  # type: ignore[method-assign]


def test_tries_end(address: str) -> None:
    Handler.plan += [(500, b"<html>oops</html>")] * 5
    with pytest.raises(EngineError, match=r"status 500: <html>oops</html>; 3 tries"):
        voice(address).speak(TEXT)
    assert len(Handler.asked) == 3


@pytest.mark.parametrize(
    ("step", "kind", "why"),
    [
        ((400, error("not this", "content_policy_violation")), Declined, "it will not speak this text: not this"),
        ((401, error("no key")), EngineError, "status 401: no key; set GENWARD_SPEECH_KEY"),
        ((404, b""), EngineError, "check the address"),
        ((302, b""), EngineError, "status 302"),
        ((200, b"hello"), EngineError, "no WAV sound"),
        ("cut", EngineError, "cut short"),
        ((400, b"[" * 5000), EngineError, "status 400"),
    ],
)
def test_other_answers_are_named_and_not_tried_again(address: str, step: Any, kind: type[Exception], why: str) -> None:
    Handler.plan += [step]
    with pytest.raises(kind, match=why) as raised:
        voice(address).speak(TEXT)
    assert type(raised.value) is kind and len(Handler.asked) == 1


def test_a_refusing_server_makes_refused_rows_and_a_failing_one_errors(address: str) -> None:
    Handler.plan += [(400, error("not this", "content_filter")), (404, b"")]
    samples = SpeechModel(voice(address)).generate([Case("a", TEXT), Case("b", TEXT), Case("c", TEXT)])
    assert [s.status for s in samples] == ["refused", "error", "ok"]
    assert "will not speak" in samples[0].why and samples[0].verdicts[0].defense == "model"
    assert samples[0].notes["refused"] == [1.0] and samples[1].output is None


def test_nobody_there_and_addresses_that_are_none() -> None:
    with pytest.raises(EngineError, match=r"no answer .*; 1 tries"):
        ServedVoice("http://127.0.0.1:9/v1", retries=0, timeout=2).speak(TEXT)
    for wrong in ("ftp://a/v1", "http:///v1", "http://user:secret@host/v1", "file:///etc/passwd"):
        with pytest.raises(BadInput, match="no address"):
            ServedVoice(wrong)
    with pytest.raises(BadInput, match="timeout"):
        ServedVoice("http://a/v1", timeout=0)
    with pytest.raises(Inapplicable):
        ServedVoice("http://a/v1").speak("", 0, ["K"])
    assert open_voice("https://a/v1").spec.fields == {"address": "https://a/v1", "model": "tts-1", "speaker": "alloy"}
