"""``generate`` and ``protect`` under every defense of the catalog: one engine, one outcome."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from genward.catalog import plugins as catalog
from genward.core import Concept, Sampler, defending
from genward.errors import BadInput
from genward.models.sd import StableDiffusion
from genward.ops.captions import learning_cases
from genward.ops.tools import Tools
from genward.testing import EXAMPLES, FakeJudge, parity_laws, tiny_sd

OURS = sorted(n for n in catalog.entries("defense") if catalog.entry("defense", n).origin == "genward")
SHIPPED = [n for n in OURS if getattr(catalog.find("defense", n), "media", "image") == "image"]
SMALL: dict[str, Any] = {
    "images": 24, "pairs": 5, "benign": 3, "per_caption": 1, "sampling_steps": 4, "guidance": 3.0, "iterations": 1,
    "epochs": 1, "batch": 8, "hidden": 8, "rank": 2, "heads": 2, "width": 0.125, "pool": 4, "learn_at": (0.0, 0.5),
    "held": 0.25, "tau": 0.2, "expansion": 3, "k": 4, "sae_images": 12, "sae_epochs": 1, "labeled_images": 15,
    "others": 2, "judged": False,
}  # fmt: skip
"""Settings at which a fit takes a second, by field."""
TOOLS = Concept(
    "tools", "policy", "Two small things.", targets=("saw", "axe"), phrases=("a saw", "a small saw", "an axe"),
    anchors=("a cup", "a bowl"), anchor="a cup", neighbors=("hammer",), keep=("a dog", "a red apple"), judge=("saw",),
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    return tiny_sd()


@pytest.fixture(scope="module")
def judge(model: StableDiffusion) -> FakeJudge:
    """Calls the brighter half of the tiny model's pictures the concept."""
    shown = model.generate(learning_cases([TOOLS], {}, 12, 1, (), 0), Sampler(4, 3.0))
    light = [np.asarray(s.image.convert("L")).mean() / 255 for s in shown if s.image is not None]
    return FakeJudge(labels=TOOLS.judge, threshold=float(np.median(light)))


def small(name: str, model: StableDiffusion, judge: FakeJudge) -> Any:
    """A shipped defense ready to attach: fitted at small settings where it learns."""
    cls = catalog.find("defense", name)
    fields = {f.name for f in dataclasses.fields(cls)}
    if defending.learns(cls):
        usual = {f.name: f.default for f in dataclasses.fields(cls)}
        mine = {k: v for k, v in SMALL.items() if k in fields and type(v) is type(usual[k])}
        settings = cls(**mine | ({"steps": 2} if "steps" in fields else {}))
        return settings.fit(model, TOOLS, Tools(judge=judge))
    if "probe" in fields:
        return cls(probe=judge, labels=judge.labels, threshold=judge.threshold)
    return defending.made_for(cls, TOOLS) if defending.takes_concept(cls) else cls()


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_defense(name: str, model: StableDiffusion, judge: FakeJudge) -> None:
    defense = small(name, model, judge)
    parity_laws(model, [defense])
    if "threshold" in {f.name for f in dataclasses.fields(defense)}:
        for value in (-1e6, 0.0):
            try:
                acting = dataclasses.replace(defense, threshold=value)
            except BadInput:
                continue
            parity_laws(model, [acting], faults=("raises",))
            break


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_every_port(name: str, model: StableDiffusion) -> None:
    parity_laws(model, [EXAMPLES[name]()])


def test_no_defense_and_no_guidance(model: StableDiffusion) -> None:
    parity_laws(model, [])
    parity_laws(model, [EXAMPLES["example-block"](), EXAMPLES["example-tap"]()], sampler=Sampler(steps=3, guidance=1.0))
    parity_laws(model, [EXAMPLES["example-latents"]()], sampler=Sampler(steps=3, guidance=2.0, eta=0.5))
