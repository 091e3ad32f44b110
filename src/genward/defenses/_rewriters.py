"""Who writes captions anew: rules over a vocabulary, an OpenAI-compatible service, a chat model on this machine.

Each takes a ``Request`` and gives an ``Answer``: candidate captions, or the kind of failure, never an exception for
what a service or a model does. Captions travel as data: the instruction is made of settings alone, and the caption is
one JSON string in a message of its own, with every character escaped that chat formats give a meaning."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from genward.core.quiet import quiet_loading
from genward.core.spec import digest, file_hash
from genward.errors import BadArtifact, BadInput
from genward.ops.looks import DETAILS, LEADING, vocabulary_hash, world
from genward.ops.sentences import basic, content, words_of

LOCAL = ("localhost", "127.0.0.1", "::1")
MAX_ANSWER = 1 << 20
"""Bytes of an answer that are read at most."""
KEPT = 4096
"""Answers that are kept in memory."""
NEW_TOKENS = 96
"""Tokens that a chat model may write."""
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ,.'-!?()")


class Request(NamedTuple):
    """What is asked for."""

    instruction: str
    """The system's words; no caption is part of them"""
    caption: str
    """In Basic Latin"""
    details: int
    """Neutral details to add"""
    wanted: int
    """Candidates that are wanted"""
    attempt: int
    """0 of the first try for this caption"""
    least: int
    """Words that a rewrite must have to be longer, where the encoder has room"""
    fits: Callable[[str], bool]
    """Whether the model's text encoder takes a text whole"""


class Answer(NamedTuple):
    """What came back: texts as they were written, or why there are none (``timeout``, ``down``, ``status``, ``json``,
    ``unknown``)."""

    texts: tuple[str, ...] = ()
    failed: str = ""


class Rewriter(Protocol):
    """Anything that writes captions anew."""

    def ask(self, request: Request) -> Answer: ...


def slotted(caption: str) -> str:
    """A caption as one JSON string in which every character that a chat format may give a meaning is escaped."""
    return '"' + "".join(c if c in _PLAIN else f"\\u{ord(c):04x}" for c in basic(caption)) + '"'


def messages(request: Request) -> list[dict[str, str]]:
    """The two messages of a chat: the instruction, and the caption as data."""
    return [
        {"role": "system", "content": request.instruction},
        {"role": "user", "content": '{"caption": ' + slotted(request.caption) + "}"},
    ]


def seed_of(request: Request) -> int:
    """A seed of 31 bits that depends on caption, instruction and attempt alone."""
    text = f"{request.instruction}|{request.caption}|{request.attempt}"
    return int.from_bytes(sha256(text.encode()).digest()[:4], "big") >> 1


def enriched(
    text: str,
    details: int,
    fits: Callable[[str], bool],
    turn: int,
    *,
    suffix: str = "",
    least: int = 0,
    caption: str = "",
) -> str:
    """A caption with ``details`` neutral details behind it and more up to ``least`` words, as many as the encoder
    takes; ``turn`` says which come first, ``suffix`` stays last. Details that use a content word of ``caption`` or of
    the text are left out."""
    added, used = 0, content(f"{caption} {text}{suffix}")
    for k in range(len(DETAILS)):
        if added >= details and len(words_of(text + suffix)) >= least:
            break
        detail = DETAILS[(turn + k) % len(DETAILS)]
        if content(detail) & used:
            continue
        longer = f"{text} {detail}"
        if fits(longer + suffix):
            text, added = longer, added + 1
    return text + suffix


def turn_of(caption: str) -> int:
    """Where a caption begins in the list of details, 0 … ``LEADING`` - 1; it depends on the caption alone."""
    return int.from_bytes(sha256(caption.encode()).digest()[:4], "big") % LEADING


@dataclass(frozen=True)
class Looks:
    """Rules: objects by their look, from a vocabulary file; deterministic, nothing to load.

    Args:
        words: the file; empty for the lab's. coverage: least share of a caption's content words that must be known;
            below, nothing is written.
    """

    words: str = ""
    coverage: float = 0.5

    def ask(self, request: Request) -> Answer:
        """Candidates that fit the encoder; ``unknown`` where the caption names no object of the world, or too much
        that is not of it."""
        about = world(self.words)
        facts = about.read(request.caption)
        if not facts.objects or facts.covered < self.coverage:
            return Answer(failed="unknown")
        turn, found = turn_of(request.caption), []
        for text, suffix in about.reworded(facts, request.caption, turn + request.attempt):
            if request.fits(text + suffix):
                least = request.least if request.details else 0
                found.append(
                    enriched(
                        text, request.details, request.fits, turn, suffix=suffix, least=least, caption=request.caption
                    )
                )
            if len(found) == request.wanted:
                break
        return Answer(tuple(found))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Captions go to the address that was named and to no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True)
class Endpoint:
    """A service with the chat interface of OpenAI. It is sent the captions.

    Args:
        url: ``https://…/v1/chat/completions``; plain http only on this machine. model: its name there.
        key: environment variable that holds the key; one that is not set sends none.
        timeout: seconds that one answer may take in all.
        folder: where answers are kept by content, readable by the owner alone; empty: in memory only.
    """

    url: str
    model: str = ""
    temperature: float = 0.7
    timeout: float = 20.0
    key: str = "OPENAI_API_KEY"
    folder: str = ""
    _held: OrderedDict[str, Answer] = field(default_factory=OrderedDict, compare=False, repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if not (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOCAL)) or not parts.netloc:
            raise BadInput(
                f"pepper: {self.url[:80]!r} is not an https address (http only on this machine); captions are not sent "
                "in the clear"
            )

    def ask(self, request: Request) -> Answer:
        """The service's candidates, or those that it gave to the same request before."""
        key = digest({"url": self.url, "model": self.model, "t": self.temperature, **_asked(request)}, length=64)
        return _kept(self._held, self.folder, key, lambda: self._fresh(request))

    def _fresh(self, request: Request) -> Answer:
        body = {
            "model": self.model,
            "messages": messages(request),
            "temperature": self.temperature,
            "n": request.wanted,
            "seed": seed_of(request),
        }
        head = {"Content-Type": "application/json"}
        if os.environ.get(self.key):
            head["Authorization"] = f"Bearer {os.environ[self.key]}"
        handlers: list[Any] = [_NoRedirect()]
        if urlsplit(self.url).hostname in LOCAL:
            handlers.append(urllib.request.ProxyHandler({}))
        opener = urllib.request.build_opener(*handlers)
        deadline = time.monotonic() + self.timeout
        try:
            asked = urllib.request.Request(self.url, json.dumps(body).encode(), head)
            with opener.open(asked, timeout=self.timeout) as answer:
                raw = b""
                while part := answer.read1(65536):
                    raw += part
                    if len(raw) > MAX_ANSWER:
                        return Answer(failed="long")
                    if time.monotonic() > deadline:
                        return Answer(failed="timeout")
        except urllib.error.HTTPError as error:
            error.close()
            return Answer(failed="status")
        except TimeoutError:
            return Answer(failed="timeout")
        except urllib.error.URLError as error:
            return Answer(failed="timeout" if isinstance(error.reason, TimeoutError) else "down")
        except (OSError, ValueError, http_errors()):
            return Answer(failed="down")
        return read_chat(raw)


def http_errors() -> type[Exception]:
    """What http.client raises for an answer that is no HTTP."""
    from http.client import HTTPException

    return HTTPException


def read_chat(raw: bytes) -> Answer:
    """The texts of a chat completion; ``json`` where it is none."""
    try:
        answer = json.loads(raw)
        texts = tuple(choice["message"]["content"] for choice in answer["choices"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return Answer(failed="json")
    if not texts or not all(isinstance(text, str) for text in texts):
        return Answer(failed="json")
    return Answer(texts)


def _asked(request: Request) -> dict[str, Any]:
    return {
        "instruction": request.instruction,
        "caption": request.caption,
        "wanted": request.wanted,
        "attempt": request.attempt,
    }


def _kept(held: OrderedDict[str, Answer], folder: str, key: str, make: Callable[[], Answer]) -> Answer:
    """An answer by the content of its request: from memory, from its file, or made now. Failures are not kept."""
    if key in held:
        held.move_to_end(key)
        return held[key]
    file = Path(folder) / f"{key}.json" if folder else None
    found = _filed(file) if file is not None else None
    if found is None:
        found = make()
        if found.failed:
            return found
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            aside = file.with_suffix(f".{os.getpid()}.tmp")
            handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump(list(found.texts), stream)
            os.replace(aside, file)
    held[key] = found
    if len(held) > KEPT:
        held.popitem(last=False)
    return found


def _filed(file: Path) -> Answer | None:
    """The answer of a file; ``None`` where there is none or it is damaged, so that it is asked for again."""
    try:
        texts = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return Answer(tuple(texts)) if isinstance(texts, list) and all(isinstance(t, str) for t in texts) else None


@dataclass(frozen=True)
class ChatModel:
    """A chat model of transformers in a folder on this machine: safetensors only, none of its own code is run."""

    folder: str
    temperature: float = 0.7
    cache: str = ""
    _held: OrderedDict[str, Answer] = field(default_factory=OrderedDict, compare=False, repr=False)

    def ask(self, request: Request) -> Answer:
        """Candidates, drawn with random numbers of the request's own.

        Raises:
            BadArtifact: the folder holds no chat model that can be loaded safely.
        """
        key = digest({"model": weights_hash(self.folder), "t": self.temperature, **_asked(request)}, length=64)
        return _kept(self._held, self.cache, key, lambda: self._fresh(request))

    def _fresh(self, request: Request) -> Answer:
        import torch

        tokenizer, model = _chat(self.folder)
        given = tokenizer.apply_chat_template(
            messages(request), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        start = given["input_ids"].shape[1]
        sampled: dict[str, Any] = {"do_sample": False}
        if self.temperature > 0:
            sampled = {
                "do_sample": True,
                "temperature": self.temperature,
                "top_k": 0,
                "num_return_sequences": request.wanted,
            }
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(request))
            out = model.generate(
                **given,
                **sampled,
                max_new_tokens=NEW_TOKENS,
                pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
            )
        return Answer(tuple(tokenizer.batch_decode(out[:, start:], skip_special_tokens=True)))


@cache
def _chat(folder: str) -> tuple[Any, Any]:
    """(tokenizer, model) of a folder."""
    place = Path(folder)
    if not (place / "config.json").is_file() or not any(place.glob("*.safetensors")):
        raise BadArtifact(
            f"pepper: {folder[:80]} is no chat model in safetensors (config.json and *.safetensors are wanted); give a "
            "folder written by save_pretrained"
        )
    with quiet_loading():
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            options = {"local_files_only": True, "trust_remote_code": False}
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
            model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, **options).eval()
        except Exception as error:
            raise BadArtifact(
                f"pepper: the chat model in {folder[:80]} cannot be loaded ({type(error).__name__}); models that need "
                "code of their own are not run"
            ) from error
    if not getattr(tokenizer, "chat_template", None):
        raise BadArtifact(
            f"pepper: the tokenizer in {folder[:80]} has no chat template; give an instruction-tuned model"
        )
    return tokenizer, model.requires_grad_(False)


@lru_cache(maxsize=8)
def weights_hash(folder: str) -> str:
    """Identity of a folder's model: its JSON files and safetensors by content, 16 hex digits."""
    files = sorted(
        p for p in Path(folder).iterdir() if p.suffix in (".json", ".safetensors", ".jinja", ".txt", ".model")
    )
    return digest({p.name: file_hash(p) for p in files})


def content_of(rewriter: str, words: str) -> str:
    """Hash of what a rewriter is made of as far as it lies here: the vocabulary file, a model's files; empty of a
    service."""
    if rewriter == "looks":
        return vocabulary_hash(words)
    return weights_hash(rewriter) if Path(rewriter).is_dir() else ""


@lru_cache(maxsize=32)
def _opened(kind: str, settings: tuple[tuple[str, Any], ...]) -> Rewriter:
    classes: Mapping[str, Callable[..., Rewriter]] = {"looks": Looks, "endpoint": Endpoint, "chat": ChatModel}
    return classes[kind](**dict(settings))


def opened(rewriter: str, given: Mapping[str, Mapping[str, Any]]) -> Rewriter:
    """A rewriter by its text: ``looks``, an address, or a folder. Equal settings share one, and its answers.

    Args:
        given: settings of each kind, ``looks``, ``endpoint`` and ``chat``.

    Raises:
        BadInput: none of these, or an address that would send captions in the clear.
    """
    if rewriter == "looks":
        return _opened("looks", tuple(given["looks"].items()))
    if "://" in rewriter:
        return _opened("endpoint", (("url", rewriter), *given["endpoint"].items()))
    if Path(rewriter).is_dir():
        return _opened("chat", (("folder", rewriter), *given["chat"].items()))
    raise BadInput(
        f"pepper: rewriter {rewriter[:80]!r}; give looks, the address of a chat service "
        "(https://…/v1/chat/completions) or the folder of a chat model"
    )
