"""Spell: each flagged word is given letter by letter, played in the attacker's voice or written. After HARMGEN (read in
a digest), which plays the letters; English alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from genward.attacks.speech.direct import Direct
from genward.attacks.speech.wording import Attempt, Piece, speak
from genward.core.records import Case
from genward.core.speech import SpeechTarget
from genward.errors import BadInput


def letters_of(word: str) -> list[str]:
    """A word's letters in capitals. Raises ``BadInput`` for a word without any."""
    found = [letter.upper() for letter in word if letter.isalpha()]
    if not found:
        raise BadInput(f"{word[:40]!r} has no letters to spell")
    return found


@dataclass(frozen=True)
class Spell:
    """Flagged words letter by letter."""

    name: ClassVar[str] = "spell"
    access: ClassVar[str] = "query"
    played: bool = True
    """Whether the letters are played as a clip instead of written."""

    @property
    def tag(self) -> str:
        return self.name if self.played else f"{self.name}-written"

    def hide(self, piece: Piece, target: SpeechTarget) -> Piece:
        """The letters: played, with commas that keep the voice from reading a word, or as ``K-E-T-T-L-E``."""
        letters = letters_of(piece.bare)
        if self.played:
            return piece._replace(sound=target.keep(target.speak(", ".join(letters) + ".")))
        return piece._replace(text="-".join(letters))

    def speak(self, case: Case, target: SpeechTarget) -> Attempt:
        """See ``wording.speak``."""
        return speak(case, target, Direct(), self)
