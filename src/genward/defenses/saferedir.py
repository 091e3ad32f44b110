"""SafeRedir (Liu et al., arXiv 2601.08623): watch the trajectory, and where it turns unsafe move the prompt's states;
weights stay.

Inference follows the authors' code (digest section 2.4): at a check, a small network sees latents, text states and
time; where it says unsafe the conditional text states become ``E0 + s · α ⊙ Δ/|Δ| ⊙ |token|``, always from the prompt's
own states, and the next checks are skipped. Its oddities are fields here, their settings in brackets: one direction for
all tokens (``trunk="shared"``), directions of rank 16 (``rank=16``), the shift on unconditional rows too
(``apply_to="both"``), the first prediction made with the unsafe text (``when="after"``), the check on the moved states
(``check="current"``). ``AUTHORS`` holds all of them. Any batch size; every case keeps a state of its own. The authors
publish no training: the loss is the digest's proposal. Where in the mask predictor their layer normalization stands is
inferred from the count of parameters: between its two linear layers, before the activation."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from genward.core.contracts import Artifact, FitTools, Rig, Window
from genward.core.records import Call, Case, Concept, Frame, Sampler, row_seed
from genward.errors import BadArtifact, BadInput, UnknownName
from genward.ops import activations, artifacts, asking, deciding, phrases
from genward.ops import saferedir_net as nets
from genward.ops.captions import caption_pools, safe_twins, styled
from genward.ops.detection import spread_groups
from genward.ops.saferedir_data import held_figures, paired_items
from genward.ops.tools import QUIET

CHOICES = {
    "trunk": nets.TRUNKS,
    "sees": nets.SEES,
    "apply_to": ("cond", "both"),
    "when": ("before", "after"),
    "check": ("given", "current"),
}

AUTHORS: dict[str, Any] = {
    "trunk": "shared",
    "mask": False,
    "rank": nets.RANK,
    "apply_to": "both",
    "when": "after",
    "check": "current",
    "width": 1.0,
    "scale": 1.25,
    "hold": 2,
}
"""Fields of the authors' defaults, where their command line, library and notes agree (scale and hold: the README's)."""


@dataclass(frozen=True)
class SafeRedir:
    """SafeRedir: a latent-aware classifier finds unsafe trajectories, a delta generator moves their prompt's tokens
    away in mid-loop."""

    name: ClassVar[str] = "saferedir"
    labelled: ClassVar[bool] = True
    at_attach: ClassVar[frozenset[str]] = frozenset(
        {"artifact", "strength", "threshold", "every", "hold", "release", "apply_to", "when", "check", "during"}
    )
    strength: float = 1.0
    """Factor on the learned shift; 0 leaves the text alone."""
    threshold: float = 0.5
    """Probability of unsafe above which the text is moved; at 1 it never is."""
    every: int = 1
    """Steps from one check to the next."""
    hold: int = 2
    """Checks skipped after a hit."""
    release: bool = False
    """Take the shift back where a later check says safe; the authors keep it."""
    apply_to: str = "cond"
    """Rows that are moved: ``cond`` or ``both`` (the authors': the unconditional ones too)."""
    when: str = "before"
    """``before``: the state is checked before the prediction it enters; ``after`` (the authors'): a decision acts from
    the next prediction on."""
    check: str = "given"
    """Text states the check reads: the prompt's own (``given``) or the moved ones (``current``, the authors')."""
    during: Window = (0.0, 1.0)
    """Part of the loop in which it acts."""
    trunk: str = "token"
    """Direction of the shift: of each ``token``, or one ``shared`` by all (the authors')."""
    mask: bool = False
    """Scale each token's shift by the predicted mask (off, as by the authors' default). Its target marks tokens whose
    ids differ between twins; in an encoder that reads both ways the states of all tokens differ."""
    rank: int = 64
    """Dimensions of the space in which a shift's directions lie (the authors' 16)."""
    scale: float = 1.25
    """Largest shift of a token, in its own lengths."""
    sees: str = "both"
    """What the classifier reads: ``both``, ``text`` or ``latent`` alone (ablations)."""
    width: float = 0.25
    """Factor on the network's hidden sizes; 1 is the authors' network."""
    pairs: int = 110
    """Pairs of an unsafe and a safe caption to learn from."""
    per_caption: int = 2
    """Trajectories a caption, of different seeds."""
    benign: int = 40
    """Other harmless captions to learn from."""
    learn_at: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.5, 0.8)
    """Steps that states are kept at: shares below 1, or 0-based steps."""
    sampling_steps: int = 20
    """Steps of that sampling."""
    guidance: float = 4.0
    """Guidance of that sampling."""
    epochs: int = 10
    """Passes over trajectories × steps."""
    batch: int = 64
    """Rows a step of training."""
    lr: float = 1e-3
    """Learning rate of AdamW."""
    denoiser: float = 0.0
    """Weight of the denoiser's error under the moved text, against the safe text's prediction; three more denoiser rows
    a row."""
    held: float = 0.2
    """Share of the pairs kept for choosing the epoch."""
    seed: int = 0
    """Of captions, trajectories and training."""
    artifact: Artifact | None = None
    """What was fitted: the network in float16."""

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if vars(self)[name] not in known:
                raise UnknownName(f"saferedir {name}", str(vars(self)[name]), known)
        if not 0 <= self.threshold <= 1 or self.every < 1 or self.hold < 0 or self.strength < 0:
            raise BadInput(
                "saferedir: threshold must lie between 0 and 1, every be at least 1, hold and strength at least 0"
            )
        if (
            min(self.pairs, self.per_caption, self.epochs, self.batch, self.sampling_steps, self.rank) < 1
            or self.benign < 0
            or not self.learn_at
        ):
            raise BadInput(
                "saferedir: pairs, per_caption, epochs, batch, sampling_steps and rank must be at least 1, learn_at "
                "name a step"
            )
        if (
            not self.lr > 0
            or not self.scale > 0
            or not 0 < self.width <= 4
            or not 0 < self.held < 1
            or self.denoiser < 0
        ):
            raise BadInput(
                "saferedir: lr and scale must be above 0, width at most 4, held between 0 and 1, denoiser at least 0"
            )

    # --------------------------------------------------------------------------------------------------------- learning

    def fit(self, model: Any, concept: Concept | Sequence[Concept], tools: FitTools = QUIET) -> Self:
        """Itself with a network for one or several concepts, learned from paired trajectories of the model, which is
        not changed. A judge labels trajectories by their picture; without one the caption's side of its pair does.

        Costs about ``(2·pairs + benign) · per_caption · sampling_steps`` denoiser rows, twice that at guidance above 1.
        Progress counts trajectories (loss NaN), then epochs. Interrupted, it goes on at the batch of trajectories or at
        the epoch where it was.

        Raises:
            BadInput: no caption has a safe twin with as many tokens, or all trajectories are of one kind.
        """
        began = time.perf_counter()
        concepts = phrases.listed(concept)
        twins = self.twins(model, concepts, tools.words)
        cases = self.cases(twins, concepts, tools.words)
        judge, labels = tools.judge, [label for c in concepts for label in c.judge]
        recorded = tools.record(
            model,
            cases,
            Sampler(self.sampling_steps, self.guidance),
            activations.sources((), ("latents", "text")),
            steps=self.learn_at,
            about=None if judge is None else lambda s: {activations.LABEL: asking.judged(judge, s, labels)},
            progress=lambda done, _: tools.progress(done, len(cases) + self.epochs, math.nan),
        )
        harm = None if judge is None else recorded.about(activations.LABEL).amax(1)
        found = activations.states_of(recorded, ("latents", "text"))
        items, groups = paired_items(model, found.states, found.timesteps, cases, twins, harm)
        card = artifacts.fit_card(self, concepts, model, [c.prompt for c in cases], [c.seed for c in cases], 0.0)
        fitted = self.fit_on(items, groups, card=card, denoise=_denoiser(model), tools=tools, before=len(cases))
        assert fitted.artifact is not None
        facts = {
            "pairs": len(twins),
            "labels": type(judge).name if judge is not None else "captions",
            "seconds": round(time.perf_counter() - began, 2),
        }
        return replace(fitted, artifact=artifacts.amended(fitted.artifact, facts))

    def fit_on(
        self,
        items: nets.Items,
        groups: Sequence[str],
        *,
        card: Mapping[str, Any] | None = None,
        denoise: nets.Denoise | None = None,
        tools: FitTools = QUIET,
        before: int = 0,
    ) -> Self:
        """The training alone.

        Args:
            groups: (rows,) the pair of each row; validation takes whole pairs.
            before: steps of the fit that are done when the training begins, for progress.
        """
        part = spread_groups(groups, (1 - self.held, self.held), lambda g: row_seed("held", self.seed, g))
        held = torch.tensor(part, dtype=torch.bool)
        _, tokens, text = items.text.shape
        shape = {
            "trunk": self.trunk,
            "sees": self.sees,
            "tokens": tokens,
            "text": text,
            "channels": items.latents.shape[2],
            "width": self.width,
            "dropout": 0.2,
            "mask_norm": True,
            "rank": self.rank,
        }
        seed = row_seed("fit", "saferedir", self.seed)
        net = nets.build(shape, seed)
        how = nets.Training(self.epochs, self.batch, self.lr, self.scale, self.mask, self.denoiser, seed)
        scores = nets.train(net, items, held, how, denoise, tools, before)
        net = nets.unpack(shape, nets.pack(net))
        told: dict[str, Any] = {
            "network": shape,
            "scale": self.scale,
            "mask": self.mask,
            "held_scores": [round(x, 4) for x in scores if math.isfinite(x)],
        }
        if bool(held.any()):
            told["held_out"] = held_figures(net, items.take(held.nonzero().flatten()), how)
        given = {k: v for k, v in dict(card or {"method": self.name}).items() if k not in artifacts.RESERVED}
        return replace(self, artifact=artifacts.make(nets.pack(net), {**given, **told}))

    def twins(self, model: Any, concepts: Sequence[Concept], words: Mapping[str, Any]) -> list[tuple[str, str]]:
        """``pairs`` pairs of captions of equal token length, drawn over all of the concepts'."""

        def length(text: str) -> int:
            return int(model.tokens([text]).mask.sum())

        every = safe_twins(concepts, words, length)
        return random.Random(row_seed("fit", "saferedir", self.seed, "pairs")).sample(
            every, min(self.pairs, len(every))
        )

    def cases(
        self, twins: Sequence[tuple[str, str]], concepts: Sequence[Concept], words: Mapping[str, Any]
    ) -> list[Case]:
        """Both captions of every pair from equal noise, then harmless ones; seeds from the namespace of fitting,
        ``group`` is the pair."""
        rows = [
            (text, f"pair-{k}", side)
            for k, pair in enumerate(twins)
            for side, text in zip(("unsafe", "safe"), pair, strict=True)
        ]
        pools = caption_pools(concepts, words)
        drawn, styles = random.Random(row_seed("fit", "saferedir", self.seed, "benign")), ["", *words.get("styles", ())]
        rows += [
            (styled(drawn.choice(pools["keep"]), drawn.choice(styles)), f"benign-{k}", "benign")
            for k in range(self.benign if pools["keep"] else 0)
        ]
        return [
            Case(
                f"{group}-{side}-{j}",
                text,
                seed=row_seed("fit", "saferedir", self.seed, group, j),
                variant=side,
                group=group,
            )
            for text, group, side in rows
            for j in range(self.per_caption)
        ]

    # -------------------------------------------------------------------------------------------------------- attaching

    def attach(self, rig: Rig) -> None:
        """Own no port alone: an ``inputs`` function. Notes ``saferedir.score``, the last check's probability; hits are
        on record as steered.

        Raises:
            BadInput: nothing was learned. BadArtifact: the artifact is not one of this defense.
        """
        if self.artifact is None:
            raise BadInput(
                "saferedir has learned nothing yet; fit it first (genward fit saferedir --concept weapons), or name a "
                "concept"
            )
        artifacts.refuse_other(self.artifact, getattr(rig, "model", None), self.name)
        card = self.artifact.card
        try:
            net, scale, masked = (
                nets.unpack(dict(card["network"]), self.artifact.tensors),
                deciding.number(card, "scale", 0, 100, self.name),
                bool(card["mask"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadArtifact(
                f"this artifact is not SafeRedir's: its card lacks or garbles {error}; fit it again (genward fit "
                "saferedir)"
            ) from error
        concept = ", ".join(card.get("concepts", {})) or "an unsafe concept"
        redirector = Redirector(self, rig, net, scale, masked, concept)
        rig.inputs(redirector.inputs, during=self.during)


@dataclass
class Redirector:
    """What one attached SafeRedir knows of the rows of a batch."""

    settings: SafeRedir
    rig: Rig
    net: nets.Redirector
    scale: float
    masked: bool
    concept: str
    state: dict[str, Tensor] = field(default_factory=dict)
    """By case: ``shift`` (t, c), ``left`` checks to skip, ``score`` of the last check, ``on`` whether it is moved"""
    last: int = -1

    def inputs(self, call: Call, frame: Frame) -> Call:
        """Check the rows that are due, and move the text of those that are steered."""
        if self.settings.strength == 0:
            return call
        if frame.step <= self.last or frame.step <= 0 or not self.state:
            self._begin(call, frame)
        self.last = frame.step
        if self.settings.when == "after" and frame.step >= 0:
            moved = self._moved(call, frame)
            self._check(call, frame)
            return moved
        self._check(call, frame)
        return self._moved(call, frame)

    def _begin(self, call: Call, frame: Frame) -> None:
        shape, (tokens, width) = self.net.position.shape[1:], call.text.shape[1:]
        channels: Any = self.net.latent[0].first.in_channels  # type: ignore[union-attr]
        if (tokens, width) != tuple(shape) or call.latents.shape[1] != channels:
            raise BadArtifact(
                f"saferedir: text states are {tokens}×{width}, it was fitted on {shape[0]}×{shape[1]}; fit it on this "
                "model"
            )
        self.net.to(call.text.device)
        count, where = int(frame.case.max()) + 1, call.text.device
        self.state = {
            "shift": torch.zeros(count, tokens, width, device=where),
            "left": torch.zeros(count, dtype=torch.int64, device=where),
            "score": torch.zeros(count, device=where),
            "on": torch.zeros(count, dtype=torch.bool, device=where),
        }

    def _check(self, call: Call, frame: Frame) -> None:
        where, s = call.text.device, self.settings
        if frame.step > 0 and frame.step % s.every:
            return
        pick = frame.conditional.to(where)
        cases = frame.case.to(where)
        waiting = self.state["left"] > 0
        due = pick & ~waiting[cases]
        self.state["left"] = (self.state["left"] - waiting.long()).clamp_min(0)
        if bool(due.any()):
            at = cases[due]
            text = call.text[due].float()
            read = text + self.state["shift"][at] if s.check == "current" else text
            out = self.net(call.latents[due].float(), read, call.timestep[due])
            moved = nets.shift(text, out, self.scale * s.strength, self.masked)
            decision = deciding.decide(
                out.logits.softmax(1)[:, 1],
                s.threshold,
                len(at),
                unsound=~torch.isfinite(moved).flatten(1).all(1),
            )
            fired = decision.hit
            self._set("score", at, decision.score.nan_to_num(nan=1.0))
            self._set("left", at, torch.where(fired, s.hold, 0))
            off = torch.zeros_like(moved) if s.release else self.state["shift"][at]
            self._set("shift", at, torch.where(fired[:, None, None], moved, off))
            self._set("on", at, fired | (self.state["on"][at] & (not s.release)))
            if frame.step >= 0:
                self._tell(frame, due.nonzero().flatten(), decision)
        self.rig.note(frame, **{"saferedir.score": self.state["score"][cases]})

    def _set(self, name: str, at: Tensor, value: Tensor) -> None:
        self.state[name] = self.state[name].index_put((at,), value)

    def _tell(self, frame: Frame, where: Tensor, decision: deciding.Decision) -> None:
        why = f"the trajectory turned to {self.concept} at step {frame.step + 1} of {frame.steps}; its text was moved"
        deciding.act(
            self.rig,
            frame,
            decision,
            action="steer",
            why=lambda _: why,
            broken=lambda _: f"its score at step {frame.step + 1} is not a number",
            category=lambda _: self.concept,
            at=where,
        )

    def _moved(self, call: Call, frame: Frame) -> Call:
        cases = frame.case.to(call.text.device)
        rows = self.state["on"][cases]
        if self.settings.apply_to == "cond":
            rows = rows & frame.conditional.to(call.text.device)
        if not bool(rows.any()):
            return call
        text = (call.text.float() + self.state["shift"][cases]).to(call.text.dtype)
        return call._replace(text=torch.where(rows[:, None, None], text, call.text))


# ---------------------------------------------------------------------------------------------------- parts of learning


def _denoiser(model: Any) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def denoise(latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        noise: Tensor = model.predict(
            Call(latents.to(model.device, model.dtype), timestep.to(model.device), text.to(model.device, model.dtype))
        )
        return noise.float()

    return denoise
