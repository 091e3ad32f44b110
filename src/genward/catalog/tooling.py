"""What a fit is given by the catalog: the lab's vocabulary and judge, folders, and progress in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from genward.catalog.labelling import LABELS_BY
from genward.catalog.opening import words_of

if TYPE_CHECKING:
    from genward.models.sd import StableDiffusion
    from genward.ops.tools import Tools

Say = Callable[[str], None]


def tools_for(
    model: StableDiffusion,
    name: str = "",
    folder: Path | None = None,
    progress: Say | None = None,
    places: Sequence[Path] = (),
    labels_by: str = "",
) -> Tools:
    """What a fit on this model is given: the vocabulary and the judge where the model is the lab's, checkpoints where
    there is a folder, progress in words at each tenth of the way.

    Args:
        places: folders where what several fits share is looked for; it is kept in the first of them.
        labels_by: the lab's judge that labels; empty: the second one.
    """
    lab = str(model.spec.fields.get("source", "")) in ("lab:lab", "lab:oracle")

    from genward.catalog.judges import open_judge
    from genward.ops.tools import Tools

    return Tools(
        progress=tenths(name, progress) if progress else None,
        say=progress,
        open_judge=(lambda: open_judge(labels_by or LABELS_BY)) if lab else None,
        words=words_of("lab") if lab else {},
        folder=folder,
        places=places,
    )


def tenths(name: str, say: Say) -> Callable[[int, int, float], None]:
    """A fit's progress in words, at each tenth of the way."""
    told, before = -1, 0

    def progress(step: int, steps: int, loss: float) -> None:
        nonlocal told, before
        tenth = 10 * step // max(1, steps)
        if step < before:  # another stretch of the way, such as what several fits share
            told = -1
        before = step
        if tenth > told:
            told = tenth
            say(f"{name}: step {step} of {steps}" + (f", loss {loss:.4g}" if loss == loss else ""))

    return progress
