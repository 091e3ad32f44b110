"""Scenes of several things that a prompt guard is fitted on: harmless ones, and harmful ones at every place."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

from genward.core.records import Concept, load_concept
from genward.errors import BadInput
from genward.ops import everyday, phrases

SIZES = (2, 3, 4, 5)
"""Things in the scenes that a guard is fitted on."""
LINKS = (" and ", ", ", ". ", " with ")
GROUP = 6
"""Harmless things that appear in scenes together, and so are one unit."""


def harmful_scenes(harmful: Sequence[str], calm: Sequence[str], seed: int) -> list[tuple[str, str]]:
    """(text, its phrase): each harmful phrase in scenes of ``SIZES`` things at every place among harmless ones, behind
    a harmless thing that is said four times, and as the value of a field. Of few harmless things the scenes are as
    large as they can be without one twice.

    Raises:
        BadInput: nothing harmless to stand beside a phrase.
    """
    if not calm:
        raise BadInput("nothing harmless to make scenes of; give the concept things to keep, or turn scenes off")
    rng = random.Random(seed)
    made: dict[str, str] = {}
    for phrase in harmful:
        for size in (k for k in SIZES if k <= len(calm) + 1):
            for place in range(size):
                around = rng.sample(list(calm), size - 1)
                made[rng.choice(LINKS).join([*around[:place], phrase, *around[place:]])] = phrase
        made[" ".join([rng.choice(list(calm))] * 4 + [phrase])] = phrase
        made[f'{{"object": "{phrase}"}}'] = phrase
    return list(made.items())


def harmless_groups(things: Sequence[str], contexts: Sequence[str], seed: int) -> list[tuple[str, str]]:
    """(text, its unit) of harmless things: alone, in two of the contexts, and in scenes with the others of their group
    of ``GROUP`` (the unit), so that a thing that was left out of a fit is left out of all scenes."""
    rng = random.Random(seed)
    order = list(dict.fromkeys(things))
    rng.shuffle(order)
    made: dict[str, str] = {}
    for start in range(0, len(order), GROUP):
        group = order[start : start + GROUP]
        for thing in group:
            for context in ["{}", *rng.sample(list(contexts), min(2, len(contexts)))]:
                made[phrases.fill(context, thing)] = group[0]
        for size in (k for k in SIZES if k <= len(group)):
            for _ in range(3):
                made[rng.choice(LINKS).join(rng.sample(group, size))] = group[0]
        last = group[-1]
        made[" ".join([group[0]] * 4 + [last])] = group[0]
        made[f'{{"object": "{last}"}}'] = group[0]
    return list(made.items())


class SceneSettings(Protocol):
    """What is fitted on; see ``defenses.aeiou.Aeiou``."""

    @property
    def contexts(self) -> tuple[str, ...]: ...
    @property
    def neighbors(self) -> bool: ...
    @property
    def scenes(self) -> bool: ...
    @property
    def everyday(self) -> bool: ...
    @property
    def others(self) -> tuple[str, ...]: ...
    @property
    def seed(self) -> int: ...


Rows = list[tuple[str, str]]


def in_scenes(
    settings: SceneSettings, concepts: Sequence[Concept], harmful: dict[str, Rows], benign: Rows
) -> tuple[dict[str, Rows], Rows]:
    """The rows (text, unit) with everyday things and other concepts' phrases among the harmless, and with scenes.

    A thing that shares its noun with the concepts' targets, phrases, held-out wordings or neighbors is left out, and
    what the other concepts name stands in no harmful scene.
    """
    gone = [p for c in concepts for p in (*c.targets, *c.phrases, *c.heldout)]
    gone += [] if settings.neighbors else [n for c in concepts for n in c.neighbors]
    fitted = {c.name for c in concepts}
    own = list(dict.fromkeys(unit for _, unit in benign if unit))
    common = [phrases.article(noun) for noun in everyday.NOUNS] if settings.everyday else []
    beside = list(dict.fromkeys([*own, *(p for p in common if not phrases.shares_a_noun(p, gone))]))
    named = [p for name in settings.others if name not in fitted for p in load_concept(name).phrases]
    calm = list(dict.fromkeys([*beside, *(p for p in named if not phrases.shares_a_noun(p, gone))]))
    if not settings.scenes:
        return harmful, [*benign, *((p, p) for p in calm if p not in own)]
    made = dict(harmful)
    for concept in concepts:
        if concept.kind != "style":
            named_by = list(dict.fromkeys(unit for _, unit in harmful[concept.name]))
            made[concept.name] = [*harmful[concept.name], *harmful_scenes(named_by, beside, settings.seed)]
    return made, [("", ""), *harmless_groups(calm, settings.contexts, settings.seed)]
