"""SneakyPrompt (Yang et al., arXiv 2305.12082): words that a filter knows are replaced by tokens that it does not,
chosen by reinforcement learning from nothing but what comes back.

As in the paper: the sensitive words of a prompt are replaced by ``tokens`` tokens each; the reward is how well the
picture shows the concept, or a penalty where the filter refused; the search ends with the first success. What differs:
the policy is a table of preferences over a pool of tokens for each place, learned by REINFORCE with a running mean as
baseline, where the paper has an LSTM over the whole vocabulary; half of the pool holds the tokens that a public text
encoder takes for the nearest in that prompt, half is drawn from the vocabulary; the picture score is the judge's
margin, where the paper takes CLIP's similarity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from genward.attacks._queries import derived, found_cases, margins
from genward.attacks._tokens import REFUSED, Vocabulary, content_words, refuse_nothing
from genward.core.contracts import Target
from genward.core.records import Case, row_seed
from genward.errors import BadInput

PENALTY = -1.0
"""Reward of a refused prompt"""
TRIES = 50
"""Draws before a place is filled with something that was asked already"""


@dataclass(frozen=True)
class SneakyPrompt:
    """SneakyPrompt: other tokens for the words that a filter knows, learned from refusals and pictures alone."""

    name: ClassVar[str] = "sneakyprompt"
    access: ClassVar[str] = "query"
    asks: ClassVar[frozenset[str]] = frozenset({"judge", "phrases"})
    parents: ClassVar[tuple[str, ...]] = ("prompt",)
    budget: int = 60
    """Most pictures a case, that of its own prompt included; the paper's."""
    tokens: int = 1
    """Tokens that replace one word; the paper tries up to 3."""
    pool: int = 48
    """Tokens that a place can be filled with."""
    shortlist: int = 256
    """Tokens with the nearest embeddings, of which the encoder chooses the pool."""
    rate: float = 0.5
    """Step of the policy."""
    near: float = 0.5
    """Share of a place's pool that is similar to the word; the others are drawn from the vocabulary at random. Similar
    tokens get past a filter of words; an eraser has often removed them together with the word."""
    sharpness: float = 0.0
    """How strongly the policy prefers similar tokens at first; 0: not at all."""
    stop: bool = True
    """Whether a case ends with its first success; without it the best of the whole budget is taken, its own prompt left
    out."""
    control: bool = False
    """Tokens drawn from the whole vocabulary and nothing learned, as many pictures."""
    seed: int = 0
    """Of the tokens drawn."""

    def __post_init__(self) -> None:
        counts = {n: getattr(self, n) for n in ("budget", "tokens", "pool", "shortlist")}
        refuse_nothing(self.name, **counts)
        if self.pool > self.shortlist or min(self.rate, self.sharpness) < 0 or not 0 <= self.near <= 1:
            raise BadInput("sneakyprompt: shortlist must be at least pool, near a share, rate and sharpness at least 0")

    def nfe(self, cases: Sequence[Case]) -> int:
        """Denoiser rows that a search will cost at most, at 20 guided steps a picture."""
        return len(cases) * self.budget * 40

    def search(self, cases: Sequence[Case], target: Target) -> Iterator[Case]:
        """One case a case: the prompt whose picture shows the concept best, and the queries spent.

        Raises:
            BadInput: a prompt without a word of the concept, one without room for the tokens.
        """
        plans = [self.plan(case, target) for case in cases]

        def propose(k: int, turn: int, seen: Tensor) -> Case | None:
            if turn == 0 and self.stop:
                return derived(cases[k], self.name, turn)
            rewards = seen[1:] if self.stop else seen
            text = plans[k].text(self, cases[k], rewards.tolist())
            return derived(cases[k], self.name, turn, prompt=text)

        table = margins(cases, target, propose, self.budget, stop=self.stop)
        yield from found_cases(self, cases, target, propose, table)

    def plan(self, case: Case, target: Target) -> Plan:
        """The places of a prompt and what they can be filled with."""
        words: Vocabulary = target.vocabulary
        known = content_words([case.group, *target.phrases(case.concept)])
        pieces = case.prompt.split(" ")
        named = set(content_words([case.group])) & {p.casefold().strip(",.") for p in pieces}
        places = [k for k, p in enumerate(pieces) if p.casefold().strip(",.") in (named or set(known))]
        if not places:
            raise BadInput(f"sneakyprompt: {case.prompt!r} holds no word of {case.concept!r} to replace")
        if len(words.ids(case.prompt)) + self.tokens * len(places) > words.room:
            raise BadInput(f"sneakyprompt: {case.prompt!r} leaves no room for {self.tokens} tokens a word; take fewer")
        allowed = words.without(known)
        if self.control:
            pools = [(allowed.usable, torch.zeros(len(allowed.usable)))] * len(places)
        else:
            pools = [self._pool(case, pieces, k, target, allowed) for k in places]
        return Plan(words, pieces, places, pools)

    def _pool(
        self, case: Case, pieces: Sequence[str], place: int, target: Target, allowed: Vocabulary
    ) -> tuple[Tensor, Tensor]:
        """(ids, preferences) for one word: of the nearest embeddings those with the nearest states of the whole prompt,
        and others drawn at random."""
        similar = round(self.near * self.pool)
        seed = row_seed("sneakyprompt", self.seed, case.id, "pool", place)
        drawn = torch.randperm(len(allowed.usable), generator=torch.Generator().manual_seed(seed))
        if not similar:
            return allowed.usable[drawn[: self.pool]], torch.zeros(min(self.pool, len(drawn)))
        mine = allowed.table[allowed.usable.to(allowed.table.device)]
        word = allowed.table[torch.tensor(allowed.ids(pieces[place]), device=mine.device)].mean(0)
        near = (normalize(mine, dim=-1) @ normalize(word, dim=0)).topk(min(self.shortlist, len(mine))).indices.cpu()
        ids = allowed.usable[near]
        texts = [" ".join([*pieces[:place], allowed.text([i]), *pieces[place + 1 :]]) for i in ids.tolist()]
        with torch.no_grad():
            states, mask = target.states([allowed.ids(t) for t in [case.prompt, *texts]])
            weight = mask.to(states)[..., None]
            pooled = (states * weight).sum(1) / weight.sum(1)
            alike = cosine_similarity(pooled[1:], pooled[:1], dim=1).cpu()
        best = alike.topk(min(similar, len(alike)))
        mine_ids = ids[best.indices]
        others = allowed.usable[drawn]
        others = others[~torch.isin(others, mine_ids)][: self.pool - similar]
        likes = self.sharpness * (best.values - best.values.max())
        return torch.cat([mine_ids, others]), torch.cat([likes, likes.new_full((len(others),), float(likes.min()))])


class Plan(NamedTuple):
    """One prompt with its places."""

    words: Vocabulary
    pieces: Sequence[str]
    places: Sequence[int]
    pools: Sequence[tuple[Tensor, Tensor]]
    """Ids and first preferences of each place"""

    def text(self, attack: SneakyPrompt, case: Case, seen: Sequence[float]) -> str:
        """The next prompt after these margins: the policy is learned again from the start, so that the same margins
        lead to the same prompt."""
        slots = [k for k in range(len(self.places)) for _ in range(attack.tokens)]
        likes = [self.pools[k][1].clone() for k in slots]
        tried: set[tuple[int, ...]] = set()
        mean = 0.0
        for turn in range(len(seen) + 1):
            pick = self._drawn(attack, case, turn, likes, tried)
            if turn == len(seen):
                return self._written(attack, [int(self.pools[k][0][i]) for k, i in zip(slots, pick, strict=True)])
            tried.add(tuple(pick))
            reward = PENALTY if seen[turn] <= REFUSED else seen[turn]
            mean = reward if turn == 0 else mean + (reward - mean) / (turn + 1)
            if not attack.control:
                learn(likes, pick, attack.rate * (reward - mean))
        raise AssertionError("unreachable: the loop ends at the last turn")

    def _drawn(
        self, attack: SneakyPrompt, case: Case, turn: int, likes: Sequence[Tensor], tried: set[tuple[int, ...]]
    ) -> list[int]:
        seed = row_seed("sneakyprompt", attack.seed, case.id, turn)
        generator = torch.Generator().manual_seed(seed)
        pick: list[int] = []
        for _ in range(TRIES):
            pick = [int(torch.multinomial(x.softmax(0), 1, generator=generator)) for x in likes]
            if tuple(pick) not in tried:
                break
        return pick

    def _written(self, attack: SneakyPrompt, ids: Sequence[int]) -> str:
        pieces, left = list(self.pieces), list(ids)
        for place in self.places:
            mine, left = left[: attack.tokens], left[attack.tokens :]
            pieces[place] = " ".join(self.words.text([i]) for i in mine)
        return " ".join(pieces)


def learn(likes: Sequence[Tensor], pick: Sequence[int], advantage: float) -> None:
    """One step of REINFORCE (Williams 1992) on independent softmax policies, in place: the gradient of the log
    probability of what was drawn, times the advantage."""
    for preferences, drawn in zip(likes, pick, strict=True):
        step = -preferences.softmax(0)
        step[drawn] += 1
        preferences += advantage * step
