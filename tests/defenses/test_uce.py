"""UCE's fit against a per-layer loop in float64 that builds its own rows from the pipeline's encoder."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from genward.core import Concept
from genward.defenses.uce import KV_MAPS, Uce, last_subject, uce_rows
from genward.errors import BadArtifact, BadInput
from genward.models.sd import StableDiffusion
from genward.ops import artifacts


def encode(model: StableDiffusion, text: str) -> tuple[Tensor, int]:
    """States of one text by the pipeline's own parts, and the last subject token's index as the authors compute it."""
    inputs = model.pipe.tokenizer(
        [text],
        padding="max_length",
        max_length=model.pipe.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    mask = inputs.attention_mask if getattr(model.text_encoder.config, "use_attention_mask", False) else None
    with torch.no_grad():
        states = model.text_encoder(inputs.input_ids, attention_mask=mask)[0][0].double()
    return states, int(inputs.attention_mask[0].sum()) - 2


PAIRS = [("a saw", "a cup"), ("a small saw", "a cup"), ("an axe", "a bowl"), ("a hatchet", "a bowl")]
KEEP = ["", "a dog", "a red apple", "a hammer"]


def cut(states: Tensor, index: int, other: int, rows: str) -> Tensor:
    """The 2023 code's slice from the last subject token on, or the 2025 code's single row."""
    if rows == "last":
        return states[index : index + 1]
    return states[index : len(states) - max(0, other - index)]


def loop(model: StableDiffusion, w: Tensor, rows: str, mode: str, lam: float, a: float, p: float) -> Tensor:
    w = w.double()
    left, right = lam * w, lam * torch.eye(w.shape[1], dtype=torch.float64)
    for concept, guide in PAIRS:
        (c, i), (g, j) = encode(model, concept), encode(model, guide)
        old, new = cut(c, i, j, rows), cut(g, j, i, rows)
        values = w @ new.T
        if mode == "tensor":
            u = (w @ old.T) / (w @ old.T).norm()
            values = values - (u * values).sum() * u
        for k in range(len(old)):
            left = left + a * torch.outer(values[:, k], old[k])
            right = right + a * torch.outer(old[k], old[k])
    for text in KEEP:
        states, i = encode(model, text)
        for k in states[[i]] if rows == "last" else states:
            left = left + p * torch.outer(w @ k, k)
            right = right + p * torch.outer(k, k)
    return left @ torch.linalg.inv(right)


@pytest.mark.parametrize("rows", ["last", "last-and-later"])
@pytest.mark.parametrize("mode", ["replace", "tensor"])
@pytest.mark.parametrize("which", ["model", "masked"])
def test_edited_maps_equal_the_loop(
    mode: str, rows: str, which: str, request: pytest.FixtureRequest, concept: Concept
) -> None:
    model = request.getfixturevalue(which)
    defense = Uce(mode=mode, rows=rows, lam=0.3, alpha=0.9, preserve_scale=0.4).fit(model, concept)
    before = {n: p.clone() for n, p in model.unet.named_parameters()}
    with model.rig([defense]):
        edited = {n: p.clone() for n, p in model.unet.named_parameters()}
    maps = [n for n in before if re.search(KV_MAPS, n)]
    assert len(maps) == 8 and all(torch.equal(edited[n], before[n]) for n in before if n not in maps)
    for name in maps:
        wanted = loop(model, before[name], rows, mode, 0.3, 0.9, 0.4)
        assert float((wanted - before[name]).abs().max()) > 1e-3
        assert torch.allclose(edited[name].double(), wanted, atol=2e-6), name


def test_one_matrix_for_the_layout_of_stable_diffusion(deep: StableDiffusion, concept: Concept) -> None:
    defense = Uce(rows="all").fit(deep, concept)
    assert defense.artifact is not None and {n: tuple(t.shape) for n, t in defense.artifact.tensors.items()} == {
        "delta": (16, 16)
    }
    with deep.rig([defense]) as rig:
        assert rig.port_calls == {"uce.weights": 32}


@pytest.mark.parametrize("which", ["model", "masked"])
def test_a_concept_acts_as_its_guide(which: str, request: pytest.FixtureRequest, concept: Concept) -> None:
    """With a vanishing lam and nothing preserved, the edited map of the last subject token is the old map of the
    guide's."""
    model = request.getfixturevalue(which)
    defense = Uce(rows="last", lam=1e-7, preserve_scale=0.0).fit(model, concept)
    name = next(n for n, _ in model.unet.named_parameters() if re.search(KV_MAPS, n))
    old = model.unet.get_parameter(name).double()
    with model.rig([defense]):
        new = model.unet.get_parameter(name).double()
    for concept_text, guide in PAIRS:
        (c, i), (g, j) = encode(model, concept_text), encode(model, guide)
        assert torch.allclose(new @ c[i], old @ g[j], atol=2e-3)


def test_strength_is_a_share_of_the_edit(model: StableDiffusion, concept: Concept) -> None:
    import dataclasses

    full = Uce().fit(model, concept)
    name = next(n for n, _ in model.unet.named_parameters() if re.search(KV_MAPS, n))
    seen = []
    for strength in (0.0, 0.5, 1.0):
        with model.rig([dataclasses.replace(full, strength=strength)]):
            seen.append(model.unet.get_parameter(name).clone())
    assert torch.equal(seen[0], model.unet.get_parameter(name)) and torch.allclose(
        seen[1], (seen[0] + seen[2]) / 2, atol=1e-6
    )


def test_many_concepts_at_once(model: StableDiffusion, concept: Concept) -> None:
    other = Concept("fish", "object", "", ("fish",), ("a fish",), anchor="a cup", keep=("a dog", "a saw"))
    both = Uce().fit(model, [concept, other])
    assert (
        both.artifact is not None
        and list(both.artifact.card["concepts"]) == ["fish", "tools"]
        or list(both.artifact.card["concepts"]) == ["tools", "fish"]
    )
    assert both.artifact.hash not in (Uce().fit(model, concept).artifact.hash, Uce().fit(model, other).artifact.hash)  # type: ignore[union-attr]
    assert both.artifact.hash == Uce().fit(model, [concept, other]).artifact.hash  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("concept_last", "guide_last", "rows", "expected"),
    [
        (2, 3, "last", ([2], [3])),
        (2, 2, "last-and-later", ([2, 3, 4, 5], [2, 3, 4, 5])),
        (2, 3, "last-and-later", ([2, 3, 4], [3, 4, 5])),
        (3, 0, "last-and-later", ([3, 4, 5], [0, 1, 2])),
        (2, 2, "all", ([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5])),
        (3, 2, "all", ([0, 1, 2, 3, 4, 5], [0, 1, 1, 2, 3, 4])),
        (2, 4, "all", ([0, 1, 2, 3, 4, 5], [0, 3, 4, 5, 5, 5])),
        (2, 0, "all", ([0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 2, 3])),
        (0, 0, "all", ([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5])),
    ],
)
def test_rows_are_aligned_from_the_last_subject_token(
    concept_last: int, guide_last: int, rows: str, expected: Any
) -> None:
    assert uce_rows(concept_last, guide_last, 6, rows) == expected


def test_the_last_subject_token_is_found_in_both_encoders(model: StableDiffusion, masked: StableDiffusion) -> None:
    for m, length, token in ((model, 77, "w</w>"), (masked, 28, "##w")):
        index = last_subject(m.pipe.tokenizer, ["a saw", ""])
        ids = m.pipe.tokenizer("a saw").input_ids
        assert m.pipe.tokenizer.convert_ids_to_tokens(ids[index[0]]) == token and index[1] == 0
        assert last_subject(m.pipe.tokenizer, ["a saw " * 60]) == [length - 2], (
            "a text cut short ends before the end mark"
        )


def test_an_artifact_of_another_model_is_refused(model: StableDiffusion, concept: Concept, fake_rig: Any) -> None:
    shared, own = Uce().fit(model, concept), Uce(mode="tensor").fit(model, concept)
    name = "blocks.0.attn2.to_k.weight"
    with pytest.raises(BadArtifact, match="width 16"):
        shared.attach(fake_rig(weights={name: torch.zeros(4, 12)}))
    with pytest.raises(BadArtifact, match="lacks 8 of the 8"):
        own.attach(fake_rig(weights={name: torch.zeros(4, 16)}))
    maps = {n: p.clone() for n, p in model.unet.named_parameters() if re.search(KV_MAPS, n)}
    first = next(iter(maps))
    with pytest.raises(BadArtifact, match="lacks 1 of the 8"):
        own.attach(fake_rig(weights={n: p for n, p in maps.items() if n != first}))
    with pytest.raises(BadArtifact, match="shape"):
        own.attach(fake_rig(weights={**maps, first: torch.zeros(3, 16)}))


def test_unusable_numbers(model: StableDiffusion, concept: Concept) -> None:
    with pytest.raises(BadInput, match="lam"):
        Uce(lam=0.0).fit(model, concept)
    with pytest.raises(BadInput, match="no phrases"):
        Uce().fit(model, Concept("none", "custom", "", ("x",), ()))


def test_the_artifact_file_serves_another_process(tmp_path: Any, model: StableDiffusion, concept: Concept) -> None:
    fitted = Uce().fit(model, concept)
    assert fitted.artifact is not None
    artifacts.save(tmp_path / "uce", fitted.artifact.tensors, fitted.artifact.card)
    assert artifacts.load(tmp_path / "uce", expect_shapes={"delta": (16, 16)}).hash == fitted.artifact.hash


@pytest.mark.parametrize("kind", ["object", "style"])
def test_rows_by_kind_of_concept(kind: str, masked: StableDiffusion, concept: Concept) -> None:
    mine, asked = replace(concept, kind=kind), "all" if kind == "style" else "last"
    auto, named = Uce().fit(masked, mine), Uce(rows=asked).fit(masked, mine)
    other = Uce(rows="last" if kind == "style" else "all").fit(masked, mine)
    assert auto.artifact is not None and named.artifact is not None and other.artifact is not None
    assert auto.artifact.card["rows"] == {mine.name: asked}
    assert torch.equal(auto.artifact.tensors["delta"], named.artifact.tensors["delta"])
    assert not torch.allclose(auto.artifact.tensors["delta"], other.artifact.tensors["delta"])
