"""Localization and perturbation against loops over single numbers in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from genward.errors import BadInput
from genward.ops import localize


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear between cell centers, one output cell at a time."""
    h, w = image.shape
    out = torch.zeros(size, dtype=torch.float64)
    for i, j in itertools.product(range(size[0]), range(size[1])):
        y = min(max((i + 0.5) * h / size[0] - 0.5, 0), h - 1)
        x = min(max((j + 0.5) * w / size[1] - 0.5, 0), w - 1)
        y0, x0 = int(y), int(x)
        y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
        top = (1 - (x - x0)) * image[y0, x0] + (x - x0) * image[y0, x1]
        low = (1 - (x - x0)) * image[y1, x0] + (x - x0) * image[y1, x1]
        out[i, j] = (1 - (y - y0)) * top + (y - y0) * low
    return out


@pytest.mark.parametrize(
    ("cells", "height", "width", "wanted"),
    [(256, 16, 16, (16, 16)), (256, 64, 64, (16, 16)), (64, 16, 16, (8, 8)), (6, 5, 3, (3, 2)), (1, 8, 8, (1, 1))],
)
def test_grid(cells: int, height: int, width: int, wanted: tuple[int, int]) -> None:
    assert localize.grid(cells, height, width) == wanted


def test_grid_that_fits_nothing() -> None:
    with pytest.raises(BadInput, match="choose other layers"):
        localize.grid(100, 16, 16)


@pytest.mark.parametrize("size", [(4, 6), (9, 5), (2, 3), (3, 4)])
def test_resize(size: tuple[int, int]) -> None:
    maps = some(2, 3, 3, 4)
    fast = localize.resize(maps, size)
    for r, k in itertools.product(range(2), range(3)):
        assert torch.allclose(fast[r, k], slow_resize(maps[r, k], size), atol=1e-12)
    assert localize.resize(maps, (3, 4)) is maps


def test_word_maps_in_order() -> None:
    """Two localizers, two layers of unlike size: (rows, groups, words) with one group a layer and head, words of all
    localizers in it."""
    a, b = torch.softmax(some(2 * 2, 2, 16, 5), -1), torch.softmax(some(2 * 2, 3, 4, 5, seed=1), -1)
    words = [[1, 3], [2]]
    fast = localize.word_maps({"a": a, "b": b}, words, (4, 4), (4, 4))
    assert fast.shape == (2, 5, 3, 4, 4)
    for row, (at, (n, t)) in itertools.product(range(2), enumerate([(0, 1), (0, 3), (1, 2)])):
        for group in range(5):
            layer, head = (a, group) if group < 2 else (b, group - 2)
            edge = 4 if group < 2 else 2
            cells = torch.tensor(
                [
                    [math.log(max(1e-6, float(layer[n * 2 + row, head, i * edge + j, t]))) for j in range(edge)]
                    for i in range(edge)
                ],
                dtype=torch.float64,
            )
            assert torch.allclose(fast[row, group, at].double(), slow_resize(cells, (4, 4)), atol=1e-5)


def test_mass_contrast() -> None:
    maps, mean, std = some(2, 3, 4, 2, 2), some(3, seed=1), some(3, seed=2).abs() + 0.1
    fast = localize.mass_contrast(maps, mean, std)
    for r, i, j in itertools.product(range(2), range(2), range(2)):
        slow = (
            sum((max(float(maps[r, g, w, i, j]) for w in range(4)) - float(mean[g])) / float(std[g]) for g in range(3))
            / 3
        )
        assert float(fast[r, i, j]) == pytest.approx(slow, abs=1e-12)


def test_contrast_does_not_normalize_to_its_own_picture() -> None:
    """Adding a constant to a whole picture must move its contrast by that much: min-max normalization would hide it."""
    maps, mean, std = some(1, 2, 1, 3, 3), torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    assert torch.allclose(localize.mass_contrast(maps - 5, mean, std), localize.mass_contrast(maps, mean, std) - 5)


def test_discriminant_against_the_formula() -> None:
    positive, negative = some(30, 4) + torch.tensor([1.0, 0.0, 0.0, 2.0]), some(40, 4, seed=1) * 2
    mean, weight = localize.discriminant(positive, negative, 0.3)
    m0, s0 = negative.mean(0), negative.std(0)
    a, b = (positive - m0) / s0, (negative - m0) / s0
    scatter = torch.zeros(4, 4, dtype=torch.float64)
    for group in (a, b):
        center = sum(group) / len(group)
        for row in group:
            scatter += torch.outer(row - center, row - center)
    covariance = scatter / 68
    level = sum(float(covariance[k, k]) for k in range(4)) / 4
    slow = (
        torch.linalg.inv(0.7 * covariance + 0.3 * level * torch.eye(4, dtype=torch.float64))
        @ (a.mean(0) - b.mean(0))
        / s0
    )
    assert torch.allclose(mean, m0) and torch.allclose(weight, slow, atol=1e-6)
    score = localize.read_out(torch.cat([positive, negative]), mean, weight)
    assert float(score[:30].mean()) > 1 and abs(float(score[30:].mean())) < 1e-9
    assert float(score[3]) == pytest.approx(sum(float((positive[3, k] - m0[k]) * weight[k]) for k in range(4)))


def test_log_odds_is_the_ratio_of_two_normal_laws() -> None:
    mean, std, effect = 1.5, 0.7, 2.2
    x = some(20)

    def law(v: float, center: float) -> float:
        return math.exp(-(((v - center) / std) ** 2) / 2)

    slow = torch.tensor(
        [math.log(law(float(v), mean + effect * std) / law(float(v), mean)) for v in x], dtype=torch.float64
    )
    assert torch.allclose(localize.log_odds(x, mean, std, effect), slow)
    assert not localize.log_odds(x, mean, std, 0.0).any()


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_limit_keeps_the_rate(rate: float) -> None:
    """Over many draws of 150 calibration rows, a fresh benign row exceeds the threshold at most ``rate`` of the
    time."""
    draws = some(4000, 151)
    share = sum(float(row[150]) > localize.limit(row[:150], rate) for row in draws) / len(draws)
    assert share <= rate + 3 * math.sqrt(rate / len(draws)) and share > rate / 3
    assert localize.limit(torch.arange(19.0), 0.05) == 18.0


def test_limit_needs_rows() -> None:
    with pytest.raises(BadInput, match="at least 19"):
        localize.limit(torch.arange(18.0), 0.05)
    with pytest.raises(BadInput, match="between 0 and 1"):
        localize.limit(torch.arange(18.0), 0.0)


@pytest.mark.parametrize("radius", [0, 1, 2])
def test_dilate(radius: int) -> None:
    mask = some(2, 6, 5) > 1.2
    fast = localize.dilate(mask, radius)
    for r, i, j in itertools.product(range(2), range(6), range(5)):
        near = [mask[r, y, x] for y in range(6) for x in range(5) if max(abs(y - i), abs(x - j)) <= radius]
        assert bool(fast[r, i, j]) == any(map(bool, near))


def test_masks_are_cut_after_resizing() -> None:
    contrast = some(2, 3, 3)
    fast = localize.masks(contrast, (6, 6), 0.3, 1)
    for r in range(2):
        assert torch.equal(fast[r], localize.dilate((slow_resize(contrast[r], (6, 6)) > 0.3)[None], 1)[0])
    assert not localize.masks(contrast, (6, 6), 99.0, 2).any(), "an absolute threshold may find nothing"


def test_elsewhere_keeps_area_and_shape() -> None:
    mask = some(6, 5) > 0.5
    for shift, flip in itertools.product([(0, 0), (2, 4)], itertools.product([False, True], repeat=2)):
        moved = localize.elsewhere(mask, shift, flip)
        assert moved.sum() == mask.sum()
        for i, j in itertools.product(range(6), range(5)):
            y, x = (i - shift[0]) % 6, (j - shift[1]) % 5
            assert moved[i, j] == mask[5 - y if flip[0] else y, 4 - x if flip[1] else x]


def slow_perturb(z: Tensor, mask: Tensor, s: float, noise: Tensor, form: str, blank: Tensor, a: float) -> Tensor:
    out = z.clone()
    for r in range(len(z)):
        values = [float(v) for v in z[r].flatten()]
        center = sum(values) / len(values)
        spread = math.sqrt(sum((v - center) ** 2 for v in values) / (len(values) - 1))
        for c, i, j in itertools.product(*map(range, z.shape[1:])):
            v, e = float(z[r, c, i, j]), float(noise[r, c, i, j])
            if not mask[r, i, j]:
                continue
            if form == "renoise":
                out[r, c, i, j] = math.sqrt(1 - s) * v + math.sqrt(s) * spread * e
            elif form == "noise":
                out[r, c, i, j] = v + s * spread * e
            else:
                out[r, c, i, j] = (
                    (1 - s) * v
                    + s * math.sqrt(a) * float(blank[c, i, j])
                    + math.sqrt(1 - (1 - s) ** 2) * math.sqrt(1 - a) * e
                )
    return out


@pytest.mark.parametrize("form", localize.FORMS)
@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
def test_perturb(form: str, strength: float) -> None:
    z, noise, blank, mask = some(3, 2, 4, 4), some(3, 2, 4, 4, seed=1), some(2, 4, 4, seed=2), some(3, 4, 4, seed=3) > 0
    fast = localize.perturb(z, mask, strength, noise, form, blank=blank, alpha=0.3)
    assert torch.allclose(fast, slow_perturb(z, mask, strength, noise, form, blank, 0.3), atol=1e-6)
    outside = ~mask[:, None].expand_as(z)
    assert torch.equal(fast[outside], z[outside]), "bit-equal outside the mask"
    assert strength > 0 or fast is z


def test_variance_stays_where_it_should() -> None:
    z, noise, everywhere = some(4, 4, 64, 64), some(4, 4, 64, 64, seed=1), torch.ones(4, 64, 64, dtype=torch.bool)
    assert localize.perturb(z, everywhere, 0.5, noise).std() == pytest.approx(1.0, abs=0.02)
    assert localize.perturb(z, everywhere, 0.5, noise, "noise").std() == pytest.approx(math.sqrt(1.25), abs=0.02)
    level, blank = 0.36, torch.zeros(4, 64, 64, dtype=torch.float64)
    pure = math.sqrt(1 - level) * z  # the noise part of a step's latents
    assert localize.perturb(pure, everywhere, 0.5, noise, "blank", blank=blank, alpha=level).std() == pytest.approx(
        0.8, abs=0.02
    )


def test_bad_perturbations() -> None:
    z, mask = some(1, 2, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool)
    with pytest.raises(BadInput, match="'blank'"):
        localize.perturb(z, mask, 0.5, z, "blur")
    with pytest.raises(BadInput, match="blank picture"):
        localize.perturb(z, mask, 0.5, z, "blank")
    z.requires_grad_(True)
    localize.perturb(z, mask, 0.5, some(1, 2, 4, 4)).sum().backward()
    assert z.grad is not None and torch.allclose(z.grad, torch.full_like(z, math.sqrt(0.5))), (
        "gradients pass through the perturbation"
    )
