"""Speech models: a voice behind something that decides what it speaks, with the guards of an open rig on the way.

``SpeechModel`` is a genward model that makes audio. Its voice is any ``core.speech.Voice``; what decides is a
``Reader`` (a conventional synthesizer) or ``SimulatedAligned``, which is a simulation and says so in its name and in
everything that it refuses."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from genward.core.contracts import Defense, Site
from genward.core.records import Case, Sample, Verdict, row_seed
from genward.core.settings import Family
from genward.core.spec import Spec
from genward.core.speech import Ear, Sounds, Voice, sounds_of
from genward.core.typed import checked
from genward.errors import BadInput, Blocked, Declined, DefenseInactive, EngineError, GuardError, UnknownName
from genward.models.speech_aligned import PROFILES, Answer, Mind, Reader, Request, SimulatedAligned
from genward.models.speech_ears import WhisperEar
from genward.models.speech_rig import LiveSpeechRig, Row
from genward.models.speech_voices import HibariVoice, open_voice

LAB = ("lab.speech", *(f"lab.speech:{profile}" for profile in PROFILES))
"""Names of the embedded speech models: the voice itself, and three simulated aligned models around it."""
NAMES = ("lab.speech", "speech")
"""What the names of speech models begin with, before a colon."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SpeechSampler:
    """How speech is sampled."""

    voice: str = ""
    """Speaker of the model's engine; empty: its own."""
    speed: float = 1.0
    """0.5 to 2 times the usual one."""
    trials: int = 1
    """How often each request is made, 1 to 100, every time with a seed of its own; the first that the model does not
    refuse is spoken, and ``Sample.notes["refused"]`` holds a 1 for each that it did."""
    seeded: bool = True
    """Whether a row's seed reaches the voice; off, every row is spoken with seed 0 (the model's decisions still use
    it)."""

    def __post_init__(self) -> None:
        checked(self, "sampler")
        if not 0.5 <= self.speed <= 2.0:
            raise BadInput(f"a speed of {self.speed:g}; 0.5 to 2 times the usual one are possible")
        if not 1 <= self.trials <= 100:
            raise BadInput(f"{self.trials} trials; 1 to 100 are possible")

    def costs(self, extra_nfe: float = 0.0) -> dict[str, float]:
        """``requests`` made to the model; a sample also counts ``speech`` and ``heard``, in seconds of sound."""
        return {"requests": float(self.trials)}


FAMILY = Family("speech", "audio", SpeechSampler)


class SpeechModel:
    """Text (and sounds) → a decision → speech.

    Args:
        voice: who speaks. mind: what decides; by default a ``Reader``.
        ear: who transcribes, for the model itself and for its guards; opened by the first who asks for a transcript.
    """

    name: ClassVar[str] = "speech"
    family = FAMILY.name
    makes: ClassVar[str] = FAMILY.makes
    sampler_class: ClassVar[type[SpeechSampler]] = SpeechSampler
    device: ClassVar[str] = "cpu"

    def __init__(self, voice: Voice, mind: Mind | None = None, ear: Ear | None = None) -> None:
        self.voice = voice
        self.mind: Mind = Reader() if mind is None else mind
        self.ear: Ear = WhisperEar() if ear is None else ear

    @classmethod
    def opened(
        cls, name: str, *, device: str | None = None, dtype: str | None = None, download: bool = False
    ) -> SpeechModel:
        """``lab.speech`` (never refuses), ``lab.speech:strict`` | ``:middle`` | ``:lenient`` (simulated), or
        ``speech:`` with a voice behind it, see ``speech_voices.open_voice``; nothing is downloaded.

        Raises:
            UnknownName: no such model or voice. BadInput: a dtype other than float32.
            EngineError: the voice is not installed.
        """
        if dtype not in (None, "float32"):
            raise BadInput(f"speech models run in float32, and dtype {dtype[:40]!r} was asked for; leave it out")
        head, _, tail = name.partition(":")
        if head == "speech" and tail:
            return cls(open_voice(tail, device))
        if name not in LAB:
            raise UnknownName("speech model", name, [*LAB, "speech:VOICE"])
        return cls(HibariVoice(), SimulatedAligned(tail) if tail else None)

    def about(self, phrases: Sequence[str]) -> SpeechModel:
        """The same model, refusing other canaries where it refuses any."""
        mind: Mind = self.mind
        if isinstance(mind, SimulatedAligned):
            mind = SimulatedAligned(mind.profile, tuple(phrases), mind.numbers)
        return type(self)(self.voice, mind, self.ear)

    @property
    def sites(self) -> dict[str, Site]:
        """None: nothing inside a voice can be tapped."""
        return {}

    @cached_property
    def spec(self) -> Spec:
        """Voice with its weights' hash, what decides with all its numbers, and the ear."""
        fields = {"voice": self.voice.spec.to_json(), "mind": dict(self.mind.fields), "ear": self.ear.spec.to_json()}
        return Spec("model", self.name, fields)

    def fits(self, text: str) -> bool:
        """Whether the model takes a text whole: any that a case may hold."""
        return True

    @contextmanager
    def rig(self, defenses: Sequence[Defense] = ()) -> Iterator[LiveSpeechRig]:
        """An open rig with the defenses attached in order. ``Inapplicable`` for one that wants a port which speech
        models lack."""
        with LiveSpeechRig(self).opened(defenses) as rig:
            yield rig

    def refuse(self, sampler: SpeechSampler, defenses: Sequence[Defense]) -> None:
        """``UnknownName`` for a speaker that the voice lacks; attaching is the check of the defenses."""
        self.voice.tuned(sampler.voice, sampler.speed)

    def generate(
        self,
        cases: Sequence[Case],
        sampler: SpeechSampler = SpeechSampler(),  # noqa: B008 - frozen
        defenses: Sequence[Defense] = (),
        *,
        sounds: Sounds | None = None,
        batch: int = 32,
        progress: Progress | None = None,
        rig: LiveSpeechRig | None = None,
        **ignored: Any,
    ) -> list[Sample]:
        """One sample a case, in order: ``ok`` with a sound, ``refused`` by a defense or by the model itself, ``error``
        where a defense did not do its work or nothing can be spoken.

        Notes of a sample: ``refused`` (a number a trial) and ``emitted`` (the text that the model said it would speak).
        Requests of one session follow each other in the order of the cases. What other families are given
        (``starts``, ``vectors``, ``keep_latents``) is ignored.

        Args:
            sounds: content hash -> sound that ``case.inputs`` names under ``<sound>``, ``<sound2>``, …

        Raises:
            BadInput: a case that cannot be used, or a sound that was not supplied.
            GuardError: an attached defense was never called (``DefenseInactive``), or not shown every row; no sound is
                returned.
        """
        if rig is None:
            with self.rig(defenses) as opened:
                return self.generate(cases, sampler, sounds=sounds, batch=batch, progress=progress, rig=opened)
        voice = self.voice.tuned(sampler.voice, sampler.speed)
        rows = [Row(case.checked(), case.prompt, _brought(case, sounds or {})) for case in cases]
        done: list[Sample] = []
        for k in range(0, len(rows), max(1, batch)):
            part = rows[k : k + max(1, batch)]
            done += _Batch(self, rig, part, sampler, voice).samples()
            if progress is not None:
                progress(len(done), len(rows))
        return done


def _brought(case: Case, sounds: Sounds) -> dict[str, Any]:
    found = {}
    for name, key in sorted(sounds_of(case).items(), key=lambda pair: (len(pair[0]), pair[0])):
        if key not in sounds:
            raise BadInput(f"case {case.id!r}: sound {key[:16]} was not supplied; give it in sounds={{hash: Audio}}")
        found[name] = sounds[key]
    return found


class _Batch:
    """Some rows on their way through one model."""

    def __init__(
        self, model: SpeechModel, rig: LiveSpeechRig, rows: list[Row], sampler: SpeechSampler, voice: Voice
    ) -> None:
        self.model, self.rig, self.rows, self.sampler, self.voice = model, rig, rows, sampler, voice

    def samples(self) -> list[Sample]:
        began = time.perf_counter()
        self.rig.begin(self.rows)
        try:
            try:
                self._through()
            except Blocked as error:
                self.rig.refuse(error.owner or "genward", str(error))
            except DefenseInactive:
                raise
            except GuardError as error:  # a port that raised or answered nonsense: fail closed
                self.rig.fail(str(error))
            self.rig.verify()
        finally:
            self.rig.end()
        shared = (time.perf_counter() - began - sum(row.seconds for row in self.rows)) / max(1, len(self.rows))
        return [self._sample(row, shared) for row in self.rows]

    def _through(self) -> None:
        self.rig.text_stage()
        self.rig.request_stage()
        self._decide()
        self.rig.emitted_stage()
        self._speak()
        self.rig.sound_stage()

    def _decide(self) -> None:
        """What the model itself does with each request that is left."""
        for row in self._left():
            if row.brought and not self.model.mind.listens:
                row.end("error", "this model takes text alone, and the request brings a sound; use one that listens")
        listened = [(row, name, audio) for row in self._left() for name, audio in row.brought.items()]
        known = [self.rig.transcripts.knows(audio) for _, _, audio in listened]
        heard = self.rig.transcripts.of([audio for _, _, audio in listened])
        for (row, _, audio), before in zip(listened, known, strict=True):
            row.heard += 0.0 if before else audio.seconds
        for row in self._left():
            told = {name: text for (owner, name, _), text in zip(listened, heard, strict=True) if owner is row}
            self._ask(row, Request(row.text, told))

    def _ask(self, row: Row, request: Request) -> None:
        """Make a request as often as the sampler says; the first answer that is no refusal is kept."""
        why = ""
        for k in range(self.sampler.trials):
            seed = row.case.seed if k == 0 else row_seed("trial", row.case.seed, k)
            answer: Answer = self.model.mind.answer(request, seed)
            row.refusals.append(int(answer.refused))
            why = why or answer.why
            if row.answer is None and not answer.refused:
                row.answer, row.seed = answer, seed if self.sampler.seeded else 0
        if row.answer is None:
            self._declined(row, why)

    @staticmethod
    def _declined(row: Row, why: str) -> None:
        row.verdicts.append(Verdict("blocked", "model", "text", -1, why=why))
        row.end("refused", why)

    def _speak(self) -> None:
        for row in self._left():
            assert row.answer is not None
            began = time.perf_counter()
            try:
                row.audio = self.voice.speak(row.answer.spoken, row.seed)
            except Declined as error:
                row.refusals = [1] * len(row.refusals)
                self._declined(row, f"the model: {error}")
            except (BadInput, EngineError) as error:
                row.end("error", str(error))
            row.seconds = time.perf_counter() - began

    def _left(self) -> list[Row]:
        return [row for row in self.rows if row.alive]

    def _sample(self, row: Row, shared: float) -> Sample:
        spoken = row.audio.seconds if row.audio is not None else 0.0
        spent = {"requests": float(len(row.refusals)), "speech": spoken, "heard": row.heard}
        notes: dict[str, Any] = {**row.notes, "refused": [float(x) for x in row.refusals]}
        if row.answer is not None and row.status == "ok":
            notes["emitted"] = [row.answer.emitted]
        return Sample(
            row.case,
            status=row.status,
            output=row.audio if row.alive else None,
            why=row.why,
            notes=notes,
            seconds=row.seconds + shared,
            costs={name: value for name, value in spent.items() if value},
            verdicts=list(row.verdicts),
        )


__all__ = ["FAMILY", "LAB", "NAMES", "SpeechModel", "SpeechSampler"]
