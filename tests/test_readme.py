"""The README and the docs are true: a result before line 40, commands that parse, links that lead somewhere, an example
that runs."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from genward.cli.app import app
from genward.testing import tiny_sd

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


def commands() -> list[str]:
    """Every genward line in a shell block of any page, without its remark."""
    lines = [
        line.split("  #")[0].strip() for page in PAGES for block in blocks(page, "bash") for line in block.splitlines()
    ]
    return [line for line in lines if line.startswith("genward ")]


def test_a_result_before_line_40() -> None:
    head = "\n".join(ROOT.joinpath("README.md").read_text("utf-8").splitlines()[:40])
    assert "make bench" in head
    assert "make test" in head
    assert "genward generate" in head
    assert "```python" in head


@pytest.mark.parametrize("line", commands())
def test_commands_parse(line: str) -> None:
    words = shlex.split(line)[1:]
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context("genward", words)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8")):
        path, _, anchor = target.partition("#")
        if path.startswith(("http:", "https:")):
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            heads = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in heads}, (
                f"{page.name}: {target}"
            )


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import genward

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(genward, "open_model", lambda name: tiny_sd(), raising=False)
    code = blocks(ROOT / "README.md", "python")[0]
    exec(compile(code.replace("steps=20", "steps=2"), "README.md", "exec"), {})
    assert sorted(p.name for p in tmp_path.glob("*.png")) == ["bomb.png", "cat.png"]


def test_the_table_of_methods_is_the_catalog() -> None:
    from genward.catalog import plugins as catalog

    section = ROOT.joinpath("README.md").read_text("utf-8").split("## Methods")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == set(catalog.entries("defenses"))


def test_the_example_of_the_architecture_page_is_a_defense(monkeypatch: pytest.MonkeyPatch) -> None:
    from genward.core import Sampler
    from genward.testing.suites import CASES, same

    (code,) = blocks(ROOT / "docs" / "architecture.md", "python")
    example: Any = ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", example)
    exec(compile(code, "architecture.md", "exec"), example.__dict__)
    model = tiny_sd()
    base, acting, silent = (
        model.generate(CASES, Sampler(steps=2), d) for d in ((), (example.Dampen(strength=1.0),), (example.Dampen(),))
    )
    assert same(base, silent)
    assert not same(base, acting)


def test_the_example_of_the_five_doors_page_is_an_attack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from PIL import Image

    from genward.core import Case, Sampler
    from genward.run.search import attack_arm
    from genward.store import Store

    (code,) = blocks(ROOT / "docs" / "m-erasure.md", "python")
    example: Any = ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", example)
    exec(compile(code, "m-erasure.md", "exec"), example.__dict__)
    model, held = tiny_sd(), {"banana": [Image.new("RGB", (64, 64), color) for color in ("red", "blue")]}
    cases = [Case(f"c{k}", "", concept="banana", seed=k) for k in range(3)]
    found = attack_arm(example.NoisyLatents(), cases, model, (), Sampler(steps=2, guidance=1.0), held, Store(tmp_path))
    assert len(found.tensors) == 3 and found.cost["nfe"] == 0 and [c.parent for c in found.cases] == ["c0", "c1", "c2"]
    made = model.generate(found.cases, Sampler(steps=2, guidance=1.0), starts=found.tensors)
    assert all(s.status == "ok" for s in made)
    again = attack_arm(example.NoisyLatents(), cases, model, (), Sampler(steps=2, guidance=1.0), held, Store(tmp_path))
    assert again.cases == found.cases and again.cost == found.cost
