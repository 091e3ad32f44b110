"""A voice behind a server that answers to OpenAI's ``POST /v1/audio/speech``: the provider's own, or one of the many
servers that copy it. Only the standard library is used."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, replace
from http.client import HTTPException
from ipaddress import ip_address
from typing import Any, ClassVar
from urllib.parse import urlsplit

from genward.core.media import Audio
from genward.core.reading import short
from genward.core.sound import read_sound
from genward.core.spec import Spec
from genward.errors import BadInput, Declined, EngineError, Inapplicable
from genward.models.speech_engines import checked_speed, spoken_text

MAX_ANSWER = 64 << 20
"""Most bytes of an answer that are read."""
AGAIN = frozenset({408, 409, 429, 500, 502, 503, 504})
"""Status codes after which the same request may succeed."""
REFUSALS = ("content_policy", "content_filter", "moderation", "safety")
"""What an error's code or type contains where the text was refused for what it says."""
MAX_WAIT = 20.0
"""Longest pause in seconds between two tries, whatever the server asks for."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another server."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


@dataclass(frozen=True)
class ServedVoice:
    """The client of one speech server.

    Raises:
        BadInput: the address is no http or https one, or a number is out of range.
    """

    name: ClassVar[str] = "served"
    address: str
    """Up to and with ``/v1``"""
    model: str = "tts-1"
    speaker: str = "alloy"
    """What the server calls ``voice``"""
    speed: float = 1.0
    """0.5 to 2"""
    key: str = "GENWARD_SPEECH_KEY"
    """Environment variable that holds the key; no key is sent where it is not set."""
    timeout: float = 60.0
    """Seconds to wait for the server to send something"""
    retries: int = 2
    """Further tries after an answer that may be another one next time"""
    pause: float = 0.5
    """Seconds before the second try, twice as long before each further one"""

    def __post_init__(self) -> None:
        checked_speed(self.speed)
        parts = urlsplit(self.address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
            raise BadInput(f"{short(self.address)!r} is no address of a speech server; give http://host:port/v1")
        if self.timeout <= 0 or self.pause < 0 or not 0 <= self.retries <= 10:
            raise BadInput("a served voice wants a timeout above 0, a pause of at least 0, 0 to 10 retries")

    @property
    def spec(self) -> Spec:
        """What was asked for; nobody outside knows which weights the server runs."""
        fields = {"address": self.address.rstrip("/"), "model": self.model, "speaker": self.speaker}
        return Spec("voice", self.name, fields)

    def tuned(self, speaker: str, speed: float) -> ServedVoice:
        return replace(self, speaker=speaker or self.speaker, speed=speed)

    def speak(self, text: str, seed: int = 0, phonemes: Sequence[str] | None = None) -> Audio:
        """What the server makes, as WAV. The seed is not sent: the interface has none.

        Raises:
            Declined: the server refuses the text for what it says.
            EngineError: no answer within the tries, another status than 200, or no WAV sound.
        """
        if phonemes is not None:
            raise Inapplicable("a served voice takes no phonemes; use hibari or flite")
        asked = {"model": self.model, "voice": self.speaker, "input": spoken_text(text), "speed": self.speed}
        body = json.dumps({**asked, "response_format": "wav"}).encode()
        for k in range(self.retries + 1):
            try:
                return self._answer(body)
            except _Later as error:
                if k == self.retries:
                    raise EngineError(f"{self._where}: {error}; {k + 1} tries were made") from error
                time.sleep(min(MAX_WAIT, max(error.wait, self.pause * 2**k)))
        raise AssertionError("the last try returns or raises")

    @property
    def _where(self) -> str:
        return f"speech server {short(self.address)}"

    def _request(self, body: bytes) -> urllib.request.Request:
        heads = {"Content-Type": "application/json", "Accept": "audio/wav"}
        key = os.environ.get(self.key, "")
        if key:
            heads["Authorization"] = f"Bearer {key}"
        return urllib.request.Request(f"{self.address.rstrip('/')}/audio/speech", body, heads, method="POST")

    def _opener(self) -> urllib.request.OpenerDirector:
        """The environment's proxies, but none on the way to this machine itself."""
        handlers: list[Any] = [_NoRedirect()]
        if _loopback(urlsplit(self.address).hostname or ""):
            handlers.append(urllib.request.ProxyHandler({}))
        return urllib.request.build_opener(*handlers)

    def _answer(self, body: bytes) -> Audio:
        try:
            with self._opener().open(self._request(body), timeout=self.timeout) as answer:
                data: bytes = answer.read(MAX_ANSWER + 1)
                missing = 0 if len(data) > MAX_ANSWER else answer.length or 0  # a read of so many bytes does not say
        except urllib.error.HTTPError as error:
            with error:
                self._refused(error)
        except (OSError, HTTPException) as error:  # no connection, a timeout, an answer that breaks off
            raise _Later(f"no answer ({short(error)})") from error
        if missing:
            raise _Later(f"its answer broke off {missing:,} bytes before its end")
        if len(data) > MAX_ANSWER:
            raise EngineError(f"{self._where}: an answer of more than {MAX_ANSWER:,} bytes; ask for a shorter text")
        try:
            return read_sound(data)
        except BadInput as error:
            raise EngineError(f"{self._where}: its answer is no sound that can be used: {error}") from error

    def _refused(self, error: urllib.error.HTTPError) -> None:
        """Raise what an answer with an error's status means."""
        said, code = _told(error)
        if error.code in AGAIN:
            raise _Later(f"status {error.code}: {said}", _seconds(error.headers.get("Retry-After", "")))
        if any(word in code for word in REFUSALS):
            raise Declined(f"{self._where}: it will not speak this text: {said}")
        hint = {401: f"set {self.key}", 403: f"check the key in {self.key}", 404: "check the address and the model"}
        raise EngineError(f"{self._where}: status {error.code}: {said}; {hint.get(error.code, 'check the request')}")


class _Later(Exception):
    """The same request may succeed later; ``wait`` is how many seconds the server asks for."""

    def __init__(self, said: str, wait: float = 0.0) -> None:
        super().__init__(said)
        self.wait = wait


def _told(error: urllib.error.HTTPError) -> tuple[str, str]:
    """(message, code and type in one text) of an error's body, whatever it is."""
    try:
        raw = error.read(10_000).decode("utf-8", "replace")
    except (OSError, HTTPException):
        return short(error.reason), ""
    try:
        found = json.loads(raw)["error"]
        return short(str(found.get("message", ""))), f"{found.get('code', '')} {found.get('type', '')}".lower()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return short(raw) or short(error.reason), ""


def _seconds(text: str) -> float:
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 6 else 0.0


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
