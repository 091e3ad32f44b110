"""IRECE (Weng et al., arXiv 2512.22877): find the concept in the latents by cross-attention while sampling, and perturb
it there.

Stated by the paper: at inference, without retraining, on top of an erased model; cross-attention of a standard,
un-erased backbone localizes the concept; the latents of that region are perturbed and the rest is left alone.
Everything else is ours, since neither code nor constants were
found: the localizer's text, layers, steps, thresholds, the perturbation's form and strength, the gate, the
read-out.

The un-erased weights thus stay inside the service. An attacker who holds the weights would simply use those: IRECE
means something only where attackers control inputs (prompts, embeddings, start latents) and not weights.

Why a read-out is fitted (ours): concept words draw attention to any foreground, so their attention alone tells a
picture from its background, and hardly one object from another. Which word, in which layer and head, does tell. ``fit``
therefore learns two linear read-outs of log attention (one a row for the gate, one a cell for the mask) on pictures
that the base model makes of the concept and of what must stay, and calibrates the gate on the benign ones.
``readout="mass"`` keeps to plain attention mass, against benign pictures' mass."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from genward.core.contracts import Artifact, Defense, FitTools, Rig, Window
from genward.core.records import Case, Concept, Frame, Sample, Sampler, row_seed
from genward.errors import BadInput, Inapplicable, WeakFit
from genward.ops import artifacts, deciding, localize, phrases
from genward.ops.localizer import Reader, blank_latents, localizer, refuse_sigmas
from genward.ops.localizer_fit import READOUTS, coverages, gate_rates, learn, observe
from genward.ops.tools import QUIET
from genward.ops.tracing import watched

DECISIONS = ("latch", "each", "first")
CONTROLS = ("concept", "random")


@dataclass(frozen=True)
class Irece:
    """IRECE: finds the concept in the latents with the un-erased model's cross-attention and perturbs it there, row by
    row, behind a calibrated gate."""

    name: ClassVar[str] = "irece"
    extra_nfe: ClassVar[float] = 0.5
    """One row for each active step and localizer: half the steps at the default window."""
    at_attach: ClassVar[frozenset[str]] = frozenset(
        {
            "artifact",
            "strength",
            "form",
            "control",
            "gate",
            "fpr",
            "least",
            "decide",
            "threshold",
            "dilation",
            "readout",
        }
    )
    template: str = "a picture of {}"
    """Text of the localizer, ``{}`` for the phrase."""
    phrases: tuple[str, ...] = ()
    """Phrases to localize, one localizer (and one denoiser row a step) each, their words taken together; empty: the
    names of all targets in one localizer."""
    contrast: tuple[str, ...] | None = None
    """Words behind the concept's own in each localizer's text, which the read-outs weigh against it (ours); by default
    the concept's near neighbors, as many as the encoder reads whole; empty: none."""
    layers: str = r"^up_blocks"
    """Pattern of the cross-attention layers that are read, by the names of their sites."""
    edges: tuple[int, int] = (8, 16)
    """Shorter edge of the maps that are read, in cells, from and to: 8×8 and 16×16 on the lab, 16×16 on Stable
    Diffusion 1.5."""
    during: Window = (0.1, 0.6)
    """Part of the loop in which rows are looked at and perturbed."""
    readout: str = "probe"
    """``probe``: linear read-outs of log attention by layer, head and word, fitted; ``mass``: attention mass on the
    concept's words."""
    threshold: float = 0.5
    """Contrast above which a cell is masked, in standard deviations of benign cells."""
    dilation: int = 1
    """Latent pixels by which a mask is grown."""
    strength: float = 0.5
    """Share of the perturbation (lambda), 0 to 1; 0 leaves everything alone."""
    form: str = "renoise"
    """``renoise`` (variance-preserving), ``noise`` (added) or ``blank`` (a blank picture's latents, noised to the step
    on their own)."""
    gate: bool = True
    """Perturb only rows whose presence statistic exceeds the calibrated threshold; off: every row."""
    fpr: float = 0.1
    """Share of benign rows that the gate may let through to the perturbation, over the whole window."""
    least: float = 0.5
    """Share of the concept's rows that the gate must find at that rate; a fit below it warns."""
    decide: str = "latch"
    """``latch``: a row that fired stays so; ``each``: every step for itself; ``first``: the first active step decides.
    """
    control: str = "concept"
    """``concept``, or ``random``: the same masks flipped and rolled to a random place of each row, as the control arm.
    """
    images: int = 96
    """Pictures of the concept, and as many benign ones, that the base model makes for the fit."""
    sampling_steps: int = 20
    """Steps of that sampling; the read-outs are fitted at the timesteps of the window, others take the nearest."""
    guidance: float = 4.0
    """Guidance of that sampling."""
    templates: tuple[str, ...] = ()
    """Contexts of the captions of the fit, ``{}`` for the phrase; empty: the phrase alone, for a style also a few
    neutral objects in it."""
    shrinkage: float = 0.3
    """Shrinkage of the read-outs' covariance, 0 to 1."""
    seed: int = 0
    """Of the fit's pictures and of the noise; a row's noise also depends on its own start latents, and on nothing of
    its neighbors."""
    artifact: Artifact | None = None
    """What was fitted: localizer states, read-outs, benign and concept statistics."""

    def __post_init__(self) -> None:
        choices = (("readout", READOUTS), ("decide", DECISIONS), ("control", CONTROLS), ("form", localize.FORMS))
        for field, known in choices:
            if vars(self)[field] not in known:
                raise BadInput(f"irece: {field} {vars(self)[field]!r}; {', '.join(map(repr, known))} are possible")
        if not all(0 <= x <= 1 for x in (self.strength, self.shrinkage, self.least)) or not 0 < self.fpr < 1:
            raise BadInput("irece: strength, shrinkage and least must lie in [0, 1], fpr between 0 and 1")
        if not math.isfinite(self.threshold):
            raise BadInput(f"irece: threshold {self.threshold}; a finite number of standard deviations is needed")
        if not 0 <= self.during[0] < self.during[1] <= 1:
            raise BadInput(
                f"irece: window {self.during} is not a part of the loop; give (start, end) with 0 <= start < end <= 1"
            )
        if self.dilation < 0 or self.images < 10 or self.sampling_steps < 1 or not 1 <= self.edges[0] <= self.edges[1]:
            raise BadInput(
                "irece: dilation must be at least 0, images at least 10, sampling_steps at least 1, and edges (from, "
                "to) from 1 up"
            )
        if self.images < 1 / self.fpr - 1:
            raise BadInput(
                f"irece: {self.images} benign pictures cannot show a false-positive rate of {self.fpr:g}; make more "
                "images, or take a higher fpr"
            )
        phrases.fill(self.template, "x")

    def fit(self, model: Any, concept: Concept | Sequence[Concept], tools: FitTools = QUIET) -> Self:
        """Itself with read-outs and a calibrated gate for one or many concepts; the model is not changed, no gradients.

        Costs ``2 · images`` pictures and, for each of them, two localizer rows a step of the window. Progress is in
        pictures. Interrupted, it goes on at the batch of pictures where it was.

        Raises:
            BadInput: a concept without phrases or without anything to keep, or no layer of these edges.
            Conflict: the sampler does not keep the latents' variance (Euler and its kin).
        """
        began = time.perf_counter()
        concepts = phrases.listed(concept)
        refuse_sigmas(model.pipe.scheduler)
        cases, groups = calibration_cases(concepts, self)
        reader = localizer(model, concepts, self)
        seen = observe(model, reader, cases, self, tools)
        tensors, facts = learn(seen, torch.tensor([c.label == "harm" for c in cases]), torch.tensor(groups), self)
        tensors |= {
            "states": reader.states.float(),
            "words": reader.marks(),
            "blank": blank_latents(model),
            "alphas": model.alphas_cumprod.float(),
        }
        card = artifacts.fit_card(
            self, concepts, model, [c.prompt for c in cases], [c.seed for c in cases], time.perf_counter() - began
        )
        card |= {"layers": reader.layers, "localizers": reader.texts, "size": list(reader.size), **facts}
        made = replace(self, artifact=artifacts.make(tensors, card))
        card |= {
            "coverage": coverages(model, made, seen.final, [c.label == "harm" for c in cases]),
            "seconds": round(time.perf_counter() - began, 2),
        }
        found = float(facts["tpr"])
        if self.gate and found < self.least:
            names = ", ".join(c.name for c in concepts)
            told = (
                f"irece:{names}: the gate opens on {100 * found:.0f} % of the concept's pictures at {100 * self.fpr:g} "
                "% of the others, so this defense will do little; name contrast words (what it is taken "
                "for), raise fpr, or switch the gate off"
            )
            tools.say(told)
            warnings.warn(told, WeakFit, stacklevel=2)
        return replace(self, artifact=artifacts.make(tensors, card))

    def limit(self) -> float:
        """The gate's threshold in force, from the benign statistics of the fit and ``fpr``; the stricter of sampled and
        re-noised pictures."""
        if self.artifact is None:
            raise BadInput(
                "irece has learned nothing yet; fit it first (genward fit irece --concept weapons), or name a concept "
                "(irece:weapons)"
            )
        return gate_rates(self.artifact.tensors, self.readout, self.decide, self.fpr)[0]

    def check(self, rig: Rig) -> None:
        """``Conflict`` where the sampler behind the rig does not keep the latents' variance, ``BadArtifact`` where the
        model is not the one that was fitted on."""
        artifacts.refuse_other(self.artifact, getattr(rig, "model", None), self.name)
        refuse_sigmas(rig.model.pipe.scheduler)

    def attach(self, rig: Rig) -> None:
        """Look at the rows before each step of the window. Raises ``BadInput`` without an artifact, ``Conflict`` for
        Euler-like samplers."""
        self.watch(rig, None)

    def acted(self, sample: Sample) -> float:
        """How often it perturbed the latents of a row."""
        return float(sum(sample.notes.get("irece.fired", ())))

    def masks(
        self,
        model: Any,
        cases: Sequence[Case],
        sampler: Sampler,
        before: Sequence[Defense] = (),
        starts: Mapping[str, Tensor] | None = None,
    ) -> list[tuple[int, Tensor]]:
        """See ``trace``."""
        return trace(model, cases, sampler, self, before, starts)

    def watch(self, rig: Rig, seen: list[tuple[Frame, Tensor]] | None) -> None:
        """``attach`` that also hands over what it masks: (frame, masks (rows, h, w) of the gated rows) a step."""
        threshold = self.limit()
        self.check(rig)
        rig.latents(_Loop(self, rig, threshold, seen).before_step)


# ------------------------------------------------------------------------------------------------------------------ fit


def calibration_cases(concepts: Sequence[Concept], settings: Irece) -> tuple[list[Case], list[int]]:
    """Cases of the fit, concept rows then benign ones, and the caption group of each (for folds that keep a caption
    together)."""
    shown = list(dict.fromkeys(c for c, _ in phrases.pairs(concepts, settings.templates)))
    kept = [t for t in phrases.preserved(concepts, settings.templates) if t]
    kept += [a for _, a in phrases.pairs(concepts, settings.templates) if a and a not in kept and a not in shown]
    kept = list(dict.fromkeys(kept))
    if len(shown) < 2 or len(kept) < 2:
        raise BadInput(
            "irece needs at least two phrases of the concept and two of what must stay; add phrases, or keep and "
            "neighbors"
        )
    cases, groups = [], []
    for label, texts in (("harm", shown), ("benign", kept)):
        for k in range(settings.images):
            cases.append(
                Case(
                    f"{label}-{k}", texts[k % len(texts)], label, seed=row_seed("fit", "irece", settings.seed, label, k)
                )
            )
            groups.append(k % len(texts))
    return cases, groups


# ---------------------------------------------------------------------------------------------------------- in the loop


class _Loop:
    """One guard's state: start keys and gate decisions of the batch's cases."""

    def __init__(self, settings: Irece, rig: Any, threshold: float, seen: list[tuple[Frame, Tensor]] | None) -> None:
        assert settings.artifact is not None
        self.settings, self.rig, self.threshold, self.seen = settings, rig, threshold, seen
        self.reader = Reader(settings.artifact)
        self.keys: dict[int, int] = {}
        self.fired: dict[int, bool] = {}

    def before_step(self, latents: Tensor, frame: Frame) -> Tensor:
        s = self.settings
        if frame.step == 0:
            start = latents.detach().float().cpu()
            self.keys = {
                case: row_seed(row.numpy().tobytes().hex())
                for case, row in zip(frame.case.tolist(), start, strict=True)
            }
            self.fired = {}
        begin, end = s.during
        active = [k for k in range(frame.steps) if begin * frame.steps <= k and (end >= 1.0 or k < end * frame.steps)]
        if s.strength == 0 or frame.step not in active:
            if s.strength and not active:
                raise Inapplicable(
                    f"irece: none of {frame.steps} steps lies in the window {s.during}; widen it, or sample with more "
                    "steps"
                )
            return latents
        assert frame.timestep is not None
        statistic, contrast = self.reader.look(self.rig, latents.detach(), frame.timestep, s.readout)
        decision = deciding.decide(
            statistic, self.threshold, len(frame.case), unsound=~torch.isfinite(contrast).flatten(1).all(1)
        )
        fired = self._fired(decision, frame)
        size = (latents.shape[-2], latents.shape[-1])
        mask = localize.masks(contrast, size, s.threshold, s.dilation) & fired.to(contrast.device)[:, None, None]
        if s.control == "random":
            mask = torch.stack([self._elsewhere(m, case) for m, case in zip(mask, frame.case.tolist(), strict=True)])
        self._tell(frame, decision, fired, mask)
        noise = torch.stack([self._noise(latents.shape[1:], case, frame.step) for case in frame.case.tolist()])
        level = self.reader.alphas[int(frame.timestep.reshape(-1)[0])]
        blank = localize.resize(self.reader.blank[None], size)[0]
        return localize.perturb(latents, mask, s.strength, noise, s.form, blank=blank, alpha=level)

    def _fired(self, decision: deciding.Decision, frame: Frame) -> Tensor:
        s = self.settings
        now = decision.hit.cpu() if s.gate else torch.ones(len(frame.case), dtype=torch.bool)
        out = []
        for case, fires in zip(frame.case.tolist(), now.tolist(), strict=True):
            if s.decide == "first":
                fires = self.fired.setdefault(case, fires)
            elif s.decide == "latch":
                fires = self.fired[case] = self.fired.get(case, False) or fires
            out.append(fires)
        return torch.tensor(out)

    def _tell(self, frame: Frame, decision: deciding.Decision, fired: Tensor, mask: Tensor) -> None:
        signals = {"irece.gate": decision.score, "irece.fired": fired.float()}
        self.rig.note(frame, **signals, **{"irece.coverage": mask.float().mean((1, 2))})
        deciding.act(
            self.rig,
            frame,
            decision._replace(hit=fired.to(decision.hit.device)),
            action="steer",
            why=lambda _: "the concept was found in the latents and perturbed there",
            broken=lambda _: f"what the localizer saw at step {frame.step + 1} is not a number",
            category=lambda _: "",
        )
        if self.seen is not None:
            self.seen.append((frame, mask.cpu()))

    def _random(self, *parts: object) -> torch.Generator:
        return torch.Generator().manual_seed(row_seed("irece", self.settings.seed, *parts))

    def _noise(self, shape: Sequence[int], case: int, step: int) -> Tensor:
        return torch.randn(tuple(shape), generator=self._random(self.keys.get(case, 0), step))

    def _elsewhere(self, mask: Tensor, case: int) -> Tensor:
        random = self._random(self.keys.get(case, 0), "place")
        height, width = mask.shape
        shift = (int(torch.randint(height, (1,), generator=random)), int(torch.randint(width, (1,), generator=random)))
        flips = torch.randint(2, (2,), generator=random).bool().tolist()
        return localize.elsewhere(mask, shift, (flips[0], flips[1]))


# --------------------------------------------------------------------------------------------------------------- report


def trace(
    model: Any,
    cases: Sequence[Case],
    sampler: Sampler,
    irece: Irece,
    before: Sequence[Defense] = (),
    starts: Mapping[str, Tensor] | None = None,
) -> list[tuple[int, Tensor]]:
    """The masks of a generation, for the report: (step, uint8 (cases, h, w)) for each active step; zero where the gate
    was closed or the row gone.

    ``before`` are the defenses that IRECE stands on top of, ``starts`` the start latents that cases name.
    """
    out = []
    for frame, mask in watched(model, cases, sampler, irece, before, starts):
        full = torch.zeros(len(cases), *mask.shape[1:], dtype=torch.uint8)
        full[frame.case.cpu()] = mask.to(torch.uint8)
        out.append((frame.step, full))
    return out
