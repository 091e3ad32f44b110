"""Devices, dtypes and chains that are not there end in one line and exit code 3."""

from __future__ import annotations

import re

import pytest
import torch

from genward.cli.app import status


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--device", "gpu"], "there is no device 'gpu'; write cpu, or cuda"),
        (["--device", "cuda"], "cannot be used: .*write cpu, or leave --device out"),
        (["--device", "cuda:7"], "'cuda:7' cannot be used"),
        (["--device", "cuda:x"], "'cuda:x' cannot be used"),
        (["--dtype", "fp16"], "dtype 'fp16' is called float16 here; write --dtype float16"),
        (["--dtype", "bf16"], "write --dtype bfloat16"),
        (["--dtype", "int8"], "unknown dtype 'int8'"),
        (["-d", "aeiou,image_filter"], "write a chain as aeiou\\+image_filter.*-d aeiou -d image_filter"),
        (["-d", "aeiou, image_filter:rude"], "-d aeiou -d image_filter:rude"),
    ],
)
@pytest.mark.parametrize("command", ["generate", "guard"])
def test_one_line_and_exit_code_3(
    command: str, given: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert status([command, "a cat", *given]) == 3
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert re.search(told, err), err
