"""``genward dataset build --counterfactual``: aligned pairs of latents that differ in the concept alone.

The kind of data that SafePatch (arXiv 2508.21099) learns from: an unsafe caption and its safe twin from one seed. A
pair is kept where the judge sees the concept in the one picture and not in the other, and where the part of the
picture that should be equal is; what is rejected is counted, by reason.

::

    folder/
      recording/                     final latents on their way; gone when all is done
      rows.jsonl                     a line a pair: captions, instruction, seed, split, difference outside
      pairs.safetensors, pairs.json  ``unsafe`` and ``safe`` (rows, c, h, w) float16, and the card; written last"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genward.core.records import Concept, Sampler, row_seed
from genward.errors import BadInput

if TYPE_CHECKING:
    from genward.models.sd import StableDiffusion

SHARES = (("train", 0.7), ("valid", 0.85), ("test", 1.0))
"""Splits and the share up to which a caption falls into each."""
STEM = "pairs"


@dataclass(frozen=True)
class PairRecipe:
    """How pairs are made and when they are aligned."""

    pairs: int = 480
    captions: int = 10
    """Captions for each target of a concept"""
    shared: float = 0.1
    """Share of the steps that both go under the safe caption"""
    area: float = 0.5
    """Share of the picture that may differ"""
    tau: float = 0.05
    """Mean difference, 0 to 1, that the rest may have"""
    sampler: Sampler = Sampler()
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.pairs, self.captions) < 1 or not (0 <= self.shared < 1 and 0 <= self.area < 1 and self.tau >= 0):
            raise BadInput(
                "counterfactual pairs: pairs and captions must be at least 1, shared and area lie in [0, 1), tau is at "
                "least 0"
            )


def split_of(caption: str, seed: int) -> str:
    """The split of a caption: all pairs of one caption are in one."""
    share = row_seed("counterfactual", seed, caption) / 2**63
    return next(name for name, end in SHARES if share < end)


def build(
    model: StableDiffusion,
    concepts: Sequence[Concept],
    words: Mapping[str, Any],
    judge: Any,
    folder: Path,
    recipe: PairRecipe = PairRecipe(),  # noqa: B008 - frozen
    *,
    batch: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write pairs of the concepts into ``folder``; returns the card. A stopped build goes on.

    Raises:
        BadInput: the folder holds pairs already or something else, the concepts name no label, or no pair was accepted.
    """
    from genward.catalog.judges import judge_hash
    from genward.defenses import _counterfactual as parts
    from genward.defenses._patch_fit import spread
    from genward.ops import artifacts
    from genward.ops.activations import record
    from genward.ops.prompt_pairs import prompt_pairs

    labels = list(dict.fromkeys(label for c in concepts for label in c.judge))
    if not concepts or not labels:
        raise BadInput("counterfactual pairs want a concept with judge labels; give --concept weapons, say")
    strange = [p.name for p in folder.iterdir() if p.name != "recording"] if folder.is_dir() else []
    if strange:
        raise BadInput(f"{folder} holds {sorted(strange)[0]}; name a new folder")
    plain = asdict(recipe) | {"judge": [str(type(judge).name), judge_hash(judge)], "labels": labels}
    tag = f"{row_seed(json.dumps(plain, sort_keys=True)):016x}"
    pairs = spread(prompt_pairs(concepts, words, recipe.captions))
    found = parts.build(
        model, pairs, recipe.pairs, partial(record, folder=folder / "recording" / tag), owner="counterfactual",
        sampler=recipe.sampler, shared=recipe.shared, area=recipe.area, tau=recipe.tau, judge=judge, labels=labels,
        seed=recipe.seed, batch=batch, progress=progress,
    )  # fmt: skip
    told = "without " + ", ".join(dict.fromkeys(t for c in concepts for t in c.targets))
    rows = [
        {"id": k, "category": "+".join(c.name for c in concepts), "prompt_unsafe": pair.concept,
         "prompt_safe": pair.safe, "instruction": told, "seed": seed, "outside": round(away, 6),
         "split": split_of(pair.concept, recipe.seed)}
        for k, (pair, seed, away) in enumerate(zip(found.pairs, found.seeds, found.outside, strict=True))
    ]  # fmt: skip
    card = {
        "method": "counterfactual",
        "model": model.spec.to_json(),
        "model_hash": model.spec.hash,
        "concepts": {c.name: c.hash for c in concepts},
        "recipe": plain,
        "accepted": len(rows),
        "rejected": found.rejected,
        "splits": dict(Counter(r["split"] for r in rows)),
    }
    artifacts.write_all({folder / "rows.jsonl": "".join(json.dumps(r) + "\n" for r in rows).encode()})
    made = artifacts.save(folder / STEM, {"unsafe": found.unsafe.half(), "safe": found.safe.half()}, card)
    _forget(folder / "recording")
    return dict(made.card)


def _forget(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
