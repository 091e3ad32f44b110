"""IRECE (Weng et al., arXiv 2512.22877): find the concept in the latents by cross-attention while sampling, and perturb
it there.

Stated by the paper: at inference, without retraining, on top of an erased model; cross-attention of a standard,
un-erased backbone localizes the concept; the latents of that region are perturbed and the rest is left alone.
Everything else is ours, since neither code nor constants
were found: the localizer's text, layers, steps, thresholds, the perturbation's form and strength, the gate, the
    read-out.

The un-erased weights thus stay inside the service. An attacker who holds the weights would simply use those: IRECE
means something only where attackers control inputs (prompts, embeddings, start latents) and not weights.

Why a read-out is fitted (ours): concept words draw attention to any foreground, so their attention alone tells a
picture from its background, and hardly one object from another. Which word, in which layer and head, does tell. ``fit``
therefore learns two linear read-outs of log attention (one a row for the gate, one a cell for the mask) on pictures
that the base model makes of the concept and of what must stay, and calibrates the gate on the benign ones.
``readout="mass"`` keeps to plain attention mass, against benign pictures' mass."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from genward.core.contracts import Artifact, Defense, Rig, Window
from genward.core.records import Call, Case, Concept, Frame, Sampler, row_seed
from genward.errors import BadArtifact, BadInput, Conflict, Inapplicable
from genward.ops import artifacts, localize, phrases
from genward.ops.finetune import Progress, add_noise

READOUTS = ("probe", "mass")
DECISIONS = ("latch", "each", "first")
CONTROLS = ("concept", "random")
RATES = (0.01, 0.02, 0.05, 0.1, 0.2)
"""False-positive rates that a card tells thresholds for."""
TOP = 8
"""Plain attention's gate is the mean of the highest 1/TOP of the cells."""
CELLS = 32
"""Foreground cells of a picture that the mask's read-out is fitted on."""
ARTICLES = ("a", "an", "the", "and", ",")


@dataclass(frozen=True)
class Irece:
    """IRECE: finds the concept in the latents with the un-erased model's cross-attention and perturbs it there, row by
    row, behind a calibrated gate."""

    name: ClassVar[str] = "irece"
    kind: ClassVar[str] = "latents"
    fits: ClassVar[bool] = True
    needs_guidance: ClassVar[bool] = False
    extra_nfe: ClassVar[float] = 0.5
    """One row for each active step and localizer: half the steps at the default window."""
    at_attach: ClassVar[frozenset[str]] = frozenset(
        {"artifact", "strength", "form", "control", "gate", "fpr", "decide", "threshold", "dilation", "readout"}
    )
    template: str = "a picture of {}"
    """Text of the localizer, ``{}`` for the phrase."""
    phrases: tuple[str, ...] = ()
    """Phrases to localize, one localizer (and one denoiser row a step) each, their words taken together; empty: the
    names of all targets in one localizer."""
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
    fpr: float = 0.05
    """Share of benign rows that the gate may let through to the perturbation, over the whole window."""
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
            if getattr(self, field) not in known:
                raise BadInput(f"irece: {field} {getattr(self, field)!r}; {', '.join(map(repr, known))} are possible")
        if not 0 <= self.strength <= 1 or not 0 < self.fpr < 1 or not 0 <= self.shrinkage <= 1:
            raise BadInput("irece: strength and shrinkage must lie in [0, 1], fpr between 0 and 1")
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

    def fit(self, model: Any, concept: Concept | Sequence[Concept], progress: Progress | None = None) -> Self:
        """Itself with read-outs and a calibrated gate for one or many concepts; the model is not changed, no gradients.

        Costs ``2 · images`` pictures and, for each of them, two localizer rows a step of the window. ``progress(done,
        total, nan)`` in pictures.

        Raises:
            BadInput: a concept without phrases or without anything to keep, or no layer of these edges.
            Conflict: the sampler does not keep the latents' variance (Euler and its kin).
        """
        began = time.perf_counter()
        concepts = phrases.listed(concept)
        refuse_sigmas(model.pipe.scheduler)
        cases, groups = calibration_cases(concepts, self)
        reader = localizer(model, concepts, self)
        seen = observe(model, reader, cases, self, progress)
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

    def attach(self, rig: Rig) -> None:
        """Look at the rows before each step of the window. Raises ``BadInput`` without an artifact, ``Conflict`` for
        Euler-like samplers."""
        self.watch(rig, None)

    def watch(self, rig: Rig, seen: list[tuple[Frame, Tensor]] | None) -> None:
        """``attach`` that also hands over what it masks: (frame, masks (rows, h, w) of the gated rows) a step."""
        threshold = self.limit()
        model = getattr(rig, "model", None)
        if model is not None:
            refuse_sigmas(model.pipe.scheduler)
        rig.latents(_Loop(self, rig, threshold, seen).before_step)


# ------------------------------------------------------------------------------------------------------------ localizer


class Localizer(NamedTuple):
    """What is read: text states (n, t, d) of each localizer, the positions of its words, the sites, and the size (h, w)
    of the maps."""

    texts: list[str]
    states: Tensor
    words: list[list[int]]
    layers: list[str]
    size: tuple[int, int]

    def marks(self) -> Tensor:
        """The words as 0/1 (n, t)."""
        out = torch.zeros(self.states.shape[:2])
        for k, at in enumerate(self.words):
            out[k, at] = 1
        return out

    def maps(self, rig: Any, latents: Tensor, timestep: Tensor) -> Tensor:
        """Log attention (rows, groups, words, h, w) of the un-erased model on latents (rows, c, h, w) at one
        timestep."""
        count, rows = len(self.states), len(latents)
        states = self.states.to(latents.device, latents.dtype).repeat_interleave(rows, dim=0)
        call = Call(
            latents.repeat(count, 1, 1, 1), timestep.to(latents.device).reshape(-1)[:1].expand(count * rows), states
        )
        with torch.no_grad():
            sites = rig.predict(call, weights="clean", read=self.layers).sites
            height, width = latents.shape[-2:]
            return localize.word_maps(
                {name: sites[name] for name in self.layers}, self.words, (height, width), self.size
            )


def localizer_phrases(concepts: Sequence[Concept], settings: Irece) -> list[str]:
    """What fills the template: the given phrases, else one list of the names of all targets."""
    if settings.phrases:
        return list(settings.phrases)
    names = [p for c in concepts for p in phrases.spread(c)[: max(1, len(c.targets))]]
    if not names:
        raise BadInput("the concept has no phrases; there is nothing to localize")
    return [", ".join(dict.fromkeys(names))]


def word_positions(tokenizer: Any, template: str, text: str, length: int) -> list[int]:
    """Positions of the phrase's tokens in a filled template, without articles and commas (with them, where nothing else
    is left)."""
    before, after = template.split("{}")

    def bare(part: str) -> list[int]:
        return list(tokenizer(part, add_special_tokens=False).input_ids) if part.strip() else []

    row = tokenizer(text, padding="max_length", max_length=length, truncation=True)
    ids, end = list(row.input_ids), sum(row.attention_mask) - 1
    cut = len(tokenizer(text).input_ids) > length
    found = list(range(1 + len(bare(before)), end - (0 if cut else len(bare(after)))))
    tokens = tokenizer.convert_ids_to_tokens(ids)
    mark = "</w>" if any(t.endswith("</w>") for t in tokens) else ""
    words = [k for k in found if tokens[k] not in {a + mark for a in ARTICLES}]
    if not (words or found):
        raise BadInput(f"localizer {text!r}: the encoder leaves no token of the phrase; shorten the template")
    return words or found


def localizer(model: Any, concepts: Sequence[Concept], settings: Irece) -> Localizer:
    """The localizer for a model: texts encoded once, layers chosen by pattern and map edge.

    Raises:
        BadInput: no cross-attention layer matches.
    """
    texts = [phrases.fill(settings.template, p) for p in localizer_phrases(concepts, settings)]
    with torch.no_grad():
        states = model.encode(texts).detach().cpu()
    words = [word_positions(model.pipe.tokenizer, settings.template, t, states.shape[1]) for t in texts]
    names = [n for n in model.sites if n.endswith(".attn2.probs") and re.search(settings.layers, n)]
    edge = int(model.unet.config.sample_size)
    found, largest = [], 0
    with model.rig() as rig, torch.no_grad():
        empty = torch.zeros(1, model.unet.config.in_channels, edge, edge, device=model.device, dtype=model.dtype)
        call = Call(empty, torch.ones(1, dtype=torch.long, device=model.device), states[:1].to(model.device))
        for name, probs in rig.predict(call, read=names).sites.items():
            side = localize.grid(probs.shape[2], edge, edge)[0]
            if settings.edges[0] <= side <= settings.edges[1]:
                found.append(name)
                largest = max(largest, side)
    if not found:
        raise BadInput(
            f"irece: no cross-attention layer matches {settings.layers!r} with maps of {settings.edges[0]} to "
            f"{settings.edges[1]} cells; widen edges"
        )
    return Localizer(texts, states, words, [n for n in names if n in found], (largest, largest))


def refuse_sigmas(scheduler: Any) -> None:
    """``Conflict`` for samplers whose latents do not keep their variance: the localizer would see them on the wrong
    scale."""
    if float(getattr(scheduler, "init_noise_sigma", 1.0)) != 1.0:
        raise Conflict(
            f"irece reads latents of a variance-preserving sampler, {type(scheduler).__name__} is none; use DDIM, "
            "PNDM, DPM++ or UniPC"
        )


def blank_latents(model: Any) -> Tensor:
    """Latents (c, h, w) of a white picture of the model's size."""
    edge = int(model.unet.config.sample_size * model.pipe.vae_scale_factor)
    white: Tensor = model.encode_images(torch.ones(1, 3, edge, edge))[0]
    return white.float().cpu()


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


class Seen(NamedTuple):
    """What the localizer saw: for both paths (sampled, re-noised), all rows and timesteps of the window."""

    timesteps: Tensor
    """(steps,)"""
    pooled: Tensor
    """(2, rows, steps, features): log attention, mean over cells"""
    cells: Tensor
    """(2, rows, steps, CELLS, features) half: some of the picture's foreground"""
    best: Tensor
    """(2, rows, steps, groups, h, w) half: log attention on the best word"""
    final: Tensor
    """(rows, c, h, w): final latents"""


def _summary(maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(pooled (rows, k), foreground cells (rows, CELLS, k) half, best word (rows, groups, h, w) half) of word maps."""
    features = maps.flatten(1, 2).flatten(2)
    best = maps.amax(2)
    order = best.mean(1).flatten(1)
    quarter = order.topk(max(1, order.shape[1] // 4), dim=1).indices
    spaced = torch.linspace(0, quarter.shape[1] - 1, CELLS).round().long().to(quarter.device)
    pick = quarter[:, spaced][:, None].expand(-1, features.shape[1], -1)
    return features.mean(2).cpu(), features.gather(2, pick).transpose(1, 2).half().cpu(), best.half().cpu()


class _Recorder:
    """A defense that only looks: what the localizer sees before each step of the window."""

    name: ClassVar[str] = Irece.name

    def __init__(self, reader: Localizer, during: Window) -> None:
        self.reader, self.during = reader, during
        self.seen: dict[int, list[tuple[Tensor, ...]]] = {}

    def attach(self, rig: Rig) -> None:
        def look(latents: Tensor, frame: Frame) -> Tensor:
            assert frame.timestep is not None
            self.seen.setdefault(int(frame.timestep[0]), []).append(
                _summary(self.reader.maps(rig, latents, frame.timestep))
            )
            return latents

        rig.latents(look, during=self.during)


def observe(
    model: Any, reader: Localizer, cases: Sequence[Case], settings: Irece, progress: Progress | None = None
) -> Seen:
    """Sample the cases with the bare model, looking on; then noise the final latents to the same timesteps and look
    again.

    Raises:
        BadInput: rows could not be made, or the window holds no step.
    """
    recorder = _Recorder(reader, settings.during)
    told = None if progress is None else lambda done, total: progress(done, total, float("nan"))
    sampler = Sampler(steps=settings.sampling_steps, guidance=settings.guidance)
    samples = model.generate(cases, sampler, [recorder], keep_latents=True, progress=told)
    lost = [s for s in samples if s.latents is None]
    if lost:
        raise BadInput(
            f"irece: {len(lost)} of {len(samples)} pictures for the fit could not be made ({lost[0].why}); look at the "
            "model or its guidance"
        )
    final = torch.stack([s.latents for s in samples])
    steps = list(recorder.seen)
    random = torch.Generator().manual_seed(row_seed("fit", "irece", settings.seed, "noise"))
    paths = [[[torch.cat(parts) for parts in zip(*recorder.seen[t], strict=True)] for t in steps], []]
    with model.rig() as rig:
        for t in steps:
            chunks = []
            for part in final.split(32):
                noise = torch.randn(part.shape, generator=random).to(part)
                level = torch.full((len(part),), t, dtype=torch.long)
                chunks.append(_summary(reader.maps(rig, add_noise(part, noise, level, model.alphas_cumprod), level)))
            paths[1].append([torch.cat(parts) for parts in zip(*chunks, strict=True)])
    pooled, cells, best = (
        torch.stack([torch.stack([step[k] for step in path], 1) for path in paths]) for k in range(3)
    )
    return Seen(torch.tensor(steps), pooled, cells, best, final)


def learn(seen: Seen, shown: Tensor, groups: Tensor, settings: Irece) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read-outs and statistics, and facts for the card.

    Args:
        seen: from ``observe``. shown: bool (rows,), concept rows. groups: (rows,), rows of one caption stay in one
            fold.

    Returns:
        tensors by name: ``mass`` (steps, 2, groups), ``gate`` and ``cell`` (steps, 2, features: mean and weight),
        ``gate_law`` (steps, 3: mean, standard deviation, effect) and ``cell_law`` (steps, 2); ``benign`` and
        ``concept`` (2 paths, rows, steps) log-odds from folds that did not fit them; ``benign_mass`` and
        ``concept_mass`` likewise, of plain attention.
    """
    steps = len(seen.timesteps)
    out: dict[str, list[Tensor]] = {k: [] for k in ("mass", "gate", "cell", "gate_law", "cell_law")}
    odds, plain = torch.zeros(2, len(shown), steps), torch.zeros(2, len(shown), steps)
    fold = groups % 5
    for k in range(steps):
        pooled, cells, best = seen.pooled[:, :, k].double(), seen.cells[:, :, k].double(), seen.best[:, :, k].float()
        quiet = best[:, ~shown].transpose(0, 2).flatten(1)
        mass = torch.stack([quiet.mean(1), quiet.std(1).clamp_min(1e-3)])
        score = torch.zeros(2, len(shown), dtype=torch.float64)
        for f in fold.unique():
            rest, held = fold != f, fold == f
            mean, weight = localize.discriminant(
                pooled[:, rest & shown].flatten(0, 1), pooled[:, rest & ~shown].flatten(0, 1), settings.shrinkage
            )
            score[:, held] = localize.read_out(pooled[:, held], mean, weight)
        calm = score[:, ~shown]
        spread = calm.std().clamp_min(1e-6)
        effect = ((score[:, shown].mean() - calm.mean()) / spread).clamp_min(0)
        odds[:, :, k] = localize.log_odds(score, calm.mean(), spread, effect).float()
        for path in (0, 1):
            plain[path, :, k] = plain_gate(localize.mass_contrast(best[path][:, :, None], *mass))
        gate = localize.discriminant(
            pooled[:, shown].flatten(0, 1), pooled[:, ~shown].flatten(0, 1), settings.shrinkage
        )
        cell = localize.discriminant(cells[:, shown].flatten(0, 2), cells[:, ~shown].flatten(0, 2), settings.shrinkage)
        away = localize.read_out(cells[:, ~shown], *cell)
        out["mass"].append(mass)
        out["gate"].append(torch.stack(gate))
        out["cell"].append(torch.stack(cell))
        out["gate_law"].append(torch.stack([calm.mean(), spread, effect]))
        out["cell_law"].append(torch.stack([away.mean(), away.std().clamp_min(1e-6)]))
    tensors = {name: torch.stack(rows).float() for name, rows in out.items()} | {"timesteps": seen.timesteps.float()}
    tensors |= {
        "benign": odds[:, ~shown],
        "concept": odds[:, shown],
        "benign_mass": plain[:, ~shown],
        "concept_mass": plain[:, shown],
    }
    return tensors, card_facts(tensors, settings, int(shown.sum()))


def plain_gate(contrast: Tensor) -> Tensor:
    """Presence by attention mass alone: mean of the highest 1/TOP of the cells of (rows, h, w)."""
    flat = contrast.flatten(1)
    return flat.topk(max(1, flat.shape[1] // TOP), dim=1).values.mean(1)


def gate_rates(tensors: Any, readout: str, decide: str, rate: float) -> tuple[float, float]:
    """(threshold, true-positive rate) of a gate at a false-positive rate, from a fit's statistics.

    The threshold is the higher one of the two paths; the true-positive rate the lower one.
    """
    suffix = "_mass" if readout == "mass" else ""
    benign, concept = tensors["benign" + suffix], tensors["concept" + suffix]
    reduced = [(x[:, :, 0] if decide == "first" else x.amax(2)) for x in (benign, concept)]
    threshold = max(localize.limit(path, rate) for path in reduced[0])
    return threshold, min(float((path > threshold).double().mean()) for path in reduced[1])


def card_facts(tensors: Any, settings: Irece, images: int) -> dict[str, Any]:
    """What the card says of the gate: thresholds and true-positive rates by rule and false-positive rate, rows used."""
    rates = sorted(r for r in {*RATES, settings.fpr} if images >= 1 / r - 1)
    threshold, found = gate_rates(tensors, settings.readout, settings.decide, settings.fpr)
    table = []
    for readout, decide, rate in itertools.product(READOUTS, ("latch", "first"), rates):
        cut, share = gate_rates(tensors, readout, decide, rate)
        table.append({"readout": readout, "decide": decide, "fpr": rate, "threshold": cut, "tpr": share})
    told = {
        "rows": {"concept": images, "benign": images, "paths": ["sampled", "re-noised"]},
        "timesteps": tensors["timesteps"].tolist(),
    }
    return {"fpr": settings.fpr, "threshold": threshold, "tpr": found, "gate": table, **told}


def coverages(model: Any, fitted: Irece, final: Tensor, shown: Sequence[bool]) -> dict[str, Any]:
    """Mean share of the latents masked (gate aside) on the fit's pictures, re-noised to the middle of the window, by
    threshold."""
    assert fitted.artifact is not None
    reader = Reader(fitted.artifact)
    middle = reader.timesteps[len(reader.timesteps) // 2].long()
    random = torch.Generator().manual_seed(row_seed("fit", "irece", fitted.seed, "coverage"))
    pick = torch.tensor(shown)
    out: dict[str, Any] = {"timestep": int(middle), "dilation": fitted.dilation}
    with model.rig() as rig:
        for name, latents in (("concept", final[pick]), ("benign", final[~pick])):
            latents = latents[:32]
            noised = add_noise(
                latents,
                torch.randn(latents.shape, generator=random).to(latents),
                middle.expand(len(latents)),
                model.alphas_cumprod,
            )
            contrast = reader.look(rig, noised, middle, fitted.readout)[1]
            size = (latents.shape[-2], latents.shape[-1])
            out[name] = {
                str(t): float(localize.masks(contrast, size, t, fitted.dilation).float().mean())
                for t in sorted({0.0, 0.5, 1.0, 1.5, fitted.threshold})
            }
    return out


# ---------------------------------------------------------------------------------------------------------- in the loop


class Reader:
    """A fitted localizer: presence statistic and contrast map of latents.

    Raises:
        BadArtifact: tensors or card are not those of an irece fit.
    """

    def __init__(self, artifact: Artifact) -> None:
        try:
            t, card = artifact.tensors, artifact.card
            words = [row.nonzero().flatten().tolist() for row in t["words"]]
            height, width = card["size"]
            self.localizer = Localizer(
                list(card["localizers"]), t["states"], words, list(card["layers"]), (int(height), int(width))
            )
            self.timesteps, self.mass, self.gate, self.cell = t["timesteps"], t["mass"], t["gate"], t["cell"]
            self.gate_law, self.cell_law, self.blank, self.alphas = (
                t["gate_law"],
                t["cell_law"],
                t["blank"],
                t["alphas"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadArtifact(
                f"irece: the artifact lacks what a fit writes ({type(error).__name__}: {error}); fit it again"
            ) from error

    def look(self, rig: Any, latents: Tensor, timestep: Tensor, readout: str) -> tuple[Tensor, Tensor]:
        """(statistic (rows,), contrast (rows, h, w)) of latents (rows, c, h, w) at a timestep; the nearest fitted
        timestep's read-outs act."""
        maps = self.localizer.maps(rig, latents, timestep)
        k = int((self.timesteps - float(timestep.reshape(-1)[0])).abs().argmin())
        mean, std = self.mass[k].to(maps.device)
        mass = localize.mass_contrast(maps, mean, std)
        if readout == "mass":
            return plain_gate(mass), mass
        features = maps.flatten(1, 2).movedim(1, -1)
        gate, cell = self.gate[k].to(maps.device), self.cell[k].to(maps.device)
        statistic = localize.log_odds(
            localize.read_out(features.mean((1, 2)), *gate), *self.gate_law[k].to(maps.device)
        )
        center, spread = self.cell_law[k].to(maps.device)
        return statistic, torch.minimum(mass, (localize.read_out(features, *cell) - center) / spread)


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
        fired = self._decide(statistic, frame)
        size = (latents.shape[-2], latents.shape[-1])
        mask = localize.masks(contrast, size, s.threshold, s.dilation) & fired.to(contrast.device)[:, None, None]
        if s.control == "random":
            mask = torch.stack([self._elsewhere(m, case) for m, case in zip(mask, frame.case.tolist(), strict=True)])
        self._tell(frame, statistic, fired, mask)
        noise = torch.stack([self._noise(latents.shape[1:], case, frame.step) for case in frame.case.tolist()])
        level = self.reader.alphas[int(frame.timestep.reshape(-1)[0])]
        blank = localize.resize(self.reader.blank[None], size)[0]
        return localize.perturb(latents, mask, s.strength, noise, s.form, blank=blank, alpha=level)

    def _decide(self, statistic: Tensor, frame: Frame) -> Tensor:
        s = self.settings
        now = (statistic > self.threshold).cpu() if s.gate else torch.ones(len(statistic), dtype=torch.bool)
        out = []
        for case, fires in zip(frame.case.tolist(), now.tolist(), strict=True):
            if s.decide == "first":
                fires = self.fired.setdefault(case, fires)
            elif s.decide == "latch":
                fires = self.fired[case] = self.fired.get(case, False) or fires
            out.append(fires)
        return torch.tensor(out)

    def _tell(self, frame: Frame, statistic: Tensor, fired: Tensor, mask: Tensor) -> None:
        signals = {"irece.gate": statistic, "irece.fired": fired.float(), "irece.coverage": mask.float().mean((1, 2))}
        self.rig.note(frame, **signals)
        if fired.any():
            self.rig.flag(
                frame,
                fired,
                "the concept was found in the latents and perturbed there",
                action="steered",
                score=statistic,
                threshold=self.threshold,
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


class _Traced:
    """An ``Irece`` that keeps its masks."""

    name: ClassVar[str] = Irece.name

    def __init__(self, inner: Irece) -> None:
        self.inner = inner
        self.seen: list[tuple[Frame, Tensor]] = []

    def attach(self, rig: Rig) -> None:
        self.inner.watch(rig, self.seen)


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
    traced = _Traced(irece)
    model.generate(cases, sampler, [*before, traced], batch=max(1, len(cases)), starts=starts)
    out = []
    for frame, mask in traced.seen:
        full = torch.zeros(len(cases), *mask.shape[1:], dtype=torch.uint8)
        full[frame.case.cpu()] = mask.to(torch.uint8)
        out.append((frame.step, full))
    return out
