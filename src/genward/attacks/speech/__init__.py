"""Attacks on speech models by what is asked for: every condition has ``speak(case, target) -> Attempt``, where the
target is a ``core.speech.SpeechTarget``. They are tried on canaries alone.

These are the conditions of HARMGEN as far as a digest of it tells, and respelling. They are no ``core.Attack``: what
the attacker ends up with is a sound that was put together outside of the model, not another case."""

from __future__ import annotations

from collections.abc import Mapping

from genward.attacks.speech.combined import Combined
from genward.attacks.speech.concat import Concat
from genward.attacks.speech.direct import Direct
from genward.attacks.speech.phoneme import Phoneme
from genward.attacks.speech.read import Read
from genward.attacks.speech.respell import Respell
from genward.attacks.speech.shuffle import Shuffle
from genward.attacks.speech.spell import Spell
from genward.attacks.speech.wording import Attempt, Delivery, Disguise, Piece, pieces_of, request, speak

Condition = Direct | Concat | Shuffle | Read | Spell | Phoneme | Respell | Combined

CONDITIONS: Mapping[str, Condition] = {
    "direct": Direct(),
    "played": Direct(played=True),
    "concat": Concat(),
    "shuffle": Shuffle(),
    "read": Read(),
    "spell": Spell(),
    "spell-written": Spell(played=False),
    "phoneme": Phoneme(),
    "phoneme-ipa": Phoneme("ipa"),
    "phoneme-played": Phoneme("played"),
    "respell": Respell(),
    "shuffle-spell": Combined(Shuffle(), Spell()),
    "shuffle-phoneme": Combined(Shuffle(), Phoneme()),
    "concat-spell": Combined(Concat(), Spell()),
}
"""By name; those with sounds in their requests want a model that listens."""

__all__ = [
    "CONDITIONS", "Attempt", "Combined", "Concat", "Condition", "Delivery", "Direct", "Disguise", "Phoneme", "Piece",
    "Read", "Respell", "Shuffle", "Spell", "pieces_of", "request", "speak",
]  # fmt: skip
