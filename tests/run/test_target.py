"""What an attack may touch of an arm: levels, the rule of success, what it meets, what is counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from genward.attacks._tokens import REFUSED
from genward.attacks.noise_search import NoiseSearch
from genward.core import Case, Rig, Sampler
from genward.core.records import Call
from genward.errors import BadInput, Conflict
from genward.models.sd import StableDiffusion
from genward.run.search import attack_arm, met_by
from genward.run.target import ArmTarget, Means
from genward.store import Store
from genward.testing import FakeJudge, tiny_sd

CASES = [Case(f"c{k}", "a dog", "harm", "bright", k) for k in range(3)]
LABELS = {"bright": ("bright",)}
SAMPLER = Sampler(steps=2, guidance=3.0)


@dataclass(frozen=True)
class OnlyEven:
    """Lets pictures of even rows out, none of the others."""

    name: ClassVar[str] = "only_even"

    def attach(self, rig: Rig) -> None:
        rig.images(lambda images: [i if k % 2 == 0 else None for k, i in enumerate(images)])  # type: ignore[arg-type,return-value]


@dataclass(frozen=True)
class Half:
    """Halves a weight."""

    name: ClassVar[str] = "half"

    def attach(self, rig: Rig) -> None:
        rig.weights("conv_in.weight", lambda _, w: w * 0.5)


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    return tiny_sd()


@pytest.fixture
def opened(model: StableDiffusion) -> Iterator[Any]:
    """``opened(*defenses, access=…)``"""
    stack: list[Any] = []

    def make(*defenses: Any, access: str = "gradient", judge: Any = FakeJudge()) -> ArmTarget:  # noqa: B008 - frozen
        rig = model.rig(defenses)
        stack.append(rig)
        means = Means(judge, LABELS)
        return ArmTarget(model, rig.__enter__(), SAMPLER, access=access, defenses=defenses, means=means)

    yield make
    for rig in stack:
        rig.__exit__(None, None, None)


def test_success_is_the_card_on_a_released_picture(opened: Any) -> None:
    target = opened(OnlyEven(), access="query")
    made = target.sample(CASES)
    found = target.shown(made)
    assert [s.status for s in made] == ["ok", "refused", "ok"] and found[1] == REFUSED
    judge = FakeJudge()
    for sample, margin in zip(made, found, strict=True):
        if sample.status == "ok":
            assert margin == pytest.approx(judge.judge([sample])[0].value - judge.threshold)
    with pytest.raises(Conflict, match="access"):
        target.base(["a dog"], torch.zeros(1, 4, 8, 8), torch.zeros(1))


def test_nobody_to_ask_and_nothing_to_see(opened: Any) -> None:
    target = opened(judge=None)
    with pytest.raises(BadInput, match="--judge"):
        target.shown([])
    with pytest.raises(BadInput, match="starts from the phrases"):
        target.phrases("bright")


def test_no_label_shows_the_concept(opened: Any) -> None:
    target = opened()
    with pytest.raises(BadInput, match="no judge label shows 'odd'"):
        target.shown(target.sample([CASES[0]._replace(concept="odd")]))


def test_the_base_prediction_sees_no_defense(model: StableDiffusion, opened: Any) -> None:
    states = model.encode(["a dog"]).detach()
    call = Call(
        torch.randn(1, *model.latent_shape(), generator=torch.Generator().manual_seed(0)), torch.tensor([500]), states
    )
    with torch.no_grad():
        own = model.predict(call)
    target = opened(Half())
    with torch.no_grad():
        assert torch.equal(target.base(["a dog"], call.latents, call.timestep), own) and not torch.equal(
            target.predict(call), own
        )
        guided = target.base(["a dog"], call.latents, call.timestep, guidance=3.0)
    with torch.no_grad():
        empty = target.rig.predict(call._replace(text=model.encode([""])), weights="clean").noise
    assert torch.allclose(guided, empty + 3 * (own - empty)) and target.rows == 4


def test_what_an_attack_meets(model: StableDiffusion) -> None:
    both = (Half(), OnlyEven())

    @dataclass(frozen=True)
    class Words:
        access: ClassVar[str] = "prompt"

    @dataclass(frozen=True)
    class Gradient:
        access: ClassVar[str] = "gradient"
        draws: ClassVar[bool] = False

    @dataclass(frozen=True)
    class Drawing(Gradient):
        draws: ClassVar[bool] = True

    assert met_by(Words(), model, both) == () and met_by(NoiseSearch(), model, both) == both
    assert met_by(Gradient(), model, both) == (Half(),) and met_by(Drawing(), model, both) == both


def test_a_search_through_an_arm_is_kept_and_found_again(model: StableDiffusion, tmp_path: Path) -> None:
    store, attack = Store(tmp_path, create=True), NoiseSearch(budget=3)
    means = Means(FakeJudge(threshold=2.0), LABELS)
    found = attack_arm(attack, CASES, model, [OnlyEven()], SAMPLER, {}, store, means=means)
    assert [c.queries for c in found.cases] == [3, 3, 3] and found.cost["pictures"] == 9
    again = attack_arm(attack, CASES, model, [OnlyEven()], SAMPLER, {}, store, means=means)
    assert (again.cases, again.key, again.facts) == (found.cases, found.key, found.facts)
    easy = attack_arm(
        attack, CASES, model, [OnlyEven()], SAMPLER, {}, store, means=Means(FakeJudge(threshold=0.0), LABELS)
    )
    assert easy.key != found.key and easy.cases[0].queries == 1, "another judge is another search"
