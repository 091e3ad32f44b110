"""What detectors of triggers in captions share: they look at a caption before it is drawn, by pictures or predictions
of their own, and compare one number with what clean captions reach on the same model.

Nothing is copied from a paper's threshold: ``fit`` measures clean captions, and the threshold is the score that a
chosen share of them exceeds. A scan stands at the prompts port, so a chain's order says what it reads: before
PEPPER the user's caption, after it the rewrite. What it spends (denoiser rows) is counted on the row."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from genward.core.contracts import Artifact, FitTools, Rig
from genward.core.media import Image
from genward.core.records import Call, Case, Concept, Frame, Prompt, Sample, row_seed
from genward.errors import BadArtifact, BadInput, GuardError, UnknownName
from genward.ops import artifacts, asking, deciding, inversion, phrases
from genward.ops.backdoor_captions import DETAILS, PLACES, drawn
from genward.ops.detection import threshold_at_fpr
from genward.ops.tools import QUIET

ACTIONS = ("block", "flag")
Act = Callable[[Frame, Sequence[str], deciding.Decision], None]
"""What is done about the rows of a frame, their texts and the decision on them."""
CHUNK = 96
"""Denoiser rows of one call at most."""


@dataclass(frozen=True)
class Scan(ABC):
    """What every scan has; derive a frozen dataclass with ``name``, ``measure`` and ``score``."""

    name: ClassVar[str]
    actions: ClassVar[tuple[str, ...]] = ACTIONS
    at_attach: ClassVar[frozenset[str]] = frozenset({"artifact", "threshold", "fpr", "action"})
    threshold: float | None = None
    """Score above which a caption is taken for one with a trigger; by default the one that ``fpr`` of clean captions
    exceed."""
    fpr: float = 0.05
    """Share of clean captions that the default threshold may stop."""
    action: str = "block"
    """``block``, or ``flag`` (put on record and go on)."""
    captions: int = 100
    """Clean captions that it is calibrated on."""
    seed: int = 0
    """Of captions and starting noise."""
    artifact: Artifact | None = None
    """What was calibrated: scores of clean captions, and what else the method learned of them."""

    def __post_init__(self) -> None:
        if self.action not in self.actions:
            raise UnknownName(f"{self.name} action", self.action, self.actions)
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise BadInput(f"{self.name}: threshold {self.threshold}; give a finite number, or none for the calibrated")
        if not 0 <= self.fpr < 1 or not 2 <= self.captions <= 100_000:
            raise BadInput(f"{self.name}: fpr {self.fpr}, captions {self.captions}; below 1, and 2 to 100,000")

    # ------------------------------------------------------------------------------------- what a method has of its own

    @abstractmethod
    def measure(self, rig: Rig, texts: Sequence[str]) -> Tensor:
        """(texts, numbers) what is seen of texts, none of them blank."""

    def learn(self, clean: Tensor) -> dict[str, Tensor]:
        """What is learned of measured clean captions (rows, numbers), beside their scores; by default nothing."""
        return {}

    @abstractmethod
    def score(self, learned: Mapping[str, Tensor], measured: Tensor) -> Tensor:
        """(rows,) the larger, the likelier a trigger."""

    def prepared(self, model: Any) -> None:  # noqa: B027 - most scans act on every model
        """Raise where it cannot act on the model; by default it can."""

    def calibration(self, learned: Mapping[str, Tensor], measured: Tensor) -> Tensor:
        """What is kept of clean captions for the threshold: their scores in order, (rows,)."""
        return self.score(learned, measured).sort().values

    def acting(self, rig: Rig) -> Act:
        """What follows from a decision; by default what ``action`` says."""
        return lambda frame, texts, decision: self.acted(rig, frame, decision)

    # ---------------------------------------------------------------------------------------------------- calibrating

    def fit(self, model: Any, concept: Concept | Sequence[Concept], tools: FitTools = QUIET) -> Self:
        """Itself with the judge that it asked, calibrated on clean captions of the model: of its vocabulary, else of
        what the concept keeps. The concept says what these must not show; nothing else of it is learned.

        Raises:
            BadInput: fewer than two clean captions.
        """
        began, concepts = time.perf_counter(), phrases.listed(concept)
        mine = self.asking(tools)
        texts = clean_captions(concepts, tools.words, self.captions, f"{self.name}|{self.seed}")
        mine.prepared(model)
        rows: list[Tensor] = []
        with torch.no_grad(), model.rig() as rig:
            for k in range(0, len(texts), 16):
                rows.append(mine.measure(rig, texts[k : k + 16]).double().cpu())
                tools.progress(min(k + 16, len(texts)), len(texts), math.nan)
        measured = torch.cat(rows)
        learned = self.learn(measured[::2])
        clean = self.calibration(learned, measured[1::2] if learned else measured)
        card = artifacts.fit_card(self, concepts, model, texts, [], time.perf_counter() - began)
        facts = {"numbers": int(measured.shape[1]), "rows": len(texts), **mine.told()}
        made = artifacts.make({**learned, "clean": clean}, {**card, **facts})
        return replace(mine, artifact=made)

    def asking(self, tools: FitTools) -> Self:
        """Itself with whom it asks about pictures while it is calibrated; by default nobody."""
        return self

    def told(self) -> dict[str, Any]:
        """What its card says besides."""
        return {}

    def limit(self, clean: Tensor) -> float:
        """The threshold: the given one, or what at most ``fpr`` of the clean scores (rows,) exceed."""
        numbers = clean.double().numpy()
        return self.threshold if self.threshold is not None else threshold_at_fpr(numbers, 0 * numbers, self.fpr)

    # ------------------------------------------------------------------------------------------------------ attaching

    def check(self, rig: Rig) -> None:
        """``BadArtifact`` where the model behind the rig is not the one that was calibrated on, ``GuardError`` where
        there is none."""
        if not isinstance(rig, Rig):
            raise GuardError(f"{self.name} asks the model itself, and this rig has no model")
        artifacts.refuse_other(self.artifact, rig.model, self.name)

    def attach(self, rig: Rig) -> None:
        """Look at prompts before they are encoded. Notes ``<name>.score`` and ``<name>.hit_count`` (1 where it is
        above the threshold); blank prompts are not looked at.

        Raises:
            BadInput: nothing was calibrated. BadArtifact: the artifact is not one of this defense, or is another
                model's. GuardError: a rig without a model.
        """
        if self.artifact is None:
            raise BadInput(
                f"{self.name} has learned nothing yet; calibrate it on clean captions first (genward fit {self.name} "
                "--concept weapons), or name a concept, which its captions then leave out"
            )
        learned = self.read(self.artifact)
        self.check(rig)
        self.prepared(rig.model)
        cut, act = self.limit(learned["clean"]), self.acting(rig)

        def look(prompts: list[Prompt]) -> list[Prompt]:
            frame, texts = rig.now, [p.text for p in prompts]
            if frame is None:
                raise GuardError(f"{self.name} was called outside the text stage")
            there = torch.tensor([bool(t.strip()) for t in texts])
            score = torch.zeros(len(texts), dtype=torch.float64)
            if bool(there.any()):
                with torch.no_grad():
                    measured = self.measure(rig, [t for t in texts if t.strip()]).double().cpu()
                score[there] = self.score(learned, measured)
            decision = deciding.decide(score, cut, len(texts), among=there)
            rig.note(frame, **{f"{self.name}.score": decision.score, f"{self.name}.hit_count": decision.hit.double()})
            act(frame, texts, decision)
            return prompts

        rig.prompts(look)

    def read(self, artifact: Artifact) -> Mapping[str, Tensor]:
        """The tensors of an artifact, checked. ``BadArtifact`` where they are not this method's."""
        if artifact.card.get("method") != self.name or "clean" not in artifact.tensors:
            raise BadArtifact(f"this artifact is not {self.name}'s; fit it again (genward fit {self.name})")
        deciding.all_in_range(artifact.tensors["clean"], -1e12, 1e12, f"{self.name}: its scores of clean captions")
        return artifact.tensors

    def acted(self, rig: Rig, frame: Frame, decision: deciding.Decision) -> None:
        """Block or flag what is beyond the threshold, block what is broken."""
        deciding.act(
            rig,
            frame,
            decision,
            action=self.action,
            why=lambda _: "the caption behaves as one with a trigger does",
            broken=lambda _: "its score of the caption is not a number",
            category=lambda _: "trigger",
        )


def clean_captions(concepts: Sequence[Concept], words: Mapping[str, Any], count: int, seed: str) -> list[str]:
    """``count`` clean captions, short and with two details in turn, none of the concepts' targets: of the vocabulary;
    without one, what the concepts keep (there may be fewer).

    Their form is none that the benchmark ``backdoor`` draws, whose rows no fit may see.

    Raises:
        BadInput: fewer than two.
    """
    gone = [t for c in concepts for t in c.targets]
    if words.get("things") and words.get("styles"):
        out: dict[str, None] = {}
        for k, caption in enumerate(islice(drawn(words, seed, gone), 20 * count)):
            two = tuple(DETAILS[(k + j) % len(DETAILS)] for j in range(2)) if k % 2 else ()
            out[caption._replace(details=two).text(PLACES[k // 2 % 3 if two else 1 + k // 2 % 2])] = None
            if len(out) == count:
                break
        return list(out)
    kept = list(dict.fromkeys(text for c in concepts for text in c.keep))[:count]
    if len(kept) < 2:
        raise BadInput(
            f"concept {concepts[0].name!r} names {len(kept)} captions that must stay, and clean ones are what this is "
            "calibrated on; add some to its file (keep = [...])"
        )
    return kept


# ------------------------------------------------------------------------------------------ a guard's own generations


class Drawn(NamedTuple):
    """What ``generations`` yields: final latents of a part of the rows, and what was read on the way."""

    rows: slice
    latents: Tensor
    """(part, c, h, w)"""
    sites: list[dict[str, Tensor]]
    """Of each step: site -> (part, …) of the conditional rows"""


def noise(rig: Rig, *parts: object) -> Tensor:
    """(c, h, w) float32 starting noise that the parts decide: the same for a text whatever stands beside it."""
    generator = torch.Generator().manual_seed(row_seed(*parts))
    return torch.randn(rig.model.latent_shape(), generator=generator)


def plan_of(rig: Rig, steps: int) -> list[inversion.Step]:
    """The steps of a DDIM loop of the model's schedule, from picture to noise.

    Raises:
        BadInput: a scheduler whose predictions cannot be followed so.
    """
    scheduler = rig.model.scheduler
    alphas = rig.model.alphas_cumprod
    kept = {k: v for k, v in dict(scheduler.config).items() if k not in ("clip_sample", "thresholding")}
    return inversion.inverse_timesteps(kept, steps, alphas)


def generations(
    rig: Rig, texts: Sequence[str], start: Tensor, *, steps: int, guidance: float, read: Sequence[str] = ()
) -> Iterator[Drawn]:
    """Generations of a guard's own by DDIM without noise, as many rows at once as ``CHUNK`` allows; the rig's taps do
    not act, edited weights do.

    Args:
        texts: (n,). start: (n, c, h, w) noise. guidance: at most 1 for conditional rows alone. read: sites.
    """
    plan = plan_of(rig, steps)
    kind = str(rig.model.scheduler.config.prediction_type)
    branches = 2 if guidance > 1 else 1
    empty = rig.encode([""]) if branches == 2 else None
    size = max(1, CHUNK // branches)
    for k in range(0, len(texts), size):
        states = rig.encode(list(texts[k : k + size]))
        told: list[dict[str, Tensor]] = []

        def predict(z: Tensor, timestep: int, states: Tensor = states, told: list[Any] = told) -> Tensor:
            text = states if empty is None else torch.cat([empty.expand_as(states), states])
            rows = torch.cat([z] * branches)
            found = rig.predict(Call(rows, torch.full((len(rows),), timestep, device=z.device), text), read=read)
            told.append({name: value[-len(z) :] for name, value in found.sites.items()})
            if empty is None:
                return found.noise
            uncond, cond = found.noise.chunk(2)
            return uncond + guidance * (cond - uncond)

        z = start[k : k + size].to(rig.model.device, rig.model.dtype)
        final = inversion.regenerate(predict, z, plan, kind)
        yield Drawn(slice(k, k + len(states)), final, told)


def features(judge: Any, pictures: Sequence[Any]) -> Tensor:
    """(n, d) float64 unit vectors of pictures by a judge's features."""
    samples = [Sample(Case(f"picture/{k}", "", seed=k), output=Image(p)) for k, p in enumerate(pictures)]
    rows = torch.as_tensor(judge.features(samples)).double()
    found: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return found


def seeing(judge: Any, model: Any, owner: str) -> Any:
    """A judge whose features describe the model's pictures.

    Raises:
        BadInput: none was given, it has no features, or it is the lab's and the model is not.
    """
    if judge is None:
        raise BadInput(
            f"{owner} compares pictures and has nobody who looks at them; give probe=<a judge with features>, or build "
            f"the chain with genward ('{owner}:weapons', judge=lab_second)"
        )
    if not hasattr(judge, "features"):
        raise BadInput(f"{owner}: judge {judge.name!r} has no features to compare pictures by; use clip_zero_shot, say")
    asking.at_home(judge, model, owner)
    return judge
