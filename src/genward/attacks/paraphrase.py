"""Paraphrase: the honest user's rephrasing. The concept's phrase is put in other words, or the whole prompt is, and the
first wording whose picture shows the concept is kept.

Wordings come from a table (the model's vocabulary: synonyms, descriptions), or from any OpenAI-compatible service,
which is asked with the prompt as data. No wording is made up here."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from genward.attacks._chat import ask_service
from genward.attacks._queries import derived, found_cases, margins
from genward.attacks._tokens import refuse_nothing
from genward.core.contracts import Target
from genward.core.records import MAX_PROMPT, Case, row_seed
from genward.errors import BadInput, UnknownName

LEVELS = ("synonym-heldout", "synonym", "description")


@dataclass(frozen=True)
class Paraphrase:
    """Paraphrase: the same wish in other words, from a table or a language model, until a picture shows it."""

    name: ClassVar[str] = "paraphrase"
    access: ClassVar[str] = "query"
    asks: ClassVar[frozenset[str]] = frozenset({"judge", "things"})
    parents: ClassVar[tuple[str, ...]] = ("prompt",)
    budget: int = 8
    """Most pictures a case, that of its own prompt included."""
    levels: tuple[str, ...] = LEVELS
    """Kinds of wordings of the table, in order: ``synonym-heldout``, ``synonym``, ``description``."""
    endpoint: str = ""
    """Address of an OpenAI-compatible service that is asked for wordings (``http://localhost:8000/v1``); empty: the
    table alone."""
    model: str = ""
    """Its model's name."""
    key: str = ""
    """Name of the environment variable that holds its key."""
    stop: bool = True
    """Whether a case ends with its first success; without it the best of the whole budget is taken, its own prompt left
    out."""
    seed: int = 0
    """Of the order within a level."""

    def __post_init__(self) -> None:
        refuse_nothing("paraphrase", budget=self.budget)
        for level in self.levels:
            if level not in LEVELS:
                raise UnknownName("paraphrase level", level, LEVELS)
        if not self.levels and not self.endpoint:
            raise BadInput("paraphrase: no level of the table and no endpoint; name one, levels=synonym say")

    def nfe(self, cases: Sequence[Case]) -> int:
        """Denoiser rows that a search will cost at most, at 20 guided steps a picture."""
        return len(cases) * self.budget * 40

    def search(self, cases: Sequence[Case], target: Target) -> Iterator[Case]:
        """One case a case: the wording whose picture shows the concept best, and the queries spent.

        Raises:
            BadInput: a prompt that the table has no other words for, where no service is asked; a service that does not
                answer.
        """
        texts = [self.wordings(case, target.things) for case in cases]

        def propose(k: int, turn: int, _: Tensor) -> Case | None:
            own = [cases[k].prompt, *texts[k]] if self.stop else texts[k]
            return derived(cases[k], self.name, turn, prompt=own[turn]) if turn < len(own) else None

        table = margins(cases, target, propose, self.budget, stop=self.stop)
        yield from found_cases(self, cases, target, propose, table)

    def wordings(self, case: Case, things: Mapping[str, Any]) -> list[str]:
        """Other prompts for the same wish, each once: the service's first, then the table's level by level."""
        out: list[str] = []
        if self.endpoint:
            out += ask_service(self.endpoint, self.model, self.key, case.prompt, self.budget)
        out += reworded(case.prompt, things, self.levels, row_seed("paraphrase", self.seed, case.id))
        out = [t for t in dict.fromkeys(out) if t != case.prompt and len(t) <= MAX_PROMPT]
        if not out:
            raise BadInput(
                f"paraphrase: nothing says {case.prompt!r} in other words; the model's vocabulary holds no phrase of "
                "it, so name an endpoint"
            )
        return out


def reworded(prompt: str, things: Mapping[str, Any], levels: Sequence[str], seed: int) -> list[str]:
    """The prompt with the longest phrase of the vocabulary that it holds put in the object's other words: level by
    level, in an order of the seed within each."""
    held = [
        (phrase, wordings)
        for wordings in things.values()
        for level in ("name", "synonym", "synonym-heldout", "description")
        for phrase in wordings.get(level, ())
        if f" {phrase} " in f" {prompt} "
    ]
    if not held:
        return []
    phrase, wordings = max(held, key=lambda pair: len(pair[0]))
    out = []
    for level in levels:
        others = [w for w in wordings.get(level, ()) if w != phrase]
        random.Random(seed).shuffle(others)
        out += [f" {prompt} ".replace(f" {phrase} ", f" {w} ", 1).strip() for w in others]
    return out
