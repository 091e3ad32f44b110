"""The layer that discrete searches share, against slow forms in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from genward.attacks._tokens import Vocabulary, nearest, project_simplex, refuse_nothing
from genward.catalog.opening import words_of
from genward.errors import BadInput
from genward.models.sd import StableDiffusion
from genward.models.text import states
from genward.ops.everyday import NOUNS
from genward.run.target import writable
from genward.testing import tiny_sd


@pytest.fixture(params=["bert", "clip"])
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    return tiny_sd(encoder=request.param, folder=tmp_path_factory.mktemp(request.param))


def vocabulary(model: StableDiffusion) -> Vocabulary:
    return Vocabulary.of(model.tokenizer, model.text_encoder.get_input_embeddings().weight)


def bisected(row: torch.Tensor) -> torch.Tensor:
    """The projection as the reference code finds it: bisection of the shift, one row at a time."""
    low, high = float(row.min()) - 1, float(row.max())
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float((row - middle).clamp(min=0).sum()) > 1 else (low, middle)
    return (row - low).clamp(min=0)


def sorted_way(row: torch.Tensor) -> torch.Tensor:
    """The projection by sorting (Duchi et al., ICML 2008), one row."""
    ordered = row.sort(descending=True).values
    excess = ordered.cumsum(0) - 1
    last = max(k for k in range(len(row)) if ordered[k] * (k + 1) > excess[k])
    return (row - excess[last] / (last + 1)).clamp(min=0)


def test_simplex_projection_equals_bisection() -> None:
    rows = torch.randn(7, 3, 41, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    rows[0, 0] = torch.eye(41, dtype=torch.float64)[4]
    rows[1, 0] = 0.25
    found = project_simplex(rows)
    slow = torch.stack([bisected(r) for r in rows.flatten(0, 1)]).view_as(rows)
    assert torch.allclose(found, slow, atol=1e-12)
    assert torch.allclose(found.sum(-1), torch.ones(7, 3, dtype=torch.float64)) and float(found.min()) >= 0
    assert torch.allclose(found[0, 0], rows[0, 0], atol=1e-15), "a point of the simplex stays where it is"
    wide = torch.randn(4, 5000, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2
    by_sorting = torch.stack([sorted_way(row) for row in wide])
    assert torch.allclose(project_simplex(wide), by_sorting, atol=1e-12), "where most entries drop out"
    single = project_simplex(torch.full((2, 6), 1 / 6))
    assert torch.allclose(single, torch.full((2, 6), 1 / 6), atol=1e-7) and torch.isfinite(single).all()


def test_nearest_equals_a_loop_over_cosines() -> None:
    generator = torch.Generator().manual_seed(1)
    table, vectors = (torch.randn(n, 8, dtype=torch.float64, generator=generator) for n in (30, 10))
    usable = torch.tensor([3, 5, 6, 17, 29])
    found = nearest(vectors.view(2, 5, 8), table, usable)
    slow = [max(usable.tolist(), key=lambda k: float(v @ table[k] / (v.norm() * table[k].norm()))) for v in vectors]
    assert found.shape == (2, 5) and found.flatten().tolist() == slow


def test_every_usable_token_survives_and_no_other_does(other: StableDiffusion) -> None:
    words = vocabulary(other)
    usable = set(words.usable.tolist())
    assert usable and not usable & set(other.tokenizer.all_special_ids)
    for k in range(len(other.tokenizer)):
        if k not in other.tokenizer.all_special_ids and words.text([k]).isprintable():
            assert (words.ids(words.text([k])) == [k]) == (k in usable), words.text([k])
    pair = sorted(usable)[:2]
    assert words.survives(pair) and words.ids(words.text(pair)) == pair
    assert not words.survives(pair * words.room), "longer than the window"


def test_forbidden_words_are_left_out(other: StableDiffusion) -> None:
    words = vocabulary(other)
    left = words.without(["a"])
    assert all("a" not in words.text([k]).casefold() for k in left.usable.tolist())
    assert len(left.usable) < len(words.usable)
    with pytest.raises(BadInput, match="every token"):
        words.without([words.text([k]) for k in words.usable.tolist()])


def test_only_words_that_may_be_written(other: StableDiffusion) -> None:
    every = vocabulary(other)
    texts = [every.text([k]) for k in every.usable.tolist()]
    few = every.within([texts[0].upper(), texts[-1], "no such word"])
    assert [few.text([k]) for k in few.usable.tolist()] == [texts[0], texts[-1]]
    with pytest.raises(BadInput, match="may be written"):
        every.within(["no such word"])


def test_a_search_on_the_lab_writes_its_words_and_everyday_things() -> None:
    words = writable(words_of("lab"))
    assert {"banana", "monotone", "the", *NOUNS[0].split()} <= set(words) and len(words) > 900
    assert all(w.isascii() and w.isalpha() and w == w.casefold() for w in words)
    assert writable({}) == ()


def test_states_are_the_pipeline_s_own(other: StableDiffusion) -> None:
    words = vocabulary(other)
    texts = ["cat", "a dog ab"]
    rows = [words.whole(words.ids(t)) for t in texts]
    with torch.no_grad():
        found, mask = states(other.text_encoder, rows, other.tokenizer.pad_token_id or 0)
        whole = other.encode(texts)
    assert mask.sum(1).tolist() == list(map(len, rows))
    for k, row in enumerate(rows):
        assert torch.allclose(found[k, : len(row)], whole[k, : len(row)], atol=1e-5)
    given = words.table[torch.tensor([rows[0]])].requires_grad_()
    again, _ = states(other.text_encoder, rows[:1], 0, given)
    assert torch.allclose(again[0], found[0, : len(rows[0])], atol=1e-5)
    assert torch.autograd.grad(again.sum(), given)[0].abs().sum() > 0


def test_a_budget_of_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="steps=0, budget=-1"):
        refuse_nothing("x", steps=0, tokens=1, budget=-1)
