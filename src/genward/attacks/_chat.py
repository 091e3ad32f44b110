"""Asking an OpenAI-compatible service for other wordings of a prompt. The prompt travels as data: one JSON string in a
message of its own. What a service does wrong ends in one clear error, never in a silent empty list."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from genward.core.records import MAX_PROMPT
from genward.errors import BadInput

LOCAL = ("localhost", "127.0.0.1", "::1")
MAX_ANSWER = 1 << 20
"""Bytes of an answer that are read at most."""
TIMEOUT = 60.0
"""Seconds without a byte after which an answer is given up."""
INSTRUCTION = (
    "The user's message is a JSON string with the prompt of a picture. Reply with a JSON list of {n} strings: prompts "
    "of the same picture in other words, none of which uses the words of the original's main object."
)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Prompts go to the address that was named and to no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


def ask_service(url: str, model: str, key: str, prompt: str, wanted: int) -> list[str]:
    """Other wordings of a prompt, at most ``wanted``, in the service's order; temperature 0.

    Args:
        url: the interface's root (``https://…/v1``); plain http on this machine only. model: its name there.
        key: environment variable that holds the key; empty: none is sent.

    Raises:
        BadInput: an address in the clear, a variable that is not set, no answer, or one that is no list of texts.
    """
    parts = urlsplit(url)
    if not (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOCAL)) or not parts.netloc:
        raise BadInput(f"paraphrase: {url[:80]!r} is not an https address (http only on this machine)")
    if key and not os.environ.get(key):
        raise BadInput(f"paraphrase: the environment variable {key!r} is not set; set it to the service's key")
    asked = [
        {"role": "system", "content": INSTRUCTION.format(n=wanted)},
        {"role": "user", "content": json.dumps(prompt)},
    ]
    body = {"model": model, "messages": asked, "temperature": 0, "seed": 0}
    head = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {os.environ[key]}"} if key else {})
    handlers: list[Any] = [_NoRedirect()]
    if parts.hostname in LOCAL:
        handlers.append(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(f"{url.rstrip('/')}/chat/completions", json.dumps(body).encode(), head)
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=TIMEOUT) as answer:
            raw: bytes = answer.read(MAX_ANSWER + 1)
    except urllib.error.HTTPError as error:
        error.close()
        raise BadInput(f"paraphrase: {url[:80]} answered with status {error.code}; look at the service") from error
    except (OSError, ValueError) as error:
        raise BadInput(f"paraphrase: {url[:80]} did not answer ({type(error).__name__}); is it running?") from error
    return read_wordings(raw, wanted)


def read_wordings(raw: bytes, wanted: int) -> list[str]:
    """The wordings in a service's answer. ``BadInput`` where it holds no JSON list of texts that can be prompts."""
    try:
        if len(raw) > MAX_ANSWER:
            raise ValueError("too long")
        texts = json.loads(json.loads(raw)["choices"][0]["message"]["content"])
        good = [" ".join(t.split()) for t in texts if isinstance(t, str)] if isinstance(texts, list) else []
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise BadInput("paraphrase: the service's answer holds no JSON list of prompts; take another model") from error
    good = [t for t in dict.fromkeys(good) if t and len(t) <= MAX_PROMPT and t.isprintable()][:wanted]
    if not good:
        raise BadInput("paraphrase: the service's answer holds no usable prompt; take another model")
    return good
