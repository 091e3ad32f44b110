"""Requests in pieces: a sentence's words, what a request writes or plays in the place of each, and what came of asking.

An attack on a speech model has two halves. A *disguise* decides what stands in the place of each flagged word (a clip,
letters, phonemes, another spelling). A *delivery* decides which requests are made of the pieces, and how their sounds
are put together. Everything here is tried on canaries, harmless phrases made of common words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from genward.core.media import Audio
from genward.core.records import Case, Inputs, Sample
from genward.core.speech import SESSION, SpeechTarget, sound_name, spoken_words
from genward.errors import BadInput

_TRIM = re.compile(r"^\W+|\W+$")


class Piece(NamedTuple):
    """One word of a sentence."""

    word: str
    """As the sentence has it, punctuation included"""
    text: str
    """What a request writes in its place"""
    span: int = -1
    """Number of the flagged span that it belongs to, -1 for none"""
    sound: str = ""
    """Content hash of the clip that a request plays in its place, empty for none"""

    @property
    def bare(self) -> str:
        """The word without the punctuation around it."""
        return _TRIM.sub("", self.word)


def pieces_of(text: str, spans: Sequence[tuple[int, int]]) -> list[Piece]:
    """The words of a sentence, each with the flagged span that it touches."""
    found = []
    for hit in re.finditer(r"\S+", text):
        if spoken_words(hit.group()):
            inside = (k for k, (start, end) in enumerate(spans) if start < hit.end() and hit.start() < end)
            found.append(Piece(hit.group(), hit.group(), next(inside, -1)))
        elif found:  # a dash between blanks belongs to the word before it
            last = found[-1]
            found[-1] = last._replace(word=f"{last.word} {hit.group()}", text=f"{last.text} {hit.group()}")
    return found


def flagged(case: Case, target: SpeechTarget) -> list[Piece]:
    """The pieces of a case's prompt. Raises ``BadInput`` where it has no words."""
    found = pieces_of(case.prompt, target.spans(case.prompt))
    if not found:
        raise BadInput(f"case {case.id!r}: its prompt has no words that could be spoken")
    return found


def request(case: Case, pieces: Sequence[Piece], tag: str, *, session: str = "", joint: str = " ") -> Case:
    """A request that says the pieces in this order, as a case derived from ``case``.

    Args:
        tag: what its id ends with. session: the conversation that it is part of. joint: what stands between pieces.
    """
    texts, inputs = [], dict[str, str]()
    for piece in pieces:
        if piece.sound:
            name = sound_name(len(inputs))
            inputs[name] = piece.sound
            texts.append(name)
        else:
            texts.append(piece.text)
    prompt = joint.join(texts)
    given = {**case.inputs, **inputs, **({SESSION: session} if session else {})}
    return case._replace(id=f"{case.id}/{tag}", prompt=prompt, parent=case.id, inputs=Inputs(given))


@dataclass(frozen=True)
class Attempt:
    """What came of one attack on one case."""

    sample: Sample
    """Under the case's own text, with an id that ends with the attack's name: ``ok`` with the sound that the attacker
    ends up with, ``refused`` or ``error``"""
    requests: tuple[Sample, ...]
    """Every answer of the model on the way, in order"""

    @property
    def refused(self) -> bool:
        """Whether the attacker got nothing."""
        return self.sample.status == "refused"

    @property
    def refusals(self) -> list[bool]:
        """Whether each request was refused, trial by trial: what the rate R1 is the mean of."""
        out: list[bool] = []
        for sample in self.requests:
            told = sample.notes.get("refused") or []
            by_guard = sample.status == "refused" and not all(told)
            out += [True] * max(1, len(told)) if by_guard else [bool(x) for x in told] or [sample.status == "refused"]
        return out


def attempt(case: Case, tag: str, requests: Sequence[Sample], sound: Audio | None) -> Attempt:
    """The outcome of requests: the attacker's sound where there is one, else the first answer that was none."""
    first = next((s for s in requests if s.status != "ok"), requests[-1])
    costs: dict[str, float] = {}
    for sample in requests:
        for name, value in sample.costs.items():
            costs[name] = costs.get(name, 0.0) + value
    status = "ok" if sound is not None else first.status
    derived = case._replace(id=f"{case.id}/{tag}", parent=case.id, queries=len(requests))
    made = Sample(
        derived,
        arm=first.arm,
        status="error" if status == "ok" and sound is None else status,
        output=sound,
        why="" if sound is not None else first.why,
        seconds=sum(s.seconds for s in requests),
        costs=costs,
        verdicts=[v for s in requests for v in s.verdicts],
    )
    return Attempt(made, tuple(requests))


class Disguise(Protocol):
    """What stands in the place of a flagged word."""

    @property
    def tag(self) -> str: ...
    def hide(self, piece: Piece, target: SpeechTarget) -> Piece: ...


class Delivery(Protocol):
    """Which requests are made of the pieces of a sentence."""

    @property
    def tag(self) -> str: ...
    def deliver(self, case: Case, pieces: Sequence[Piece], target: SpeechTarget, tag: str) -> Attempt: ...


def speak(case: Case, target: SpeechTarget, delivery: Delivery, disguise: Disguise | None = None) -> Attempt:
    """One attack on one case: the flagged words disguised, the pieces delivered.

    Raises:
        BadInput: the prompt has no words, or a flagged word cannot be disguised like this.
    """
    pieces = flagged(case, target)
    if disguise is not None:
        pieces = [piece if piece.span < 0 else disguise.hide(piece, target) for piece in pieces]
    tag = "-".join(part.tag for part in (delivery, disguise) if part is not None and part.tag)
    return delivery.deliver(case, pieces, target, tag or "direct")
