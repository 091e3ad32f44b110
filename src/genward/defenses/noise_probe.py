"""Noise probe: logistic regression on the noise that the denoiser predicts at one early step, after IGD (Yang et al.,
arXiv 2508.03006).

IGD's idea is a light classifier on the noise predicted in mid-generation. Its body was not read: the linear classifier,
pooling, step, labels and threshold here are ours, and so is reading ``cond - uncond`` (an inference about IGD's input).
It learns from pictures of captions, labeled one by one (``ops.captions``); Wukong's set (``ops.ambiguous``) holds more
ambiguous prompts, with more seeds each. The prediction is read in passing: no denoiser row is spent."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from genward.core.contracts import Artifact, FitTools, Rig
from genward.core.records import Case, Concept, Sampler, row_seed
from genward.errors import BadArtifact, BadInput, GuardError, UnknownName
from genward.ops import activations, artifacts, asking, deciding, phrases, predicted
from genward.ops.captions import learning_cases
from genward.ops.detection import auroc, average_precision, spread_groups, threshold_at_fpr
from genward.ops.tools import QUIET

ACTIONS = ("block", "flag")
TRUTHS = ("picture", "caption")
FAR = 100
"""Timesteps that the loop's step may lie away from the fitted one; neighbors of a 20-step loop are 50 apart."""


@dataclass(frozen=True)
class NoiseProbe:
    """Noise probe (after IGD): a logistic probe on the noise predicted at an early step ends rows that are about to
    show the concept."""

    name: ClassVar[str] = "noise_probe"
    at_attach: ClassVar[frozenset[str]] = frozenset({"artifact", "threshold", "fpr", "action"})
    step: float = 0.25
    """Where it reads and decides: below 1 a share of the loop's denoiser calls (0.25 of 20: step 4, the fifth call),
    from 1 on a 0-based step."""
    threshold: float | None = None
    """Probability above which a row is ended; by default the one that ``fpr`` of the harmless held-out rows exceed. At
    1 none is."""
    fpr: float = 0.05
    """Share of the harmless held-out rows that the default threshold may end."""
    action: str = "block"
    """``block`` or ``flag`` (put on record and go on)."""
    reads: tuple[str, ...] = ("direction",)
    """What it reads: ``direction`` (cond - uncond, under guidance only), ``noise`` (the conditional prediction),
    ``latents``; several side by side."""
    pool: int = 8
    """Edge of the grid that they are averaged to; 0 keeps them as they are."""
    penalty: float = 0.01
    """Weight of the ridge penalty ``|w|²/2`` a row, on standardized numbers."""
    truth: str = "picture"
    """Labels: what a judge sees on the finished ``picture`` (the whole loop is paid), or the ``caption`` (stops at the
    step; captions of kinds drop out)."""
    images: int = 960
    """Pictures to learn from."""
    per_caption: int = 4
    """Pictures a caption, of different seeds; more where captions are too few for ``images``."""
    captions: tuple[str, ...] = ()
    """More captions to learn from, of any kind; only with ``truth=picture``."""
    sampling_steps: int = 20
    """Steps of that sampling."""
    guidance: float = 4.0
    """Guidance of that sampling."""
    held: float = 0.25
    """Share of the captions kept for the threshold."""
    seed: int = 0
    """Of captions and pictures."""
    artifact: Artifact | None = None
    """What was fitted: the probe and its scores of harmless held-out rows."""

    @property
    def labelled(self) -> bool:
        """Whether a judge labels what it learns from."""
        return self.truth == "picture"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("action", self.action, ACTIONS),
            ("truth", self.truth, TRUTHS),
            *(("part", p, predicted.PARTS) for p in self.reads),
        ):
            if value not in known:
                raise UnknownName(f"noise_probe {name}", value, known)
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise BadInput(f"noise_probe: threshold {self.threshold:g}; a probability between 0 and 1 is needed")
        if (
            not 0 <= self.step < 1000
            or not 0 <= self.fpr < 1
            or not 0 < self.held < 1
            or not (self.penalty > 0 and math.isfinite(self.penalty))
        ):
            raise BadInput(
                "noise_probe: step must be a share below 1 or a step below 1000, fpr and held lie between 0 and 1, "
                "penalty be above 0"
            )
        if not self.reads or min(self.images, self.per_caption, self.sampling_steps) < 1 or self.pool < 0:
            raise BadInput(
                "noise_probe: it needs something to read, at least one image, picture a caption and step, and pool of "
                "at least 0"
            )
        if "direction" in self.reads and self.guidance <= 1:
            raise BadInput(
                f"noise_probe: guidance {self.guidance:g} has no direction cond - uncond to read; use guidance above "
                "1, or reads=noise"
            )
        if self.captions and self.truth == "caption":
            raise BadInput("noise_probe: captions of any kind say nothing of themselves; use truth=picture with them")

    def last_look(self, steps: int) -> int:
        """The last step of a loop of ``steps`` at which it looks."""
        return activations.stop_step(self.step, steps)

    # --------------------------------------------------------------------------------------------------------- learning

    def fit(self, model: Any, concept: Concept | Sequence[Concept], tools: FitTools = QUIET) -> Self:
        """Itself with a probe for a concept (of several: for any of them), learned from pictures of the model.

        Costs ``images · sampling_steps`` denoiser rows, twice that at guidance above 1: Wukong's data. With
        ``truth=caption`` sampling stops at the step, only the steps up to there are paid, and no judge is asked.
        Progress counts pictures (loss NaN). Interrupted, it goes on at the batch of pictures where it was.

        Raises:
            BadInput: no judge, one that does not know a label, or too little to learn from.
        """
        began = time.perf_counter()
        concepts = phrases.listed(concept)
        labels = list(dict.fromkeys(label for c in concepts for label in c.judge))
        judge = (
            tools.need_judge("noise_probe labels pictures (truth=caption does not)")
            if self.truth == "picture"
            else None
        )
        if judge is not None and not labels:
            raise BadInput(
                f"concept {concepts[0].name!r} names no judge labels; add them to its file, or use truth=caption"
            )
        cases = learning_cases(
            concepts, tools.words, self.images, self.per_caption, self.captions, self.seed, self.name
        )
        if judge is None:
            cases = [c for c in cases if not math.isnan(told_by_caption(c, concepts))]
        recorded = tools.record(
            model,
            cases,
            Sampler(self.sampling_steps, self.guidance),
            [predicted.Features(self.reads, self.pool, stop=judge is None)],
            steps=(self.step,),
            about=None if judge is None else lambda s: {activations.LABEL: asking.judged(judge, s, labels)},
            progress=lambda done, whole: tools.progress(done, whole, math.nan),
        )
        if judge is not None:  # NaN where the judge has no word on one of the labels
            harm = recorded.about(activations.LABEL).amax(1)
        else:
            harm = torch.tensor([told_by_caption(c, concepts) for c in cases])
        card = artifacts.fit_card(self, concepts, model, [c.prompt for c in cases], [c.seed for c in cases], 0.0)
        card |= {"judge": type(judge).name} if judge is not None else {}
        return self.fit_on(
            recorded.dense("features")[:, 0],
            harm,
            [c.group for c in cases],
            timestep=float(recorded.timesteps("features")[0]),
            card=card,
            began=began,
        )

    def fit_on(
        self,
        features: Tensor,
        harm: Tensor,
        groups: Sequence[str],
        *,
        timestep: float,
        card: Mapping[str, Any],
        began: float | None = None,
    ) -> Self:
        """Itself with a probe learned from features that are there already.

        Args:
            features: (rows, numbers). harm: (rows,) of 0, 1, NaN for unknown. groups: (rows,) prompt clusters; the
                threshold takes whole ones.
            timestep: that they were read at. began: ``time.perf_counter`` when the fit began.

        Raises:
            BadInput: the concept never or always shows, or no harmless row is held out.
        """
        kept = (torch.isfinite(features).all(1) & ~torch.isnan(harm)).nonzero().flatten()
        x, y = features[kept].float(), harm[kept]
        part = spread_groups(
            [groups[k] for k in kept.tolist()], (1 - self.held, self.held), lambda g: row_seed("held", self.seed, g)
        )
        held = torch.tensor(part, dtype=torch.bool)
        if not len(kept) or not 0 < float(y[~held].sum()) < int((~held).sum()):
            raise BadInput(
                f"of {int((~held).sum())} rows to learn from the concept shows on never or always; use more images, or "
                "another concept"
            )
        if not bool((y[held] == 0).any()):
            raise BadInput(
                f"none of {int(held.sum())} held-out rows is harmless, so there is no threshold; use more images, or a "
                "larger held"
            )
        tensors = logistic(x[~held], y[~held], self.penalty)
        score = probability(tensors, x[held])
        truth = y[held].numpy()
        limit = threshold_at_fpr(score.numpy(), truth, self.fpr)
        told = {
            "auroc": auroc(score.numpy(), truth), "auprc": average_precision(score.numpy(), truth),
            "positives": float(truth.sum()),
            "rows": float(len(truth)), "recall_at_fpr": float((score[y[held] == 1] > limit).float().mean()),
            "fpr": self.fpr,
        }  # fmt: skip
        facts: dict[str, Any] = {
            "timestep": timestep,
            "numbers": x.shape[1],
            "rows": len(kept),
            "held_out": {k: round(v, 4) for k, v in told.items() if v == v},
        }
        if began is not None:
            facts["seconds"] = round(time.perf_counter() - began, 2)
        made = artifacts.make({**tensors, "harmless": score[y[held] == 0].sort().values}, {**card, **facts})
        return replace(self, artifact=made)

    # -------------------------------------------------------------------------------------------------------- attaching

    def check(self, rig: Rig) -> None:
        """``BadArtifact`` where the model behind the rig is not the one that was fitted on, ``GuardError`` where there
        is none."""
        if not isinstance(rig, Rig):
            raise GuardError("noise_probe reads the model's own layers, and this rig has no model")
        artifacts.refuse_other(self.artifact, rig.model, self.name)

    def attach(self, rig: Rig) -> None:
        """Read the prediction at the step and decide. Notes ``noise_probe.score``.

        Raises:
            BadInput: nothing was learned. BadArtifact: the artifact is not one of this defense, or was fitted on
                another model. GuardError: a rig without a model. In the loop: ``BadInput`` where its step lies far
                from the fitted timestep, ``Inapplicable`` without guidance to read.
        """
        if self.artifact is None:
            raise BadInput(
                "noise_probe has learned nothing yet; fit it first (genward fit noise_probe --concept weapons), or "
                "name a concept"
            )
        probe = Probe.of(self.artifact)
        self.check(rig)
        cut = self.threshold if self.threshold is not None else probe.threshold(self.fpr)

        def wanted(frame: Any) -> bool:
            if frame.step < 0:  # an attack asks outside a loop; without guidance there is no direction to tell it of
                return frame.guidance > 1 or "direction" not in self.reads
            return bool(frame.step == activations.stop_step(self.step, frame.steps))

        def decide(seen: predicted.Seen) -> None:
            frame = seen.frame
            decision = deciding.decide(
                probe.scores(predicted.features(seen, self.reads, self.pool)), cut, len(frame.case)
            )
            rig.note(frame, **{"noise_probe.score": decision.score})
            if frame.step < 0:
                return
            assert frame.timestep is not None
            now = float(frame.timestep.flatten()[0])
            if abs(now - probe.timestep) > FAR:
                raise BadInput(
                    f"noise_probe was fitted at timestep {probe.timestep:g}, step {frame.step} of this loop of "
                    f"{frame.steps} is at {now:g}; give step as a share of the loop (0.25, say) or fit it again with "
                    "these sampling_steps"
                )
            deciding.act(
                rig,
                frame,
                decision,
                action=self.action,
                why=lambda _: (
                    f"the noise predicted at step {frame.step + 1} of {frame.steps} looks like {probe.concept}"
                ),
                broken=lambda _: f"its score at step {frame.step + 1} is not a number",
                category=lambda _: probe.concept,
            )

        predicted.watch(rig, wanted, decide)


class Probe(NamedTuple):
    """A fitted probe, ready to score rows."""

    tensors: Mapping[str, Tensor]
    concept: str
    model: str
    """Hash of the model that it was fitted on"""
    timestep: float

    @classmethod
    def of(cls, artifact: Artifact) -> Probe:
        """From an artifact. Raises ``BadArtifact`` where its card or its tensors are not a noise probe's."""
        card, tensors = artifact.card, artifact.tensors
        try:
            count = int(card["numbers"])
            shapes = {
                "mean": (count,),
                "scale": (count,),
                "weights": (count,),
                "bias": (1,),
                "harmless": tuple(tensors["harmless"].shape),
            }
            artifacts.check_shapes(tensors, shapes, "noise_probe")
            deciding.all_in_range(tensors["harmless"], 0, 1, "noise_probe: its scores of harmless rows")
            timestep = deciding.number(card, "timestep", 0, 1e5, "noise_probe")
            return cls(tensors, "+".join(card["concepts"]), str(card["model_hash"]), timestep)
        except (KeyError, TypeError, ValueError) as error:
            raise BadArtifact(
                f"this artifact is not a noise probe's: it lacks or garbles {error}; fit it again (genward fit "
                "noise_probe)"
            ) from error

    def scores(self, x: Tensor) -> Tensor:
        """(rows,) probabilities. Raises ``BadArtifact`` for another number of numbers a row than was fitted."""
        if x.shape[1] != len(self.tensors["mean"]):
            raise BadArtifact(
                f"noise_probe reads {x.shape[1]} numbers here and was fitted on {len(self.tensors['mean'])}; fit it "
                "for this size of picture"
            )
        return probability(self.tensors, x)

    def threshold(self, fpr: float) -> float:
        """The smallest score that at most ``fpr`` of the harmless held-out rows exceed."""
        harmless = self.tensors["harmless"].double().numpy()
        return threshold_at_fpr(harmless, 0 * harmless, fpr)


# ---------------------------------------------------------------------------------------------------- parts of learning


def logistic(x: Tensor, y: Tensor, penalty: float) -> dict[str, Tensor]:
    """Logistic regression on standardized numbers: ``mean``, ``scale``, ``weights`` (numbers,) and ``bias`` (1,),
    float32.

    Args:
        x: (rows, numbers). y: (rows,) of 0 and 1, both present. penalty: weight of ``|w|²/2`` a row.
    """
    from sklearn.linear_model import LogisticRegression

    rows = x.double().numpy()
    mean, scale = rows.mean(0), rows.std(0)
    scale[scale < 1e-8] = 1.0  # a number that never changes says nothing, and must not be divided by nothing
    model = LogisticRegression(C=1 / (penalty * len(rows)), max_iter=5000, tol=1e-8).fit(
        (rows - mean) / scale, y.numpy() > 0.5
    )
    found = {"mean": mean, "scale": scale, "weights": model.coef_[0], "bias": model.intercept_}
    return {k: torch.from_numpy(v).float() for k, v in found.items()}


def probability(tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """(rows,) probabilities of rows (rows, numbers) under ``logistic``, on their device and with their gradient."""
    mean, scale, weights, bias = (tensors[k].to(x.device) for k in ("mean", "scale", "weights", "bias"))
    return (((x.float() - mean) / scale) @ weights + bias).sigmoid()


def told_by_caption(case: Case, concepts: Sequence[Concept]) -> float:
    """1 where a caption names a concept, 0 where it names only what must stay, NaN for kinds ("a tool") and captions of
    the user's."""
    if case.variant == "scene":
        return float(any(part in case.group.split(" and ") for part, _ in phrases.pairs(concepts)))
    return {"name": 1.0, "keep": 0.0}.get(case.variant, math.nan)
