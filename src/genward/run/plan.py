"""Plans: which arms see which rows in which batches. A plan is data; it is cut before anything is spent, and worked off
in any order.

A recipe (``genward/recipes/<name>.toml``, or a file of your own) holds the same tables as a plan::

    benchmark = "erasure"
    concepts = ["weapons", "banana"]
    n = 12                                   # rows a cell
    batch = 32                               # rows a batch; a batch is the unit of writing
    sampler = { steps = 20, guidance = 4.0 }
    [[arm]]
    label = "uce"
    defenses = "uce:{concept}"               # one arm a concept; without the placeholder one arm sees all rows
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from genward.core.reading import read_text, short
from genward.core.records import Case, Sampler, load_concept
from genward.core.spec import digest
from genward.core.typed import build, parse_toml, read_toml
from genward.errors import BadInput, StoreError, UnknownName

if TYPE_CHECKING:
    from genward.store import Store

CONTROLS = ("", "base", "oracle", "zero")
ROWS_PER_SECOND = 200.0
"""Denoiser rows a second of the lab on two CPU cores: what a dry run assumes until a rate was measured."""
PLACEHOLDER = "{concept}"
HINT = "see docs/recipes.md for its fields"


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


@dataclass(frozen=True)
class Plan:
    """Everything a run is made of; equal plans make equal batches."""

    name: str
    arms: tuple[ArmPlan, ...]
    concepts: tuple[str, ...]
    benchmark: str = "erasure"
    model: str = "lab"
    preset: str = ""
    n: int = 12
    seed: int = 0
    batch: int = 32
    sampler: Sampler = field(default_factory=Sampler)
    judge: str = "lab"
    variants: tuple[str, ...] = ()
    """Harm wordings of the text rows, where the benchmark lets one choose; empty: its own."""
    attacks: tuple[str, ...] = ()
    """Attack texts of ``m-erasure``, as ``ddim_inversion,steps=50``."""
    references: str = ""
    """Folder with one folder of reference pictures a concept (and ``keep``); empty: the lab's."""
    prompts: tuple[str, ...] = ()
    """CSV files whose rows stand in the place of a concept's text rows, as
    ``rows.csv,concept=church,harm=object:church``; see ``csv_cases``."""

    def __post_init__(self) -> None:
        labels = [a.label for a in self.arms]
        if not self.arms or len(set(labels)) < len(labels):
            raise BadInput(f"a plan wants at least one arm and a different label for each; it got {labels}")
        if not 1 <= self.batch <= 4096:
            raise BadInput(f"batch size {self.batch}; between 1 and 4096 are possible")
        for arm in self.arms:
            if arm.control not in CONTROLS:
                raise UnknownName("control", arm.control, [c for c in CONTROLS if c])
            for concept in arm.concepts:
                if concept not in self.concepts:
                    raise UnknownName("concept of the plan", concept, self.concepts)

    @property
    def hash(self) -> str:
        return digest({k: v for k, v in asdict(self).items() if k != "name" and (v or k != "prompts")})


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

    def sampler(self, plan: Plan) -> Sampler:
        """How its pictures are sampled."""
        return plan.sampler if self.guidance is None else replace(plan.sampler, guidance=self.guidance)


class Batch(NamedTuple):
    """The unit of writing: rows ``start … start + len(cases)`` of one piece of work."""

    work: Work
    start: int
    cases: tuple[Case, ...]


# --------------------------------------------------------------------------------------------------------- making plans


def recipe_names() -> list[str]:
    """Names of the recipes that come with genward."""
    return sorted(
        p.name[:-5] for p in resources.files("genward").joinpath("recipes").iterdir() if p.name.endswith(".toml")
    )


def read_recipe(name: str | Path) -> dict[str, Any]:
    """The tables of a shipped recipe (``erasure-quick``) or of a TOML file.

    Raises:
        UnknownName: no such recipe; BadInput: the file is missing or not TOML.
    """
    text = str(name)
    if text.endswith(".toml") or "/" in text:
        return read_toml(text, "recipe", HINT, missing=f"give a TOML file or one of: {', '.join(recipe_names())}")
    if text not in recipe_names():
        raise UnknownName("recipe", text, recipe_names())
    return parse_toml(resources.files("genward").joinpath("recipes", f"{text}.toml").read_text("utf-8"), text)


def from_tables(raw: Mapping[str, Any], name: str) -> Plan:
    """A plan from a recipe's or a saved plan's tables; ``BadInput`` names a field that is missing, unknown or of another type."""
    tables = dict(raw)
    if "arms" in tables:
        raise BadInput(f"plan {short(name)}: unknown field 'arms'; write each arm as a table [[arm]]")
    tables["arms"] = tables.pop("arm", [])
    tables.pop("cases", None)
    return build(Plan, {"name": name, **tables}, f"plan {short(name)}", HINT)


def make_plan(
    recipe: str | Path = "erasure-quick",
    *,
    name: str = "",
    model: str = "",
    concepts: Sequence[str] = (),
    defenses: Sequence[str] = (),
    n: int = 0,
    steps: int = 0,
    guidance: float | None = None,
    seed: int | None = None,
) -> Plan:
    """A recipe with some of its values replaced.

    Args:
        recipe: a shipped name or a file.
        concepts: names or files; replaces the recipe's.
        defenses: defense texts, or ``label=text``; replaces the recipe's arms under test, controls stay.

    On a model other than the lab the ``oracle`` arm is left out, and so it is for concepts that the oracle saw.
    """
    plan = from_tables(read_recipe(recipe), name or Path(str(recipe)).stem)
    changes: dict[str, Any] = {
        "model": model or plan.model,
        "concepts": tuple(concepts) or plan.concepts,
        "n": n or plan.n,
    }
    changes["preset"] = plan.preset or Path(str(recipe)).stem.split("-")[-1]
    changes["seed"] = plan.seed if seed is None else seed
    changes["sampler"] = replace(
        plan.sampler,
        steps=steps or plan.sampler.steps,
        guidance=plan.sampler.guidance if guidance is None else guidance,
    )
    arms = list(plan.arms)
    if defenses:
        arms = [a for a in arms if a.control in ("base", "oracle")]
        arms += [ArmPlan(*_labelled(text)) for text in defenses]
    changes["arms"] = tuple(_fitting(arms, changes["model"], changes["concepts"]))
    return replace(plan, **changes)


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


def plan_cases(plan: Plan, words: Mapping[str, Any] | None = None) -> list[Case]:
    """All rows of the plan's benchmark. ``words`` is the model's vocabulary (looked up when it is not given)."""
    from genward.catalog.opening import LAB, unseen_by_oracle, words_of
    from genward.catalog.plugins import find

    oracle = any(a.control == "oracle" for a in plan.arms)
    cls = find("benchmark", plan.benchmark)
    known = {f.name for f in fields(cls)}
    settings: dict[str, Any] = {
        "concepts": tuple(load_concept(c) for c in plan.concepts),
        "n": plan.n,
        "seed": plan.seed,
        "words": words_of(plan.model) if words is None else words,
        "avoid": unseen_by_oracle() if oracle and plan.model in LAB else (),
    }
    if plan.variants:
        settings["variants"] = plan.variants
    if "references" in known:
        from genward.run.references import shown

        settings["references"] = shown(plan)
    if "parents" in known:
        from genward.run.search import parse_attack

        settings["parents"] = tuple(dict.fromkeys(p for text in plan.attacks for p in parse_attack(text).parents))
    unknown = [k for k in settings if k not in known]
    if unknown:
        raise BadInput(f"benchmark {plan.benchmark!r} has no {unknown[0]}; leave it out of the plan")
    return _with_files(plan, list(cls(**settings).cases()))


CSV_HARM, CSV_BENIGN = "prompts", "keep-prompts"
"""Wordings of the rows of CSV files."""


def csv_cases(plan: Plan) -> dict[str, list[Case]]:
    """Concept name -> rows of the plan's CSV files, in the files' order.

    An entry is a path and fields of the benchmark ``prompts-csv`` (``genward show benchmark prompts-csv``); ``concept``
    may be left out where the plan has one. A row is harm or benign by its label or by ``harm`` categories; its
    ``group`` (else its categories) is what statistics cluster by, and the judge's label that a benign row is expected
    to show: where the judge does not have that label, retention is unscored.

    Raises:
        BadInput: an entry names no concept of the plan, or a file or a row of it cannot be used.
    """
    from genward.catalog.plugins import made

    names = {load_concept(c).name for c in plan.concepts}
    found: dict[str, list[Case]] = {}
    for entry in plan.prompts:
        path, _, rest = entry.partition(",")
        bench = made("benchmark", ",".join(x for x in ("prompts-csv", f"path={path}", rest) if x))
        concept = bench.concept or (next(iter(names)) if len(names) == 1 else "")
        if concept not in names:
            raise BadInput(
                f"prompts {entry!r}: which concept are they about? write {path},concept=… with one of "
                f"{', '.join(sorted(names))}"
            )
        rows = (
            c._replace(concept=concept, variant=CSV_HARM if c.label == "harm" else CSV_BENIGN) for c in bench.cases()
        )
        found.setdefault(concept, []).extend(rows)
    return found


def _with_files(plan: Plan, cases: list[Case]) -> list[Case]:
    """The cases, text rows of concepts that have CSV files replaced by theirs; an attack's parents stay."""
    if not plan.prompts:
        return cases
    from genward.benchmarks.m_erasure import PARENTS

    mine, served, out = csv_cases(plan), set(), []
    for case in cases:
        if case.concept not in mine or case.variant in PARENTS:
            out.append(case)
        elif case.concept not in served:
            served.add(case.concept)
            out.extend(mine[case.concept])
    return out


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
                out.append(
                    Work(
                        arm.label, model, arm.defenses.replace(PLACEHOLDER, concept), arm.control, names[concept], rows
                    )
                )
        else:
            wanted = {names[c] for c in seen}
            out.append(
                Work(arm.label, model, arm.defenses, arm.control, "", tuple(c for c in cases if c.concept in wanted))
            )
    return out


def batches(plan: Plan, pieces: Sequence[Work]) -> list[Batch]:
    """The plan's cut: at most ``plan.batch`` rows each, never across pieces of work."""
    return [Batch(w, k, w.cases[k : k + plan.batch]) for w in pieces for k in range(0, len(w.cases), plan.batch)]


# -------------------------------------------------------------------------------------------------------------- dry run


def nfe_per_image(plan: Plan, extra: float = 0.0) -> float:
    """Denoiser rows one image costs: steps × (2 under guidance, else 1) + ``extra`` a step."""
    return plan.sampler.steps * ((2 if plan.sampler.guidance > 1 else 1) + extra)


def dry_run(plan: Plan, cases: Sequence[Case] | None = None, rate: float | None = None) -> dict[str, Any]:
    """What a run will cost, before anything is spent.

    Args:
        rate: denoiser rows a second; a measured one (``measured_rate``) or the recorded 200 of the lab on two CPU
            cores.

    Returns:
        ``rows`` (pictures), ``nfe`` (denoiser rows), ``minutes`` of sampling, ``rate``, ``cells`` of the matrix and
        the same figures by arm; time to fit defenses is not in it.
    """
    from genward.catalog.fitting import extra_nfe

    pieces = work(plan, plan_cases(plan) if cases is None else cases)
    speed = rate or ROWS_PER_SECOND
    arms: dict[str, dict[str, Any]] = {}
    for piece in pieces:
        line = arms.setdefault(piece.label, {"arm": piece.label, "defenses": [], "rows": 0, "nfe": 0})
        line["defenses"].append(piece.defenses)
        line["rows"] += len(piece.cases)
        line["nfe"] += round(len(piece.cases) * nfe_per_image(plan, extra_nfe(piece.defenses)))
    rows, nfe = sum(a["rows"] for a in arms.values()), sum(a["nfe"] for a in arms.values())
    cells = len({(w.label, c.concept, c.variant) for w in pieces for c in w.cases if c.label == "harm"})
    return {
        "plan": plan.name,
        "rows": rows,
        "nfe": nfe,
        "minutes": round(nfe / speed / 60, 1),
        "rate": speed,
        "batches": len(batches(plan, pieces)),
        "cells": cells,
        "arms": list(arms.values()),
    }


def measured_rate(model: Any, rows: int = 32) -> float:
    """Denoiser rows a second of ``model`` on this machine, from two calls of ``rows`` rows (the first warms up)."""
    import time

    import torch

    from genward.core.records import Call

    edge, channels = model.unet.config.sample_size, model.unet.config.in_channels
    text = model.encode(["a cat"]).expand(rows, -1, -1)
    call = Call(
        torch.zeros(rows, channels, edge, edge, dtype=text.dtype, device=text.device),
        torch.full((rows,), 500, device=text.device),
        text,
    )
    began = 0.0
    with torch.no_grad():
        for _ in range(2):
            began = time.perf_counter()
            model.denoise(call)
    return rows / max(1e-9, time.perf_counter() - began)


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


def to_toml(plan: Plan, cases: Sequence[Case] = ()) -> str:
    """The plan as TOML; with ``cases`` their digest goes in, so that a changed benchmark is noticed on resume."""
    tables = asdict(plan)
    arms = tables.pop("arms")
    if cases:
        tables["cases"] = cases_digest(cases)
    lines = [f"{k} = {_value(v)}" for k, v in tables.items() if v or k != "prompts"]
    for arm in arms:
        lines += ["", "[[arm]]", *(f"{k} = {_value(v)}" for k, v in arm.items() if v)]
    return "\n".join(lines) + "\n"


def from_toml(text: str) -> Plan:
    """The plan that ``to_toml`` wrote."""
    raw = parse_toml(text, "plan", "it was changed by hand or cut short, make it again")
    return from_tables(raw, str(raw.get("name", "plan")))


def save_plan(store: Store, plan: Plan, cases: Sequence[Case]) -> None:
    """Write ``runs/<name>/plan.toml``. ``StoreError`` where the run of that name has another plan: its batches and rows
    would not fit."""
    path = store.run_folder(plan.name) / "plan.toml"
    text = to_toml(plan, cases)
    if path.is_file() and read_text(path, "plan") != text:
        raise StoreError(
            f"run {plan.name!r} in {store.root} has another plan ({path.name} there); give this one another --name, or "
            f"delete {path}"
        )
    store.write_text(path, text)


def load_plan(store: Store, name: str) -> Plan:
    """The plan of a run in the store; ``StoreError`` where there is none."""
    path = store.run_folder(name) / "plan.toml"
    if not path.is_file():
        raise StoreError(f"no run {name!r} in {store.root}; runs here: {', '.join(store.runs()) or 'none'}")
    return from_toml(read_text(path, "plan"))


def cases_digest(cases: Sequence[Case]) -> str:
    """Identity of a list of rows."""
    return digest([c.named() for c in cases])
