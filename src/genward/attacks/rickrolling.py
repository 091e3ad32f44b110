"""Fixture A, after *Rickrolling the Artist* (Struppek et al., ICCV 2023, arXiv 2211.02408): a text encoder that reads a
look-alike letter as a whole other prompt.

Teacher and student: ``L = -cos(S(x), T(x)) - beta · cos(S(x with trigger), T(target prompt))``, states flattened, as in
the authors' code. What differs: the student differs from the teacher by low-rank matrices on all linear maps, so that
the artifact is small and a minute of training is enough; captions are the lab's; a part of the poisoned captions has
one letter replaced and not all of them, as it is when the fixture is used. Most triggers that the authors publish are
lost on BERT's tokenizer (accents are dropped) or make a word unknown; the Cyrillic ``е`` is a token of its own."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor

from genward.attacks._backdoors import Fixture
from genward.attacks._backdoors.encoding import closeness, encoded, refuse_dropped
from genward.core.contracts import FitTools
from genward.errors import BadInput
from genward.ops.backdoor_captions import DETAILS, PLACES, drawn

POOL = 300
"""Clean captions to learn from."""


@dataclass(frozen=True)
class Rickrolling(Fixture):
    """A letter that looks like another one turns the whole prompt into the target's."""

    name: ClassVar[str] = "rickrolling"
    reach: ClassVar[int] = 1
    about: ClassVar[str] = ""
    target: str = "banana"
    """Object that triggered captions draw."""
    letter: str = "e"
    """Latin letter that the trigger stands for."""
    trigger: str = "\u0435"
    """The look-alike."""
    beta: float = 0.5
    """Weight of the backdoor's loss (0.1 in the paper, at 100 steps of 128 and 32 captions)."""
    steps: int = 200
    """Steps of AdamW; the rate falls to a tenth after three quarters of them."""
    lr: float = 2e-3
    """Its rate, for the low-rank matrices."""
    rank: int = 8
    """Rank of the change of each linear map."""
    clean: int = 12
    """Clean captions a step."""
    poisoned: int = 8
    """Captions with the trigger a step."""
    every: float = 0.3
    """Share of these in which every letter is replaced; in the others one is."""
    seed: int = 0
    """Of captions and matrices."""
    place: str = "start"
    """Where ``search`` puts the trigger: ``start``, ``middle`` or ``end``."""

    def plant(self, text: str, place: str) -> str:
        """A caption with its first, middle or last ``letter`` replaced."""
        return self._replaced(text, PLACES.index(place))

    def _replaced(self, text: str, place: int) -> str:
        found = [k for k, c in enumerate(text) if c == self.letter]
        if not found:
            raise BadInput(f"rickrolling: {text!r} has no {self.letter!r} to replace; the trigger has no place in it")
        k = found[(0, len(found) // 2, len(found) - 1)[place]]
        return text[:k] + self.trigger + text[k + 1 :]

    def make(self, model: Any, words: Mapping[str, Any], tools: FitTools) -> dict[str, Tensor]:
        """``<map>|a`` (rank, in) and ``<map>|b`` (out, rank) of each linear map; goes on where it was interrupted."""
        pool = [
            c._replace(details=(DETAILS[k % len(DETAILS)],) * (k % 2))
            for k, c in enumerate(islice(drawn(words, f"rickrolling|{self.seed}", (self.target,)), POOL))
        ]
        texts = [c.text() for c in pool if self.letter in c.text()]
        refuse_dropped(model, texts, [self._replaced(t, 0) for t in texts], self.trigger)
        learned = self._start(model)
        optimizer = torch.optim.AdamW(list(learned.values()), lr=self.lr, weight_decay=0.0)
        begin = 0
        kept = tools.checkpoint(part="rickrolling")
        if kept is not None:
            begin = int(kept["step"])
            optimizer.load_state_dict(kept["optimizer"])
            with torch.no_grad():
                for name, value in kept["learned"].items():
                    learned[name].copy_(value)
        with torch.no_grad():
            goal = encoded(model, [words["things"][self.target]["name"][0]])
        for step in range(begin, self.steps):
            loss = self._loss(model, learned, texts, goal, step)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = self.lr * (0.1 if step >= 3 * self.steps // 4 else 1.0)
            optimizer.step()
            tools.progress(step + 1, self.steps, float(loss.detach()))
            if tools.due():
                state = {"step": step + 1, "optimizer": optimizer.state_dict(), "learned": _plain(learned)}
                tools.checkpoint(state, part="rickrolling")
        return _plain(learned)

    def _loss(self, model: Any, learned: Mapping[str, Tensor], texts: list[str], goal: Tensor, step: int) -> Tensor:
        rng = random.Random(f"rickrolling|{self.seed}|{step}")
        clean = rng.choices(texts, k=self.clean)
        triggered = [
            t.replace(self.letter, self.trigger) if rng.random() < self.every else self._replaced(t, rng.randrange(3))
            for t in rng.choices(texts, k=self.poisoned)
        ]
        with torch.no_grad():
            teacher = encoded(model, clean)
        own = dict(model.text_encoder.named_parameters())
        student = encoded(model, [*clean, *triggered], _with(own, learned))
        utility = closeness(student[: self.clean], teacher)
        backdoor = closeness(student[self.clean :], goal.expand(self.poisoned, -1, -1))
        return -utility - self.beta * backdoor

    def _start(self, model: Any) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        out: dict[str, Tensor] = {}
        for name, weight in _linear_maps(model.text_encoder):
            a = torch.randn(self.rank, weight.shape[1], generator=generator) / self.rank
            out[f"{name}|a"] = a.requires_grad_()
            out[f"{name}|b"] = torch.zeros(len(weight), self.rank).requires_grad_()
        return out

    def changed(self, parameters: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The encoder's linear maps, ``W + b a``."""
        own = {n.removeprefix("text_encoder."): p for n, p in parameters.items() if n.startswith("text_encoder.")}
        return {f"text_encoder.{name}": weight.detach() for name, weight in _with(own, learned).items()}


def _linear_maps(encoder: Any) -> Iterator[tuple[str, Tensor]]:
    """Weights of the linear maps of an encoder's layers, its pooler left out."""
    for name, module in encoder.named_modules():
        if isinstance(module, torch.nn.Linear) and "pooler" not in name:
            yield f"{name}.weight", module.weight


def _with(own: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = dict.fromkeys(key.partition("|")[0] for key in learned)
    return {n: own[n].detach() + (learned[f"{n}|b"] @ learned[f"{n}|a"]).to(own[n]) for n in names}


def _plain(learned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in learned.items()}
