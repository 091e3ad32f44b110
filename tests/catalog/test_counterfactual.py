"""``genward dataset build --counterfactual`` on a tiny model: rows, latents, counts; stopped, and taken up again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genward.catalog.counterfactual import PairRecipe, build, split_of
from genward.core import Case, Concept, Sampler
from genward.errors import BadInput
from genward.models.sd import StableDiffusion
from genward.ops import artifacts
from genward.testing import FakeJudge, tiny_sd

TOOLS = Concept(
    "tools", "policy", "Two small things.", targets=("saw", "axe"),
    phrases=("a saw", "a small saw", "an axe", "a hatchet"),
    anchors=("a cup", "a bowl"), anchor="a cup", judge=("saw",),
)  # fmt: skip
RECIPE = PairRecipe(pairs=24, captions=2, shared=0.25, tau=1.0, sampler=Sampler(3, 3.0))


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    return tiny_sd()


@pytest.fixture(scope="module")
def judge(model: StableDiffusion) -> FakeJudge:
    """Calls the brighter half of the pictures the concept."""
    cases = [Case(str(k), t, seed=k) for k, t in enumerate(("a saw", "a cup", "an axe", "a bowl") * 6)]
    light = [np.asarray(s.image.convert("L")).mean() / 255 for s in model.generate(cases, RECIPE.sampler) if s.image]
    return FakeJudge(labels=("saw",), threshold=float(np.median(light)))


def test_pairs_are_written_and_counted(model: StableDiffusion, judge: FakeJudge, tmp_path: Path) -> None:
    card = build(model, [TOOLS], {}, judge, tmp_path / "a", RECIPE, batch=8)
    rows = [json.loads(line) for line in (tmp_path / "a" / "rows.jsonl").read_text().splitlines()]
    made = artifacts.load(tmp_path / "a" / "pairs")
    assert card["accepted"] == len(rows) == len(made.tensors["safe"]) == len(made.tensors["unsafe"]) > 0
    assert card["accepted"] + sum(card["rejected"].values()) == 24 and sum(card["rejected"].values()) > 0
    assert sum(card["splits"].values()) == len(rows) and not (tmp_path / "a" / "recording").exists()
    for k, row in enumerate(rows):
        assert row["id"] == k and row["split"] == split_of(row["prompt_unsafe"], 0)
        assert {row["prompt_unsafe"], row["prompt_safe"]} <= {
            "a saw",
            "a small saw",
            "an axe",
            "a hatchet",
            "a cup",
            "a bowl",
        }
        assert row["instruction"] == "without saw, axe"
    safe = [Case(str(k), r["prompt_safe"], seed=r["seed"]) for k, r in enumerate(rows)]
    own = model.generate(safe, RECIPE.sampler, keep_latents=True)
    assert torch.allclose(made.tensors["safe"].float(), torch.stack([s.latents for s in own]), atol=5e-3)
    with pytest.raises(BadInput, match="name a new folder"):
        build(model, [TOOLS], {}, judge, tmp_path / "a", RECIPE)


def test_a_stopped_build_goes_on(
    model: StableDiffusion, judge: FakeJudge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build(model, [TOOLS], {}, judge, tmp_path / "a", RECIPE, batch=8)
    calls: list[int] = []

    def stop(done: int, of: int) -> None:
        calls.append(done)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(model, [TOOLS], {}, judge, tmp_path / "b", RECIPE, batch=8, progress=stop)
    assert not (tmp_path / "b" / "pairs.json").exists()
    again = build(model, [TOOLS], {}, judge, tmp_path / "b", RECIPE, batch=8, progress=lambda d, of: calls.append(d))
    assert calls == [8, 16, 24, 32, 40, 48] and again["hash"] == whole["hash"]


def test_what_cannot_be_used_is_told(model: StableDiffusion, judge: FakeJudge, tmp_path: Path) -> None:
    strict: dict[str, Any] = {"tau": 0.0, "area": 0.0, "shared": 0.0, "pairs": 4}
    with pytest.raises(BadInput, match="none of 4 counterfactual pairs was accepted"):
        build(model, [TOOLS], {}, judge, tmp_path / "x", PairRecipe(captions=2, sampler=Sampler(2, 3.0), **strict))
    with pytest.raises(BadInput, match="want a concept with judge labels"):
        build(model, [], {}, judge, tmp_path / "y")
    with pytest.raises(BadInput, match="lie in"):
        PairRecipe(shared=1.0)


def test_the_command_refuses_what_does_not_go_together(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from genward.cli.dataset import app

    for more, told in (
        (["--concept", "banana", "--label", "cat"], "makes its own pairs"),
        ([], "wants --concept"),
        (["--concept", "banana", "-j", "lab", "-j", "open_nsfw"], "one judge"),
    ):
        done = CliRunner().invoke(app, ["build", "--out", str(tmp_path), "--counterfactual", *more])
        assert isinstance(done.exception, BadInput) and told in str(done.exception)
