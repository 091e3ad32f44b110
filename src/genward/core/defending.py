"""What a defense may say beside ``name`` and ``attach``, with the answer that holds where it says nothing.

A defense needs none of these members; one that has them is asked through this module and through nothing else:

- ``needs_guidance``: whether it acts only under classifier-free guidance. Missing: it does not.
- ``extra_nfe``: denoiser rows per step and picture beyond guidance's two. Missing: 0.
- ``fit_nfe``: denoiser rows that its fit costs; 0 of a closed form. Missing: nobody knows.
- ``last_look(steps)``: the last 0-based step of a loop at which it decides. Missing: each step of its ports' windows.
  One that has it notes its score there (``rig.note``): a row without is refused.
- ``at_attach``: names of the fields that act on attaching, so that another value needs no new fit. Missing:
  ``strength``.
- ``needs_denoiser``: whether it acts on, or looks into, the denoiser's loop. Missing: it does. One of which this is not
  so (it reads the text or the finished picture) can guard pipelines that genward does not step into.
- ``guards``: whether rows end or change by it. Missing: they do; a defense of which this is not so (it only reads for
  others) leaves a policy's categories unguarded.
- ``check(rig)``: raises where it cannot act on the model or the sampler behind the rig. ``attach`` calls it; whoever
  keeps a defense attached over several calls asks again before each. Missing: nothing to check.
- ``for_concept(concept, **fields)``, a class method: the defense made for a concept, where it learns nothing.
  Missing: it takes no concept.
- ``fit``: see ``contracts.Fits``. Missing: it learns nothing.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from genward.core.contracts import Artifact, Judge, Rig
from genward.core.reading import short
from genward.core.records import Concept
from genward.errors import BadArtifact, BadInput

OPTIONAL = (
    "needs_guidance",
    "needs_denoiser",
    "extra_nfe",
    "fit_nfe",
    "last_look",
    "at_attach",
    "guards",
    "check",
    "for_concept",
    "fit",
)
"""Names of the optional members."""
AT_ATTACH = frozenset({"strength"})
"""``at_attach`` of a defense that does not say."""


def _said(defense: Any, member: str, default: Any = None) -> Any:
    """An optional member of a defense or of its class: the one place where the contract's gaps are filled."""
    assert member in OPTIONAL
    return getattr(defense, member, default)


def _class(defense: Any) -> type[Any]:
    return defense if isinstance(defense, type) else type(defense)


def named(defense: Any) -> str:
    """The defense's name as messages give it; of something without one, its class."""
    cls = _class(defense)
    return str(next((vars(c)["name"] for c in cls.__mro__ if "name" in vars(c)), cls.__name__))


def _flag(defense: Any, name: str, default: bool) -> bool:
    """What a defense says under a name that is true or false."""
    found = _said(defense, name, default)
    if not isinstance(found, bool):
        raise BadInput(f"{named(defense)}: {name} is {found!r}; True or False is wanted")
    return found


def needs_guidance(defense: Any) -> bool:
    """Whether a defense (or its class) acts only through classifier-free guidance, and so does nothing at guidance 1
    and below.

    Raises:
        BadInput: it says something that is neither true nor false.
    """
    return _flag(defense, "needs_guidance", False)


def needs_denoiser(defense: Any) -> bool:
    """Whether a defense (or its class) acts on, or looks into, the denoiser's loop.

    Raises:
        BadInput: it says something that is neither true nor false.
    """
    return _flag(defense, "needs_denoiser", True)


def guards(defense: Any) -> bool:
    """Whether a defense (or its class) ends or changes rows itself.

    Raises:
        BadInput: it says something that is neither true nor false.
    """
    return _flag(defense, "guards", True)


def extra_nfe(defense: Any) -> float:
    """Denoiser rows per step and picture that a defense (or its class) adds to guidance's two.

    Raises:
        BadInput: it says something else than a finite number of at least 0.
    """
    found = _said(defense, "extra_nfe", 0.0)
    if not isinstance(found, int | float) or not (math.isfinite(found) and found >= 0):
        raise BadInput(f"{named(defense)}: extra_nfe is {found!r}; a number of denoiser rows, at least 0, is wanted")
    return float(found)


def fit_nfe(defense: Any) -> float | None:
    """Denoiser rows that fitting a defense (or its class) costs, ``None`` where it does not say.

    Raises:
        BadInput: it says something else than a finite number of at least 0.
    """
    found = _said(defense, "fit_nfe")
    if found is not None and (not isinstance(found, int | float) or not (math.isfinite(found) and found >= 0)):
        raise BadInput(f"{named(defense)}: fit_nfe is {found!r}; a number of denoiser rows, at least 0, is wanted")
    return None if found is None else float(found)


def last_look(defense: Any, steps: int) -> int | None:
    """The last 0-based step of a loop of ``steps`` at which a defense decides; ``None`` where it does not say.

    Raises:
        BadInput: it names a step that the loop does not have; what its own ``last_look`` raises.
    """
    asked = _said(defense, "last_look")
    if asked is None:
        return None
    found = asked(steps)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < steps:
        raise BadInput(f"{named(defense)}: last_look({steps}) is {found!r}; a step from 0 to {steps - 1} is wanted")
    return found


def at_attach(defense: Any) -> frozenset[str]:
    """Names of the fields of a defense (or its class) that act on attaching and take no part in what is learned."""
    found = _said(defense, "at_attach", AT_ATTACH)
    if isinstance(found, str):
        raise BadInput(f"{named(defense)}: at_attach is {found!r}; a set of field names is wanted")
    return frozenset(map(str, found))


def check(defense: Any, rig: Rig) -> None:
    """Ask a defense whether it can act on what is behind the rig now; what it raises says why not."""
    asked = _said(defense, "check")
    if callable(asked):  # a field may have the name
        asked(rig)


def attach(defense: Any, rig: Rig) -> None:
    """Attach a defense. What it learned may come from a file: a card that its method cannot read is ``BadArtifact``,
    with the method's own exception as its cause."""
    try:
        defense.attach(rig)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        if artifact_of(defense) is None:
            raise
        raise BadArtifact(
            f"what {named(type(defense))} learned cannot be attached ({type(error).__name__}: {short(error)}); its "
            "card "
            "does not fit the method: fit it again"
        ) from error


def takes_concept(defense: Any) -> bool:
    """Whether a defense (or its class) is made for a concept: by ``for_concept`` or by learning it."""
    return _said(defense, "for_concept") is not None or learns(defense)


def made_for(cls: type[Any], concept: Concept, **fields: Any) -> Any:
    """A defense that learns nothing, made for a concept.

    Raises:
        BadInput: the class takes no concept.
    """
    make = _said(cls, "for_concept")
    if make is None:
        raise BadInput(f"defense {named(cls)!r} takes no concept; leave out ':{concept.name}'")
    return make(concept, **fields)


def learns(defense: Any) -> bool:
    """Whether a defense (or its class) has something to learn before it can be attached."""
    return _said(defense, "fit") is not None


def fields(defense: Any) -> dict[str, Any]:
    """Configuration of a defense, field by field; empty for one that is no dataclass."""
    if isinstance(defense, type) or not dataclasses.is_dataclass(defense):
        return {}
    return {f.name: vars(defense)[f.name] for f in dataclasses.fields(defense)}


def artifact_field(defense: Any) -> str | None:
    """Name of the field that holds what a defense (or its class) learned, or ``None`` for one that learns nothing."""
    cls = _class(defense)
    if not dataclasses.is_dataclass(cls):
        return None
    return next((f.name for f in dataclasses.fields(cls) if "Artifact" in str(f.type)), None)


def artifact_of(defense: Any) -> Artifact | None:
    """What a defense learned, or ``None``."""
    found = fields(defense).get(artifact_field(defense) or "")
    return found if isinstance(found, Artifact) else None


def judge_field(defense: Any) -> str | None:
    """Name of the field that holds a judge as an object, for a defense that asks one by name (field ``judge``)."""
    mine = fields(defense)
    return "probe" if "judge" in mine and "probe" in mine else None


def labelled(defense: Any) -> bool:
    """Whether its fit asks a judge to label pictures (``labelled``, default no)."""
    return bool(getattr(defense, "labelled", False))


def judge_of(defense: Any) -> Judge | None:
    """The judge that a defense asks, or ``None`` where it asks none or has not been given it yet."""
    found: Judge | None = fields(defense).get(judge_field(defense) or "")
    return found


def concept_of(defense: Any) -> str:
    """Name of the concept that a defense is about (several joined by ``+``): its field ``concept``, or the card of
    what it learned; empty where it says nothing."""
    said = fields(defense).get("concept", "")
    if said:
        return said.name if isinstance(said, Concept) else str(said)
    artifact = artifact_of(defense)
    return "+".join(artifact.card.get("concepts", {})) if artifact is not None else ""
