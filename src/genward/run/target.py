"""What an attack gets to touch: one arm (or a surrogate) behind ``core.contracts.Target``, every use counted."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from genward.attacks._tokens import FUNCTION, REFUSED, Vocabulary
from genward.core import defending
from genward.core.contracts import Defense
from genward.core.records import Call, Case, Prompt, Sample, Sampler
from genward.errors import BadArtifact, BadInput, Conflict, UnknownName
from genward.models import text as encoding
from genward.models.ports import Run
from genward.models.rig import LiveRig
from genward.ops import asking, everyday

if TYPE_CHECKING:
    from PIL.Image import Image

    from genward.models.sd import StableDiffusion

LEVELS = ("prompt", "query", "gradient")
"""Access levels, weakest first; each includes those before it."""
LOOKED_THROUGH = ("prompts", "tap", "text", "inputs", "guidance")
"""Ports that an attack's gradient goes through; latents and images ports act only while a picture is sampled."""


class Means(NamedTuple):
    """What an attacker holds besides the arm and reference pictures."""

    judge: Any = None
    """Who says whether a finished picture shows a concept; the run's own, so that a search and the table have one rule
    of success"""
    labels: Mapping[str, Sequence[str]] = {}
    """Concept -> the judge's labels that show it"""
    things: Mapping[str, Any] = {}
    """The vocabulary's other wordings, ``Setting.words["things"]``"""
    phrases: Mapping[str, Sequence[str]] = {}
    """Concept -> the phrases of its file, held-out ones too: what a defender never saw, an attacker may well know"""
    writable: Sequence[str] = ()
    """Words that a search may write, see ``writable``; none: every token of the public tokenizer"""


NO_MEANS = Means()


def writable(words: Mapping[str, Any]) -> tuple[str, ...]:
    """The words that a search may write on a model with a vocabulary (the lab): those of its phrases and styles, and
    names of everyday things, so that no search comes upon words that genward does not show. Empty for a model without
    one.

    Args:
        words: ``styles`` and ``things``, object -> level -> phrases.
    """
    things: Mapping[str, Mapping[str, Sequence[str]]] = words.get("things", {})
    if not things:
        return ()
    texts = [*things, *words.get("styles", ()), *everyday.NOUNS]
    texts += [phrase for levels in things.values() for phrases in levels.values() for phrase in phrases]
    return tuple(sorted({w for text in texts for w in re.findall(r"[a-z]+", text.casefold())} | FUNCTION))


class ArmTarget:
    """``core.contracts.Target`` on an open rig.

    Args:
        rig: the arm's open rig; without defenses it is a surrogate.
        access: the attack's level; what lies above it raises ``Conflict``.
        references: concept -> pictures that the attacker holds.
        state: file (without ending) for ``checkpoint``; nothing is kept without one.
        styles: names of the styles that the model knows.
        means: judge and words that the attacker holds. undefended: samples of cases under the model without defenses.

    Counters: ``rows`` (denoiser rows), ``gradient_rows`` (those with a backward pass behind them), ``texts``,
    ``sampled`` (pictures), ``seconds``."""

    def __init__(
        self,
        model: StableDiffusion,
        rig: LiveRig,
        sampler: Sampler,
        *,
        access: str = "gradient",
        defenses: Sequence[Defense] = (),
        references: Mapping[str, Sequence[Image]] | None = None,
        state: Path | None = None,
        styles: Sequence[str] = (),
        means: Means = NO_MEANS,
        undefended: Sequence[Sample] = (),
    ) -> None:
        if access not in LEVELS:
            raise UnknownName("access level", access, LEVELS)
        self.model, self.rig, self._sampler, self.access = model, rig, sampler, access
        self.defenses, self._references, self._state = tuple(defenses), references or {}, state
        self.styles = tuple(styles)
        self.means, self._own = means, {s.case.id: s for s in undefended}
        self.gradient_rows = self.texts = self.sampled = 0
        self.rows = sum(s.nfe for s in undefended)
        self.kept: dict[str, Tensor] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self._empty: Tensor | None = None
        self._began = time.perf_counter()

    @property
    def sampler(self) -> Sampler:
        return self._sampler

    @property
    def schedule(self) -> Mapping[str, Any]:
        """The scheduler's configuration with ``final_alpha``, the signal level after the last step."""
        scheduler = self.model.pipe.scheduler
        final = getattr(scheduler, "final_alpha_cumprod", torch.tensor(1.0))
        return {**dict(scheduler.config), "final_alpha": float(final)}

    @property
    def alphas(self) -> Tensor:
        return self.model.alphas_cumprod.float().cpu()

    @property
    def needs_guidance(self) -> bool:
        return any(defending.needs_guidance(d) for d in self.defenses)

    @property
    def cost(self) -> dict[str, float]:
        """What was spent so far: ``nfe``, ``gradient_nfe`` (denoiser rows), ``pictures``, ``seconds``."""
        spent = {"nfe": self.rows, "gradient_nfe": self.gradient_rows, "pictures": self.sampled}
        return {**spent, "seconds": round(time.perf_counter() - self._began, 3)}

    def _allowed(self, level: str) -> None:
        if LEVELS.index(level) > LEVELS.index(self.access):
            raise Conflict(
                f"this attack has access {self.access!r} and asked for {level!r}; raise its access, or use another "
                "attack"
            )

    def sample(self, cases: Sequence[Case]) -> list[Sample]:
        """Pictures of the cases under the arm (access ``query``)."""
        self._allowed("query")
        made = self.model.generate(
            cases, self._sampler, self.defenses, rig=self.rig, starts=self.kept, vectors=self.kept
        )
        self.sampled += len(made)
        self.rows += sum(s.nfe for s in made)
        return made

    def shown(self, samples: Sequence[Sample]) -> list[float]:
        """By how much each finished picture shows its case's concept: the largest of the labels' scores, each less its
        threshold on the judge's card, so that success is at least 0; ``REFUSED`` where nothing was released (access
        ``query``).

        Raises:
            BadInput: no judge, one without thresholds, or a concept whose labels are not known.
        """
        self._allowed("query")
        concepts = list(dict.fromkeys(s.case.concept for s in samples))
        if self.means.judge is None:
            raise BadInput("this attack asks a judge whether its pictures succeed; name one (--judge lab)")
        out = [REFUSED] * len(samples)
        for concept in concepts:
            labels = self.means.labels.get(concept, ())
            if not labels:
                raise BadInput(f"no judge label shows {concept!r}; give [judge] labels in its concept file")
            mine = [k for k, s in enumerate(samples) if s.case.concept == concept]
            limits = asking.thresholds(self.means.judge, labels, None, "attack")
            values = asking.scores(self.means.judge, [samples[k].image for k in mine], labels) - limits
            for k, row in zip(mine, values, strict=True):
                known = row[np.isfinite(row)]
                out[k] = float(known.max()) if len(known) and samples[k].status == "ok" else REFUSED
        return out

    def undefended(self, cases: Sequence[Case]) -> list[Sample]:
        """Samples of the cases under the same model without defenses: the attacker's own copy draws them."""
        return [self._own[c.id] for c in cases]

    @property
    def things(self) -> Mapping[str, Any]:
        """Object -> level -> phrases: other wordings that the attacker knows; empty where there are none."""
        return self.means.things

    def phrases(self, concept: str) -> Sequence[str]:
        """The concept file's phrases; ``BadInput`` where there are none."""
        if not self.means.phrases.get(concept):
            raise BadInput(f"this attack starts from the phrases of {concept!r}, and its concept file has none")
        return self.means.phrases[concept]

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The public tokenizer's words with their embeddings, as far as they may be written."""
        table = self.model.text_encoder.get_input_embeddings().weight.detach()
        every = Vocabulary.of(self.model.pipe.tokenizer, table)
        return every.within(self.means.writable) if self.means.writable else every

    def states(
        self, ids: Sequence[Sequence[int]], vectors: Tensor | None = None, *, length: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Text states (n, t, c) of prompts in token ids by the undefended, public encoder, and their mask (n, t); any
        access. ``vectors`` (n, t, width) stand in the place of embeddings, with gradient; ``length`` pads to at least
        as many tokens."""
        self.texts += len(ids)
        words = self.vocabulary
        rows = [words.whole(row) for row in ids]
        return encoding.states(self.model.text_encoder, rows, words.tokenizer.pad_token_id or 0, vectors, length)

    def base(self, prompts: Sequence[str], noisy: Tensor, timestep: Tensor, *, guidance: float = 1.0) -> Tensor:
        """The prediction (rows, c, h, w) of the same model without defenses under these prompts, without gradient
        (access ``gradient``)."""
        self._allowed("gradient")
        self.rows += len(noisy) * (2 if guidance > 1 else 1)
        with torch.no_grad():
            unique = {p: k for k, p in enumerate(dict.fromkeys(prompts))}
            states = self.rig.encode(list(unique))
            call = Call(noisy.to(states.dtype), timestep, states[[unique[p] for p in prompts]])
            cond = self.rig.predict(call, weights="clean").noise
            if guidance <= 1:
                return cond
            empty = self.rig.encode([""]).expand(len(cond), -1, -1)
            uncond = self.rig.predict(call._replace(text=empty), weights="clean").noise
        return uncond + guidance * (cond - uncond)

    def references(self, concept: str) -> list[Image]:
        """The attacker's pictures of a concept; ``UnknownName`` where there are none."""
        if not self._references.get(concept):
            raise UnknownName(
                "concept with reference pictures", concept, [c for c, pictures in self._references.items() if pictures]
            )
        return list(self._references[concept])

    def text(self, prompts: Sequence[str], vectors: Mapping[str, Tensor] = {}) -> Tensor:  # noqa: B006 - never changed
        """Text states (n, t, c) through the arm's prompt port and text taps, with gradient to the vectors (access
        ``gradient``)."""
        self._allowed("gradient")
        self.texts += len(prompts)
        before, self.rig.run = self.rig.run, Run(len(prompts), 1, 1.0, self.model.device)
        try:
            with self.model.learned(vectors):
                texts = [p.text for p in self.rig.prompt_stage([Prompt(p) for p in prompts])]
                with self.rig.text_stage("prompt", texts):
                    return self.model.encode(texts)
        finally:
            self.rig.run = before

    def predict(self, call: Call, *, guidance: float = 1.0) -> Tensor:
        """The arm's guided prediction (rows, c, h, w), see ``LiveRig.defended`` (access ``gradient``)."""
        self._allowed("gradient")
        rows = len(call.latents) * (2 if guidance > 1 else 1)
        self.rows += rows
        if torch.is_grad_enabled() and (call.text.requires_grad or call.latents.requires_grad):
            self.gradient_rows += rows
        if guidance > 1 and self._empty is None:
            self._empty = self.rig.encode([""]).detach()
        return self.rig.defended(call, guidance, self._empty)

    @contextmanager
    def listening(self, heard: list[Any]) -> Iterator[None]:
        """Inside, what guards note is put on the list with its graph (access ``gradient``)."""
        self._allowed("gradient")
        before, self.rig.trace = self.rig.trace, heard
        try:
            yield
        finally:
            self.rig.trace = before

    def latents(self, images: Sequence[Image]) -> Tensor:
        """Scaled latents (n, c, h, w) of pictures."""
        pixels = self.model.pipe.image_processor.preprocess(list(images))
        return self.model.encode_images(pixels)

    def word(self, text: str) -> Tensor:
        """(width,) mean of a word's token embeddings."""
        ids = self.model.pipe.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[0]
        if not len(ids):
            raise UnknownName("word", text, [])
        table = self.model.text_encoder.get_input_embeddings()
        with torch.no_grad():
            mean: Tensor = table(ids.to(table.weight.device)).float().mean(0)
        return mean.clone()

    def keep(self, tensor: Tensor, **facts: Any) -> str:
        """Keep a finite tensor and what is known about it, by content hash (64 hex digits)."""
        from genward.ops.artifacts import content_hash

        value = tensor.detach().float().cpu().contiguous()
        name = content_hash({"": value})
        self.kept[name], self.facts[name] = value, {**facts, "model": self.model.spec.hash}
        return name

    def checkpoint(self, state: Mapping[str, Tensor] | None = None) -> Mapping[str, Tensor]:
        """Keep (or with ``None`` read) the state of a long search. A damaged file counts as none: the search starts
        again."""
        from genward.ops.artifacts import load, save

        if self._state is None:
            return {}
        if state is not None:
            return save(self._state, {k: v.float() for k, v in state.items()}, {}).tensors
        try:
            return load(self._state).tensors if Path(f"{self._state}.json").is_file() else {}
        except BadArtifact:
            return {}
