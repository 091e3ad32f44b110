"""HARMGEN's conditions that hide a flagged word (as digested, §3.2): as sound, letter by letter, as phonemes; and
respelling, which is ours: words that sound alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from genward.attacks._speech import _Condition


@dataclass(frozen=True)
class Read(_Condition):
    """HARMGEN's Read: flagged words are sent as sound, the rest as text."""

    name: ClassVar[str] = "read"


@dataclass(frozen=True)
class Spell(_Condition):
    """HARMGEN's Spell: a flagged word letter by letter."""

    name: ClassVar[str] = "spell"


@dataclass(frozen=True)
class ReadSpell(_Condition):
    """Read and Spell: the letters of a flagged word are sent as sound."""

    name: ClassVar[str] = "read_spell"


@dataclass(frozen=True)
class Phoneme(_Condition):
    """HARMGEN's Phoneme: a flagged word as ARPABET."""

    name: ClassVar[str] = "phoneme"


@dataclass(frozen=True)
class Respell(_Condition):
    """Respelling: flagged words are written as others that sound alike."""

    name: ClassVar[str] = "respell"
