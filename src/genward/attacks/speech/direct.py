"""Direct: the baselines. The sentence is asked for as text (B1), or played in the attacker's voice to be repeated
(B2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from genward.attacks.speech.wording import Attempt, Piece, attempt, request, speak
from genward.core.records import Case
from genward.core.speech import SpeechTarget


@dataclass(frozen=True)
class Direct:
    """The sentence in one request."""

    name: ClassVar[str] = "direct"
    access: ClassVar[str] = "query"
    played: bool = False
    """Whether the sentence is played as one clip instead of written."""

    @property
    def tag(self) -> str:
        return "played" if self.played else ""

    def deliver(self, case: Case, pieces: Sequence[Piece], target: SpeechTarget, tag: str) -> Attempt:
        """One request with all pieces."""
        if self.played:
            pieces = [Piece(case.prompt, "", sound=target.keep(target.speak(case.prompt)))]
        (answer,) = target.sample([request(case, pieces, tag)])
        return attempt(case, tag, [answer], answer.audio)

    def speak(self, case: Case, target: SpeechTarget) -> Attempt:
        """See ``wording.speak``."""
        return speak(case, target, self)
