"""Plans: which arms see which rows in which batches. A plan is data; it is cut before anything is spent, and worked off
in any order.

A recipe holds the same tables as a plan: the plan's own keys, and beside them the fields of its benchmark. It is a
benchmark's preset (``presets/quick.toml`` beside its class, ``erasure-quick`` in full), or a file of your own::

    benchmark = "erasure"
    batch = 32                               # rows per batch; a batch is the unit of writing
    sampler = { steps = 20, guidance = 4.0 }
    concepts = ["weapons", "banana"]         # from here on: fields of the benchmark
    n = 12
    [[arm]]
    label = "uce"
    defenses = "uce:{concept}"               # one arm per concept; without the placeholder one arm sees all rows
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from genward.catalog import plugins
from genward.catalog.opening import drawn_by_lab, family_of
from genward.core.benchmark import Benchmark, Setting
from genward.core.reading import read_text, short
from genward.core.records import Case, Sampler, load_concept
from genward.core.settings import LAB_JUDGES, Family, changed, matched, read_settings
from genward.core.spec import digest
from genward.core.typed import build, parse_toml
from genward.errors import BadInput, StoreError, UnknownName
from genward.run.recipes import HINT, read_recipe

if TYPE_CHECKING:
    from genward.store import Store

CONTROLS = ("", "base", "oracle", "zero")
PLACEHOLDER = "{concept}"


@dataclass(frozen=True)
class ArmPlan:
    """One line of the table: a chain of defenses on a model."""

    label: str
    defenses: str = "none"
    """``uce:weapons+sld:weapons,preset=strong``; ``{concept}`` stands for the concept under evaluation."""
    model: str = ""
    """Empty: the plan's model."""
    control: str = ""
    """``base`` | ``oracle`` | ``zero``, or empty for an arm under test."""
    concepts: tuple[str, ...] = ()
    """Concepts whose rows it sees; empty: all of the plan's."""
    optional: bool = False
    """Left out where its fit is not at hand, see ``run.optional``."""


OWN = ("name", "benchmark", "arm", "model", "preset", "batch", "sampler", "judge", "second", "labels_by", "cases")
"""Keys of a recipe that are the plan's own; no field of a benchmark may be called so."""


@dataclass(frozen=True)
class Plan:
    """Everything a run is made of; equal plans make equal batches."""

    name: str
    arms: tuple[ArmPlan, ...]
    benchmark: Benchmark
    """With its fields: which rows there are."""
    model: str = "lab"
    preset: str = ""
    batch: int = 32
    sampler: Any = field(default_factory=Sampler)
    """Settings of the model's family, see ``core.settings.Settings``"""
    judge: str = "lab"
    second: str = ""
    """A second judge that sees every picture; empty: the lab's other one where it has two, ``none``: none."""
    labels_by: str = ""
    """Judge that labels what defenses learn from and looks for filters; empty: the lab's one that does not score."""

    def __post_init__(self) -> None:
        labels = [a.label for a in self.arms]
        if len(set(labels)) < len(labels) or bool(labels) is (self.benchmark.media == "text"):
            wanted = (
                "no arms, since it makes nothing"
                if labels and len(set(labels)) == len(labels)
                else ("at least one arm and a different label for each")
            )
            raise BadInput(f"a plan of {self.benchmark.name} wants {wanted}; it got {labels}")
        if not 1 <= self.batch <= 4096:
            raise BadInput(f"batch size {self.batch}; between 1 and 4096 are possible")
        for arm in self.arms:
            if arm.control not in CONTROLS:
                raise UnknownName("control", arm.control, [c for c in CONTROLS if c])
            for concept in arm.concepts:
                if concept not in self.concepts:
                    raise UnknownName("concept of the plan", concept, self.concepts)

    @property
    def concepts(self) -> tuple[str, ...]:
        """The benchmark's concepts, by name or file."""
        return self.benchmark.concepts

    def tables(self) -> dict[str, Any]:
        """The plan as a recipe holds it, arms apart: its own keys and its benchmark's fields, less those left empty."""
        own: dict[str, Any] = {
            "name": self.name,
            "benchmark": self.benchmark.name,
            "model": self.model,
            "preset": self.preset,
        }
        own |= {"batch": self.batch, "judge": self.judge, "sampler": asdict(self.sampler)}
        own |= {k: v for k, v in (("second", self.second), ("labels_by", self.labels_by)) if v}
        mine = {f.name: f.default in ((), "") for f in fields(self.benchmark)}  # type: ignore[arg-type]
        given = fields_of(self.benchmark).items()
        return {**own, **{k: v for k, v in given if not (mine[k] and v in ((), ""))}}

    def with_fields(self, **changes: Any) -> Plan:
        """The plan with other fields of its benchmark.

        Raises:
            BadInput: the benchmark has no such field.
        """
        known = fields_of(self.benchmark)
        for name in changes:
            if name not in known:
                raise BadInput(
                    f"benchmark {self.benchmark.name!r} has no field {name!r}; it has {', '.join(known)} (genward show "
                    f"benchmark {self.benchmark.name})"
                )
        return replace(self, benchmark=replace(self.benchmark, **changes))  # type: ignore[type-var]

    @property
    def hash(self) -> str:
        arms = [{k: v for k, v in asdict(a).items() if k != "optional" or v} for a in self.arms]
        return digest({"arms": arms, **{k: v for k, v in self.tables().items() if k != "name"}})


def fields_of(benchmark: Benchmark) -> dict[str, Any]:
    """A benchmark's fields and their values."""
    return {f.name: getattr(benchmark, f.name) for f in fields(benchmark)}  # type: ignore[arg-type]


def match(plan: Plan, judge: Any, family: Callable[[str], Family]) -> None:
    """Hold the media of the plan's benchmark, models and judge against each other, and its sampler against the models.

    Args:
        judge: the judge or its class.
        family: gives a model's family by its name.

    Raises:
        BadInput: they do not fit together; nothing was spent.
    """
    about = plan.benchmark
    for name in dict.fromkeys([plan.model, *(a.model for a in plan.arms if a.model)]):
        found = family(name)
        matched(found.makes, name, judges=[judge], media=about.media, benchmark=about.name)
        if getattr(judge, "name", "") in LAB_JUDGES and not drawn_by_lab(name):
            raise BadInput(
                f"the judge {judge.name!r} knows the lab's drawings alone, and the plan samples {name[:80]!r}; name a "
                "judge of its pictures: --judge open_nsfw, or clip_zero_shot, nudenet, image_classifier (genward "
                "list judges)"
            )
        if not isinstance(plan.sampler, found.sampler):
            raise BadInput(
                f"model {name!r} is sampled with a {found.sampler.__name__} and the plan has a "
                f"{type(plan.sampler).__name__}; models of two families do not stand in one plan"
            )


class Work(NamedTuple):
    """One arm bound to the rows it sees: label, model name, defense text without placeholders, and its rows."""

    label: str
    model: str
    defenses: str
    control: str
    concept: str
    """The concept it was bound to, or empty where it sees the rows of all."""
    cases: tuple[Case, ...]
    guidance: float | None = None
    """Other guidance than the plan's sampler has, for these rows."""

    def sampler(self, plan: Plan) -> Any:
        """How its rows are sampled."""
        return changed(plan.sampler, self.model, guidance=self.guidance)


class Batch(NamedTuple):
    """The unit of writing: rows ``start … start + len(cases)`` of one piece of work."""

    work: Work
    start: int
    cases: tuple[Case, ...]


# --------------------------------------------------------------------------------------------------------- making plans


@dataclass(frozen=True)
class _Own:
    """The plan's own keys in a recipe."""

    name: str
    arms: tuple[ArmPlan, ...] = ()
    benchmark: str = "erasure"
    model: str = "lab"
    preset: str = ""
    batch: int = 32
    sampler: Mapping[str, Any] = field(default_factory=dict)
    judge: str = "lab"
    second: str = ""
    labels_by: str = ""


def from_tables(raw: Mapping[str, Any], name: str) -> Plan:
    """A plan from a recipe's or a saved plan's tables.

    Raises:
        UnknownName: no such benchmark. BadInput: a field that is missing, unknown or of another type, or a benchmark
            whose fields bear names of the plan's own.
    """
    where = f"plan {short(name)}"
    if "arms" in raw:
        raise BadInput(f"{where}: unknown field 'arms'; write each arm as a table [[arm]]")
    tables = {k: v for k, v in raw.items() if k not in OWN}
    mine = {k: raw[k] for k in OWN if k in raw and k not in ("arm", "cases")}
    own = build(_Own, {"name": name, **mine, "arms": raw.get("arm", [])}, where, HINT)
    cls: type[Benchmark] = plugins.find("benchmark", own.benchmark)
    taken = [f.name for f in fields(cls) if f.name in OWN]  # type: ignore[arg-type]
    if taken:
        raise BadInput(f"benchmark {cls.name!r} has a field {taken[0]!r}, which is a key of every plan; rename it")
    sampler = read_settings(family_of(own.model), own.sampler, where)
    benchmark = build(cls, tables, where, f"see docs/recipes.md and genward show benchmark {cls.name}")
    return Plan(
        own.name, own.arms, benchmark, own.model, own.preset, own.batch, sampler, own.judge, own.second, own.labels_by
    )


def _tuples(table: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}


def make_plan(
    recipe: str | Path = "erasure-quick",
    *,
    benchmark: str = "",
    name: str = "",
    model: str = "",
    defenses: Sequence[str] = (),
    steps: int = 0,
    guidance: float | None = None,
    judge: str = "",
    second: str = "",
    labels_by: str = "",
    **changes: Any,
) -> Plan:
    """A recipe with some of its values replaced.

    Args:
        recipe: a shipped name or a file.
        benchmark: its name, for a recipe that names none.
        name: of the run; the recipe's own, or its file's.
        defenses: defense texts, or ``label=text``; replaces the arms under test (all are attacked), controls stay.
        changes: fields of the benchmark (``concepts``, ``n``, …); ``None`` and empty ones stay as the recipe has them.

    On a model other than the lab the ``oracle`` arm is left out, and so it is for concepts that the oracle saw.
    """
    tables = {"benchmark": benchmark or "erasure", **read_recipe(recipe)}
    named = plugins.entry("benchmark", str(tables["benchmark"])).name
    if benchmark and plugins.entry("benchmark", benchmark).name != named:
        raise BadInput(f"recipe {recipe} is one of benchmark {named!r}, not of {benchmark!r}; run it as {named}")
    stem = Path(str(recipe)).stem
    fresh = {k: v for k, v in _tuples(changes).items() if v is not None and v not in ((), "")}
    if "concepts" in fresh:
        rows = [{**a, "concepts": [c for c in a.get("concepts", ()) if c in fresh["concepts"]]} for a in tables["arm"]]
        tables["arm"] = rows
    if defenses:
        tables.pop("attacked", None)
    if model:
        fresh["model"] = model  # first of all: its family reads the table of the sampler
    plan = from_tables({"preset": stem.split("-")[-1], **tables, **fresh}, name or stem)
    sampler = changed(plan.sampler, plan.model, steps=steps or None, guidance=guidance)
    arms = list(plan.arms)
    if defenses:
        arms = [a for a in arms if a.control in ("base", "oracle")]
        arms += [ArmPlan(*_labelled(text)) for text in defenses]
    arms = list(_fitting(arms, plan.model, plan.concepts))
    judges = (judge or plan.judge, second or plan.second, labels_by or plan.labels_by)
    plan = replace(plan, judge=judges[0], second=judges[1], labels_by=judges[2])
    return replace(plan, name=name or plan.name, sampler=sampler, arms=tuple(arms))


def _labelled(text: str) -> tuple[str, str]:
    """(label, defense text) of ``label=text`` or of a text alone, whose label it is, less the placeholder."""
    head, equals, rest = text.partition("=")
    if equals and not any(c in head for c in ":,+"):
        return head, rest
    return text.replace(f":{PLACEHOLDER}", ""), text


def _fitting(arms: Sequence[ArmPlan], model: str, concepts: Sequence[str]) -> Iterator[ArmPlan]:
    """The arms, with oracle arms narrowed to the concepts that the oracle never saw, or left out."""
    for arm in arms:
        if arm.control != "oracle":
            yield replace(arm, concepts=tuple(c for c in arm.concepts if c in concepts))
            continue
        from genward.catalog.opening import LAB, oracle_concepts

        served = tuple(c for c in concepts if c in oracle_concepts())
        if model in LAB and served:
            yield replace(arm, concepts=() if served == tuple(concepts) else served)


# ----------------------------------------------------------------------------------------------------------- rows, work


def setting_of(plan: Plan) -> Setting:
    """What the plan's rows may depend on besides its benchmark's fields."""
    from genward.catalog.opening import LAB, unseen_by_oracle, words_of
    from genward.run.references import Held

    oracle = any(a.control == "oracle" for a in plan.arms)
    concepts = tuple(load_concept(c) for c in plan.concepts)
    avoid = unseen_by_oracle() if oracle and plan.model in LAB else ()
    return Setting(
        concepts,
        words_of(plan.model),
        avoid,
        lambda text: plugins.made("attack", text),
        lambda folder: Held(folder, plan.model, concepts, avoid).shown(),
    )


class Planned(NamedTuple):
    """The rows of a plan."""

    cases: tuple[Case, ...]
    parents: tuple[Case, ...]
    """Rows that a search starts from and that are not made themselves"""

    @property
    def digest(self) -> str:
        """Identity of the rows."""
        return digest([c.named() for c in (*self.cases, *self.parents)])


def planned(plan: Plan, setting: Setting | None = None) -> Planned:
    """The rows of the plan's benchmark; the setting is the plan's own unless given."""
    found = setting_of(plan) if setting is None else setting
    return Planned(tuple(plan.benchmark.cases(found)), tuple(plan.benchmark.parents(found)))


def plan_cases(plan: Plan) -> list[Case]:
    """All rows of the plan's benchmark, those that a search starts from last."""
    found = planned(plan)
    return [*found.cases, *found.parents]


def work(plan: Plan, cases: Sequence[Case]) -> list[Work]:
    """The plan's arms bound to rows, in the plan's order; an arm with the placeholder becomes one piece of work a
    concept."""
    names = {c: load_concept(c).name for c in plan.concepts}
    out = []
    for arm in plan.arms:
        seen = arm.concepts or plan.concepts
        model = arm.model or plan.model
        if PLACEHOLDER in arm.defenses:
            for concept in seen:
                rows = tuple(c for c in cases if c.concept == names[concept])
                text = arm.defenses.replace(PLACEHOLDER, concept)
                out.append(Work(arm.label, model, text, arm.control, names[concept], rows))
        else:
            wanted = {names[c] for c in seen}
            rows = tuple(c for c in cases if not names or c.concept in wanted)
            out.append(Work(arm.label, model, arm.defenses, arm.control, "", rows))
    return out


def batches(plan: Plan, pieces: Sequence[Work]) -> list[Batch]:
    """The plan's cut: at most ``plan.batch`` rows each, never across pieces of work."""
    return [Batch(w, k, w.cases[k : k + plan.batch]) for w in pieces for k in range(0, len(w.cases), plan.batch)]


# ----------------------------------------------------------------------------------------------------------------- TOML


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float, str)):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(v) for v in value) + "]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {_value(v)}" for k, v in value.items()) + " }"
    raise BadInput(f"a plan cannot hold a {type(value).__name__}; use numbers, text, lists or tables")


def to_toml(plan: Plan, rows: Planned | None = None) -> str:
    """The plan as TOML; with ``rows`` their digest goes in, so that a changed benchmark is noticed on resume."""
    tables = plan.tables() | ({} if rows is None else {"cases": rows.digest})
    lines = [f"{k} = {_value(v)}" for k, v in tables.items()]
    for arm in plan.arms:
        lines += ["", "[[arm]]", *(f"{k} = {_value(v)}" for k, v in asdict(arm).items() if v)]
    return "\n".join(lines) + "\n"


def from_toml(text: str) -> Plan:
    """The plan that ``to_toml`` wrote."""
    raw = parse_toml(text, "plan", "it was changed by hand or cut short, make it again")
    return from_tables(raw, str(raw.get("name", "plan")))


def run_name(store: Store | None, plan: Plan, rows: Planned) -> str:
    """The name of a run that was given none: benchmark and preset, and where that name has another plan in the store a
    hyphen and six digits of the plan's hash."""
    if store is None or _same(store, plan.name, plan, rows) is not False:
        return plan.name
    return f"{plan.name}-{plan.hash[:6]}"


def _same(store: Store, name: str, plan: Plan, rows: Planned) -> bool | None:
    """Whether the run of that name has this plan; ``None`` where there is no such run."""
    path = store.run_folder(name) / "plan.toml"
    return read_text(path, "plan") == to_toml(replace(plan, name=name), rows) if path.is_file() else None


def save_plan(store: Store, plan: Plan, rows: Planned) -> bool:
    """Write ``runs/<name>/plan.toml``; whether it was there. ``StoreError`` where the run of that name has another
    plan: its batches and rows would not fit."""
    there = _same(store, plan.name, plan, rows)
    path = store.run_folder(plan.name) / "plan.toml"
    if there is False:
        raise StoreError(
            f"run {plan.name!r} in {store.root} has another plan ({path.name} there); give this one another --name, or "
            f"delete {path}"
        )
    store.write_text(path, to_toml(plan, rows))
    return bool(there)


def load_plan(store: Store, name: str) -> Plan:
    """The plan of a run in the store; ``StoreError`` where there is none."""
    path = store.run_folder(name) / "plan.toml"
    if not path.is_file():
        raise StoreError(f"no run {name!r} in {store.root}; runs here: {', '.join(store.runs()) or 'none'}")
    return from_toml(read_text(path, "plan"))
