"""Checkpoints come back as they were, are written whole, and are never opened as anything but safetensors."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from genward.core.checkpoint import load_checkpoint, save_checkpoint
from genward.errors import BadArtifact, BadInput


def test_an_optimizer_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    torch.manual_seed(0)

    def steps(net: torch.nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
        for k in range(count):
            optimizer.zero_grad()
            net(torch.full((1, 3), float(k))).square().sum().backward()
            optimizer.step()

    one, two = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    first = torch.optim.AdamW(one.parameters(), 1e-2, betas=(0.9, 0.99))
    steps(one, first, 3)
    save_checkpoint(
        tmp_path / "deep" / "c.safetensors",
        {"weights": one.state_dict(), "optimizer": first.state_dict(), "step": 3, "seconds": 1.5},
    )
    found = load_checkpoint(tmp_path / "deep" / "c.safetensors")
    two.load_state_dict(found["weights"])
    second = torch.optim.AdamW(two.parameters(), 1.0)
    second.load_state_dict(found["optimizer"])
    steps(one, first, 4)
    steps(two, second, 4)
    assert all(bool((a == b).all()) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert (found["step"], found["seconds"]) == (3, 1.5) and second.param_groups[0]["betas"] == (0.9, 0.99)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_trees_and_dtypes_come_back(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {
        "a": [torch.ones(2, 3).to(dtype), (None, True, "x", 2)],
        "empty": torch.zeros(0, 4),
        "one": torch.tensor(7.0),
        5: {"deep": torch.arange(3)},
    }
    save_checkpoint(tmp_path / "c.safetensors", state)
    found = load_checkpoint(tmp_path / "c.safetensors")
    assert (
        found["a"][0].dtype == dtype
        and bool((found["a"][0] == state["a"][0]).all())
        and found["a"][1] == (None, True, "x", 2)
    )
    assert found["empty"].shape == (0, 4) and found["one"].shape == () and found[5]["deep"].tolist() == [0, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.safetensors"
    with pytest.raises(BadInput, match="Path"):
        save_checkpoint(file, {"where": tmp_path})
    assert not list(tmp_path.iterdir())
    save_checkpoint(file, {"x": torch.ones(100)})
    whole = file.read_bytes()
    for content in (b"", whole[:-40], b"junk" * 50, pickle.dumps({"x": 1})):
        file.write_bytes(content)
        with pytest.raises(BadArtifact, match="train anew"):
            load_checkpoint(file)
    file.unlink()
    with pytest.raises(BadArtifact):
        load_checkpoint(file)
