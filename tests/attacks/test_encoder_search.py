"""Searches over a public text encoder alone: Ring-A-Bell against brute force and a plain genetic loop, MMA against a
plain greedy coordinate gradient; SneakyPrompt on a filter whose answers are known."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cosine_similarity

from genward.attacks import mma, ring_a_bell
from genward.attacks._tokens import REFUSED
from genward.attacks.mma import Mma, Swaps
from genward.attacks.ring_a_bell import RingABell
from genward.attacks.sneakyprompt import SneakyPrompt, learn
from genward.core import Case, Sample, Sampler
from genward.errors import BadInput, UnknownName
from genward.models.sd import StableDiffusion
from genward.run.search import parse_attack
from genward.run.target import ArmTarget, Means
from genward.testing import FakeJudge

CASES = [Case(f"c{k}", text, "harm", "abc", k, group="b") for k, text in enumerate(("a b c", "b d"))]
GENETIC = RingABell(tokens=3, population=8, generations=5, neutral="z")
SWAPS = Mma(tokens=3, steps=4, top=5, candidates=6, pool="mean")


@pytest.fixture
def armed(model: StableDiffusion, tmp_path: Path) -> Iterator[Callable[..., ArmTarget]]:
    stack: list[Any] = []

    def make(**more: Any) -> ArmTarget:
        rig = model.rig()
        stack.append(rig)
        means = Means(FakeJudge(), {"abc": ("bright",)}, {}, {"abc": ("b", "a b")})
        held: dict[str, Any] = {"access": "prompt", "means": means, "state": tmp_path / "state"} | more
        return ArmTarget(model, rig.__enter__(), Sampler(steps=2, guidance=1.0), **held)

    yield make
    while stack:
        stack.pop().__exit__(None, None, None)


def slow_distance(
    model: StableDiffusion, target: ArmTarget, ids: Sequence[int], case: Case, mean: bool = False
) -> float:
    """The objective by the pipeline's own encoding, prompt by prompt: squared distance to prompt plus eta times the
    mean pairwise difference."""
    words, places = target.vocabulary, GENETIC.tokens + 2

    def states(text: str) -> torch.Tensor:
        with torch.no_grad():
            found = model.encode([text])[0]
        return found[: len(words.ids(text)) + 2].mean(0) if mean else found[:places]

    pairs = [states(t.format(p)) - states(t.format("z")) for p in ("b", "a b") for t in ring_a_bell.TEMPLATES]
    wanted = states(case.prompt) + GENETIC.eta * torch.stack(pairs).mean(0)
    return float((states(words.text(ids)) - wanted).square().sum())


@pytest.mark.parametrize("mean", [False, True])
def test_the_objective_is_the_papers(mean: bool, model: StableDiffusion, armed: Callable[..., ArmTarget]) -> None:
    target = armed()
    words = target.vocabulary
    attack = replace(GENETIC, compare="mean" if mean else "places")
    own = attack.encoded(target, [words.ids(c.prompt) for c in CASES])
    wanted = own + attack.eta * ring_a_bell.concept_vector(attack, target, "abc")
    ids = words.usable[torch.tensor([[3, 1, 4], [1, 5, 9]])]
    found = ring_a_bell.distances(attack, target, ids, wanted)
    for k, case in enumerate(CASES):
        assert float(found[k]) == pytest.approx(slow_distance(model, target, ids[k].tolist(), case, mean), rel=1e-9)


def test_two_tokens_of_a_small_vocabulary_are_found_as_by_brute_force(armed: Callable[..., ArmTarget]) -> None:
    target = armed()
    words = target.vocabulary
    object.__setattr__(words, "usable", words.usable[:20])
    attack = replace(GENETIC, tokens=2, population=60, generations=60)
    own = attack.encoded(target, [words.ids(c.prompt) for c in CASES])
    wanted = own + attack.eta * ring_a_bell.concept_vector(attack, target, "abc")
    every = torch.tensor(list(itertools.product(words.usable.tolist(), repeat=2)))
    ids, scores, curve = ring_a_bell.evolve(attack, target, CASES, wanted)
    for k in range(len(CASES)):
        all_of_them = ring_a_bell.distances(attack, target, every, wanted[k].expand(len(every), -1, -1))
        assert float(scores[k, 0]) == pytest.approx(float(all_of_them.min()), rel=1e-9)
        assert bool((curve[k].diff() <= 0).all()), "the best is never lost"


def test_a_plain_loop_that_scores_survivors_again_ends_alike(armed: Callable[..., ArmTarget]) -> None:
    target = armed()
    words = target.vocabulary
    own = GENETIC.encoded(target, [words.ids(c.prompt) for c in CASES])
    wanted = own + GENETIC.eta * ring_a_bell.concept_vector(GENETIC, target, "abc")
    ids, scores, _ = ring_a_bell.evolve(GENETIC, target, CASES, wanted)
    for k, case in enumerate(CASES):
        people = ring_a_bell.fresh(GENETIC, case, -1, 8, words.usable).tolist()
        for turn in range(GENETIC.generations):
            kept = sorted(people, key=lambda p: float(score(target, p, wanted[k])))[:4]
            children = ring_a_bell.offspring(GENETIC, case, turn, torch.tensor(kept), words.usable).tolist()
            people = kept + children
        people = sorted(people, key=lambda p: float(score(target, p, wanted[k])))
        assert people == ids[k].tolist()
        assert float(scores[k, 0]) == pytest.approx(float(score(target, people[0], wanted[k])), rel=1e-9)


def score(target: ArmTarget, ids: Sequence[int], wanted: torch.Tensor) -> torch.Tensor:
    return ring_a_bell.distances(GENETIC, target, torch.tensor([list(ids)]), wanted[None])[0]


def test_words_of_the_concept_are_left_out_where_they_are_not_asked_for(armed: Callable[..., ArmTarget]) -> None:
    target = armed()
    every = target.vocabulary.usable.tolist()
    listed = {i for i in every if target.vocabulary.text([i]).casefold() in ("a", "b")}
    left = set(GENETIC.usable(target, "abc", CASES).tolist())
    assert left == set(every) - {i for i in listed if target.vocabulary.text([i]).casefold() == "b"}, (
        "an article is none"
    )
    assert replace(GENETIC, words="all").usable(target, "abc", CASES).tolist() == every
    attack = replace(GENETIC, population=60, generations=20)
    found = list(attack.search(CASES, target))
    assert all("b" not in one.prompt.split() for one in found)
    named = list(replace(attack, words="all").search(CASES, _fresh(target)))
    assert any("b" in one.prompt.split() for one in named)


def test_children_keep_order_and_cut_once() -> None:
    parents = torch.tensor([[1, 1, 1, 1], [2, 2, 2, 2]])
    plain = RingABell(tokens=4, population=200, mutation=0.0, crossover=1.0)
    found = ring_a_bell.offspring(plain, CASES[0], 0, parents, torch.tensor([9]))
    assert len(found) == 198 and all(int((row.diff() != 0).sum()) <= 1 for row in found)
    assert {tuple(r) for r in found.tolist()} > {(1, 2, 2, 2), (1, 1, 1, 2), (2, 2, 1, 1)}
    changed = ring_a_bell.offspring(
        replace(plain, mutation=1.0, crossover=0.0), CASES[0], 0, parents, torch.tensor([9])
    )
    assert all(int((row == 9).sum()) == 1 for row in changed)


@pytest.mark.parametrize("attack", [GENETIC, SWAPS, replace(GENETIC, control=True), replace(SWAPS, control=True)])
def test_found_prompts_survive_and_ask_the_arm_nothing(attack: Any, armed: Callable[..., ArmTarget]) -> None:
    target = armed()
    found = list(attack.search(CASES, target))
    for case, one in zip(CASES, found, strict=True):
        ids = target.vocabulary.ids(one.prompt)
        assert len(ids) == 3 and target.vocabulary.survives(ids) and one.queries == 0 and one.parent == case.id
    assert target.rows == 0 and target.sampled == 0 and attack.nfe(CASES) == 0
    assert attack.texts(CASES) > 0 and next(iter(target.facts.values()))["attack"] == type(attack).name
    single = list(attack.search(CASES[1:], _fresh(target)))
    assert single[0].prompt == found[1].prompt, "cases do not see each other"


def _fresh(target: ArmTarget) -> ArmTarget:
    target.checkpoint({"none": torch.zeros(1)})
    return target


def test_mma_equals_a_plain_greedy_coordinate_gradient(armed: Callable[..., ArmTarget]) -> None:
    target = armed()
    search = Swaps(SWAPS, target, "abc", CASES)
    start = search.ids.clone()
    search.run()
    words = search.words
    assert "b" not in {words.text([k]) for k in words.usable.tolist()}, "a forbidden word"
    table = words.table[words.usable]
    for k, case in enumerate(CASES):
        ids = start[k].clone()
        for step in range(SWAPS.steps):
            onehot = (words.usable[None] == ids[:, None]).double().requires_grad_()
            marks = [words.table[torch.tensor(m)] for m in words.marks]
            states, _ = target.states([ids.tolist()], torch.cat([marks[0], onehot @ table, marks[1]])[None])
            loss = 1 - cosine_similarity(states.mean(1), search.wanted[k][None], dim=1)[0]
            steep = (-torch.autograd.grad(loss, onehot)[0]).topk(SWAPS.top, dim=1).indices
            seed = mma.row_seed("mma", 0, case.id, step)
            pick = torch.randint(SWAPS.top, (SWAPS.candidates,), generator=torch.Generator().manual_seed(seed))
            tried = []
            for j in range(SWAPS.candidates):
                other, place = ids.clone(), j * SWAPS.tokens // SWAPS.candidates
                other[place] = words.usable[steep[place, pick[j]]]
                tried.append(other)
            ids = min((row for row in tried if words.survives(row.tolist())), key=lambda row: slow_loss(search, k, row))
        assert ids.tolist() == search.ids[k].tolist()
    assert (
        slow_loss(search, 0, search.best[0]) == pytest.approx(float(search.lowest[0]), rel=1e-9)
        and float(search.norms.min()) > 0
    )


def test_the_control_of_mma_keeps_the_most_similar_of_prompts_drawn_at_random(armed: Callable[..., ArmTarget]) -> None:
    target, attack = armed(), replace(SWAPS, control=True)
    search = Swaps(attack, target, "abc", CASES)
    people = [[row.tolist()] for row in search.ids]
    search.run()
    assert target.texts == attack.texts(CASES)
    for k, case in enumerate(CASES):
        for step in range(attack.steps):
            generator = torch.Generator().manual_seed(mma.row_seed("mma", 0, case.id, step))
            drawn = torch.randint(len(search.words.usable), (attack.candidates, attack.tokens), generator=generator)
            people[k] += search.words.usable[drawn].tolist()
        best = min(
            (p for p in people[k] if search.words.survives(p)), key=lambda p: slow_loss(search, k, torch.tensor(p))
        )
        assert search.best[k].tolist() == best


def slow_loss(search: Swaps, case: int, ids: torch.Tensor) -> float:
    """One minus the cosine of one candidate's mean state to the prompt's."""
    with torch.no_grad():
        states, _ = search.target.states([ids.tolist()])
        return float(1 - cosine_similarity(states.mean(1), search.wanted[case][None], dim=1)[0])


@pytest.mark.parametrize(("attack", "room"), [(GENETIC, ring_a_bell), (SWAPS, mma)])
def test_an_interrupted_search_goes_on(
    attack: Any, room: Any, armed: Callable[..., ArmTarget], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "EVERY", 2)
    target = armed()
    whole = list(attack.search(CASES, target))
    target.checkpoint({"none": torch.zeros(1)})
    keep, count = target.checkpoint, 0

    def stopping(state: Any = None) -> Any:
        nonlocal count
        found = keep(state)
        count += state is not None
        if count == 1 and state is not None:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(target, "checkpoint", stopping)
    with pytest.raises(KeyboardInterrupt):
        list(attack.search(CASES, target))
    monkeypatch.setattr(target, "checkpoint", keep)
    before = target.texts
    assert list(attack.search(CASES, target)) == whole
    assert target.texts - before < attack.texts(CASES)


@pytest.mark.parametrize(
    ("cls", "bad"),
    [
        (RingABell, {"population": 3}),
        (RingABell, {"generations": 0}),
        (RingABell, {"mutation": 2.0}),
        (RingABell, {"words": "few"}),
        (RingABell, {"compare": "sum"}),
        (Mma, {"steps": 0}),
        (Mma, {"pool": "odd"}),
        (SneakyPrompt, {"budget": 0}),
        (SneakyPrompt, {"pool": 300}),
    ],
)
def test_settings_that_mean_nothing(cls: Any, bad: dict[str, Any]) -> None:
    with pytest.raises((BadInput, UnknownName)):
        cls(**bad)


@pytest.mark.parametrize("name", ["p4d", "ring_a_bell", "unlearndiffatk"])
def test_the_authors_settings_can_be_written(name: str) -> None:
    """Every field of ``AUTHORS`` exists, and the command line that docs/attacks.md gives says the same."""
    room = importlib.import_module(f"genward.attacks.{name}")
    told = ",".join(f"{key}={value}" for key, value in room.AUTHORS.items())
    attack = parse_attack(f"{name},{told}")
    assert {key: getattr(attack, key) for key in room.AUTHORS} == room.AUTHORS
    page = Path(__file__).parents[2] / "docs" / "attacks.md"
    assert f"`{name},{told}`" in page.read_text("utf-8")


def test_what_the_encoder_does_not_read(armed: Callable[..., ArmTarget]) -> None:
    target = armed()
    for attack in (replace(GENETIC, tokens=99), replace(SWAPS, tokens=99)):
        with pytest.raises(BadInput, match="take fewer"):
            list(attack.search(CASES, target))


# --------------------------------------------------------------------------------------------------------- sneakyprompt


def filtered(target: ArmTarget, good: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make the target refuse prompts that hold ``b`` and succeed on those that hold one token; the prompts asked."""
    asked: list[str] = []

    def sample(cases: Sequence[Case]) -> list[Sample]:
        asked.extend(c.prompt for c in cases)
        return [Sample(c) for c in cases]

    def shown(samples: Sequence[Sample]) -> list[float]:
        said = []
        for one in samples:
            pieces = one.case.prompt.split()
            said.append(REFUSED if "b" in pieces else 0.4 if good in pieces else -0.5)
        return said

    monkeypatch.setattr(target, "sample", sample)
    monkeypatch.setattr(target, "shown", shown)
    return asked


def test_sneakyprompt_finds_the_token_that_passes(
    armed: Callable[..., ArmTarget], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = armed(access="query")
    asked = filtered(target, "q", monkeypatch)
    attack = SneakyPrompt(budget=60, pool=30, shortlist=40)
    found = list(attack.search(CASES[1:], target))
    assert found[0].prompt == "q d" and found[0].queries == len(asked) and asked[0] == "b d"
    assert len(set(asked)) == len(asked), "nothing is asked twice"
    assert all("b" not in text.split() for text in asked[1:])
    table = target.checkpoint()["margins"]
    cut = table.clone()
    cut[0, 5:] = -4.0
    target.checkpoint({"margins": cut})
    assert list(attack.search(CASES[1:], target))[0].prompt == "q d", "the same margins lead to the same prompts"


def test_learning_is_the_gradient_of_the_log_probability() -> None:
    likes = [torch.tensor([0.3, -0.2, 1.0], dtype=torch.float64, requires_grad=True)]
    log = likes[0].log_softmax(0)[2]
    gradient = torch.autograd.grad(log, likes[0])[0]
    moved = [likes[0].detach().clone()]
    learn(moved, [2], 0.7)
    assert torch.allclose(moved[0], likes[0].detach() + 0.7 * gradient)


def test_a_prompt_without_the_concept_and_the_control(
    armed: Callable[..., ArmTarget], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = armed(access="query")
    asked = filtered(target, "q", monkeypatch)
    with pytest.raises(BadInput, match="no word of"):
        list(SneakyPrompt().search([CASES[0]._replace(prompt="d d", group="x")], target))
    found = list(SneakyPrompt(budget=4, control=True).search(CASES[1:], target))
    assert found[0].queries == len(asked) <= 4
