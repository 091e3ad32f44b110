"""Directions, selection, scores, attribution and attenuation against slow float64 loops and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf as reference_shrinkage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor

from genward.errors import BadInput
from genward.ops import heads, heads_fit


def cloud(n: int, shape: tuple[int, ...] = (3, 4), shift: float = 0.0, seed: int = 0) -> Tensor:
    """Rows whose head 1 is moved by ``shift``; others are noise of unequal scale."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *shape, generator=generator, dtype=torch.float64) * torch.linspace(
        0.5, 2, shape[-1], dtype=torch.float64
    )
    x[:, 1] += shift
    return x


def test_read_out_against_loops() -> None:
    states = torch.randn(3, 5, 4, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    for row, count in enumerate((5, 3, 1)):
        assert torch.equal(heads.read_out(states, mask, "last")[row], states[row, count - 1])
        mean = sum(states[row, t] for t in range(count)) / count
        assert torch.allclose(heads.read_out(states, mask, "mean")[row], mean, atol=1e-12)
    with pytest.raises(BadInput, match="no token"):
        heads.read_out(states, torch.zeros(3, 5), "mean")
    with pytest.raises(BadInput, match="mask"):
        heads.read_out(states, mask[:, :4], "mean")
    with pytest.raises(BadInput, match="last"):
        heads.read_out(states, mask, "first")


@pytest.mark.parametrize(("n", "d"), [(6, 8), (40, 5), (400, 3), (3, 1)])
def test_shrinkage_is_scikit_learns(n: int, d: int) -> None:
    x = cloud(n, (2, d), seed=n)
    x = x - x.mean(0)
    found = heads.ledoit_wolf(x)
    for h in range(2):
        wanted, _ = reference_shrinkage(x[:, h].numpy(), assume_centered=True)
        assert np.allclose(found[h].numpy(), wanted, atol=1e-12)


def test_directions_against_loops() -> None:
    a, b = cloud(12, shift=1.5, seed=1), cloud(9, seed=2)
    mean, lda = heads.directions(a, b, "mean"), heads.directions(a, b, "lda")
    for h in range(3):
        gap = a[:, h].numpy().mean(0) - b[:, h].numpy().mean(0)
        assert np.allclose(mean[h].numpy(), gap / np.linalg.norm(gap), atol=1e-12)
        within = np.concatenate([a[:, h] - a[:, h].mean(0), b[:, h] - b[:, h].mean(0)])
        w = np.linalg.solve(reference_shrinkage(within, assume_centered=True)[0], gap)
        assert np.allclose(lda[h].numpy(), w / np.linalg.norm(w), atol=1e-6)
    with pytest.raises(BadInput, match="lda"):
        heads.directions(a, b, "pca")
    same = heads.directions(a, a, "lda")
    assert torch.isfinite(same).all(), "no gap at all is no NaN"
    assert torch.allclose(heads.drawn_to(lda, mean, 5, 0.0), lda) and torch.allclose(
        heads.drawn_to(lda, mean, 0, 5.0), mean
    )


def test_auroc_is_scikit_learns() -> None:
    a, b = torch.randint(0, 4, (15, 3)).double(), torch.randint(0, 4, (11, 3)).double()
    found = heads.aurocs(a, b)
    labels = [1] * 15 + [0] * 11
    assert np.allclose(found.numpy(), [roc_auc_score(labels, torch.cat([a, b])[:, h].numpy()) for h in range(3)])


def test_the_head_that_tells_is_chosen_and_the_score_is_linear() -> None:
    a, b = cloud(40, shift=2.0, seed=3), cloud(50, seed=4)
    fit = heads_fit.fit_heads(a, b, count=1)
    assert fit.chosen == (1,) and fit.auroc[0] > 0.95 and bool((fit.weight[[0, 2]] == 0).all())
    direction = heads.lda(a, b)[1]
    pa, pb = a[:, 1] @ direction, b[:, 1] @ direction
    spread = torch.sqrt((((pa - pa.mean()) ** 2).sum() + ((pb - pb.mean()) ** 2).sum()) / (len(a) + len(b) - 2))
    wanted = (torch.cat([pa, pb]) - (pa.mean() + pb.mean()) / 2) / spread
    found = torch.einsum("nhd,hd->n", torch.cat([a, b]), fit.weight) + fit.bias
    assert torch.allclose(found, wanted, atol=1e-9)


def test_shuffled_labels_tell_nothing() -> None:
    values = []
    for seed in range(8):
        x = cloud(200, shift=0.0, seed=10 + seed)
        fit = heads_fit.fit_heads(x[:100], x[100:], count=0, seed=seed)
        values.append(roc_auc_score([1] * 100 + [0] * 100, fit.scores.numpy()))
    assert abs(float(np.mean(values)) - 0.5) < 0.05, "out-of-fold scores of random labels carry no information"


def test_units_are_never_parted() -> None:
    names = [f"u{k // 4}" for k in range(40)]
    where, folds = heads.unit_folds(names, 40, 0)
    assert folds == heads.FOLDS and all(
        len({int(where[k]) for k in range(40) if names[k] == u}) == 1 for u in set(names)
    )
    # one sentence in many contexts: without units its copies in other folds give it away
    base = cloud(8, shift=0.0, seed=5)
    a, b = base[:4].repeat_interleave(10, 0), base[4:].repeat_interleave(10, 0)
    units = ([k // 10 for k in range(40)], [k // 10 for k in range(40)])
    leaky = heads_fit.fit_heads(a, b, count=0).scores
    honest = heads_fit.fit_heads(a, b, count=0, units=units).scores
    labels = [1] * 40 + [0] * 40
    assert roc_auc_score(labels, leaky.numpy()) > 0.99 > roc_auc_score(labels, honest.numpy())


def test_regressions_against_scikit_learn() -> None:
    a, b = cloud(60, shift=1.0, seed=6), cloud(30, seed=7)
    x = torch.cat([a, b]).flatten(1)
    y = torch.cat([torch.ones(60), torch.zeros(30)])
    ours = [heads_fit.logistic(x, y, 2.0), heads_fit.ridge_logistic(x, y, 2.0)]
    theirs = LogisticRegression(C=0.5, class_weight="balanced", max_iter=2000, tol=1e-10).fit(x.numpy(), y.numpy())
    for weight, bias in ours:
        assert np.allclose(weight.numpy(), theirs.coef_[0], atol=2e-3) and abs(bias - theirs.intercept_[0]) < 2e-3
    doubled = heads_fit.ridge_logistic(torch.cat([x, x[:20]]), torch.cat([y, y[:20]]), 2.0, torch.ones(110))
    weighed = heads_fit.ridge_logistic(x, y, 2.0 * 90 / 110, torch.cat([torch.full((20,), 2.0), torch.ones(70)]))
    assert torch.allclose(doubled[0], weighed[0], atol=1e-3), "a row of weight 2 is two rows"
    narrow = heads_fit.ridge_logistic(x.float(), y, 2.0)
    assert narrow[0].dtype == torch.float32 and torch.allclose(narrow[0].double(), ours[1][0], atol=5e-2)
    joint = heads_fit.fit_joint(a, b, penalty=2.0)
    scores = torch.einsum("nhd,hd->n", torch.cat([a, b]), joint.weight) + joint.bias
    assert roc_auc_score(y.numpy(), scores.numpy()) > 0.8 and joint.chosen[0] == 1


def test_tables_and_weights_are_inverse() -> None:
    sample = {"text.0.heads": torch.randn(5, 8), "text.1.heads": torch.randn(5, 8), "text_2.0.heads": torch.randn(5, 6)}
    counts, widths = (
        {"text.0.heads": 2, "text.1.heads": 2, "text_2.0.heads": 3},
        {k: v.shape[1] for k, v in sample.items()},
    )
    table = heads.head_table(sample, counts)
    assert table.shape == (5, 7, 4) and bool((table[:, 4:, 2:] == 0).all())
    weight = torch.randn(2, 7, 4, dtype=torch.float64)
    weight[:, 4:, 2:] = 0
    found = heads.linear_scores(
        sample, {s: w.float() for s, w in heads.site_weights(weight, counts, widths).items()}, torch.tensor([1.0, -1.0])
    )
    wanted = torch.einsum("nhd,khd->nk", table, weight) + torch.tensor([1.0, -1.0])
    assert torch.allclose(found.double(), wanted, atol=1e-5)


def test_attenuation_against_a_loop() -> None:
    states, weight, center = (
        torch.randn(2, 3, 8, dtype=torch.float64),
        torch.randn(8, dtype=torch.float64),
        torch.tensor([0.3, -0.2]),
    )
    weight[4:] = 0
    assert heads.attenuate(states, weight, 0.0, 2) is states
    found = heads.attenuate(states, weight, 0.7, 2, center)
    wanted = states.clone()
    for n in range(2):
        for t in range(3):
            w, z = weight[:4], states[n, t, :4]
            wanted[n, t, :4] = z - 0.7 * max(0.0, float(w @ z) - 0.3) * w / float(w @ w)
    assert torch.allclose(found, wanted, atol=1e-7) and torch.equal(found[..., 4:], states[..., 4:])
    full = heads.attenuate(states, weight, 1.0, 2, center)
    along = full[..., :4] @ weight[:4]
    assert float(along.max()) <= 0.3 + 1e-6, "at 1 nothing is left above the center"


def test_thresholds() -> None:
    scores = list(range(100))
    assert heads.threshold_at(scores, 0.05) == 95 and sum(s > 95 for s in scores) == 4
    assert heads.threshold_at(scores, 0.0099) > 99, "100 rows cannot promise 1 in 101; the normal bound stands in"
    assert heads.threshold_at([0.0, 0.0, 0.0], 0.01) == 0.0
    hits = []
    for seed in range(200):
        x = np.random.default_rng(seed).normal(size=60)
        hits.append(float((np.random.default_rng(900 + seed).normal(size=400) > heads.threshold_at(x, 0.05)).mean()))
    assert 0.03 < float(np.mean(hits)) < 0.055, "the promised rate holds for new rows"
    for bad in ([1.0], [1.0, float("nan")]):
        with pytest.raises(BadInput):
            heads.threshold_at(bad, 0.05)
    with pytest.raises(BadInput, match="between 0 and 1"):
        heads.threshold_at(scores, 0.0)


def test_too_little_is_named() -> None:
    a = cloud(5)
    with pytest.raises(BadInput, match="at least 2"):
        heads_fit.fit_heads(a[:1], a)
    with pytest.raises(BadInput, match="finite"):
        heads_fit.fit_heads(a * float("nan"), a)
    with pytest.raises(BadInput, match="one unit"):
        heads_fit.fit_heads(a, a, units=([0] * 5, [0] * 5))
    with pytest.raises(BadInput, match="different heads"):
        heads_fit.fit_heads(a, a[:, :2])
    with pytest.raises(BadInput, match="combine"):
        heads_fit.fit_heads(a, a, combine="sum")
