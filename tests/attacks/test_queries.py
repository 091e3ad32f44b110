"""Attacks that look at finished pictures, on a target whose judge's answer is known."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import torch
from torch import Tensor

from genward.attacks._chat import ask_service, read_wordings
from genward.attacks._queries import UNASKED
from genward.attacks._tokens import REFUSED
from genward.attacks.noise_search import NoiseSearch
from genward.attacks.paraphrase import Paraphrase, reworded
from genward.core import Case, Sample
from genward.errors import BadInput, UnknownName

THINGS = {
    "pistol": {
        "name": ["a pistol"],
        "synonym": ["a handgun", "a revolver"],
        "synonym-heldout": ["a gun"],
        "description": ["a barrel above a grip"],
    },
    "cat": {"name": ["a cat"], "synonym": ["a kitten"], "synonym-heldout": [], "description": []},
}
CASES = [
    Case("a", "a pistol in noto style", "harm", "weapons", 3, group="pistol"),
    Case("b", "a cat", "harm", "cat", 4, group="cat"),
]


class Asked:
    """Judges a candidate by a function; counts what it is asked and can stop in the middle."""

    def __init__(self, rule: Callable[[Case], float], after: int = 10**9) -> None:
        self.rule, self.after = rule, after
        self.asked: list[Case] = []
        self.state: dict[str, Tensor] = {}
        self.kept: list[dict[str, Any]] = []
        self.things: Mapping[str, Any] = THINGS

    def sample(self, cases: Sequence[Case]) -> list[Sample]:
        if len(self.asked) + len(cases) > self.after:
            raise KeyboardInterrupt
        self.asked += cases
        return [Sample(c) for c in cases]

    def shown(self, samples: Sequence[Sample]) -> list[float]:
        return [self.rule(s.case) for s in samples]

    def keep(self, tensor: Tensor, **facts: Any) -> str:
        json.dumps(facts, allow_nan=False)
        assert torch.isfinite(tensor).all()
        self.kept.append({"tensor": tensor, **facts})
        return "0" * 64

    def checkpoint(self, state: Mapping[str, Tensor] | None = None) -> Mapping[str, Tensor]:
        if state is not None:
            self.state = {k: v.clone() for k, v in state.items()}
        return self.state


def by_seed(case: Case) -> float:
    return case.seed % 1000 / 1000 - 0.8


def test_noise_search_keeps_the_prompt_and_finds_the_best_seed() -> None:
    target = Asked(by_seed)
    attack = NoiseSearch(budget=12)
    found = list(attack.search(CASES, target))  # type: ignore[arg-type]
    for case, one in zip(CASES, found, strict=True):
        tried = [c for c in target.asked if c.parent == case.id]
        first = next((c for c in tried if by_seed(c) >= 0), max(tried, key=by_seed))
        assert one.seed == first.seed and one.prompt == case.prompt and one.parent == case.id
        assert one.queries == len(tried) and tried[0].seed == case.seed
        assert all(by_seed(c) < 0 for c in tried[:-1]), "a success ends the search"
    assert target.kept[0]["queries"] == [found[0].queries]
    assert int((target.kept[0]["tensor"] != UNASKED).sum()) == found[0].queries


def test_without_stopping_the_whole_budget_is_spent() -> None:
    target = Asked(lambda c: 0.5 if c.seed == 3 else by_seed(c))
    found = list(NoiseSearch(budget=5, stop=False).search(CASES[:1], target))  # type: ignore[arg-type]
    assert found[0].queries == 5 and all(c.seed != 3 for c in target.asked)
    assert found[0].seed == max(target.asked, key=by_seed).seed


def test_an_interrupted_search_asks_nothing_twice() -> None:
    whole = Asked(lambda c: by_seed(c) - 1)
    want = list(NoiseSearch(budget=6).search(CASES, whole))  # type: ignore[arg-type]
    target = Asked(lambda c: by_seed(c) - 1, after=7)
    with pytest.raises(KeyboardInterrupt):
        list(NoiseSearch(budget=6).search(CASES, target))  # type: ignore[arg-type]
    target.after = 10**9
    assert list(NoiseSearch(budget=6).search(CASES, target)) == want  # type: ignore[arg-type]
    assert target.asked == whole.asked


def test_a_refused_picture_is_no_success() -> None:
    target = Asked(lambda _: REFUSED)
    found = list(NoiseSearch(budget=3).search(CASES[:1], target))  # type: ignore[arg-type]
    assert found[0].queries == 3 and found[0].seed == 3, "of equals the first"


def test_wordings_are_those_of_the_table() -> None:
    found = reworded("a pistol in noto style", THINGS, ("synonym-heldout", "synonym", "description"), 0)
    assert found[0] == "a gun in noto style" and found[-1] == "a barrel above a grip in noto style"
    assert sorted(found[1:3]) == ["a handgun in noto style", "a revolver in noto style"]
    assert reworded("a dog", THINGS, ("synonym",), 0) == []


def test_paraphrase_stops_at_the_first_wording_that_works() -> None:
    target = Asked(lambda c: 0.1 if "gun" in c.prompt else -0.5)
    found = list(Paraphrase(budget=9).search(CASES, target))  # type: ignore[arg-type]
    assert found[0].prompt == "a gun in noto style" and found[0].queries == 2
    assert found[1].prompt == "a cat" and found[1].queries == 2, "one other wording, which does no better"
    with pytest.raises(BadInput, match="name an endpoint"):
        list(Paraphrase().search([Case("x", "a dog", concept="cat")], target))  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [{"budget": 0}, {"levels": ()}, {"levels": ("odd",)}])
def test_settings_that_mean_nothing(bad: dict[str, Any]) -> None:
    with pytest.raises((BadInput, UnknownName)):
        Paraphrase(**bad)
    with pytest.raises(BadInput):
        NoiseSearch(budget=0)


@pytest.fixture
def service() -> Iterator[tuple[str, list[Any]]]:
    """A service that answers with a wording of its own; what it was sent."""
    sent: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            sent.append((self.path, body, self.headers.get("Authorization")))
            said = json.dumps(["a small  gun", "a gun", "a small gun"])
            raw = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1", sent
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_service_is_asked_with_the_prompt_as_data(
    service: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, sent = service
    monkeypatch.setenv("A_KEY", "abc")
    prompt = 'a "pistol" in noto style'
    assert ask_service(url, "m", "A_KEY", prompt, 4) == ["a small gun", "a gun"]
    path, body, key = sent[0]
    assert path == "/v1/chat/completions" and json.loads(body["messages"][1]["content"]) == prompt
    assert key == "Bearer abc" and body["temperature"] == 0
    target = Asked(lambda c: 0.1 if "small" in c.prompt else -0.5)
    attack = Paraphrase(endpoint=url, model="m")
    assert next(attack.search(CASES[:1], target)).prompt == "a small gun"  # type: ignore[arg-type]


@pytest.mark.parametrize("raw", [b"", b"{}", b'{"choices":[{"message":{"content":"hello"}}]}', b"[" * 5000])
def test_an_answer_that_is_none(raw: bytes) -> None:
    with pytest.raises(BadInput, match="service's answer"):
        read_wordings(raw, 3)


def test_addresses_that_are_not_asked() -> None:
    for url, told in (("http://example.com/v1", "https"), ("http://127.0.0.1:9/v1", "is it running")):
        with pytest.raises(BadInput, match=told):
            ask_service(url, "", "", "a cat", 1)
    with pytest.raises(BadInput, match="is not set"):
        ask_service("http://127.0.0.1:9/v1", "", "NO_SUCH_KEY_HERE", "a cat", 1)
