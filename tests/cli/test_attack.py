"""``genward attack`` and ``genward harden``: what is wrong is said before anything is loaded; one attack printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from genward.catalog import judges, opening
from genward.cli import attack, harden
from genward.errors import GenwardError
from genward.run.hardening import Hardening
from genward.testing import FakeJudge, tiny_sd

app = typer.Typer()
app.command("attack")(attack.main)
app.command("harden")(harden.main)
WORDS = opening.words_of("lab")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny model and a judge of brightness in the place of the lab's."""
    monkeypatch.setattr(opening, "open_model", lambda *_, **__: tiny_sd())
    monkeypatch.setattr(judges, "open_judge", lambda *_: FakeJudge(labels=tuple(WORDS["things"]), threshold=2.0))


def ran(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_an_attack_is_printed_with_its_three_rates(tiny: None, tmp_path: Path) -> None:
    common = ["attack", "noise_search,budget=2", "--n", "2", "--steps", "2", "--store", str(tmp_path)]
    found = ran(*common)
    assert found.exit_code == 0, found.output
    assert "at most 160 denoiser rows" in found.output
    assert all(f"{word} " in found.output for word in ("pre", "success", "total"))
    told = json.loads(ran(*common, "--json").stdout)
    assert told["attack"] == "noise_search,budget=2" and told["n"] == 2 and len(told["rows"]) == 2
    assert (told["pre"], told["success"], told["queries"]) == (0.0, 0.0, 2)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["attack", "nosuch"], "nosuch"),
        (["attack", "noise_search", "--concept", "weapon"], "weapon"),
        (["attack", "noise_search,budget=0"], "at least 1"),
        (["attack", "noise_search", "--defense", "nosuch:weapons"], "nosuch"),
        (["harden", "aeiou:weapons", "--out", "x.txt"], "safetensors"),
        (["harden", "aeiou:weapons", "--attack", "nosuch"], "nosuch"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_loaded(
    arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: Any, **__: Any) -> Any:
        raise AssertionError("a model was opened")

    monkeypatch.setattr(opening, "open_model", loaded)
    found = ran(*arguments)
    assert found.exit_code != 0 and isinstance(found.exception, GenwardError) and told in str(found.exception)


def test_rounds_are_printed(tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Told:
        def told(self) -> dict[str, Any]:
            ends = {f"{n}_{e}": 0.5 for n in ("attack", "benign") for e in ("low", "high")}
            return {"round": 0, "added": 0, "attack": 0.25, "benign": 0.0, "kept": True, **ends}

    monkeypatch.setattr(Hardening, "__init__", lambda self, *_, **__: None)
    monkeypatch.setattr(Hardening, "run", lambda self, rounds: (None, [Told()] * rounds))
    found = ran("harden", "aeiou:weapons", "--rounds", "2", "--store", str(tmp_path))
    assert found.exit_code == 0 and found.output.count("0.25") == 2 and "0.5 to 0.5" in found.output
