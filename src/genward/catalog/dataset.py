"""``genward dataset build``: prompt × seeds → labels of this very picture, and the denoiser's early features, on any
model.

The kind of data that Wukong (arXiv 2508.00591) learns from: one prompt may be harmless with one seed and harmful with
another, and only what the model draws decides. Rows are split by clusters of prompts, never by row, wordings can be
kept for the test apart; how many prompts change
their label between seeds is reported: what no filter of prompts can reach. Pictures are judged and dropped, never
    stored.

::

    folder/
      plan.json                          what is built: model, sampler, steps, sites, labels, judges; no other plan fits
      part-00000.safetensors, .jsonl     features in float16 (rows, steps, …), and a line per row, each whole or absent
      card.json                          counts, splits, flips; written last

``genward dataset fit`` learns a detector from it (``catalog.learning``) and runs sanity gates (``catalog.gates``), each
of which a detector that cheats would fail: at the first step, where latents are noise, it may know little more than the
text; within one prompt it should know more the later it looks; at the last step it should see what an image filter
sees; from shuffled labels it learns nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from genward.core.files import json_text
from genward.core.records import Case, Concept, Sampler, row_seed
from genward.core.settings import matched
from genward.core.spec import canonical, digest
from genward.errors import BadInput

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

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
    sites: tuple[str, ...] = ("mid_block.attentions.0.tb.0.norm2", "up_blocks.1.attentions.0.tb.0.norm2")
    parts: tuple[str, ...] = ("text",)
    """Read beside sites: ``text``, ``latents``, ``noise`` (``ops.activations.PARTS``)."""
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
    """Captions of concepts, most of them ambiguous (kinds, either of two kinds), as Wukong learns from them."""
    from genward.ops.ambiguous import ambiguous_cases

    return ambiguous_cases(concepts, words, images, seeds, (), seed, "wukong")


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

    from genward.ops.asking import judged

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
        BadInput: the folder holds another plan, a judge does not know a label or needs other media than the model
            makes, or nothing to build.
    """
    if not cases or not judges or not recipe.labels:
        raise BadInput("a dataset wants at least one prompt, one judge and one label")
    matched(model.makes, model.spec.name, judges=judges)
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

    from genward.ops.activations import collect
    from genward.ops.artifacts import write_all

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
    harm, known = data.harm.tolist(), ~data.truth.isnan()
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
            wanted = [name for name in stream.keys() if states or name == "timesteps"]  # noqa: SIM118
            found: dict[str, Tensor] = {name: stream.get_tensor(name) for name in wanted}
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
