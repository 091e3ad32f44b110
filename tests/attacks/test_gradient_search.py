"""UnlearnDiffAtk and P4D through an arm, against plain loops with torch's optimizers in float64, one case at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from genward.attacks._prefix import KEEPS, alone, between, in_front
from genward.attacks.p4d import Matched, P4d
from genward.attacks.unlearndiffatk import Simplex, UnlearnDiffAtk, visited
from genward.core import Case, Sampler
from genward.defenses.aeiou import Aeiou
from genward.errors import BadInput, UnknownName
from genward.models.sd import StableDiffusion
from genward.run.target import ArmTarget, Means
from genward.testing import FakeJudge

CASES = [Case(f"c{k}", text, "harm", "bright", k) for k, text in enumerate(("a b", "c", "d e f"))]
QUICK = UnlearnDiffAtk(tokens=2, rounds=2, steps=3, rate=0.3, keep="last")
MATCH = P4d(tokens=3, rounds=2, steps=3, rate=0.5, keep="last")


@pytest.fixture
def armed(model: StableDiffusion, tmp_path: Path) -> Iterator[Callable[..., ArmTarget]]:
    """``armed(threshold)``: a target without defenses whose judge calls pictures above it the concept."""
    stack: list[Any] = []

    def make(threshold: float = 2.0, name: str = "state") -> ArmTarget:
        rig = model.rig()
        own = model.generate(CASES, Sampler(steps=2, guidance=1.0))
        means = Means(FakeJudge(threshold=threshold), {"bright": ("bright",)})
        stack.append(rig)
        held: dict[str, Any] = {"means": means, "undefended": own, "state": tmp_path / name}
        return ArmTarget(model, rig.__enter__(), Sampler(steps=2, guidance=1.0), **held)

    yield make
    while stack:
        stack.pop().__exit__(None, None, None)


def closed(stack: list[Any]) -> None:
    while stack:
        stack.pop().__exit__(None, None, None)


def bisected(row: Tensor) -> Tensor:
    low, high = float(row.min()) - 1, float(row.max())
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float((row - middle).clamp(min=0).sum()) > 1 else (low, middle)
    return (row - low).clamp(min=0)


@pytest.mark.parametrize("keep", KEEPS)
def test_unlearndiffatk_equals_a_plain_loop(keep: str, armed: Callable[..., ArmTarget]) -> None:
    target, quick = armed(), replace(QUICK, stop=False, keep=keep)
    search = Simplex(quick, target, CASES, [in_front(c.prompt, 2) for c in CASES])
    search.run()
    words = search.words
    mine = words.table[words.usable]
    for k in range(len(CASES)):
        fresh = Simplex(quick, target, CASES, [in_front(c.prompt, 2) for c in CASES])
        shares = fresh.shares[k].clone().requires_grad_()
        optimizer = torch.optim.Adam([shares], lr=QUICK.rate, weight_decay=QUICK.decay)
        seen = []
        for step in range(QUICK.rounds * QUICK.steps):
            fresh.shares[k] = shares.detach()
            drawn = fresh.tried([k], step)[0]
            onehot = (words.table[drawn][:, None] == mine[None]).all(-1).double()
            assert onehot.sum(1).tolist() == [1.0, 1.0]
            leaf = onehot.requires_grad_()
            loss = fresh.loss([k], (leaf @ mine)[None], fresh.drawn([k], 1, drawn_at(step, keep)))[0]
            shares.grad = torch.autograd.grad(loss, leaf)[0].clamp(-1, 1)
            optimizer.step()
            shares.data = torch.stack([bisected(row) for row in shares.data])
            seen.append((float(loss.detach()), drawn.tolist()))
        assert torch.allclose(search.shares[k], shares.detach(), atol=1e-6)
        last = words.usable[shares.argmax(-1)].tolist()
        assert search.hard([k])[0].tolist() == (last if keep == "last" else min(seen[-QUICK.steps :])[1])
    assert float(search.norms.min()) > 0


def drawn_at(step: int, keep: str) -> int:
    """The step whose draws a step of ``QUICK`` or ``MATCH`` takes: all of a round share them to be compared."""
    return step if keep == "last" else step - step % QUICK.steps


@pytest.mark.parametrize("keep", KEEPS)
def test_p4d_equals_a_plain_loop(keep: str, armed: Callable[..., ArmTarget]) -> None:
    target = armed()
    search = Matched(replace(MATCH, stop=False, keep=keep), target, CASES, [alone(3)] * len(CASES))
    start = search.vectors.clone()
    search.run()
    words = search.words
    for k in range(len(CASES)):
        vectors = start[k].clone().requires_grad_()
        optimizer = torch.optim.AdamW([vectors], lr=MATCH.rate, weight_decay=MATCH.decay)
        seen = []
        for step in range(MATCH.rounds * MATCH.steps):
            cosine = torch.nn.functional.cosine_similarity(vectors[:, None], words.table[words.usable][None], dim=-1)
            tried = words.usable[cosine.argmax(1)]
            leaf = words.table[tried].clone().requires_grad_()
            loss = search.loss([k], leaf[None], search.drawn([k], 1, drawn_at(step, keep)))[0]
            vectors.grad = torch.autograd.grad(loss, leaf)[0]
            optimizer.step()
            seen.append((float(loss.detach()), tried.tolist()))
        assert torch.allclose(search.vectors[k], vectors.detach(), atol=1e-6)
        if keep == "best":
            assert search.hard([k])[0].tolist() == min(seen[-MATCH.steps :])[1]


def test_the_undefended_prediction_is_asked_for_once_a_round(armed: Callable[..., ArmTarget]) -> None:
    """Of 3 cases and 2 rounds of 3 steps: 3 predictions a round, and 6 on the held-out draws."""
    spent, target = {}, armed()
    for keep in KEEPS:
        before = target.rows
        search = Matched(replace(MATCH, stop=False, keep=keep), target, CASES, [alone(3)] * len(CASES))
        search.run()
        spent[keep] = target.rows - before
        assert spent[keep] <= search.attack.nfe(CASES)
        target.checkpoint({"none": torch.zeros(1)})
    own = 3 * 2 * 3 + 3 * 2 * 2
    assert spent["best"] == own + 3 * 2 + 3 * 2 and spent["last"] > spent["best"]


def test_the_loss_of_p4d_is_nothing_for_the_prompt_itself(armed: Callable[..., ArmTarget]) -> None:
    target = armed()
    case = [CASES[0]]
    search = Matched(MATCH, target, case, [alone(2)])
    own = search.words.table[torch.tensor([search.words.ids(case[0].prompt)])]
    with torch.no_grad():
        assert float(search.loss([0], own, search.drawn([0], 2, 0))) < 1e-10
        assert float(search.loss([0], own.flip(1), search.drawn([0], 2, 0))) > 1e-10


@pytest.mark.parametrize("attack", [QUICK, MATCH, replace(MATCH, form="insert", every=9)])
def test_found_prompts_survive_and_cases_do_not_see_each_other(attack: Any, armed: Callable[..., ArmTarget]) -> None:
    target = armed()
    found = list(attack.search(CASES, target))
    words = target.vocabulary
    for case, one in zip(CASES, found, strict=True):
        assert one.parent == case.id and one.queries == 3 and one.seed == case.seed
        assert words.survives(words.ids(one.prompt))
    target.checkpoint({"none": torch.zeros(1)})
    single = list(attack.search(CASES[1:2], target))
    assert single[0].prompt == found[1].prompt
    facts = next(iter(target.facts.values()))
    assert facts["gradient_norm"] > 0 and facts["vanished"] == 0 and facts["queries"] == [3, 3, 3]


def test_a_success_ends_the_search(armed: Callable[..., ArmTarget]) -> None:
    target = armed(0.0)
    found = list(QUICK.search(CASES, target))
    assert [c.prompt for c in found] == [c.prompt for c in CASES] and [c.queries for c in found] == [1, 1, 1]
    assert target.gradient_rows == 0 and next(iter(target.facts.values()))["gradient_norm"] is None


def test_the_control_takes_no_gradient_and_as_many_pictures(armed: Callable[..., ArmTarget]) -> None:
    target = armed()
    found = list(replace(QUICK, control=True).search(CASES, target))
    assert target.gradient_rows == 0 and [c.queries for c in found] == [3, 3, 3]
    spent = target.rows
    target.checkpoint({"none": torch.zeros(1)})
    list(QUICK.search(CASES, target))
    assert target.rows - spent == spent - sum(s.nfe for s in target.undefended(CASES)), "an equal budget"
    assert QUICK.gradient_nfe(CASES) == target.gradient_rows == 18


@pytest.mark.parametrize("attack", [QUICK, MATCH])
def test_an_interrupted_search_goes_on(
    attack: Any, armed: Callable[..., ArmTarget], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = armed()
    whole = list(attack.search(CASES, target))
    target.checkpoint({"none": torch.zeros(1)})
    keep, count = target.checkpoint, 0

    def once(state: Any = None) -> Any:
        nonlocal count
        count += state is not None
        if count == 3:
            raise KeyboardInterrupt
        return keep(state)

    monkeypatch.setattr(target, "checkpoint", once)
    with pytest.raises(KeyboardInterrupt):
        list(attack.search(CASES, target))
    monkeypatch.setattr(target, "checkpoint", keep)
    before = target.gradient_rows
    assert list(attack.search(CASES, target)) == whole
    assert target.gradient_rows - before == 3 * attack.steps, "the first round was not made again"


def test_gradients_that_are_not_finite_are_named(
    armed: Callable[..., ArmTarget], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = armed()
    predict = target.predict
    monkeypatch.setattr(target, "predict", lambda call, **how: predict(call, **how) * float("nan"))
    with pytest.raises(BadInput, match="not finite"):
        list(QUICK.search(CASES, target))


def test_prompts_with_places() -> None:
    assert in_front("a dog", 2).filled(["x", "y"]) == "x y a dog" and alone(2).filled(["x", "y"]) == "x y"
    assert between("a b c d", 3).filled(["x", "y"]) == "a b c x d y"
    assert visited(50) == list(range(10, 1000, 20)) and visited(2) == [250, 750] and visited(1) == [510]


@pytest.mark.parametrize("bad", [{"rounds": 0}, {"rounds": 51}, {"rate": 0.0}, {"tokens": 0}])
def test_settings_that_mean_nothing(bad: dict[str, Any], armed: Callable[..., ArmTarget]) -> None:
    with pytest.raises(BadInput):
        UnlearnDiffAtk(**bad)
    with pytest.raises(UnknownName):
        P4d(form="odd")
    with pytest.raises(BadInput, match="longer than the encoder"):
        list(UnlearnDiffAtk(tokens=40).search(CASES, armed()))


def test_a_guard_is_attacked_together_with_the_model(model: StableDiffusion, tmp_path: Path) -> None:
    """The guard's own score enters the loss: its gradient is that of the score, and the search lowers it."""
    words = [f"{a} {b}" for a in "abcd" for b in "wxyz"]
    guard = Aeiou(passages=0, action="flag", names=False, method="mean").fit_texts(model, words[:8], words[8:])
    own = model.generate(CASES, Sampler(steps=2, guidance=1.0))
    with model.rig() as rig:
        blind = ArmTarget(model, rig, Sampler(steps=2, guidance=1.0), undefended=own)
        with pytest.raises(BadInput, match="no guard of this arm"):
            list(replace(QUICK, guard=1.0, stop=False).search(CASES, blind))
    with model.rig([guard]) as rig:
        target = ArmTarget(model, rig, Sampler(steps=2, guidance=1.0), undefended=own, defenses=[guard])
        attack = replace(QUICK, guard=3.0, stop=False, rows=2)
        search = Simplex(attack, target, CASES, [in_front(c.prompt, 2) for c in CASES])
        point = search.words.table[search.tried(range(3), 0)]
        plain = Simplex(replace(attack, guard=0.0), target, CASES, search.written)
        drawn_once = search.drawn(range(3), 2, 0)
        with torch.no_grad():
            difference = search.loss(range(3), point, drawn_once) - plain.loss(range(3), point, drawn_once)
        ids = [[int((search.words.table == v).all(1).nonzero()[0]) for v in of] for of in point]
        texts = [search.written[k].filled([search.words.text([i]) for i in ids[k]]) for k in range(3)]
        leaf = point.clone().requires_grad_()
        told = search.loss(range(3), leaf, drawn_once).sum() - plain.loss(range(3), leaf, drawn_once).sum()
        assert float(torch.autograd.grad(told, leaf)[0].norm()) > 0
    assert rig.trace is None
    assert torch.allclose(difference, 3.0 * guard.scores(model, texts).amax(1).to(difference), atol=1e-4)
