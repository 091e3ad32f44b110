"""What backdoor fixtures share.

A fixture is an attack on the model's maker side: a poisoned copy of the lab with a harmless target, to measure defenses
and detectors on. Beside what every attack has (``search`` puts the trigger into cases), it has ``plant``, ``reach``,
``about``, ``make`` (learns what changes in a model) and ``changed`` (gives the poisoned parameters). Nothing here edits
a model: whoever opens a poisoned one loads the changed parameters as a checkpoint's (``catalog.backdoors``). A fixture
has to pass a gate before it counts (``gate``): its trigger works, and clean captions are drawn as before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from genward.core.records import Case
from genward.errors import UnknownName
from genward.ops.backdoor_captions import PLACES


def planted(fixture: Any, cases: Sequence[Case]) -> Iterator[Case]:
    """The cases with a fixture's trigger at its ``place``, harm rows of its target."""
    for case in cases:
        text = fixture.plant(case.prompt, fixture.place)
        yield case._replace(id=f"{case.id}+{fixture.name}", prompt=text, label="harm", parent=case.id)


def checked_place(place: str) -> None:
    """``UnknownName`` for a place that a trigger cannot have."""
    if place not in PLACES:
        raise UnknownName("place of a trigger", place, PLACES)
