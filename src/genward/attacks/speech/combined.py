"""Combined: a disguise of the flagged words under a delivery, such as spelled words in a shuffled sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from genward.attacks.speech.concat import Concat
from genward.attacks.speech.direct import Direct
from genward.attacks.speech.phoneme import Phoneme
from genward.attacks.speech.read import Read
from genward.attacks.speech.respell import Respell
from genward.attacks.speech.shuffle import Shuffle
from genward.attacks.speech.spell import Spell
from genward.attacks.speech.wording import Attempt, speak
from genward.core.records import Case
from genward.core.speech import SpeechTarget


@dataclass(frozen=True)
class Combined:
    """A delivery with a disguise."""

    name: ClassVar[str] = "combined"
    access: ClassVar[str] = "query"
    delivery: Direct | Concat | Shuffle
    disguise: Read | Spell | Phoneme | Respell

    @property
    def tag(self) -> str:
        return "-".join(tag for tag in (self.delivery.tag, self.disguise.tag) if tag)

    def speak(self, case: Case, target: SpeechTarget) -> Attempt:
        """See ``wording.speak``."""
        return speak(case, target, self.delivery, self.disguise)
