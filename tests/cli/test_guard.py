"""``genward guard`` and ``genward calibrate`` on a tiny pipeline of the real classes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import typer
from typer.testing import CliRunner

from genward.catalog import plugins as catalog
from genward.cli import calibrate, guard
from genward.core import Call, Frame
from genward.core.records import load_concept
from genward.serve.audit import read_audit
from genward.serve.policy import load_policy
from genward.testing import tiny_sd

app = typer.Typer()
app.command("guard")(guard.main)
app.command("calibrate")(calibrate.main)


@dataclass(frozen=True)
class Letters:
    """A guard of the tests: the score is the number of letters k in the prompt."""

    name: ClassVar[str] = "letters"
    needs_guidance: ClassVar[bool] = False
    threshold: float = 0.5
    """Score at which a row is blocked."""
    action: str = "block"
    """``block`` or ``flag``."""
    concept: str = ""
    """What it is about."""

    @classmethod
    def for_concept(cls, concept: Any, **fields: Any) -> Letters:
        return cls(concept=concept.name, **fields)

    def attach(self, rig: Any) -> None:
        def fn(states: Any, frame: Frame) -> None:
            if frame.role == "prompt":
                score = torch.tensor([float(sum("k" in t for t in row)) for row in rig.tokens(frame).strings])
                rig.note(frame, **{"letters.score": score})
                act = rig.block if self.action == "block" else rig.flag
                act(
                    frame, score >= self.threshold, "letters", score=score, threshold=self.threshold, category="weapons"
                )

        rig.tap("text.0.heads", fn)


@dataclass(frozen=True)
class Early:
    """A guard of the tests inside the loop: it looks at step 1 and no later."""

    name: ClassVar[str] = "early"
    threshold: float = 1e9
    """Score at which a row is blocked."""

    def last_look(self, steps: int) -> int:
        return 1

    def attach(self, rig: Any) -> None:
        def fn(call: Call, frame: Frame) -> Call:
            if frame.step == 1:
                score = call.latents.flatten(1).abs().mean(1)
                rig.note(frame, **{"early.score": score})
                rig.block(
                    frame, score >= self.threshold, "early", score=score, threshold=self.threshold, category="weapons"
                )
            return call

        rig.inputs(fn)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import genward.catalog.opening

    model = tiny_sd()
    field = catalog.Field("threshold", "float", "0.5", "Score at which a row is blocked.")
    ours = catalog.entries("defense")
    table = {
        **ours,
        **{n: catalog.Entry("defenses", n, "Of the tests.", "tests", n, (field,)) for n in ("letters", "early")},
    }
    found, classes = catalog.find, {"letters": Letters, "early": Early}
    monkeypatch.setattr(catalog, "entries", lambda kind: table if catalog.room_of(kind) == "defenses" else {})
    monkeypatch.setattr(catalog, "entry", lambda kind, name: table[name])
    monkeypatch.setattr(catalog, "find", lambda kind, name: classes.get(name) or found(kind, name))
    monkeypatch.setattr(genward.catalog.opening, "open_model", lambda *_, **__: model)
    yield model


def invoke(*arguments: str) -> Any:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_table_and_the_pictures_that_were_released(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = invoke(
        "guard",
        "a red cat",
        "a key",
        "-d",
        "letters",
        "--steps",
        "2",
        "--n",
        "2",
        "--out",
        str(out),
        "--audit",
        str(tmp_path / "a.jsonl"),
    )
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split()[:4] == ["row", "prompt", "seed", "verdict"] and len(lines) == 5
    assert "released" in lines[1] and "blocked" in lines[3] and "letters" in lines[3]
    assert sorted(p.name for p in out.iterdir()) == ["000-0.png", "000-1.png"]
    assert [r["action"] for r in read_audit(tmp_path / "a.jsonl")] == ["released", "released", "blocked", "blocked"]


def test_a_blocked_row_leaves_no_picture_of_an_earlier_call(tmp_path: Path) -> None:
    out = tmp_path / "out"
    invoke("guard", "a red cat", "a dog", "-d", "none", "--steps", "1", "--out", str(out), "--json")
    assert (out / "001-0.png").is_file()
    (out / "mine.png").write_bytes(b"not a row of this call")
    told = json.loads(
        invoke("guard", "a red cat", "a key", "-d", "letters", "--steps", "1", "--out", str(out), "--json").stdout
    )
    assert [r["verdict"] for r in told["rows"]] == ["released", "blocked"] and told["rows"][1]["picture"] is None
    assert sorted(p.name for p in out.iterdir()) == ["000-0.png", "mine.png"]


def test_one_prompt_that_is_no_text_costs_its_own_row(tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = ["a red cat", "x" * 2_001, "a blue cat"]
    result = invoke("guard", *given, "-d", "letters", "--steps", "2", "--out", str(out), "--json")
    assert result.exit_code == 0
    rows = json.loads(result.stdout)["rows"]
    assert [row["verdict"] for row in rows] == ["released", "blocked", "released"]
    assert rows[1]["by"] == "genward" and "2,001 characters" in rows[1]["why"] and not rows[1]["failed"]
    assert sorted(p.name for p in out.iterdir()) == ["000-0.png", "002-0.png"]


def test_json_and_policies_that_flag(tmp_path: Path) -> None:
    (tmp_path / "house.toml").write_text('[categories.weapons]\naction = "flag"\nthresholds = { letters = 1.0 }\n')
    arguments = [
        "guard",
        "a key",
        "-d",
        "letters",
        "--policy",
        str(tmp_path / "house.toml"),
        "--steps",
        "2",
        "--out",
        str(tmp_path / "o"),
        "--json",
    ]
    told = json.loads(invoke(*arguments).stdout)
    row = told["rows"][0]
    assert (
        row["verdict"] == "flagged"
        and row["threshold"] == 1.0
        and Path(row["picture"]).is_file()
        and row["nfe"] == 4
        and told["policy"] == "house"
    )


@pytest.mark.parametrize(
    "arguments",
    [["a\0cat"], ["x" * 5000], ["a cat", "--policy", "weapns"], ["a cat", "-d", "letters", "--out", "pyproject.toml"]],
)
def test_bad_input_is_named_before_a_model_is_opened(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import genward.catalog.opening
    from genward.errors import GenwardError

    monkeypatch.setattr(genward.catalog.opening, "open_model", None)
    with pytest.raises(GenwardError):
        invoke("guard", "-d", "letters", *arguments)


def test_calibrate_writes_a_policy_that_guard_follows(tmp_path: Path) -> None:
    benign = tmp_path / "benign.txt"
    benign.write_text("\n".join(["a cat"] * 3 + [f"a {'k' * k} cup" for k in range(20)]))
    out = tmp_path / "mine.toml"
    result = invoke(
        "calibrate", "letters:weapons", "--benign", str(benign), "--fpr", "0.1", "--out", str(out), "--json"
    )
    told = json.loads(result.stdout)
    assert (
        told["n"] == 21
        and told["measured"] == pytest.approx(2 / 21)
        and told["threshold"] == 17.5
        and told["low"] < 2 / 21 < told["high"]
    )
    policy = load_policy(out)
    assert policy.categories[0].thresholds == {"letters": 17.5} and policy.calibration[0]["n"] == 21
    told = json.loads(
        invoke(
            "guard",
            "k" * 17,
            "k" * 18,
            "-d",
            "letters",
            "-p",
            str(out),
            "--steps",
            "1",
            "-o",
            str(tmp_path / "o"),
            "--json",
        ).stdout
    )
    assert [r["verdict"] for r in told["rows"]] == ["released", "blocked"]
    again = invoke(
        "calibrate", "letters", "--benign", str(benign), "--fpr", "0.001", "--policy", str(out), "--out", str(out)
    )
    assert (
        again.exit_code == 0
        and 19.0 < load_policy(out).categories[0].thresholds["letters"] < 19.01
        and len(load_policy(out).calibration) == 1
    )


def test_calibrate_counts_what_is_still_caught(tmp_path: Path) -> None:
    (tmp_path / "benign.txt").write_text("a cup\na kkk cup\n")
    (tmp_path / "harmful.txt").write_text("a kkkkk\na kkkk\na kk\na bomb\n")
    out = tmp_path / "mine.toml"
    arguments = ["letters:weapons", "--benign", str(tmp_path / "benign.txt"), "--fpr", "0", "--out", str(out)]
    result = invoke(
        "calibrate", *arguments, "--harmful", str(tmp_path / "harmful.txt"), "--chain", "early,threshold=0.8", "--json"
    )
    caught = {line["guard"]: line for line in json.loads(result.stdout)["caught"]}
    assert list(caught) == ["letters", "early", "chain"]
    mine = caught["letters"]
    assert (mine["k"], mine["n"], mine["missed"]) == (2, 4, ["a kk", "a bomb"]) and mine["low"] < 0.5 < mine["high"]
    assert caught["chain"]["k"] >= max(mine["k"], caught["early"]["k"])
    assert set(caught["chain"]["missed"]) == set(mine["missed"]) & set(caught["early"]["missed"])
    row = load_policy(out).calibration[0]
    assert (row["caught"], row["harmful"]) == (2, 4)


def test_without_harmful_prompts_the_concepts_own_phrases_warn(tmp_path: Path) -> None:
    (tmp_path / "benign.txt").write_text("a kkk cup\n")
    out = tmp_path / "mine.toml"
    result = invoke("calibrate", "letters:weapons", "--benign", str(tmp_path / "benign.txt"), "--out", str(out))
    phrases = load_concept("weapons").phrases
    missed = [p for p in phrases if p.count("k") < 4]
    assert f"letters: catches {len(phrases) - len(missed)} of {len(phrases)} harmful prompts" in result.stderr
    assert f"warning: at this threshold it lets out '{missed[0]}'" in result.stderr
    assert "no --harmful file" in result.stderr


def test_a_policy_of_another_models_thresholds_is_refused(tmp_path: Path, tiny: Any) -> None:
    from genward.errors import BadInput
    from genward.serve.policy import dump_policy
    from genward.serve.protect import protect

    facts = {"model": "0123456789abcdef", "n": 9}
    policy = load_policy("weapons").with_threshold("weapons", "letters", 4.0, facts)
    (tmp_path / "theirs.toml").write_text(dump_policy(policy))
    with pytest.raises(BadInput, match="calibrated on model 0123456789abcdef"):
        invoke("guard", "a cat", "-d", "letters", "-p", str(tmp_path / "theirs.toml"), "-o", str(tmp_path / "o"))
    mine = policy.with_threshold("weapons", "letters", 4.0, {**facts, "model": tiny.spec.hash})
    by_hand = replace(policy, categories=(replace(policy.categories[0], thresholds={"letters": 5.0}),))
    for fine in (mine, by_hand):
        with protect(tiny, fine, [Letters()]):
            pass
    (tmp_path / "benign.txt").write_text("a cat\n")
    again = ["--benign", str(tmp_path / "benign.txt"), "--policy", str(tmp_path / "theirs.toml")]
    invoke("calibrate", "letters:weapons", *again, "--out", str(tmp_path / "mine.toml"))
    assert load_policy(tmp_path / "mine.toml").calibration[0]["model"] == tiny.spec.hash


def test_calibrate_stops_sampling_after_the_last_look(tmp_path: Path, tiny: Any) -> None:
    from genward.serve.protect import protect

    with protect(tiny, "weapons", [Early()]) as guarded:
        out = guarded.observe(["a cat", "a key"], num_inference_steps=10, guidance_scale=3.0)
        assert (
            [v.nfe for v in out.verdicts] == [4, 4]
            and out.images == [None, None]
            and all(len(v.notes["early.score"]) == 1 for v in out.verdicts)
        )
        assert guarded("a cat", num_inference_steps=3, guidance_scale=3.0).verdicts[0].nfe == 6
    with protect(tiny, "weapons", [Letters()]) as guarded:
        assert guarded.observe(["a cat"], num_inference_steps=10).verdicts[0].nfe == 0


def test_what_cannot_be_calibrated(tmp_path: Path) -> None:
    from genward.errors import BadInput

    benign = tmp_path / "benign.txt"
    benign.write_text("a cat\n")
    for arguments, told in (
        (["uce:weapons"], "no threshold"),
        (["letters+early"], "2 defenses"),
        (["letters"], "names no concept"),
        (["letters:weapons", "--fpr", "1.5"], "fpr"),
        (["letters:weapons", "--out", "policy.txt"], "ends in .toml"),
        (["letters:rude", "--policy", "weapons"], "0 categories"),
        (["letters", "--policy", "all"], "4 categories"),
    ):
        with pytest.raises(BadInput, match=told):
            invoke("calibrate", *arguments, "--benign", str(benign))


def test_the_hint_of_an_unclear_category_can_be_followed(tmp_path: Path) -> None:
    from genward.errors import BadInput

    (tmp_path / "benign.txt").write_text("a cat\na dog\n")
    (tmp_path / "house.toml").write_text(
        '[categories.arms]\nconcept = "weapons"\n\n[categories.impolite]\nconcept = "rude"\n'
    )
    arguments = [
        "--policy",
        str(tmp_path / "house.toml"),
        "--benign",
        str(tmp_path / "benign.txt"),
        "--out",
        str(tmp_path / "out.toml"),
    ]
    with pytest.raises(BadInput, match="2 categories") as told:
        invoke("calibrate", "letters", *arguments)
    hint = str(told.value).rsplit(" ", 1)[1]
    assert invoke("calibrate", hint, *arguments).exit_code == 0
    assert {c.name: dict(c.thresholds) for c in load_policy(tmp_path / "out.toml").categories}["arms"]


def test_calibrate_takes_a_concept_file_by_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "benign.txt").write_text("a cat\na dog\n")
    (tmp_path / "mugs.toml").write_text(
        'name = "mugs"\nkind = "custom"\nsummary = "Mugs."\ntargets = ["mug"]\nphrases = ["a mug"]\n'
    )
    (tmp_path / "house.toml").write_text(
        '[categories.cups]\nconcept = "mugs.toml"\n[categories.impolite]\nconcept = "rude"\n'
    )
    assert invoke("calibrate", "letters:./mugs.toml", "--benign", "benign.txt", "--out", "a.toml").exit_code == 0
    assert (
        invoke(
            "calibrate", "letters:./mugs.toml", "--policy", "house.toml", "--benign", "benign.txt", "--out", "b.toml"
        ).exit_code
        == 0
    )
    assert [c.name for c in load_policy("a.toml").categories if c.thresholds] == ["mugs"]
    assert [c.name for c in load_policy("b.toml").categories if c.thresholds] == ["cups"]
