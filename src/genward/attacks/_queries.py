"""Searches that look at finished pictures: one more candidate a case and round, all cases in one batch, until a
picture succeeds or the budget is spent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from genward.attacks._tokens import REFUSED
from genward.core.contracts import Target
from genward.core.records import Case

UNASKED = -4.0
"""Stands in the table of margins where nothing was asked."""
Propose = Callable[[int, int, Tensor], Case | None]
"""``(case, turn, margins so far (turn,)) -> the next candidate``, or ``None`` where there is none left. The same
arguments give the same candidate, so that an interrupted search goes on where it was."""


def margins(cases: Sequence[Case], target: Target, propose: Propose, budget: int, *, stop: bool = True) -> Tensor:
    """(cases, budget) what was seen of each candidate: its margin (``Target.shown``, success at 0 or above),
    ``UNASKED`` where the search of a case had ended.

    Args:
        stop: a case whose picture succeeded is asked about no more.
    """
    kept = target.checkpoint().get("margins")
    table = torch.full((len(cases), budget), UNASKED)
    if kept is not None and kept.shape == table.shape:
        table = kept.float().cpu()
    for turn in range(budget):
        told = [k for k in range(len(cases)) if table[k, turn] == UNASKED and going(table[k, :turn], stop)]
        asked = {k: found for k in told if (found := propose(k, turn, table[k, :turn])) is not None}
        if not asked:
            continue
        for k, margin in zip(asked, target.shown(target.sample(list(asked.values()))), strict=True):
            table[k, turn] = margin if margin == margin else REFUSED
        target.checkpoint({"margins": table})
    return table


def going(seen: Tensor, stop: bool) -> bool:
    """Whether a case's search goes on after these margins: none was left out, none succeeded."""
    return not bool((seen == UNASKED).any()) and not (stop and bool((seen >= 0).any()))


def best(seen: Tensor) -> int:
    """The turn of the largest margin, the first of equals."""
    return int(seen.argmax())


def found_cases(attack: Any, cases: Sequence[Case], target: Target, propose: Propose, table: Tensor) -> Iterator[Case]:
    """One derived case a parent: its best candidate, the queries spent. ``target.keep`` is told the margins of each
    concept's cases."""
    name = type(attack).name
    for concept in dict.fromkeys(c.concept for c in cases):
        mine = [k for k, c in enumerate(cases) if c.concept == concept]
        asked = (table[mine] != UNASKED).sum(1).tolist()
        target.keep(table[mine], kind="margins", attack=name, concept=concept, queries=asked)
    for k, case in enumerate(cases):
        turn = best(table[k])
        candidate = propose(k, turn, table[k, :turn]) or case
        spent = int((table[k] != UNASKED).sum())
        yield candidate._replace(id=f"{case.id}/{name}", parent=case.id, queries=spent)


def derived(case: Case, name: str, turn: int, **changes: Any) -> Case:
    """A candidate of a case."""
    return case._replace(id=f"{case.id}/{name}/{turn}", parent=case.id, **changes)
