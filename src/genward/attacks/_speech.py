"""What attacks on speech services share: one derived case a case, played in another way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from genward.core.contracts import Target
from genward.core.records import Case, row_seed
from genward.core.speech import play_of
from genward.errors import BadInput
from genward.ops.plays import played


def wanted(case: Case) -> tuple[str, str]:
    """The sentence that a case is after, and the phrase in it.

    Raises:
        BadInput: a case that names no phrase as its ``group``, or whose sentence lacks it.
    """
    sentence = play_of(case).said
    if not case.group or not set(case.group.split()) <= set(sentence.split()):
        raise BadInput(f"case {case.id!r}: its sentence does not hold the phrase {case.group!r}; name it as its group")
    return sentence, case.group


@dataclass(frozen=True)
class _Condition:
    """One condition of HARMGEN's study as an attack; it knows nothing of the service."""

    name: ClassVar[str]
    access: ClassVar[str] = "prompt"
    media: ClassVar[str] = "audio"
    parents: ClassVar[tuple[str, ...]] = ("direct",)
    seed: int = 0
    """Of what is drawn by chance."""

    @property
    def condition(self) -> str:
        """The name in ``ops.plays``, where two at once have a plus between."""
        return self.name.replace("_", "+")

    def nfe(self, cases: Sequence[Case]) -> int:
        """Nothing is drawn while searching."""
        return 0

    def search(self, cases: Sequence[Case], target: Target) -> Iterator[Case]:
        """One case a case, under the same seed; the target is asked nothing.

        Raises:
            BadInput: see ``wanted``.
        """
        for case in cases:
            luck = row_seed(self.condition, self.seed, case.id) % 2**31
            play = played(self.condition, *wanted(case), luck)
            yield case._replace(id=f"{case.id}/{self.name}", prompt=play.prompt(), parent=case.id)
