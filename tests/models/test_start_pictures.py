"""Rows that start from pictures: the stock img2img pipeline's own pictures, whatever else is in the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from torch import Tensor

from genward.core.records import LATENTS, Case, Inputs, Sampler
from genward.errors import BadInput
from genward.models.sd import StableDiffusion
from genward.testing import tiny_sd

SAMPLER = Sampler(steps=10, guidance=3.0)


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    return tiny_sd()


def picture(model: StableDiffusion, seed: int) -> Tensor:
    return torch.rand(3, *model.size(SAMPLER), generator=torch.Generator().manual_seed(seed))


def case(name: str, strength: str, seed: int = 5, **more: str) -> Case:
    return Case(f"c{seed}", "a cat", seed=seed, inputs=Inputs({f"picture@{strength}": name, **more}))


@pytest.mark.parametrize("strength", [0.2, 0.75, 1.0])
def test_they_are_the_stock_pipelines(model: StableDiffusion, strength: float) -> None:
    start = picture(model, 1)
    mine = model.generate([case("p", str(strength))], SAMPLER, starts={"p": start})[0]
    stock = StableDiffusionImg2ImgPipeline(**model.pipe.components, requires_safety_checker=False)
    stock.set_progress_bar_config(disable=True)
    wanted = stock(
        "a cat", start[None], strength, 10, guidance_scale=3.0, generator=torch.Generator().manual_seed(5)
    ).images[0]
    assert mine.image is not None and mine.image.tobytes() == wanted.tobytes()
    assert mine.costs == {"nfe": 2 * int(10 * strength)}


def test_neighbors_do_not_matter_and_the_order_stays(model: StableDiffusion) -> None:
    starts = {"p": picture(model, 1), "q": picture(model, 2)}
    rows = [
        case("p", "0.5"),
        Case("plain", "a dog", seed=7),
        case("q", "0.5", 8),
        case("p", "0.2", 9),
        case("q", "0.2", 6),
    ]
    together = model.generate(rows, SAMPLER, starts=starts, batch=3)
    alone = [model.generate([row], SAMPLER, starts=starts)[0] for row in rows]
    assert [s.case.id for s in together] == [r.id for r in rows]
    for a, b in zip(together, alone, strict=True):
        assert a.image is not None and b.image is not None
        apart = np.asarray(a.image, np.int16) - np.asarray(b.image, np.int16)
        assert abs(apart).max() <= 1, "but for rounding in other batches"
    assert len({s.image.tobytes() for s in together if s.image is not None}) == len(rows)


def test_what_cannot_be_used_is_named(model: StableDiffusion) -> None:
    start = picture(model, 1)
    for row, starts, told in (
        (case("p", "0.5"), {}, "was not supplied"),
        (case("p", "0.5"), {"p": start * 2}, "from 0 to 1"),
        (case("p", "0.5"), {"p": start[:, 1:]}, "is wanted"),
        (case("p", "0.5"), {"p": start * torch.nan}, "from 0 to 1"),
        (case("p", "0"), {"p": start}, "strength"),
        (case("p", "nan"), {"p": start}, "strength"),
        (case("p", "much"), {"p": start}, "strength"),
        (case("p", "0.05"), {"p": start}, "leaves no step"),
        (case("p", "0.5", **{LATENTS: "x"}), {"p": start}, "several things"),
    ):
        with pytest.raises(BadInput, match=told):
            model.generate([row], SAMPLER, starts=starts)
    with model.rig() as rig, pytest.raises(BadInput, match="img2img"):
        model.generate([case("p", "0.5")], SAMPLER, starts={"p": start}, rig=rig)
