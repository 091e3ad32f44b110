"""What holds where a defense does not say, and what a defense may not say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from genward.catalog import plugins
from genward.core import Concept, defending
from genward.errors import BadInput


@dataclass(frozen=True)
class Bare:
    name: ClassVar[str] = "bare"
    strength: float = 1.0

    def attach(self, rig: Any) -> None: ...


CONCEPT = Concept("tools", "object", "", ("saw",), ("a saw",))


def test_a_defense_needs_name_and_attach_alone() -> None:
    for asked in (Bare, Bare()):
        assert defending.named(asked) == "bare" and not defending.needs_guidance(asked)
        assert defending.extra_nfe(asked) == 0.0 and defending.at_attach(asked) == {"strength"}
        assert not defending.learns(asked) and not defending.takes_concept(asked)
        assert defending.artifact_field(asked) is None
    assert defending.last_look(Bare(), 5) is None and defending.artifact_of(Bare()) is None
    assert defending.concept_of(Bare()) == "" and defending.judge_of(Bare()) is None
    defending.check(Bare(), object())  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="'bare' takes no concept"):
        defending.made_for(Bare, CONCEPT)


@pytest.mark.parametrize("name", plugins.entries("defense"))
def test_what_shipped_defenses_say_is_of_its_kind(name: str) -> None:
    cls = plugins.find("defense", name)
    fields = {f.name for f in plugins.entry("defense", name).fields}
    assert defending.named(cls) == name and defending.extra_nfe(cls) >= 0
    assert isinstance(defending.needs_guidance(cls), bool) and defending.at_attach(cls) - {"strength"} <= fields
    assert defending.learns(cls) == (defending.artifact_field(cls) is not None)
    assert defending.takes_concept(cls) == (name not in ("pepper", "textual_perturbation", "speech_moderation")), (
        "these take every caption"
    )
    step = defending.last_look(cls(), 20)
    assert step is None or 0 <= step < 20


@pytest.mark.parametrize(
    ("said", "ask", "told"),
    [
        ({"needs_guidance": "no"}, defending.needs_guidance, "True or False"),
        ({"extra_nfe": float("nan")}, defending.extra_nfe, "at least 0"),
        ({"extra_nfe": -1.0}, defending.extra_nfe, "at least 0"),
        ({"at_attach": "strength"}, defending.at_attach, "a set of field names"),
        ({"last_look": lambda self, steps: steps}, lambda d: defending.last_look(d, 4), "from 0 to 3"),
        ({"last_look": lambda self, steps: 1.5}, lambda d: defending.last_look(d, 4), "from 0 to 3"),
        ({"last_look": lambda self, steps: True}, lambda d: defending.last_look(d, 4), "from 0 to 3"),
    ],
)
def test_what_makes_no_sense_is_refused(said: dict[str, Any], ask: Any, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        ask(type("Odd", (Bare,), said)())


def test_a_check_is_asked_each_time() -> None:
    asked: list[Any] = []
    odd = type("Checks", (Bare,), {"check": lambda self, rig: asked.append(rig)})()
    for rig in ("first", "second"):
        defending.check(odd, rig)  # type: ignore[arg-type]
    assert asked == ["first", "second"]
