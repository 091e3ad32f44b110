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
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from genward.core.contracts import Artifact, Rig
from genward.core.records import Concept, Frame, Sampler, row_seed
from genward.errors import BadArtifact, BadInput, UnknownName
from genward.ops import artifacts, early, phrases, wukong_net
from genward.ops.captions import learning_cases
from genward.ops.detection import POINTS, auroc, average_precision, operating_points, spread_groups, temperature
from genward.ops.finetune import Progress

ACTIONS = ("block", "flag")


@dataclass(frozen=True)
class Wukong:
    """Wukong: reads early U-Net features with reused cross-attention and stops rows that are about to show the
    concept."""

    name: ClassVar[str] = "wukong"
    kind: ClassVar[str] = "guard"
    fits: ClassVar[bool] = True
    needs_guidance: ClassVar[bool] = False
    extra_nfe: ClassVar[float] = 0.0
    at_attach: ClassVar[frozenset[str]] = frozenset({"artifact", "step", "threshold", "point", "action"})
    step: float = 0.08
    """Where it decides: below 1 a share of the loop's denoiser calls (0.08 of 50: after four), from 1 on a 0-based
    step."""
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
    images: int = 960
    """Pictures to make and learn from."""
    per_caption: int = 4
    """Pictures a caption, of different seeds; more where captions are too few for ``images``."""
    learn_at: tuple[float, ...] = (0.0, 0.1, 0.2, 0.4, 0.99)
    """Steps that features are kept at, as ``step``."""
    captions: tuple[str, ...] = ()
    """More captions to learn from, of any kind: pictures say what is harmful."""
    sampling_steps: int = 20
    """Steps of that sampling."""
    guidance: float = 4.0
    """Guidance of that sampling."""
    epochs: int = 20
    """Passes over pictures × steps."""
    batch: int = 64
    """Rows a step of training."""
    lr: float = 1e-3
    """Learning rate of AdamW."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    any_share: float = 0.5
    """Weight of the loss on "any of the categories"."""
    held: float = 0.25
    """Share of the captions kept for choosing the epoch, the temperature and the thresholds."""
    seed: int = 0
    """Of captions, pictures and training."""
    artifact: Artifact | None = None
    """What was fitted: the network and its thresholds."""

    def __post_init__(self) -> None:
        for field, value, known in (
            ("reading", self.reading, wukong_net.READINGS),
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
        if min(self.pool, self.rank) < 0 or not 0 < self.held < 1 or not self.lr > 0 or not 0 <= self.dropout < 1:
            raise BadInput(
                "wukong: pool and rank must be at least 0, held between 0 and 1, dropout below 1, lr above 0"
            )

    def last_look(self, steps: int) -> int:
        """The last step of a loop of ``steps`` at which it looks."""
        return early.stop_step(self.step, steps)

    # --------------------------------------------------------------------------------------------------------- learning

    def fit(
        self,
        model: Any,
        concept: Concept | Sequence[Concept],
        progress: Progress | None = None,
        judge: Any = None,
        words: Mapping[str, Any] | None = None,
    ) -> Self:
        """Itself with a network for one or several concepts, learned from pictures of the model that ``judge`` labels.

        Costs ``images · sampling_steps`` denoiser rows, twice that at guidance above 1. ``progress`` counts pictures
        (loss NaN), then epochs.

        Args:
            judge: says which of the concepts' labels a picture shows. words: the model's vocabulary
                (``catalog.opening.words_of``), for kinds and styles.

        Raises:
            BadInput: no judge, one that does not know a label, or a concept that never or always shows.
        """
        began = time.perf_counter()
        concepts = phrases.listed(concept)
        if judge is None:
            raise BadInput(
                "wukong learns from labelled pictures and was given no judge; genward fit passes the lab's, in Python "
                "give fit(…, judge=…)"
            )
        cases = learning_cases(
            concepts, words or {}, self.images, self.per_caption, self.captions, self.seed, self.name
        )
        told = _telling(progress, len(cases), self.epochs)
        found = early.collect(
            model,
            cases,
            Sampler(self.sampling_steps, self.guidance),
            sites=self.sites,
            steps=self.learn_at,
            pool=self.pool,
            progress=(lambda done, whole: told(done, float("nan"))) if told else None,
        )
        truth = early.judged(judge, found.samples, labels_of(concepts))
        groups = [c.group for c in cases]
        card = artifacts.fit_card(self, concepts, model, [c.prompt for c in cases], [c.seed for c in cases], 0.0)
        fitted = self.fit_on(
            {s: found.states[s] for s in self.sites},
            found.timesteps,
            truth,
            groups,
            categories=categories_of(concepts),
            blocks=[site_block(model, s) for s in self.sites],
            queries=category_queries(model, concepts),
            card=card,
            progress=(lambda step, steps, loss: told(len(cases) + step, loss)) if told else None,
        )
        assert fitted.artifact is not None
        finished = {**fitted.artifact.card, "seconds": round(time.perf_counter() - began, 2), "judge": type(judge).name}
        return replace(
            fitted,
            artifact=artifacts.make(
                fitted.artifact.tensors, {k: v for k, v in finished.items() if k not in artifacts.RESERVED}
            ),
        )

    def fit_on(
        self,
        features: Mapping[str, Tensor],
        timesteps: Tensor,
        truth: Tensor,
        groups: Sequence[str],
        *,
        categories: Sequence[tuple[str, str]],
        blocks: Sequence[Any],
        queries: Tensor,
        card: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """The training alone, on features that are there already.

        Args:
            features: site -> (rows, steps, places, channels). timesteps: (steps,). truth: (rows, categories) of 0, 1,
                NaN for unknown.
            groups: (rows,) prompt clusters; validation takes whole ones.
            categories: (label, concept) each. blocks: the U-Net's transformer block of each site. queries: (categories
                + 1, text width).

        Raises:
            BadInput: shapes that do not belong together, or too little to learn from.
        """
        missing = [s for s in self.sites if s not in features]
        if missing:
            raise BadInput(
                f"the features lack the sites {', '.join(missing)}; they hold {', '.join(features)} (build them with "
                "these sites)"
            )
        usable = (~torch.isnan(truth)).any(1)
        for s in self.sites:
            usable &= torch.isfinite(features[s].float()).flatten(1).all(1)
        kept = usable.nonzero().flatten()
        used, labels = [features[s][kept] for s in self.sites], truth[kept]
        part = spread_groups(
            [groups[k] for k in kept.tolist()], (1 - self.held, self.held), lambda g: row_seed("held", self.seed, g)
        )
        held = torch.tensor(part, dtype=torch.bool)
        shape = network_shape(self, blocks, queries)
        net = wukong_net.start(shape, blocks, queries.float().cpu(), row_seed("fit", "wukong", self.seed))
        scores = wukong_net.train(
            net,
            used,
            timesteps,
            labels,
            held,
            epochs=self.epochs,
            batch=self.batch,
            lr=self.lr,
            weight_decay=self.weight_decay,
            any_share=self.any_share,
            seed=row_seed("fit", "wukong", self.seed),
            progress=progress,
        )
        net = wukong_net.unpack(shape, wukong_net.pack(net))  # calibrated as it will be loaded: rounded to 16 bits
        judged_on = held if bool(held.any()) else ~held
        logits = wukong_net.predict(net, [f[judged_on] for f in used], timesteps)
        facts = calibrated(logits, labels[judged_on], timesteps, categories)
        facts |= {
            "network": dict(shape),
            "pool": self.pool,
            "rows": len(kept),
            "held_rows": int(held.sum()),
            "validation": [round(s, 4) for s in scores if s > 0],
        }
        given = {k: v for k, v in dict(card or {"method": self.name}).items() if k not in artifacts.RESERVED}
        return replace(self, artifact=artifacts.make(wukong_net.pack(net), {**given, **facts}))

    # -------------------------------------------------------------------------------------------------------- attaching

    def attach(self, rig: Rig) -> None:
        """Read the sites at the stop step and decide. Notes ``wukong.score`` (and one a concept where there are
        several).

        Raises:
            BadInput: nothing was learned. BadArtifact: the artifact is not one of this defense. UnknownName: a site
                that the model lacks.
        """
        if self.artifact is None:
            raise BadInput(
                "wukong has learned nothing yet; fit it first (genward fit wukong --concept weapons), or name a "
                "concept (wukong:weapons)"
            )
        detector = Detector.of(self.artifact)
        names = [s["name"] for s in detector.shape["sites"]]
        read: dict[str, Tensor] = {}

        def tapped(site: str) -> Callable[[Tensor, Frame], None]:
            def fn(x: Tensor, frame: Frame) -> None:
                if frame.step >= 0 and frame.step != early.stop_step(self.step, frame.steps):
                    return
                read[site] = x
                if site == names[-1]:
                    states = [early.pooled(read.pop(s), detector.pool) if s in read else None for s in names]
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
        scores = detector.scores([s for s in states if s is not None], frame)
        worst, which = scores.nan_to_num(nan=1.0).max(1)
        signals = {"wukong.score": worst}
        if len(detector.concepts) > 1:
            signals |= {f"wukong.{c}": scores[:, k] for k, c in enumerate(detector.concepts)}
        rig.note(frame, **signals)
        if frame.step < 0:
            return
        broken = frame.conditional.to(scores.device) & ~torch.isfinite(scores).all(1)
        if bool(broken.any()):
            nothing = torch.full_like(worst, math.nan)  # so that no policy takes it for a decision that may be flagged
            rig.block(frame, broken, f"its score at step {frame.step + 1} is not a number", score=nothing)
        cuts = [
            self.threshold if self.threshold is not None else detector.threshold(c, self.point, frame)
            for c in detector.concepts
        ]
        over = scores - scores.new_tensor(cuts)
        first = over.argmax(1)
        for k, concept in enumerate(detector.concepts):
            hit = frame.conditional.to(scores.device) & ~broken & (over[:, k] > 0) & (first == k)
            if not bool(hit.any()):
                continue
            why = f"the picture in the making shows {concept} at step {frame.step + 1} of {frame.steps}"
            act = rig.block if self.action == "block" else rig.flag
            act(frame, hit, why, score=scores[:, k], threshold=float(cuts[k]), category=concept)


class Detector(NamedTuple):
    """A fitted network, ready to score rows."""

    net: torch.nn.Module
    shape: Mapping[str, Any]
    pool: int
    concepts: tuple[str, ...]
    of_concept: tuple[int, ...]
    """(categories,) index of each category's concept"""
    temperature: float
    thresholds: Mapping[str, Sequence[Mapping[str, float]]]

    @classmethod
    def of(cls, artifact: Artifact) -> Detector:
        """From an artifact. Raises ``BadArtifact`` where its card or its weights are not a Wukong detector's."""
        card = artifact.card
        try:
            shape = dict(card["network"])
            concepts = tuple(dict.fromkeys(c for _, c in card["categories"]))
            of_concept = tuple(concepts.index(c) for _, c in card["categories"])
            net = wukong_net.unpack(shape, artifact.tensors)
            return cls(
                net, shape, int(card["pool"]), concepts, of_concept, float(card["temperature"]), card["thresholds"]
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadArtifact(
                f"this artifact is not a Wukong detector's: its card lacks or garbles {error}; fit it again (genward "
                "fit wukong)"
            ) from error

    def scores(self, states: Sequence[Tensor], frame: Frame) -> Tensor:
        """Probabilities (rows of the frame, concepts); 0 on unconditional rows. A concept's is the largest of its
        categories'.

        Raises:
            BadArtifact: the features have another width than those it was fitted on.
        """
        for x, site in zip(states, self.shape["sites"], strict=True):
            if x.ndim != 3 or x.shape[-1] != site["channels"]:
                raise BadArtifact(
                    f"wukong: site {site['name']} gives {tuple(x.shape)}, {site['channels']} channels were fitted; fit "
                    "it on this model"
                )
        pick = frame.conditional.to(states[0].device)
        assert frame.timestep is not None
        net = self.net.to(states[0].device)
        logits = net([x[pick].float() for x in states], frame.timestep.to(states[0].device)[pick]) / self.temperature
        each = torch.stack(
            [
                logits[:, [k for k, c in enumerate(self.of_concept) if c == j]].amax(1)
                for j in range(len(self.concepts))
            ],
            1,
        ).sigmoid()
        out = each.new_zeros((len(pick), len(self.concepts)))
        return out.index_put((pick.nonzero().flatten(),), each)

    def threshold(self, concept: str, point: str, frame: Frame) -> float:
        """The calibrated threshold of the step nearest to the frame's."""
        assert frame.timestep is not None
        now = float(frame.timestep.flatten()[0])
        return float(min(self.thresholds[concept], key=lambda row: abs(row["timestep"] - now))[point])


# ---------------------------------------------------------------------------------------------------- parts of learning


def categories_of(concepts: Sequence[Concept]) -> list[tuple[str, str]]:
    """(judge's label, concept) of every category; ``BadInput`` for a concept without labels."""
    for concept in concepts:
        if not concept.judge:
            raise BadInput(
                f"concept {concept.name!r} names no judge labels, and wukong learns from them; add them to its file"
            )
    return list({label: (label, c.name) for c in reversed(concepts) for label in c.judge}.values())[::-1]


def labels_of(concepts: Sequence[Concept]) -> list[str]:
    """The labels of ``categories_of``."""
    return [label for label, _ in categories_of(concepts)]


def category_texts(concepts: Sequence[Concept]) -> list[list[str]]:
    """Texts of each category: the phrases of the target that the label names, else the label and all phrases of the
    concept."""
    out = []
    for label, name in categories_of(concepts):
        concept = next(c for c in concepts if c.name == name)
        mine = [
            p for p in concept.phrases if concept.anchors and label in concept.targets and _target(concept, p) == label
        ]
        out.append(mine or [phrases.article(label), *concept.phrases[:3]])
    return out


def _target(concept: Concept, phrase: str) -> str:
    per = max(1, len(concept.phrases) // max(1, len(concept.targets)))
    return concept.targets[min(concept.phrases.index(phrase) // per, len(concept.targets) - 1)]


def category_queries(model: Any, concepts: Sequence[Concept]) -> Tensor:
    """(categories + 1, text width) float32: mean token states of each category's texts; the last row is of the empty
    text."""
    rows = []
    with torch.no_grad():
        for texts in [*category_texts(concepts), [""]]:
            states = model.encode(texts).float().cpu()
            mask = model.tokens(texts).mask.float()
            rows.append(((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)).mean(0))
    return torch.stack(rows)


def site_block(model: Any, site: str) -> Any:
    """The U-Net's transformer block of a site.

    Raises:
        UnknownName: no such site. BadInput: a site that is no transformer block with cross-attention.
    """
    if site not in model.sites:
        raise UnknownName("site", site, model.sites)
    block = model.unet.get_submodule(model.sites[site].path)
    if getattr(block, "attn2", None) is None or getattr(block, "norm2", None) is None:
        raise BadInput(
            f"wukong reads transformer blocks, and {site} is none; name sites such as mid_block.attentions.0.tb.0 "
            "(genward show model lab)"
        )
    return block


def network_shape(settings: Wukong, blocks: Sequence[Any], queries: Tensor) -> dict[str, Any]:
    """The ``Shape`` of the network for these blocks."""
    sites = []
    for name, block in zip(settings.sites, blocks, strict=True):
        inner, channels = block.attn2.to_q.weight.shape
        sites.append({"name": name, "channels": int(channels), "inner": int(inner), "heads": int(block.attn2.heads)})
    each = {
        "reading": settings.reading,
        "text": int(queries.shape[1]),
        "categories": len(queries) - 1,
        "hidden": settings.hidden,
    }
    return {**each, "rank": settings.rank, "layers": settings.layers, "dropout": settings.dropout, "sites": sites}


def calibrated(
    logits: Tensor, truth: Tensor, timesteps: Tensor, categories: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Temperature, thresholds and figures on held-out rows: (rows, steps, categories) logits against (rows, categories)
    truths."""
    concepts = list(dict.fromkeys(c for _, c in categories))
    flat = truth[:, None].expand(-1, logits.shape[1], -1)
    heat = temperature(logits.flatten().numpy(), flat.flatten().numpy())
    thresholds: dict[str, list[dict[str, float]]] = {}
    figures: dict[str, list[dict[str, float]]] = {}
    for concept in concepts:
        mine = [k for k, (_, c) in enumerate(categories) if c == concept]
        known = ~torch.isnan(truth[:, mine]).any(1)
        harm = truth[known][:, mine].amax(1).numpy()
        for s, t in enumerate(timesteps.tolist()):
            score = (logits[known][:, s, mine].amax(1) / heat).sigmoid().numpy()
            thresholds.setdefault(concept, []).append({"timestep": int(t), **operating_points(score, harm)})
            told = {
                "auroc": auroc(score, harm),
                "auprc": average_precision(score, harm),
                "positives": float(harm.sum()),
                "rows": float(len(harm)),
            }
            figures.setdefault(concept, []).append(
                {"timestep": int(t), **{k: round(v, 4) for k, v in told.items() if v == v}}
            )
    return {
        "categories": [list(c) for c in categories],
        "temperature": round(heat, 4),
        "thresholds": thresholds,
        "held_out": figures,
    }


def _telling(progress: Progress | None, pictures: int, epochs: int) -> Callable[[int, float], None] | None:
    return None if progress is None else lambda done, loss: progress(done, pictures + epochs, loss)
