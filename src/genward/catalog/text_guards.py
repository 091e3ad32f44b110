"""Prompt guards of other makers, to be measured beside ours: a Hugging Face text classifier, and an OpenAI-compatible
moderation service.

Both are off unless asked for (``genward run prompt-guard --guard text_classifier,model=./folder,labels=toxic``). The
service gets the prompts
themselves: nothing is sent anywhere before a URL was named.
"""

from __future__ import annotations

import json
import math
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar
from urllib.parse import urlsplit

from genward.catalog.plugins import coerce, parts
from genward.errors import BadArtifact, BadInput, GuardError, UnknownName

LOCAL = ("localhost", "127.0.0.1", "::1")
MAX_ANSWER = 16 * 2**20
"""Bytes of an answer that are read at most."""


@dataclass(frozen=True)
class TextClassifier:
    """A sequence classifier of transformers: probability of any of the named labels."""

    name: ClassVar[str] = "text_classifier"
    model: str = ""
    """Folder of a model, or a hub id that is on this machine."""
    labels: tuple[str, ...] = ()
    """Labels of the model that mean harmful."""
    threshold: float = 0.5
    batch: int = 32
    download: bool = False
    """Whether a hub id that is not on this machine may be fetched."""
    device: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1 or self.batch < 1:
            raise BadInput(
                f"text_classifier: threshold {self.threshold}, batch {self.batch}; the first lies between 0 and 1, the "
                "second is at least 1"
            )

    @cached_property
    def _parts(self) -> tuple[Any, Any, list[int], Any]:
        """Tokenizer, model, places of the harmful labels, device."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        from genward.judges import _models

        folder = _models.local_folder(self.model, download=self.download, judge=self.name)

        def load() -> tuple[Any, Any]:
            found: tuple[Any, Any] = AutoModelForSequenceClassification.from_pretrained(
                folder, use_safetensors=True, local_files_only=True, trust_remote_code=False, output_loading_info=True
            )
            return found

        model = _models.loaded(folder, load)
        known = {str(v): int(k) for k, v in model.config.id2label.items()}
        if not self.labels:
            raise BadInput(
                f"text_classifier: which labels mean harmful? name some of {', '.join(sorted(known))} in the field "
                "labels"
            )
        for label in self.labels:
            if label not in known:
                raise UnknownName(f"label of {folder.name}", label, known)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            raise BadArtifact(
                f"{folder}: its tokenizer cannot be loaded ({type(error).__name__}); get its files anew"
            ) from error
        device = _models.device_of(self.device)
        return tokenizer, model.eval().to(device), [known[x] for x in self.labels], device

    def scores(self, texts: Sequence[str]) -> list[float]:
        """Probability of any harmful label, one a text: their sum where labels exclude each other, the largest where
        each has its own (multi-label).

        Raises:
            BadInput: no model or no labels named. BadArtifact: the model cannot be used. UnknownName: no such label.
        """
        import torch

        tokenizer, model, harmful, device = self._parts
        several = model.config.problem_type == "multi_label_classification" or model.config.num_labels == 1
        longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512))
        out: list[float] = []
        for k in range(0, len(texts), self.batch):
            given = tokenizer(
                list(texts[k : k + self.batch]), padding=True, truncation=True, max_length=longest, return_tensors="pt"
            ).to(device)
            with torch.no_grad():
                logits = model(**given).logits.float()
            found = logits.sigmoid()[:, harmful].amax(1) if several else logits.softmax(1)[:, harmful].sum(1)
            out += found.tolist()
        return out


@dataclass(frozen=True)
class Moderation:
    """An OpenAI-compatible moderation service: the largest of its category scores. It is sent the prompts."""

    name: ClassVar[str] = "moderation"
    url: str = ""
    """Address of the endpoint, ``https://…/v1/moderations``; plain http only on this machine."""
    model: str = "omni-moderation-latest"
    key: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; a variable that is not set sends none."""
    categories: tuple[str, ...] = ()
    """Categories that count; empty: all of the service's."""
    threshold: float = 0.5
    batch: int = 32
    timeout: float = 30.0
    """Seconds a request may take."""

    def __post_init__(self) -> None:
        if self.batch < 1 or not self.timeout > 0:
            raise BadInput(
                f"moderation: batch {self.batch}, timeout {self.timeout}; at least 1 and above 0 are possible"
            )
        parts = urlsplit(self.url)
        if self.url and not (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOCAL)):
            raise BadInput(
                f"moderation: {self.url!r} is not an https address (http only on this machine); prompts are not sent "
                "in the clear"
            )

    def scores(self, texts: Sequence[str]) -> list[float]:
        """The largest category score, one a text.

        Raises:
            BadInput: no URL named. GuardError: the service does not answer, or not with one finite score a text;
                nothing is guessed.
        """
        if not self.url:
            raise BadInput("moderation: which service? name its address in the field url (it will be sent the prompts)")
        out: list[float] = []
        for k in range(0, len(texts), self.batch):
            part = list(texts[k : k + self.batch])
            out += self._read(self._asked(part), len(part))
        return out

    def _asked(self, texts: Sequence[str]) -> Any:
        head = {"Content-Type": "application/json"}
        if os.environ.get(self.key):
            head["Authorization"] = f"Bearer {os.environ[self.key]}"
        body = json.dumps({"model": self.model, "input": list(texts)}).encode("utf-8")
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url, body, head), timeout=self.timeout) as answer:
                raw = answer.read(MAX_ANSWER + 1)
        except urllib.error.HTTPError as error:
            hint = (
                f"set {self.key}"
                if error.code in (401, 403)
                else "ask less often"
                if error.code == 429
                else "look at the service"
            )
            raise GuardError(f"moderation: {self.url} answered {error.code} {error.reason}; {hint}") from error
        except (OSError, ValueError) as error:
            raise GuardError(
                f"moderation: {self.url} does not answer ({error}); check the address and the network"
            ) from error
        try:
            return json.loads(raw[:MAX_ANSWER])
        except ValueError as error:
            raise GuardError(f"moderation: {self.url} did not answer in JSON; is it a moderation endpoint?") from error

    def _read(self, answer: Any, count: int) -> list[float]:
        results = answer.get("results") if isinstance(answer, dict) else None
        if not isinstance(results, list) or len(results) != count:
            raise GuardError(
                f"moderation: {self.url} gave {len(results) if isinstance(results, list) else 'no'} results for "
                f"{count} texts"
            )
        out = []
        for result in results:
            table = result.get("category_scores") if isinstance(result, dict) else None
            if not isinstance(table, dict):
                raise GuardError(f"moderation: a result of {self.url} has no category_scores")
            for name in self.categories:
                if name not in table:
                    raise UnknownName("category of the moderation service", name, map(str, table))
            found = [table[c] for c in self.categories or table]
            numbers = [float(x) for x in found if isinstance(x, (int, float)) and not isinstance(x, bool)]
            if not numbers or len(numbers) < len(found) or not all(map(math.isfinite, numbers)):
                raise GuardError(f"moderation: a result of {self.url} holds scores that are no numbers")
            out.append(max(numbers))
        return out


ADAPTERS: dict[str, Callable[..., Any]] = {TextClassifier.name: TextClassifier, Moderation.name: Moderation}


def adapter(text: str) -> TextClassifier | Moderation:
    """From ``name,field=value,…``, as ``moderation,url=https://…``.

    Raises:
        UnknownName: no such adapter or field. BadInput: the text cannot be read.
    """
    name, texts = parts("prompt guard", text)
    if name not in ADAPTERS:
        raise UnknownName("prompt guard", name, ADAPTERS)
    kinds = {f.name: str(f.type) for f in fields(ADAPTERS[name])}  # type: ignore[arg-type]
    for key in texts:
        if key not in kinds:
            raise UnknownName(f"field of {name}", key, kinds)
    given = {key: coerce(value, kinds[key], f"{name}.{key}") for key, value in texts.items()}
    made: TextClassifier | Moderation = ADAPTERS[name](**given)
    return made
