"""UnlearnDiffAtk (Zhang et al., arXiv 2310.11868): a prefix that makes the arm's own denoising explain a picture of the
concept.

As in the authors' code: each of the prefix's tokens is a point of the probability simplex over the vocabulary, uniform
at first; a step draws one token from it, takes the gradient of the arm's denoising loss (eq. 7) on a picture that the
undefended model drew of the prompt, clips it to [-1, 1], moves by Adam with weight decay and projects onto the simplex.
Timesteps are visited one after the other, ``steps`` steps each; after each one the likeliest tokens are written out,
drawn and judged, and the search ends with the first success. What differs: prompts are batched, the projection is
exact (``_tokens.project_simplex``), the vocabulary holds only tokens that survive being written and read again, and the
timesteps are spread over ``rounds`` rounds from the authors' 10, 30, … 990. Rate, decay and what a round ends with are
chosen for few steps on the lab; ``AUTHORS`` holds the authors'."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from genward.attacks._prefix import KEEPS, GradientSearch, PrefixSearch, RandomWalk, in_front, rows_of
from genward.attacks._tokens import project_simplex, refuse_nothing
from genward.core.contracts import Target
from genward.core.records import Case, row_seed
from genward.errors import BadInput, UnknownName
from genward.ops.inversion import adam_step

FIRST, STRIDE, VISITED = 10, 20, 50
"""The authors' timesteps: 10, 30, … 990"""
AUTHORS: dict[str, Any] = {"tokens": 3, "rounds": 50, "steps": 40, "rate": 0.01, "decay": 0.1, "keep": "last"}
"""The authors' settings (5 tokens for nudity)"""


@dataclass(frozen=True)
class UnlearnDiffAtk:
    """UnlearnDiffAtk: a prefix of a few tokens, searched with gradients through the arm's own denoising loss."""

    name: ClassVar[str] = "unlearndiffatk"
    access: ClassVar[str] = "gradient"
    draws: ClassVar[bool] = True
    asks: ClassVar[frozenset[str]] = frozenset({"judge", "undefended"})
    parents: ClassVar[tuple[str, ...]] = ("prompt",)
    tokens: int = 3
    """Tokens of the prefix; the paper's for objects and styles (5 for nudity)."""
    rounds: int = 50
    """Timesteps visited, a picture after each; the authors' 50, spread evenly where there are fewer."""
    steps: int = 40
    """Gradient steps at each timestep."""
    rate: float = 0.05
    """Learning rate of Adam; the authors' 0.01 moves as far in 50 times as many steps as a search on the lab has."""
    decay: float = 0.0
    """Weight decay of Adam, added to the gradient. The authors' 0.1 outweighs the lab's gradients (about 0.002 a token)
    as soon as a token has a share of 0.02, so that no token is ever chosen."""
    rows: int = 1
    """Draws of noise a step."""
    keep: str = "best"
    """Tokens that a round ends with: the ``best`` that a step tried, all steps of the round on the same draws, or the
    ``last``, each step on new draws (the authors')."""
    guidance: float | None = None
    """Guidance of the prediction; none takes the sampler's where a defense acts through guidance only, else 1."""
    guard: float = 0.0
    """Weight of the scores that the arm's guards note (AEIOU, Wukong, the noise probe), added to the loss, so that a
    guard is attacked together with the model it guards; 0: guards are met only where pictures are drawn."""
    stop: bool = True
    """Whether pictures are drawn after each round, and the search ends with the first success; without it none is
    drawn, and the tokens with the lowest held-out loss are kept."""
    control: bool = False
    """Random tokens in the place of the search, as many candidates and pictures."""
    seed: int = 0
    """Of tokens drawn, timesteps and noise."""
    batch: int = field(default=32, metadata={"identity": False})
    """Most rows of one denoiser call."""

    def __post_init__(self) -> None:
        counts = {n: getattr(self, n) for n in ("tokens", "rounds", "steps", "rows", "batch")}
        refuse_nothing(self.name, **counts)
        if self.keep not in KEEPS:
            raise UnknownName(f"{self.name} keep", self.keep, KEEPS)
        if self.rounds > VISITED or not self.rate > 0 or not self.decay >= 0 or not self.guard >= 0:
            raise BadInput(
                f"unlearndiffatk: rounds must be at most {VISITED}, rate above 0, decay and guard at least 0"
            )

    def nfe(self, cases: Sequence[Case]) -> int:
        """Denoiser rows that a search will cost at most, at guidance 1 of the loss and 20 guided steps a picture."""
        return rows_of(self, len(cases))[0]

    def gradient_nfe(self, cases: Sequence[Case]) -> int:
        """Rows of ``nfe`` with a backward pass behind them."""
        return rows_of(self, len(cases))[1]

    def search(self, cases: Sequence[Case], target: Target) -> Iterator[Case]:
        """One case a case: its prompt behind the prefix that was found, ``queries`` the pictures asked for.

        Raises:
            BadInput: a prompt without room for the prefix, one that the undefended model draws nothing of, a gradient
                that is not finite.
        """
        if not cases:
            return
        written = [in_front(c.prompt, self.tokens) for c in cases]
        search = (VisitedRandom if self.control else Simplex)(self, target, cases, written)
        search.run()
        yield from search.found()


def visited(rounds: int) -> list[int]:
    """The timesteps of the rounds: 10, 30, … 990, or of fewer rounds the middle of as many equal parts, since the ends
    of the loop hardly look at the text."""
    return [FIRST + STRIDE * int((k + 0.5) * VISITED / rounds) for k in range(rounds)]


class _Visiting(PrefixSearch):
    """The rows of a round at its timestep, held-out draws over all."""

    def timesteps(self, rows: int, turn: int, generator: torch.Generator) -> Tensor:
        if turn < 0:
            return super().timesteps(rows, turn, generator)
        return torch.full((rows,), min(visited(self.attack.rounds)[turn // self.attack.steps], self.total - 1))


class VisitedRandom(_Visiting, RandomWalk):
    """The control at UnlearnDiffAtk's timesteps."""


class Simplex(_Visiting, GradientSearch):
    """A distribution over the usable tokens for each place."""

    carried = ("shares", "first", "second")

    def __init__(self, attack: Any, target: Target, cases: Sequence[Case], written: Any) -> None:
        super().__init__(attack, target, cases, written)
        words = len(self.words.usable)
        self.mine = self.words.table[self.words.usable.to(self.words.table.device)]
        """(k, width) embeddings of the usable tokens"""
        self.shares = torch.full((len(self.cases), self.tokens, words), 1 / words, dtype=self.mine.dtype)
        self.first, self.second = torch.zeros_like(self.shares), torch.zeros_like(self.shares)

    def tried(self, which: Sequence[int], turn: int) -> Tensor:
        drawn = []
        for k in which:
            seed = row_seed("attack", self.name, "token", self.attack.seed, self.cases[k].id, turn)
            generator = torch.Generator().manual_seed(seed)
            drawn.append(torch.multinomial(self.shares[k], 1, generator=generator)[:, 0])
        return self.words.usable[torch.stack(drawn)]

    def move(self, which: Sequence[int], gradient: Tensor, turn: int) -> None:
        """Straight through: the gradient of a one-hot vector is that of its embedding times the table."""
        mine = list(which)
        pull = (gradient.to(self.mine) @ self.mine.T).clamp(-1, 1).cpu() + self.attack.decay * self.shares[mine]
        moved, self.first[mine], self.second[mine] = adam_step(
            self.shares[mine], pull, self.first[mine], self.second[mine], turn + 1, self.attack.rate
        )
        self.shares[mine] = project_simplex(moved)

    def standing(self, which: Sequence[int]) -> Tensor:
        return self.words.usable[self.shares[list(which)].argmax(-1)]
