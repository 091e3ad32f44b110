"""Concat: the sentence is cut inside what is flagged, its pieces are spoken one by one in one session, and the sounds
joined with short pauses. No request says the phrase; only something that remembers the session can know.

After HARMGEN (read in a digest): the study cuts at the borders of flagged words; a canary is a phrase, so it is cut
between its words. The pause of 200 ms is ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from genward.attacks.speech.wording import Attempt, Piece, attempt, request, speak
from genward.core.records import Case
from genward.core.sound import joined, trimmed
from genward.core.speech import SpeechTarget
from genward.errors import BadInput


def groups_of(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Neighbors in one group, unless both belong to the same flagged span; a span of one word stands alone."""
    sizes: dict[int, int] = {}
    for piece in pieces:
        sizes[piece.span] = sizes.get(piece.span, 0) + 1
    out: list[list[Piece]] = []
    for piece in pieces:
        last = out[-1][-1] if out else None
        alone = {k for k, n in sizes.items() if k >= 0 and n == 1}
        apart = last is None or (last.span >= 0 and last.span == piece.span)
        if apart or piece.span in alone or (last is not None and last.span in alone):
            out.append([piece])
        else:
            out[-1].append(piece)
    return out


@dataclass(frozen=True)
class Concat:
    """Pieces spoken one by one and joined."""

    name: ClassVar[str] = "concat"
    access: ClassVar[str] = "query"
    pause: float = 0.2
    """Seconds between the pieces, 0 to 2."""

    def __post_init__(self) -> None:
        if not 0 <= self.pause <= 2:
            raise BadInput(f"concat: a pause of {self.pause:g} s; 0 to 2 are possible")

    @property
    def tag(self) -> str:
        return self.name

    def deliver(self, case: Case, pieces: Sequence[Piece], target: SpeechTarget, tag: str) -> Attempt:
        """One request a group, all in the session ``<case>/<tag>``; one that is refused leaves the attacker without the
        sentence."""
        groups = groups_of(pieces)
        session = f"{case.id}/{tag}"
        answers = target.sample([request(case, group, f"{tag}/{k}", session=session) for k, group in enumerate(groups)])
        sounds = [answer.audio for answer in answers if answer.audio is not None]
        whole = joined([trimmed(sound) for sound in sounds], self.pause) if len(sounds) == len(groups) else None
        return attempt(case, tag, answers, whole)

    def speak(self, case: Case, target: SpeechTarget) -> Attempt:
        """See ``wording.speak``."""
        return speak(case, target, self)
