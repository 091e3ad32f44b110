"""Are the names in a plan's concepts known to its judge and its model? Asked before anything is spent: a name that is
spelled wrong runs to the end and leaves every cell empty."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from genward.core.benchmark import Setting
from genward.core.records import Concept
from genward.errors import BadInput, UnknownName
from genward.run.plan import Plan

TRAINED = ("name", "synonym", "description")
"""Levels of a vocabulary's phrases that the model was trained on."""


def check_names(plan: Plan, setting: Setting, judge: Any) -> None:
    """Hold the concepts' names against the judge's labels and the model's vocabulary, and the arms that are to be
    attacked (a benchmark's ``attacked``) against the plan's.

    Raises:
        UnknownName: an arm that the plan lacks, a label that the judge does not give, or a target or a neighbor that
            the model's vocabulary lacks; the nearest ones are offered. BadInput: a held-out phrase that is none.
    """
    _each("arm to attack", getattr(plan.benchmark, "attacked", ()), [arm.label for arm in plan.arms])
    labels = judge_labels(judge)
    words = _vocabulary(setting.words)
    own = not getattr(plan.benchmark, "prompts", ())  # rows of a file may be about things that have no name here
    for concept in setting.concepts:
        if labels:
            _each(
                f"label of judge {type(judge).name!r} (concept {concept.name})",
                concept.judge or concept.targets,
                labels,
            )
            near = [n for n in concept.neighbors if n in labels]
            if near or words:  # a judge that knows none of them measures no retention, and the table says so
                _each(f"label of judge {type(judge).name!r} (neighbor of {concept.name})", concept.neighbors, labels)
        if words and own:
            _each(f"object or style of model {plan.model!r} (target of {concept.name})", concept.targets, words)
            _each(f"object or style of model {plan.model!r} (neighbor of {concept.name})", concept.neighbors, words)
        _held_out(concept, setting.words)


def judge_labels(judge: Any) -> tuple[str, ...]:
    """Labels that a judge gives, from its card or its own word; empty where neither says."""
    card = judge.card
    return tuple(dict.fromkeys([*(card.labels if card is not None else ()), *getattr(judge, "labels", ())]))


def _vocabulary(words: Mapping[str, Any]) -> tuple[str, ...]:
    return (*words.get("things", {}), *words.get("styles", ()))


def _each(kind: str, names: Iterable[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise UnknownName(kind, name, known)


def _held_out(concept: Concept, words: Mapping[str, Any]) -> None:
    """A phrase under ``heldout`` that a fit or the model's training has seen measures nothing."""
    fitted = {_plain(p) for p in (*concept.phrases, *concept.descriptions)}
    trained = {
        _plain(phrase): name
        for name, levels in words.get("things", {}).items()
        for level in TRAINED
        for phrase in levels.get(level, ())
    }
    for phrase in concept.heldout:
        if _plain(phrase) in fitted:
            raise BadInput(
                f"concept {concept.name!r}: {phrase!r} stands under heldout and among the phrases that methods fit on; "
                "take it out of one of them"
            )
        if _plain(phrase) in trained:
            raise BadInput(
                f"concept {concept.name!r}: {phrase!r} stands under heldout, and the model was trained on it as a "
                "phrase "
                f"for {trained[_plain(phrase)]!r}; give one that it has not seen, or put it under phrases"
            )


def _plain(phrase: str) -> str:
    return " ".join(phrase.casefold().split())


def unscored(metrics: Mapping[str, Any], table: str, figure: str) -> list[str]:
    """Columns of a run (a concept under one prompt variant) in whose cells the benchmark's figure has no value at all,
    each with the reason of its first cell."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for cell in metrics[table]:
        if figure and figure in cell:
            groups.setdefault((str(cell.get("concept", "")), str(cell.get("variant", ""))), []).append(cell)
    return [
        f"{', '.join(filter(None, column)) or 'all rows'}: {figure} has no value in any of {len(cells)} cells "
        f"({cells[0].get('why') or 'no reason given'})"
        for column, cells in groups.items()
        if all(cell[figure] is None for cell in cells)
    ]
