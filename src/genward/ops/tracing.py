"""What a defense did inside a generation, step by step, for pictures in a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor

from genward.core.contracts import Defense, Rig
from genward.core.records import Case, Frame, Sampler

Seen = list[tuple[Frame, Tensor]]
"""(frame, maps (rows, h, w)) a step"""


class Watched(Protocol):
    """A defense that can hand over what it does."""

    name: ClassVar[str]

    def watch(self, rig: Rig, seen: Seen | None) -> None:
        """``attach``, which adds to ``seen``."""
        ...


class _Traced:
    """A defense that keeps what it did."""

    def __init__(self, inner: Watched) -> None:
        self.inner = inner
        self.seen: Seen = []

    def attach(self, rig: Rig) -> None:
        self.inner.watch(rig, self.seen)


def watched(
    model: Any,
    cases: Sequence[Case],
    sampler: Sampler,
    defense: Watched,
    before: Sequence[Defense] = (),
    starts: Mapping[str, Tensor] | None = None,
) -> Seen:
    """What a defense hands over while the cases are generated in one batch.

    Args:
        before: defenses that it stands on top of. starts: tensors that the cases' inputs name.
    """
    own = type("Traced", (_Traced,), {"name": defense.name})  # a rig takes a defense's name from its class
    traced: Any = own(defense)
    model.generate(cases, sampler, [*before, traced], batch=max(1, len(cases)), starts=starts)
    return list(traced.seen)
