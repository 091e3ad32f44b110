"""Inverted latents: pictures of the concept go back to noise through the arm, and sampling is started there.

Asks whether a model that no longer answers to the concept's words still draws it from the right start (M-ErasureBench,
arXiv 2512.22877, door "latent"). The paper's numbers of steps and schedule are not public; 50 DDIM steps, guidance 1
and the empty prompt are those of the public neighbor "Memories of Forgotten Concepts", refinement is ReNoise's (arXiv
2403.14602). Near-exact inversion returns any picture, seen in training or not, so these numbers mean something only
beside those of a model that never saw the concept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from genward.attacks import FAILED
from genward.core.contracts import Target
from genward.core.records import LATENTS, Call, Case, Inputs
from genward.errors import BadInput
from genward.ops.inversion import Predict, inverse_timesteps, invert, regenerate, relative_error, shares

SUFFIX = "/inv"
"""What a derived case's id ends with."""
LOST = -1.0
"""Stands for the round-trip error of an inversion that is not finite."""


@dataclass(frozen=True)
class DdimInversion:
    """DDIM inversion: start latents from which the arm itself draws the concept's pictures again."""

    name: ClassVar[str] = "ddim_inversion"
    access: ClassVar[str] = "gradient"
    parents: ClassVar[tuple[str, ...]] = ("latent", "keep-latent")
    steps: int = 50
    """Inversion steps; 0 takes the sampler's number, so that sampling goes back over the same steps."""
    refine: int = 0
    """Further predictions a step, each at the point the last one led to (ReNoise); 0 is plain DDIM inversion."""
    average: int = 1
    """How many of a step's last predictions are averaged."""
    guidance: float = 1.0
    """Guidance of the predictions during inversion."""
    prompt: str = ""
    """Prompt during inversion."""
    batch: int = field(default=32, metadata={"identity": False})
    """Pictures inverted at once."""

    def __post_init__(self) -> None:
        if not 0 <= self.steps <= 1000 or min(self.refine, self.guidance) < 0 or min(self.average, self.batch) < 1:
            raise BadInput(
                "ddim_inversion: steps must be 0 to 1000, refine and guidance at least 0, average and batch at least 1"
            )
        if self.average > self.refine + 1:
            raise BadInput(
                f"ddim_inversion: {self.average} predictions to average, a step makes {self.refine + 1}; raise refine"
            )

    def nfe(self, cases: Sequence[Case]) -> int:
        """Denoiser rows that a search will cost where every case has a picture of its own, the round trip included."""
        return len(cases) * (self.steps or 20) * (self.refine + 2) * (2 if self.guidance > 1 else 1)

    def search(self, cases: Sequence[Case], target: Target) -> Iterator[Case]:
        """One derived case a parent: its input ``latents`` names the start, ``queries`` is the parent's share of
        denoiser rows.

        The k-th case of a concept takes the concept's reference k, counted around. Rows spent on measuring the round
        trip are not queries: an attacker needs none. ``target.keep`` is told ``concept``, ``reference`` (its number),
        ``round_trip`` (relative error of the latents after as many steps back through the arm), ``steps``, ``refine``,
        ``average``, ``guidance`` and ``prompt``. Where an inversion is not finite its cases name ``FAILED``.

        Raises:
            BadInput: no reference pictures, or a sampler that has no inversion.
        """
        held = {concept: held_latents(target, concept) for concept in dict.fromkeys(c.concept for c in cases)}
        turn = dict.fromkeys(held, 0)
        places: list[tuple[str, int]] = []
        for case in cases:
            places.append((case.concept, turn[case.concept] % len(held[case.concept])))
            turn[case.concept] += 1
        steps = self.steps or target.sampler.steps
        facts = {
            "steps": steps,
            "refine": self.refine,
            "average": self.average,
            "guidance": self.guidance,
            "prompt": self.prompt,
        }
        names, rows = {}, {}
        used = list(dict.fromkeys(places))
        for place, (start, error) in zip(used, invert_all(self, target, [held[c][k] for c, k in used]), strict=True):
            about = {"concept": place[0], "reference": place[1], "round_trip": error, **facts}
            names[place] = FAILED if error == LOST else target.keep(start, kind="latents", **about)
            rows[place] = iter(shares(steps * (self.refine + 1) * (2 if self.guidance > 1 else 1), places.count(place)))
        for case, place in zip(cases, places, strict=True):
            inputs = Inputs({**case.inputs, LATENTS: names[place]})
            yield case._replace(id=case.id + SUFFIX, parent=case.id, inputs=inputs, queries=next(rows[place]))


def held_latents(target: Target, concept: str) -> Tensor:
    """(n, c, h, w) latents of the attacker's pictures of a concept. Raises ``BadInput`` where there are none."""
    pictures = target.references(concept)
    if not pictures:
        raise BadInput(f"ddim_inversion: no reference pictures of {concept!r} to invert; give a folder of them")
    return target.latents(pictures).detach()


def predictor(target: Target, prompt: str, guidance: float) -> Predict:
    """The arm's prediction under one prompt as a function of latents and timestep, without gradient."""
    state = target.text([prompt])

    def predict(z: Tensor, timestep: int) -> Tensor:
        rows = len(z)
        times = torch.full((rows,), timestep, device=z.device)
        return target.predict(Call(z.to(state.dtype), times, state.expand(rows, -1, -1)), guidance=guidance).to(z.dtype)

    return predict


def invert_all(attack: DdimInversion, target: Target, clean: Sequence[Tensor]) -> list[tuple[Tensor, float]]:
    """(start latents (c, h, w), round-trip error) of each picture's latents; zeros and ``LOST`` where the way there is
    not finite.

    Batch by batch, checkpointed after each, so an interrupted search goes on where it was.
    """
    if not clean:
        return []
    prediction = str(target.schedule.get("prediction_type", "epsilon"))
    plan = inverse_timesteps(target.schedule, attack.steps or target.sampler.steps, target.alphas)
    whole = torch.stack(list(clean))
    whole = whole.to(torch.promote_types(whole.dtype, torch.float32))
    kept = target.checkpoint()
    starts, errors = kept.get("starts", whole[:0]).to(whole), kept.get("errors", torch.zeros(0))
    if len(starts) > len(whole) or starts.shape[1:] != whole.shape[1:] or len(errors) != len(starts):
        starts, errors = whole[:0], torch.zeros(0)
    with torch.no_grad():
        predict = predictor(target, attack.prompt, attack.guidance)
        for first in range(len(starts), len(whole), attack.batch):
            part = whole[first : first + attack.batch]
            there = invert(predict, part, plan, prediction, attack.refine, attack.average)
            error = relative_error(regenerate(predict, there, plan, prediction), part).float().cpu()
            lost = ~torch.isfinite(there).flatten(1).all(1)
            there[lost] = 0
            starts, errors = (
                torch.cat([starts, there]),
                torch.cat([errors, torch.where(lost.cpu() | ~torch.isfinite(error), LOST, error)]),
            )
            target.checkpoint({"starts": starts, "errors": errors})
    return list(zip(starts, map(float, errors), strict=True))
