"""Identity by named fields: what a later version adds with a default leaves stores alone."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest
from PIL import Image as pil

from genward.core import Case, Inputs, Sample, digest
from genward.core.media import Image
from genward.core.spec import named
from genward.errors import BadInput

CASE = Case("a", "a cat", seed=3, group="cat", inputs=Inputs({"latents": "ab", "<cd>": "cd"}))


class LaterCase(NamedTuple):
    """A case of a later version: one more field, in the middle, with a default."""

    id: str
    prompt: str
    label: str = "benign"
    language: str = "en"
    concept: str = ""
    seed: int = 0
    negative: str = ""
    variant: str = ""
    group: str = ""
    parent: str = ""
    queries: int = 0
    inputs: Inputs = Inputs()
    named = Case.named


def later(case: Case, **more: str) -> LaterCase:
    return LaterCase(**{**case._asdict(), **more})


def test_a_field_added_with_a_default_leaves_ids_unchanged() -> None:
    assert Sample(later(CASE), "arm").id == Sample(CASE, "arm").id  # type: ignore[arg-type]
    assert digest([later(CASE).named()]) == digest([CASE.named()])
    assert Sample(later(CASE, language="de"), "arm").id != Sample(CASE, "arm").id  # type: ignore[arg-type]


def test_every_field_is_part_of_the_id() -> None:
    plain = Case("a", "b")
    other = {"label": "harm", "seed": 1, "queries": 1, "inputs": Inputs({"latents": "x"})}
    ids = {Sample(plain._replace(**{name: other.get(name, "z")}), "arm").id for name in Case._fields}
    assert len(ids | {Sample(plain, "arm").id, Sample(plain, "other").id}) == len(Case._fields) + 2
    assert Sample(Case("a", "b", concept="x"), "").id != Sample(Case("a", "b", group="x"), "").id


def test_ids_are_pinned() -> None:
    """A store's rows are found by these; a change here needs a new schema."""
    assert Sample(CASE, "arm").id == digest(
        {
            "arm": "arm",
            "case": {
                "id": "a",
                "prompt": "a cat",
                "seed": 3,
                "group": "cat",
                "inputs": {"<cd>": "cd", "latents": "ab"},
            },
        },
        length=24,
    )


class Odd:
    """Cannot say whether it equals something, as a tensor of several numbers."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("ambiguous")


def test_a_value_that_cannot_be_compared_is_no_default_and_cannot_be_written_down() -> None:
    case = CASE._replace(queries=Odd())  # type: ignore[arg-type]
    assert "queries" in case.named()
    with pytest.raises(BadInput, match="cannot be written down|configuration value"):
        digest(case.named())


def test_named_fields_of_dataclasses() -> None:
    @dataclass(frozen=True)
    class Settings:
        words: str
        steps: int = 20
        eta: float = 0.0

    assert named(Settings("x")) == {"words": "x"} and named(Settings("x", 20, 0.5)) == {"words": "x", "eta": 0.5}


def test_a_case_is_written_down_and_made_again() -> None:
    assert Case.of(CASE.named()) == CASE and Case.of({"id": "a", "prompt": ""}) == Case("a", "")
    with pytest.raises(BadInput, match="colour"):
        Case.of({"id": "a", "prompt": "", "colour": "red"})


def test_inputs_cannot_be_changed_and_can_be_hashed() -> None:
    given = {"latents": "ab"}
    inputs = Inputs(given)
    given["latents"] = "other"
    assert dict(inputs) == {"latents": "ab"} == inputs and inputs.get("<x>") is None and not Inputs()
    assert len({Case("a", "b", inputs=inputs), Case("a", "b", inputs=Inputs({"latents": "ab"})), Case("a", "b")}) == 2
    assert Inputs({"a": "1", "b": "2"}) == Inputs({"b": "2", "a": "1"})
    assert hash(Inputs({"a": "1", "b": "2"})) == hash(Inputs({"b": "2", "a": "1"}))
    with pytest.raises(TypeError):
        inputs["latents"] = "x"  # type: ignore[index]
    with pytest.raises(AttributeError, match="cannot be changed"):
        inputs._held = {}
    assert pickle.loads(pickle.dumps(CASE)) == CASE == copy.deepcopy(CASE)  # noqa: S301 - our own bytes
    with pytest.raises(BadInput, match="as text"):
        Inputs({"latents": 3})  # type: ignore[dict-item]
    with pytest.raises(BadInput, match="inputs are dict"):
        Case("a", "b", inputs={"latents": "ab"}).checked()  # type: ignore[arg-type]


def test_a_picture_may_be_given_as_it_is() -> None:
    picture = pil.new("RGB", (4, 4), "red")
    made = Sample(CASE, image=picture)
    assert made.image is picture and made.output is not None and made.output.kind == "image"
    assert Sample(CASE).image is None and replace(made, arm="x").image is picture
    with pytest.raises(TypeError, match="output"):
        Sample(CASE, image=picture, output=Image(picture))
