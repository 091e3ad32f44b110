"""``genward dataset build``: prompt × seeds → labels of this very picture, and the denoiser's early features, on any
model.

The kind of data that Wukong (arXiv 2508.00591) learns from: one prompt may be harmless with one seed and harmful with
another, and only what the model draws decides. Rows are split by clusters of prompts, never by row, wordings can be
kept for the test apart; how many prompts change
their label between seeds is reported: what no filter of prompts can reach. Pictures are judged and dropped, never
    stored.

::

    folder/
      plan.json                          what is built: model, sampler, steps, sites, labels, judges; another plan is refused
      part-00000.safetensors, .jsonl     features in float16 (rows, steps, …), and one line a row; written aside and renamed
      card.json                          counts, splits, flips; written last

``genward dataset fit`` learns a detector from it and runs sanity gates (``gates``), each of which a detector that
cheats would fail: at the first step, where latents are noise, it may know little more than the text; at the last it
should see what an image filter sees; from shuffled labels it learns nothing."""

from __future__ import annotations

import inspect
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from genward.core.files import json_text
from genward.core.records import Case, Concept, Sampler, row_seed
from genward.core.spec import canonical, digest
from genward.errors import BadInput, GenwardError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from genward.core.contracts import Artifact
    from genward.models.sd import StableDiffusion

Progress = Callable[[int, int], None]
SHARES = (0.7, 0.15, 0.15)
SPLITS = ("train", "valid", "test")
PART = 256
"""Rows a part; the unit of writing."""
ALIKE = 0.6
"""Jaccard index of letter triples from which two prompts are one cluster."""


@dataclass(frozen=True)
class Recipe:
    """What is read and how it is labelled."""

    labels: tuple[str, ...]
    """Judge's labels, one column each."""
    sites: tuple[str, ...] = ("mid_block.attentions.0.tb.0", "up_blocks.1.attentions.0.tb.0")
    parts: tuple[str, ...] = ("text",)
    """Read beside sites: ``text``, ``latents``, ``noise`` (``ops.early.PARTS``)."""
    steps: tuple[float, ...] = (0.0, 0.1, 0.2, 0.4, 0.99)
    pool: int = 8
    sampler: Sampler = Sampler()
    test_wordings: tuple[str, ...] = ()
    """Wordings or attack families whose rows are all kept for the test."""
    seed: int = 0


class Dataset(NamedTuple):
    """A dataset in memory."""

    card: Mapping[str, Any]
    rows: list[dict[str, Any]]
    states: Mapping[str, Tensor]
    timesteps: Tensor
    truth: Tensor
    """(rows, labels) of 1, 0 and NaN for unknown"""

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.card["plan"]["recipe"]["labels"])

    def of(self, *splits: str) -> NDArray[Any]:
        """bool (rows,): rows of these splits."""
        import numpy as np

        return np.array([r["split"] in splits for r in self.rows])

    @property
    def harm(self) -> NDArray[Any]:
        """(rows,) 1 where any label is shown, 0 where none, NaN where it is not known."""
        import numpy as np

        truth = self.truth.numpy()
        return np.where(np.isnan(truth).any(1) & ~(truth == 1).any(1), np.nan, (truth == 1).any(1).astype(float))


# --------------------------------------------------------------------------------------------------- prompts and splits


def clusters(texts: Sequence[str], alike: float = ALIKE) -> list[int]:
    """Cluster number of each text: texts whose letter triples overlap by ``alike`` (Jaccard) are joined, through others
    as well."""
    import numpy as np

    from genward.ops.linking import linked

    triples = [{w[k : k + 3] for w in [f"  {t.lower().strip()} "] for k in range(len(w) - 2)} for t in texts]
    names = {g: k for k, g in enumerate(sorted(set().union(*triples)))} if texts else {}
    table = np.zeros((len(texts), max(1, len(names))), np.float32)
    for row, mine in enumerate(triples):
        table[row, [names[g] for g in mine]] = 1
    sizes = table.sum(1)
    pairs: list[tuple[int, int]] = []
    for row in range(len(texts)):
        both = table[row + 1 :] @ table[row]
        near = both / (sizes[row + 1 :] + sizes[row] - both).clip(1) >= alike
        pairs += [(row, int(other)) for other in np.nonzero(near)[0] + row + 1]
    numbers: dict[int, int] = {}
    return [numbers.setdefault(k, len(numbers)) for k in linked(len(texts), pairs)]


def prompt_clusters(cases: Sequence[Case]) -> list[str]:
    """Cluster of each case: near-duplicates of what stands in ``Case.group`` (the prompt where there is none) belong
    together."""
    texts = list(dict.fromkeys(c.group or c.prompt for c in cases))
    number = dict(zip(texts, clusters(texts), strict=True))
    return [f"cluster-{number[c.group or c.prompt]:04d}" for c in cases]


def splits(
    groups: Sequence[str],
    cases: Sequence[Case],
    seed: int = 0,
    test_wordings: Sequence[str] = (),
    shares: Sequence[float] = SHARES,
) -> list[str]:
    """``train``, ``valid`` or ``test`` of each row, whole clusters together; ``test_wordings`` take their whole cluster
    into the test."""
    from genward.ops.detection import spread_groups

    forced = {g for g, c in zip(groups, cases, strict=True) if c.variant in test_wordings}
    free = [k for k, g in enumerate(groups) if g not in forced]
    part = spread_groups([groups[k] for k in free], shares, lambda g: row_seed("split", seed, g))
    out = ["test"] * len(groups)
    for k, p in zip(free, part, strict=True):
        out[k] = SPLITS[p]
    return out


def concept_cases(
    concepts: Sequence[Concept], words: Mapping[str, Any], images: int, seeds: int, seed: int = 0
) -> list[Case]:
    """Captions of concepts at all kinds (names, kinds, scenes, what must stay), as Wukong learns from them."""
    from genward.ops.captions import learning_cases

    return learning_cases(concepts, words, images, seeds, (), seed, "wukong")


def prompt_cases(prompts: Sequence[str | tuple[str, str]], seeds: int, seed: int = 0) -> list[Case]:
    """``seeds`` cases a prompt; a prompt may come as (text, wording or attack family)."""
    rows = [p if isinstance(p, tuple) else (p, "") for p in prompts]
    return [
        Case(f"prompt-{k}-{j}", text, seed=row_seed("fit", "dataset", seed, text, j), variant=family).checked()
        for k, (text, family) in enumerate(dict.fromkeys(rows))
        for j in range(seeds)
    ]


def flips(prompts: Sequence[str], harm: Sequence[float], variants: Sequence[str] = ()) -> dict[str, Any]:
    """How many prompts are harmful with one seed and harmless with another.

    Args:
        prompts: (rows,). harm: (rows,) 1, 0 or NaN for unknown; prompts with fewer than two known rows do not count.
            wordings: (rows,).

    Returns:
        ``{"share", "low", "high", "prompts", "by_variant": {wording: {"share", "prompts"}}}``, a 95 % Wilson interval
        over prompts.
    """
    from genward.metrics.intervals import wilson

    told: dict[str, list[float]] = {}
    of: dict[str, str] = {}
    for k, (prompt, value) in enumerate(zip(prompts, harm, strict=True)):
        if not math.isnan(value):
            told.setdefault(prompt, []).append(value)
            of[prompt] = variants[k] if variants else ""
    flipped = {p: min(v) != max(v) for p, v in told.items() if len(v) > 1}
    estimate = wilson(sum(flipped.values()), len(flipped)) if flipped else None
    by: dict[str, dict[str, float]] = {}
    for variant in dict.fromkeys(of[p] for p in flipped):
        mine = [x for p, x in flipped.items() if of[p] == variant]
        by[variant or "all"] = {"share": round(sum(mine) / len(mine), 4), "prompts": len(mine)}
    share = (
        {k: round(float(getattr(estimate, v)), 4) for k, v in (("share", "value"), ("low", "low"), ("high", "high"))}
        if estimate
        else {}
    )
    return {**share, "prompts": len(flipped), "by_variant": by}


# ------------------------------------------------------------------------------------------------------------- building


def agreed(judges: Sequence[Any], samples: Sequence[Any], labels: Sequence[str]) -> tuple[Tensor, list[list[str]]]:
    """What all judges agree on: (rows, labels) of 1, 0 and NaN, and the labels of each row that they differ about."""
    import torch

    from genward.ops.early import judged

    told = torch.stack([judged(j, samples, labels) for j in judges])
    same = (told == told[0]).all(0)
    differ = ~same & ~torch.isnan(told).any(0)
    return torch.where(same, told[0], torch.nan), [
        [labels[k] for k in row.nonzero().flatten().tolist()] for row in differ
    ]


def build(
    model: StableDiffusion,
    cases: Sequence[Case],
    judges: Sequence[Any],
    recipe: Recipe,
    folder: Path,
    *,
    defenses: Sequence[Any] = (),
    concepts: Sequence[Concept] = (),
    batch: int = 32,
    part: int = PART,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Generate, judge and write; a stopped build goes on where it was. Returns the card.

    Costs a whole generation a case. ``defenses`` are attached while sampling: the features of an erased model, say.
    ``concepts`` are what the labels are about; they are kept with the plan for ``genward dataset fit``.

    Raises:
        BadInput: the folder holds another plan, a judge does not know a label, or nothing to build.
    """
    if not cases or not judges or not recipe.labels:
        raise BadInput("a dataset wants at least one prompt, one judge and one label")
    plan = {
        "model": model.spec.to_json(),
        "defenses": [digest(_written(d)) for d in defenses],
        "recipe": json.loads(canonical(asdict(recipe))),
        "judges": [_judge_id(j) for j in judges],
        "concepts": [json.loads(canonical(c)) for c in concepts],
        "cases": digest([c.named() for c in cases]),
        "rows": len(cases),
        "part": part,
    }
    _begin(folder, plan)
    groups = prompt_clusters(cases)
    split = splits(groups, cases, recipe.seed, recipe.test_wordings)
    for number, start in enumerate(range(0, len(cases), part)):
        stem = folder / f"part-{number:05d}"
        if not (stem.with_suffix(".jsonl").is_file() and stem.with_suffix(".safetensors").is_file()):
            rows = range(start, min(start + part, len(cases)))
            told = (lambda done, whole, start=start: progress(start + done, len(cases))) if progress else None
            _build_part(
                model,
                [cases[k] for k in rows],
                judges,
                recipe,
                stem,
                [groups[k] for k in rows],
                [split[k] for k in rows],
                defenses,
                batch,
                told,
            )
        if progress is not None:
            progress(min(start + part, len(cases)), len(cases))
    card = summary(load(folder, states=False), plan)
    _write_json(folder / "card.json", card)
    return card


def _written(defense: Any) -> dict[str, Any]:
    from genward.core.spec import Spec

    return Spec.of("defense", defense).to_json()


def _judge_id(judge: Any) -> list[str]:
    from genward.catalog.judges import judge_hash

    return [str(type(judge).name), judge_hash(judge)]


def _begin(folder: Path, plan: Mapping[str, Any]) -> None:
    file = folder / "plan.json"
    if file.is_file():
        if _json(file) != plan:
            raise BadInput(
                f"{folder} holds a dataset of another plan (model, prompts, judge or settings differ); name a new "
                "folder"
            )
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise BadInput(f"{folder} is not empty and holds no dataset; name a new folder")
    _write_json(file, plan)


def _write_json(file: Path, data: Mapping[str, Any]) -> None:
    from genward.ops.artifacts import write_all

    write_all({file: json_text(data).encode()})


def _build_part(
    model: StableDiffusion,
    cases: Sequence[Case],
    judges: Sequence[Any],
    recipe: Recipe,
    stem: Path,
    groups: Sequence[str],
    split: Sequence[str],
    defenses: Sequence[Any],
    batch: int,
    progress: Progress | None,
) -> None:
    from safetensors.torch import save

    from genward.ops.artifacts import write_all
    from genward.ops.early import collect

    found = collect(
        model,
        cases,
        recipe.sampler,
        sites=recipe.sites,
        parts=recipe.parts,
        steps=recipe.steps,
        pool=recipe.pool,
        defenses=defenses,
        batch=batch,
        progress=progress,
    )
    truth, differ = agreed(judges, found.samples, recipe.labels)
    lines = []
    for k, case in enumerate(cases):
        known = {
            label: None if math.isnan(v) else int(v) for label, v in zip(recipe.labels, truth[k].tolist(), strict=True)
        }
        row = {
            "id": case.id,
            "prompt": case.prompt,
            "seed": case.seed,
            "variant": case.variant,
            "parent": case.parent,
            "cluster": groups[k],
        }
        row |= {"split": split[k], "status": found.samples[k].status, "labels": known, "uncertain": differ[k]}
        lines.append(json.dumps(row, ensure_ascii=False))
    tensors = {name: value.contiguous() for name, value in found.states.items()} | {"timesteps": found.timesteps}
    rows = ("\n".join(lines) + "\n").encode()
    write_all({stem.with_suffix(".safetensors"): save(tensors), stem.with_suffix(".jsonl"): rows})


def summary(data: Dataset, plan: Mapping[str, Any]) -> dict[str, Any]:
    """The card: plan, counts by split and label, flips between seeds."""
    harm, known = data.harm.tolist(), ~_isnan(data.truth)
    counts = {}
    for s in SPLITS:
        mine = [k for k, r in enumerate(data.rows) if r["split"] == s]
        positives = (
            {label: int((data.truth[mine, j] == 1).sum()) for j, label in enumerate(data.labels)} if mine else {}
        )
        counts[s] = {
            "rows": len(mine),
            "clusters": len({data.rows[k]["cluster"] for k in mine}),
            "harm": sum(harm[k] == 1 for k in mine),
            "positives": positives,
        }
    judged = {
        "rows": len(data.rows),
        "unknown": int((~known).any(1).sum()),
        "uncertain": sum(bool(r["uncertain"]) for r in data.rows),
    }
    changing = flips([r["prompt"] for r in data.rows], harm, [r["variant"] for r in data.rows])
    return {"format": 1, "plan": dict(plan), "judged": judged, "splits": counts, "flips": changing}


def _isnan(x: Tensor) -> Tensor:
    import torch

    return torch.isnan(x)


def load(folder: Path, *, states: bool = True) -> Dataset:
    """Read a dataset. ``states=False`` leaves the features out.

    Raises:
        BadInput: no dataset there, its build was stopped before the last row, or a part is missing or damaged.
    """
    import torch

    plan = _json(folder / "plan.json")
    rows: list[dict[str, Any]] = []
    tensors: dict[str, list[Tensor]] = {}
    files = sorted(folder.glob("part-*.jsonl"))
    if not files:
        raise BadInput(f"{folder} holds no part of a dataset; build it: genward dataset build")
    for file in files:
        try:
            mine = [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]
        except (OSError, ValueError) as error:
            raise BadInput(f"{file} cannot be read ({error}); delete this part and build again") from error
        part = _tensors(file.with_suffix(".safetensors"), len(mine), states)
        for name, value in part.items():
            tensors.setdefault(name, []).append(value)
        rows += mine
    if len(rows) != plan.get("rows"):
        raise BadInput(
            f"{folder} holds {len(rows)} of the {plan.get('rows', 'unknown number of')} rows of its plan; build it "
            "again with the same arguments, which goes on"
        )
    times = tensors.pop("timesteps")[0]
    labels = plan["recipe"]["labels"]
    truth = torch.tensor(
        [[math.nan if r["labels"][label] is None else float(r["labels"][label]) for label in labels] for r in rows]
    )
    card = _json(folder / "card.json") if (folder / "card.json").is_file() else {"plan": plan}
    return Dataset(card, rows, {n: torch.cat(v) for n, v in tensors.items()}, times, truth)


def _tensors(file: Path, rows: int, states: bool) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="pt") as stream:
            found: dict[str, Tensor] = {n: stream.get_tensor(n) for n in stream.keys() if states or n == "timesteps"}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{file} cannot be read ({error}); delete this part and build again") from error
    wrong = [n for n, v in found.items() if n != "timesteps" and len(v) != rows]
    if "timesteps" not in found or wrong:
        raise BadInput(f"{file} does not belong to the rows beside it; delete this part and build again")
    return found


def _json(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{file} is no dataset's file ({type(error).__name__}); build it: genward dataset build"
        ) from error
    return found


# -------------------------------------------------------------------------------------------------------------- fitting


def fit_helpers(defense: Any, model: StableDiffusion) -> dict[str, Any]:
    """What ``defense.fit`` asks for beside model and concept, by the names of its parameters: ``judge`` and ``words``.

    A defense may not import judges or the lab; ``run`` knows both.
    """
    wanted = set(inspect.signature(type(defense).fit).parameters)
    lab = str(model.spec.fields.get("source", "")) in ("lab:lab", "lab:oracle")
    out: dict[str, Any] = {}
    if "words" in wanted:
        from genward.catalog.opening import words_of

        out["words"] = words_of("lab") if lab else {}
    if "judge" in wanted and lab:
        from genward.catalog.judges import open_judge

        out["judge"] = open_judge("lab")
    return out


def fit_wukong(
    data: Dataset, model: StableDiffusion, concepts: Sequence[Concept], settings: Any = None, progress: Any = None
) -> Any:
    """Wukong learned from a dataset that is there already: weights from its train rows, temperature and thresholds from
    its valid rows.

    The epoch is chosen on clusters held out of the train rows, so nothing was chosen on the rows that calibrate. The
    card names captions and seeds of both.

    Raises:
        BadInput: the dataset lacks a label of the concepts or a site of the settings, its rows are of another model, or
            no valid row can be used.
    """
    from genward.defenses.wukong import Wukong, categories_of, category_queries, site_block
    from genward.ops import artifacts

    settings = settings or Wukong()
    if data.card["plan"]["model"] != model.spec.to_json():
        raise BadInput(
            "the dataset was built on another model; open that one (--model), or build the dataset on this one"
        )
    categories = categories_of(concepts)
    missing = [label for label, _ in categories if label not in data.labels]
    if missing:
        raise BadInput(f"the dataset has no label {', '.join(missing)}; it has {', '.join(data.labels)}")
    settings = replace(settings, sites=tuple(settings.sites), pool=int(data.card["plan"]["recipe"]["pool"]))
    columns = [data.labels.index(label) for label, _ in categories]
    seen = [r for r in data.rows if r["split"] in ("train", "valid")]
    card = artifacts.fit_card(settings, concepts, model, [r["prompt"] for r in seen], [r["seed"] for r in seen], 0.0)
    rows = data.of("train").nonzero()[0]
    fitted = settings.fit_on(
        {s: data.states[s][rows] for s in settings.sites if s in data.states},
        data.timesteps,
        data.truth[rows][:, columns],
        [data.rows[k]["cluster"] for k in rows],
        categories=categories,
        blocks=[site_block(model, s) for s in settings.sites],
        queries=category_queries(model, concepts),
        card=card,
        progress=progress,
    )
    return recalibrated(fitted, data, columns)


def recalibrated(fitted: Any, data: Dataset, columns: Sequence[int]) -> Any:
    """The detector with temperature, thresholds and held-out figures from the dataset's valid rows; ``columns`` are its
    categories' among the labels.

    Raises:
        BadInput: no valid row has a known label and finite features.
    """
    import torch

    from genward.defenses.wukong import Detector, calibrated
    from genward.ops import artifacts
    from genward.ops.wukong_net import predict

    detector = Detector.of(fitted.artifact)
    states = [data.states[s["name"]] for s in detector.shape["sites"]]
    usable = torch.from_numpy(data.of("valid")) & (~torch.isnan(data.truth[:, list(columns)])).any(1)
    for x in states:
        usable &= torch.isfinite(x.float()).flatten(1).all(1)
    if not bool(usable.any()):
        raise BadInput("no row of the validation split has a known label and features to calibrate on; build more rows")
    logits = predict(detector.net, [x[usable] for x in states], data.timesteps)
    kept = {k: v for k, v in fitted.artifact.card.items() if k not in artifacts.RESERVED}
    categories = [(label, concept) for label, concept in kept["categories"]]
    facts = calibrated(logits, data.truth[usable][:, list(columns)], data.timesteps, categories)
    return replace(
        fitted, artifact=artifacts.make(fitted.artifact.tensors, {**kept, **facts, "held_rows": int(usable.sum())})
    )


def concepts_of(data: Dataset) -> list[Concept]:
    """What the labels of a dataset are about: the concepts that it was built for where they cover it, else one concept
    of all its labels."""
    from genward.ops.phrases import article

    tables: list[dict[str, Any]] = [
        {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
        for raw in data.card["plan"].get("concepts", [])
    ]
    made = [Concept(**table) for table in tables]
    if {label for c in made for label in c.judge} == set(data.labels):
        return made
    phrases = tuple(article(label) for label in data.labels)
    return [
        Concept("labels", "custom", "The labels of a dataset.", targets=data.labels, phrases=phrases, judge=data.labels)
    ]


def fit_file(
    data: Dataset, model: StableDiffusion, concepts: Sequence[Concept], settings: Any, stem: Path, progress: Any = None
) -> tuple[Artifact, list[Gate]]:
    """Fit Wukong on a dataset (``fit_wukong``), save it at ``stem`` and run the gates. The shuffled labels cost a
    second training."""
    from genward.ops.artifacts import save

    began = time.perf_counter()
    fitted = fit_wukong(data, model, concepts, settings, progress)
    card = {**fitted.artifact.card, "seconds": round(time.perf_counter() - began, 2)}
    artifact = save(stem, fitted.artifact.tensors, card)
    return artifact, gates(data, fitted, lambda dealt: fit_wukong(dealt, model, concepts, settings))


def detector_scores(fitted: Any, data: Dataset, step: int) -> NDArray[Any]:
    """(rows,) largest probability over the detector's categories at one of the dataset's steps."""
    from genward.defenses.wukong import Detector
    from genward.ops.wukong_net import predict

    detector = Detector.of(fitted.artifact)
    states = [data.states[s["name"]][:, step : step + 1] for s in detector.shape["sites"]]
    found: NDArray[Any] = (
        (predict(detector.net, states, data.timesteps[step : step + 1])[:, 0].amax(1) / detector.temperature)
        .sigmoid()
        .numpy()
    )
    return found


# ---------------------------------------------------------------------------------------------------------------- gates


class Gate(NamedTuple):
    """One sanity gate: a figure, what it was compared with, and whether it holds; ``None`` and NaN with a reason where
    it cannot be told."""

    name: str
    value: float
    against: float
    holds: bool | None
    n: int
    why: str = ""


def text_probe(data: Dataset) -> float:
    """AUROC on the test rows of a linear probe on the mean text state: what the prompt alone gives away. NaN where a
    class is missing."""
    from genward.ops.detection import auroc, linear_probe, probe_scores

    scores = data.states["text"].float().mean(1).numpy()
    harm, train, test = data.harm, data.of("train", "valid"), data.of("test")
    use = train & ~_nan(harm)
    return auroc(probe_scores(linear_probe(scores[use], harm[use]), scores[test]), harm[test])


def _nan(x: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    found: NDArray[Any] = np.isnan(x)
    return found


def gate_shuffled(
    data: Dataset, fit: Callable[[Dataset], Any], *, step: int = 1, seed: int = 0, tolerance: float | None = None
) -> Gate:
    """Labels dealt out anew over all rows that have any: a detector learned from the train and valid ones must rank the
    test ones like a coin.

    The test's labels are shuffled as well: against the true ones a detector without knowledge scores near 0 or near 1
    by chance wherever the concept is the features' main direction, which says nothing.

    Args:
        fit: dataset -> fitted Wukong. tolerance: allowed distance of the AUROC from 0.5; by default 3 standard
            deviations of a coin's (Mann-Whitney, √((p + n + 1) / 12pn)) or 0.03, whichever is larger.

    Raises:
        GenwardError: the test split has no row of one kind.
    """
    import torch

    from genward.ops.detection import auroc

    known = (
        (~torch.isnan(data.truth)).any(1).nonzero().flatten()
    )  # a row without picture has no features to learn a label from
    truth = data.truth.clone()
    truth[known] = data.truth[known[torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))]]
    dealt = data._replace(truth=truth)
    test = dealt.of("test") & ~_nan(dealt.harm)
    up = int((dealt.harm[test] == 1).sum())
    down = int(test.sum()) - up
    if not up or not down:
        raise GenwardError(
            "the test split shows the concept never or always, so the gate cannot be run; build more rows"
        )
    value = auroc(detector_scores(fit(dealt), dealt, step)[test], dealt.harm[test])
    allowed = max(0.03, 3 * math.sqrt((up + down + 1) / (12 * up * down))) if tolerance is None else tolerance
    return Gate("shuffled labels", value, 0.5, abs(value - 0.5) <= allowed, up + down)


def gate_first_step(data: Dataset, fitted: Any, *, tolerance: float = 0.05) -> list[Gate]:
    """At the first step, where latents are noise, a detector should know little more than a probe of the text; at the
    last far more.

    Returns:
        The gate at the first step (holds where its AUROC is at most ``tolerance`` above the text probe's), then the
        later steps (hold where they are not below the first by more than ``tolerance``).
    """
    from genward.ops.detection import auroc

    text = text_probe(data)
    test = data.of("test") & ~_nan(data.harm)
    values = [auroc(detector_scores(fitted, data, s)[test], data.harm[test]) for s in range(len(data.timesteps))]
    first = Gate("first step against text", values[0], text, values[0] <= text + tolerance, int(test.sum()))
    later = [
        Gate(f"step at t={int(t)} against first", v, values[0], v >= values[0] - tolerance, int(test.sum()))
        for t, v in zip(data.timesteps[1:], values[1:], strict=True)
    ]
    return [first, *later]


def gate_last_step(data: Dataset, fitted: Any, *, tolerance: float = 0.1) -> Gate:
    """At the last step a detector should come close to an image filter, which sees the finished picture.

    The filter asks the judges that labelled the dataset, so its AUROC on rows with a label is 1: nothing else would be
    one filter's error on another's labels.

    Returns:
        The gate; it holds where the AUROC at the last step that was read is at most ``tolerance`` below 1.
    """
    from genward.ops.detection import auroc

    test = data.of("test") & ~_nan(data.harm)
    value = auroc(detector_scores(fitted, data, len(data.timesteps) - 1)[test], data.harm[test])
    return Gate("last step against image filter", value, 1.0, value >= 1 - tolerance, int(test.sum()))


def gates(data: Dataset, fitted: Any, fit: Callable[[Dataset], Any]) -> list[Gate]:
    """All gates on the test rows: the first step against the text, later ones against the first, the last against an
    image filter, shuffled labels.

    Args:
        fitted: Wukong learned from the dataset. fit: dataset -> fitted Wukong, for the shuffled labels.

    Returns:
        The gates; one that this dataset cannot answer (a step that was not read, one kind of row only) says why.
    """
    from genward.ops.early import stop_step

    recipe = data.card["plan"]["recipe"]
    steps = int(recipe["sampler"]["steps"])
    read = {stop_step(s, steps) for s in recipe["steps"]}
    harm = data.harm[data.of("test")]
    lacking = (
        "" if {0.0, 1.0} <= set(harm.tolist()) else "the test split shows the concept never or always; build more rows"
    )
    first = (
        lacking
        or ("" if 0 in read else "step 0 was not read; build with --at 0,…")
        or ("" if "text" in data.states else "no part text; build with --parts text")
    )
    last = lacking or ("" if steps - 1 in read else "the last step was not read; build with --at …,0.99")
    return [
        *_answered("first step against text", first, lambda: gate_first_step(data, fitted)),
        *_answered("last step against image filter", last, lambda: [gate_last_step(data, fitted)]),
        *_answered("shuffled labels", lacking, lambda: [gate_shuffled(data, fit, step=len(data.timesteps) - 1)]),
    ]


def _answered(name: str, why: str, run: Callable[[], list[Gate]]) -> list[Gate]:
    try:
        return [Gate(name, math.nan, math.nan, None, 0, why)] if why else run()
    except GenwardError as error:  # too few rows of a kind to learn from
        return [Gate(name, math.nan, math.nan, None, 0, str(error))]
