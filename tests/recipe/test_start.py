"""The second lab's trunk on its way: kept beside the packaged oracle in 8 bits, read back, refused where it does not
fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from genward.core.checkpoint import CHECKPOINT, save_checkpoint
from genward.errors import BadArtifact
from genward.recipe import denoiser, start, workshop


def weights(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {"a.weight": torch.randn(6, 4, 3, 3), "b.weight": torch.randn(5, 7), "b.bias": torch.randn(5)}


def test_what_is_kept_comes_back_within_half_a_step_of_its_scale(tmp_path: Path) -> None:
    base, trunk = weights(0), weights(1)
    start.keep(tmp_path / "trunk.safetensors", trunk, base, 1234)
    found = start.kept(tmp_path / "trunk.safetensors", base)
    assert found is not None and found[1] == 1234
    for name, value in trunk.items():
        gap = (value - base[name]).flatten(1) if value.ndim > 1 else torch.zeros(1, 1)
        bound = gap.abs().amax(1).view(-1, *[1] * (value.ndim - 1)) / 254 + 1e-6
        assert bool(((found[0][name] - value).abs() <= bound).all()), name
    assert torch.equal(found[0]["b.bias"], base["b.bias"] + (trunk["b.bias"] - base["b.bias"]))


def test_a_file_of_another_oracle_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "trunk.safetensors"
    assert start.kept(file, weights(0)) is None
    start.keep(file, weights(1), weights(0), 1)
    with pytest.raises(BadArtifact, match="does not fit"):
        start.kept(file, {**weights(0), "b.bias": torch.zeros(9)})
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(BadArtifact, match="cannot be read"):
        start.kept(file, weights(0))


def test_steps_made_elsewhere_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "package" / "trunk.safetensors"
    monkeypatch.setattr(denoiser, "start_file", lambda: file)
    monkeypatch.setattr(denoiser, "_packaged_oracle", lambda: weights(0))
    assert denoiser.second_start()[1] == 0
    shop = workshop.Workshop(tmp_path, second=True)
    workshop.note(shop, "trunk", {"before": 100})
    save_checkpoint(tmp_path / "trunk" / CHECKPOINT, {"average": weights(1), "step": 11})
    denoiser.stage_keep(shop)
    assert denoiser.second_start()[1] == 111
    denoiser.stage_keep(workshop.Workshop(tmp_path / "first"))
    assert denoiser.second_start()[1] == 111
