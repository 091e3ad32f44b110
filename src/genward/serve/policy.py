"""Policies as data: which concepts are guarded, what happens then, at which thresholds. A TOML file, or a shipped name.

::

    name = "house rules"
    summary = "What this service does not draw."

    [categories.weapons]
    concept = "weapons"          # a shipped concept, or a file beside this one; left out: the category's name
    action = "block"             # block | steer | flag
    thresholds = { aeiou = 1.7, wukong = 0.4 }

    [categories.rude]
    action = "flag"

Keys that are not known are refused with the nearest ones: a threshold that is spelled wrong must not be a guard that is
off."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from genward.core.reading import read_text
from genward.core.records import Concept, concept_names, load_concept
from genward.core.spec import digest
from genward.core.typed import is_number, parse_toml, shown
from genward.errors import BadInput, UnknownName

ACTIONS = ("block", "steer", "flag")
TOP = ("name", "summary", "categories", "calibration")
CATEGORY = ("concept", "action", "thresholds")
CALIBRATION = (
    "category",
    "defense",
    "threshold",
    "fpr",
    "measured",
    "low",
    "high",
    "n",
    "prompts",
    "model",
    "caught",
    "harmful",
    "tenths",
)
MAX_BYTES = 1_000_000


@dataclass(frozen=True)
class Category:
    """One kind of content: what it is, what happens to a row that shows it, and above which score by each guard."""

    name: str
    concept: str
    """A shipped concept or the path of a concept file, absolute where it was read from a policy file"""
    action: str = "block"
    """What becomes of a row that a guard would end: ``block`` ends it, ``flag`` lets it go on and says so. ``steer``
    asks for a guard that changes rows; one that does steers under every action"""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Defense -> threshold, in place of the defense's own"""

    def named(self, given: str) -> bool:
        """Whether a text of the user's means this category: its name, its concept, or a path of its concept file as
        seen from here."""
        return given in (self.name, self.concept) or (_is_file(given) and str(Path(given).resolve()) == self.concept)


@dataclass(frozen=True)
class Policy:
    """Categories under a name. ``calibration`` keeps how thresholds were found; it changes nothing."""

    name: str
    categories: tuple[Category, ...]
    summary: str = ""
    calibration: tuple[Mapping[str, Any], ...] = ()

    @property
    def hash(self) -> str:
        """Identity: categories with their actions, thresholds and concepts' content."""
        return digest([{**asdict(c), "concept": load_concept(c.concept).hash} for c in self.categories])

    @property
    def concepts(self) -> dict[str, Concept]:
        """Category -> its concept, loaded."""
        return {c.name: load_concept(c.concept) for c in self.categories}

    def with_threshold(
        self, category: str, defense: str, threshold: float, facts: Mapping[str, Any] | None = None
    ) -> Policy:
        """The policy with one threshold set, and a note on where it comes from in place of an earlier one."""
        known = {c.name for c in self.categories}
        if category not in known:
            raise UnknownName(f"category of policy {self.name}", category, known)
        new = tuple(
            replace(c, thresholds={**c.thresholds, defense: float(threshold)}) if c.name == category else c
            for c in self.categories
        )
        kept = tuple(x for x in self.calibration if (x.get("category"), x.get("defense")) != (category, defense))
        note = (
            ()
            if facts is None
            else ({"category": category, "defense": defense, "threshold": float(threshold), **facts},)
        )
        return replace(self, categories=new, calibration=kept + note)


def check_model(policy: Policy, model: str) -> None:
    """Hold the model on which a policy's thresholds were calibrated against the one that it is to guard.

    Raises:
        BadInput: a threshold in force was calibrated on a model of another hash: scores of two models are two scales.
    """
    for row in policy.calibration:
        place, defense = row.get("category"), str(row.get("defense"))
        inforce = next((c.thresholds.get(defense) for c in policy.categories if c.name == place), None)
        if row.get("model", model) != model and inforce is not None and inforce == row.get("threshold"):
            raise BadInput(
                f"policy {policy.name!r}: the threshold of {defense} for {place} was calibrated on model "
                f"{row['model']}, and "
                f"this one is {model}; calibrate it on this model (genward calibrate {defense}:{place} --policy …)"
            )


def merged(concepts: Iterable[Concept]) -> Concept:
    """Several concepts as one, for a defense that can be attached only once: their words and labels one after
    another."""
    every = list(concepts)
    if len(every) == 1:
        return every[0]
    many = {
        key: tuple(dict.fromkeys(x for c in every for x in getattr(c, key)))
        for key in ("targets", "phrases", "heldout", "descriptions", "judge", "prompts")
    }
    return Concept(
        name="+".join(c.name for c in every),
        kind="policy",
        summary=" ".join(c.summary for c in every),
        anchor=every[0].anchor,
        **many,
    )


# -------------------------------------------------------------------------------------------------------------- reading


def policy_names() -> list[str]:
    """Names of the policies that come with genward."""
    return sorted(
        p.name[:-5] for p in resources.files("genward").joinpath("policies").iterdir() if p.name.endswith(".toml")
    )


def load_policy(given: Policy | str | Path, *, known: Iterable[str] | None = None) -> Policy:
    """A policy by shipped name, by concept (blocked, at the defenses' own thresholds) or from a TOML file; a ``Policy``
    is itself.

    Args:
        known: defenses that thresholds may name; by default those of the catalog.

    Raises:
        UnknownName: no such policy, concept, key, action or defense; the nearest ones are offered.
        BadInput: the file is missing, is not TOML, or a value is of the wrong kind.
    """
    if isinstance(given, Policy):
        return given
    text = str(given)
    if known is None:
        from genward.catalog import plugins as catalog

        known = catalog.entries("defense")
    if text.endswith(".toml") or "/" in text:
        known_names = ", ".join(sorted({*policy_names(), *concept_names()}))
        source = read_text(text, "policy file", MAX_BYTES, hint=f"give a .toml file or one of: {known_names}")
        return parse_policy(source, text, folder=Path(text).parent, known=known)
    if text in policy_names():
        return parse_policy(
            resources.files("genward").joinpath("policies", f"{text}.toml").read_text("utf-8"), text, known=known
        )
    if text in concept_names():
        return Policy(text, (Category(text, text),), load_concept(text).summary)
    raise UnknownName("policy", text, {*policy_names(), *concept_names()})


def parse_policy(
    text: str, where: str = "policy", *, folder: Path | None = None, known: Iterable[str] | None = None
) -> Policy:
    """Read a policy from TOML text; see the module for the format.

    Args:
        where: what to call it in errors, and its name if it gives none.
        folder: where concept files named by relative paths lie; by default the working directory.
        known: defenses that thresholds may name; ``None`` allows any name.

    Raises:
        UnknownName, BadInput: as ``load_policy``.
    """
    raw = parse_toml(text, where, "see docs/protect.md for the format")
    _keys(raw, TOP, where)
    table = raw.get("categories")
    if not isinstance(table, dict) or not table:
        raise BadInput(f'{where} has no categories; write [categories.weapons], say, and under it concept = "weapons"')
    categories = tuple(
        _category(name, value, where, folder, None if known is None else set(known)) for name, value in table.items()
    )
    name = _text(raw, "name", Path(where).stem or "policy", where)
    return Policy(name, categories, _text(raw, "summary", "", where), _calibration(raw.get("calibration", []), where))


def _keys(table: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise UnknownName(f"key of {where}", key, known)


def _text(table: Mapping[str, Any], key: str, default: str, where: str) -> str:
    value = table.get(key, default)
    if not isinstance(value, str):
        raise BadInput(f"{where}: {key} is {shown(value)}, not text")
    return value


def _number(value: Any, what: str) -> float:
    if not is_number(value):
        raise BadInput(f"{what} is {shown(value)}; give a finite number")
    return float(value)


def _category(name: str, value: Any, where: str, folder: Path | None, known: set[str] | None) -> Category:
    here = f"{where}, category {name!r}"
    if not name.strip():
        raise BadInput(f"{where} has a category without a name; write [categories.weapons], say")
    if not isinstance(value, dict):
        raise BadInput(f"{here} is {shown(value)}; write [categories.{name}] and its keys under it")
    _keys(value, CATEGORY, here)
    action = _text(value, "action", "block", here)
    if action not in ACTIONS:
        raise UnknownName(f"action of {here}", action, ACTIONS)
    table = value.get("thresholds", {})
    if not isinstance(table, dict):
        raise BadInput(f"{here}: thresholds is {shown(table)}; write thresholds = {{ aeiou = 1.5 }}, say")
    thresholds = {}
    for defense, number in table.items():
        if known is not None and defense not in known:
            raise UnknownName(f"defense in the thresholds of {here}", defense, known)
        thresholds[defense] = _number(number, f"{here}: threshold of {defense}")
    return Category(name, _concept(_text(value, "concept", name, here), folder), action, thresholds)


def _is_file(concept: str) -> bool:
    return concept.endswith(".toml") or "/" in concept


def _concept(name: str, folder: Path | None) -> str:
    """The concept, found; a file is looked for beside the policy and kept as a whole path, so that it is found from any
    working directory."""
    if _is_file(name) and not Path(name).is_absolute():
        name = str(((folder or Path()) / name).resolve())
    load_concept(name)
    return name


def _calibration(value: Any, where: str) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise BadInput(f"{where}: calibration is {shown(value)}; genward calibrate writes it as [[calibration]] tables")
    for row in value:
        _keys(row, CALIBRATION, f"{where}, calibration")
        for key, item in row.items():
            if isinstance(item, int | float):
                _number(item, f"{where}: calibration {key}")
            elif not isinstance(item, str):
                raise BadInput(f"{where}: calibration {key} is {shown(item)}; a number or a text is possible")
    return tuple(value)


# -------------------------------------------------------------------------------------------------------------- writing


def dump_policy(policy: Policy) -> str:
    """The policy as TOML text that ``parse_policy`` reads back to an equal one."""
    lines = [f"name = {_toml(policy.name)}", f"summary = {_toml(policy.summary)}"]
    for category in policy.categories:
        lines += [
            "",
            f"[categories.{_toml(category.name)}]",
            f"concept = {_toml(category.concept)}",
            f"action = {_toml(category.action)}",
        ]
        if category.thresholds:
            lines.append(
                "thresholds = { "
                + ", ".join(f"{_toml(k)} = {_toml(float(v))}" for k, v in category.thresholds.items())
                + " }"
            )
    for row in policy.calibration:
        lines += ["", "[[calibration]]", *(f"{key} = {_toml(value)}" for key, value in row.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    return repr(value)
