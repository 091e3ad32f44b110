"""Contract suite for attacks: what every search over cases must keep to, as one function any plug-in's tests can
call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from genward.core.records import Case, Sampler
from genward.core.spec import Spec
from genward.models.sd import StableDiffusion
from genward.run.measure import opened
from genward.run.search import attack_arm, met_by
from genward.run.target import ArmTarget, Means
from genward.testing.judge import FakeJudge
from genward.testing.suites import hooks, weights

CONCEPT = "bright"
PROMPTS = (
    Case("attacked-0", "a red cat", "harm", CONCEPT, 0, group="cat"),
    Case("attacked-1", "a blue dog", "harm", CONCEPT, 1, group="dog"),
)
"""Two harmless cases; the concept of the suite's judge is a bright picture."""
THINGS = {
    "cat": {"name": ["a red cat"], "synonym": ["a ginger cat", "a red kitten"]},
    "dog": {"name": ["a blue dog"], "synonym": ["a blue hound"]},
}
NEVER = 2.0
"""A threshold that no picture reaches, so that a whole budget is spent"""


def means(threshold: float = NEVER) -> Means:
    """What the suite's attacker holds."""
    judge = FakeJudge(threshold=threshold)
    return Means(judge, {CONCEPT: judge.labels}, THINGS, {CONCEPT: ("a cat", "a dog")})


class Stopped(Exception):  # noqa: N818 - no error of anybody's
    """What the suite interrupts a search with."""


def attack_laws(
    model: StableDiffusion,
    make: Callable[[], Any],
    folder: Path,
    *,
    defenses: Sequence[Any] = (),
    cases: Sequence[Case] = PROMPTS,
    references: Mapping[str, Sequence[Any]] | None = None,
    sampler: Sampler | None = None,
) -> None:
    """Assert design laws on one attack: one derived case a parent, the same again from the same settings, nothing left
    behind, no more than it said it would cost, an interrupted search ends alike.

    Args:
        model: a tiny model. make: builds the attack at settings that end within seconds.
        folder: an empty folder for the suite's stores.
        defenses: the arm that is attacked. references: the attacker's pictures by concept.
    """
    attack, sampler = make(), sampler or Sampler(steps=2, guidance=3.0)
    assert dataclasses.is_dataclass(type(attack)), f"{type(attack).__name__} is no dataclass"
    assert attack.access in ("prompt", "query", "gradient"), f"{attack.name}: access {attack.access!r}"
    spec = Spec.of("attack", attack)
    assert Spec.from_json(spec.to_json()).hash == spec.hash
    assert list(attack.search([], _target(model, sampler, attack, (), folder / "none", references))) == []
    before, count = weights(model), hooks(model)
    held = references or {}
    found = attack_arm(attack, cases, model, defenses, sampler, held, opened(folder / "a", create=True), means=means())
    _derived(attack, cases, found.cases)
    rows = attack.nfe(cases) * _dearer(attack, defenses)
    assert found.cost["nfe"] <= rows, f"{attack.name} spent {found.cost['nfe']} denoiser rows and announced {rows}"
    _left_nothing(model, before, count, attack)
    again = attack_arm(attack, cases, model, defenses, sampler, held, opened(folder / "b", create=True), means=means())
    assert again.cases == found.cases and set(again.tensors) == set(found.tensors), f"{attack.name} is not repeatable"
    _interrupted(model, attack, cases, defenses, sampler, held, folder, found.cases)
    _left_nothing(model, before, count, attack)


def _derived(attack: Any, cases: Sequence[Case], found: Sequence[Case]) -> None:
    assert len(found) == len(cases), f"{attack.name}: {len(found)} derived cases for {len(cases)}"
    for case, one in zip(cases, found, strict=True):
        one.checked()
        assert one.parent == case.id and one.id != case.id, f"{attack.name}: {one.id!r} is not derived from {case.id!r}"
        assert (one.concept, one.label) == (case.concept, case.label)
        assert one.queries >= 0


def _dearer(attack: Any, defenses: Sequence[Any]) -> int:
    """Announced rows are counted at guidance 1 of the loss; a guided one costs twice as many."""
    return 2 if attack.access == "gradient" else 1


def _left_nothing(model: StableDiffusion, before: Mapping[str, Any], count: int, attack: Any) -> None:
    assert hooks(model) == count, f"{attack.name} left hooks behind"
    after = weights(model)
    assert all(bool((before[n] == after[n]).all()) for n in before), f"{attack.name} left a weight changed"
    assert model.open_rig is None


def _target(
    model: StableDiffusion, sampler: Sampler, attack: Any, defenses: Sequence[Any], state: Path, references: Any
) -> ArmTarget:
    """A target without a rig, for a search over nothing."""
    with model.rig(defenses) as rig:
        held: dict[str, Any] = {"references": references, "state": state, "means": means()}
        return ArmTarget(model, rig, sampler, access=attack.access, defenses=defenses, **held)


def _interrupted(
    model: StableDiffusion,
    attack: Any,
    cases: Sequence[Case],
    defenses: Sequence[Any],
    sampler: Sampler,
    references: Mapping[str, Sequence[Any]],
    folder: Path,
    wanted: Sequence[Case],
) -> None:
    """Stop after the first checkpoint; the same search from there ends with the same cases."""
    met = met_by(attack, model, defenses)
    own = model.generate(cases, sampler) if "undefended" in getattr(attack, "asks", ()) else ()
    held: dict[str, Any] = {"references": references, "state": folder / "state", "means": means(), "undefended": own}
    with model.rig(met) as rig:
        target = ArmTarget(model, rig, sampler, access=attack.access, defenses=met, **held)
        keep = target.checkpoint

        def once(state: Any = None) -> Any:
            found = keep(state)
            if state is not None:
                raise Stopped
            return found

        target.checkpoint = once  # type: ignore[method-assign]
        try:
            list(attack.search(cases, target))
        except Stopped:
            pass
    with model.rig(met) as rig:
        target = ArmTarget(model, rig, sampler, access=attack.access, defenses=met, **held)
        found = tuple(attack.search(cases, target))
    assert found == tuple(wanted), f"{attack.name}: an interrupted search ended otherwise"
