"""Moderation of a speech service by what is said: HARMGEN's proactive and reactive checks (as digested, §3.6) at the
taps of a session.

``T0`` the request's text, ``T1`` the transcript of its sound, ``T2`` the text that is about to be spoken: before
release, proactive. ``T3`` the transcript of the finished sound: reactive. Each turn is read alone and together with the
turns before it, so that a phrase in pieces is seen. What the digest leaves open (windows, thresholds, what counts as
another order) is a field or in ``ops.spoken``."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, ClassVar

from genward.core.contracts import Rig
from genward.core.records import Verdict
from genward.core.speech import TAPS, Heard
from genward.errors import BadInput, Inapplicable, UnknownName
from genward.ops.hearing import words_of
from genward.ops.spoken import Match, strongest

SESSIONS = 10_000
"""Sessions that are remembered; the one that was silent longest is forgotten first."""


@dataclass(frozen=True)
class SpeechModeration:
    """Speech moderation: refuses a session in which a forbidden phrase is asked for, announced or heard, also in
    pieces, spelled, as phonemes, respelled or in another order."""

    name: ClassVar[str] = "speech_moderation"
    at_attach: ClassVar[frozenset[str]] = frozenset()
    guards: ClassVar[bool] = True
    media: ClassVar[str] = "audio"
    phrases: tuple[str, ...] = ()
    """What must not be said, two words or more each; empty: the lab's canaries."""
    taps: tuple[str, ...] = ("T0", "T1", "T2", "T3")
    """Where to look: ``T0``, ``T1``, ``T2``, ``T3``."""
    fragments: int = 20
    """Turns of a session that are remembered, 1 (none but the one at hand) to 200."""
    threshold: float = 0.5
    """Score from which a phrase counts as said."""
    reorder: bool = True
    """Whether the words of a phrase in a scrambled text count."""
    action: str = "refuse"
    """``refuse``, or ``flag``: release and say so."""

    def __post_init__(self) -> None:
        for tap in self.taps:
            if tap not in TAPS[:4]:
                raise UnknownName("tap with words", tap, TAPS[:4])
        if not self.taps:
            raise BadInput("speech_moderation: no taps; name some of " + ", ".join(TAPS[:4]))
        short = [p for p in self.phrases if len(words_of(p)) < 2]
        if short:
            raise BadInput(f"speech_moderation: phrase {short[0]!r} has fewer than two words and would refuse too much")
        if not 1 <= self.fragments <= 200 or not 0 < self.threshold <= 1:
            raise BadInput("speech_moderation: fragments 1 to 200 and a threshold above 0 and up to 1 are possible")
        if self.action not in ("refuse", "flag"):
            raise BadInput(f"speech_moderation: action {self.action!r}; refuse or flag")

    def attach(self, rig: Rig) -> None:
        """Listen at the taps, with a memory of its own. ``Inapplicable`` where nothing is spoken."""
        if not hasattr(rig, "moderate"):
            raise Inapplicable(
                "speech_moderation listens to a speech service, as lab.speech; this model draws pictures"
            )
        service: Any = rig  # the port is one of speech services; others say that they do not have it
        service.moderate(self.taps, Moderator(self))

    def forbidden(self) -> tuple[str, ...]:
        """The phrases, or those of the lab's canaries."""
        return self.phrases or _canaries()


class Moderator:
    """A moderation at work: what it is shown, held against the phrases, with the turns before."""

    def __init__(self, about: SpeechModeration) -> None:
        self.about, self.phrases, self.memory = about, about.forbidden(), _Memory()

    def __call__(self, heard: Heard) -> Verdict | None:
        """What is said of one tap of one turn; ``None`` where nothing was found."""
        about = self.about
        before = self.memory.add(heard.session, heard.tap, heard.turn, heard.text, about.fragments)
        texts = [heard.text] if not before else [heard.text, " ".join((*before, heard.text))]
        found, phrase = max((self._strongest(text) for text in texts), key=lambda f: f[0].score)
        if found.score < about.threshold:
            return None
        action = "blocked" if about.action == "refuse" else "flagged"
        why = f"{heard.tap} speaks of a forbidden phrase ({found.rule})"
        return Verdict(action, about.name, "text", heard.turn, round(found.score, 4), about.threshold, phrase, why)

    def _strongest(self, text: str) -> tuple[Match, str]:
        return strongest(text, self.phrases, reorder=self.about.reorder)


class _Memory:
    """Texts of the latest turns by session and tap; bounded, safe among threads."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, dict[str, list[tuple[int, str]]]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, session: str, tap: str, turn: int, text: str, most: int) -> list[str]:
        """Keep a text; returns those before it. A session that begins again at turn 0 begins anew."""
        with self._lock:
            taps = self._held.setdefault(session, {})
            self._held.move_to_end(session)
            kept = [] if turn == 0 else taps.get(tap, [])
            before = [t for _, t in kept][-(most - 1) :] if most > 1 else []
            taps[tap] = [*kept, (turn, text[-4000:])][-most:]
            while len(self._held) > SESSIONS:
                self._held.popitem(last=False)
            return before


def _canaries() -> tuple[str, ...]:
    from genward.ops.canaries import canaries

    return tuple(c.phrase for c in canaries())
