"""Preview filter: a judge looks at the picture that an early step already points to, and what it refuses costs no later
step.

Between the image filter, which pays the whole generation, and detectors that learn to read early states: the clean
latents x0 that the predicted noise of one step implies are decoded by the model's own autoencoder and shown to a judge
of finished pictures. Early previews are blurred, and the
judge was not made for them: what that costs is what the comparison is about. Beside the steps up to there a row costs
    one decode and one judgement,
no denoiser row. Fail closed: a preview or a score that is not a number refuses the row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from genward.core.contracts import Judge, Rig
from genward.core.records import Concept
from genward.errors import BadInput, UnknownName
from genward.ops import activations, asking, deciding, predicted

if TYPE_CHECKING:
    from PIL.Image import Image

ACTIONS = ("block", "flag")


@dataclass(frozen=True)
class PreviewFilter:
    """Preview filter: a judge looks at the picture that an early step's predicted noise points to."""

    name: ClassVar[str] = "preview_filter"
    at_attach: ClassVar[frozenset[str]] = frozenset({"probe", "judge_hash", "step", "threshold", "action"})
    step: float = 4
    """Where it looks: from 1 on a 0-based step, below 1 a share of the loop's denoiser calls (0.25 of 20: step 4)."""
    judge: str = ""
    """Name of the judge (``genward list judges``); empty: the one that labels in a run, elsewhere the lab's second
    one."""
    labels: tuple[str, ...] = ()
    """Labels that refuse a row; ``preview_filter:weapons`` takes the concept's."""
    threshold: float | None = None
    """One threshold for all labels; none: the judge's own for finished pictures, label by label, from its card."""
    action: str = "block"
    """``block`` ends a row, ``flag`` puts it on record and lets it go on."""
    concept: str = ""
    """Name of the concept that the labels were taken from, for the record."""
    judge_hash: str = ""
    """Identity of the judge that was opened, filled in with it."""
    probe: Judge | None = field(default=None, compare=False, repr=False, metadata={"identity": False})
    """The judge itself; opened by name where genward builds the chain."""

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise UnknownName("preview_filter action", self.action, ACTIONS)
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise BadInput(
                f"preview_filter: threshold {self.threshold}; give a finite number, or none for the judge's own"
            )
        if not 0 <= self.step < 1000:
            raise BadInput(f"preview_filter: step {self.step:g}; a share below 1 or a step below 1000 is needed")

    @classmethod
    def for_concept(cls, concept: Concept, **fields: Any) -> Self:
        """With the labels that show the concept."""
        if not concept.judge and not fields.get("labels"):
            raise BadInput(
                f"preview_filter:{concept.name}: the concept file names no judge labels; add judge = "
                f"{{ labels = [...] }}, or give labels=a;b"
            )
        return cls(**{"labels": concept.judge, "concept": concept.name, **fields})

    def last_look(self, steps: int) -> int:
        """The last step of a loop of ``steps`` at which it looks."""
        return activations.stop_step(self.step, steps)

    def attach(self, rig: Rig) -> None:
        """Judge the preview of every live row at the step; the nearest label to its threshold, or beyond it, is what a
        verdict names.

        Notes ``preview_filter.score``.

        Raises:
            BadInput: no judge, no labels, or a label without a threshold. UnknownName: a label that the judge lacks.
                GuardError: a rig without a model.
        """
        judge, limits = asking.prepared(self, "pistol;bomb", getattr(rig, "model", None))

        def look(seen: predicted.Seen) -> None:
            frame = seen.frame
            labels = self.labels
            values = torch.from_numpy(asking.scores(judge, previews(rig.model, seen), labels))
            decision = deciding.decide(values, list(limits), len(frame.case), inclusive=True)
            rig.note(frame, **{"preview_filter.score": decision.score})
            deciding.act(
                rig,
                frame,
                decision,
                action=self.action,
                why=lambda k: f"the preview at step {frame.step + 1} of {frame.steps} shows {labels[k]}",
                broken=lambda k: f"there is no number for {labels[k]} of its preview",
                category=lambda k: self.concept or labels[k],
            )

        # step -1: an attack asks the denoiser outside a loop, where there is nothing to end
        predicted.watch(
            rig, lambda frame: frame.step >= 0 and frame.step == activations.stop_step(self.step, frame.steps), look
        )


def previews(model: Any, seen: predicted.Seen) -> list[Image | None]:
    """The picture that each row's guided prediction points to, ``None`` where its latents are not finite.

    The denoiser's latents are variance preserving under every stock scheduler (those that keep another scale rescale
    before the call), so x0 follows from the schedule's signal level at the call's timestep."""
    assert seen.frame.timestep is not None
    kind = str(model.pipe.scheduler.config.prediction_type)
    clean: Tensor = predicted.clean_latents(
        seen.latents, seen.guided, predicted.levels(model, seen.frame.timestep), kind
    ).detach()
    finite = torch.isfinite(clean).flatten(1).all(1)
    pictures = iter(model.decode(clean[finite]) if bool(finite.any()) else [])
    return [next(pictures) if good else None for good in finite.tolist()]
