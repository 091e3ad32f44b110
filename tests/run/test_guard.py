"""Guards on a tiny pipeline: laws of chains, identity, conflicts named before any picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from genward.core.records import Case, Sampler
from genward.errors import Conflict
from genward.run.guard import Guard, arm_hash
from genward.testing import tiny_sd
from genward.testing.examples import Dim, Halfway, Rewrite, Steer

CASES = [Case(f"c{k}", f"a cat number {k}", seed=k) for k in range(3)]
SAMPLER = Sampler(steps=3, guidance=3.0)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_sd()


def pictures(samples: list[Any]) -> list[Any]:
    return [np.asarray(s.image) for s in samples]


def equal(a: list[Any], b: list[Any]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(pictures(a), pictures(b), strict=True))


def test_an_empty_guard_and_zero_strength_are_the_base(model: Any) -> None:
    base = model.generate(CASES, SAMPLER)
    assert equal(base, Guard(model).generate(CASES, SAMPLER))
    assert equal(base, Guard(model, [Steer(strength=0.0), Rewrite(strength=0.0)]).generate(CASES, SAMPLER))
    assert not equal(base, Guard(model, [Steer()]).generate(CASES, SAMPLER))
    assert equal(base, model.generate(CASES, SAMPLER))


def test_every_sample_carries_its_arm(model: Any) -> None:
    guard = Guard(model, [Dim()])
    samples = guard.sample(CASES, SAMPLER, batch=2)
    assert {s.arm for s in samples} == {guard.arm(SAMPLER)} == {arm_hash(model.spec, [Dim()], SAMPLER)}
    assert len({s.id for s in samples}) == len(CASES)


def test_the_order_and_the_settings_are_the_identity(model: Any) -> None:
    a, b = Guard(model, [Steer(), Rewrite()]), Guard(model, [Rewrite(), Steer()])
    assert a.hash != b.hash and a.spec.name == "example-tap+example-prompts"
    assert a.hash == Guard(model, (Steer(), Rewrite())).hash
    assert a.hash != Guard(model, [Steer(strength=0.6), Rewrite()]).hash
    assert Guard(model).spec.name == "none"
    assert a.arm(SAMPLER) != a.arm(Sampler(steps=4, guidance=3.0))


def test_a_contradictory_chain_names_both_owners_before_any_picture(model: Any) -> None:
    class Other(Halfway):
        name = "other-guidance"

    with pytest.raises(Conflict, match="example-guidance and other-guidance"):
        Guard(model, [Halfway(), Other()])
    assert model.open_rig is None


def test_a_guard_from_text_without_defenses(model: Any) -> None:
    assert Guard.of(model, "none").defenses == ()
