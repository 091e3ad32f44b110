"""How much a run asks of a voice and of a recognizer, counted before anything is spent, and what that takes here.

Equal sounds are made and heard once as far as the memories of the service (``SOUNDS``) and of the recognizer (``KEPT``)
go, arm after arm. Not counted: further hearings of sounds that a moderator doubts, naturalness, and what simulated
models refuse."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from genward.core.records import Case
from genward.core.speech import play_of
from genward.ops.ears import KEPT
from genward.speech import aimed
from genward.speech.changes import HEARINGS
from genward.speech.service import SOUNDS, TOKENS, SpeechModel, SpeechRig, emitted

SENTENCES = (
    "the ferry to the island leaves at ten in the morning",
    "she put the last of the plates back on the shelf",
    "we could see the lights of the harbor from the hill",
)
"""What is spoken and heard to time it"""


class Pace(NamedTuple):
    """What this machine takes, in seconds."""

    word: float
    """To speak one"""
    hearing: float
    """To hear one sound; its length hardly matters, since the recognizer pads it to 30 s"""
    step: float = 0.0
    """For a step of noise that is aimed at the recognizer"""


@dataclass
class Effort:
    """What is asked for."""

    words: int = 0
    """Words to speak"""
    hearings: int = 0
    """Sounds to hear"""
    steps: int = 0
    """Steps of aimed noise"""
    _spoken: dict[str, OrderedDict[Any, None]] = field(default_factory=dict)
    _heard: OrderedDict[Any, None] = field(default_factory=OrderedDict)
    _aimed: OrderedDict[Any, None] = field(default_factory=OrderedDict)

    def add(self, model: Any, cases: Sequence[Case], sampler: Any, rig: Any) -> None:
        """Count the rows of an arm: ``model`` is a ``SpeechModel``, ``rig`` an open one of it. One for a forbidden
        phrase at an arm that moderates texts (T0, T2) counts as refused at its text, which costs no sound."""
        texts, again = moderates(rig)
        for case in cases:
            if not (texts and case.label == "harm"):
                self._row(model, case, sampler.speed, again)

    def search(self, cases: Sequence[Case], budget: int, rig: Any) -> None:
        """Count a search that asks for ``budget`` sessions a case, each a sentence of its own; none of them makes a
        sound where texts are moderated."""
        texts, again = moderates(rig)
        if not texts:
            self.words += budget * sum(len(play_of(c).said.split()) for c in cases)
            self.hearings += budget * len(cases) * max(1, again.get("T3", 0))

    def _row(self, model: SpeechModel, case: Case, speed: float, again: dict[str, int]) -> None:
        play = play_of(case)
        said, sounds = [emitted(model, turn) for turn in play.turns], []
        for turn, text in zip(play.turns, said, strict=True):
            if turn.clip and "T1" in again:
                self._hear(self._speak(model, turn.clip, case.seed, speed), again["T1"])
            sound = (*self._speak(model, text, case.seed, speed), play.change)
            if play.change.startswith(aimed.MARK) and _new(self._aimed, sound, aimed.KEPT):
                self.steps += aimed.aimed_of(play.change).steps
            if "T3" in again:
                self._hear(sound, again["T3"])
            sounds.append(sound)
        if play.order:
            for word in TOKENS.findall(" ".join(said)):
                self._speak(model, word, 0, speed)
        whole = (tuple(sounds), play.order) if len(sounds) > 1 or play.order else sounds[0]
        self._hear(whole, 1)  # by the judge

    def _speak(self, model: SpeechModel, text: str, seed: int, speed: float) -> tuple[str, int, float]:
        key = (text, seed, speed)
        if _new(self._spoken.setdefault(model.own, OrderedDict()), key, SOUNDS):
            self.words += len(TOKENS.findall(text))
        return key

    def _hear(self, sound: Any, times: int) -> None:
        for k in range(times):
            self.hearings += _new(self._heard, (sound, k), KEPT)

    def seconds(self, pace: Pace) -> float:
        """How long that takes."""
        return self.words * pace.word + self.hearings * pace.hearing + self.steps * pace.step


def _new(kept: OrderedDict[Any, None], key: Any, most: int) -> bool:
    """Whether something is not remembered; it is from now on."""
    new = key not in kept
    kept[key] = None
    if len(kept) > most:
        kept.popitem(last=False)
    return new


def moderates(rig: SpeechRig) -> tuple[bool, dict[str, int]]:
    """Whether texts are moderated, and how often a sound is heard at each tap of transcripts that somebody listens
    at."""
    taps = {tap for found, _ in rig.listeners for tap in found}
    always = any(getattr(getattr(fn, "about", None), "relisten", "") == "always" for _, fn in rig.listeners)
    return bool(taps & {"T0", "T2"}), {tap: 1 + always * len(HEARINGS) for tap in ("T1", "T3") if tap in taps}


_measured: dict[tuple[str, str, bool], Pace] = {}


def pace_of(model: SpeechModel, noise: bool = False) -> Pace:
    """The pace of a service on this machine, from ``timed`` at the first call of the process with its engines."""
    key = (model.voice.name, model.ear.name, noise)
    if key not in _measured:
        _measured[key] = timed(model, noise)
    return _measured[key]


def timed(model: SpeechModel, noise: bool = False, clock: Callable[[], float] = time.perf_counter) -> Pace:
    """Speak and hear three sentences, after one that warms up; a few seconds.

    Args:
        noise: whether aimed noise is timed as well.
        clock: seconds.
    """
    spent = []
    for k, text in enumerate(("good morning", *SENTENCES)):
        began = clock()
        sound = model.voice.speak(text, 7_000_000 + k)
        spoken = clock()
        model.ear.hear(sound)
        heard = clock()
        if noise and k < 2:  # the first one loads the encoder
            aimed.treated(sound, f"{aimed.MARK}:30:1")
        spent.append(((spoken - began) / len(text.split()), heard - spoken, clock() - heard))
    word, hearing = (sum(s[j] for s in spent[1:]) / len(SENTENCES) for j in (0, 1))
    return Pace(word, hearing, spent[1][2] if noise else 0.0)
