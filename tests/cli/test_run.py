"""``genward run``, ``judge``, ``report``, ``claims`` and ``check`` on a tiny pipeline with a judge of known answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from genward.catalog.opening import words_of
from genward.cli import common
from genward.cli.app import status
from genward.core.records import Score
from genward.testing import FakeJudge, tiny_sd

CELL = {
    *("arm", "concept", "variant", "crr", "crr_low", "crr_high", "n", "n_unscored", "retention", "drift", "frechet"),
    *("seconds_per_image", "extra_nfe", "prepare_seconds"),
}
RUN = ["run", "erasure", "--preset", "recipe.toml", "--store", "store"]
RECIPE = """
benchmark = "erasure"
preset = "tiny"
concepts = ["banana"]
n = 2
batch = 4
sampler = { steps = 2, guidance = 4.0 }
[[arm]]
label = "base"
control = "base"
[[arm]]
label = "uce"
defenses = "uce:{concept}"
"""

WORDS = words_of("lab")
JUDGE = FakeJudge(labels=(*WORDS["things"], *WORDS["styles"]))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    import genward.catalog.judges
    import genward.run.judging
    import genward.run.loop
    import genward.run.measure

    model = tiny_sd()
    monkeypatch.chdir(tmp_path)
    Path("recipe.toml").write_text(RECIPE)
    monkeypatch.setattr(genward.run.loop, "opener", lambda *_, **__: lambda name: model)
    monkeypatch.setattr(genward.run.judging, "open_judge", lambda name: JUDGE)
    monkeypatch.setattr(genward.run.measure, "open_judge", lambda name: JUDGE)
    monkeypatch.setattr(genward.catalog.judges, "open_judge", lambda name: JUDGE)
    monkeypatch.setattr(genward.run.loop, "open_judge", lambda name: JUDGE)
    yield


def told(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    assert status([*arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_the_loop(tiny: None, capsys: pytest.CaptureFixture[str]) -> None:
    first = told(capsys, *RUN)
    assert set(first) == {"cells", "run"}
    assert all(set(cell) >= CELL for cell in first["cells"])
    assert {c["arm"] for c in first["cells"]} == {"base", "uce"}
    assert {c["variant"] for c in first["cells"]} == {
        "name",
        "synonym",
        "synonym-heldout",
        "description",
        "kind",
        "scene",
    }
    again = told(capsys, *RUN)
    assert (again["run"]["stages"]["made"], again["run"]["stages"]["there"]) == (0, first["run"]["rows"])
    rejudged = told(capsys, "judge", "recipe", "--store", "store")
    assert rejudged["judged"]["scored"] == 0
    report = told(capsys, "report", "recipe", "--store", "store")
    assert Path(report["report"]).read_text("utf-8").startswith("<!")
    assert {c["verdict"] for c in told(capsys, "claims", "--store", "store")["claims"]} <= {
        "holds",
        "does not hold",
        "cannot tell",
    }
    assert told(capsys, "check", "--store", "store")["problems"] == []
    next(Path("store").rglob("media/*/*.png")).write_bytes(b"damaged")
    assert told(capsys, "check", "--store", "store", code=3)["problems"]


def test_a_run_without_a_single_figure_is_no_success(
    tiny: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(FakeJudge, "judge", lambda _, samples: [Score(s.id, "banana", float("nan")) for s in samples])
    assert status([*RUN, "--json"]) == 1
    assert "not scored: banana, name: crr has no value in any of" in capsys.readouterr().err


def test_tables_for_people(tiny: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert status([*RUN, "--n", "1", "--name", "small"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0].split()[:4] == ["arm", "concept", "variant", "crr"]
    assert "genward report small" in captured.err
    assert status(["claims", "small", "--store", "store"]) == 0
    assert "verdict" in capsys.readouterr().out.splitlines()[0]


def test_prompts_from_a_file(tiny: None, capsys: pytest.CaptureFixture[str]) -> None:
    Path("rows.csv").write_text("prompt,label\na thing,unsafe\na bowl,safe\n", "utf-8")
    found = told(capsys, *RUN, "--prompts", "rows.csv", "--name", "file")
    assert {c["variant"] for c in found["cells"]} == {"prompts"} and found["run"]["rows"] == 4


def test_prompt_guard_names_options_it_has_no_use_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["run", "prompt-guard", "--data", ".", "--concept", "cat"]) == 3
    assert "'prompt-guard' has no concepts; it has data, sets" in capsys.readouterr().err
    assert status(["run", "prompt-guard", "--data", ".", "--defense", "uce:weapons"]) == 3
    assert "prompt-guard wants no arms, since it makes nothing" in capsys.readouterr().err
    assert status(["run", "prompt_guard"]) == 3
    assert "name it with --data" in capsys.readouterr().err


def test_a_dry_run_spends_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    store = tmp_path / "store"
    costs = told(capsys, "run", "erasure", "--dry-run", "--store", str(store))
    assert costs["rows"] > 0
    assert costs["nfe"] > costs["rows"]
    assert costs["left"]["minutes"] > 0 and costs["left"]["rows"] == costs["rows"]
    assert (
        status(
            [
                "run",
                "erasure",
                "--dry-run",
                "--preset",
                "standard",
                "--n",
                "3",
                "--concept",
                "cat",
                "--defense",
                "uce:{concept}",
            ]
        )
        == 0
    )
    assert "denoiser rows" in capsys.readouterr().out
    assert not store.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "erasur", "--dry-run"], "did you mean erasure"),
        (["run", "erasure", "--preset", "fast", "--dry-run"], "quick"),
        (["run", "erasure", "--preset", "none.toml", "--dry-run"], "none.toml"),
        (["run", "erasure", "--concept", "bananna", "--dry-run"], "did you mean banana"),
        (["run", "erasure", "--defense", "usce:banana", "--dry-run"], "uce"),
        (["report", "x", "--store", "nowhere"], "no store at"),
        (["judge", "x", "--store", "nowhere"], "no store at"),
        (["check", "--store", "nowhere"], "no store at"),
    ],
)
def test_what_cannot_be_done_says_so(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert status(arguments) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert not list(tmp_path.iterdir())


def test_lines_of_progress_come_at_each_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    lines = common.Lines()
    for done in range(101):
        lines("generate", done, 100)
    written = capsys.readouterr().err.splitlines()
    assert len(written) == 11
    assert written[0] == "generate 0/100"
    assert written[-1] == "generate 100/100"
    for done in range(0, 51, 10):
        lines("generate", done, 50)
    assert len(capsys.readouterr().err.splitlines()) == 6, "another stretch of the stage begins anew"


def test_prompt_guard_prints_sets_and_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import random

    words = ["lamp", "river", "garden", "paint", "stone", "cloud", "window", "bread", "music", "paper"]
    (tmp_path / "sets").mkdir()
    for name in ("first", "second"):
        rng = random.Random(name)
        lines = [
            f"{' '.join(rng.choices(words, k=7))} {mark},{label}"
            for mark, label in (("bomb", "unsafe"), ("cup", "safe"))
            for _ in range(60)
        ]
        (tmp_path / "sets" / f"{name}.csv").write_text("\n".join(["prompt,label", *lines]) + "\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    assert status(["run", "prompt-guard", "--data", "sets", "--n", "120"]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0].split()[:4] == ["guard", "dataset", "split", "auroc"] and any(
        line.startswith("guard") and "auroc out" in line for line in lines[1:]
    )
    assert "--json" in printed.err and "bomb" not in printed.out
