"""Optional arms are there where their fits are; memory is counted where the machine counts it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from genward.run import memory, optional
from genward.run.plan import ArmPlan, make_plan

PLAN = make_plan("canvas-quick", benchmark="canvas")


def kept(monkeypatch: pytest.MonkeyPatch, missing: set[str], *arms: ArmPlan) -> tuple[list[ArmPlan], list[str]]:
    """The arms that stay, and what was said, where ``missing`` texts have no fit."""

    def unfitted(requests: Any, *_: Any, **__: Any) -> list[str]:
        return [r.text for r in requests if r.text in missing]

    monkeypatch.setattr(optional, "unfitted", unfitted)
    said: list[str] = []
    plan = replace(PLAN, arms=(ArmPlan("base", control="base"), *arms))
    found = optional.fitted(plan, lambda name: SimpleNamespace(name=name), None, said.append)  # type: ignore[arg-type]
    return list(found.arms[1:]), said


def test_an_optional_arm_without_a_fit_is_left_out_by_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    arm = ArmPlan("esd-x", "esd:{concept}", optional=True)
    arms, said = kept(monkeypatch, {"esd:banana", "esd:weapons"}, arm)
    assert arms == [] and len(said) == 1 and "esd-x: left out" in said[0] and "esd:banana" in said[0]


def test_a_bound_arm_keeps_the_concepts_that_are_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    arm = ArmPlan("esd-x", "esd:{concept}", optional=True)
    arms, said = kept(monkeypatch, {"esd:banana"}, arm)
    assert [(a.concepts, a.optional) for a in arms] == [(("weapons",), False)] and "esd:banana" in said[0]
    arms, said = kept(monkeypatch, set(), arm)
    assert [(a.concepts, a.optional) for a in arms] == [((), False)] and not said


def test_an_arm_that_is_not_optional_stays_whatever_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    arm = ArmPlan("esd-x", "esd:{concept}")
    assert kept(monkeypatch, {"esd:banana", "esd:weapons"}, arm) == ([arm], [])


def test_optional_changes_a_plan_s_hash_only_where_it_is_said() -> None:
    plain = replace(PLAN, arms=(ArmPlan("base", control="base"),))
    said = replace(PLAN, arms=(ArmPlan("base", control="base", optional=True),))
    assert plain.hash != said.hash


def test_peak_memory_sees_what_was_held_since_the_start() -> None:
    if not memory.start("cpu"):
        pytest.skip("this machine does not let a process reset its high-water mark")
    before = memory.peak("cpu")
    block = bytearray(b"x") * (200 << 20)
    assert before is not None and len(block) == 200 << 20
    most = memory.peak("cpu")
    assert most is not None and most - before > 150 << 20
    del block
    assert memory.start("cpu")
    after = memory.peak("cpu")
    assert after is not None and after < most
