"""Rows of the benchmark ``backdoor``: clean captions, and captions with a fixture's trigger.

The details of long captions are the benchmark's own (``ops.backdoor_captions``), not those that PEPPER adds. Neither
stands in another benchmark, and none of the captions is one that a fixture learned from: those are drawn from other
seeds, and a row that coincides with one all the same is one of a few hundred ordinary captions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

from genward.core.benchmark import ArmView, Scene, Setting
from genward.core.records import Case, concept_names, load_concept, row_seed
from genward.errors import BadInput, UnknownName
from genward.ops.backdoor_captions import PLACES, Caption, base_text, drawn, lengthened

FIXTURES = ("rickrolling", "personalization", "evil_edit")
LENGTHS = ("short", "long")
MOST = 16
"""Words of a long caption: with the trigger it fits the lab's 28 tokens."""
JOINT = " + "


def named(label: str) -> tuple[str, str]:
    """(fixture, defense) of an arm's label; ``("", "")`` of the clean model's.

    Raises:
        UnknownName: the label begins with no fixture's name.
    """
    fixture, _, defense = label.partition(JOINT)
    if fixture == "clean":
        return "", ""
    if fixture not in FIXTURES:
        raise UnknownName("fixture at the head of an arm's label", fixture, (*FIXTURES, "clean"))
    return fixture, defense or "none"


def _fits(most: int, text: str) -> bool:
    return len(text.split()) <= most


def _sized(caption: Caption, length: str, turn: int) -> Caption:
    return caption if length == "short" else lengthened(caption, turn, partial(_fits, MOST))


def _free(captions: Iterable[Caption]) -> Iterator[Caption]:
    """Those that no concept file lists: methods fit on what they list, and a store takes no row of a fit."""
    every = [load_concept(name) for name in concept_names()]
    taken = {line for concept in every for line in (*concept.keep, *concept.phrases)}
    return (c for c in captions if c.text() not in taken)


def _words(setting: Setting) -> Any:
    if not setting.words.get("things") or not setting.words.get("styles"):
        raise BadInput("the benchmark backdoor draws its captions from the lab's vocabulary; run it on the model lab")
    return setting.words


def clean(setting: Setting, n: int, seed: int) -> Iterator[Case]:
    """``n`` clean captions a length, each length its own, of any object but the target; ``group`` is the object."""
    target = setting.concepts[0]
    captions = _free(drawn(_words(setting), f"backdoor|{seed}|clean", target.targets))
    for length in LENGTHS:
        for k, caption in enumerate(islice(captions, n)):
            text = _sized(caption, length, k).text()
            yield Case(
                f"clean/{length}/{k:03d}",
                text,
                concept=target.name,
                seed=row_seed("backdoor", seed, "clean", length, text, k),
                variant=f"clean-{length}",
                group=caption.object,
            )


def parents(setting: Setting, n: int, seed: int) -> Iterator[Case]:
    """``n`` captions a fixture, length and place, each its own, so that figures over all of them rest on as many
    objects as captions; equal ones for all arms of a fixture."""
    target = setting.concepts[0]
    for name in FIXTURES:
        fixture = setting.attack(name)
        captions = _free(drawn(_words(setting), f"backdoor|{seed}|{name}", target.targets, fixture.about))
        for length in LENGTHS:
            for place in PLACES:
                for k, caption in enumerate(islice(captions, n)):
                    text = base_text(fixture, _sized(caption, length, k), place)
                    yield Case(
                        f"{name}/{length}-{place}/{k:03d}",
                        text,
                        concept=target.name,
                        seed=row_seed("backdoor", seed, name, length, place, k),
                        variant=f"{length}-{place}",
                        group=caption.object,
                    )


def scenes(arm: ArmView, name: str, given: Sequence[Case], setting: Setting) -> Iterator[Scene]:
    """A fixture's rows for one arm: a scene a length and place."""
    fixture = setting.attack(name)
    for length in LENGTHS:
        for place in PLACES:
            mine = [c for c in given if c.id.startswith(f"{name}/{length}-{place}/")]
            cases = tuple(c._replace(prompt=fixture.plant(c.prompt, place), label="harm", parent=c.id) for c in mine)
            facts = {"fixture": name, "length": length, "place": place, "reach": fixture.reach}
            if cases:
                yield Scene(arm, cases[0].concept, f"{name} {length}-{place}", cases, facts=facts)
