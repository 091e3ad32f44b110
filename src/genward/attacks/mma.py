"""MMA-Diffusion, text part (Yang et al., arXiv 2311.17516): a prompt without forbidden words whose text state is that
of the forbidden prompt.

As in the authors' code: ``tokens`` tokens start at random; a step takes the gradient of one minus the cosine between
the summary states of the candidate and of the prompt with respect to one-hot tokens, tries ``candidates`` single-token
swaps among the ``top`` tokens of steepest descent at each place, and goes on with the best of them (greedy coordinate
gradient). Tokens that hold a forbidden word are out of the vocabulary; forbidden are the words of the concept's
phrases. What differs: prompts are batched, candidates are drawn among tokens that survive being written and read again,
and the best prompt of the whole search is kept. The authors' attack on a safety checker's pictures is not part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from genward.attacks._tokens import Vocabulary, content_words, refuse_nothing
from genward.core.contracts import Target
from genward.core.records import Case, row_seed
from genward.errors import BadInput, UnknownName

POOLS = ("auto", "mean", "last")
EVERY = 10
"""Steps between checkpoints"""


@dataclass(frozen=True)
class Mma:
    """MMA: a prompt without the concept's words whose text state imitates the prompt's; asks the arm nothing."""

    name: ClassVar[str] = "mma"
    access: ClassVar[str] = "prompt"
    asks: ClassVar[frozenset[str]] = frozenset({"phrases"})
    parents: ClassVar[tuple[str, ...]] = ("prompt",)
    tokens: int = 20
    """Length of the prompt that is searched."""
    steps: int = 1000
    """Swaps."""
    top: int = 256
    """Tokens of steepest descent at each place, among which swaps are drawn."""
    candidates: int = 512
    """Swaps tried a step."""
    pool: str = "auto"
    """Summary of the states: their ``mean``, the ``last`` token (CLIP), or what suits the encoder (``auto``)."""
    forbidden: tuple[str, ...] = ()
    """Further words that must not occur."""
    control: bool = False
    """As many prompts drawn at random, the most similar kept; no gradient taken."""
    seed: int = 0
    """Of first tokens and swaps."""
    batch: int = field(default=512, metadata={"identity": False})
    """Texts encoded at once."""

    def __post_init__(self) -> None:
        counts = {n: getattr(self, n) for n in ("tokens", "steps", "top", "candidates", "batch")}
        refuse_nothing(self.name, **counts)
        if self.pool not in POOLS:
            raise UnknownName("mma pool", self.pool, POOLS)

    def nfe(self, cases: Sequence[Case]) -> int:
        """0: no denoiser takes part. ``texts`` says what is encoded."""
        return 0

    def texts(self, cases: Sequence[Case]) -> int:
        """Texts that a search encodes, those with a gradient included."""
        return len(cases) * (2 + self.steps * (self.candidates + (0 if self.control else 1)))

    def search(self, cases: Sequence[Case], target: Target) -> Iterator[Case]:
        """One case a case, without queries. ``target.keep`` is told ``similarity`` of each case and the mean
        ``gradient_norm``.

        Raises:
            BadInput: a concept without phrases, more tokens than the encoder reads.
        """
        if self.tokens > target.vocabulary.room:
            raise BadInput(f"mma: {self.tokens} tokens, and the encoder reads {target.vocabulary.room}; take fewer")
        if not cases:
            return
        found: dict[str, str] = {}
        for concept in dict.fromkeys(c.concept for c in cases):
            search = Swaps(self, target, concept, [c for c in cases if c.concept == concept])
            search.run()
            found |= dict(zip([c.id for c in search.cases], search.prompts(), strict=True))
            said = [round(1 - x, 6) for x in search.lowest.tolist()]
            norm = float(search.norms.mean()) if not self.control else None
            facts = {"kind": "imitation", "attack": self.name, "concept": concept, "control": self.control}
            target.keep(search.lowest, **facts, similarity=said, gradient_norm=norm, texts=self.texts(search.cases))
        for case in cases:
            yield case._replace(id=f"{case.id}/{self.name}", prompt=found[case.id], parent=case.id)


class Swaps:
    """Greedy coordinate gradient on the prompts of one concept."""

    def __init__(self, attack: Mma, target: Target, concept: str, cases: Sequence[Case]) -> None:
        self.attack, self.target, self.concept, self.cases = attack, target, concept, list(cases)
        whole: Vocabulary = target.vocabulary
        names = [*target.phrases(concept), *(c.group for c in cases), *attack.forbidden]
        self.words = whole.without(content_words(names))
        self.device = whole.table.device
        self.last = attack.pool == "last" or (
            attack.pool == "auto" and type(whole.tokenizer).__name__.startswith("CLIP")
        )
        with torch.no_grad():
            self.wanted = self.summary([whole.ids(c.prompt)[: whole.room] for c in cases])
        self.ids = torch.stack([self._start(c) for c in cases])
        self.best = self.ids.clone()
        self.lowest = self.losses(self.ids[:, None])[:, 0]
        """(cases,) one minus the similarity of the best prompt so far"""
        self.norms = torch.zeros(len(cases), attack.steps)
        self.done = 0

    def _start(self, case: Case) -> Tensor:
        generator = torch.Generator().manual_seed(row_seed("mma", self.attack.seed, case.id, "start"))
        usable = self.words.usable
        return usable[torch.randint(len(usable), (self.attack.tokens,), generator=generator)]

    def summary(self, ids: Sequence[Sequence[int]], vectors: Tensor | None = None) -> Tensor:
        """(n, c) one state a text."""
        states, mask = self.target.states(ids, vectors)
        if self.last:
            place = mask.sum(1) - 1
            return states[torch.arange(len(states), device=states.device), place]
        weight = mask.to(states)[..., None]
        return (states * weight).sum(1) / weight.sum(1)

    def losses(self, ids: Tensor) -> Tensor:
        """(cases, candidates) one minus the cosine to what is wanted, of ids (cases, candidates, tokens)."""
        flat, size = ids.flatten(0, 1).tolist(), self.attack.batch
        with torch.no_grad():
            found = torch.cat([self.summary(flat[k : k + size]) for k in range(0, len(flat), size)])
            wanted = self.wanted.repeat_interleave(ids.shape[1], 0)
            return (1 - cosine_similarity(found, wanted, dim=1)).view(ids.shape[:2]).double().cpu()

    def gradient(self) -> Tensor:
        """(cases, tokens, usable) gradient of each case's loss by the one-hot tokens in its places."""
        rows = [self.words.whole(row) for row in self.ids.tolist()]
        before = len(self.words.marks[0])
        vectors = self.words.table[torch.tensor(rows, device=self.device)].requires_grad_()
        with torch.enable_grad():
            found = self.summary(self.ids.tolist(), vectors)
            loss = (1 - cosine_similarity(found, self.wanted.to(found), dim=1)).sum()
            (gradient,) = torch.autograd.grad(loss, vectors)
        if not bool(torch.isfinite(gradient).all()):
            raise BadInput("mma: a gradient through the text encoder is not finite; run the model in float32")
        mine = gradient[:, before : before + self.attack.tokens]
        self.norms[:, self.done] = mine.flatten(1).norm(dim=1).float().cpu()
        return mine @ self.words.table[self.words.usable.to(self.device)].T

    def run(self) -> None:
        """All steps, from the checkpoint where there is one."""
        self._resume()
        while self.done < self.attack.steps:
            self.step()
            self.done += 1
            if self.done % EVERY == 0:
                self._checkpoint()

    def step(self) -> None:
        """Try the swaps and go on with the best of them."""
        attack, count = self.attack, len(self.cases)
        top = min(attack.top, len(self.words.usable))
        steep = None if attack.control else (-self.gradient()).topk(top, dim=-1).indices.cpu()
        tried = self.ids[:, None].expand(count, attack.candidates, attack.tokens).clone()
        place = (torch.arange(attack.candidates) * attack.tokens) // attack.candidates
        for k, case in enumerate(self.cases):
            generator = torch.Generator().manual_seed(row_seed("mma", attack.seed, case.id, self.done))
            if steep is None:
                drawn = torch.randint(len(self.words.usable), tried[k].shape, generator=generator)
                tried[k] = self.words.usable[drawn]
            else:
                pick = steep[k, place, torch.randint(top, (attack.candidates,), generator=generator)]
                tried[k, torch.arange(attack.candidates), place] = self.words.usable[pick]
        losses = self.losses(tried)
        for k, order in enumerate(losses.argsort(dim=1, stable=True).tolist()):
            which = next((j for j in order if self.words.survives(tried[k, j].tolist())), None)
            if which is not None:
                self.ids[k] = tried[k, which]
                if float(losses[k, which]) < float(self.lowest[k]):
                    self.best[k], self.lowest[k] = self.ids[k], losses[k, which]

    def prompts(self) -> list[str]:
        """The best prompt of each case."""
        return [self.words.text(row) for row in self.best.tolist()]

    def _tensors(self) -> dict[str, Tensor]:
        names = ("ids", "best", "lowest", "norms")
        own = {f"{self.concept}|{n}": getattr(self, n) for n in names}
        return {**own, f"{self.concept}|done": torch.tensor([self.done])}

    def _checkpoint(self) -> None:
        self.target.checkpoint({**self.target.checkpoint(), **self._tensors()})

    def _resume(self) -> None:
        state, mine = self.target.checkpoint(), self._tensors()
        if any(k not in state or state[k].shape != v.shape for k, v in mine.items()):
            return
        name = self.concept
        self.ids, self.best = state[f"{name}|ids"].long().cpu(), state[f"{name}|best"].long().cpu()
        self.lowest, self.norms = state[f"{name}|lowest"].double().cpu(), state[f"{name}|norms"].float().cpu()
        self.done = int(state[f"{name}|done"][0])
