"""SafePatch (Meng et al., arXiv 2508.21099; Findings of ACL 2026): a trained module beside the locked model that
rectifies what its decoder is handed.

Stated: the module's backbone is a trainable clone of the model's encoder, the model is not modified, training is
differential on aligned counterfactual pairs, several patches merge into one. The paper's body was not readable: wiring,
loss and data are inferred, with the alternatives as fields. Whoever holds the weights can take the patch out."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from genward.core.contracts import Artifact, Defense, FitTools, Rig
from genward.core.records import Call, Case, Concept, Frame, Sample, Sampler, row_seed
from genward.defenses import _counterfactual as counterfactual
from genward.defenses import _patch_fit as training
from genward.defenses import _patch_net as nets
from genward.errors import BadInput, GenwardError
from genward.ops import artifacts, phrases
from genward.ops.finetune import optimize
from genward.ops.prompt_pairs import EACH, Pair, prompt_pairs
from genward.ops.tools import QUIET
from genward.ops.tracing import watched

INSTRUCTION = "instruction"
"""Name of the tensor that holds the instruction's states."""
CHOICES: Mapping[str, tuple[str, ...]] = {
    "loss": nets.LOSSES,
    "text": nets.TEXTS,
    "halves": ("both", "conditional"),
    "each": EACH,
    "storage": nets.STORAGES,
}
"""Field -> what it may be."""


@dataclass(frozen=True)
class SafePatch:
    """SafePatch: a clone of the U-Net's encoder, trained to rectify the concept alone, beside the locked model."""

    name: ClassVar[str] = "safepatch"
    at_attach: ClassVar[frozenset[str]] = frozenset({"artifact", "strength", "halves", "transfer"})
    loss: str = "difference"
    """``difference``: what the patch adds is the step from the unsafe prompt's prediction to the safe one's;
    ``outcome``: denoise the safe picture under the unsafe prompt."""
    keep: float = 1.0
    """Weight of leaving benign rows as they are."""
    residual: float = 0.0
    """Weight of the residuals' own square."""
    text: str = "both"
    """What the clone reads: ``both`` prompt and instruction, the ``prompt``, or the ``instruction``."""
    instruction: str = ""
    """The instruction; empty: ``without`` and the names of the targets."""
    halves: str = "both"
    """Rows of a guided step that are patched: ``both``, or ``conditional`` ones."""
    pairs: int = 48
    """Counterfactual pairs, and as many benign pictures; pairs that are not aligned are left out and counted."""
    captions: int = 10
    """Captions for each target (or concept)."""
    each: str = "target"
    """What captions are made for: each ``target`` of a concept, or the ``concept`` as a whole."""
    templates: tuple[str, ...] = ()
    """Contexts of the captions, ``{}`` for the phrase; empty: the phrase alone, then in the model's styles or in
    everyday contexts."""
    shared: float = 0.1
    """Share of the steps that both pictures of a pair go under the safe caption."""
    area: float = 0.5
    """Share of the picture that may differ in an aligned pair."""
    tau: float = 0.05
    """Mean difference, 0 to 1, that the rest of the picture may have."""
    judged: bool = True
    """Where a judge is at hand: leave out pairs whose unsafe picture does not show the concept, or whose safe one
    does."""
    sampling_steps: int = 20
    """Steps of that sampling."""
    guidance: float = 4.0
    """Guidance of that sampling."""
    steps: int = 1000
    """Optimizer steps (a published ControlNet takes 10,000 and more)."""
    batch: int = 16
    """Rows a step: half of the concept, a quarter of near and a quarter of far benign captions."""
    lr: float = 1e-3
    """Learning rate of Adam (on a full model 1e-5)."""
    dropout: float = 0.1
    """Share of rows whose caption is dropped and that are to be left as they are."""
    seed: int = 0
    """Of pictures, noise and timesteps."""
    storage: str = field(default="float16", metadata={"identity": False})
    """How the clone's weights are kept: ``float16``, or ``int8`` with a scale an output channel, half the size."""
    transfer: bool = False
    """Attach it to a model of the same shape that it was not trained on."""
    strength: float = 1.0
    """Factor on the residuals, 0 to 1; 0 leaves the model alone."""
    artifact: Artifact | None = None
    """What was trained: the clone's weights, see ``storage``."""

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise BadInput(
                    f"safepatch: {name} {getattr(self, name)!r}; {' or '.join(map(repr, known))} are possible"
                )
        if not (0 <= self.strength <= 1 and 0 <= self.dropout < 1):
            raise BadInput("safepatch: strength lies in [0, 1], dropout in [0, 1)")
        if min(self.pairs, self.captions, self.sampling_steps, self.steps) < 1 or self.batch < 4 or not self.lr > 0:
            raise BadInput(
                "safepatch: pairs, captions, sampling_steps and steps must be at least 1, batch at least 4, lr above 0"
            )
        if not (math.isfinite(self.keep) and math.isfinite(self.residual) and min(self.keep, self.residual) >= 0):
            raise BadInput("safepatch: keep and residual are weights of at least 0")

    def fit(self, model: Any, concept: Concept | Sequence[Concept], tools: FitTools = QUIET) -> Self:
        """Itself with a patch for one or many concepts; the model is not changed.

        Progress counts pictures (loss NaN) and optimizer steps together. Interrupted, it goes on with the pictures that
        were made, or at the last checkpoint of the optimizer. Where a judge is at hand it rejects pairs that do not
        show what they should.

        Raises:
            BadInput: a concept without phrases or without anything to keep, or no aligned pair. Conflict: a U-Net that
                cannot be cloned. GenwardError: the loss is not finite.
        """
        began = time.perf_counter()
        concepts = phrases.listed(concept)
        near, far = training.benign(concepts)
        pairs = training.spread(prompt_pairs(concepts, tools.words, self.captions, self.templates, self.each))
        found = self._pairs(model, concepts, pairs, tools)
        others = self._benign(model, near, far, tools)
        told = self.told(concepts)
        random = torch.Generator().manual_seed(row_seed("fit", "safepatch", self.seed))
        net = nets.trainable_clone(model.unet).to(model.device)
        with torch.no_grad():
            states = model.encode([told]).float()
        loss = training.patch_step(model, net, found, others, states, self, random)
        losses = optimize(
            net.parameters(), loss, steps=self.steps, lr=self.lr, who="safepatch", random=random, tools=tools,
            before=3 * self.pairs,
        )  # fmt: skip
        captions = [text for p in pairs for text in (p.concept, p.safe)] + near + far
        seeds = found.seeds + [c.seed for c in self._benign_cases(near, far)]
        card = artifacts.fit_card(self, concepts, model, captions, seeds, time.perf_counter() - began)
        facts = {
            "rejected": found.rejected,
            "accepted": len(found.pairs),
            "told": told,
            "losses": training.tenths(losses),
        }
        kept = nets.weights_of(net, self.storage) | {INSTRUCTION: states.half()}
        return replace(self, artifact=artifacts.make(kept, card | facts))

    def _pairs(
        self, model: Any, concepts: Sequence[Concept], pairs: Sequence[Pair], tools: FitTools
    ) -> counterfactual.Counterfactuals:
        labels = list(dict.fromkeys(label for c in concepts for label in c.judge)) if self.judged else []
        total = 3 * self.pairs + self.steps
        return counterfactual.build(
            model, pairs, self.pairs, tools.record, owner="safepatch",
            sampler=Sampler(steps=self.sampling_steps, guidance=self.guidance), shared=self.shared, area=self.area,
            tau=self.tau, judge=tools.judge if labels else None, labels=labels, seed=self.seed,
            progress=lambda done, _: tools.progress(done, total, float("nan")),
        )  # fmt: skip

    def _benign_cases(self, near: Sequence[str], far: Sequence[str]) -> list[Case]:
        """As many pictures as pairs: near and far captions in turn."""
        texts = [(far if k % 2 else near)[(k // 2) % len(far if k % 2 else near)] for k in range(self.pairs)]
        return [
            Case(f"benign-{k}", text, seed=row_seed("fit", "safepatch", self.seed, "benign", k))
            for k, text in enumerate(texts)
        ]

    def _benign(self, model: Any, near: Sequence[str], far: Sequence[str], tools: FitTools) -> training.Benign:
        """Benign captions and the final latents of their pictures.

        Raises:
            BadInput: none could be made.
        """
        cases, total = self._benign_cases(near, far), 3 * self.pairs + self.steps
        recorded = tools.record(
            model, cases, Sampler(steps=self.sampling_steps, guidance=self.guidance), [], name="benign",
            keep_latents=True, about=lambda made: {"final": counterfactual.final_latents(model.latent_shape(), made)},
            progress=lambda done, _: tools.progress(2 * self.pairs + done, total, float("nan")),
        )  # fmt: skip
        final = recorded.about("final")
        kept = torch.isfinite(final).flatten(1).all(1).nonzero().flatten().tolist()
        if not kept:
            raise BadInput(
                f"safepatch: none of {len(cases)} benign pictures could be made; look at the model or guidance"
            )
        return training.Benign([cases[k].prompt for k in kept], final[kept])

    def told(self, concepts: Sequence[Concept]) -> str:
        """The instruction that the clone reads."""
        return self.instruction or "without " + ", ".join(dict.fromkeys(t for c in concepts for t in c.targets))

    def check(self, rig: Rig) -> None:
        """``BadArtifact`` where the model behind the rig is not the one that was trained on, unless ``transfer``."""
        if not self.transfer:
            artifacts.refuse_other(self.artifact, getattr(rig, "model", None), self.name)

    def attach(self, rig: Rig) -> None:
        """Add the residuals before each denoiser call; notes ``safepatch.energy``, what the patch wants changed.

        Raises:
            BadInput: nothing was trained. BadArtifact: it was trained on another model, or on one of another shape.
        """
        self.watch(rig, None)

    def watch(self, rig: Rig, seen: list[tuple[Frame, Tensor]] | None) -> None:
        """``attach`` that also hands over maps of the energy: (frame, (rows, h, w))."""
        if self.artifact is None:
            raise BadInput(
                "safepatch has learned nothing yet; fit it first (genward fit safepatch --concept weapons), or name a "
                "concept (safepatch:weapons)"
            )
        self.check(rig)
        tensors = nets.unpacked(self.artifact.tensors)
        states = tensors.pop(INSTRUCTION, None)
        model = rig.model
        net = nets.with_weights(model.denoiser, tensors, model.device, model.dtype)

        def rectify(call: Call, frame: Frame) -> Call:
            if self.strength == 0:
                return call
            rows = torch.ones_like(frame.conditional) if self.halves == "both" else frame.conditional
            parts = _in_rows(net, call, states, self.text, rows)
            rig.note(frame, **{"safepatch.energy": nets.energy(parts)})
            if seen is not None:
                seen.append((frame, nets.energy_map(parts)[frame.conditional.to(parts[0].device)].cpu()))
            return call._replace(skips=nets.added(call.skips, parts, self.strength))

        rig.inputs(rectify)

    def energies(self, sample: Sample) -> list[float]:
        """Rectification energy of a row at each step: small on benign rows, large on those of the concept."""
        return list(sample.notes.get("safepatch.energy", ()))

    def acted(self, sample: Sample) -> float:
        """Mean energy over the steps: a detector's score."""
        found = self.energies(sample)
        return sum(found) / len(found) if found else 0.0

    def maps(
        self,
        model: Any,
        cases: Sequence[Case],
        sampler: Sampler,
        before: Sequence[Defense] = (),
        starts: Mapping[str, Tensor] | None = None,
    ) -> list[tuple[int, Tensor]]:
        """(step, float32 (cases, h, w)) energy in each cell of the latents."""
        out = []
        for frame, found in watched(model, cases, sampler, self, before, starts):
            full = torch.zeros(len(cases), *found.shape[1:])
            full[frame.case[frame.conditional].cpu()] = found
            out.append((frame.step, full))
        return out

    def masks(
        self,
        model: Any,
        cases: Sequence[Case],
        sampler: Sampler,
        before: Sequence[Defense] = (),
        starts: Mapping[str, Tensor] | None = None,
    ) -> list[tuple[int, Tensor]]:
        """``maps`` as masks: cells with at least half of the row's largest energy."""
        found = self.maps(model, cases, sampler, before, starts)
        return [(k, (x >= 0.5 * x.amax((1, 2), keepdim=True).clamp(min=1e-12)).to(torch.uint8)) for k, x in found]


def _in_rows(net: Any, call: Call, states: Tensor | None, text: str, rows: Tensor) -> tuple[Tensor, ...]:
    """Residuals of all rows, zero in those that are not meant, for which nothing is computed."""
    pick = rows.to(call.latents.device)
    part = Call(call.latents[pick], call.timestep[pick], call.text[pick])
    found = nets.residuals(net, part, nets.read_text(part.text, states, text))
    if bool(rows.all()):
        return found
    full = [x.new_zeros(len(rows), *x.shape[1:]) for x in found]
    return tuple(f.index_put((pick.nonzero().flatten(),), x) for f, x in zip(full, found, strict=True))


# ---------------------------------------------------------------------------------------------------------------- merge


def merged(model: Any, patches: Sequence[SafePatch], shares: Sequence[float] | None = None) -> SafePatch:
    """Several patches as one, by weights: ``p_0 + sum_i w_i (p_i - p_0)``, ``p_0`` being the model's own encoder.

    Args:
        shares: w_i, 1 each by default. The instruction is the first patch's where they differ: patches that are to be
            merged should read ``text="prompt"``.

    Raises:
        BadInput: a patch that learned nothing, fewer shares than patches, or patches that read several texts.
        BadArtifact: other shapes.
    """
    learned = [p.artifact for p in patches if p.artifact is not None]
    if not learned or len(learned) < len(patches):
        raise BadInput("safepatch: only fitted patches can be merged, and at least one is needed")
    if len({p.text for p in patches}) > 1:
        raise BadInput("safepatch: these patches read other texts (text); merge those that read the same")
    base = nets.weights_of(nets.clone_of(model.unet))
    tensors = nets.merged_weights(
        base, [nets.unpacked(a.tensors) for a in learned], list(shares or [1.0] * len(learned))
    )
    kept = {INSTRUCTION: learned[0].tensors[INSTRUCTION]}
    about = {c: h for a in learned for c, h in a.card.get("concepts", {}).items()}
    card = {k: v for k, v in learned[0].card.items() if k not in artifacts.RESERVED}
    seen = {k: sorted({x for a in learned for x in a.card.get(k, ())}) for k in ("captions", "seeds")}
    facts = {"concepts": about, "merged": [a.hash for a in learned], "shares": list(shares or [1.0] * len(learned))}
    return replace(patches[0], artifact=artifacts.make({**tensors, **kept}, {**card, **seen, **facts}))


def stacked(patches: Sequence[SafePatch]) -> list[SafePatch]:
    """Several patches side by side, their residuals summed at ``1/sqrt(n)`` each of their strength."""
    if not patches:
        raise BadInput("safepatch: no patch was given")
    return [replace(p, strength=p.strength / math.sqrt(len(patches))) for p in patches]


def to_diffusers(model: Any, patch: SafePatch) -> Any:
    """The patch as a stock ``ControlNetModel`` whose picture branch is at zero: under a black control picture a stock
    ControlNet pipeline adds the same residuals, where the patch reads the prompt alone.

    Raises:
        BadInput: nothing was trained, or the patch reads an instruction. GenwardError: diffusers names weights that the
            patch lacks.
    """
    from diffusers import ControlNetModel

    if patch.artifact is None or patch.text != "prompt":
        raise BadInput("safepatch: a stock ControlNet can be made of a fitted patch that reads text=prompt alone")
    net = ControlNetModel.from_unet(model.unet, load_weights_from_unet=False).eval()
    given = {n: p.float() for n, p in nets.unpacked(patch.artifact.tensors).items() if n != INSTRUCTION}
    told = net.load_state_dict(given, strict=False)
    lacking = [n for n in told.missing_keys if not n.startswith(nets.HINT)] + list(told.unexpected_keys)
    if lacking:
        raise GenwardError(f"safepatch: diffusers' ControlNet does not fit the patch ({lacking[0]})")
    return net
