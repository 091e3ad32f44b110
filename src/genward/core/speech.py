"""Speech as records and contracts: what an ear heard, what voices, ears and speech rigs can do, what an attack on a
speech model may touch.

A case names the sounds that its request brings under ``<sound>``, ``<sound2>``, … in ``Case.inputs``, by content hash
(``Audio.sha``), and writes these names in its prompt where they belong; one that the prompt does not write comes after
the text. Under ``session`` it says which conversation the request is part of."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from genward.core.media import Audio
from genward.core.records import Case, Prompt, Sample
from genward.core.spec import Spec

SESSION = "session"
"""Name under which a case's inputs hold the conversation that its request is part of."""
_SOUND = re.compile(r"<sound\d*>")
STAGES = ("text", "request", "emitted", "sound")
"""Where a speech rig's ports are called: the request's text (T0) and its sounds (T1), the text that the model is about
to speak (T2), the finished sound (T3, T4)."""


def sound_name(k: int) -> str:
    """``<sound>``, ``<sound2>``, …: the name of a request's k-th sound, from 0."""
    return "<sound>" if k == 0 else f"<sound{k + 1}>"


def is_sound(name: str) -> bool:
    """Whether an input of this name is a sound of the request."""
    return _SOUND.fullmatch(name) is not None


def sounds_of(case: Case) -> dict[str, str]:
    """Name -> content hash of the sounds that a case's request brings."""
    return {name: key for name, key in case.inputs.items() if is_sound(name)}


def in_text(prompt: str) -> list[str]:
    """A prompt cut at the names of sounds, which are kept: ``["say ", "<sound>", " twice"]``."""
    return [part for part in re.split(f"({_SOUND.pattern})", prompt) if part]


class HeardWord(NamedTuple):
    """One word of a transcript with the time at which it was heard."""

    text: str
    start: float
    """Seconds from the start of the sound"""
    end: float


@dataclass(frozen=True)
class Heard:
    """What an ear made of a sound; empty for silence."""

    text: str = ""
    words: tuple[HeardWord, ...] = ()
    phones: tuple[str, ...] = ()
    """ARPABET symbols without stress, of an ear that hears phonemes"""


@runtime_checkable
class Voice(Protocol):
    """Something that speaks: an engine with a speaker and a speed."""

    @property
    def spec(self) -> Spec: ...
    def tuned(self, speaker: str, speed: float) -> Voice:
        """Another speaker of the same engine (empty: this one's own) at a speed, 1 being its usual one.

        Raises:
            UnknownName: no such speaker.
        """
        ...

    def speak(self, text: str, seed: int = 0, phonemes: Sequence[str] | None = None) -> Audio:
        """The text as sound; ``phonemes``, ARPABET symbols without stress, are spoken in its place where given.

        Raises:
            BadInput: nothing in the text can be spoken. Inapplicable: this voice takes no phonemes.
            EngineError: the engine is missing or failed. Declined: its server refuses the text.
        """
        ...


@runtime_checkable
class Ear(Protocol):
    """Something that writes down what is spoken."""

    @property
    def spec(self) -> Spec: ...
    def hear(self, audios: Sequence[Audio]) -> list[Heard]:
        """One transcript a sound, of any rate and number of channels; an empty one for silence.

        Raises:
            BadInput: a sound that is too long. EngineError: the engine is missing or failed.
        """
        ...


class Sounded(Protocol):
    """A sound on its way past a rig."""

    @property
    def audio(self) -> Audio: ...
    @property
    def heard(self) -> Heard:
        """Its transcript by the rig's ear, worked out when the first defense asks for it, for all sounds of the stage
        at once, and shared by all defenses."""
        ...


class SpeechFrame(NamedTuple):
    """Where a port is being called, and for which rows."""

    stage: str
    """One of ``STAGES``"""
    case: tuple[int, ...]
    """Which row of the batch each value belongs to"""
    cases: tuple[Case, ...]
    """Their cases, for the session and the account that a request comes from"""
    step: int = -1


class SpeechRig(Protocol):
    """The one door to a live speech model; see ``models.speech_rig``. A port that returns ``None`` changes nothing."""

    now: SpeechFrame | None
    """Where the port that runs is being called; ``prompts`` ports, which get no frame, read it here"""
    model: Any

    def prompts(self, fn: Callable[[list[Prompt]], list[Prompt]]) -> None: ...
    def requests(self, fn: Callable[[list[Sounded], SpeechFrame], object]) -> None: ...
    def emitted(self, fn: Callable[[list[str], SpeechFrame], Sequence[str] | None]) -> None: ...
    def sounds(self, fn: Callable[[list[Sounded], SpeechFrame], Sequence[Audio | None] | None]) -> None: ...
    def block(self, frame: SpeechFrame, rows: Any, why: str, **facts: Any) -> None: ...
    def flag(self, frame: SpeechFrame, rows: Any, why: str, **facts: Any) -> None: ...
    def note(self, frame: SpeechFrame, **signals: Any) -> None: ...
    def hear(self, audios: Sequence[Audio]) -> list[Heard]: ...


class SpeechTarget(Protocol):
    """What an attack on a speech model may touch; every use is counted."""

    def sample(self, cases: Sequence[Case]) -> list[Sample]:
        """The model's answers, in order; requests with one ``session`` follow each other."""
        ...

    def hear(self, audios: Sequence[Audio]) -> list[Heard]:
        """Transcripts by the attacker's own ear, with the times of words."""
        ...

    def speak(self, text: str, phonemes: Sequence[str] | None = None) -> Audio:
        """A clip in the attacker's own voice, to be given to the model."""
        ...

    def keep(self, audio: Audio) -> str:
        """Keep a clip; its content hash is what goes into ``Case.inputs``."""
        ...

    def spans(self, text: str) -> Sequence[tuple[int, int]]:
        """(start, end) character positions of what a moderator is expected to look for, in order and apart."""
        ...


_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def spoken_words(text: str) -> list[str]:
    """A text as the words that are spoken: lower case, no punctuation, whole numbers below 100 in words.

    Ears write "7" where "seven" was said; both are the same word here."""
    return [word for token in _WORD.findall(text) for word in _in_words(token.casefold().replace("’", "'"))]


def _in_words(token: str) -> list[str]:
    if not (token.isascii() and token.isdecimal()) or len(token) > 2:
        return [token]
    number = int(token)
    if number < 20:
        return [_UNITS[number]]
    tens, rest = _TENS[number // 10 - 2], number % 10
    return [tens, _UNITS[rest]] if rest else [tens]


def matched_words(asked: Sequence[str], heard: Sequence[str]) -> list[int | None]:
    """For each asked word the index of the heard word that stands for it, in order, by the cheapest edits; ``None``
    where it was left out.

    A substituted word counts as heard: something was said in its place."""
    steps = _edits(asked, heard)
    found: list[int | None] = [None] * len(asked)
    i, j = len(asked), len(heard)
    while i and j:
        change = steps[i - 1][j - 1] + (asked[i - 1] != heard[j - 1])
        if steps[i][j] == change:
            i, j = i - 1, j - 1
            found[i] = j
        elif steps[i][j] == steps[i - 1][j] + 1:
            i -= 1
        else:
            j -= 1
    return found


def _edits(a: Sequence[str], b: Sequence[str]) -> list[list[int]]:
    """(len(a) + 1, len(b) + 1) Levenshtein distances of the beginnings."""
    rows = [list(range(len(b) + 1))]
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            row.append(min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (x != y)))
        rows.append(row)
    return rows


def word_error_rate(asked: str, heard: str) -> float:
    """Substituted, missing and added words over the words that were asked for, 0 and up; NaN where none were."""
    wanted, got = spoken_words(asked), spoken_words(heard)
    return _edits(wanted, got)[-1][-1] / len(wanted) if wanted else float("nan")


def find_phrases(text: str, phrases: Sequence[str]) -> list[tuple[int, int]]:
    """(start, end) character positions at which a text writes a phrase, whatever stands between its words besides
    letters and digits; in order and apart, the longest first."""
    found: list[tuple[int, int]] = []
    for phrase in sorted(phrases, key=len, reverse=True):
        words = [re.escape(word) for word in spoken_words(phrase)]
        if words:
            pattern = r"(?<![^\W_])" + r"[\W_]+".join(words) + r"(?![^\W_])"
            for hit in re.finditer(pattern, text, re.IGNORECASE):
                if all(hit.end() <= start or end <= hit.start() for start, end in found):
                    found.append(hit.span())
    return sorted(found)


Sounds = Mapping[str, Audio]
"""Content hash -> sound."""
