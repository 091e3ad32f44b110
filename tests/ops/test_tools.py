"""What a fit is given: nothing where nobody is there, a judge that is opened once, checkpoints that come back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from genward.errors import BadArtifact, BadInput
from genward.ops.tools import QUIET, Tools
from genward.testing import FakeJudge


def test_without_anyone_nothing_happens() -> None:
    QUIET.progress(1, 2, 0.5)
    QUIET.say("hello")
    assert QUIET.judge is None and QUIET.words == {} and not QUIET.due()
    assert QUIET.checkpoint({"a": 1}) is None and QUIET.checkpoint() is None
    with pytest.raises(BadInput, match=r"me and was given no judge; .*Tools\(judge"):
        QUIET.need_judge("me")


def test_a_judge_is_opened_once_and_only_when_asked_for() -> None:
    opened: list[FakeJudge] = []

    def open_judge() -> FakeJudge:
        opened.append(FakeJudge())
        return opened[-1]

    tools = Tools(open_judge=open_judge)
    assert not opened and tools.judge is tools.need_judge("me") is opened[0] and len(opened) == 1
    given = FakeJudge()
    assert Tools(judge=given, open_judge=open_judge).judge is given and len(opened) == 1


def test_states_come_back(tmp_path: Path) -> None:
    tools, random = Tools(folder=tmp_path / "fit", pace=0.0), torch.Generator().manual_seed(3)
    assert tools.checkpoint() is None and tools.due()
    state = {"step": 4, "weights": [torch.randn(3), torch.ones(2, dtype=torch.float16)], "random": random.get_state()}
    tools.checkpoint(state)
    tools.checkpoint({"epoch": 1}, part="epochs")
    found = Tools(folder=tmp_path / "fit").checkpoint()
    assert found["step"] == 4 and all(
        torch.equal(a, b) for a, b in zip(found["weights"], state["weights"], strict=True)
    )
    assert torch.equal(found["random"], state["random"]) and tools.checkpoint(part="epochs") == {"epoch": 1}
    assert not Tools(folder=tmp_path / "fit", pace=60.0).due()
    (tmp_path / "fit" / "state.safetensors").write_bytes(b"cut")
    with pytest.raises(BadArtifact, match="no checkpoint"):
        tools.checkpoint()
