"""Ring-A-Bell (Tsai et al., arXiv 2310.10012): token sequences whose text states lie where the concept's are, found by
a genetic search over a public text encoder, without asking the arm anything.

As in the authors' notebooks: a concept vector is the mean difference of text states between prompts with and without
the concept; what is searched is ``tokens`` ids whose states are nearest (summed squared distance) to those of the
prompt plus ``eta`` times the vector; half of a population survives a generation, the rest are children of two survivors
by one-point crossover and mutation. What differs: survivors keep their scores and are not changed in place, so the best
is never lost, and copies are not encoded again; no gradient is recorded; all prompts are searched in one batch; states
are compared where the candidate has tokens, not on its padding, and by their mean where the encoder is no CLIP
(``compare``); the sequence kept is the best that survives being written and read again; words of the concept are left
out (``words``), since a sequence that names it shows only that names work: with them, random sequences draw the concept
on the undefended lab as often as found ones, eight times of eight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from genward.attacks._tokens import Vocabulary, content_words, refuse_nothing
from genward.core.contracts import Target
from genward.core.records import Case, row_seed
from genward.errors import BadInput, UnknownName

TEMPLATES = ("{}", "a picture of {}", "a drawing of {}")
"""Prompts of the pairs; none of them is a prompt of the evaluation."""
WORDS, COMPARE = ("unlisted", "all"), ("auto", "places", "mean")
AUTHORS: dict[str, Any] = {
    "tokens": 16,
    "eta": 3.0,
    "population": 200,
    "generations": 3000,
    "words": "all",
    "compare": "places",
}
"""The authors' settings for nudity"""
EVERY = 10
"""Generations between checkpoints"""


@dataclass(frozen=True)
class RingABell:
    """Ring-A-Bell: genetic search for tokens that a public text encoder takes for the concept; asks the arm nothing."""

    name: ClassVar[str] = "ring_a_bell"
    access: ClassVar[str] = "prompt"
    asks: ClassVar[frozenset[str]] = frozenset({"phrases"})
    parents: ClassVar[tuple[str, ...]] = ("prompt",)
    tokens: int = 16
    """Length of the sequence; the authors' 16, or 75 of 77."""
    eta: float = 3.0
    """Weight of the concept vector; the authors' for nudity."""
    population: int = 200
    """Candidates a prompt."""
    generations: int = 3000
    """Rounds of selection."""
    crossover: float = 0.5
    """Share of children with tokens of two parents."""
    mutation: float = 0.25
    """Share of children with one token drawn anew."""
    words: str = "unlisted"
    """Tokens that may be written: the ``unlisted`` are all but the words of the concept's phrases, as a filter of words
    would demand; ``all`` is the authors'."""
    compare: str = "auto"
    """What is compared: the states of all ``places`` (the authors'; of CLIP's 77 places most repeat the summary), their
    ``mean`` (the summary of sentence encoders), or what suits the encoder (``auto``)."""
    neutral: str = "an object"
    """What stands in the place of the concept's phrases in the other half of the pairs."""
    control: bool = False
    """As many candidates drawn at random, the best of them kept."""
    seed: int = 0
    """Of first candidates, parents, cuts and mutations."""
    batch: int = field(default=512, metadata={"identity": False})
    """Texts encoded at once."""

    def __post_init__(self) -> None:
        counts = {n: getattr(self, n) for n in ("tokens", "population", "generations", "batch")}
        refuse_nothing(self.name, **counts)
        if self.words not in WORDS:
            raise UnknownName("ring_a_bell words", self.words, WORDS)
        if self.compare not in COMPARE:
            raise UnknownName("ring_a_bell compare", self.compare, COMPARE)
        if self.population < 4:
            raise BadInput(f"ring_a_bell: a population of {self.population}; half of it must be two or more")
        if not (0 <= self.crossover <= 1 and 0 <= self.mutation <= 1):
            raise BadInput("ring_a_bell: crossover and mutation are shares, from 0 to 1")

    def nfe(self, cases: Sequence[Case]) -> int:
        """0: no denoiser takes part. ``texts`` says what is encoded."""
        return 0

    def texts(self, cases: Sequence[Case]) -> int:
        """Texts that a search encodes at most."""
        children = self.population - self.population // 2
        return len(cases) * (self.population + self.generations * children + 1) + 2 * len(TEMPLATES)

    def search(self, cases: Sequence[Case], target: Target) -> Iterator[Case]:
        """One case a case, without queries. ``target.keep`` is told ``curve`` (best distance by generation, mean over
        the concept's cases), ``first``, ``last`` and the texts encoded.

        Raises:
            BadInput: a concept without phrases, more tokens than the encoder reads.
        """
        words: Vocabulary = target.vocabulary
        if self.tokens > words.room:
            raise BadInput(f"ring_a_bell: {self.tokens} tokens, and the encoder reads {words.room}; take fewer")
        if not cases:
            return
        vectors = {c: concept_vector(self, target, c) for c in dict.fromkeys(case.concept for case in cases)}
        with torch.no_grad():
            own = self.encoded(target, [words.ids(c.prompt) for c in cases])
        wanted = own + self.eta * torch.stack([vectors[c.concept] for c in cases])
        may = {concept: self.usable(target, concept, cases) for concept in vectors}
        found, scores, curve = evolve(self, target, cases, wanted, [may[c.concept] for c in cases])
        for concept in vectors:
            mine = [k for k, c in enumerate(cases) if c.concept == concept]
            told = [round(x, 4) for x in curve[mine].mean(0).tolist()]
            facts = {"kind": "genetic", "attack": self.name, "concept": concept, "control": self.control}
            target.keep(scores[mine], **facts, curve=told, first=told[0], last=told[-1], texts=self.texts(cases))
        for k, case in enumerate(cases):
            text = next((words.text(ids) for ids in found[k].tolist() if words.survives(ids)), None)
            if text is None:
                raise BadInput(
                    f"ring_a_bell: no candidate for case {case.id!r} survives being written; more generations"
                )
            yield case._replace(id=f"{case.id}/{self.name}", prompt=text, parent=case.id)

    def usable(self, target: Target, concept: str, cases: Sequence[Case]) -> Tensor:
        """(k,) ids that may be written for a concept."""
        words: Vocabulary = target.vocabulary
        if self.words == "all":
            return words.usable
        names = [*target.phrases(concept), *(c.group for c in cases if c.concept == concept)]
        return words.without(content_words(names)).usable

    def encoded(self, target: Target, ids: Sequence[Sequence[int]]) -> Tensor:
        """(n, tokens + marks, c) states of token ids at the places that a candidate has, padded as the pipeline pads;
        (n, 1, c) where the mean of a text's own states is compared."""
        words: Vocabulary = target.vocabulary
        length = self.tokens + len(words.whole([]))
        rows = [list(row)[: words.room] for row in ids]
        clip = type(words.tokenizer).__name__.startswith("CLIP")
        mean = self.compare == "mean" or (self.compare == "auto" and not clip)
        out = []
        for k in range(0, len(rows), self.batch):
            states, mask = target.states(rows[k : k + self.batch], length=0 if mean else length)
            weight = mask.to(states)[..., None]
            out.append((states * weight).sum(1, True) / weight.sum(1, True) if mean else states[:, :length])
        return torch.cat(out)


def concept_vector(attack: RingABell, target: Target, concept: str) -> Tensor:
    """(places, c) mean over pairs of the states of a prompt with the concept less those of one without."""
    words: Vocabulary = target.vocabulary
    phrases = target.phrases(concept)
    with_it = [words.ids(t.format(p)) for p in phrases for t in TEMPLATES]
    without = [words.ids(t.format(attack.neutral)) for _ in phrases for t in TEMPLATES]
    with torch.no_grad():
        return attack.encoded(target, with_it).mean(0) - attack.encoded(target, without).mean(0)


def distances(attack: RingABell, target: Target, ids: Tensor, wanted: Tensor) -> Tensor:
    """(n,) summed squared distance of the states of ids (n, tokens) to those wanted (n, places, c)."""
    with torch.no_grad():
        return (attack.encoded(target, ids.tolist()) - wanted).square().flatten(1).sum(1).double().cpu()


def evolve(
    attack: RingABell, target: Target, cases: Sequence[Case], wanted: Tensor, usable: Sequence[Tensor] = ()
) -> tuple[Tensor, Tensor, Tensor]:
    """The last population of every case, best first (cases, population, tokens), its scores and the best score by
    generation (cases, generations + 1).

    Args:
        usable: ids that each case may write; none: all of the vocabulary.
    """
    may = list(usable) or [target.vocabulary.usable] * len(cases)
    size, keep = attack.population, attack.population // 2
    count = len(cases)
    ids = torch.stack([fresh(attack, case, -1, size, of) for case, of in zip(cases, may, strict=True)])
    kept = target.checkpoint()
    begin, scores = 0, None
    curve = torch.full((count, attack.generations + 1), float("inf"), dtype=torch.float64)
    if kept.keys() == {"ids", "scores", "curve", "done"} and kept["ids"].shape == ids.shape:
        if kept["curve"].shape == curve.shape:
            ids, begin = kept["ids"].long().cpu(), int(kept["done"][0])
            told = kept["curve"].double().cpu()
            curve = torch.where(told < 0, float("inf"), told)
            scores = kept["scores"].double().cpu()
    if scores is None:
        scores = distances(attack, target, ids.flatten(0, 1), wanted.repeat_interleave(size, 0)).view(count, size)
        ids, scores = ordered(ids, scores)
        curve[:, 0] = scores[:, 0]
    for turn in range(begin, attack.generations):
        if attack.control:
            each = [fresh(attack, c, turn, size - keep, may[k]) for k, c in enumerate(cases)]
        else:
            each = [offspring(attack, c, turn, ids[k, :keep], may[k]) for k, c in enumerate(cases)]
        more = torch.stack(each)
        new = scored(attack, target, more, wanted, ids, scores)
        both = torch.cat([ids[:, :keep], more], 1), torch.cat([scores[:, :keep], new], 1)
        ids, scores = ordered(*both)
        curve[:, turn + 1] = scores[:, 0]
        if (turn + 1) % EVERY == 0:
            told = torch.where(torch.isfinite(curve), curve, -1)
            target.checkpoint({"ids": ids, "scores": scores, "curve": told, "done": torch.tensor([turn + 1])})
    return ids, scores, curve


def scored(attack: RingABell, target: Target, more: Tensor, wanted: Tensor, ids: Tensor, scores: Tensor) -> Tensor:
    """(cases, children) scores of children (cases, children, tokens). One that is a copy of somebody in the population
    (cases, size, tokens), as every child that was neither crossed nor mutated is, or of a child before it, takes that
    score: nothing is encoded twice."""
    out = torch.zeros(more.shape[:2], dtype=torch.float64)
    known: list[dict[tuple[int, ...], float]] = [
        dict(zip(map(tuple, people), told, strict=True))
        for people, told in zip(ids.tolist(), scores.tolist(), strict=True)
    ]
    todo = [
        (k, row)
        for k, children in enumerate(more.tolist())
        for row in dict.fromkeys(map(tuple, children))
        if row not in known[k]
    ]
    if todo:
        fresh_ids = torch.tensor([row for _, row in todo])
        told = distances(attack, target, fresh_ids, wanted[[k for k, _ in todo]])
        for (k, row), value in zip(todo, told.tolist(), strict=True):
            known[k][row] = value
    for k, children in enumerate(more.tolist()):
        out[k] = torch.tensor([known[k][tuple(row)] for row in children], dtype=torch.float64)
    return out


def ordered(ids: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Populations with the lowest scores first; of equals the one that was there before."""
    scores, order = scores.sort(dim=1, stable=True)
    return ids.gather(1, order[..., None].expand_as(ids)), scores


def fresh(attack: RingABell, case: Case, turn: int, count: int, usable: Tensor) -> Tensor:
    """(count, tokens) candidates drawn at random."""
    generator = torch.Generator().manual_seed(row_seed("ring-a-bell", attack.seed, case.id, "fresh", turn))
    return usable[torch.randint(len(usable), (count, attack.tokens), generator=generator)]


def offspring(attack: RingABell, case: Case, turn: int, parents: Tensor, usable: Tensor) -> Tensor:
    """(population - survivors, tokens) children of the survivors (k, tokens) in one generation."""
    count = attack.population - len(parents)
    generator = torch.Generator().manual_seed(row_seed("ring-a-bell", attack.seed, case.id, turn))
    one, two = torch.randint(len(parents), (2, count), generator=generator)
    cut = torch.randint(1, max(2, attack.tokens), (count,), generator=generator)
    crossed = torch.rand(count, generator=generator) < attack.crossover
    mutated = torch.rand(count, generator=generator) < attack.mutation
    place = torch.randint(attack.tokens, (count,), generator=generator)
    gene = usable[torch.randint(len(usable), (count,), generator=generator)]
    behind = torch.arange(attack.tokens)[None] >= cut[:, None]
    children = torch.where(behind & crossed[:, None], parents[two], parents[one])
    there = torch.arange(attack.tokens)[None] == place[:, None]
    return torch.where(there & mutated[:, None], gene[:, None], children)
