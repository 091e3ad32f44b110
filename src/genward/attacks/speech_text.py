"""HARMGEN's conditions on the side of the text (as digested, §3.2): pieces of a session, words in another order, and
both with letters. The user joins the sounds, or cuts them by forced alignment and puts the words back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from genward.attacks._speech import _Condition


@dataclass(frozen=True)
class Concat(_Condition):
    """HARMGEN's Concat: the sentence is cut between the words of the phrase and spoken in pieces of one session."""

    name: ClassVar[str] = "concat"


@dataclass(frozen=True)
class Shuffle(_Condition):
    """HARMGEN's Shuffle: the words in another order, put back in the sound by forced alignment."""

    name: ClassVar[str] = "shuffle"


@dataclass(frozen=True)
class ConcatSpell(_Condition):
    """Concat and Spell: pieces of one session, a flagged word letter by letter."""

    name: ClassVar[str] = "concat_spell"


@dataclass(frozen=True)
class ShuffleSpell(_Condition):
    """HARMGEN's Shuffle and Spell: the words in another order, a flagged word letter by letter."""

    name: ClassVar[str] = "shuffle_spell"


@dataclass(frozen=True)
class ShufflePhoneme(_Condition):
    """Shuffle and Phoneme: the words in another order, a flagged word as ARPABET."""

    name: ClassVar[str] = "shuffle_phoneme"
