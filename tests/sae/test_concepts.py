"""Scores, thresholds, assignment, losses and fillings against slow float64 computations."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from genward.core import Concept
from genward.errors import BadArtifact, BadInput
from genward.ops import artifacts
from genward.sae import concepts as ops
from genward.sae import supervised as sae_supervised
from genward.sae.autoencoder import Sae
from genward.sae.edit import filled, flagged_tokens, grown
from genward.sae.fit import captions_of, classes_of, drawn_cases
from genward.sae.supervised import Supervision
from genward.sae.training import Maps, unit_rows

N, D, T = 12, 5, 3


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_sae() -> Sae:
    return Sae(rand(N, D, seed=1) - 0.5, rand(N, seed=2) / 9, unit_rows(rand(N, D, seed=3) - 0.5), rand(D, seed=4), 4)


def test_scores_floors_and_percentile_by_loops() -> None:
    table = rand(4, T, N)
    found = ops.scores(table, 1, [0, 3])
    for t in range(T):
        pooled = [(float(table[0, t, i]) + float(table[3, t, i])) / 2 for i in range(N)]
        for i in range(N):
            mine = float(table[1, t, i]) / (sum(table[1, t].tolist()) + 1e-8)
            assert float(found[t, i]) == pytest.approx(mine - pooled[i] / (sum(pooled) + 1e-8), abs=1e-12)
            assert float(ops.floors(table)[t, i]) == pytest.approx(sum(float(table[c, t, i]) for c in range(4)) / 4)
        for percentile in (50, 80, 99.95):
            above = ops.above_percentile(found, percentile)[t].numpy()
            assert (above == (found[t].numpy() > np.percentile(found[t].numpy(), percentile))).all()
    assert ops.above_percentile(found, 99.999).sum(1).tolist() == [1] * T
    published = torch.from_numpy(np.random.default_rng(0).random((1, 20_480)))
    assert [int(ops.above_percentile(published, p).sum()) for p in (99.999, 99.995, 99.99)] == [1, 2, 3]


def means(table: Tensor, names: int) -> ops.Means:
    return ops.Means(tuple(map(str, range(names))), torch.tensor([1.0, 251.0, 501.0]), table)


def test_latents_by_score_and_by_assignment() -> None:
    table, sae = rand(5, T, N), some_sae()
    found = ops.scored_latents(means(table, 5), 2, 85, sae)
    for t in range(T):
        chosen = {}
        for target in range(2):
            score = ops.scores(table, target, [2, 3, 4])[t]
            for i in (score > np.percentile(score.numpy(), 85)).nonzero().flatten().tolist():
                chosen[i] = max(chosen.get(i, 0.0), float(table[target, t, i]))
        at = dict(zip(found.latents.tolist(), found.mean[t].tolist(), strict=True))
        assert {i for i, on in zip(found.latents.tolist(), found.chosen[t].tolist(), strict=True) if on} == set(chosen)
        assert all(at[i] == pytest.approx(v) for i, v in chosen.items())
    owned = ops.assigned_latents(means(table, 5), [7, 2], sae)
    assert owned.latents.tolist() == [7, 2] and torch.equal(
        owned.mean, torch.stack([table[0, :, 7], table[1, :, 2]], 1)
    )
    assert bool(owned.chosen.all()) and torch.equal(owned.floor, table.mean(0)[:, [7, 2]])


def test_the_control_takes_as_many_others_that_fire() -> None:
    table, sae = rand(5, T, N), some_sae()
    table[0, :, 9:] = 0  # three latents never fire in the target's pictures
    found = ops.scored_latents(means(table, 5), 1, 95, sae)
    drawn = ops.random_latents(means(table, 5), found, 1, 0)
    assert len(set(drawn.latents.tolist())) == len(found.latents)
    assert not set(drawn.latents.tolist()) & {*found.latents.tolist(), 9, 10, 11}
    assert torch.equal(drawn.chosen, found.chosen)
    for m, latent in enumerate(drawn.latents.tolist()):
        for t in range(T):
            assert float(drawn.mean[t, m]) == float(table[0, t, latent])
            assert float(drawn.floor[t, m]) == pytest.approx(sum(float(table[c, t, latent]) for c in range(5)) / 5)
    assert torch.equal(ops.random_latents(means(table, 5), found, 1, 0).latents, drawn.latents)
    few = found._replace(latents=torch.arange(6))
    with pytest.raises(BadInput, match="only 3 others"):
        ops.random_latents(means(table, 5), few, 1, 0)


def test_statistics_are_keyed_by_timestep() -> None:
    found = ops.assigned_latents(means(rand(3, T, N), 3), [4], some_sae())
    floor, mean = found.at(torch.tensor([501.0, 1.0, 126.0, 740.0]))
    wanted = [found.floor[2], found.floor[0], (found.floor[0] + found.floor[1]) / 2, found.floor[2]]
    assert torch.allclose(floor.double(), torch.stack(wanted), atol=1e-6) and mean.shape == (4, 1)
    with pytest.raises(BadInput, match="noise level"):
        found.at(torch.tensor([760.0]))
    off = found._replace(chosen=torch.tensor([[True], [True], [False]]))
    assert float(off.at(torch.tensor([490.0]))[0]) == pytest.approx(ops.NEVER)
    single = ops.Latents(*(t[:1] if 1 < k < 6 else t for k, t in enumerate(found)))  # type: ignore[arg-type]
    assert float(single.at(torch.tensor([1.5]))[0]) == pytest.approx(float(found.floor[0]))


def test_artifacts_of_other_shapes_are_refused() -> None:
    found = ops.assigned_latents(means(rand(3, T, N), 3), [4, 9], some_sae())
    tensors, card = found.tensors(), {"k": 4}
    back = ops.latents_of(artifacts.make(tensors, card), "saeuron")
    assert back.latents.tolist() == [4, 9] and torch.allclose(back.floor.double(), found.floor)
    decoder = some_sae().decoder.half().float()
    assert not back.whole and torch.equal(back.sae.decoder[[4, 9]], decoder[[4, 9]])
    assert int((back.sae.decoder != 0).any(1).sum()) == 2, "rows that no edit decodes are not kept"
    full = ops.latents_of(artifacts.make(found.tensors(whole=True), card), "saeuron")
    assert full.whole and torch.equal(full.sae.decoder, decoder) and torch.equal(full.sae.encoder, back.sae.encoder)
    broken = (
        {**tensors, "latents": torch.tensor([4.0, 12.0])},
        {**tensors, ops.ROWS: tensors[ops.ROWS][:1]},
        {**tensors, "floor": tensors["floor"][:, :1]},
        {**tensors, "timesteps": tensors["timesteps"][:2]},
        {n: t for n, t in tensors.items() if n != "chosen"},
    )
    for wrong in broken:
        with pytest.raises(BadArtifact):
            ops.latents_of(artifacts.make(wrong, card), "saeuron")
    with pytest.raises(BadArtifact):
        ops.latents_of(artifacts.make(tensors, {"k": 40}), "saeuron")
    with pytest.raises(BadInput, match="learned nothing"):
        ops.latents_of(None, "saeuron")


# ---------------------------------------------------------------------------------------------------------- supervision


def test_alignment_in_every_form() -> None:
    activity, present = 4 * rand(6, 3) - 2, rand(6, 3, seed=1) < 0.4
    sigma = [[1 / (1 + math.exp(-v)) for v in row] for row in activity.tolist()]
    pairs = [
        -math.log(s) for row, on in zip(sigma, present.tolist(), strict=True) for s, o in zip(row, on, strict=True) if o
    ]
    assert float(sae_supervised.alignment(activity, present, "positives")) == pytest.approx(sum(pairs) / len(pairs))
    every = [
        -math.log(s if o else 1 - s)
        for row, on in zip(sigma, present.tolist(), strict=True)
        for s, o in zip(row, on, strict=True)
    ]
    assert float(sae_supervised.alignment(activity, present, "negatives")) == pytest.approx(sum(every) / 18)
    rest = (sum(every) - sum(pairs)) / (18 - len(pairs))
    both = (sum(pairs) / len(pairs) + rest) / 2
    assert float(sae_supervised.alignment(activity, present, "balanced")) == pytest.approx(both)
    nothing = torch.zeros(6, 3, dtype=torch.bool)
    assert float(sae_supervised.alignment(activity, nothing, "positives")) == 0
    assert float(sae_supervised.alignment(activity, ~nothing, "balanced")) == pytest.approx(
        float(sae_supervised.alignment(activity, ~nothing, "positives"))
    )


def test_labels_look_at_the_largest_eighth_or_at_all() -> None:
    values = rand(3, 20, 2)
    top, mean = sae_supervised.pooled(values, "top"), sae_supervised.pooled(values, "mean")
    for m in range(3):
        for c in range(2):
            column = sorted(values[m, :, c].tolist(), reverse=True)
            assert float(top[m, c]) == pytest.approx(sum(column[:3]) / 3)  # 20 / 8, rounded up
            assert float(mean[m, c]) == pytest.approx(sum(column) / 20)


@pytest.mark.parametrize("rows", [2, 7, 64])
def test_squared_correlation_knows_no_batch_size(rows: int) -> None:
    column = 1e-3 * rand(rows, 1) + 3
    assert float(sae_supervised.squared_correlation(column, column)) == pytest.approx(1, abs=1e-6)
    assert float(sae_supervised.squared_correlation(column, -2 * column + 1)) == pytest.approx(1, abs=1e-6)
    assert float(sae_supervised.squared_correlation(column, torch.ones(rows, 1).double())) == 0
    a, b = rand(rows, 3, seed=2), rand(rows, 2, seed=3)
    wanted = np.corrcoef(a.numpy().T, b.numpy().T)[:3, 3:] ** 2
    assert np.allclose(sae_supervised.squared_correlation(a, b).numpy(), wanted, atol=1e-5)


def test_decorrelation_spares_pairs_within_a_group() -> None:
    column = 50 * rand(9, 1)
    style = torch.tensor([False, False, True])
    alike = torch.cat([column, column, 50 * rand(9, 1, seed=4)], 1)
    wanted = float(sae_supervised.squared_correlation(column, alike[:, 2:]))
    assert float(sae_supervised.decorrelation(alike, style)) == pytest.approx(wanted)
    assert float(sae_supervised.decorrelation(alike, torch.zeros(3, dtype=torch.bool))) == 0


def test_the_whole_loss_is_weighed_as_published() -> None:
    sae, x = some_sae(), 3 * rand(8, 6, D)
    assigned, style = torch.tensor([3, 5, 9]), torch.tensor([False, False, True])
    present = rand(8, 3, seed=6) < 0.5
    for form, pool in itertools.product(sae_supervised.FORMS, sae_supervised.POOLS):
        plan = Supervision(loss=form, pool=pool)
        found = sae_supervised.loss_of(x, sae, assigned, present, style, plan)
        assert (plan.beta, plan.eta, plan.sparsity) == (3.0, 0.1, 0.01)
        total = float(found.mse) + 3.0 * (float(found.ca) + 0.1 * float(found.dc)) + 0.01 * float(found.l1)
        assert float(found.total) == pytest.approx(total)
        inner = (x - sae.bias) @ sae.encoder.T + sae.encoder_bias
        assert float(found.l1) == pytest.approx(float(inner.clamp(0, 100).mean()))
        mine = (inner.clamp(min=0) if form == "positives" else inner)[..., assigned]
        wanted = sae_supervised.alignment(sae_supervised.pooled(mine, pool), present, form)
        assert float(found.ca) == pytest.approx(float(wanted))
        part = sae_supervised.loss_of(x, sae, assigned, present, style, plan, torch.tensor([4, 1]))
        assert (float(part.ca), float(part.dc)) == pytest.approx((float(found.ca), float(found.dc)))
        few = sae_supervised.loss_of(x[:, [4, 1]], sae, assigned, present, style, plan)
        assert (float(part.mse), float(part.l1)) == pytest.approx((float(few.mse), float(few.l1)))


def test_a_step_reconstructs_so_many_tokens_and_no_other() -> None:
    random = torch.Generator().manual_seed(0)
    drawn = [sae_supervised.some_tokens(6, Supervision(tokens=2), random) for _ in range(40)]
    assert {len(set(d.tolist())) for d in drawn if d is not None} == {2}
    assert {t for d in drawn if d is not None for t in d.tolist()} == set(range(6))
    assert sae_supervised.some_tokens(6, Supervision(tokens=0), random) is None
    assert sae_supervised.some_tokens(6, Supervision(tokens=6), random) is None


def test_assignment_is_the_best_one_and_greedy_is_as_published() -> None:
    table, style = rand(4, 6, seed=9), torch.tensor([True, False, False, True])
    found = sae_supervised.assign(table, style, "hungarian")
    best = max(itertools.permutations(range(6), 4), key=lambda p: sum(float(table[c, i]) for c, i in enumerate(p)))
    assert found == list(best)
    crowded = torch.tensor([[0.9, 0.8, 0.1], [0.7, 0.6, 0.2], [0.95, 0.1, 0.3]], dtype=torch.float64)
    kinds = torch.tensor([False, False, True])
    assert sae_supervised.assign(crowded, kinds, "greedy") == [0, 1, 2], "objects first, then by best score"
    unseen = torch.cat([torch.full((1, 3), torch.nan, dtype=torch.float64), crowded[:2]])
    assert sae_supervised.assign(unseen, torch.zeros(3, dtype=torch.bool), "greedy") == [2, 0, 1]
    with pytest.raises(BadInput, match="larger expansion"):
        sae_supervised.assign(rand(4, 3), style, "greedy")


def test_concept_scores_by_loops() -> None:
    sae, x = some_sae(), 3 * rand(10, 4, D)
    maps = Maps(x, torch.arange(10) // 2, torch.tensor([1.0, 501.0] * 5))
    present = torch.tensor([[True, False, False]] * 2 + [[False, True, False]] * 3)
    parts = iter([Maps(*(t[:3] for t in maps)), Maps(*(t[3:] for t in maps))])
    found = sae_supervised.concept_scores(parts, sae, present)
    code = ops.encode(x, sae).mean(1)
    for c in (0, 1):
        total = torch.zeros(N, dtype=torch.float64)
        for time in (1.0, 501.0):
            here = (maps.timestep == time) & present[maps.case][:, c]
            there = (maps.timestep == time) & ~present[maps.case][:, c]
            mine, theirs = code[here].mean(0), code[there].mean(0)
            total += mine / (mine.sum() + 1e-8) - theirs / (theirs.sum() + 1e-8)
        assert torch.allclose(found[c], total / 2, atol=1e-12)
    assert bool(torch.isnan(found[2]).all()) and sae_supervised.peak(found) == pytest.approx(
        float(found[:2].max(1).values.mean())
    )


def test_bad_supervision_and_missing_latents() -> None:
    for fields in (
        {"loss": "x"},
        {"assign": "x"},
        {"pool": "x"},
        {"tokens": -1},
        {"epochs": 0},
        {"lr": 0.0},
        {"beta": -1.0},
    ):
        with pytest.raises(BadInput):
            dataclasses.replace(Supervision(), **fields)
    made = artifacts.make({"x": torch.ones(1)}, {"assigned": [["saw", "object", 3], ["blob", "style", 0]]})
    assert sae_supervised.assigned_to(made, ["blob", "saw"]) == [0, 3]
    with pytest.raises(BadInput, match="no latent belongs to 'axe'"):
        sae_supervised.assigned_to(made, ["axe"])


# -------------------------------------------------------------------------------------------------------------- filling


@pytest.mark.parametrize("neighbors", [1, 5, 50])
def test_filling_by_loops(neighbors: int) -> None:
    grid, x = (4, 5), rand(3, 20, D)
    flagged = rand(3, 20, seed=5) < 0.4
    flagged[1] = False
    flagged[2] = True
    found = filled(x, flagged, grid, neighbors, torch.full((D,), 9.0, dtype=torch.float64))
    assert torch.equal(found[~flagged], x[~flagged]) and torch.equal(found[1], x[1])
    assert torch.equal(found[2], torch.full((20, D), 9.0, dtype=torch.float64)), "nothing is left to fill it from"
    for place in flagged[0].nonzero().flatten().tolist():
        free = [p for p in range(20) if not flagged[0, p]]
        near = sorted(free, key=lambda p: (math.dist(divmod(p, 5), divmod(place, 5)), p))[:neighbors]
        assert torch.allclose(found[0, place], sum(x[0, p] for p in near) / len(near), atol=1e-12)


def test_flags_are_where_a_latent_exceeds_its_floor() -> None:
    sae, x = some_sae(), 3 * rand(2, 9, D)
    code = ops.encode(x, sae)
    found = ops.assigned_latents(means(rand(3, T, N), 3), code.sum((0, 1)).topk(2).indices.tolist(), sae)
    floor = torch.stack([code[0][:, found.latents].mean(0), torch.full((2,), ops.NEVER, dtype=torch.float64)])
    hit = flagged_tokens(x, found, floor)
    assert torch.equal(hit[0], (code[0][:, found.latents] > floor[0]).any(1)) and 0 < int(hit[0].sum()) < 9
    assert not hit[1].any()
    one = torch.zeros(1, 9, dtype=torch.bool)
    one[0, 0] = True
    assert grown(one, (3, 3), 1).nonzero()[:, 1].tolist() == [0, 1, 3, 4] and torch.equal(grown(one, (3, 3), 0), one)


# ------------------------------------------------------------------------------------------------------------- captions

WORDS = {
    "styles": ["noto", "blob"],
    "things": {
        "saw": {"name": ["a saw"], "synonym": ["a hacksaw"], "synonym-heldout": ["a handsaw"]},
        "dog": {"name": ["a dog"], "synonym": [], "description": ["a barking pet"]},
    },
}


def test_captions_of_a_vocabulary_and_without_one() -> None:
    rows = captions_of([], WORDS)
    assert rows[0] == ("a saw, noto style", "saw", "noto") and len(rows) == 6
    assert not any("handsaw" in text or "barking" in text for text, _, _ in rows)
    cases = drawn_cases(rows, 12, 0, "sae")
    assert [sum(c.group == name for c in cases) for name in ("saw", "dog")] == [6, 6]
    assert cases == drawn_cases(rows, 12, 0, "sae") != drawn_cases(rows, 12, 1, "sae")
    assert len({c.seed for c in cases}) == 12
    names, present = sae_supervised.labels_of(cases)
    assert sorted(names) == [("blob", "style"), ("dog", "object"), ("noto", "style"), ("saw", "object")]
    assert present.sum(1).tolist() == [2] * 12
    tools = Concept(
        "tools", "policy", "Two.", ("saw", "axe"), ("a saw", "a hacksaw", "an axe", "a hatchet"), keep=("a dog",)
    )
    assert classes_of([tools]) == {"saw": ["a saw", "a hacksaw"], "axe": ["an axe", "a hatchet"]}
    assert classes_of([dataclasses.replace(tools, phrases=("a saw", "a hacksaw", "an axe"))]) == {
        "tools": ["a saw", "a hacksaw", "an axe"]
    }
    assert ("a dog", "a dog", "") in captions_of([tools], {})
    with pytest.raises(BadInput, match="no vocabulary"):
        captions_of([], {})
    pictures = ops.class_pictures([tools], WORDS, 3, 2, 0, "saeuron")
    assert pictures.names == ["saw", "axe", "a dog"] and pictures.targets == 2
    assert pictures.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert [c.prompt for c in pictures.cases][:2] == ["a saw", "a hacksaw"] and " style" in pictures.cases[2].prompt
    with pytest.raises(BadInput, match="must stay"):
        ops.class_pictures([dataclasses.replace(tools, keep=())], WORDS, 3, 2, 0, "saeuron")
