"""Moderation of a speech service by what is said: HARMGEN's proactive and reactive checks (as digested, §3.6) at the
taps of a session.

``T0`` the request's text, ``T1`` the transcript of its sound, ``T2`` the text that is about to be spoken: before
release, proactive. ``T3`` the transcript of the finished sound: reactive. Each turn is read alone and together with the
turns before it (``speech.sessions``), in several readings and orders (``speech.matching``). A transcript that
contradicts the text that was announced is listened to again in other ways, and what any hearing says counts (§3.6,
step 5). What the digest leaves open (windows, thresholds, what counts as another order) is a field or a constant."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from genward.core.contracts import Rig
from genward.core.records import Verdict
from genward.core.speech import TAPS, Heard, Ruling
from genward.errors import BadInput, Inapplicable, UnknownName
from genward.ops.hearing import word_error_rate, words_of
from genward.speech.matching import Matcher
from genward.speech.policies import SpeechPolicy
from genward.speech.sessions import CHARACTERS, SESSIONS, SessionBuffer, SessionModerator
from genward.speech.sessions import Verdict as Decision

ACTIONS = {"refuse": "refuse", "flag": "allow", "redact": "redact", "review": "review"}
"""What to do -> the same in a policy"""
RELISTEN = ("never", "doubt", "always")
DOUBT = 0.3
"""Word error rate between what was announced and what is heard from which on a sound is listened to again"""


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
    """Turns of a session that are remembered for ten minutes, 1 (none but the one at hand) to 200."""
    threshold: float = 0.5
    """Score from which a phrase counts as said."""
    reorder: bool = True
    """Whether the words of a phrase in a scrambled text count."""
    action: str = "refuse"
    """``refuse``; ``redact``: speak the text without the phrase where it stands as it is, refuse it otherwise;
    ``review``: hold it for a person; ``flag``: release and say so."""
    relisten: str = "doubt"
    """When a sound is listened to again with changes: ``never``, ``always``, or on ``doubt``, where its transcript
    contradicts the text that was announced."""
    second: str = ""
    """A second recognizer that is asked as well then, as ``pocketsphinx``; empty: none."""
    policies: tuple[SpeechPolicy, ...] = ()
    """Policies of a file, in the place of ``phrases``, ``reorder`` and ``action``."""

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
        for what, value, known in (("action", self.action, ACTIONS), ("relisten", self.relisten, RELISTEN)):
            if value not in known:
                raise BadInput(f"speech_moderation: {what} {value!r}; {', '.join(known)} are possible")

    def attach(self, rig: Rig) -> None:
        """Listen at the taps, with a memory of its own. ``Inapplicable`` where nothing is spoken."""
        if not hasattr(rig, "moderate"):
            raise Inapplicable(
                "speech_moderation listens to a speech service, as lab.speech; this model draws pictures"
            )
        service: Any = rig  # the port is one of speech services; others say that they do not have it
        service.moderate(self.taps, Moderator(self, service.model.ear))

    def forbidden(self) -> tuple[SpeechPolicy, ...]:
        """The policies, or one of the phrases, or one of the lab's canaries."""
        if self.policies:
            return self.policies
        phrases = tuple(dict.fromkeys(self.phrases or _canaries()))
        return (SpeechPolicy("phrases", phrases=phrases, action=ACTIONS[self.action], reorder=self.reorder),)


class Moderator:
    """A moderation at work: what it is shown, held against the policies, with the turns before. Safe among threads.

    Args:
        ear: what listens again; ``None``: nothing is.
    """

    def __init__(self, about: SpeechModeration, ear: Any = None) -> None:
        self.about, self.ear = about, ear
        buffer = SessionBuffer(about.fragments, characters=CHARACTERS, sessions=SESSIONS * len(about.taps))
        self.moderate = SessionModerator(Matcher(about.forbidden()), buffer, about.threshold)
        self._announced: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, heard: Heard) -> Ruling | None:
        """What becomes of one tap of one turn; ``None`` where nothing was found."""
        if heard.tap == "T2":
            self._keep(heard)
        found = self._decided(heard, heard.text, "")
        if not found.findings and heard.tap in ("T1", "T3") and self._doubted(heard):
            for k, text in enumerate(self._again(heard)):
                found = self._decided(heard, text, str(k))
                if found.findings:
                    break
        return self._ruling(heard, found) if found.findings else None

    def _decided(self, heard: Heard, text: str, hearing: str) -> Decision:
        """The decision on a text in its session; each way of listening has a memory of its own."""
        session = hashlib.sha256(f"{heard.session}|{hearing}".encode()).hexdigest()[:32]
        key = f"{heard.tap} {session}"
        if heard.turn == 0:
            self.moderate.buffer.forget(key)
        return self.moderate(key, text[-CHARACTERS:])

    def _ruling(self, heard: Heard, found: Decision) -> Ruling:
        best, about = found.findings[0], self.about
        action = found.action
        if action == "redact" and heard.tap not in ("T0", "T2"):
            action = "refuse"  # a sound cannot be redacted
        said = {"allow": "flagged", "redact": "steered"}.get(action, "blocked")
        held = "held for review: " if action == "review" else ""
        why = f"{held}{heard.tap} speaks of a forbidden phrase ({best.kind})"
        told = (said, about.name, "text", heard.turn, round(best.score, 4), about.threshold, best.phrase, why)
        return Ruling(Verdict(*told), found.text if action == "redact" else None, action == "review")

    # ---------------------------------------------------------------------------------------------- listening again

    def _keep(self, heard: Heard) -> None:
        with self._lock:
            self._announced[heard.session] = heard.text
            self._announced.move_to_end(heard.session)
            if len(self._announced) > SESSIONS:
                self._announced.popitem(last=False)

    def _doubted(self, heard: Heard) -> bool:
        if self.ear is None or heard.audio is None or self.about.relisten == "never":
            return False
        if self.about.relisten == "always":
            return True
        with self._lock:
            announced = self._announced.get(heard.session, "") if heard.tap == "T3" else ""
        return bool(words_of(announced)) and word_error_rate(announced, heard.text) >= DOUBT

    def _again(self, heard: Heard) -> Iterator[str]:
        """Other hearings of a sound, one at a time."""
        from genward.speech.changes import HEARINGS, changed

        assert heard.audio is not None
        for name in HEARINGS:
            yield self.ear.hear(changed(heard.audio, name)).text
        if self.about.second:
            from genward.speech.ears import opened

            yield opened(self.about.second).hear(heard.audio).text


def _canaries() -> tuple[str, ...]:
    from genward.ops.canaries import canaries

    return tuple(c.phrase for c in canaries())
