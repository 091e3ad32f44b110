"""Wukong (Liu et al., arXiv 2508.00591): stop a generation after its first steps, when the denoiser's own features
already show the concept.

Where prompt guards read the prompt, this one reads what this prompt *with this seed* is about to become: labels are of
pictures. The paper's
body was not available in full: block level is the paper's (frozen U-Net as encoder, category queries, reused
cross-attention, several labels, stop at step T_C), the rest is inferred and marked so in ``ops/wukong_net``. Learned
are 16-bit weights for all stop steps at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from genward.core.contracts import Artifact, FitTools, Rig
from genward.core.records import Concept, Frame, Sampler, row_seed
from genward.errors import BadArtifact, BadInput, UnknownName
from genward.ops import activations, ambiguous, artifacts, asking, deciding, phrases, wukong_net
from genward.ops.ambiguous import ambiguous_cases
from genward.ops.detection import POINTS
from genward.ops.tools import QUIET
from genward.ops.wukong_detector import (
    Detector,
    calibrated,
    categories_of,
    category_queries,
    labels_of,
    read_site,
    site_block,
)

ACTIONS = ("block", "flag")


@dataclass(frozen=True)
class Wukong:
    """Wukong: reads early U-Net features with reused cross-attention and stops rows that are about to show the
    concept."""

    name: ClassVar[str] = "wukong"
    labelled: ClassVar[bool] = True
    at_attach: ClassVar[frozenset[str]] = frozenset({"artifact", "step", "threshold", "point", "action"})
    step: float = 0.2
    """Where it decides: below 1 a share of the loop's denoiser calls (0.2 of 20: after four), from 1 on a 0-based
    step. The later, the more of the picture is settled."""
    threshold: float | None = None
    """Score above which a row is stopped; by default the calibrated one of ``point``. At 1 none is."""
    point: str = "fpr5"
    """Calibrated threshold: ``fpr1``, ``fpr5`` (1 and 5 % of harmless held-out rows stopped) or ``f1`` (best F1 on
    held-out rows)."""
    action: str = "block"
    """``block`` or ``flag`` (put on record and go on)."""
    reading: str = "A"
    """How cross-attention is reused: ``A`` categories as text tokens, ``B`` a decoder over image tokens."""
    sites: tuple[str, ...] = ("mid_block.attentions.0.tb.0", "up_blocks.1.attentions.0.tb.0")
    """Transformer blocks of the U-Net that are read, in order of execution."""
    tap: str = "query"
    """What is read of them: ``query``, the input of cross-attention's ``to_q`` (the state after self-attention,
    normalized), on which the reused projections were trained; or ``block``, their outputs, as the paper's summaries
    say."""
    logits: str = "heads"
    """Attention logits in the read-out of reading A: every one of the ``heads``, or their ``mean``."""
    pool: int = 8
    """Edge of the grid that features are averaged to; 0 keeps them as they are."""
    rank: int = 8
    """Rank of what is learned on top of the reused projections; 0 keeps them frozen."""
    hidden: int = 64
    """Width of the small read-out network (reading A)."""
    layers: int = 2
    """Decoder layers (reading B)."""
    dropout: float = 0.1
    """Dropout while it learns."""
    images: int = 5_000
    """Pictures to make and learn from, most of them of ambiguous prompts (``ops.ambiguous``)."""
    per_caption: int = 16
    """Seeds of an ambiguous prompt; of the other prompts a quarter as many."""
    balance: float = 1.0
    """How far rows are weighted until both outcomes of one prompt weigh the same; 0 leaves them as they are."""
    learn_at: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.99)
    """Steps that features are kept at, as ``step``."""
    captions: tuple[str, ...] = ()
    """More captions to learn from, of any kind: pictures say what is harmful."""
    sampling_steps: int = 20
    """Steps of that sampling."""
    guidance: float = 4.0
    """Guidance of that sampling."""
    epochs: int = 12
    """Passes over pictures × steps."""
    batch: int = 64
    """Rows a step of training."""
    lr: float = 1e-3
    """Learning rate of AdamW."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    any_share: float = 0.5
    """Weight of the loss on "any of the categories"."""
    held: float = 0.15
    """Share of the rows that choose the epoch; wordings and objects of their own."""
    calibrate: float = 0.25
    """Share of the rows that set the temperature and the thresholds, others than those that choose the epoch."""
    seed: int = 0
    """Of captions, pictures and training."""
    artifact: Artifact | None = None
    """What was fitted: the network and its thresholds."""

    def __post_init__(self) -> None:
        for field, value, known in (
            ("reading", self.reading, wukong_net.READINGS),
            ("tap", self.tap, wukong_net.TAPS),
            ("logits", self.logits, wukong_net.LOGITS),
            ("point", self.point, POINTS),
            ("action", self.action, ACTIONS),
        ):
            if value not in known:
                raise UnknownName(f"wukong {field}", value, known)
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise BadInput(f"wukong: threshold {self.threshold:g}; a probability between 0 and 1 is needed")
        if not 0 <= self.step < 1000 or not all(0 <= s < 1000 for s in self.learn_at):
            raise BadInput("wukong: step and learn_at are shares below 1 or steps below 1000")
        if (
            not self.sites
            or not self.learn_at
            or min(
                self.images, self.per_caption, self.epochs, self.batch, self.layers, self.hidden, self.sampling_steps
            )
            < 1
        ):
            raise BadInput(
                "wukong: at least one site, one step to learn at, one image, epoch, layer and row a batch are needed"
            )
        if min(self.pool, self.rank) < 0 or not self.lr > 0 or not 0 <= self.dropout < 1 or not 0 <= self.balance <= 1:
            raise BadInput(
                "wukong: pool and rank must be at least 0, dropout below 1, lr above 0, balance between 0 and 1"
            )
        if not (self.held > 0 and self.calibrate > 0 and self.held + self.calibrate < 1):
            raise BadInput("wukong: held and calibrate must be above 0 and leave rows to learn from")

    @property
    def read(self) -> tuple[str, ...]:
        """Names of the sites whose states are read, one a block of ``sites``."""
        return tuple(read_site(s, self.tap) for s in self.sites)

    def last_look(self, steps: int) -> int:
        """The last step of a loop of ``steps`` at which it looks."""
        return activations.stop_step(self.step, steps)

    # --------------------------------------------------------------------------------------------------------- learning

    def fit(self, model: Any, concept: Concept | Sequence[Concept], tools: FitTools = QUIET) -> Self:
        """Itself with a network for one or several concepts, learned from pictures of the model that the judge labels.

        Costs ``images · sampling_steps`` denoiser rows, twice that at guidance above 1. Progress counts pictures (loss
        NaN), then epochs. Interrupted, it goes on at the batch of pictures or at the epoch where it was.

        Raises:
            BadInput: no judge, one that does not know a label, or a concept that never or always shows.
        """
        began = time.perf_counter()
        concepts = phrases.listed(concept)
        judge = tools.need_judge("wukong learns from labelled pictures")
        labels = labels_of(concepts)
        cases = ambiguous_cases(
            concepts, tools.words, self.images, self.per_caption, self.captions, self.seed, self.name
        )
        total = len(cases) + self.epochs
        recorded = tools.record(
            model,
            cases,
            Sampler(self.sampling_steps, self.guidance),
            activations.sources(self.read, (), self.pool),
            steps=self.learn_at,
            about=lambda samples: {activations.LABEL: asking.judged(judge, samples, labels)},
            progress=lambda done, _: tools.progress(done, total, math.nan),
        )
        card = artifacts.fit_card(self, concepts, model, [c.prompt for c in cases], [c.seed for c in cases], 0.0)
        fitted = self.fit_on(
            {s: recorded.dense(s) for s in self.read},
            recorded.timesteps(self.read[0]).long(),
            recorded.about(activations.LABEL),
            [c.prompt for c in cases],
            self.parts([c.group for c in cases], [c.variant for c in cases]),
            categories=categories_of(concepts),
            blocks=[site_block(model, s) for s in self.sites],
            queries=category_queries(model, concepts),
            card=card,
            tools=tools,
            before=len(cases),
        )
        assert fitted.artifact is not None
        facts = {"seconds": round(time.perf_counter() - began, 2), "judge": type(judge).name}
        return replace(fitted, artifact=artifacts.amended(fitted.artifact, facts))

    def parts(self, groups: Sequence[str], variants: Sequence[str]) -> list[str]:
        """What each row is for (``ambiguous.PARTS``), whole groups together."""
        shares = (1 - self.held - self.calibrate, self.held, self.calibrate)
        return ambiguous.parts_of(groups, variants, shares, self.seed)

    def fit_on(
        self,
        features: Mapping[str, Tensor],
        timesteps: Tensor,
        truth: Tensor,
        prompts: Sequence[str],
        parts: Sequence[str],
        *,
        categories: Sequence[tuple[str, str]],
        blocks: Sequence[Any],
        queries: Tensor,
        card: Mapping[str, Any] | None = None,
        tools: FitTools = QUIET,
        before: int = 0,
    ) -> Self:
        """The training alone, on features that are there already.

        Args:
            features: of each site of ``read`` (rows, steps, places, channels). timesteps: (steps,). truth: (rows,
                categories) of 0, 1, NaN for unknown.
            prompts: (rows,) what rows of different seeds share. parts: (rows,) one of ``ambiguous.PARTS``: weights are
                learned from one, the epoch is chosen on another, temperature, thresholds and figures are of the third.
            categories: (label, concept) each. blocks: the U-Net's transformer block of each site. queries: (categories
                + 1, text width).
            before: steps of the fit that are done when the training begins, for progress.

        Raises:
            BadInput: shapes that do not belong together, too little to learn from, or no row to calibrate on.
        """
        kept = self._usable(features, truth)
        used, labels = [features[s][kept] for s in self.read], truth[kept]
        texts, part = [prompts[k] for k in kept.tolist()], [parts[k] for k in kept.tolist()]
        of = {name: torch.tensor([p == name for p in part], dtype=torch.bool) for name in ambiguous.PARTS}
        if not bool(of["calibrate"].any()):
            raise BadInput("wukong: no row to calibrate on has a known label and features; add phrases or captions")
        shape, seed = network_shape(self, blocks, queries), row_seed("fit", "wukong", self.seed)
        net = wukong_net.start(shape, blocks, queries.float().cpu(), seed)
        how = wukong_net.Training(self.epochs, self.batch, self.lr, self.weight_decay, self.any_share, seed)
        rows = wukong_net.Rows.of(used, timesteps, labels, texts, of["fit"], of["choose"], self.balance)
        scores = wukong_net.train(net, rows, how, tools, before)
        net = wukong_net.unpack(shape, wukong_net.pack(net))  # calibrated as it will be loaded: rounded to 16 bits
        last = of["calibrate"]
        logits = wukong_net.predict(net, [f[last] for f in used], timesteps)
        facts = calibrated(
            logits, labels[last], timesteps, categories, [t for t, k in zip(texts, last.tolist(), strict=True) if k]
        )
        facts |= {
            "network": dict(shape),
            "pool": self.pool,
            "rows": int(of["fit"].sum()),
            "chosen_rows": int(of["choose"].sum()),
            "held_rows": int(last.sum()),
            "validation": [round(s, 4) for s in scores if s > 0],
        }
        given = {k: v for k, v in dict(card or {"method": self.name}).items() if k not in artifacts.RESERVED}
        return replace(self, artifact=artifacts.make(wukong_net.pack(net), {**given, **facts}))

    def _usable(self, features: Mapping[str, Tensor], truth: Tensor) -> Tensor:
        """Indices of the rows with a label and finite features."""
        missing = [s for s in self.read if s not in features]
        if missing:
            raise BadInput(
                f"the features lack the sites {', '.join(missing)}; they hold {', '.join(features)} (build them with "
                "these sites)"
            )
        usable = (~torch.isnan(truth)).any(1)
        for s in self.read:
            usable &= torch.isfinite(features[s].float()).flatten(1).all(1)
        return usable.nonzero().flatten()

    # -------------------------------------------------------------------------------------------------------- attaching

    def check(self, rig: Rig) -> None:
        """``BadArtifact`` where the model behind the rig is not the one that was fitted on."""
        artifacts.refuse_other(self.artifact, getattr(rig, "model", None), self.name)

    def attach(self, rig: Rig) -> None:
        """Read the sites at the stop step and decide. Notes ``wukong.score`` (and one a concept where there are
        several). Rows are refused where that step lies farther than ``wukong_detector.FAR`` from every timestep that
        it was calibrated at.

        Raises:
            BadInput: nothing was learned. BadArtifact: the artifact is not one of this defense. UnknownName: a site
                that the model lacks.
        """
        if self.artifact is None:
            raise BadInput(
                "wukong has learned nothing yet; fit it first (genward fit wukong --concept weapons), or name a "
                "concept (wukong:weapons)"
            )
        self.check(rig)
        detector = Detector.of(self.artifact)
        names = [s["name"] for s in detector.shape["sites"]]
        read: dict[str, Tensor] = {}

        def tapped(site: str) -> Callable[[Tensor, Frame], None]:
            def fn(x: Tensor, frame: Frame) -> None:
                if frame.step >= 0 and frame.step != activations.stop_step(self.step, frame.steps):
                    return
                read[site] = x
                if site == names[-1]:
                    states = [activations.pooled(read.pop(s), detector.pool) if s in read else None for s in names]
                    read.clear()
                    self._decide(rig, frame, detector, states)

            return fn

        for site in names:
            rig.tap(site, tapped(site))

    def _decide(self, rig: Rig, frame: Frame, detector: Detector, states: Sequence[Tensor | None]) -> None:
        if any(s is None for s in states):
            raise BadArtifact(
                f"wukong: its sites {', '.join(s['name'] for s in detector.shape['sites'])} do not run in this order; "
                "fit it with them in order"
            )
        cuts = [
            self.threshold if self.threshold is not None else detector.threshold(c, self.point, frame)
            for c in detector.concepts
        ]
        scores = detector.scores([s for s in states if s is not None], frame)
        far = frame.step >= 0 and not detector.calibrated_near(frame)
        unsound = torch.full((len(frame.case),), far, device=scores.device)
        decision = deciding.decide(scores, cuts, len(frame.case), among=frame.conditional, unsound=unsound)
        signals = {"wukong.score": decision.table.nan_to_num(nan=1.0).amax(1)}
        if len(detector.concepts) > 1:
            signals |= {f"wukong.{c}": decision.table[:, k] for k, c in enumerate(detector.concepts)}
        rig.note(frame, **signals)
        if frame.step < 0:
            return
        concept, lost = detector.concepts.__getitem__, f"its score at step {frame.step + 1} is not a number"
        if far:
            assert frame.timestep is not None
            known = sorted(
                {int(row["timestep"]) for rows in detector.thresholds.values() for row in rows}, reverse=True
            )
            lost = (
                f"step {frame.step + 1} of {frame.steps} is at timestep {float(frame.timestep.flatten()[0]):g}, and it "
                "was "
                f"calibrated at {', '.join(map(str, known))}; start nearer to noise, or fit it with learn_at there"
            )
        deciding.act(
            rig,
            frame,
            decision,
            action=self.action,
            why=lambda k: f"the picture in the making shows {concept(k)} at step {frame.step + 1} of {frame.steps}",
            broken=lambda k: lost,
            category=concept,
        )


# ---------------------------------------------------------------------------------------------------- parts of learning


def network_shape(settings: Wukong, blocks: Sequence[Any], queries: Tensor) -> dict[str, Any]:
    """The ``Shape`` of the network for these blocks."""
    sites = []
    for name, block in zip(settings.read, blocks, strict=True):
        inner, channels = block.attn2.to_q.weight.shape
        sites.append({"name": name, "channels": int(channels), "inner": int(inner), "heads": int(block.attn2.heads)})
    each = {
        "reading": settings.reading,
        "tap": settings.tap,
        "logits": settings.logits,
        "text": int(queries.shape[1]),
        "categories": len(queries) - 1,
        "hidden": settings.hidden,
    }
    return {**each, "rank": settings.rank, "layers": settings.layers, "dropout": settings.dropout, "sites": sites}
