"""Textual inversion: a new word is learned that makes the arm draw the concept, whatever became of the concept's own
words.

One embedding minimizes the arm's denoising loss on a few pictures of the concept (Gal et al., arXiv 2208.01618, eq. 2);
used against erased models as in Concept Inversion and M-ErasureBench (arXiv 2512.22877, door "embedding"). Gradients go
through everything the arm has: weight edits, taps, and guidance ports where ``guidance`` is above 1. What differs from
Gal et al.: timesteps are stratified over a step's rows, several initial words compete on held-out draws of noise, and
all concepts, words and restarts are learned in one batch of rows, each with its own loss and its own random numbers,
so that none depends on the others. One search is one draw: restarts of equal settings end anywhere between nothing and
the concept, and the loss on held-out noise tells which; so the best by that loss goes on after a trial. The numbers of
steps, rows and the rate are ours, chosen so that the undefended lab draws the concept (docs/papers.md)."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from genward.attacks import FAILED
from genward.attacks._gradient import predictions_of
from genward.core.contracts import Target
from genward.core.files import finite
from genward.core.records import Call, Case, Inputs, row_seed
from genward.errors import BadInput
from genward.ops.finetune import add_noise
from genward.ops.inversion import adam_step, denoising_loss, shares, stratified_timesteps, with_lengths

SUFFIX = "/ti"
"""What a derived case's id ends with."""
SLOT = "{}"
"""Where the learned word goes in prompts and templates."""
STYLE = "[style]"
"""Where a style's name goes in templates."""
EVERY = 25
"""Steps between checkpoints."""
NORMS = ("free", "word")


@dataclass(frozen=True)
class TextualInversion:
    """Textual inversion: one learned word a concept, optimized through the arm."""

    name: ClassVar[str] = "textual_inversion"
    access: ClassVar[str] = "gradient"
    parents: ClassVar[tuple[str, ...]] = ("embedding",)
    steps: int = 600
    """Optimizer steps."""
    rate: float = 1e-2
    """Learning rate of Adam."""
    rows: int = 16
    """Noisy pictures a step, for each concept, initial word and restart."""
    searches: int = 1
    """Independent searches for each concept; its cases are dealt over them in turn. One search is one draw, so that an
    interval needs several."""
    restarts: int = 3
    """Walks of a search for each initial word, with other random numbers and starts, of which the best is kept."""
    trial: int = 150
    """Steps after which only the best of a search's walks goes on; 0: all go on to the end."""
    spread: float = 0.1
    """How far restarts but the first begin from the initial word, in the word's own length."""
    guidance: float | None = None
    """Guidance of the prediction whose error is minimized; none takes the sampler's where a defense acts through
    guidance only, else 1."""
    words: tuple[str, ...] = ("object",)
    """Initial words; the one with the lowest held-out loss is kept, for each concept."""
    templates: tuple[str, ...] = (
        "{}",
        "a picture of {}",
        "an image of {}",
        "a drawing of {}",
        "an icon of {}",
        "a small picture of {}",
        "{}, [style] style",
    )
    """Prompts in training, ``{}`` for the word; ``[style]`` stands for each of the model's styles in turn, where it has
    any. None of them should be a prompt of the evaluation."""
    norm: str = "free"
    """Length of the embedding: ``free``, or ``word`` to keep that of its initial word, at the scale of the vocabulary.
    """
    heldout: int = 32
    """Held-out draws of picture, timestep and noise, on which a word is judged before and after."""
    seed: int = 0
    """Of pictures, timesteps, templates and noise."""
    batch: int = field(default=64, metadata={"identity": False})
    """Most rows of one denoiser call; more are worked off in parts."""

    def __post_init__(self) -> None:
        counts = (self.steps, self.rows, self.searches, self.restarts, self.heldout, self.batch)
        if min(counts) < 1 or not self.rate > 0:
            raise BadInput(
                "textual_inversion: steps, rows, searches, restarts, heldout and batch must be at least 1 and rate "
                "above 0"
            )
        if self.trial < 0 or not 0 <= self.spread < 10:
            raise BadInput("textual_inversion: trial must be at least 0, spread from 0 to 10")
        if not self.words or not self.templates or any(t.count(SLOT) != 1 for t in self.templates):
            raise BadInput(
                "textual_inversion: it needs an initial word, and templates with one {} each, as in 'a picture of {}'"
            )
        if self.norm not in NORMS:
            raise BadInput(f"textual_inversion: norm {self.norm!r}; {' or '.join(map(repr, NORMS))} are possible")

    def prompts(self, styles: Sequence[str]) -> tuple[str, ...]:
        """The templates with every style of the model in the place of ``[style]``.

        Raises:
            BadInput: none is left, because the model's styles are not known.
        """
        found = [t.replace(STYLE, s) for t in self.templates for s in (styles if STYLE in t else ("",))]
        if not found:
            raise BadInput("textual_inversion: every template names [style], and this model's styles are not known")
        return tuple(dict.fromkeys(found))

    def gradient_nfe(self, cases: Sequence[Case]) -> int:
        """Rows of ``nfe`` with a backward pass behind them."""
        walks = len(self.words) * self.restarts
        early = min(self.trial, self.steps) if self.trial and walks > 1 else self.steps
        return self._searches(cases) * self.rows * (walks * early + self.steps - early)

    def nfe(self, cases: Sequence[Case]) -> int:
        """Denoiser rows that a search will cost at guidance 1, held-out losses included; twice as many above."""
        looks = len(self.words) * self.restarts * (3 if self.trial else 2)
        return self.gradient_nfe(cases) + self._searches(cases) * looks * self.heldout

    def _searches(self, cases: Sequence[Case]) -> int:
        return sum(min(n, self.searches) for n in Counter(c.concept for c in cases).values())

    def search(self, cases: Sequence[Case], target: Target) -> Iterator[Case]:
        """One derived case a parent: the learned word in the prompt's ``{}``, its hash among the inputs under the word
        as written there, the parent's share of gradient rows in ``queries``, its search as ``group``.

        ``target.keep`` is told ``concept``, ``word`` (the initial one), ``curve`` (training loss by step), ``search``,
        ``restart``, held-out losses, and the settings. Cases of a search that diverged name ``FAILED``.

        Raises:
            BadInput: a parent's prompt without ``{}``, or no reference pictures.
        """
        if unfit := [c.id for c in cases if SLOT not in c.prompt]:
            raise BadInput(
                f"case {unfit[0]!r}: its prompt has no {{}} for the learned word, as in '{{}} in flat style'"
            )
        counts: dict[str, int] = {}
        dealt = []
        for case in cases:
            turn = counts.get(case.concept, 0)
            counts[case.concept] = turn + 1
            dealt.append((case.concept, turn % self.searches))
        search = Search(self, target, {c: min(n, self.searches) for c, n in counts.items()})
        search.run()
        found = list(dict.fromkeys(dealt))
        names = {one: search.keep(*one) for one in found}
        rows = {one: iter(shares(search.spent(*one), dealt.count(one))) for one in found}
        for case, one in zip(cases, dealt, strict=True):
            text = f"<{names[one][:12]}>"
            yield case._replace(
                id=case.id + SUFFIX,
                prompt=case.prompt.replace(SLOT, text),
                parent=case.id,
                group=f"search {one[1] + 1}",
                inputs=Inputs({**case.inputs, text: names[one]}),
                queries=next(rows[one]),
            )


class Token(NamedTuple):
    """A word being learned."""

    concept: str
    word: str
    text: str
    """How it is written in prompts while it is learned"""
    search: int = 0
    restart: int = 0


class Draws(NamedTuple):
    """The random numbers of one concept and step."""

    picture: Tensor
    """int (rows,)"""
    timestep: Tensor
    """int (rows,)"""
    template: Tensor
    """int (rows,)"""
    noise: Tensor
    """(rows, c, h, w)"""


def draw(seed: int, rows: int, pictures: Tensor, templates: int, total: int) -> Draws:
    """``rows`` draws for latents ``pictures`` (n, c, h, w), from a generator of their own: the same whatever else is
    learned beside them."""
    random = torch.Generator().manual_seed(seed)
    picture = torch.randint(len(pictures), (rows,), generator=random)
    timestep = stratified_timesteps(rows, total, random)
    template = torch.randint(templates, (rows,), generator=random)
    return Draws(picture, timestep, template, torch.randn(rows, *pictures.shape[1:], generator=random))


class Search:
    """The state of the searches: a vector a concept and initial word, Adam's moments, the losses so far; checkpointed
    every ``EVERY`` steps."""

    def __init__(self, attack: TextualInversion, target: Target, concepts: Mapping[str, int]) -> None:
        self.attack, self.target = attack, target
        self.guidance, self.alphas, self.kind, self.total = predictions_of(attack, target)
        self.pictures = {concept: self._held(concept) for concept in concepts}
        self.tokens: list[Token] = []
        for concept, count in concepts.items():
            for search, word, restart in itertools.product(range(count), attack.words, range(attack.restarts)):
                self.tokens.append(Token(concept, word, f"<x{len(self.tokens)}>", search, restart))
        self.searches = list(dict.fromkeys((t.concept, t.search) for t in self.tokens))
        self.templates = attack.prompts(target.styles)
        starts = [self._start(t) for t in self.tokens]
        self.vectors = torch.stack(starts) if starts else torch.zeros(0, 0)
        self.lengths = self.vectors.norm(dim=1)
        self.first, self.second = torch.zeros_like(self.vectors), torch.zeros_like(self.vectors)
        self.done = 0
        self.steps = torch.zeros(len(self.tokens), dtype=torch.long)
        """Steps that a token lived; below ``done`` for one that diverged."""
        self.curve = torch.zeros(len(self.tokens), attack.steps)
        self.before, self.after = torch.zeros(len(self.tokens)), torch.zeros(len(self.tokens))
        self.tried = torch.full((len(self.tokens),), torch.inf)
        """Held-out loss after the trial of the tokens that were stopped there"""

    def _start(self, token: Token) -> Tensor:
        """(width,) where a token begins: its word, or beside it."""
        word = self.target.word(token.word).detach()
        word = word.to(torch.promote_types(word.dtype, torch.float32))
        if not (token.search or token.restart):
            return word
        attack = self.attack
        seed = row_seed("attack", type(attack).name, attack.seed, token.concept, token.word, "start", *_walk(token))
        away = torch.randn(word.shape, generator=torch.Generator().manual_seed(seed)).to(word)
        start: Tensor = word + attack.spread * word.norm() * away / away.norm()
        return start

    def _held(self, concept: str) -> Tensor:
        pictures = self.target.references(concept)
        if not pictures:
            raise BadInput(
                f"textual_inversion: no reference pictures of {concept!r} to learn from; give a folder of them"
            )
        latents = self.target.latents(pictures).detach()
        return latents.to(torch.promote_types(latents.dtype, torch.float32))

    # --------------------------------------------------------------------------------------------------------- the loss

    def losses(self, which: Sequence[int], vectors: Tensor, drawn: Mapping[tuple[str, int, int], Draws]) -> Tensor:
        """(tokens,) mean loss of each of the tokens ``which`` with embeddings ``vectors`` (tokens, width) on its own
        draws; with gradient."""
        device = vectors.device
        tokens = [self.tokens[k] for k in which]
        draws = [drawn[t.concept, t.search, t.restart] for t in tokens]
        prompts = [
            self.templates[int(k)].replace(SLOT, t.text) for t, d in zip(tokens, draws, strict=True) for k in d.template
        ]
        unique = {p: k for k, p in enumerate(dict.fromkeys(prompts))}
        states = self.target.text(list(unique), {t.text: v for t, v in zip(tokens, vectors, strict=True)})
        text = states[torch.tensor([unique[p] for p in prompts], device=states.device)]
        clean = torch.cat(
            [
                self.pictures[t.concept][d.picture.to(self.pictures[t.concept].device)]
                for t, d in zip(tokens, draws, strict=True)
            ]
        )
        noise, timestep = (
            torch.cat([d.noise for d in draws]).to(clean),
            torch.cat([d.timestep for d in draws]).to(clean.device),
        )
        noisy = add_noise(clean, noise, timestep, self.alphas)
        prediction = self.target.predict(Call(noisy.to(text.dtype), timestep, text), guidance=self.guidance).to(
            clean.dtype
        )
        return (
            denoising_loss(prediction, clean, noise, timestep, self.alphas, self.kind)
            .view(len(tokens), -1)
            .mean(1)
            .to(device)
        )

    def parts(self, rows: int) -> list[list[int]]:
        """Tokens still alive, in parts of at most ``batch`` denoiser rows (one token at least)."""
        alive = [k for k in range(len(self.tokens)) if int(self.steps[k]) == self.done]
        size = max(1, self.attack.batch // (rows * (2 if self.guidance > 1 else 1)))
        return [alive[k : k + size] for k in range(0, len(alive), size)]

    def drawn(self, rows: int, *purpose: object, shared: bool = False) -> dict[tuple[str, int, int], Draws]:
        """The draws of every walk for one purpose; ``shared`` by all of a concept's, to compare them."""
        name, seed, count = type(self.attack).name, self.attack.seed, len(self.templates)
        found: dict[tuple[str, int, int], Draws] = {}
        for token in self.tokens:
            key = (token.concept, token.search, token.restart)
            first = (token.concept, 0, 0)
            if shared and first in found:
                found[key] = found[first]
            elif key not in found:
                own = row_seed("attack", name, seed, token.concept, *purpose, *_walk(token))
                found[key] = draw(own, rows, self.pictures[token.concept], count, self.total)
        return found

    def heldout(self) -> Tensor:
        """(tokens,) loss on draws that training never sees; infinite for a token that diverged."""
        out = torch.full((len(self.tokens),), torch.inf)
        drawn = self.drawn(self.attack.heldout, "held-out", shared=True)
        with torch.no_grad():
            for part in self.parts(self.attack.heldout):
                out[part] = self.losses(part, self.vectors[part], drawn).float().cpu()
        return torch.where(torch.isfinite(out), out, torch.inf)

    # --------------------------------------------------------------------------------------------------------- the walk

    def run(self) -> None:
        """All steps, from the checkpoint where there is one."""
        if not self.tokens:
            return
        if not self._resumed():
            self.before = self.heldout()
        while self.done < self.attack.steps:
            self.step()
            if self.done == self.attack.trial < self.attack.steps:
                self._choose()
            if self.done % EVERY == 0 and self.done < self.attack.steps:
                self._checkpoint()
        self.after = torch.minimum(self.heldout(), self.tried)

    def _choose(self) -> None:
        """After the trial the best walk of each search goes on; the others stay as they are."""
        found = self.heldout()
        for one in self.searches:
            mine = [k for k in self.mine(*one) if int(self.steps[k]) == self.done]
            for k in sorted(mine, key=lambda k: float(found[k]))[1:]:
                self.tried[k] = found[k]
                self.steps[k] = self.done - 1  # no longer alive; the step was taken all the same

    def step(self) -> None:
        """One step of Adam for every token alive. One whose loss, gradient or vector is not finite stops there; the
        others go on."""
        drawn = self.drawn(self.attack.rows, self.done)
        for part in self.parts(self.attack.rows):
            leaf = self.vectors[part].requires_grad_()
            with torch.enable_grad():
                losses = self.losses(part, leaf, drawn)
                well = torch.isfinite(losses.detach())
                gradient = (
                    torch.autograd.grad(losses[well].sum(), leaf)[0] if bool(well.any()) else torch.zeros_like(leaf)
                )
            moved, first, second = adam_step(
                leaf.detach(), gradient, self.first[part], self.second[part], self.done + 1, self.attack.rate
            )
            if self.attack.norm == "word":
                moved = with_lengths(moved, self.lengths[part])
            well &= torch.isfinite(moved).all(1) & torch.isfinite(second).all(1)
            good = torch.tensor(part)[well.cpu()]
            self.vectors[good], self.first[good], self.second[good] = moved[well], first[well], second[well]
            self.curve[good, self.done] = losses.detach()[well].float().cpu()
            self.steps[good] += 1
        self.done += 1

    def _checkpoint(self) -> None:
        numbers = {
            "done": torch.tensor([self.done]),
            "steps": self.steps,
            "before": torch.where(torch.isfinite(self.before), self.before, -1),
            "tried": torch.where(torch.isfinite(self.tried), self.tried, -1),
        }
        self.target.checkpoint(
            {"vectors": self.vectors, "first": self.first, "second": self.second, "curve": self.curve, **numbers}
        )

    def _resumed(self) -> bool:
        state = self.target.checkpoint()
        if state.keys() != {"vectors", "first", "second", "curve", "done", "steps", "before", "tried"}:
            return False
        if state["vectors"].shape != self.vectors.shape or state["curve"].shape != self.curve.shape:
            return False
        self.vectors, self.first, self.second = (state[k].to(self.vectors) for k in ("vectors", "first", "second"))
        self.curve, self.steps, self.done = (
            state["curve"].float().cpu(),
            state["steps"].long().cpu(),
            int(state["done"][0]),
        )
        self.before, self.tried = (
            torch.where(state[k] < 0, torch.inf, state[k]).float().cpu() for k in ("before", "tried")
        )
        return True

    # ----------------------------------------------------------------------------------------------------- what is kept

    def mine(self, concept: str, search: int = 0) -> list[int]:
        """The tokens of one of the concept's searches."""
        return [k for k, t in enumerate(self.tokens) if (t.concept, t.search) == (concept, search)]

    def spent(self, concept: str, search: int = 0) -> int:
        """Denoiser rows with a gradient that a search cost, those of the unconditional branch included."""
        mine = self.mine(concept, search)
        taken = int(self.steps[mine].sum()) + int(torch.isfinite(self.tried[mine]).sum())
        return taken * self.attack.rows * (2 if self.guidance > 1 else 1)

    def keep(self, concept: str, search: int = 0) -> str:
        """Keep a search's best vector; its content hash, or ``FAILED`` where all diverged."""
        mine = self.mine(concept, search)
        best = min(mine, key=lambda k: float(self.after[k]))
        if not bool(torch.isfinite(self.after[best])):
            return FAILED
        losses: dict[str, list[Tensor]] = {}
        for k in mine:
            losses.setdefault(self.tokens[k].word, []).append(self.after[k])
        by_word = {word: rounded(torch.stack(found).min()) for word, found in losses.items()}
        names = ("steps", "rate", "rows", "restarts", "trial", "norm", "seed")
        facts: dict[str, Any] = {name: getattr(self.attack, name) for name in names}
        facts |= {
            "heldout_before": rounded(self.before[best]),
            "heldout_after": rounded(self.after[best]),
            "heldout_by_word": by_word,
            "heldout_by_restart": [rounded(x) for x in losses[self.tokens[best].word]],
        }
        curve = [round(x, 6) for x in self.curve[best].tolist()]
        return self.target.keep(
            self.vectors[best],
            kind="embedding",
            concept=concept,
            word=self.tokens[best].word,
            search=search,
            restart=self.tokens[best].restart,
            curve=curve,
            guidance=self.guidance,
            **facts,
        )


def _walk(token: Token) -> tuple[int, ...]:
    """What sets a walk's random numbers apart; nothing for the first one."""
    return (token.search, token.restart) if token.search or token.restart else ()


def rounded(loss: Tensor) -> float | None:
    """A loss to six places, ``None`` where it is not finite: it goes into JSON."""
    return finite(float(loss), 6)
