"""What a command prints reaches any console: other encodings, none at all, a full disk; and steers none."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import genward
from genward.cli import common
from genward.cli.app import status

CLI = Path(genward.__file__).parent / "cli"


class Console(io.TextIOWrapper):
    """A strict console of some encoding; ``text`` is what it was sent."""

    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, errors="strict", newline="")

    @property
    def text(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "ascii", "latin-1", "utf-16"])
def test_no_encoding_ends_a_command(encoding: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mugs.toml").write_text(
        'name="чашка"\nkind="custom"\nsummary="猫 🐱 – Tassen"\ntargets=["mug"]\nphrases=["a mug"]\n', "utf-8"
    )
    for line in (["list"], ["show", "concept", str(tmp_path / "mugs.toml")], ["show", "defense", "猫🐱"], ["--help"]):
        for more in ([], ["--json"]) if line[0] == "show" else ([],):
            out, err = Console(encoding), Console(encoding)
            monkeypatch.setattr(sys, "stdout", out)
            monkeypatch.setattr(sys, "stderr", err)
            code = status([*line, *more])
            monkeypatch.undo()
            assert code == (3 if "猫🐱" in line else 0), err.text
            if more and code == 0:
                assert json.loads(out.text)["summary"] == "猫 🐱 – Tassen", "JSON loses nothing"


def test_a_name_from_outside_steers_no_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    evil = "\x1b]0;title\x07\x1b[31m\x9b2J\u202e"
    path = tmp_path / "mugs.toml"
    path.write_text(
        f'name={json.dumps(evil)}\nkind="custom"\nsummary="x"\ntargets=["mug"]\nphrases=["a mug"]\n'.replace(
            "\x9b", "\\u009b"
        ),
        "utf-8",
    )
    for line in (
        ["show", "concept", str(path)],
        ["show", "concept", str(path), "--json"],
        ["show", "defense", evil],
        [evil],
    ):
        status(line)
        told = capsys.readouterr()
        assert told.out + told.err and not set(told.out + told.err) & set("\x1b\x07\x9b\u202e"), line
    assert status(["show", "concept", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == evil


@pytest.mark.parametrize("argument", ["\udcff", "a\x00b"])
def test_arguments_that_are_no_text_are_usage_errors(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["show", "concept", argument]) == 2
    assert "argument 3" in capsys.readouterr().err


def test_a_name_of_any_length_is_one_short_line(capsys: pytest.CaptureFixture[str]) -> None:
    for line in (["show", "concept", "x" * 9000], ["show", "concept", "./" + "x" * 9000 + ".toml"]):
        assert status(line) == 3
        assert len(capsys.readouterr().err) < 1000


def test_closed_and_full_outputs_end_without_a_traceback() -> None:
    line = f"{sys.executable} -m genward list"
    environment = {**os.environ, "PYTHONPATH": str(CLI.parent.parent)}
    for redirected, code in ((">&-", 0), (">&- 2>&- <&-", 0), ("| head -c 10", 0), ("> /dev/full", 3)):
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", f"{line} {redirected}"],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        assert done.returncode == code and "Traceback" not in done.stderr and "Exception" not in done.stderr, (
            done.stderr
        )


def test_commands_print_through_the_one_function() -> None:
    for path in CLI.glob("*.py"):
        if path.name == "common.py":
            continue
        calls = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call)]
        assert not [c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"], path
    assert common.cell("a\x1b[0m\nb") == "a\\x1b[0m b"
