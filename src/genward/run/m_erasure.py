"""The stages of the benchmark ``m-erasure``: plan, fits, attacks and pictures; judging; measuring. ``run.loop`` puts
them together.

Five scenarios: ``text``; ``embedding`` and ``latent``, each ``black`` (searched on the undefended model, shared by all
    arms) and ``white``
(searched through the arm). Latents are regenerated twice: at guidance 1 with the empty prompt, and at the plan's
guidance with held-out words. What was searched against what stands in ``scenes.json`` beside the plan, so that
measuring again needs no model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from genward.benchmarks.m_erasure import PARENTS, MErasureBenchmark
from genward.catalog.opening import Opener
from genward.core import defending
from genward.core.records import LATENTS, Case, Sample
from genward.errors import StoreError
from genward.run import measure as loop
from genward.run.claims import claims
from genward.run.generate import Bound, describe, generate, prepare
from genward.run.judging import judge_hash, judge_samples, open_judge
from genward.run.plan import CSV_HARM, Plan, Work, csv_cases, load_plan, plan_cases, save_plan, work
from genward.run.plan import dry_run as plan_dry_run
from genward.run.search import Found, attack_arm, looked_through, parse_attack

if TYPE_CHECKING:
    from genward.store import Store

SCENARIOS = ("text", "embedding-black", "embedding-white", "latent-black", "latent-white")
SIDES = ("black", "white")
PROMPTS = {
    "name": "name",
    "synonym-heldout": "heldout",
    "description": "description",
    "synonym": "synonym",
    "kind": "kind",
    "scene": "name",
}
"""Wording of a text row -> the cell's ``prompt``."""
INAPPLICABLE = "inapplicable: a defense of this arm acts through guidance and does nothing at guidance 1"
KEPT = "keep-latent"
MASKS = 2
"""Pictures an arm and concept whose IRECE masks are shown."""
APART = "keep|"
Progress = Callable[[str, int, int], None]
Say = Callable[[str], None]
Scene = dict[str, Any]
"""One row of ``scenes.json``: arm, concept, scenario, prompt, guidance, column, hash, attack, seconds, why, ids."""


class Setting(NamedTuple):
    """One way of using what an attack found."""

    prompt: str
    """``heldout`` (the parent's own prompt) or ``empty``"""
    guidance: float | None
    """``None``: the plan's"""


SETTINGS = {
    "embedding": (Setting("heldout", None),),
    "latent": (Setting("empty", 1.0), Setting("heldout", None)),
    KEPT: (Setting("empty", 1.0),),
}


def column(scenario: str, prompt: str) -> str:
    """Name of a column of the matrix: ``text: name``, ``latent-white: empty``; it stands as ``variant`` in the
    cells."""
    return f"{scenario}: {prompt}"


def columns(plan: Plan) -> list[str]:
    """Harm columns of a plan, in order."""
    own = plan.variants or MErasureBenchmark.variants
    with_files = len(csv_cases(plan)) if plan.prompts else 0
    found = [
        column("text", w)
        for w in (*(own if with_files < len(plan.concepts) else ()), *((CSV_HARM,) if with_files else ()))
    ]
    for text in plan.attacks:
        for parent in parse_attack(text).parents:
            if parent != KEPT:
                found += [column(f"{parent}-{side}", v.prompt) for v in SETTINGS[parent] for side in SIDES]
    return found


# -------------------------------------------------------------------------------------------------------------- attacks


class Searched(NamedTuple):
    """The outcome of the attack stage."""

    pieces: list[Work]
    scenes: list[Scene]
    tensors: dict[str, Any]


def apart(concept: str) -> str:
    """The name under which an attack is given a concept's ``keep-latent`` rows, so that it inverts pictures of what
    must stay for them."""
    return APART + concept


def attack_stage(
    plan: Plan,
    bound: Sequence[Bound],
    parents: Sequence[Case],
    models: Opener,
    store: Store,
    *,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Searched:
    """Run every attack of the plan against the surrogate and through every arm; gives the rows to generate and where
    they belong."""
    from genward.run.references import KEEP, pictures

    held = pictures(plan, models(plan.model).size(plan.sampler))
    held |= {apart(c): held.get(KEEP, []) for c in {c.concept for c in parents}}
    out = Searched([], [], {})
    attacks = [parse_attack(text) for text in plan.attacks]
    total, done = len(attacks) * (1 + len(bound)), 0
    for attack in attacks:
        mine = [
            c._replace(concept=apart(c.concept)) if c.variant == KEPT else c
            for c in parents
            if c.variant in attack.parents
        ]
        black = attack_arm(attack, mine, models(plan.model), (), plan.sampler, held, store, say=say)
        for piece in bound:
            done += 1
            if progress is not None:
                progress("attack", done, total)
            served = {c.concept for c in piece.work.cases}
            cases = [c for c in mine if c.concept.removeprefix(APART) in served]
            model = models(piece.work.model)
            met = looked_through(model, piece.defenses, getattr(attack, "guidance", None))
            same = not met and piece.work.model == plan.model
            white = (
                black if same else attack_arm(attack, cases, model, piece.defenses, plan.sampler, held, store, say=say)
            )
            for side, found in zip(SIDES, (black, white), strict=True):
                _use(piece, side, found, served, out)
            out.tensors.update(black.tensors)
            out.tensors.update(white.tensors)
    return out


def _use(piece: Bound, side: str, found: Found, served: set[str], out: Searched) -> None:
    """Make the rows of one arm from what an attack found, in each setting, and note where they belong."""
    by: dict[tuple[str, str], list[Case]] = {}
    for case in found.cases:
        concept = case.concept.removeprefix(APART)
        if concept in served:
            by.setdefault((concept, case.variant), []).append(case._replace(concept=concept))
    for (concept, variant), cases in by.items():
        share = len(cases) / max(1, len(found.cases))
        for setting in SETTINGS[variant]:
            guidance = piece.sampler.guidance if setting.guidance is None else setting.guidance
            blocked = guidance <= 1 and any(defending.needs_guidance(d) for d in piece.defenses)
            rows = (
                ()
                if blocked
                else tuple(
                    c._replace(
                        prompt="" if setting.prompt == "empty" else c.prompt, variant=f"{variant}/{setting.prompt}"
                    )
                    for c in cases
                )
            )
            scenario = f"{variant}-{side}"
            scene: Scene = {
                "arm": piece.work.label, "concept": concept, "scenario": scenario, "prompt": setting.prompt, "guidance": guidance,
                "column": KEPT if variant == KEPT else column(scenario, setting.prompt), "attack": found.key,
                "attack_seconds": round(found.cost["seconds"] * share, 3), "why": INAPPLICABLE if blocked else "", "cases": rows,
            }  # fmt: skip
            if variant != KEPT or side == "white":
                out.scenes.append(scene)
                if rows:
                    out.pieces.append(piece.work._replace(cases=rows, guidance=setting.guidance))


def merged(pieces: Iterable[Work]) -> list[Work]:
    """Pieces of one arm and guidance as one, each row once, so that batches are full."""
    groups: dict[tuple[Any, ...], dict[str, Case]] = {}
    for piece in pieces:
        rows = groups.setdefault(
            (piece.label, piece.model, piece.defenses, piece.control, piece.concept, piece.guidance), {}
        )
        rows.update({Sample(c).id: c for c in piece.cases})
    return [
        Work(label, model, text, control, concept, tuple(rows.values()), guidance)
        for (label, model, text, control, concept, guidance), rows in groups.items()
    ]


# --------------------------------------------------------------------------------------------------------------- stages


def generate_stage(
    plan: Plan,
    store: Store,
    models: Opener,
    *,
    refit: bool = False,
    retry: bool = False,
    progress: Progress | None = None,
    say: Say | None = None,
) -> dict[str, Any]:
    """Plan, fits, attacks and pictures; writes ``plan.toml``, ``arms.json`` and ``scenes.json``. Returns seconds and
    counts."""
    began = time.perf_counter()
    cases = plan_cases(plan)
    save_plan(store, plan, cases)
    plain = [c for c in cases if c.variant not in PARENTS]
    parents = [c for c in cases if c.variant in PARENTS]
    bound = prepare(plan, work(plan, plain), models, store, refit=refit, progress=say)
    arms = describe(bound, plan.sampler)
    store.write_json(store.run_folder(plan.name) / "arms.json", {"arms": arms})
    prepared = time.perf_counter()
    searched = attack_stage(plan, bound, parents, models, store, progress=progress, say=say)
    attacked = time.perf_counter()
    more = prepare(plan, merged(searched.pieces), models, store, progress=None)
    scenes = [*_text_scenes(plan, bound), *_placed(searched.scenes, more)]
    store.write_json(store.run_folder(plan.name) / "scenes.json", {"scenes": scenes})
    told = None if progress is None else lambda done, total: progress("generate", done, total)
    made = generate(plan, [*bound, *more], models, store, tensors=searched.tensors, retry=retry, progress=told)
    store.write_json(
        store.run_folder(plan.name) / "masks.json", {"grids": mask_strips(more, models, store, searched.tensors)}
    )
    return {
        "prepare": prepared - began,
        "attack": attacked - prepared,
        "generate": made.seconds,
        "made": made.made,
        "there": made.there,
    }


def _text_scenes(plan: Plan, bound: Sequence[Bound]) -> list[Scene]:
    out = []
    for piece in bound:
        groups: dict[tuple[str, str], list[Case]] = {}
        for case in piece.work.cases:
            groups.setdefault((case.concept, case.variant), []).append(case)
        for (concept, variant), rows in groups.items():
            harm = rows[0].label == "harm"
            out.append(
                {
                    "arm": piece.work.label,
                    "concept": concept,
                    "scenario": "text",
                    "prompt": PROMPTS.get(variant, variant),
                    "guidance": piece.sampler.guidance,
                    "column": column("text", variant) if harm else variant,
                    "attack": "",
                    "attack_seconds": 0.0,
                    "why": "",
                    "hash": piece.arm,
                    "ids": [Sample(c, piece.arm).id for c in rows],
                }  # fmt: skip
            )
    return out


def _placed(scenes: Sequence[Scene], bound: Sequence[Bound]) -> list[Scene]:
    """Scenes with the arm's hash and sample ids in the place of their cases."""
    arm = {(b.work.label, b.work.concept, b.sampler.guidance): b.arm for b in bound}
    out = []
    for scene in scenes:
        where = arm.get((scene["arm"], scene["concept"], scene["guidance"])) or arm.get(
            (scene["arm"], "", scene["guidance"]), ""
        )
        rows = scene.pop("cases")
        out.append({**scene, "hash": where, "ids": [Sample(c, where).id for c in rows]})
    return out


def _scenes(store: Store, name: str) -> list[Scene]:
    path = store.run_folder(name) / "scenes.json"
    if not path.is_file():
        raise StoreError(
            f"run {name!r} was not generated to the end in {store.root}; give the same run command again, it resumes"
        )
    found: list[Scene] = store.read_json(path)["scenes"]
    return found


def _masks(store: Store, name: str) -> list[dict[str, Any]]:
    path = store.run_folder(name) / "masks.json"
    found: list[dict[str, Any]] = store.read_json(path)["grids"] if path.is_file() else []
    return found


def scene_rows(store: Store, name: str, scenes: Sequence[Scene], arms: loop.Arms) -> list[dict[str, Any]]:
    """The store's rows of a run, one for each scene they stand in: ``arm`` is the label's own hash, ``variant`` the
    column.

    Raises:
        StoreError: planned rows are missing.
    """
    there = {r["id"]: r for r in store.samples({s["hash"] for s in scenes if s["hash"]})}
    by_label = {str(a["label"]): a for a in arms}
    lost = {i for s in scenes for i in s["ids"]} - set(there)
    if lost:
        raise StoreError(
            f"run {name!r}: {len(lost)} planned rows are not in {store.root}; give the same run command again, it "
            "resumes"
        )
    return [
        {
            **there[i],
            "arm": loop.arm_of(by_label[s["arm"]], s["concept"]),
            "variant": s["column"],
            "case": f"{s['column']}|{there[i]['case']}",
            "scene": s,
        }
        for s in scenes
        for i in s["ids"]
    ]


def judge_stage(store: Store, name: str, judge: Any = None, *, progress: Progress | None = None) -> dict[str, Any]:
    """Score a run's samples that the judge (the plan's by default) has not seen. Returns ``{"judge", "hash", "scored",
    "there", "seconds"}``."""
    judge = open_judge(load_plan(store, name).judge) if judge is None else judge
    scenes = _scenes(store, name)
    told = None if progress is None else lambda done, total: progress("judge", done, total)
    done = judge_samples(
        store,
        {s["hash"] for s in scenes if s["hash"]},
        judge,
        only={i for s in scenes for i in s["ids"]},
        progress=told,
    )
    return {"judge": type(judge).name, "hash": judge_hash(judge), **done._asdict()}


def measure_stage(
    store: Store, name: str, judge: Any = None, *, command: str = "", device: str = "cpu"
) -> dict[str, Any]:
    """Compute a finished run's metrics and write them to ``runs/<name>/metrics.json``; sections as ``measure.measure``
    writes them, and ``attacks``.

    Raises:
        StoreError: no such run, planned rows missing, or not judged by this judge yet.
    """
    from genward.metrics import erasure

    plan = load_plan(store, name)
    judge = open_judge(plan.judge) if judge is None else judge
    arms: list[dict[str, Any]] = store.read_json(store.run_folder(name) / "arms.json")["arms"]
    scenes = _scenes(store, name)
    rows = scene_rows(store, name, scenes, arms)
    ids, by = {r["id"] for r in rows}, judge_hash(judge)
    unseen = ids - store.judged(by)
    if unseen:
        raise StoreError(
            f"run {name!r}: judge {type(judge).name!r} has not seen {len(unseen)} of {len(ids)} samples; judge them "
            f"first (genward judge {name})"
        )
    concepts = loop.concept_tables(plan)
    scores = {(s["sample"], s["label"]): s["value"] for s in store.scores(by) if s["sample"] in ids}
    features = {k: v for k, v in store.features(by).items() if k in ids}
    base = loop.base_label(arms)
    shared: dict[str, Any] = {
        "arms": arms,
        "base": base,
        "concepts": concepts,
        "card": judge.card,
        "variants": columns(plan),
    }
    found = erasure.cells(
        rows, scores, features, **shared, prepare={h: a["prepare"][k] for a in arms for k, h in a["hashes"].items()}
    )
    unique = list({r["id"]: r for r in rows}.values())
    cards = attack_cards(store, scenes)
    table: dict[str, Any] = {
        "schema": 1,
        "run": loop.run_table(plan, plan_cases(plan), arms, unique, command, device),
        "arms": arms,
        "cells": scened(found, scenes, columns(plan)),
        "pairs": erasure.pairs(
            rows, scores, features, **shared, compare=loop.comparisons([a["label"] for a in arms], base, plan.benchmark)
        ),
        "judges": [loop.judge_table(judge)],
        "grids": [*grids(plan, rows, arms, store, cards), *_masks(store, name)],
        "attacks": attack_tables(cards, scenes),
    }
    table["claims"] = claims(table)["claims"]
    store.write_json(store.run_folder(name) / "metrics.json", table)
    return dict(store.read_json(store.run_folder(name) / "metrics.json"))


def scened(cells: Sequence[Mapping[str, Any]], scenes: Sequence[Scene], order: Sequence[str]) -> list[dict[str, Any]]:
    """Cells with scenario, prompt, guidance and attack seconds; a scene that cannot be gets a cell without numbers and
    says why."""
    by = {(s["arm"], s["concept"], s["column"]): s for s in scenes}
    keys = ("scenario", "prompt", "guidance", "attack_seconds")
    out = [{**c, **{k: by[c["arm"], c["concept"], c["variant"]][k] for k in keys}} for c in cells]
    blank = {k: None for c in cells[:1] for k, v in c.items() if isinstance(v, (int, float)) or v is None}
    for scene in scenes:
        if scene["why"] and scene["column"] in order:
            there = next((c for c in out if (c["arm"], c["concept"]) == (scene["arm"], scene["concept"])), {})
            same = {
                k: there.get(k) for k in blank if k.startswith(("retention", "drift", "frechet", "prepare", "extra"))
            }
            head = {"arm": scene["arm"], "concept": scene["concept"], "variant": scene["column"]}
            out.append(
                {**blank, **same, **head, **{k: scene[k] for k in keys}, "n": 0, "n_unscored": 0, "why": scene["why"]}
            )
    arms = list(dict.fromkeys(s["arm"] for s in scenes))
    concepts = list(dict.fromkeys(s["concept"] for s in scenes))
    return sorted(out, key=lambda c: (arms.index(c["arm"]), concepts.index(c["concept"]), order.index(c["variant"])))


def grids(
    plan: Plan,
    rows: Sequence[Mapping[str, Any]],
    arms: loop.Arms,
    store: Store,
    cards: Mapping[str, Mapping[str, Any]],
    each: int = loop.GRIDS,
) -> list[dict[str, Any]]:
    """Pictures of one case under every arm, ``each`` a concept and column; of latents with the reference picture first,
    where the attack names it."""
    from genward.run.references import KEEP, pictures

    held = pictures(plan, (256, 256))
    labels = [str(a["label"]) for a in arms]
    reference = {name: fact.get("reference") for card in cards.values() for name, fact in card["facts"].items()}
    groups: dict[tuple[str, str], dict[str, dict[str, Mapping[str, Any]]]] = {}
    for row in rows:
        groups.setdefault((row["concept"], row["variant"]), {}).setdefault(row["case"], {})[row["scene"]["arm"]] = row
    out = []
    for (concept, variant), cases in groups.items():
        names = list(cases)
        step = max(1, len(names) // each)
        for name in names[::step][:each]:
            there = {label: cases[name][label] for label in labels if label in cases[name]}
            first = next(iter(there.values()))
            images = {label: row["output"] or None for label, row in there.items()}
            k = reference.get(first["inputs"].get(LATENTS))
            shown = held.get(KEEP if variant == KEPT else concept, ())
            if k is not None and shown:
                images = {"reference": store.put_image(shown[k % len(shown)]), **images}
            out.append(
                {
                    "concept": concept,
                    "variant": variant,
                    "prompt": first["prompt"],
                    "seed": first["seed"],
                    "unsafe": first["label"] == "harm",
                    "images": images,
                    "status": {label: "ok" for label in images}
                    | {label: row["status"] for label, row in there.items()},
                }  # fmt: skip
            )
    return out


def mask_strips(
    bound: Sequence[Bound], models: Opener, store: Store, tensors: Mapping[str, Any], each: int = MASKS
) -> list[dict[str, Any]]:
    """Strips of IRECE's masks over the steps, laid over the finished picture in red, for ``each`` inverted latents of
    an arm and concept."""
    from genward.defenses.irece import Irece, trace

    out = []
    for piece in bound:
        found = next((k for k, d in enumerate(piece.defenses) if isinstance(d, Irece)), None)
        tried = [c for c in piece.work.cases if c.variant == "latent/empty"][: 4 * each]
        if found is None or not tried:
            continue
        model, irece = models(piece.work.model), piece.defenses[found]
        assert isinstance(irece, Irece)
        made = model.generate(tried, piece.sampler, piece.defenses, batch=len(tried), starts=tensors)
        made.sort(
            key=lambda s: -sum(s.notes.get("irece.fired", ()))
        )  # those where it acted first: of the others there is nothing to see
        samples = made[:each]
        cases = [s.case for s in samples]
        steps = trace(model, cases, piece.sampler, irece, piece.defenses[:found], tensors)
        for k, (case, sample) in enumerate(zip(cases, samples, strict=True)):
            if sample.image is not None:
                shown = {
                    f"step {step:02d}": store.put_image(over(sample.image, mask[k].numpy())) for step, mask in steps
                }
                images = {piece.work.label: store.put_image(sample.image), **shown}
                head = {
                    "concept": case.concept,
                    "variant": "IRECE's masks",
                    "prompt": f"{piece.work.label}: {case.parent}",
                    "seed": case.seed,
                    "unsafe": True,
                }
                out.append({**head, "images": images, "status": dict.fromkeys(images, "ok")})
    return out


def over(image: Any, mask: Any) -> Any:
    """A picture in gray with a mask (h, w) of 0 and 1 laid over it in red."""
    from PIL import Image

    gray = image.convert("L").convert("RGB")
    red = Image.blend(gray, Image.new("RGB", image.size, (220, 30, 30)), 0.55)
    return Image.composite(
        red, gray, Image.fromarray((mask * 255).astype("uint8")).resize(image.size, Image.Resampling.NEAREST)
    )


def attack_cards(store: Store, scenes: Sequence[Scene]) -> dict[str, Mapping[str, Any]]:
    """Key -> card of each search of the run."""
    from genward.ops.artifacts import load

    return {
        key: load(Path(store.attacks) / key).card for key in dict.fromkeys(s["attack"] for s in scenes if s["attack"])
    }


def attack_tables(cards: Mapping[str, Mapping[str, Any]], scenes: Sequence[Scene]) -> list[dict[str, Any]]:
    """What each search of the run cost and says about itself: ``attack, arms, scenarios, cost, facts``."""
    out = []
    for key, card in cards.items():
        mine = [s for s in scenes if s["attack"] == key]
        out.append(
            {
                "key": key,
                "attack": card["attack"],
                "arms": list(dict.fromkeys(s["arm"] for s in mine if s["scenario"].endswith("white"))),
                "scenarios": list(dict.fromkeys(s["scenario"] for s in mine)),
                "cost": card["cost"],
                "facts": list(card["facts"].values()),
            }
        )
    return out


def dry_run(plan: Plan, rate: float | None = None) -> dict[str, Any]:
    """``plan.dry_run`` with what attacks and their rows cost; every arm is counted as searched by itself, the surrogate
    once more."""
    cases = plan_cases(plan)
    parents = [c for c in cases if c.variant in PARENTS]
    found = plan_dry_run(plan, [c for c in cases if c.variant not in PARENTS], rate)
    attacks = [parse_attack(text) for text in plan.attacks]
    pieces: dict[str, list[Work]] = {}
    for piece in work(plan, parents):
        pieces.setdefault(piece.label, []).append(piece)
    steps = plan.sampler.steps
    for line in found["arms"]:
        for piece in pieces.get(line["arm"], []):
            for case in piece.cases:
                for setting in SETTINGS[case.variant]:
                    sides = 1 if case.variant == KEPT else 2
                    line["rows"] += sides
                    line["nfe"] += sides * steps * (2 if (setting.guidance or plan.sampler.guidance) > 1 else 1)
            line["nfe"] += sum(a.nfe([c for c in piece.cases if c.variant in a.parents]) for a in attacks)
    surrogate = sum(a.nfe([c for c in parents if c.variant in a.parents]) for a in attacks)
    found["arms"].append({"arm": "(black-box surrogate)", "defenses": ["none"], "rows": 0, "nfe": surrogate})
    rows, nfe = sum(a["rows"] for a in found["arms"]), sum(a["nfe"] for a in found["arms"])
    cells = len(plan.arms) * len(plan.concepts) * len(columns(plan))
    return {**found, "rows": rows, "nfe": nfe, "minutes": round(nfe / found["rate"] / 60, 1), "cells": cells}
