"""Searches for learned tokens through an arm's own predictions, all cases in one batch: a step moves what is learned by
the gradient of each case's loss, a round ends with the tokens written out, drawn by the arm and judged.

What the methods differ in, a subclass of ``GradientSearch`` says: at which tokens a step takes its gradient
(``tried``), how what is learned moves (``move``), which tokens it would write out (``standing``). The control draws its
tokens at random, as many candidates as steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genward.attacks._gradient import predictions_of
from genward.attacks._queries import UNASKED, best
from genward.attacks._tokens import REFUSED, Vocabulary
from genward.core.contracts import Target
from genward.core.records import Call, Case, Frame, row_seed
from genward.errors import BadInput
from genward.ops.finetune import add_noise
from genward.ops.inversion import denoising_loss, stratified_timesteps

KEEPS = ("best", "last")
"""What a round of a search by gradient ends with"""
Heard = tuple[Frame, Mapping[str, Tensor]]
"""What a guard noted, with its graph"""
SCORE, LIVE = ".score", ".live.score"
"""What a guard's note of its score ends with; the second form is for listeners alone and stands in its place"""
HELDOUT = 2
"""Draws of timestep and noise on which the tokens of a round are compared, where no picture is asked for"""


class Draws(NamedTuple):
    """The random numbers of some rows."""

    timestep: Tensor
    """int (rows,)"""
    noise: Tensor
    """(rows, c, h, w)"""


@dataclass(frozen=True)
class Written:
    """A prompt with places for learned tokens: texts, ``None`` for a place."""

    pieces: tuple[str | None, ...]

    @property
    def places(self) -> int:
        return sum(p is None for p in self.pieces)

    def filled(self, texts: Sequence[str]) -> str:
        """The prompt with these texts in the places, in order."""
        left = iter(texts)
        return " ".join(next(left) if p is None else p for p in self.pieces)

    def ids(self, words: Vocabulary, chosen: Sequence[int]) -> list[int]:
        """The tokens that the prompt must have when it is read again."""
        left = iter(chosen)
        return [i for p in self.pieces for i in ([next(left)] if p is None else words.ids(p))]


def in_front(prompt: str, tokens: int) -> Written:
    """Learned tokens in front of a prompt."""
    return Written((*[None] * tokens, prompt))


def alone(tokens: int) -> Written:
    """Learned tokens that are the whole prompt."""
    return Written((None,) * tokens)


def between(prompt: str, every: int) -> Written:
    """One learned token after every so many words of a prompt, the last one at its end."""
    words = prompt.split()
    pieces: list[str | None] = []
    for k in range(0, len(words), every):
        pieces += [" ".join(words[k : k + every]), None]
    return Written(tuple(pieces))


def alarm(heard: Sequence[Heard], cases: int, rows: int) -> Tensor:
    """(cases,) sum of what guards noted under ``….score`` of each case, with its graph: of texts row by row, of
    predictions the mean over a case's rows. Scores that carry no graph are left out.

    Raises:
        BadInput: no guard told a score with a gradient.
    """
    out, told = torch.zeros(cases), False
    live = {name.removesuffix(LIVE) for _, signals in heard for name in signals if name.endswith(LIVE)}
    for frame, signals in heard:
        for name, value in signals.items():
            if not name.endswith(SCORE) or name.removesuffix(SCORE) in live:
                continue
            if torch.is_grad_enabled() and not value.requires_grad:
                continue
            flat = value.reshape(len(frame.case), -1).amax(1).float()
            keep = frame.conditional.to(flat.device)
            place = (frame.case if frame.stage == "text" else frame.case // rows).to(flat.device)[keep]
            share = 1.0 if frame.stage == "text" else 1 / rows
            out = out.to(flat).index_add(0, place, flat[keep] * share)
            told = True
    if not told:
        raise BadInput(
            "guard: no guard of this arm tells a score that a gradient can follow (aeiou, wukong and noise_probe do); "
            "set guard=0, or take a query attack"
        )
    return out


class PrefixSearch(ABC):
    """The state of one search.

    Args:
        attack: with ``rounds``, ``steps``, ``rows``, ``seed``, ``batch``, ``guidance``, ``guard``, ``stop``,
            ``control``.
        clean: (cases, c, h, w) latents of the pictures that are to come back.
        written: the prompts, all with the same number of places.
    """

    carried: tuple[str, ...] = ()
    """Tensors that a subclass carries from step to step"""

    def __init__(self, attack: Any, target: Target, cases: Sequence[Case], written: Sequence[Written]) -> None:
        self.attack, self.target, self.cases, self.written = attack, target, list(cases), list(written)
        self.words: Vocabulary = target.vocabulary
        self.name = type(attack).name
        self.tokens = written[0].places if written else 0
        for case, one in zip(cases, written, strict=True):
            if len(one.ids(self.words, self.words.usable[: one.places].tolist() + [0] * one.places)) > self.words.room:
                raise BadInput(
                    f"{self.name}: {one.places} learned tokens and {case.prompt!r} are longer than the encoder reads "
                    f"({self.words.room} tokens); take fewer tokens"
                )
        self.guidance, self.alphas, self.kind, self.total = predictions_of(attack, target)
        self.clean = self._clean()
        count = len(self.cases)
        self.done = 0
        self.margins = torch.full((count, attack.rounds + 1), UNASKED)
        """(cases, rounds + 1) what was seen of the prompt itself and after each round"""
        self.chosen = torch.zeros(count, attack.rounds + 1, self.tokens, dtype=torch.long)
        self.losses = torch.full((count, attack.rounds + 1), torch.inf)
        """(cases, rounds + 1) loss of the written tokens on held-out draws; lower is better"""
        self.norms = torch.zeros(count, attack.rounds)
        """(cases, rounds) mean length of the gradient that reached the tokens"""
        self.now = torch.zeros(count, self.tokens, dtype=torch.long)
        """(cases, tokens) those with the lowest loss of the round"""

    def _clean(self) -> Tensor:
        """(cases, c, h, w) latents of the undefended model's pictures of the prompts."""
        made = self.target.undefended(self.cases)
        pictures = [s.image for s in made]
        lost = [s.case.id for s in made if s.image is None]
        if lost:
            raise BadInput(
                f"{self.name}: the undefended model drew nothing for case {lost[0]!r}, so nothing can come back"
            )
        latents = self.target.latents([p for p in pictures if p is not None]).detach()
        return latents.to(torch.promote_types(latents.dtype, torch.float32))

    # ------------------------------------------------------------------------------------------ what a method says

    @abstractmethod
    def _round(self, which: Sequence[int], turn: int) -> None:
        """The steps of a round, for some cases."""

    @abstractmethod
    def hard(self, which: Sequence[int]) -> Tensor:
        """(cases, tokens) the tokens that stand there now."""

    def timesteps(self, rows: int, turn: int, generator: torch.Generator) -> Tensor:
        """int (rows,) the timesteps of a case's rows in a step."""
        return stratified_timesteps(rows, self.total, generator)

    def error(self, which: Tensor, prediction: Tensor, noisy: Tensor, clean: Tensor, drawn: Draws) -> Tensor:
        """(rows,) loss of each row; rows belong to the cases ``which``."""
        return denoising_loss(prediction, clean, drawn.noise.to(clean), drawn.timestep, self.alphas, self.kind)

    # -------------------------------------------------------------------------------------------------------- loss

    def drawn(self, which: Sequence[int], rows: int, turn: int) -> Draws:
        """The random numbers of a step, each case's from a generator of its own."""
        times, noises = [], []
        for k in which:
            seed = row_seed("attack", self.name, self.attack.seed, self.cases[k].id, turn)
            generator = torch.Generator().manual_seed(seed)
            times.append(self.timesteps(rows, turn, generator))
            noises.append(torch.randn(rows, *self.clean.shape[1:], generator=generator))
        return Draws(torch.cat(times), torch.cat(noises))

    def loss(self, which: Sequence[int], embeddings: Tensor, drawn: Draws) -> Tensor:
        """(cases,) mean loss of each case's rows with these embeddings (cases, tokens, width) in its places."""
        rows = len(drawn.timestep) // len(which)
        names = [[f"<q{k}x{j}>" for j in range(self.tokens)] for k in which]
        vectors = {n: v for mine, of in zip(names, embeddings, strict=True) for n, v in zip(mine, of, strict=True)}
        texts = [self.written[k].filled(mine) for k, mine in zip(which, names, strict=True)]
        heard: list[Heard] = []
        with self.target.listening(heard) if self.attack.guard else nullcontext():
            text = self.target.text(texts, vectors).repeat_interleave(rows, 0)
        index = torch.tensor(which).repeat_interleave(rows)
        clean = self.clean[index.to(self.clean.device)]
        timestep = drawn.timestep.to(clean.device)
        noisy = add_noise(clean, drawn.noise.to(clean), timestep, self.alphas)
        call = Call(noisy.to(text.dtype), timestep, text)
        with self.target.listening(heard) if self.attack.guard else nullcontext():
            prediction = self.target.predict(call, guidance=self.guidance)
        error = self.error(index, prediction.to(clean.dtype), noisy, clean, Draws(timestep, drawn.noise))
        own = error.view(len(which), rows).mean(1)
        return own + self.attack.guard * alarm(heard, len(which), rows).to(own) if self.attack.guard else own

    def parts(self, which: Sequence[int], rows: int) -> Iterator[list[int]]:
        """Cases in parts of at most ``batch`` denoiser rows, one case at least."""
        size = max(1, self.attack.batch // (rows * (2 if self.guidance > 1 else 1)))
        for k in range(0, len(which), size):
            yield list(which[k : k + size])

    # ------------------------------------------------------------------------------------------------------ search

    def run(self) -> None:
        """All rounds, from the checkpoint where there is one."""
        self._resume()
        if self.done == 0 and self.attack.stop:
            self._draw(0, [k for k in range(len(self.cases)) if self.margins[k, 0] == UNASKED])
            self._checkpoint()
        while self.done < self.attack.rounds:
            turn = self.done + 1
            which = [k for k in range(len(self.cases)) if not self._succeeded(k)]
            if which:
                self._round(which, turn)
                self.chosen[which, turn] = self.hard(which).cpu()
                self.losses[which, turn] = self.heldout(which, turn)
                if self.attack.stop:
                    self._draw(turn, which)
            self.done = turn
            self._checkpoint()

    def _succeeded(self, k: int) -> bool:
        return bool(self.attack.stop) and bool((self.margins[k] >= 0).any())

    def lowered(self, part: Sequence[int], tried: Tensor, losses: Tensor, lowest: Tensor) -> None:
        """Note tokens (cases, tokens) whose losses (cases,) are below the round's ``lowest``, which is changed."""
        for k, ids, loss in zip(part, tried, losses, strict=True):
            if loss < lowest[k]:
                self.now[k], lowest[k] = ids, loss

    def heldout(self, which: Sequence[int], turn: int) -> Tensor:
        """(cases,) loss of the tokens as written, on draws that no step sees."""
        out = []
        with torch.no_grad():
            for part in self.parts(which, HELDOUT):
                table = self.words.table[self.chosen[part, turn].to(self.words.table.device)]
                out.append(self.loss(part, table, self.drawn(part, HELDOUT, -1)).float().cpu())
        return torch.cat(out)

    def prompt(self, k: int, turn: int) -> str | None:
        """A case's prompt after a round; ``None`` where its tokens do not survive being written and read again."""
        if turn == 0:
            return self.cases[k].prompt
        chosen = self.chosen[k, turn].tolist()
        text = self.written[k].filled([self.words.text([i]) for i in chosen])
        return text if self.words.ids(text) == self.written[k].ids(self.words, chosen) else None

    def _draw(self, turn: int, which: Sequence[int]) -> None:
        """Ask the arm for pictures of the prompts as they stand."""
        texts = {k: text for k in which if (text := self.prompt(k, turn)) is not None}
        for k in which:
            self.margins[k, turn] = REFUSED
        if not texts:
            return
        rows = [self.cases[k]._replace(id=f"{self.cases[k].id}/{self.name}/{turn}", prompt=t) for k, t in texts.items()]
        for k, margin in zip(texts, self.target.shown(self.target.sample(rows)), strict=True):
            self.margins[k, turn] = margin if margin == margin else REFUSED

    # ------------------------------------------------------------------------------------------------ kept and told

    def _tensors(self) -> dict[str, Tensor]:
        own = {name: getattr(self, name) for name in self.carried}
        state = {"margins": self.margins, "chosen": self.chosen, "norms": self.norms, **own}
        losses = torch.where(torch.isfinite(self.losses), self.losses, -1)
        return {**state, "losses": losses, "done": torch.tensor([self.done])}

    def _checkpoint(self) -> None:
        self.target.checkpoint(self._tensors())

    def _resume(self) -> None:
        state, mine = self.target.checkpoint(), self._tensors()
        if state.keys() != mine.keys() or any(state[k].shape != mine[k].shape for k in mine):
            return
        self.losses = torch.where(state["losses"] < 0, torch.inf, state["losses"]).float().cpu()
        self.done, self.chosen = int(state["done"][0]), state["chosen"].long().cpu()
        self.margins, self.norms = state["margins"].float().cpu(), state["norms"].float().cpu()
        for name in self.carried:
            setattr(self, name, state[name].to(getattr(self, name)))

    def pick(self, k: int) -> int:
        """The round whose prompt a case ends with: the largest margin, or where no picture was asked for the lowest
        loss among those that survive; 0, its own prompt, where none does."""
        if self.attack.stop:
            return best(self.margins[k])
        alive = [t for t in range(1, self.attack.rounds + 1) if self.prompt(k, t) is not None]
        return min(alive, key=lambda t: float(self.losses[k, t]), default=0)

    def found(self) -> Iterator[Case]:
        """One derived case a parent; ``queries`` counts the pictures asked for. ``target.keep`` is told, by concept,
        ``gradient_norm`` (median over cases), ``vanished`` (share of cases whose gradient was 0), ``loss`` (the lowest
        on held-out draws, of each case that was searched) and the queries."""
        norms = self.norms.sum(1) / (self.norms > 0).sum(1).clamp(min=1)
        tried = [bool((self.chosen[k] != 0).any()) for k in range(len(self.cases))]
        for concept in dict.fromkeys(c.concept for c in self.cases):
            mine = [k for k, c in enumerate(self.cases) if c.concept == concept]
            asked = [k for k in mine if tried[k]]
            facts: Mapping[str, Any] = {
                "gradient_norm": float(norms[asked].median()) if asked and not self.attack.control else None,
                "vanished": sum(float(norms[k]) == 0 for k in asked) / len(asked)
                if asked and not self.attack.control
                else None,
                "queries": (self.margins[mine] != UNASKED).sum(1).tolist(),
                "tried": len(asked),
                "loss": [round(float(self.losses[k][torch.isfinite(self.losses[k])].min()), 6) for k in asked],
            }
            kept = torch.cat([self.margins[mine], self.norms[mine]], 1)
            self.target.keep(
                kept, kind="margins", attack=self.name, concept=concept, control=self.attack.control, **facts
            )
        for k, case in enumerate(self.cases):
            text = self.prompt(k, self.pick(k)) or case.prompt
            spent = int((self.margins[k] != UNASKED).sum())
            yield case._replace(id=f"{case.id}/{self.name}", prompt=text, parent=case.id, queries=spent)


class GradientSearch(PrefixSearch):
    """A search whose steps follow the gradient.

    With ``keep="best"`` all steps of a round share their draws, and the tokens with the lowest loss among those that a
    step tried stand at the round's end, as in the control; with ``keep="last"`` every step draws anew and the round
    ends where the method stands (``standing``).
    """

    @abstractmethod
    def tried(self, which: Sequence[int], turn: int) -> Tensor:
        """(cases, tokens) the tokens at which a step takes its gradient."""

    @abstractmethod
    def standing(self, which: Sequence[int]) -> Tensor:
        """(cases, tokens) the tokens that the method itself would write down now."""

    @abstractmethod
    def move(self, which: Sequence[int], gradient: Tensor, turn: int) -> None:
        """One step by the gradient (cases, tokens, width) of each case's own loss."""

    def hard(self, which: Sequence[int]) -> Tensor:
        return self.now[list(which)] if self.attack.keep == "best" else self.standing(which)

    def _round(self, which: Sequence[int], turn: int) -> None:
        steps, best = self.attack.steps, self.attack.keep == "best"
        lowest = torch.full((len(self.cases),), torch.inf)
        for step in range(steps):
            place = (turn - 1) * steps + step
            for part in self.parts(which, self.attack.rows):
                tried = self.tried(part, place)
                drawn = self.drawn(part, self.attack.rows, (turn - 1) * steps if best else place)
                losses, gradient = self._slope(part, tried, drawn)
                self.norms[part, turn - 1] += gradient.flatten(1).norm(dim=1).float().cpu() / steps
                self.lowered(part, tried.cpu(), losses, lowest)
                self.move(part, gradient, place)

    def _slope(self, part: Sequence[int], tried: Tensor, drawn: Draws) -> tuple[Tensor, Tensor]:
        """(cases,) losses of tokens, and their gradient (cases, tokens, width) by the embeddings."""
        leaf = self.words.table[tried.to(self.words.table.device)].requires_grad_()
        with torch.enable_grad():
            losses = self.loss(part, leaf, drawn)
            reached: Tensor | None = torch.autograd.grad(losses.sum(), leaf, allow_unused=True)[0]
        # nothing reaches the tokens where the arm's prompt port wrote them out of the prompt
        gradient = torch.zeros_like(leaf) if reached is None else reached
        if not bool(torch.isfinite(gradient).all()):
            bad = [self.cases[k].id for k, g in zip(part, gradient, strict=True) if not torch.isfinite(g).all()]
            raise BadInput(
                f"{self.name}: the gradient of case {bad[0]!r} holds numbers that are not finite; run the "
                "model in float32, or lower the rate"
            )
        return losses.detach().float().cpu(), gradient.detach()


class RandomWalk(PrefixSearch):
    """The control: every step draws new tokens for each case, keeps those with the lowest loss of the round, and takes
    no gradient. As many candidates, denoiser rows and pictures as the search it stands beside."""

    def _round(self, which: Sequence[int], turn: int) -> None:
        lowest = torch.full((len(self.cases),), torch.inf)
        first = (turn - 1) * self.attack.steps
        for step in range(self.attack.steps):
            for part in self.parts(which, self.attack.rows):
                tried = torch.stack([self._random(k, first + step) for k in part])
                with torch.no_grad():
                    table = self.words.table[tried.to(self.words.table.device)]
                    losses = self.loss(part, table, self.drawn(part, self.attack.rows, first)).float().cpu()
                self.lowered(part, tried, losses, lowest)

    def _random(self, k: int, place: int) -> Tensor:
        seed = row_seed("attack", self.name, "control", self.attack.seed, self.cases[k].id, place)
        generator = torch.Generator().manual_seed(seed)
        return self.words.usable[torch.randint(len(self.words.usable), (self.tokens,), generator=generator)]

    def hard(self, which: Sequence[int]) -> Tensor:
        return self.now[list(which)]


def rows_of(attack: Any, count: int) -> tuple[int, int]:
    """(denoiser rows at guidance 1 that a search costs at most, those of them with a gradient): steps, held-out looks
    and, at 20 guided steps a picture, the pictures."""
    steps = count * attack.rounds * attack.steps * attack.rows
    looks = count * attack.rounds * HELDOUT
    pictures = count * (attack.rounds + 1) * 40 if attack.stop else 0
    return steps + looks + pictures, 0 if attack.control else steps
