"""Prompt guards of other makers: a tiny classifier of the real class, and a service on this machine that answers well
and badly."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from genward.catalog.text_guards import Moderation, TextClassifier, adapter
from genward.errors import BadArtifact, BadInput, GuardError, UnknownName

TEXTS = ["a cat", "a dog on a mat", "", "a bomb " * 200]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", "bomb", "on", "mat"]
    place = tmp_path_factory.mktemp("classifier")
    (place / "vocab.txt").write_text("\n".join(words), "utf-8")
    BertTokenizer(vocab=str(place / "vocab.txt"), model_max_length=32).save_pretrained(place)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 40,
    }
    config = BertConfig(
        vocab_size=len(words),
        id2label={0: "calm", 1: "toxic", 2: "violent"},
        label2id={"calm": 0, "toxic": 1, "violent": 2},
        **sizes,
    )
    BertForSequenceClassification(config).save_pretrained(place)
    return place


def test_a_classifier_equals_the_model_by_hand(folder: Path) -> None:
    from transformers import AutoTokenizer, BertForSequenceClassification

    model, tokenizer = (
        BertForSequenceClassification.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    found = TextClassifier(str(folder), ("toxic", "violent"), batch=2, device="cpu").scores(TEXTS)
    for text, score in zip(TEXTS, found, strict=True):
        with torch.no_grad():
            logits = model(**tokenizer([text], truncation=True, max_length=32, return_tensors="pt")).logits.double()[0]
        assert score == pytest.approx(float(1 - logits.softmax(0)[0]), abs=1e-5)


def test_labels_that_do_not_exclude_each_other(folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(folder, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "problem_type": "multi_label_classification"}))
    both = TextClassifier(str(tmp_path / "m"), ("toxic", "violent"), device="cpu").scores(TEXTS)
    each = [TextClassifier(str(tmp_path / "m"), (x,), device="cpu").scores(TEXTS) for x in ("toxic", "violent")]
    assert both == pytest.approx([max(pair) for pair in zip(*each, strict=True)])


def test_classifiers_that_cannot_be_used(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"calm, toxic, violent"):
        TextClassifier(str(folder)).scores(TEXTS)
    with pytest.raises(UnknownName, match="toxic"):
        TextClassifier(str(folder), ("toxik",)).scores(TEXTS)
    with pytest.raises(BadInput, match="not on this machine|no such folder"):
        TextClassifier(str(tmp_path / "none"), ("toxic",)).scores(TEXTS)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(BadArtifact, match="never loads"):
        TextClassifier(str(tmp_path), ("toxic",)).scores(TEXTS)


Answer = Callable[[dict[str, Any], dict[str, str]], tuple[int, Any]]


@pytest.fixture
def service() -> Iterator[tuple[str, dict[str, Answer]]]:
    """A moderation service on this machine; ``answer["now"]`` decides what it says."""
    answer: dict[str, Answer] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            code, said = answer["now"](body, dict(self.headers))
            data = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(code)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/moderations", answer
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_service_is_asked_in_batches_and_its_largest_score_counts(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, answer = service
    asked: list[Any] = []

    def now(body: dict[str, Any], head: dict[str, str]) -> tuple[int, Any]:
        asked.append((body, head.get("Authorization")))
        return 200, {"results": [{"category_scores": {"violence": len(t) / 1000, "hate": 0.01}} for t in body["input"]]}

    answer["now"] = now
    monkeypatch.setenv("SOME_KEY", "k1")
    found = Moderation(url, "m", key="SOME_KEY", batch=3).scores(TEXTS)
    assert found == pytest.approx([max(len(t) / 1000, 0.01) for t in TEXTS])
    assert (
        [len(body["input"]) for body, _ in asked] == [3, 1]
        and asked[0][0]["model"] == "m"
        and asked[0][1] == "Bearer k1"
    )
    monkeypatch.delenv("SOME_KEY")
    assert Moderation(url, key="SOME_KEY", categories=("hate",)).scores(TEXTS) == [0.01] * 4 and asked[-1][1] is None
    with pytest.raises(UnknownName, match="hate"):
        Moderation(url, categories=("hatte",)).scores(TEXTS)


@pytest.mark.parametrize(
    ("code", "said", "told"),
    [
        (401, {}, "OPENAI_API_KEY"),
        (429, {}, "less often"),
        (200, b"<html>", "JSON"),
        (200, {"results": []}, "0 results for 4 texts"),
        (200, {"results": [{}] * 4}, "category_scores"),
        (200, {"results": [{"category_scores": {"a": None}}] * 4}, "no numbers"),
        (200, b'{"results": [' + b", ".join([b'{"category_scores": {"a": NaN}}'] * 4) + b"]}", "no numbers"),
    ],
)
def test_a_service_that_answers_badly_is_an_error(service: Any, code: int, said: Any, told: str) -> None:
    url, answer = service
    answer["now"] = lambda body, head: (code, said)
    with pytest.raises(GuardError, match=told):
        Moderation(url).scores(TEXTS)


def test_addresses() -> None:
    with pytest.raises(BadInput, match="in the clear"):
        Moderation("http://example.org/v1/moderations")
    with pytest.raises(BadInput, match="in the clear"):
        Moderation("file:///etc/hosts")
    with pytest.raises(BadInput, match="which service"):
        Moderation().scores(TEXTS)
    with pytest.raises(GuardError, match="does not answer"):
        Moderation("http://127.0.0.1:9/v1/moderations", timeout=2).scores(TEXTS)


def test_from_text() -> None:
    assert adapter("text_classifier,model=./m,labels=toxic;violent,threshold=0.2") == TextClassifier(
        "./m", ("toxic", "violent"), 0.2
    )
    assert adapter("moderation,url=https://example.org/v1/moderations,batch=4").batch == 4
    with pytest.raises(UnknownName, match="moderation"):
        adapter("moderatoin,url=x")
    with pytest.raises(UnknownName, match="labels"):
        adapter("text_classifier,label=x")
    with pytest.raises(BadInput, match="field=value"):
        adapter("moderation,https")
