"""Phoneme: each flagged word is given by its sounds, played or written in ARPABET or IPA. After HARMGEN (read in a
digest), which takes the sounds from the CMU dictionary, as is done here, and guesses those of other words, which is
not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from genward.attacks.speech.direct import Direct
from genward.attacks.speech.wording import Attempt, Piece, speak
from genward.core.pronouncing import phones_of, to_ipa
from genward.core.records import Case
from genward.core.speech import SpeechTarget
from genward.errors import BadInput, UnknownName

FORMS = ("played", "arpabet", "ipa")


def sounds_of(word: str) -> tuple[str, ...]:
    """A word's ARPABET symbols. Raises ``BadInput`` where the dictionary lacks it."""
    found = phones_of(word)
    if found is None:
        raise BadInput(f"{word[:40]!r} is not in the CMU dictionary; use another word, or another attack")
    return found


@dataclass(frozen=True)
class Phoneme:
    """Flagged words by their sounds."""

    name: ClassVar[str] = "phoneme"
    access: ClassVar[str] = "query"
    form: str = "arpabet"
    """``played`` | ``arpabet`` (``K EH T AH L``) | ``ipa`` (``/kɛtʌl/``)"""

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UnknownName("form of phonemes", self.form, FORMS)

    @property
    def tag(self) -> str:
        return self.name if self.form == "arpabet" else f"{self.name}-{self.form}"

    def hide(self, piece: Piece, target: SpeechTarget) -> Piece:
        """The sounds of the word."""
        sounds = sounds_of(piece.bare)
        if self.form == "played":
            return piece._replace(sound=target.keep(target.speak(piece.bare, sounds)))
        return piece._replace(text=" ".join(sounds) if self.form == "arpabet" else f"/{to_ipa(sounds)}/")

    def speak(self, case: Case, target: SpeechTarget) -> Attempt:
        """See ``wording.speak``."""
        return speak(case, target, Direct(), self)
