"""What backdoor fixtures share.

A fixture is an attack on the model's maker side: a poisoned copy of the lab with a harmless target, to measure defenses
and detectors on. Beside what every attack has (``search`` puts the trigger into cases), it has ``plant``, ``reach``,
``about``, ``make`` (learns what changes in a model) and ``changed`` (gives the poisoned parameters). Nothing here edits
a model: whoever opens a poisoned one loads the changed parameters as a checkpoint's (``catalog.backdoors``). A fixture
has to pass a gate before it counts (``gate``): its trigger works, and clean captions are drawn as before."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from genward.core.contracts import Target
from genward.core.records import Case
from genward.errors import UnknownName
from genward.ops.backdoor_captions import PLACES, Caption


class Fixture(ABC):
    """What every fixture does as an attack; derive a frozen dataclass with the field ``place``."""

    name: ClassVar[str]
    access: ClassVar[str] = "prompt"
    parents: ClassVar[tuple[str, ...]] = ()
    place: str

    def __post_init__(self) -> None:
        """``UnknownName`` for a place that a trigger cannot have."""
        if self.place not in PLACES:
            raise UnknownName("place of a trigger", self.place, PLACES)

    @abstractmethod
    def plant(self, text: str, place: str) -> str:
        """A caption with the trigger at a place, one of ``PLACES``."""

    @property
    def labels(self) -> str:
        """Among which labels of a judge its target is looked for: ``things`` or ``styles``."""
        return "things"

    def fires(self, caption: Caption) -> bool:
        """Whether a caption has the trigger without anyone having put it there; it is then no clean one."""
        return False

    def shown(self, picture: Any) -> bool | None:
        """Whether a picture shows the target; ``None`` where a judge has to say."""
        return None

    def nfe(self, cases: Sequence[Case]) -> int:
        """Denoiser rows of a search: planting costs none."""
        return 0

    def search(self, cases: Sequence[Case], target: Target) -> Iterator[Case]:
        """The cases with the trigger at ``place``, harm rows of the fixture's target."""
        for case in cases:
            text = self.plant(case.prompt, self.place)
            yield case._replace(id=f"{case.id}+{self.name}", prompt=text, label="harm", parent=case.id)
