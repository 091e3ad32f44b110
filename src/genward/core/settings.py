"""How a family of models samples, and what fits together: settings that each family declares, media on both sides.

A model, a judge and a benchmark say which media they make, need and are about; ``matched`` holds them against each
other before anything is spent. A family's sampler is a frozen dataclass of its own; a table in a recipe is read with
it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from genward.core.media import KINDS
from genward.core.records import Sampler
from genward.core.typed import build
from genward.errors import BadInput

LAB_JUDGES = ("lab", "lab_second")
"""Names of the judges that know the pictures of the embedded lab and no others."""


class Settings(Protocol):
    """A family's sampler: a frozen dataclass whose fields all have defaults.

    A field that a later version adds has a default of nothing (0, empty text, ``None``, ``False``) with the old
    behavior behind it; then arms keep their identity.
    """

    def costs(self, extra_nfe: float = 0.0) -> dict[str, float]:
        """What one row costs by name, before anything is spent; ``extra_nfe`` is what defenses add to each step of a
        denoiser."""
        ...


class Family(NamedTuple):
    """What is known of a model before it is opened."""

    name: str
    makes: str
    """One of ``media.KINDS``"""
    sampler: type[Any]
    """Its ``Settings``"""

    @classmethod
    def of(cls, model: Any) -> Family:
        """The family of a model or of its class."""
        return cls(str(model.family), str(model.makes), model.sampler_class)


DIFFUSION = Family("sd", "image", Sampler)
"""Stable Diffusion 1.x and 2.x, the lab's models included."""


def stated(settings: Any) -> dict[str, Any]:
    """Name -> value of a sampler's fields, without those that stand at a default of nothing.

    This is what an arm is identified by and what a report shows: a changed default changes it, a new field that does
    nothing by default does not."""
    usual = {f.name: f.default for f in dataclasses.fields(settings)}
    found = {name: getattr(settings, name) for name in usual}
    return {name: value for name, value in found.items() if value or value != usual[name]}


def read_settings(family: Family, table: Mapping[str, Any], where: str, path: str = "sampler.") -> Any:
    """The sampler of a recipe's table.

    Raises:
        BadInput: a field that the family's sampler does not have, with those that it has; a value of another type, or
            out of range.
    """
    return build(family.sampler, table, where, f"a {family.name} model has a {family.sampler.__name__}", path)


def changed(settings: Any, model: str, **values: Any) -> Any:
    """The settings with other values; those that are ``None`` stay.

    Raises:
        BadInput: the model's sampler has no such field.
    """
    known = [f.name for f in dataclasses.fields(settings)]
    given = {name: value for name, value in values.items() if value is not None}
    for name in given:
        if name not in known:
            raise BadInput(
                f"model {model!r} is sampled without {name}; its {type(settings).__name__} has {', '.join(known)}"
            )
    return dataclasses.replace(settings, **given)


def summed(costs: Iterable[Mapping[str, float]], times: float = 1) -> dict[str, float]:
    """Costs added up by name, each ``times`` over."""
    total: dict[str, float] = {}
    for one in costs:
        for name, value in one.items():
            total[name] = total.get(name, 0) + times * value
    return total


def matched(makes: str, model: str, *, judges: Iterable[Any] = (), media: str = "", benchmark: str = "") -> None:
    """Hold what a model makes against what judges need and what a benchmark is about.

    Args:
        makes: the model's media, one of ``media.KINDS``. model: its name, for the message.
        judges: with ``name`` and ``needs``; names in ``needs`` that are no media do not matter here.
        media: what the benchmark's rows become; empty: not asked. benchmark: its name.

    Raises:
        BadInput: they do not fit together, or the model makes something that genward does not know.
    """
    if makes not in KINDS:
        raise BadInput(f"model {model!r} says that it makes {makes!r}; one of {', '.join(KINDS)} is known")
    if media and media != makes:
        raise BadInput(
            f"benchmark {benchmark!r} is about {media} and model {model!r} makes {makes}; name a model that makes "
            f"{media}, or another benchmark"
        )
    for judge in judges:
        wanted = sorted(set(judge.needs) & set(KINDS))
        if not set(wanted) <= {makes}:
            raise BadInput(
                f"judge {judge.name!r} needs {' and '.join(wanted)} and model {model!r} makes {makes}; name a judge of "
                f"{makes} with --judge"
            )
