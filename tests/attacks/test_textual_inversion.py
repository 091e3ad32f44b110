"""Learned words: each on its own though learned together, resumable, and never a number where the search diverged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from genward.attacks.textual_inversion import Search, TextualInversion, draw
from genward.core import Call, Case, Spec
from genward.errors import BadInput
from genward.models.sd import StableDiffusion
from genward.ops.finetune import add_noise

HELD = {"cat": 3, "key": 2}
CASES = [
    Case(f"{c}/embedding/{k}", f"{{}} in {s} style", "harm", c, seed=k, variant="embedding")
    for c in HELD
    for k, s in enumerate(("flat", "noto", "blob"))
]
SMALL = TextualInversion(
    steps=6,
    rate=0.05,
    rows=4,
    restarts=1,
    trial=0,
    words=("object", "dot"),
    templates=("{}", "a picture of {}"),
    heldout=8,
)


def learned(attack: TextualInversion, arm: Any, concepts: tuple[str, ...] = tuple(HELD)) -> Search:
    search = Search(attack, arm, dict.fromkeys(concepts, attack.searches))
    search.run()
    return search


def test_derived_cases(target: Callable[..., Any]) -> None:
    arm = target(HELD)
    found = list(SMALL.search(CASES, arm))
    assert [(c.id, c.parent, c.seed, c.label, c.variant) for c in found] == [
        (c.id + "/ti", c.id, c.seed, "harm", "embedding") for c in CASES
    ]
    for case, parent in zip(found, CASES, strict=True):
        ((text, name),) = case.inputs.items()
        assert case.prompt == parent.prompt.replace("{}", text) and text == f"<{name[:12]}>"
        vector, facts = arm.kept[name]
        assert vector.shape == (16,) and not vector.requires_grad
        assert facts["kind"] == "embedding" and facts["concept"] == case.concept and facts["word"] in SMALL.words
        assert len(facts["curve"]) == 6 and set(facts["heldout_by_word"]) == set(SMALL.words)
        assert (
            facts["heldout_after"] == min(facts["heldout_by_word"].values())
            and facts["heldout_after"] < facts["heldout_before"]
        )
    assert len({c.inputs for c in found}) == 2, "one word a concept"
    rows = 6 * 4 * 2
    assert [c.queries for c in found] == [rows // 3] * 6
    with arm.model.learned({f"<{n[:12]}>": v for n, (v, _) in arm.kept.items()}):
        assert arm.model.encode([c.prompt for c in found]).shape[0] == 6, "the prompt is one that the model reads"


def test_one_batch_equals_one_word_at_a_time(target: Callable[..., Any]) -> None:
    together, parts = target(HELD), target(HELD)
    whole, split = learned(SMALL, together), learned(TextualInversion(**{**vars(SMALL), "batch": 1}), parts)
    assert {len(c.latents) for c, _ in together.calls} == {16, 32} and {len(c.latents) for c, _ in parts.calls} == {
        4,
        8,
    }
    assert torch.allclose(whole.vectors, split.vectors, atol=1e-5) and torch.allclose(
        whole.curve, split.curve, atol=1e-5
    )
    for k, concept in enumerate(HELD):
        for j, word in enumerate(SMALL.words):
            single = learned(TextualInversion(**{**vars(SMALL), "words": (word,)}), target(HELD), (concept,))
            assert torch.allclose(single.vectors[0], whole.vectors[2 * k + j], atol=1e-5), (
                "neither concepts nor words mix"
            )
    moved = (whole.vectors - torch.stack([together.word(w) for w in SMALL.words] * 2)).norm(dim=1)
    assert (moved > 0.01).all()


def test_equals_a_plain_loop(target: Callable[..., Any], model: StableDiffusion) -> None:
    """The optimizer of torch, one row at a time."""
    attack = TextualInversion(
        restarts=1, steps=4, rate=0.05, rows=3, words=("dot",), templates=("{}", "a picture of {}"), heldout=4, seed=5
    )
    arm = target({"cat": 2})
    search = learned(attack, arm, ("cat",))
    pictures, alphas = arm.latents(arm.references("cat")), arm.alphas
    vector = arm.word("dot").clone().requires_grad_()
    adam = torch.optim.Adam([vector], lr=0.05)
    fresh = Search(attack, arm, {"cat": 1})
    for step in range(4):
        d = fresh.drawn(3, step)["cat", 0, 0]
        loss = torch.zeros((), dtype=torch.float64)
        for row in range(3):
            with model.learned({"<me>": vector}):
                text = model.encode([attack.templates[int(d.template[row])].replace("{}", "<me>")])
            t, clean, noise = d.timestep[row : row + 1], pictures[d.picture[row : row + 1]], d.noise[row : row + 1]
            prediction = model.predict(Call(add_noise(clean, noise, t, alphas).double(), t, text))
            loss = loss + (prediction - noise).square().mean() / 3
        assert abs(float(loss.detach()) - float(search.curve[0, step])) < 1e-5
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert torch.allclose(search.vectors[0], vector.detach(), atol=1e-5)


def test_seeds(target: Callable[..., Any]) -> None:
    first, second, other = (
        learned(a, target(HELD)) for a in (SMALL, SMALL, TextualInversion(**{**vars(SMALL), "seed": 1}))
    )
    assert torch.equal(first.vectors, second.vectors) and not torch.allclose(first.vectors, other.vectors, atol=1e-3)
    a, b = (
        Search(SMALL, target(HELD), dict.fromkeys(HELD, 1)).drawn(8, purpose)["cat", 0, 0]
        for purpose in ("held-out", 0)
    )
    assert not torch.equal(a.noise, b.noise) and not torch.equal(a.timestep, b.timestep), "held-out draws are others"
    pictures = torch.zeros(3, 4, 8, 8)
    x, y = draw(7, 8, pictures, 2, 1000), draw(7, 8, pictures, 2, 1000)
    assert all(torch.equal(p, q) for p, q in zip(x, y, strict=True)) and x.noise.shape == (8, 4, 8, 8)


@pytest.mark.parametrize(
    "needs, given, wanted", [(False, None, 1.0), (True, None, 3.0), (True, 1.0, 1.0), (False, 2.0, 2.0)]
)
def test_guidance(target: Callable[..., Any], needs: bool, given: float | None, wanted: float) -> None:
    arm = target({"cat": 2}, needs_guidance=needs)
    attack = TextualInversion(restarts=1, steps=2, rows=2, heldout=2, guidance=given, templates=("{}",))
    (case,) = attack.search(CASES[:1], arm)
    assert {g for _, g in arm.calls} == {wanted} and arm.kept[next(iter(case.inputs.values()))][1]["guidance"] == wanted
    assert case.queries == (8 if wanted > 1 else 4)


def test_norm(target: Callable[..., Any]) -> None:
    arm = target(HELD)
    search = learned(TextualInversion(**{**vars(SMALL), "norm": "word"}), arm)
    assert (
        torch.allclose(search.vectors.norm(dim=1), search.lengths)
        and float(learned(SMALL, arm).vectors.norm(dim=1).sub(search.lengths).abs().min()) > 0
    )


def test_a_concept_that_diverges_leaves_the_others_alone(target: Callable[..., Any]) -> None:
    arm, well = target(HELD), target(HELD)
    key = Search(SMALL, arm, {"key": 1}).drawn(4, 2)["key", 0, 0].timestep

    def poison(noise: Tensor, call: Call) -> Tensor:
        hit = torch.isin(call.timestep, key) & (
            torch.arange(len(noise)) >= len(noise) // 2
        )  # rows of the second concept, from the third step on
        return torch.where(hit[:, None, None, None], torch.nan, noise)

    arm.poison = poison
    found, wanted = list(SMALL.search(CASES, arm)), list(SMALL.search(CASES, well))
    assert all(c.inputs == {"<nan>": "nan"} and c.prompt.startswith("<nan>") for c in found if c.concept == "key")
    assert all(
        c.queries == 2 * 4 * 2 // 3 + (k < 2 * 4 * 2 % 3) for k, c in enumerate(c for c in found if c.concept == "key")
    )
    ours, theirs = (t.kept[next(iter(c[0].inputs.values()))][0] for t, c in ((arm, found), (well, wanted)))
    assert torch.allclose(ours, theirs, atol=1e-5) and len(arm.kept) == 1
    assert len(arm.calls[-1][0].latents) == 16, "rows of a dead word are not computed"


def test_a_word_that_diverges_loses_to_one_that_does_not(target: Callable[..., Any]) -> None:
    arm = target({"cat": 2})
    arm.poison = lambda noise, call: (
        torch.cat([noise[:4] * torch.nan, noise[4:]]) if len(noise) == 8 and torch.is_grad_enabled() else noise
    )
    (case,) = SMALL.search(CASES[:1], arm)
    facts = arm.kept[next(iter(case.inputs.values()))][1]
    assert facts["word"] == "dot" and facts["heldout_by_word"]["object"] is None and case.queries == 6 * 4


def test_an_interrupted_search_goes_on(target: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genward.attacks.textual_inversion.EVERY", 2)
    whole, cut = target(HELD), target(HELD)
    wanted = list(SMALL.search(CASES, whole))
    assert whole.saved == 2

    def crash(noise: Tensor, call: Call) -> Tensor:
        if len(cut.calls) == 1 + 5:
            raise KeyboardInterrupt
        return noise

    cut.poison = crash
    with pytest.raises(KeyboardInterrupt):
        list(SMALL.search(CASES, cut))
    assert int(cut.state["done"][0]) == 4
    cut.poison, cut.calls = None, []
    assert list(SMALL.search(CASES, cut)) == wanted and len(cut.calls) == 2 + 1
    assert {k: v[1] for k, v in cut.kept.items()} == {k: v[1] for k, v in whole.kept.items()}
    cut.state = {"other": torch.zeros(1)}
    assert list(SMALL.search(CASES, cut)) == wanted, "a state of something else is left aside"


def test_restarts_are_searches_of_their_own(target: Callable[..., Any]) -> None:
    three = TextualInversion(**{**vars(SMALL), "restarts": 3, "words": ("dot",)})
    arm = target(HELD)
    search = learned(three, arm)
    assert [(t.concept, t.restart) for t in search.tokens] == [(c, r) for c in HELD for r in range(3)]
    alone = learned(TextualInversion(**{**vars(SMALL), "words": ("dot",)}), target(HELD))
    assert torch.allclose(search.vectors[[0, 3]], alone.vectors, atol=1e-5), "the first is the search without restarts"
    begun = Search(three, target(HELD), dict.fromkeys(HELD, 1)).vectors
    word = arm.word("dot")
    apart = (begun - word).norm(dim=1) / word.norm()
    assert apart.tolist() == pytest.approx([0, 0.1, 0.1] * 2, abs=1e-5) and not torch.allclose(begun[1], begun[2])
    draws, held = search.drawn(4, 1), search.drawn(4, "held-out", shared=True)
    assert not torch.equal(draws["cat", 0, 0].noise, draws["cat", 0, 1].noise)
    assert torch.equal(held["cat", 0, 0].noise, held["cat", 0, 2].noise), "compared on equal noise"
    fresh = target(HELD)
    found = {c.concept: c for c in three.search(CASES, fresh)}
    for concept, case in found.items():
        facts = fresh.kept[next(iter(case.inputs.values()))][1]
        losses = facts["heldout_by_restart"]
        assert facts["restart"] == losses.index(min(losses)) and facts["heldout_after"] == min(losses), concept


def test_searches_are_independent_and_the_cases_are_dealt_over_them(target: Callable[..., Any]) -> None:
    attack = TextualInversion(**{**vars(SMALL), "searches": 2, "restarts": 2, "trial": 2})
    arm = target(HELD)
    found = list(attack.search(CASES, arm))
    cats = [c for c in found if c.concept == "cat"]
    assert [c.group for c in cats] == ["search 1", "search 2", "search 1"]
    assert cats[0].inputs == cats[2].inputs != cats[1].inputs and len(arm.kept) == 4
    assert sum(c.queries for c in found) == attack.gradient_nfe(CASES) == 4 * 4 * (4 * 2 + 4)
    one = learned(TextualInversion(**{**vars(attack), "searches": 1}), target(HELD))
    two = learned(attack, target(HELD))
    assert all(torch.allclose(one.vectors[one.mine(c)], two.vectors[two.mine(c)], atol=1e-5) for c in HELD), (
        "another search changes nothing in the first"
    )
    assert attack.gradient_nfe(CASES[:1]) == 4 * (4 * 2 + 4), "one case needs one search"


def test_after_the_trial_the_best_goes_on(target: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    attack = TextualInversion(**{**vars(SMALL), "restarts": 3, "trial": 2})
    whole = target(HELD)
    search = learned(attack, whole)
    tried = learned(TextualInversion(**{**vars(attack), "steps": 2, "trial": 0}), target(HELD))
    for concept in HELD:
        mine = search.mine(concept)
        best = min(mine, key=lambda k: float(tried.after[k]))
        assert [k for k in mine if int(search.steps[k]) == 6] == [best]
        for k in set(mine) - {best}:
            assert torch.equal(search.vectors[k], tried.vectors[k]) and search.tried[k] == tried.after[k]
        assert search.spent(concept) == attack.gradient_nfe([c for c in CASES if c.concept == concept])
    assert attack.gradient_nfe(CASES) == 2 * 4 * (6 * 2 + 4)
    assert sum(len(c.latents) for c, _ in whole.calls) <= attack.nfe(CASES)
    monkeypatch.setattr("genward.attacks.textual_inversion.EVERY", 1)
    cut = target(HELD)

    def crash(noise: Tensor, call: Call) -> Tensor:
        if cut.saved == 3:
            raise KeyboardInterrupt
        return noise

    cut.poison = crash
    with pytest.raises(KeyboardInterrupt):
        learned(attack, cut)
    cut.poison = None
    again = learned(attack, cut)
    assert torch.equal(again.vectors, search.vectors) and torch.equal(again.after, search.after)


def test_styles_of_the_model_are_training_prompts(target: Callable[..., Any]) -> None:
    attack = TextualInversion(**{**vars(SMALL), "templates": ("{}", "{}, [style] style")})
    assert attack.prompts(("flat", "noto")) == ("{}", "{}, flat style", "{}, noto style")
    assert attack.prompts(()) == ("{}",)
    arm = target(HELD)
    arm.styles = ("flat", "noto")
    assert Search(attack, arm, dict.fromkeys(HELD, 1)).templates == ("{}", "{}, flat style", "{}, noto style")
    with pytest.raises(BadInput, match="styles are not known"):
        TextualInversion(**{**vars(SMALL), "templates": ("{} in [style]",)}).prompts(())


def test_bad_input(target: Callable[..., Any]) -> None:
    with pytest.raises(BadInput, match="no {} for the learned word"):
        list(SMALL.search([CASES[0]._replace(prompt="a cat")], target(HELD)))
    with pytest.raises(BadInput, match="no reference pictures of 'key'"):
        list(SMALL.search(CASES, target({"cat": 1})))
    for wrong in (
        {"steps": 0},
        {"rate": 0.0},
        {"rate": float("nan")},
        {"words": ()},
        {"templates": ()},
        {"templates": ("a picture",)},
        {"norm": "x"},
    ):
        with pytest.raises(BadInput, match="textual_inversion"):
            TextualInversion(**wrong)
    assert list(SMALL.search([], target({}))) == []


def test_identity_and_templates() -> None:
    assert Spec.of("attack", SMALL).hash == Spec.of("attack", TextualInversion(**{**vars(SMALL), "batch": 1})).hash
    assert not any(" in " in t for t in TextualInversion().templates), (
        "prompts of the evaluation read '{} in noto style'"
    )
