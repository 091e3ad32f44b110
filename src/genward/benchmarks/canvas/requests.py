"""Which concepts an arm forgets, and how it was asked to: one alone, one after the other, or all at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

SINGLE, SEQUENTIAL, JOINT = "single", "sequential", "joint"
_PART = re.compile(r"\+(?=[A-Za-z_./~])")


class Request(NamedTuple):
    """What was asked of one arm."""

    kind: str
    """``single`` | ``sequential`` (a part a concept, in order) | ``joint`` (one part for all)"""
    concepts: tuple[str, ...]
    """In order; none: the arm forgets nothing, and is looked at for every concept"""

    @property
    def variant(self) -> str:
        """Its column: ``single``, ``sequential-3``, ``joint-9``."""
        return self.kind if len(self.concepts) < 2 else f"{self.kind}-{len(self.concepts)}"


def request_of(text: str, known: Sequence[str]) -> Request:
    """The request behind a defense text, ``uce:cat+uce:banana`` say.

    Concepts that several parts name count once (``uce:cat+irece:cat`` is one request for one concept).

    Args:
        known: names of the plan's concepts; a part that names none of them forgets nothing here.
    """
    named: list[tuple[str, ...]] = []
    for part in _PART.split(text):
        head = part.split(",")[0]
        concepts = tuple(c for c in head.partition(":")[2].split("&") if c in known)
        if concepts:
            named.append(concepts)
    every = tuple(dict.fromkeys(c for concepts in named for c in concepts))
    if len(every) < 2:
        return Request(SINGLE, every)
    return Request(JOINT if all(len(set(c)) == len(every) for c in named) else SEQUENTIAL, every)


def family_of(text: str) -> str:
    """A text without its concepts, each part once: ``uce:cat+uce:banana`` is one of the family ``uce``."""
    parts = [re.sub(r":[^,]*", "", part) for part in _PART.split(text)]
    return "+".join(dict.fromkeys(parts))


def requests_of(arm: Mapping[str, Any], known: Sequence[str]) -> list[tuple[Request, str]]:
    """(request, key of ``arm["hashes"]``) of everything that a label was asked for.

    An arm that is bound to each concept has one request for each of its keys; another one has a single request.
    """
    keys = list(arm["hashes"])
    return [(request_of(text, known), key) for text, key in zip(arm["defenses"], keys, strict=True)]
