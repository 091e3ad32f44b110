"""Models by name, and what the lab's identity depends on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genward import lab
from genward.catalog import opening as models
from genward.cli.app import status
from genward.errors import BadInput, UnknownName
from genward.testing import tiny_pipeline


def test_unknown_models_are_refused() -> None:
    with pytest.raises(UnknownName, match="lab:oracle"):
        models.open_model("lab:orakel")
    with pytest.raises(BadInput, match="no such folder"):
        models.open_model("nowhere")


def test_only_the_lab_brings_a_vocabulary() -> None:
    words = models.words_of("lab:oracle")
    assert words == models.words_of("lab") and len(words["styles"]) == 9
    assert words["things"]["bomb"]["name"] == ["a bomb"] and "a weapon" in words["things"]["bomb"]["kind"]
    assert models.words_of("some/folder") == {}


def test_what_the_oracle_never_saw_comes_from_the_concept_files() -> None:
    unseen = models.unseen_by_oracle()
    assert {"bomb", "pistol", "cigarette", "banana", "monotone"} <= set(unseen) and "cat" not in unseen


def test_the_labs_identity_is_what_it_generates_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("vae", "unet", "oracle", "judge", "second_judge", "scheduler"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(part)
    (tmp_path / "card.json").write_text("{}")
    monkeypatch.setattr(lab, "weights_folder", lambda: tmp_path)
    before = models.lab_spec("lab", "float32"), models.lab_spec("oracle", "float32")
    assert before[0].hash != before[1].hash != models.lab_spec("oracle", "float16").hash
    for part in ("judge", "second_judge", "oracle"):
        (tmp_path / part / "config.json").write_text("changed")
    (tmp_path / "card.json").write_text("[]")
    assert models.lab_spec("lab", "float32").hash == before[0].hash
    assert models.lab_spec("oracle", "float32").hash != before[1].hash
    (tmp_path / "vae" / "config.json").write_text("changed")
    assert models.lab_spec("lab", "float32").hash != before[0].hash


def test_a_model_is_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(models, "open_model", lambda name, *_, **__: asked.append(name) or name)
    get = models.opener()
    assert [get("lab"), get("lab:oracle"), get("lab")] == ["lab", "lab:oracle", "lab"] and asked == [
        "lab",
        "lab:oracle",
    ]


def test_a_model_of_another_distribution_is_opened_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from genward.catalog import opening, plugins
    from genward.cli.listing import models
    from genward.core.settings import DIFFUSION
    from genward.testing.tone import FAMILY, ToneModel

    assert opening.family_of("tone") == DIFFUSION == opening.family_of("lab"), "nobody has said otherwise"

    class Point:
        module, attr, name, dist = "genward.testing.tone", "ToneModel", "tone", None

    monkeypatch.setattr(plugins.metadata, "entry_points", lambda group: [Point] if group == "genward.models" else [])
    assert isinstance(opening.open_model("tone"), ToneModel) and isinstance(opening.open_model("tone:more"), ToneModel)
    assert opening.family_of("tone") == FAMILY and opening.family_of("lab") == DIFFUSION
    assert [row["name"] for row in models() if not row["name"].startswith("backdoor:")] == [
        "lab",
        "lab:oracle",
        *opening.SPEECH,
        "tone",
        "speech:VOICE",
        "FOLDER or owner/name",
    ]
    with pytest.raises(UnknownName, match="lab:tone"):
        opening.open_model("lab:tone")


def test_a_variant_is_read_from_folders_and_not_asked_of_the_lab(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a run and of ``genward show``: two copies of the weights are two models, the lab beside them has one copy."""
    for seed, variant in ((1, "fp16"), (2, "ema")):
        tiny_pipeline(seed=seed).save_pretrained(tmp_path, variant=variant)
    get = models.opener(variant="ema")
    assert get("lab:oracle").spec.fields["source"] == "lab:oracle"
    found = get(str(tmp_path)).spec
    assert status(["show", "model", str(tmp_path), "--variant", "ema", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hash"] == found.hash
    assert models.opener(variant="fp16")(str(tmp_path)).spec.hash != found.hash
    about = tmp_path / "mugs.toml"
    lines = ['name = "mugs"', 'kind = "custom"', 'summary = "Mugs."', 'targets = ["mug"]', 'phrases = ["a mug"]']
    about.write_text("\n".join([*lines, 'judge = { labels = ["nsfw"] }']))
    run = ["run", "erasure", "--model", str(tmp_path), "--concept", str(about), "--judge", "open_nsfw", "--dry-run"]
    assert status([*run, "--defense", "x=none", "--variant", "bf8", "--store", str(tmp_path / "s")]) == 3
    assert "has no variant 'bf8'; there are ema, fp16" in capsys.readouterr().err
