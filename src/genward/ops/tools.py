"""What a fit is given: who listens, who judges, where an interrupted fit goes on."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from genward.core.checkpoint import load_checkpoint, save_checkpoint
from genward.core.contracts import Artifact, Judge
from genward.core.records import Case, Sampler
from genward.core.spec import digest
from genward.errors import BadInput
from genward.ops import artifacts
from genward.ops.activations import Recording, record
from genward.ops.finetune import Progress


class Tools:
    """``core.contracts.FitTools``; without arguments nobody listens, nobody judges and nothing is kept.

    Args:
        progress: ``progress(step, steps, loss)``.
        say: told in words what happens.
        judge: labels pictures. open_judge: called at most once, where a fit asks for the judge and ``judge`` is not
            given; returns ``None`` where nobody knows this model's pictures.
        words: the model's vocabulary.
        folder: where checkpoints and recordings of this one fit go, of these settings on this model; without one
            nothing is kept, and recordings live in a temporary folder.
        pace: seconds from one checkpoint to the next, at least. A fit loses at most this and one step.
        places: folders where fits keep what several of them share; the first is written to. Without any, nothing that
            is shared is kept.
    """

    def __init__(
        self,
        *,
        progress: Progress | None = None,
        say: Callable[[str], None] | None = None,
        judge: Judge | None = None,
        open_judge: Callable[[], Judge | None] | None = None,
        words: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        pace: float = 10.0,
        places: Sequence[Path] = (),
    ) -> None:
        self._progress, self._say, self._judge, self._open = progress, say, judge, open_judge
        self.words: Mapping[str, Any] = words or {}
        self.folder, self.pace, self.places = folder, pace, tuple(places)
        self._kept = time.monotonic()

    @property
    def judge(self) -> Judge | None:
        """Who labels pictures, opened when first asked for."""
        if self._judge is None and self._open is not None:
            self._judge, self._open = self._open(), None
        return self._judge

    def need_judge(self, why: str) -> Judge:
        """The judge.

        Raises:
            BadInput: there is none; the message begins with ``why``.
        """
        found = self.judge
        if found is None:
            raise BadInput(
                f"{why} and was given no judge; genward fit passes the lab's to the lab's models, in Python give "
                "fit(…, Tools(judge=…))"
            )
        return found

    def progress(self, step: int, steps: int, loss: float) -> None:
        """``step`` of ``steps`` is done."""
        if self._progress is not None:
            self._progress(step, steps, loss)

    def say(self, text: str) -> None:
        """Pass ``text`` on to the user."""
        if self._say is not None:
            self._say(text)

    def due(self) -> bool:
        """Whether a state can be kept and the last one was ``pace`` seconds ago."""
        return self.folder is not None and time.monotonic() - self._kept >= self.pace

    def checkpoint(self, state: Any = None, part: str = "state") -> Any:
        """Keep ``state``, or return the one that was kept; ``None`` without a folder or where nothing was kept.

        Raises:
            BadInput: a state that a checkpoint cannot hold. BadArtifact: the file is damaged.
        """
        if self.folder is None:
            return None
        file = self.folder / f"{part}.safetensors"
        if state is None:
            return load_checkpoint(file) if file.is_file() else None
        save_checkpoint(file, state)
        self._kept = time.monotonic()
        return None

    def shared(self, name: str, about: Mapping[str, Any], make: Callable[[Tools], Artifact]) -> Artifact:
        """What several fits learn once, such as a sparse autoencoder: the artifact that one of ``places`` has, else
        ``make(tools)``, kept in the first of them. One that was interrupted goes on there.

        Args:
            name: of the kind of thing. about: all that decides it, as JSON; with the name it makes the key.

        Raises:
            BadArtifact: the one that is there is damaged. BadInput: it cannot be written.
        """
        key = digest({"shared": name, "about": dict(about)})
        for place in self.places:
            if all((place / f"{key}{end}").is_file() for end in (".safetensors", ".json")):
                self.say(f"{name}: reusing {place / key}.safetensors")
                return artifacts.load(place / key)
        home = self.places[0] if self.places else None
        aside = None if home is None else home / f"{key}.partial"
        mine = Tools(
            progress=self._progress, say=self._say, judge=self._judge, open_judge=self._open, words=self.words,
            folder=aside, pace=self.pace, places=self.places,
        )  # fmt: skip
        self.say(f"{name}: fitting what several methods share")
        made = make(mine)
        if home is None or aside is None:
            return made
        artifacts.save(home / key, made.tensors, made.card)
        shutil.rmtree(aside, ignore_errors=True)
        return artifacts.load(home / key)

    def record(
        self, model: Any, cases: Sequence[Case], sampler: Sampler, sources: Sequence[Any], **how: Any
    ) -> Recording:
        """``ops.activations.record`` into this fit's folder; ``name`` tells several recordings of one fit apart."""
        name = str(how.pop("name", "states"))
        folder = None if self.folder is None else self.folder / name
        return record(model, cases, sampler, sources, folder=folder, **how)


QUIET = Tools()
"""Nobody listens, nobody judges, nothing is kept: what ``fit`` is given where it is called without tools."""


def part_of(tools: Any, before: int, total: int) -> Progress:
    """Progress of one stage of a fit, of ``total`` steps of which ``before`` are done when the stage begins."""
    return lambda step, _, loss: tools.progress(before + step, total, loss)
