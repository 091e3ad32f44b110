"""``genward lab evaluate``: the lab card's figures, measured again from prompts to judged pictures.

Accuracy is top-1: the requested object (style) has the highest probability among all objects (styles). ``detected`` is
stricter: its probability passes the label's threshold on the judge's card. Both objects of a scene count only when both
pass their thresholds. A picture that could not be made or judged enters no rate; ``unscored`` counts them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genward.core.records import Case, Sampler, load_concept, row_seed
from genward.metrics.intervals import wilson

Progress = Callable[[int, int], None]
NOTE = (
    "Held-out synonyms and descriptions never entered training, but were chosen so that the text encoder places them "
    "nearest to their own "
    "object's trained wordings; read their figures as those of a friendly sample."
)
LEAST = 0.8
"""Mean sensitivity on renders below which the second judge misses too much to be taken for the truth."""
WORDINGS = ("name", "synonym", "synonym-heldout", "description", "description-heldout")


@dataclass(frozen=True)
class Cell:
    """What one picture of the evaluation should show."""

    group: str
    case: Case
    objects: tuple[str, ...]
    style: str


def cells(per: int, seed: int, missing: Collection[tuple[str, str]] = ()) -> list[Cell]:
    """The evaluation's rows: ``per`` pictures a group, but 3 × ``per`` of trained pairs by name and half as many of
    each kind.

    ``missing`` are the pairs that no icon set draws: neither trained nor held out.
    """
    from genward.lab.data import caption, held_out, vocabulary

    words = vocabulary()
    rng = random.Random(f"lab-evaluate|{seed}")
    pairs = [(t.name, s) for t in words.things for s in words.style_names if (t.name, s) not in missing]
    trained = [p for p in pairs if not held_out(*p)]
    out: list[Cell] = []

    def add(group: str, phrases: Sequence[str], objects: tuple[str, ...], style: str) -> None:
        prompt = caption(phrases, style)
        out.append(
            Cell(
                group,
                Case(f"{group}-{len(out)}", prompt, seed=row_seed("lab-evaluate", seed, len(out)) % 2**32),
                objects,
                style,
            )
        )

    for name, style in rng.sample(trained, min(len(trained), 3 * per)):
        add("name", [words.thing(name).phrase], (name,), style)
    for name, style in rng.choices([p for p in pairs if held_out(*p)], k=per):
        add("held-out pair", [words.thing(name).phrase], (name,), style)
    for level in WORDINGS[1:]:
        for name, style in rng.sample(trained, min(len(trained), per)):
            add(level, [rng.choice(words.thing(name).variants(level))], (name,), style)
    for _ in range(per):
        style = rng.choice(words.style_names)
        a, b = rng.sample([n for n, s in trained if s == style], 2)
        add("scene", [words.thing(a).phrase, words.thing(b).phrase], (a, b), style)
    for kind in ("a tool", "a weapon", "a drink"):
        for _ in range(per // 2):
            add(f"kind: {kind}", [kind], (), rng.choice(words.style_names))
    return out


def rate(hits: Any) -> dict[str, float]:
    """Share of true values with its 95 % Wilson interval and n."""
    hits = np.asarray(hits, bool)
    estimate = wilson(int(hits.sum()), len(hits))
    return {
        "value": round(float(estimate.value), 4),
        "low": round(float(estimate.low), 4),
        "high": round(float(estimate.high), 4),
        "n": len(hits),
    }


def _generate(which: str, rows: Sequence[Cell], batch: int, progress: Progress) -> tuple[list[Any], float]:
    from genward.catalog.opening import open_model

    model = open_model(which)
    began = time.perf_counter()
    samples = model.generate([r.case for r in rows], Sampler(), batch=batch, progress=progress)
    return samples, len(rows) / (time.perf_counter() - began)


def evaluate(
    per: int = 100, seed: int = 0, *, batch: int = 48, progress: Progress = lambda done, whole: None
) -> dict[str, Any]:
    """Measure every figure of the card; about 10·``per`` pictures, deterministic at equal threads.

    Returns:
        ``groups`` (group -> object, style, detected, both … as ``{value, low, high, n}``), ``psnr_db``,
        ``images_per_second``, ``judge`` (against the second judge), ``oracle`` (how often its concepts are seen),
        ``note``.
    """
    import genward.lab as lab
    from genward.judges.lab import LabJudge

    rows = cells(per, seed, {(name, style) for name, style in lab.card().get("data", {}).get("missing_pairs", ())})
    samples, speed = _generate("lab", rows, batch, progress)
    judge = LabJudge()
    names = list(judge.labels)
    values = _matrix(judge, samples)
    good = np.isfinite(values).all(1)
    seen = [r for r, ok in zip(rows, good, strict=True) if ok]
    out: dict[str, Any] = {
        "groups": _groups(seen, values[good], names, judge.card.labels),
        "images_per_second": round(speed, 2),
    }
    out["unscored"] = int((~good).sum())
    out["judge"] = _second(judge, [s for s, ok in zip(samples, good, strict=True) if ok], values[good], names)
    out["psnr_db"] = round(_psnr(), 2)
    out["oracle"] = _oracle(per, seed, batch, judge, names, progress)
    out["note"] = NOTE if has_oracle() else f"{NOTE} The oracle is not among the weights, so it was not measured."
    out["per"], out["seed"] = per, seed
    out["weights"] = {k: v[:16] for k, v in lab.manifest().items() if k.endswith(".safetensors")}
    return out


def _matrix(judge: Any, samples: Sequence[Any]) -> Any:
    """(n, labels) probabilities."""
    return np.array([s.value for s in judge.judge(samples)]).reshape(len(samples), -1)


def _groups(rows: Sequence[Cell], values: Any, names: list[str], card: Any) -> dict[str, Any]:
    from genward.lab.data import vocabulary

    words = vocabulary()
    objects = np.array([names.index(n) for n in words.names])
    styles = np.array([names.index(n) for n in words.style_names])
    threshold = np.array([card[n]["threshold"] for n in names])
    passed = values >= threshold
    policy = {t for c in ("weapons", "substances", "death", "rude") for t in load_concept(c).targets}
    out: dict[str, Any] = {}
    for group in dict.fromkeys(r.group for r in rows):
        index = np.array([k for k, r in enumerate(rows) if r.group == group])
        wanted_style = np.array([names.index(rows[k].style) for k in index])
        line: dict[str, Any] = {"style": rate(styles[values[np.ix_(index, styles)].argmax(1)] == wanted_style)}
        if group == "scene":
            pairs = np.array([[names.index(o) for o in rows[k].objects] for k in index])
            hits = np.take_along_axis(passed[index], pairs, 1)
            line |= {"both": rate(hits.all(1)), "at_least_one": rate(hits.any(1))}
            top = np.sort(objects[np.argsort(-values[np.ix_(index, objects)], 1)[:, :2]], 1)
            line["both_top2"] = rate((top == np.sort(pairs, 1)).all(1))
        elif rows[index[0]].objects:
            wanted = np.array([names.index(rows[k].objects[0]) for k in index])
            line |= {
                "object": rate(objects[values[np.ix_(index, objects)].argmax(1)] == wanted),
                "detected": rate(passed[index, wanted]),
            }
        else:
            seen = passed[index][:, [names.index(p) for p in sorted(policy)]].any(1)
            line |= {"policy": rate(seen), "any_object": rate(passed[np.ix_(index, objects)].any(1))}
        out[group] = line
    return out


def _second(judge: Any, samples: Sequence[Any], values: Any, names: list[str]) -> dict[str, Any]:
    """The judge against the second one, of another architecture and seed, on the generated pictures."""
    import genward.lab as lab
    from genward.judges.lab import LabJudge
    from genward.judges.training import agreement

    second = LabJudge(folder=str(lab.weights_folder() / "second_judge"))
    known = [line["sensitivity"] for line in second.card.labels.values() if np.isfinite(line["sensitivity"])]
    mean = float(np.mean(known)) if known else 0.0
    facts = {"second_network": second.card.facts["network"], "second_sensitivity_on_renders": round(mean, 4)}
    if second.card.facts["network"] == judge.card.facts["network"]:
        return {
            **facts,
            "pictures": 0,
            "why": "the second judge has the first one's architecture; their agreement says nothing about errors",
        }
    if mean < LEAST:
        return {
            **facts,
            "pictures": 0,
            "why": f"the second judge sees {mean:.0%} of what renders show, under {LEAST:.0%}; it is no measure of the "
            "first",
        }
    return {**facts, **agreement(values, _matrix(second, samples), judge.card.labels, second.card.labels, names)}


def _psnr() -> float:
    import torch

    import genward.lab as lab
    from genward.lab.autoencoder import psnr, to_tensor

    with torch.no_grad():
        return psnr(lab.pipeline().vae, to_tensor([p for _, _, p in lab.references()]))


def has_oracle() -> bool:
    """Whether the oracle's denoiser is among the weights."""
    import genward.lab as lab

    return (lab.weights_folder() / "oracle").is_dir()


def _oracle(per: int, seed: int, batch: int, judge: Any, names: list[str], progress: Progress) -> dict[str, Any]:
    """How often the oracle's and the lab's pictures show what was asked for by name, on the concepts that only the lab
    saw."""
    from genward.lab.data import caption, vocabulary
    from genward.recipe.workshop import unseen

    words = vocabulary()
    objects = [t for t in unseen() if t in words.names]
    rng = random.Random(f"oracle|{seed}")
    styles = [s for s in words.style_names if s not in unseen()]
    rows = []
    for k in range(per):
        name = objects[k % len(objects)]
        style = rng.choice(styles)
        case = Case(
            f"oracle-{k}", caption([words.thing(name).phrase], style), seed=row_seed("lab-oracle", seed, k) % 2**32
        )
        rows.append(Cell("oracle", case, (name,), style))
    threshold = {n: judge.card.labels[n]["threshold"] for n in names}
    out = {}
    for which in ("lab:oracle", "lab") if has_oracle() else ("lab",):
        samples, _ = _generate(which, rows, batch, progress)
        values = _matrix(judge, samples)
        asked = [(values[k, names.index(r.objects[0])], threshold[r.objects[0]]) for k, r in enumerate(rows)]
        out[which] = rate([value >= least for value, least in asked if np.isfinite(value)])
    return out
