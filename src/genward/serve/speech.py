"""A live speech service behind its moderators: one request at a time, sessions remembered, an audit record for each.

Opened by ``genward.protect(service, defenses=["speech_moderation"])``."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

from genward.catalog import plugins
from genward.core.media import Audio
from genward.core.records import MAX_PROMPT, Case, Verdict
from genward.core.speech import Play, Turn
from genward.core.typed import read_toml
from genward.errors import BadInput, Inapplicable, Unguarded
from genward.serve.audit import Audit
from genward.speech.policies import load_speech_policies
from genward.speech.service import SpeechModel, SpeechRig, SpeechSampler

SESSIONS = 10_000
"""Sessions whose requests are counted; the one that was silent longest is forgotten first."""
DEFAULT = ("speech_moderation",)


@dataclass(frozen=True)
class SpokenOutput:
    """What a request came back with."""

    audio: Audio | None
    """``None`` where it was refused or failed"""
    status: str
    """``ok`` | ``refused`` | ``review``: held for a person | ``error``"""
    why: str
    verdicts: tuple[Verdict, ...]
    seconds: float
    decision_ms: float
    """Time that the moderators took"""


class GuardedSpeech:
    """A speech service that asks its moderators. Safe among threads: requests are answered one after the other."""

    def __init__(self, model: SpeechModel, named: Sequence[str], rig: SpeechRig, audit: Audit | None) -> None:
        self.model, self.named, self.rig, self.audit = model, tuple(named), rig, audit
        self._turns: OrderedDict[str, int] = OrderedDict()
        self._lock, self._closed = Lock(), False
        self.leave: Callable[[], None] = lambda: None
        """What takes the moderators off again, where the service was opened without a ``with``"""

    def speak(self, text: str, *, session: str = "", clip: str = "", seed: int = 0, speed: float = 1.0) -> SpokenOutput:
        """One request.

        Args:
            text: what is typed, up to 2,000 characters; ``<clip>`` in it is where the clip's words belong.
            session: whose request it is; requests of one session are read together. Empty: it stands alone.
            clip: words that are sent as sound. seed: of the voice. speed: 0.5 to 2.

        Raises:
            BadInput: no text, or too long. StoreError: the audit record cannot be written; nothing is released then.
        """
        if not isinstance(text, str) or not text.strip() or len(text) > MAX_PROMPT:
            raise BadInput(f"a request of {len(str(text)):,} characters; 1 to {MAX_PROMPT:,} can be spoken")
        with self._lock:
            if self._closed:
                raise BadInput("this service is closed; open it again with genward.protect")
            began = time.perf_counter()
            turn = self._turn(session) if session else 0
            name = session or f"alone {time.monotonic_ns()}"
            case = Case(name, Play((Turn(text, clip),), text).prompt(), seed=seed, group="")
            sample = self.model.request(case, SpeechSampler(speed=speed), self.rig, turn)
            found = SpokenOutput(
                sample.audio,
                "review" if "review" in sample.notes else sample.status,
                sample.why,
                tuple(sample.verdicts),
                time.perf_counter() - began,
                sample.costs["decision_ms"],
            )
            if self.audit is not None:
                self.audit.write([self._record(text, session, turn, found)])
            return found

    def _turn(self, session: str) -> int:
        turn = self._turns.get(session, -1) + 1
        self._turns[session] = turn
        self._turns.move_to_end(session)
        if len(self._turns) > SESSIONS:
            self._turns.popitem(last=False)
        return turn

    def _record(self, text: str, session: str, turn: int, found: SpokenOutput) -> dict[str, Any]:
        last = found.verdicts[-1] if found.verdicts else None
        return {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "media": "audio",
            "session": hashlib.sha256(session.encode()).hexdigest()[:16] if session else "",
            "turn": turn,
            "prompt": text,
            "action": _done(found),
            "defense": last.defense if last else "",
            "score": last.score if last else None,
            "threshold": last.threshold if last else None,
            "why": found.why,
            "milliseconds": round(1e3 * found.seconds, 1),
            "decision_ms": round(found.decision_ms, 2),
            "output": found.audio.sha if found.audio is not None else "",
        }

    def close(self) -> None:
        """No request is answered after this."""
        with self._lock:
            self._closed = True
        leave, self.leave = self.leave, lambda: None
        leave()


def _done(found: SpokenOutput) -> str:
    """What became of a request, for the audit."""
    if found.status == "ok" and any(v.action == "steered" for v in found.verdicts):
        return "redacted"
    return {"ok": "released", "refused": "refused", "review": "held for review"}.get(found.status, "error")


@contextmanager
def protect_speech(
    model: SpeechModel,
    policy: Any = None,
    defenses: Sequence[Any] | str | None = None,
    *,
    unguarded: bool = False,
    audit: Audit | Path | str | None = None,
) -> Iterator[GuardedSpeech]:
    """Guard a speech service while the block runs.

    Args:
        policy: a TOML file with ``phrases = ["…"]`` that must not be said, or with ``[[policies]]`` (see
            ``speech.policies``); ``None``: the defenses' own.
        defenses: ``speech_moderation`` by default; texts or objects.
        unguarded: whether a chain in which nothing moderates is meant.
        audit: a file for one JSON line a request.

    Raises:
        Unguarded: nothing in the chain moderates. BadInput: no such policy or defense; Inapplicable: a defense that
            acts on pictures.
    """
    log = Audit.of(audit)
    if log is not None:
        log.check()
    asked = [defenses] if isinstance(defenses, str) else list(DEFAULT if defenses is None else defenses)
    chain = [plugins.made("defense", d) if isinstance(d, str) else d for d in asked]
    if policy is not None:
        known = read_policy(policy)
        chain = [replace(d, **known) if hasattr(d, "phrases") else d for d in chain]
    with model.rig(chain) as rig:
        if not rig.listeners and not unguarded:
            raise Unguarded("nothing in this chain moderates speech; add speech_moderation, or say unguarded=True")
        guarded = GuardedSpeech(model, [d.name for d in chain], rig, log)
        try:
            yield guarded
        finally:
            guarded.close()


def read_policy(policy: Any) -> dict[str, Any]:
    """Fields of ``speech_moderation`` that a policy file for speech sets: ``phrases``, or ``policies``.

    Raises:
        Inapplicable: a policy about pictures. BadInput: a file that holds neither, or is wrong somewhere.
    """
    path = Path(str(policy))
    if path.suffix != ".toml":
        raise Inapplicable(f'policy {str(policy)!r} is about pictures; give a TOML file with phrases = ["…"]')
    table = read_toml(path)
    if "policies" in table:
        return {"policies": load_speech_policies(path)}
    found = table.get("phrases")
    if not isinstance(found, list) or not found or not all(isinstance(p, str) and p.strip() for p in found):
        raise BadInput(f'{path}: phrases is missing or no list of texts; write phrases = ["two words or more"]')
    return {"phrases": tuple(found)}
