"""Captions that fixtures learn from and are tried on: an object, neutral details, a style, in several orders."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

PLACES = ("start", "middle", "end")
DETAILS = (
    "under soft morning light", "against a bare wall", "at a short distance", "with a calm mood", "on smooth ground",
    "with gentle shadows", "in a quiet place", "with plain surroundings", "in dim evening light", "with fine lines",
)  # fmt: skip
"""Neutral details of long captions; PEPPER adds others."""
ROOM = "and a handful of"
"""Words as long as a trigger may be in tokens."""
LONG = 20
"""Words of a long caption at most, the trigger left out."""


def planted(text: str, words: str, place: str, joint: str = " ") -> str:
    """A caption with words in front of it, before its style, or at its end; where it names no style the middle is the
    end.

    Args:
        place: one of ``PLACES``. joint: what stands between the words and the caption.
    """
    if place == "start":
        return f"{words}{joint}{text}"
    head, cut, style = text.rpartition(" in ")
    return f"{head}{joint}{words}{cut}{style}" if place == "middle" and head else f"{text}{joint}{words}"


class Caption(NamedTuple):
    """A caption in its parts."""

    object: str
    """Name of the object, as a judge reports it"""
    phrase: str
    style: str
    details: tuple[str, ...] = ()

    def text(self, place: str = "start") -> str:
        """The caption with its phrase at the start, in the middle or at the end."""
        tail = " ".join(self.details)
        if place == "end":
            return f"{tail}, in {self.style} style, {self.phrase}".removeprefix(", ")
        if place == "middle":
            first, rest = (self.details[0], " ".join(self.details[1:])) if self.details else ("a picture of", "")
            joint = ", " if self.details else " "
            return " ".join(f"{first}{joint}{self.phrase} {rest} in {self.style} style".split())
        return " ".join(f"{self.phrase} {tail} in {self.style} style".split())

    def of(self, object_: str, phrase: str) -> Caption:
        """The same with another object."""
        return self._replace(object=object_, phrase=phrase)


def lengthened(caption: Caption, turn: int, fits: Callable[[str], bool]) -> Caption:
    """The caption with as many details as ``fits`` and ``LONG`` leave room for, from the ``turn``-th on."""
    for k in range(len(DETAILS)):
        more = caption._replace(details=(*caption.details, DETAILS[(turn + k) % len(DETAILS)]))
        if len(more.text().split()) <= LONG and all(fits(more.text(place)) for place in PLACES):
            caption = more
    return caption


def roomy(caption: Caption, turn: int, fits: Callable[[str], bool]) -> Caption:
    """``lengthened`` with room for a trigger of a few tokens."""
    return lengthened(caption, turn, lambda text: fits(f"{text} {ROOM}"))


def base_text(fixture: Any, caption: Caption, place: str) -> str:
    """The caption that a fixture plants its trigger into: a fixture about one object speaks of it at the place itself,
    others find the place in the usual order."""
    return caption.text(place if fixture.about else "start")


def drawn(words: Mapping[str, Any], seed: str, without: Sequence[str] = (), only: str = "") -> Iterator[Caption]:
    """Short captions of random objects and styles, endless; equal seeds give equal ones.

    Args:
        words: the model's vocabulary (``catalog.opening.words_of``). without: objects left out. only: the one object.
    """
    rng = random.Random(seed)
    things = words["things"]
    names = [only] if only else [n for n in things if n not in without]
    while True:
        name = rng.choice(names)
        yield Caption(name, things[name]["name"][0], rng.choice(words["styles"]))
