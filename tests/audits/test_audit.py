"""The audit as a user runs it: models by name, formats, exit codes; the lab's fixtures and honest edits of the lab."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genward.catalog.auditing import ALWAYS, DETECTORS, audit
from genward.cli.app import status
from genward.errors import BadInput, UnknownName
from genward.report.audit import page, sarif


@pytest.fixture(scope="module")
def clean() -> dict:  # type: ignore[type-arg]
    return audit("lab", "lab")


def test_the_lab_is_the_lab(clean: dict) -> None:  # type: ignore[type-arg]
    assert clean["verdict"] == "clean" and not clean["findings"]
    assert [d["name"] for d in clean["detectors"]] == list(DETECTORS)
    assert clean["blind_spots"][-len(ALWAYS) :] == list(ALWAYS)


def test_bad_questions() -> None:
    with pytest.raises(UnknownName, match="cross_attention"):
        audit("lab", "lab", only=["cross_atention"])
    with pytest.raises(BadInput, match="tokens"):
        audit("lab", "lab", tokens=-1)


def test_a_planted_row_through_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    html, out = tmp_path / "audit.html", tmp_path / "audit.sarif"
    asked = ["audit", "backdoor:personalization", "--base", "lab", "--only", "embedding_rows"]
    assert status([*asked, "--html", str(html), "--format", "sarif", "--out", str(out)]) == 1
    told = json.loads(out.read_text("utf-8"))["runs"][0]
    assert {r["level"] for r in told["results"]} == {"warning", "error"}
    assert {r["ruleId"] for r in told["results"]} <= {r["id"] for r in told["tool"]["driver"]["rules"]}
    text = html.read_text("utf-8")
    assert (
        "endelle" in text
        and "banana" in text
        and "What this cannot see" in text
        and text.count("a picture of a endelle") >= 2
        and "http" not in text.split("<body>")[1]
    )
    assert status([*asked, "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["verdict"] == "suspicious" and any("not asked" in line for line in data["blind_spots"])
    assert {"findings", "blind_spots", "verdict", "seconds"} <= set(data)


def test_changed_is_an_error_only_where_one_asks(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["audit", "lab:oracle", "--base", "lab", "--only", "tokenizer"]
    assert status(asked) == 0
    assert "changed" in capsys.readouterr().out
    assert status([*asked, "--strict"]) == 1


def test_page_and_sarif_of_a_clean_one(clean: dict) -> None:  # type: ignore[type-arg]
    assert "Nothing but rounding" in page(clean) and page(clean) == page(clean)
    assert sarif(clean, "0")["runs"][0]["results"] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rickrolling", "evil_edit"])
def test_fixtures_are_suspicious(name: str) -> None:
    found = audit(f"backdoor:{name}", "lab")
    assert found["verdict"] == "suspicious"
    assert any("banana" in f["text"] for f in found["findings"] if f["level"] == "suspicious")


@pytest.mark.slow
def test_honest_edits_are_changed(tmp_path: Path) -> None:
    assert status(["export", "uce:weapons", "--out", str(tmp_path / "uce")]) == 0
    assert audit(str(tmp_path / "uce"), "lab")["verdict"] == "changed"
    assert audit("lab:oracle", "lab")["verdict"] == "changed"
