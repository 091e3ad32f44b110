"""Opening a guard fits nothing unasked: it says why there is no fit, what it would cost and how to have it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from genward import lab, protect
from genward.catalog import fitting
from genward.catalog.unfitted import recorded_seconds
from genward.errors import BadInput
from genward.testing import tiny_pipeline


@pytest.fixture(autouse=True)
def no_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever begins to fit fails the test."""

    def begun(*_: Any, **__: Any) -> Any:
        raise AssertionError("a fit began unasked")

    monkeypatch.setattr(fitting, "fit_artifact", begun)


def changed(pipe: Any) -> Any:
    with torch.no_grad():
        next(pipe.unet.parameters()).add_(1e-3)
    return pipe


def fused(pipe: Any) -> Any:
    pipe.fuse_qkv_projections(vae=False)
    return pipe


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda pipe: pipe.to(torch.bfloat16), "float32\\): they are bfloat16"),
        (fused, "the projections of their attention are fused"),
        (changed, "their values were changed"),
    ],
)
@pytest.mark.parametrize("defense", ["aeiou", "wukong"])
def test_the_reason_comes_first(change: Callable[[Any], Any], told: str, defense: str) -> None:
    pipe = change(lab.pipeline())
    with (
        pytest.raises(BadInput, match=f"{defense}:weapons is not fitted .*{told}.*--fit") as error,
        protect(pipe, "weapons", [defense]),
    ):
        pass
    assert f"genward fit {defense} --concept weapons" in str(error.value)
    assert f"{recorded_seconds(defense):.0f} s" in str(error.value)


def test_a_lora_is_named() -> None:
    pipe = lab.pipeline()
    layer = next(m for m in pipe.unet.modules() if isinstance(m, torch.nn.Linear))
    layer.register_parameter("lora_A", torch.nn.Parameter(torch.zeros(1)))
    with pytest.raises(BadInput, match="they carry a LoRA"), protect(pipe, "weapons", ["wukong"]):
        pass


def test_a_category_that_is_not_shipped_is_refused_before_anything_is_spent(tmp_path: Path) -> None:
    told: list[str] = []
    with (
        pytest.raises(BadInput, match="no fit of it for concept 'cat'"),
        protect(lab.pipeline(), "cat", ["aeiou"], store=tmp_path / "store", fit=False, progress=told.append),
    ):
        pass
    assert told == [] and not (tmp_path / "store").exists()
    with pytest.raises(BadInput, match="no fit of it for concept 'cat'"), protect(lab.pipeline(), "cat", ["aeiou"]):
        pass


def test_fit_asks_for_it_and_a_store_does_on_a_stand_in_alone(tmp_path: Path) -> None:
    began: Any = pytest.raises(AssertionError, match="a fit began")
    with began, protect(lab.pipeline(), "cat", ["aeiou"], fit=True):
        pass
    began = pytest.raises(AssertionError, match="a fit began")
    with began, protect(tiny_pipeline(), "cat", ["aeiou"], store=tmp_path / "store"):
        pass
    for pipe in (lab.pipeline(), tiny_pipeline()):
        kept = {"store": tmp_path / "store"} if pipe.unet.config.sample_size > 8 else {}
        with pytest.raises(BadInput, match="is not fitted for this model"), protect(pipe, "cat", ["aeiou"], **kept):
            pass


def test_what_is_shipped_and_what_costs_nothing_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    with protect(lab.pipeline(), "weapons", ["aeiou", "wukong"]) as guarded:
        assert list(guarded.named) == ["aeiou", "wukong"]
    monkeypatch.undo()
    with protect(lab.pipeline().to(torch.bfloat16), "weapons", ["uce:weapons"]) as guarded:
        assert list(guarded.named) == ["uce"]
