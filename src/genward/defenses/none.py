"""No defense: the base arm that everything else is measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from genward.core.contracts import Rig
from genward.core.records import Concept


@dataclass(frozen=True)
class NoDefense:
    """No defense: the model as it is."""

    name: ClassVar[str] = "none"
    at_attach: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def for_concept(cls, concept: Concept, **fields: Any) -> Self:
        """The same for every concept."""
        return cls(**fields)

    def attach(self, rig: Rig) -> None:
        """Attach nothing."""
