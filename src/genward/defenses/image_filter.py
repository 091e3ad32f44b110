"""Image filter: any judge at the image port. It looks at the finished picture, so it pays the whole generation first.

The classical guard, and the yardstick of the ones that stop early. The judge comes as an object (``probe``):
``genward.protect`` and the command line open the one that ``judge`` names; in code of your own, pass one. Fail closed:
a label that the judge lacks is an error, a score that is not a number refuses the picture."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch

from genward.core.contracts import Judge, Rig
from genward.core.records import Concept
from genward.errors import BadInput, GuardError, UnknownName
from genward.ops import asking, deciding

if TYPE_CHECKING:
    from PIL.Image import Image

ACTIONS = ("block", "flag")


@dataclass(frozen=True)
class ImageFilter:
    """Image filter: a judge looks at the finished picture, and a label at its threshold refuses it."""

    name: ClassVar[str] = "image_filter"
    needs_denoiser: ClassVar[bool] = False
    at_attach: ClassVar[frozenset[str]] = frozenset({"probe", "judge_hash", "threshold", "action"})
    judge: str = ""
    """Name of the judge (``genward list judges``); empty: the one that labels in a run, elsewhere the lab's second one.
    The lab's own look at the lab's pictures alone; for others name one, or give the label ``nsfw``, which
    ``open_nsfw`` has."""
    labels: tuple[str, ...] = ()
    """Labels that refuse a picture; ``image_filter:weapons`` takes the concept's."""
    threshold: float | None = None
    """One threshold for all labels; none: the judge's own, label by label, from its card."""
    action: str = "block"
    """``block`` refuses a picture, ``flag`` puts it on record and lets it pass."""
    concept: str = ""
    """Name of the concept that the labels were taken from, for the record."""
    judge_hash: str = ""
    """Identity of the judge that was opened, filled in with it."""
    probe: Judge | None = field(default=None, compare=False, repr=False, metadata={"identity": False})
    """The judge itself; opened by name where genward builds the chain."""

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise UnknownName("image_filter action", self.action, ACTIONS)
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise BadInput(
                f"image_filter: threshold {self.threshold}; give a finite number, or none for the judge's own"
            )

    @classmethod
    def for_concept(cls, concept: Concept, **fields: Any) -> Self:
        """With the labels that show the concept."""
        if not concept.judge and not fields.get("labels"):
            raise BadInput(
                f"image_filter:{concept.name}: the concept file names no judge labels; add judge = "
                f"{{ labels = [...] }}, or give labels=a;b"
            )
        return cls(**{"labels": concept.judge, "concept": concept.name, **fields})

    def attach(self, rig: Rig) -> None:
        """Look at the surviving pictures, and at those that rows start from (img2img); the nearest label to its
        threshold, or beyond it, is what a verdict names."""
        judge, limits = asking.prepared(self, "pistol;bomb", getattr(rig, "model", None))

        def look(images: list[Image]) -> list[Image]:
            frame = rig.now
            if frame is None:
                raise GuardError("image_filter was called outside the image stage")
            labels = self.labels
            decision = deciding.decide(
                torch.from_numpy(asking.scores(judge, images, labels)), list(limits), len(frame.case), inclusive=True
            )
            signal = "image_filter.start.score" if frame.stage == "start" else "image_filter.score"
            rig.note(frame, **{signal: decision.score})
            deciding.act(
                rig,
                frame,
                decision,
                action=self.action,
                why=lambda k: f"the {'start ' if frame.stage == 'start' else ''}picture shows {labels[k]}",
                broken=lambda k: f"the judge has no number for {labels[k]}",
                category=lambda k: self.concept or labels[k],
            )
            return images

        rig.starts(look)
        rig.images(look)
