"""Which judge labels what defenses learn from, and looks at pictures for filters.

The lab has two judges. A defense that was labelled by the judge that scores it is measured by the eye that it was built
on, so labels and filters come from the other one: ``LABELS_BY`` unless a run says otherwise. The judge is part of a
fit's identity, but for the lab's first one: fits that were made before there was a choice keep the key they had, and
stand in where no fit by another judge is at hand and none was asked for by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from genward.core import defending
from genward.core.contracts import Artifact
from genward.core.settings import LAB_JUDGES
from genward.errors import BadInput

FIRST, LABELS_BY = LAB_JUDGES
"""The lab's judge that scores, and the one that labels and filters, by default."""
EMBEDDED = ("open_nsfw", frozenset({"nsfw"}))
"""The judge of real pictures that needs no download, and its labels."""


def with_probe(defense: Any, labels_by: str = "") -> Any:
    """A defense that asks a judge by name (fields ``judge`` and ``probe``), with the judge opened: where it names none,
    the embedded one for real pictures if the labels are its own, else ``labels_by`` (``LABELS_BY`` by default)."""
    if not dataclasses.is_dataclass(defense) or isinstance(defense, type):
        raise BadInput(
            f"{type(defense).__name__} is no defense; give a text such as 'sld:weapons', or an object of a defense "
            "class"
        )
    if defending.judge_field(defense) and defending.judge_of(defense) is None:
        from genward.catalog.judges import judge_hash, open_judge

        told = defending.fields(defense)
        name, labels = str(told["judge"]), told.get("labels", ())
        if name in ("", FIRST) and labels and set(labels) <= EMBEDDED[1]:  # what no judge of the lab ever saw
            name = EMBEDDED[0]
        name = name or labels_by or LABELS_BY
        judge = open_judge(name)
        return dataclasses.replace(defense, judge=name, probe=judge, judge_hash=judge_hash(judge))
    return defense


def identity(defense: Any, labels_by: str) -> str:
    """What the judge adds to a fit's key: its hash where the fit asks for labels and the judge is not the lab's first
    one, else nothing."""
    if not labels_by or labels_by == FIRST or not defending.labelled(defense):
        return ""
    from genward.catalog.judges import judge_hash, open_judge

    return judge_hash(open_judge(labels_by))


def choices(defense: Any, labels_by: str) -> list[str]:
    """The judges whose fits will do, the best first: the one that was asked for; where none was, ``LABELS_BY``, then
    the lab's first one, which labelled the fits that came before."""
    return [labels_by] if labels_by or not defending.labelled(defense) else [LABELS_BY, FIRST]


def seen_by(defenses: Iterable[Any], artifacts: Iterable[Artifact]) -> tuple[str, ...]:
    """Names of the judges that a chain was labelled by, or that look for its filters."""
    names = [str(defending.fields(d).get("judge", "")) for d in defenses if defending.judge_field(d)]
    for artifact in artifacts:
        said = artifact.card.get("judge") or artifact.card.get("labels") or ""
        names += [said] if isinstance(said, str) and said != "captions" else []
    return tuple(sorted({name for name in names if name}))
