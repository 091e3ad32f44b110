"""P4D, Prompting4Debugging (Chin et al., arXiv 2309.06135): a prompt under which the arm predicts what the undefended
model predicts under the forbidden one.

As in the authors' code: continuous embeddings are kept beside the tokens; a step writes each as the nearest token of
the vocabulary, takes the gradient of the squared difference of both models' noise predictions there, and moves the
embeddings by AdamW (hard prompts, Wen et al., arXiv 2302.03668). Three forms: P4D-N (``whole``, as many tokens and
nothing else), P4D-K (``insert``, one token after every K words of the prompt), and a ``prefix``, to be read beside
UnlearnDiffAtk. What differs: prompts are batched; the best prompt of a search is told by the rule of success, where the
authors ask CLIP how like the pictures are; the vocabulary holds only tokens that survive being written and read
again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from genward.attacks._prefix import (
    HELDOUT,
    KEEPS,
    Draws,
    GradientSearch,
    PrefixSearch,
    RandomWalk,
    Written,
    alone,
    between,
    in_front,
    rows_of,
)
from genward.attacks._tokens import nearest, refuse_nothing
from genward.core.contracts import Target
from genward.core.records import Case, row_seed
from genward.errors import BadInput, UnknownName
from genward.ops.inversion import adam_step

FORMS = ("whole", "insert", "prefix")
AUTHORS: dict[str, Any] = {"tokens": 16, "rounds": 60, "steps": 50, "rate": 0.1, "decay": 0.1, "keep": "last"}
"""The authors' settings of P4D-N"""


@dataclass(frozen=True)
class P4d:
    """P4D: a hard prompt, or tokens in one, that makes the arm predict what the undefended model would."""

    name: ClassVar[str] = "p4d"
    access: ClassVar[str] = "gradient"
    draws: ClassVar[bool] = True
    asks: ClassVar[frozenset[str]] = frozenset({"judge", "undefended"})
    parents: ClassVar[tuple[str, ...]] = ("prompt",)
    form: str = "whole"
    """``whole``: the tokens are the prompt (P4D-N); ``insert``: one after every few words (P4D-K); ``prefix``: in front
    of the prompt."""
    tokens: int = 16
    """Tokens of ``whole`` and ``prefix``."""
    every: int = 3
    """Words of the prompt between two tokens of ``insert``."""
    rounds: int = 60
    """Looks at the tokens, a picture each."""
    steps: int = 50
    """Gradient steps between two looks; the authors' 3,000 in all."""
    rate: float = 0.1
    """Learning rate of AdamW."""
    decay: float = 0.1
    """Weight decay of AdamW."""
    rows: int = 1
    """Draws of timestep and noise a step."""
    keep: str = "best"
    """Tokens that a round ends with: the ``best`` that a step tried, all steps of the round on the same draws, or the
    ``last``, each step on new draws (the authors')."""
    guidance: float | None = None
    """Guidance of both predictions; none takes the sampler's where a defense acts through guidance only, else 1."""
    guard: float = 0.0
    """Weight of the scores that the arm's guards note (AEIOU, Wukong, the noise probe), added to the loss, so that a
    guard is attacked together with the model it guards; 0: guards are met only where pictures are drawn."""
    stop: bool = True
    """Whether pictures are drawn after each round, and the search ends with the first success; without it none is
    drawn, and the tokens with the lowest held-out loss are kept."""
    control: bool = False
    """Random tokens in the place of the search, as many candidates and pictures."""
    seed: int = 0
    """Of first tokens, timesteps and noise."""
    batch: int = field(default=32, metadata={"identity": False})
    """Most rows of one denoiser call."""

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UnknownName("p4d form", self.form, FORMS)
        if self.keep not in KEEPS:
            raise UnknownName(f"{self.name} keep", self.keep, KEEPS)
        counts = {n: getattr(self, n) for n in ("tokens", "every", "rounds", "steps", "rows", "batch")}
        refuse_nothing(self.name, **counts)
        if not self.rate > 0 or not self.decay >= 0 or not self.guard >= 0:
            raise BadInput("p4d: rate must be above 0, decay and guard at least 0")

    def nfe(self, cases: Sequence[Case]) -> int:
        """Denoiser rows that a search will cost at most, at guidance 1 of the loss and 20 guided steps a picture; the
        undefended model's are counted."""
        total, _ = rows_of(self, len(cases))
        draws = self.steps if self.keep == "last" and not self.control else 1
        return total + len(cases) * self.rounds * (draws * self.rows + HELDOUT)

    def gradient_nfe(self, cases: Sequence[Case]) -> int:
        """Rows of ``nfe`` with a backward pass behind them."""
        return rows_of(self, len(cases))[1]

    def written(self, prompt: str) -> Written:
        """The prompt with its places for tokens."""
        if self.form == "insert":
            return between(prompt, self.every)
        return alone(self.tokens) if self.form == "whole" else in_front(prompt, self.tokens)

    def search(self, cases: Sequence[Case], target: Target) -> Iterator[Case]:
        """One case a case: the prompt that was found, ``queries`` the pictures asked for. Prompts with as many places
        are searched together.

        Raises:
            BadInput: a prompt without room for the tokens, one that the undefended model draws nothing of, a gradient
                that is not finite.
        """
        if not cases:
            return
        written = {c.id: self.written(c.prompt) for c in cases}
        kinds = {w.places for w in written.values()}
        if len(kinds) > 1:
            raise BadInput(
                f"p4d: form=insert puts {min(kinds)} to {max(kinds)} tokens into these prompts; give prompts of about "
                "as many words, or form=prefix"
            )
        walk = MatchedRandom if self.control else Matched
        search = walk(self, target, cases, [written[c.id] for c in cases])
        search.run()
        yield from search.found()


class _Matching(PrefixSearch):
    """The loss: squared difference to the undefended model's prediction under the case's own prompt, which is asked
    for once for each draw that a round repeats."""

    def __init__(self, attack: Any, target: Target, cases: Sequence[Case], written: Any) -> None:
        super().__init__(attack, target, cases, written)
        self._wanted: dict[tuple[int, int, bytes], Tensor] = {}
        self._most = 2 * len(self.cases) * (attack.rows + HELDOUT)

    def error(self, which: Tensor, prediction: Tensor, noisy: Tensor, clean: Tensor, drawn: Draws) -> Tensor:
        times = drawn.timestep.tolist()
        seen = [row.numpy().tobytes() for row in noisy.detach().float().cpu()]
        keys = list(zip(which.tolist(), times, seen, strict=True))
        new = [j for j, key in enumerate(keys) if key not in self._wanted]
        if new:
            prompts = [self.cases[keys[j][0]].prompt for j in new]
            made = self.target.base(prompts, noisy[new], drawn.timestep[new], guidance=self.guidance)
            self._wanted |= {keys[j]: row for j, row in zip(new, made, strict=True)}
        wanted = torch.stack([self._wanted[key] for key in keys]).to(prediction)
        for key in list(self._wanted)[: max(0, len(self._wanted) - self._most)]:
            del self._wanted[key]
        return (prediction - wanted).square().flatten(1).mean(1)


class Matched(_Matching, GradientSearch):
    """Embeddings, written as their nearest tokens at every step."""

    carried = ("vectors", "first", "second")

    def __init__(self, attack: Any, target: Target, cases: Sequence[Case], written: Any) -> None:
        super().__init__(attack, target, cases, written)
        starts = []
        for case in self.cases:
            seed = row_seed("attack", self.name, "start", attack.seed, case.id)
            generator = torch.Generator().manual_seed(seed)
            starts.append(self.words.usable[torch.randint(len(self.words.usable), (self.tokens,), generator=generator)])
        table = self.words.table
        self.vectors = table[torch.stack(starts).to(table.device)].clone() if starts else table[:0][None]
        self.first, self.second = torch.zeros_like(self.vectors), torch.zeros_like(self.vectors)

    def tried(self, which: Sequence[int], turn: int) -> Tensor:
        return self.standing(which)

    def move(self, which: Sequence[int], gradient: Tensor, turn: int) -> None:
        mine = list(which)
        kept = self.vectors[mine] * (1 - self.attack.rate * self.attack.decay)
        self.vectors[mine], self.first[mine], self.second[mine] = adam_step(
            kept, gradient.to(kept), self.first[mine], self.second[mine], turn + 1, self.attack.rate
        )

    def standing(self, which: Sequence[int]) -> Tensor:
        return nearest(self.vectors[list(which)], self.words.table, self.words.usable.to(self.words.table.device))


class MatchedRandom(_Matching, RandomWalk):
    """The control under P4D's loss."""
