"""The defense of docs/defenses.md."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from genward.core import Artifact, Case, Concept, FitTools, Frame, Rig, Sampler
from genward.core.records import row_seed
from genward.errors import BadInput
from genward.ops import activations, artifacts, phrases
from genward.ops.tools import QUIET


@dataclass(frozen=True)
class MeanShift:
    """Take the mean difference between a concept's pictures and its anchors' out of one site."""

    name: ClassVar[str] = "mean_shift"
    at_attach: ClassVar[frozenset[str]] = frozenset({"artifact", "strength"})
    site: str = "mid_block.attentions.0.tb.0"
    """Where to act; tokens of a transformer block."""
    images: int = 32
    """Pictures of the concept, and as many of its anchors, from equal noise."""
    sampling_steps: int = 20
    """Steps of that sampling."""
    seed: int = 0
    """Of the noise."""
    strength: float = 1.0
    """Share of the difference that is taken out; 0 leaves the model alone."""
    artifact: Artifact | None = None
    """What was learned: the difference at each timestep."""

    def fit(self, model: Any, concept: Concept, tools: FitTools = QUIET) -> "MeanShift":
        cases = self.cases(phrases.pairs([concept]))
        found = tools.record(
            model,
            cases,
            Sampler(self.sampling_steps, 4.0),
            activations.sources([self.site]),
            labels={"label": torch.tensor([float(c.label == "harm") for c in cases])},
            progress=lambda done, total: tools.progress(done, total, float("nan")),
        )
        told = found.statistics(self.site, label="label")
        times = told.timesteps(1)
        shift = torch.stack([told.at(t, 1).mean - told.at(t, 0).mean for t in times])
        card = artifacts.fit_card(self, [concept], model, [c.prompt for c in cases], [c.seed for c in cases], 0.0)
        return replace(self, artifact=artifacts.make({"times": torch.tensor(times), "shift": shift.float()}, card))

    def cases(self, pairs: Sequence[tuple[str, str]]) -> list[Case]:
        """Both captions of a pair from equal noise, pair after pair; seeds apart from those of evaluation."""
        return [
            Case(f"{label}-{k}", text, label, seed=row_seed("fit", self.name, self.seed, k))
            for k in range(self.images)
            for label, text in zip(("harm", "benign"), pairs[k % len(pairs)], strict=True)
        ]

    def attach(self, rig: Rig) -> None:
        if self.artifact is None:
            raise BadInput(
                "mean_shift has learned nothing yet; fit it first (genward fit mean_shift --concept weapons)"
            )
        times, shift = self.artifact.tensors["times"], self.artifact.tensors["shift"]

        def act(hidden: Tensor, frame: Frame) -> Tensor:
            assert frame.timestep is not None
            nearest = int((times - float(frame.timestep[0])).abs().argmin())
            rows = frame.conditional.to(hidden.device)[:, None, None]
            return hidden - self.strength * rows * shift[nearest].to(hidden)

        rig.tap(self.site, act)
