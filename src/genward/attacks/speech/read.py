"""Read: each flagged word is played as a clip in the attacker's voice, the rest is written. After HARMGEN (read in a
digest)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from genward.attacks.speech.direct import Direct
from genward.attacks.speech.wording import Attempt, Piece, speak
from genward.core.records import Case
from genward.core.speech import SpeechTarget


@dataclass(frozen=True)
class Read:
    """Flagged words as spoken clips."""

    name: ClassVar[str] = "read"
    access: ClassVar[str] = "query"

    @property
    def tag(self) -> str:
        return self.name

    def hide(self, piece: Piece, target: SpeechTarget) -> Piece:
        """The word as a clip."""
        return piece._replace(sound=target.keep(target.speak(piece.bare)))

    def speak(self, case: Case, target: SpeechTarget) -> Attempt:
        """See ``wording.speak``."""
        return speak(case, target, Direct(), self)
