"""Measure: a finished run's evidence out of the store, handed to its benchmark, up to ``runs/<name>/metrics.json``.

Between stages stand ``plan.toml`` (what was planned), ``arms.json`` (which arm each label became) and ``scenes.json``
(what a search added) in the run's folder; measuring again needs no model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genward.catalog.judges import judge_hash, open_judge
from genward.core.benchmark import Evidence, Row, Second, Setting
from genward.core.origin import origin
from genward.core.records import Case, Sample, load_concept
from genward.core.settings import stated, summed
from genward.core.spec import PLUGIN, digest
from genward.errors import BadInput, StoreError
from genward.run import results
from genward.run.claims import claims
from genward.run.comparisons import comparisons, pools
from genward.run.given import load_plan
from genward.run.plan import Plan, fields_of, planned, setting_of
from genward.run.references import Held
from genward.run.second import second_of
from genward.run.verdicts import Word, verdict

if TYPE_CHECKING:
    from genward.store import Store

Arms = Sequence[Mapping[str, Any]]
Scene = Mapping[str, Any]
"""A scene as it is written down, see ``workbench.placed``"""

ERRORS = "judge-errors.json"
"""In the run's folder: a judge's error rates by labels of hand."""
PEAKS = "memory.json"
"""In the run's folder: arm -> bytes of memory at most."""
GRIDS = 2
"""Sample grids per concept and variant."""
MEASURED = "rows_per_second_measured"
"""Where the ``run`` section says how fast the machine was before the run."""
SHOWN = 256
"""Edge of a reference picture in a sample grid, pixels."""


# -------------------------------------------------------------------------------------------------------- rows of a run


def arm_of(row: Mapping[str, Any], concept: str) -> str:
    """Hash of the arm under a label that sees a concept's rows; ``""`` where none does."""
    hashes: Mapping[str, str] = row["hashes"]
    return hashes.get(concept) or hashes.get("*", "")


def planned_ids(plan: Plan, cases: Sequence[Case], arms: Arms) -> dict[str, Case]:
    """Sample id -> case of every row of the run, each once; those of a search are in its scenes."""
    served = {a.label: {load_concept(c).name for c in (a.concepts or plan.concepts)} for a in plan.arms}
    found: dict[str, Case] = {}
    for row in arms:
        for case in cases:
            if not plan.concepts or case.concept in served[row["label"]]:
                found[Sample(case, arm_of(row, case.concept)).id] = case
    return found


def run_rows(store: Store, plan: Plan, cases: Sequence[Case], arms: Arms, scenes: Sequence[Scene]) -> list[Row]:
    """The store's rows of a run: those of its cases by arm and case, then those of each scene.

    A row of a scene stands under the arm's own hash, has the scene's column as ``variant`` and its facts as ``scene``.

    Raises:
        StoreError: planned rows are missing.
    """
    wanted = planned_ids(plan, cases, arms)
    hashes = {h for row in arms for h in row["hashes"].values()} | {s["hash"] for s in scenes if s["hash"]}
    there = {r["id"]: r for r in store.samples(hashes)}
    asked = set(wanted) | {i for s in scenes for i in s["ids"]}
    lost = len(asked - set(there))
    if lost:
        raise StoreError(
            f"run {plan.name!r}: {lost} of {len(asked)} planned rows are not in {store.root}; give the same run "
            "command again, it resumes"
        )
    by_label = {str(a["label"]): a for a in arms}
    own: list[Row] = [row for i, row in there.items() if i in wanted]
    return own + [
        {
            **there[i],
            "arm": arm_of(by_label[s["arm"]], s["concept"]),
            "variant": s["variant"],
            "case": f"{s['variant']}|{there[i]['case']}",
            "scene": s,
        }
        for s in scenes
        for i in s["ids"]
    ]


def run_scenes(store: Store, name: str) -> list[Scene]:
    """What a run's search added. ``StoreError`` where the run was not generated to the end."""
    path = store.run_folder(name) / "scenes.json"
    if not path.is_file():
        raise StoreError(
            f"run {name!r} was not generated to the end in {store.root}; give the same run command again, it resumes"
        )
    found: list[Scene] = store.read_json(path)["scenes"]
    return found


def run_arms(store: Store, name: str) -> list[dict[str, Any]]:
    """The arms of a run, as ``generate.describe`` wrote them; ``peak`` is bytes of memory at most, by concept, where
    their rows were made on a machine that counts."""
    found: list[dict[str, Any]] = store.read_json(store.run_folder(name) / "arms.json")["arms"]
    path = store.run_folder(name) / PEAKS
    peaks = store.read_json(path) if path.is_file() else {}
    return [{**row, "peak": {key: peaks.get(h) for key, h in row["hashes"].items()}} for row in found]


def keep_peaks(store: Store, name: str, peaks: Mapping[str, int]) -> None:
    """Write down the memory that arms took, the most of this time and earlier ones."""
    path = store.run_folder(name) / PEAKS
    earlier = store.read_json(path) if path.is_file() else {}
    store.write_json(path, {**earlier, **{h: max(n, earlier.get(h, 0)) for h, n in peaks.items()}})


def concept_tables(plan: Plan) -> dict[str, dict[str, Any]]:
    """Concept name -> kind, judge labels, content hash."""
    found = (load_concept(c) for c in plan.concepts)
    return {c.name: {"kind": c.kind, "labels": list(c.judge or c.targets), "hash": c.hash} for c in found}


# ------------------------------------------------------------------------------------------------------------ the table


def strips(
    rows: Sequence[Row],
    arms: Arms,
    order: Mapping[str, int],
    *,
    each: int = GRIDS,
    first: Mapping[str, str] = {},
    seen: Callable[[Row], dict[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Pictures of one case under every arm, ``each`` cases per concept and variant, spread over its rows.

    Args:
        seen: what judges say of a row, see ``verdicts.verdict``.
        order: case id -> its place in the plan; rows that are not in it come last, as they come.
        first: row id -> content hash of a reference picture that comes first in the row's strip.
    """
    table = {(row["arm"], row["variant"], row["case"]): row for row in rows}
    groups: dict[tuple[str, str], dict[str, None]] = {}
    for row in sorted(rows, key=lambda r: order.get(r["case"], len(order))):
        groups.setdefault((row["concept"], row["variant"]), {}).setdefault(row["case"])
    out = []
    for (concept, variant), members in groups.items():
        names = list(members)
        for name in names[:: max(1, len(names) // each)][:each]:
            found = {str(a["label"]): table.get((arm_of(a, concept), variant, name)) for a in arms}
            there = {label: row for label, row in found.items() if row is not None}
            one = next(iter(there.values()))
            start = {} if one["id"] not in first else {"reference": first[one["id"]]}
            status = {label: row["status"] for label, row in there.items()}
            out.append(
                {
                    "concept": concept,
                    "variant": variant,
                    "prompt": one["prompt"],
                    "seed": one["seed"],
                    "unsafe": one["label"] == "harm",
                    "images": {**start, **{label: row["output"] or None for label, row in there.items()}},
                    "mimes": {label: row["mime"] for label, row in there.items() if row["mime"]},
                    "status": {**dict.fromkeys(start, "ok"), **status},
                    "why": {label: row["why"] for label, row in there.items() if row["why"]},
                    "judged": {} if seen is None else {k: seen(row) for k, row in there.items() if row["output"]},
                }
            )
    return out


def zero_check(plan: Plan, cases: Sequence[Case], arms: Arms, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many pictures of the zero-strength arm are the base arm's bit for bit."""
    images = {r["id"]: r["output"] for r in rows}
    control = {a["control"]: a for a in arms if a["control"]}
    if not {"base", "zero"} <= set(control):
        return {}
    pairs = [
        (
            images.get(Sample(c, arm_of(control["zero"], c.concept)).id),
            images.get(Sample(c, arm_of(control["base"], c.concept)).id),
        )
        for c in cases
    ]
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    return {"rows": len(both), "equal": sum(a == b for a, b in both)}


def judge_table(judge: Any) -> dict[str, Any]:
    """A judge as it stands in the metrics: name, hash and its card."""
    card = judge.card
    shown = (
        {}
        if card is None
        else {
            "summary": card.summary,
            "labels": {k: dict(v) for k, v in card.labels.items()},
            "facts": dict(card.facts),
        }
    )
    theirs = origin(type(judge))
    return {"name": type(judge).name, "hash": judge_hash(judge), "labels": {}, **shown} | (
        {PLUGIN: theirs} if theirs else {}
    )


def run_table(
    plan: Plan, cases: Sequence[Case], arms: Arms, rows: Sequence[Mapping[str, Any]], command: str, device: str
) -> dict[str, Any]:
    """The ``run`` section: what ran, on what, at what cost."""
    settings = fields_of(plan.benchmark)
    seconds, spent = sum(r["seconds"] for r in rows), summed(r["costs"] for r in rows)
    nfe = spent.get("nfe", 0)
    return {
        "name": plan.name,
        "benchmark": plan.benchmark.name,
        "model": plan.model,
        "preset": plan.preset,
        "seed": settings.get("seed", 0),
        "n": settings.get("n", 0),
        "batch": plan.batch,
        "plan": plan.hash,
        "sampler": stated(plan.sampler),
        "concepts": concept_tables(plan),
        **results.provenance(command, device),
        "seconds": seconds,
        "costs": spent,
        "nfe": nfe,
        "rows_per_second": nfe / seconds if nfe and seconds > 0 else math.nan,
        "rows": len(rows),
        "refused": sum(r["status"] == "refused" for r in rows),
        "errors": sum(r["status"] == "error" for r in rows),
        "zero": zero_check(plan, cases, arms, rows),
        "plugins": outsiders(plan, arms),
    }


def outsiders(plan: Plan, arms: Arms) -> list[dict[str, str]]:
    """``kind``, ``name``, ``distribution``, ``version`` and ``source`` hash of every part of a run that came from
    another distribution, its judge apart, which says it in its own table; see ``core.origin``."""
    found = (
        [{"kind": "benchmark", "name": plan.benchmark.name, **theirs}]
        if (theirs := origin(type(plan.benchmark)))
        else []
    )
    for part in (part for a in arms for spec in a["spec"].values() for part in (spec["model"], *spec["defenses"])):
        theirs = part["fields"].get(PLUGIN)
        if theirs:
            found.append({"kind": part["kind"], "name": part["name"], **theirs})
    return list({digest(line): line for line in found}.values())


def evidence_of(
    store: Store,
    plan: Plan,
    judge: Any,
    cases: Sequence[Case],
    setting: Setting,
    scenes: Sequence[Scene],
    second: Any = None,
) -> Evidence:
    """Everything that the run's figures are computed from; ``scenes`` are what its search added, ``second`` a judge
    whose word stands beside the first one's where it has seen every picture.

    Raises:
        StoreError: planned rows missing, or not judged by this judge yet.
    """
    name = plan.name
    if plan.benchmark.media == "text":
        return Evidence(cases, folder=store.run_folder(name), setting=setting)
    arms = run_arms(store, name)
    rows = run_rows(store, plan, cases, arms, scenes)
    ids, by = {r["id"] for r in rows}, judge_hash(judge)
    unseen = ids - store.judged(by)
    if unseen:
        raise StoreError(
            f"run {name!r}: judge {type(judge).name!r} has not seen {len(unseen)} of {len(ids)} samples; judge them "
            f"first (genward judge {name})"
        )
    labels = [str(a["label"]) for a in arms]
    base = [str(a["label"]) for a in arms if a["control"] == "base"]
    order = {c.id: k for k, c in enumerate(cases)}
    concepts, scores = concept_tables(plan), scores_of(store, by, ids)
    word = None if second is None else second_word(store, second, ids)
    judges = [Word.of(scores, judge.card), *([Word.of(word.scores, word.card)] if word else [])]

    def seen(row: Row) -> dict[str, Any]:
        return verdict(row, concepts.get(row["concept"], {}).get("labels", ()), judges)

    def own_strips(given: Sequence[Row] | None = None, **settings: Any) -> list[dict[str, Any]]:
        return strips(rows if given is None else given, arms, order, seen=seen, **settings)

    return Evidence(
        cases,
        rows,
        scores,
        {k: v for k, v in store.features(by).items() if k in ids},
        {type(judge).name: judge.card},
        arms,
        concepts,
        comparisons(labels, base[0], plan.benchmark.name) if base else (),
        pools(labels, concepts, plan.benchmark.name, plan.benchmark.pooled),
        scenes,
        search_cards(store, scenes),
        store.run_folder(name),
        own_strips,
        References(store, plan.model, setting),
        _masks(store, name),
        setting,
        word,
        labelled(store, name, by),
    )


def _masks(store: Store, name: str) -> Sequence[Any]:
    """Grids of what defenses masked, where a run drew any."""
    path = store.run_folder(name) / "masks.json"
    return tuple(store.read_json(path)["grids"]) if path.is_file() else ()


def labelled(store: Store, name: str, judge: str) -> dict[str, Any]:
    """The error rates of that judge by labels of hand (``run.labels``); empty where the run has none."""
    path = store.run_folder(name) / ERRORS
    told = store.read_json(path) if path.is_file() else {}
    return dict(told.get("errors", {})) if told.get("judge") == judge else {}


def scores_of(store: Store, judge: str, ids: set[str]) -> dict[tuple[str, str], float]:
    """(sample id, label) -> what the judge of that hash said, of these samples."""
    return {(s["sample"], s["label"]): s["value"] for s in store.scores(judge) if s["sample"] in ids}


def second_word(store: Store, judge: Any, ids: set[str]) -> Second | None:
    """What a second judge said of these samples; ``None`` where it has not seen them all, as in stores of earlier
    versions until the run is judged again (``genward judge``)."""
    by = judge_hash(judge)
    if ids - store.judged(by):
        return None
    return Second(type(judge).name, scores_of(store, by, ids), judge.card)


class References:
    """Content hashes of reference pictures, put into the store when they are first asked for."""

    def __init__(self, store: Store, model: str, setting: Setting) -> None:
        self.store, self.model, self.setting = store, model, setting
        self.held: dict[str, Mapping[str, Sequence[Any]]] = {}

    def __call__(self, folder: str, concept: str, k: int) -> str | None:
        if folder not in self.held:
            held = Held(folder, self.model, self.setting.concepts, self.setting.avoid)
            self.held[folder] = held.pictures((SHOWN, SHOWN))
        shown = self.held[folder].get(concept, ())
        return self.store.put_image(shown[k % len(shown)]) if shown else None


def search_cards(store: Store, scenes: Sequence[Scene]) -> dict[str, Mapping[str, Any]]:
    """Key -> card of each search of the run."""
    from genward.ops.artifacts import load

    return {
        key: load(Path(store.attacks) / key).card for key in dict.fromkeys(s["attack"] for s in scenes if s["attack"])
    }


def measure(
    store: Store | Path | str,
    name: str,
    judge: Any = None,
    *,
    command: str = "",
    device: str = "cpu",
    rate: float | None = None,
    first: bool = False,
) -> dict[str, Any]:
    """Compute a finished run's metrics and write them to ``runs/<name>/metrics.json``.

    Args:
        judge: the judge whose scores are used; the plan's by default.
        command, device: for the record. rate: denoiser rows per second that this machine was measured at before the
            run (``run.rows_per_second_measured``); the one that the run had before where it is not given.
        first: only of the rows that no search added, before there are others; nothing is written.

    Returns:
        ``{"schema", "run", "arms", …the benchmark's sections…, "judges", "claims"}``

    Raises:
        StoreError: no such run, planned rows missing, or not judged by this judge yet.
    """
    store = opened(store)
    plan = load_plan(store, name)
    judge = open_judge(plan.judge) if judge is None and plan.benchmark.media != "text" else judge
    table = figures(store, plan, judge, command=command, device=device, first=first)
    if first:
        return table
    path = store.run_folder(name) / "metrics.json"
    earlier = store.read_json(path)["run"].get(MEASURED) if path.is_file() else None
    table["run"][MEASURED] = rate or earlier
    store.write_json(path, table)
    return dict(store.read_json(path))


def figures(
    store: Store, plan: Plan, judge: Any, *, command: str = "", device: str = "cpu", first: bool = False
) -> dict[str, Any]:
    """A finished run's metrics, computed and not written; arguments as those of ``measure``."""
    name, made = plan.name, plan.benchmark.media != "text"
    setting = setting_of(plan)
    cases = planned(plan, setting).cases
    second = second_of(plan, judge)
    scenes = () if first or not made else run_scenes(store, name)
    evidence = evidence_of(store, plan, judge, cases, setting, scenes, second)
    found = plan.benchmark.measure(evidence)
    if not isinstance(found.get("cells"), list):
        raise BadInput(f"benchmark {plan.benchmark.name!r} measured no cells; its `measure` must return a list of them")
    unique = list({r["id"]: r for r in evidence.rows}.values())
    table: dict[str, Any] = {
        "schema": 1,
        "run": run_table(plan, cases, evidence.arms, unique, command, device) | found.pop("run", {}),
        "arms": list(evidence.arms),
        **found,
        "judges": [judge_table(j) for j in (judge, second if evidence.second else None) if j is not None and made],
    }
    return table if first else {**table, "claims": claims(table)["claims"]}


def opened(store: Store | Path | str, create: bool = False) -> Store:
    """A store, opened where its folder was given."""
    from genward.store import Store as Opened

    return Opened(store, create=create) if isinstance(store, (str, Path)) else store
