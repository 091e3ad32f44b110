"""The rig of a speech model: the one way in which a defense sees its requests and answers.

Four ports, in the order in which a request passes them: ``prompts`` (T0, the request's text), ``requests`` (T1, its
sounds), ``emitted`` (T2, the text that the model is about to speak), ``sounds`` (T3 and T4, the finished sound with its
transcript). Rows that a defense ended are not shown to the ports behind it and cost nothing more. Every port counts its
calls and the rows that it was shown; ``verify`` looks back on both."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from genward.core.media import Audio
from genward.core.records import Case, Prompt, Verdict
from genward.core.speech import Ear, Heard, Sounded, SpeechFrame
from genward.errors import BadInput, DefenseInactive, GuardError, Inapplicable
from genward.models.ports import Port

if TYPE_CHECKING:
    from genward.models.speech_aligned import Answer

KINDS = {"prompts": "text", "requests": "request", "emitted": "emitted", "sounds": "sound"}
"""Port -> the stage at which it is called."""


@dataclass
class Row:
    """One case on its way through the model."""

    case: Case
    text: str
    brought: dict[str, Audio] = field(default_factory=dict)
    """Name -> sound of its request"""
    status: str = "ok"
    why: str = ""
    answer: Answer | None = None
    seed: int = 0
    """With which its answer is spoken"""
    audio: Audio | None = None
    refusals: list[int] = field(default_factory=list)
    """1 for each trial that the model itself refused"""
    verdicts: list[Verdict] = field(default_factory=list)
    notes: dict[str, list[Any]] = field(default_factory=dict)
    shown: set[int] = field(default_factory=set)
    """Which ports it was shown to, by their place in the rig"""
    heard: float = 0.0
    """Seconds of its sounds that were transcribed"""
    seconds: float = 0.0

    @property
    def alive(self) -> bool:
        return self.status == "ok"

    def end(self, status: str, why: str) -> None:
        """Refuse it or make it an error; the first word counts, but an error overrules a refusal."""
        if self.alive or (self.status == "refused" and status == "error"):
            self.status, self.why = status, why
        self.audio = None


class Transcripts:
    """What one ear heard of the sounds of a batch, each sound once."""

    def __init__(self, ear: Callable[[], Ear]) -> None:
        self._ear, self._known = ear, dict[str, Heard]()

    def of(self, audios: Sequence[Audio]) -> list[Heard]:
        """Transcripts, those of sounds not heard before made in one call."""
        names = [audio.sha for audio in audios]
        new = {name: audio for name, audio in zip(names, audios, strict=True) if name not in self._known}
        if new:
            found = self._ear().hear(list(new.values()))
            if len(found) != len(new):
                raise GuardError(f"the ear gave {len(found)} transcripts of {len(new)} sounds")
            self._known.update(zip(new, found, strict=True))
        return [self._known[name] for name in names]

    def knows(self, audio: Audio) -> bool:
        return audio.sha in self._known


class _Passing:
    """A sound that passes a port; the first that is asked for its transcript has all of the stage transcribed."""

    def __init__(self, audio: Audio, row: Row, stage: list[_Passing], transcripts: Transcripts) -> None:
        self.audio, self._row, self._stage, self._transcripts = audio, row, stage, transcripts

    @property
    def heard(self) -> Heard:
        if not self._transcripts.knows(self.audio):
            new = [one for one in self._stage if not self._transcripts.knows(one.audio)]
            self._transcripts.of([one.audio for one in new])
            for one in new:
                one._row.heard += one.audio.seconds
        return self._transcripts.of([self.audio])[0]


class LiveSpeechRig:
    """``core.speech.SpeechRig`` on one model. Use it through ``SpeechModel.rig(defenses)``."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.now: SpeechFrame | None = None
        self.ports: list[Port] = []
        self.rows: list[Row] = []
        self.transcripts = Transcripts(lambda: model.ear)
        self._owner = ""
        self._open = False

    @contextmanager
    def opened(self, defenses: Sequence[Any]) -> Iterator[LiveSpeechRig]:
        """The rig with the defenses attached in order; nothing of them is left when it closes."""
        self._open = True
        try:
            for defense in defenses:
                self._owner = type(defense).name
                defense.attach(self)
            yield self
        finally:
            self._open = False
            self.ports.clear()
            self.end()

    def begin(self, rows: list[Row]) -> None:
        """Start counting a new batch."""
        self.end()
        if not self._open:
            raise GuardError("this rig is closed, so nothing would be guarded; open it with model.rig(defenses)")
        self.rows = rows
        for port in self.ports:
            port.calls = 0

    def end(self) -> None:
        """Forget the batch, one that was interrupted as well."""
        self.rows, self.now = [], None
        self.transcripts = Transcripts(lambda: self.model.ear)

    # ------------------------------------------------------------------------------------------------------------ ports

    def _add(self, kind: str, fn: Callable[..., Any]) -> None:
        if not self._open or self.rows:
            raise GuardError(f"{self._owner}: ports are attached before a generation, in attach(rig)")
        self.ports.append(Port(self._owner, kind, fn))

    def prompts(self, fn: Callable[[list[Prompt]], list[Prompt]]) -> None:
        """``fn(list[Prompt]) -> list[Prompt]`` of equal length: the requests' texts (T0). ``rig.now`` is its frame."""
        self._add("prompts", fn)

    def requests(self, fn: Callable[[list[Sounded], SpeechFrame], object]) -> None:
        """``fn(sounds, frame)`` looks at the sounds that requests bring (T1), a request's several one after the other;
        called where a row brings any. What it returns is ignored: it blocks or flags."""
        self._add("requests", fn)

    def emitted(self, fn: Callable[[list[str], SpeechFrame], Sequence[str] | None]) -> None:
        """``fn(texts, frame)``: the texts that the model is about to speak (T2), before anything is synthesized. Texts
        that it returns are spoken in their place."""
        self._add("emitted", fn)

    def sounds(self, fn: Callable[[list[Sounded], SpeechFrame], Sequence[Audio | None] | None]) -> None:
        """``fn(sounds, frame)``: the finished sounds (T4), with their transcripts when asked (T3). Sounds that it
        returns are released in their place; ``None`` in a place refuses that row."""
        self._add("sounds", fn)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise Inapplicable(f"a speech model has no {name!r}: defenses act on {', '.join(KINDS)}")

    # --------------------------------------------------------------------------------------------------------- services

    def hear(self, audios: Sequence[Audio]) -> list[Heard]:
        """Transcripts of any sounds by the rig's ear, for defenses that listen to a changed one."""
        return self.transcripts.of(audios)

    def block(
        self,
        frame: SpeechFrame,
        rows: Any,
        why: str,
        *,
        score: Any = None,
        threshold: float | None = None,
        category: str | Sequence[str] = "",
        tokens: Sequence[Sequence[tuple[str, float]]] | None = None,
    ) -> None:
        """Refuse cases, given as a bool mask or indices over the frame's rows; they cost nothing from here on.

        Args:
            score: one number a row of the frame; a row whose number is not finite becomes an error.
            category: one text, or one a row of the frame. tokens: a list a row: token and its share of the score.
        """
        numbers = _numbers(score, frame, self._owner)
        for k in _places(rows, frame, self._owner):
            row = self._row(frame, k)
            broken = numbers is not None and not math.isfinite(numbers[k])
            self._verdict(row, "blocked", frame, k, why, numbers, threshold, category, tokens)
            row.end("error" if broken else "refused", f"{self._owner}: {why}")

    def flag(
        self,
        frame: SpeechFrame,
        rows: Any,
        why: str,
        *,
        action: str = "flagged",
        score: Any = None,
        threshold: float | None = None,
        category: str | Sequence[str] = "",
        tokens: Sequence[Sequence[tuple[str, float]]] | None = None,
    ) -> None:
        """Put on record that rows were ``flagged`` or ``steered``; they go on. A defense's first word on a case is
        kept."""
        if action not in ("flagged", "steered"):
            raise BadInput(f"rig.flag: action {action!r}; 'flagged' or 'steered' are possible (rig.block blocks)")
        numbers = _numbers(score, frame, self._owner)
        for k in _places(rows, frame, self._owner):
            self._verdict(self._row(frame, k), action, frame, k, why, numbers, threshold, category, tokens)

    def note(self, frame: SpeechFrame, **signals: Any) -> None:
        """Store evidence, one number a row of the frame, under each case. A row whose ``….score`` is not finite
        becomes an error: its guard cannot tell."""
        for name, values in signals.items():
            for k, number in enumerate(_numbers(values, frame, self._owner) or ()):
                row = self._row(frame, k)
                row.notes.setdefault(name, []).append(number)
                if not math.isfinite(number) and (name.endswith(".score") or name == self._owner):
                    row.end("error", f"{self._owner}: {name} is not a number")

    def _row(self, frame: SpeechFrame, k: int) -> Row:
        if not self.rows:
            raise GuardError("the rig was used outside a generation")
        return self.rows[frame.case[k]]

    def _verdict(
        self,
        row: Row,
        action: str,
        frame: SpeechFrame,
        k: int,
        why: str,
        numbers: list[float] | None,
        threshold: float | None,
        category: str | Sequence[str],
        tokens: Sequence[Sequence[tuple[str, float]]] | None,
    ) -> None:
        if any(v.defense == self._owner and v.action == action for v in row.verdicts):
            return
        label = category if isinstance(category, str) else category[k]
        shares = () if tokens is None else tuple((str(t), float(x)) for t, x in tokens[k])
        number = None if numbers is None else numbers[k]
        row.verdicts.append(
            Verdict(action, self._owner, frame.stage, frame.step, number, threshold, label, why, shares)
        )

    # --------------------------------------------------------------------------------------------- what the model calls

    def of(self, kind: str) -> list[Port]:
        return [port for port in self.ports if port.kind == kind]

    def _called(self, kind: str, values: Callable[[list[int]], list[Any]], living: Callable[[], list[int]]) -> None:
        """Call the ports of a kind one after the other, each on the rows that are alive by then; ``values`` gives what
        they are shown, by row."""
        for place, port in enumerate(self.ports):
            index = living()
            if port.kind != kind or not index:
                continue
            self.now = SpeechFrame(KINDS[kind], tuple(index), tuple(self.rows[k].case for k in index))
            self._owner = port.owner
            shown = values(index)
            result = port(shown) if kind == "prompts" else port(shown, self.now)
            for k in index:
                self.rows[k].shown.add(place)
            self._taken(kind, port, index, shown, result)
        self.now = None

    def _taken(self, kind: str, port: Port, index: list[int], shown: list[Any], result: Any) -> None:
        """Put what a port returned in the place of what it was shown."""
        if kind == "requests" or (result is None and kind != "prompts"):
            return
        wanted = {"prompts": Prompt, "emitted": str, "sounds": Audio | None}[kind]
        new = list(result) if isinstance(result, Sequence) and not isinstance(result, str) else [NotImplemented]
        if len(new) != len(shown) or not all(isinstance(value, wanted) for value in new):
            raise GuardError(f"{port.owner}: its {kind} port did not return a value for each of {len(shown)} rows")
        for k, value in zip(index, new, strict=True):
            row = self.rows[k]
            if kind == "prompts":
                row.text = value.text
            elif kind == "sounds" and value is None:
                self.block(self._alone(k), [0], "refused the finished sound")
            elif kind == "sounds" and row.alive:
                row.audio = value
            elif kind == "emitted" and row.answer is not None and value != row.answer.emitted:
                row.answer = row.answer._replace(emitted=value, spoken=value)

    def _alone(self, k: int) -> SpeechFrame:
        assert self.now is not None
        return self.now._replace(case=(k,), cases=(self.rows[k].case,))

    def living(self) -> list[int]:
        return [k for k, row in enumerate(self.rows) if row.alive]

    def text_stage(self) -> None:
        """T0"""
        self._called("prompts", self._prompts, self.living)

    def _prompts(self, index: list[int]) -> list[Prompt]:
        return [Prompt(self.rows[k].text, self.rows[k].case.negative) for k in index]

    def request_stage(self) -> None:
        """T1: one value a sound, so that a row stands there as often as it brings one."""
        self._called(
            "requests",
            lambda ks: self._passing([(k, audio) for k, audio in self._brought() if k in ks]),
            lambda: [k for k, _ in self._brought()],
        )

    def _brought(self) -> list[tuple[int, Audio]]:
        return [(k, audio) for k in self.living() for audio in self.rows[k].brought.values()]

    def emitted_stage(self) -> None:
        """T2"""
        self._called("emitted", lambda ks: [self._answer(k).emitted for k in ks], self.living)

    def sound_stage(self) -> None:
        """T3 and T4"""
        self._called("sounds", lambda ks: self._passing([(k, self._audio(k)) for k in ks]), self.living)

    def _passing(self, audios: Iterable[tuple[int, Audio]]) -> list[Any]:
        stage: list[_Passing] = []
        for k, audio in audios:
            stage.append(_Passing(audio, self.rows[k], stage, self.transcripts))
        return list(stage)

    def _answer(self, k: int) -> Answer:
        answer = self.rows[k].answer
        if answer is None:
            raise GuardError("a row came to the emitted stage without an answer")
        return answer

    def _audio(self, k: int) -> Audio:
        audio = self.rows[k].audio
        if audio is None:
            raise GuardError("a row came to the sound stage without a sound")
        return audio

    def fail(self, why: str) -> None:
        """Every row that is left becomes an error: a guard did not do its work."""
        for row in self.rows:
            if row.alive:
                row.end("error", why)

    def refuse(self, by: str, why: str) -> None:
        """Every row that is left is refused by the word of a defense."""
        stage = self.now.stage if self.now is not None else "text"
        for row in self.rows:
            if row.alive:
                row.verdicts.append(Verdict("blocked", by, stage, -1, why=why))
                row.end("refused", f"{by}: {why}")

    def verify(self) -> None:
        """Look back on a batch: ``DefenseInactive`` for a port that was never called though a row came through that it
        should have been shown, ``GuardError`` for such a row that it was not shown."""
        through = [row for row in self.rows if row.alive]
        for place, port in enumerate(self.ports):
            due = [row for row in through if row.brought or port.kind != "requests"]
            if due and not port.calls:
                raise DefenseInactive(
                    f"{port.owner}: {port.where} was never called, so nothing was guarded; generate with "
                    "SpeechModel.generate, which calls every port"
                )
            if any(place not in row.shown for row in due):
                raise GuardError(f"{port.owner}: {port.where} was not shown every row; nothing is released")


def _places(rows: Any, frame: SpeechFrame, owner: str) -> list[int]:
    """Indices over the frame's rows of a mask or of indices: a list, an array or a tensor."""
    import numpy as np

    given = np.asarray(rows).ravel()
    size = len(frame.case)
    if given.dtype == bool:
        if len(given) != size:
            raise GuardError(f"{owner}: a mask of {len(given)} rows over {size}")
        return [int(k) for k in np.flatnonzero(given)]
    found = [int(k) for k in given]
    if any(not 0 <= k < size for k in found):
        raise GuardError(f"{owner}: rows {found[:5]} of {size}")
    return found


def _numbers(score: Any, frame: SpeechFrame, owner: str) -> list[float] | None:
    """One number a row of the frame, or ``None`` where none were given."""
    import numpy as np

    if score is None:
        return None
    given = np.asarray(score, np.float64).ravel()
    if len(given) != len(frame.case):
        raise GuardError(f"{owner}: {len(given)} numbers for {len(frame.case)} rows")
    return [float(x) for x in given]
