"""``genward dataset fit``: a detector learned from a dataset, calibrated on its valid rows, and put to the gates."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genward.catalog.dataset import Dataset
from genward.catalog.gates import Gate, gates
from genward.core.records import Concept
from genward.errors import BadInput

if TYPE_CHECKING:
    from genward.core.contracts import Artifact
    from genward.models.sd import StableDiffusion

Progress = Callable[[int, int, float], None]


def fit_wukong(
    data: Dataset,
    model: StableDiffusion,
    concepts: Sequence[Concept],
    settings: Any = None,
    progress: Progress | None = None,
) -> Any:
    """Wukong learned from a dataset that is there already: weights from its train rows, temperature and thresholds from
    its valid rows.

    The epoch is chosen on clusters held out of the train rows, so nothing was chosen on the rows that calibrate. The
    card names captions and seeds of both.

    Raises:
        BadInput: the dataset lacks a label of the concepts or a site of the settings, its rows are of another model, or
            no valid row can be used.
    """
    from genward.defenses.wukong import Wukong
    from genward.ops import artifacts
    from genward.ops.tools import Tools
    from genward.ops.wukong_detector import categories_of, category_queries, site_block

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
    rows = data.of("train", "valid").nonzero()[0]
    seen = [data.rows[k] for k in rows]
    card = artifacts.fit_card(settings, concepts, model, [r["prompt"] for r in seen], [r["seed"] for r in seen], 0.0)
    return settings.fit_on(
        {s: data.states[s][rows] for s in settings.read if s in data.states},
        data.timesteps,
        data.truth[rows][:, columns],
        [r["prompt"] for r in seen],
        _parts(seen, settings),
        categories=categories,
        blocks=[site_block(model, s) for s in settings.sites],
        queries=category_queries(model, concepts),
        card=card,
        tools=Tools(progress=progress),
    )


def _parts(rows: Sequence[Mapping[str, Any]], settings: Any) -> list[str]:
    """Valid rows calibrate; of the train rows whole clusters choose the epoch, a share of ``settings.held`` of them."""
    from genward.ops.ambiguous import parts_of

    train = [k for k, r in enumerate(rows) if r["split"] == "train"]
    shares = (1 - settings.held, settings.held, 0.0)
    cut = parts_of([rows[k]["cluster"] for k in train], [rows[k]["variant"] for k in train], shares, settings.seed)
    out = ["calibrate"] * len(rows)
    for k, part in zip(train, cut, strict=True):
        out[k] = part
    return out


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


def reading(settings: Any, data: Dataset) -> Any:
    """A Wukong's settings that read what a dataset holds.

    Raises:
        BadInput: the dataset holds inputs of ``to_q`` and other sites side by side.
    """
    from genward.ops.wukong_detector import blocks_of

    blocks, tap = blocks_of(data.card["plan"]["recipe"]["sites"])
    return replace(settings, sites=blocks, tap=tap)


def fit_file(
    data: Dataset,
    model: StableDiffusion,
    concepts: Sequence[Concept],
    settings: Any,
    stem: Path,
    progress: Progress | None = None,
) -> tuple[Artifact, list[Gate]]:
    """Fit Wukong on a dataset (``fit_wukong``), save it at ``stem`` and run the gates. The shuffled labels cost a
    second training."""
    from genward.ops.artifacts import save

    began = time.perf_counter()
    fitted = fit_wukong(data, model, concepts, settings, progress)
    card = {**fitted.artifact.card, "seconds": round(time.perf_counter() - began, 2)}
    artifact = save(stem, fitted.artifact.tensors, card)
    return artifact, gates(data, fitted, lambda dealt: fit_wukong(dealt, model, concepts, settings))
