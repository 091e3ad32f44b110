"""The shell around the commands: output, exit codes, errors, speed of the start."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from safetensors.numpy import save_file

from genward import __version__
from genward.cli import app as application
from genward.cli import common, doctor
from genward.cli.app import STOPPED, status
from genward.core.precision import precision
from genward.core.quiet import quiet_loading
from genward.errors import StoreError

COMMANDS = ("list", "show", "generate", "fit", "export", "judge", "run", "report", "claims", "check", "doctor", "lab")


def out(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert status(arguments) == code
    return capsys.readouterr().out


def err(capsys: pytest.CaptureFixture[str], *arguments: str, code: int) -> str:
    assert status(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


def python(code: str) -> str:
    """Run code in a fresh interpreter and return what it printed."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    ).stdout.strip()


def test_import_and_parsing_load_nothing_heavy() -> None:
    heavy = "torch", "diffusers", "transformers", "scipy", "pyarrow", "matplotlib", "PIL"
    code = f"import sys, genward; print([m for m in {heavy} if m in sys.modules]); "
    code += "from genward.cli.app import status; status(['list', '--json']); "
    code += f"status(['run', '--help']); print([m for m in {heavy} if m in sys.modules])"
    lines = python(code).splitlines()
    assert lines[0] == lines[-1] == "[]"


def test_public_names_load_on_first_use() -> None:
    import genward

    assert genward.Case("a", "a cat").prompt == "a cat"
    assert genward.load_concept("weapons").kind == "policy"
    assert set(dir(genward)) == set(genward.__all__)
    for name in genward.__all__:
        assert getattr(genward, name) is not None
    with pytest.raises(AttributeError, match="offers"):
        genward.nothing  # noqa: B018


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert out(capsys, "--version") == f"genward {__version__}\n"
    text = out(capsys, "--help")
    assert all(command in text for command in COMMANDS)
    for command in COMMANDS:
        assert "--help" in out(capsys, command, "--help")


@pytest.mark.parametrize(
    "line",
    [
        "frobnicate",
        "list --frobnicate",
        "generate",
        "generate x --steps many",
        "generate x --steps 0",
        "lab frobnicate",
    ],
)
def test_usage_errors_exit_with_2(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert err(capsys, *line.split(), code=2)


def test_unknown_names_exit_with_3_and_offer_near_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean weapons" in err(capsys, "show", "concept", "weapon", code=3)
    assert "did you mean concepts" in err(capsys, "list", "concpets", code=3)
    told = err(capsys, "show", "defense", "zzz", code=3)
    assert told.startswith("error: unknown defense 'zzz'") and "genward list defenses" in told
    assert "genward list recipes" in err(capsys, "run", "erasure", "--preset", "zzz", "--dry-run", code=3)
    assert "genward list" not in err(capsys, "new", "defence", "x", code=3), "lists hold no kinds of package"


def test_every_command_takes_json(capsys: pytest.CaptureFixture[str]) -> None:
    """As docs/cli.md says; groups take it with each of their commands."""
    for command in COMMANDS:
        text = out(capsys, command, "--help")
        assert "--json" in text or "COMMAND [ARGS]" in text, command


def test_list_and_show(capsys: pytest.CaptureFixture[str]) -> None:
    everything = json.loads(out(capsys, "list", "--json"))
    assert "weapons" in [c["name"] for c in everything["concepts"]]
    assert "erasure" in [b["name"] for b in everything["benchmarks"]]
    said = out(capsys, "list", "--help").split("List what there is:")[1].split(".")[0]
    assert [word.strip() for word in said.split(",")] == list(everything), "the help names every kind"
    assert "weapons" in out(capsys, "list", "concepts")
    assert json.loads(out(capsys, "show", "concept", "weapons", "--json"))["targets"][0] == "pistol"
    fields = json.loads(out(capsys, "show", "benchmark", "erasure", "--json"))["fields"]
    assert {f["field"] for f in fields} >= {"concepts", "n", "seed"}
    told = out(capsys, "list", "recipes")
    assert "erasure-quick" in told and "?" not in told and " 1 samples" not in told
    assert "uce" in out(capsys, "show", "recipe", "erasure-quick")


class Ending:
    """A command that ends in a given way."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def main(self, **_: Any) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (StoreError("no run 'x'; name one"), 3, "error: no run 'x'; name one"),
        (KeyboardInterrupt(), 130, STOPPED),
        (typer.Abort(), 130, STOPPED),
        (OSError(errno.ENOSPC, "No space left on device", "/disk/x"), 3, "error: /disk/x: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 3, "error: /x: Permission denied"),
    ],
)
def test_how_a_command_ends(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(application.typer.main, "get_command", lambda _: Ending(error))
    assert said in err(capsys, "list", code=code)


def test_errors_of_the_program_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application.typer.main, "get_command", lambda _: Ending(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        status(["list"])


def test_json_holds_no_numbers_that_json_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    common.emit({"a": float("nan"), "b": (1.5, float("inf")), "c": Path("x")})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [1.5, None], "c": "x"}


def test_table_is_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    common.table([{"a": "long one", "b_c": 0.123456}, {"a": "x", "b_c": float("nan")}], ["a", "b_c"])
    assert capsys.readouterr().out.splitlines() == ["a         b c", "long one  0.123", "x         -"]


def test_doctor_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    code = status(["doctor", "--json", "--store", str(store)])
    found = json.loads(capsys.readouterr().out)
    assert code == (0 if found["usable"] else 3)
    values = {f["what"]: f["value"] for f in found["findings"]}
    assert {"genward", "torch", "cores", "lab weights", "free disk", "chromium", "processor"} <= set(values)
    assert values["training on cpu"].startswith(f"{precision('cpu').name}: ")
    assert float(values["denoiser"].split(" rows per second")[0]) > 0
    assert not store.exists()


def test_doctor_sees_a_file_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": np.zeros(8, np.float32)}, path)
    assert doctor.whole(path)
    path.write_bytes(path.read_bytes()[:-1])
    assert not doctor.whole(path)
    path.write_bytes(b"not a header at all")
    assert not doctor.whole(path)


def test_doctor_compares_weights_with_their_manifest(tmp_path: Path) -> None:
    def found() -> tuple[str, str]:
        (only,) = doctor.weights(tmp_path)
        return only["state"], only["value"]

    assert found() == ("bad", "missing")
    save_file({"x": np.zeros(8, np.float32)}, tmp_path / "a.safetensors")
    assert "manifest" in found()[1]
    sha = hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()
    (tmp_path / "manifest.json").write_text(json.dumps({"a.safetensors": sha}))
    assert found()[0] == "ok"
    save_file({"x": np.ones(8, np.float32)}, tmp_path / "a.safetensors")
    assert found() == ("bad", "not as shipped: a.safetensors")


def test_ctrl_c_inside_a_command_says_that_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from genward.catalog import plugins as catalog

    def stopped(kind: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(catalog, "entries", stopped)
    assert err(capsys, "list", "defenses", code=130).strip() == STOPPED


def test_a_reader_that_leaves_is_no_error() -> None:
    code = "import sys; from genward.cli.app import main; sys.stdout.reconfigure(line_buffering=True); "
    code += "main(['list', '--json'])"
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 0)


def test_stderr_is_ours_or_silent(tmp_path: Path) -> None:
    """A command in a process of its own: what other packages would say of a cut text, of torchvision or of loading."""
    long = "a cat in noto style, " + "and another cat " * 20
    command = ["generate", long, "-d", "none", "-d", "sld:weapons", "-d", "negative_prompt:weapons", "--steps", "2"]
    ran = subprocess.run(
        [sys.executable, "-m", "genward", *command, "--out", str(tmp_path / "a.png"), "--store", str(tmp_path / "s")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, f"{tmp_path / 'a.png'}\n")
    (line,) = ran.stderr.splitlines()
    assert line.startswith("prompt 'a cat in noto style, and another cat") and "longer" in line


def test_levels_that_the_user_chose_stay(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DIFFUSERS_VERBOSITY", "info")
    monkeypatch.delenv("TRANSFORMERS_VERBOSITY", raising=False)
    out(capsys, "list", "concepts")
    assert (os.environ["DIFFUSERS_VERBOSITY"], os.environ["TRANSFORMERS_VERBOSITY"]) == ("info", "error")


def test_loading_is_quiet_and_levels_come_back(capfd: pytest.CaptureFixture[str]) -> None:
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    def levels() -> list[tuple[int, bool]]:
        return [(p.get_verbosity(), p.is_progress_bar_enabled()) for p in (of_diffusers, of_transformers)]

    before = levels()
    with pytest.raises(ZeroDivisionError), quiet_loading():
        of_diffusers.get_logger("diffusers.x").warning("a notice")
        of_transformers.get_logger("transformers.x").warning("a notice")
        assert not of_transformers.is_progress_bar_enabled() and not of_diffusers.is_progress_bar_enabled()
        raise ZeroDivisionError
    assert levels() == before and capfd.readouterr() == ("", "")
