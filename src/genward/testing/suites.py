"""Contract suites: what every defense must keep to, as one function any plug-in's tests can call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from genward.core.records import Case, Sampler
from genward.core.spec import Spec
from genward.models.sd import StableDiffusion

CASES = tuple(Case(id=f"case-{k}", prompt=p, seed=k) for k, p in enumerate(("a red cat", "a blue dog", "a key")))
"""Three harmless cases used by the suites."""


def pixels(samples: Sequence[Any]) -> list[Any]:
    """The samples' pictures as arrays, ``None`` where there is none."""
    return [None if s.image is None else np.asarray(s.image) for s in samples]


def same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether two generations hold bit-equal pictures."""
    return all(
        (x is None) == (y is None) and (x is None or np.array_equal(x, y))
        for x, y in zip(pixels(a), pixels(b), strict=True)
    )


def hooks(model: StableDiffusion) -> int:
    """Number of hooks on any module of the denoiser and the text encoder."""
    modules = [*model.denoiser.modules(), *model.text_encoder.modules()]
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def weights(model: StableDiffusion) -> dict[str, Any]:
    """Copies of all parameters of the denoiser, for bit comparison."""
    return {n: p.detach().clone() for n, p in model.denoiser.named_parameters()}


class _Broken:
    """A defense whose port raises in mid-loop: what a crash leaves behind is what the suite looks at."""

    name: ClassVar[str] = "broken"

    def attach(self, rig: Any) -> None:
        def fn(z: Any, frame: Any) -> Any:
            raise ZeroDivisionError("on purpose")

        rig.latents(fn, during=(0.5, 1.0))


def defense_laws(
    model: StableDiffusion,
    make: Callable[..., Any],
    *,
    zero: dict[str, Any] | None,
    sampler: Sampler | None = None,
    changes: bool = True,
) -> None:
    """Assert design laws on one defense: nothing is left behind, zero strength is the base bit for bit, its spec
    round-trips.

    Args:
        model: a tiny model.
        make: builds the defense; called without arguments and with ``zero``.
        zero: fields at which the defense must do nothing, ``None`` where it has no such setting.
        changes: whether the default setting must change at least one picture or refuse a row.
    """
    sampler = sampler or Sampler(steps=4, guidance=3.0)
    base = model.generate(CASES, sampler)
    before, count = weights(model), hooks(model)
    defense = make()
    guarded = model.generate(CASES, sampler, [defense])
    assert not changes or not same(base, guarded), f"{defense.name} changed nothing at its default setting"
    crashed = model.generate(CASES, sampler, [defense, _Broken()])
    assert all(s.status == "error" and s.image is None for s in crashed), "a crash in a port must refuse the rows"
    after = weights(model)
    assert hooks(model) == count, "hooks were left behind"
    assert all(bool((before[n] == after[n]).all()) for n in before), "a weight was left changed"
    assert same(base, model.generate(CASES, sampler)), "the base changed after the guard closed"
    if zero is not None:
        assert same(base, model.generate(CASES, sampler, [make(**zero)])), (
            f"{defense.name} at {zero} is not the base bit for bit"
        )
    assert dataclasses.is_dataclass(defense) and not isinstance(defense, type)
    spec = Spec.of("defense", defense)
    assert Spec.from_json(spec.to_json()).hash == spec.hash
