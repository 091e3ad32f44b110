"""Speech models by name, and what of the stack is on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from genward.catalog import opening, speech
from genward.cli.app import status
from genward.cli.doctor import speech as lines
from genward.core import Case
from genward.errors import BadInput, UnknownName
from genward.models.speech import FAMILY, LAB


def test_speech_models_are_opened_by_name() -> None:
    assert opening.SPEECH == LAB
    for name in (*LAB, "speech:hibari"):
        assert opening.family_of(name) == FAMILY and not opening.drawn_by_lab(name)
    model: object = opening.open_model("lab.speech:middle")
    (sample,) = model.generate([Case("a", "Feed the cat.")])  # type: ignore[attr-defined]
    assert sample.status == "ok" and opening.words_of("lab.speech") == {}
    with pytest.raises(UnknownName, match="did you mean lab.speech:strict"):
        opening.open_model("lab.speech:stricd")
    with pytest.raises(BadInput, match="takes no variant"):
        opening.open_model("lab.speech", variant="fp16")


def test_commands_that_draw_say_that_speech_is_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert status(["generate", "a cat", "--model", "lab.speech", "--out", str(tmp_path / "x.png")]) == 3
    assert "makes audio, and this command draws" in capsys.readouterr().err
    assert status(["run", "erasure", "--model", "lab.speech", "--store", str(tmp_path), "--dry-run"]) == 3


def test_the_stack_is_whole_here() -> None:
    parts = {part.name: part for part in speech.stock()}
    assert {"hibari-tts", "faster-whisper", "whisper tiny.en", "CMU dictionary"} <= set(parts)
    assert parts["whisper tiny.en"].found == parts["CMU dictionary"].found == "as shipped"
    assert all(line["state"] == "ok" for line in lines() if line["what"] not in ("flite", "py-nanotts"))


def test_what_is_missing_or_changed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(speech, "tiny_folder", lambda: tmp_path)
    monkeypatch.setattr(speech.pronouncing, "where", lambda: None)
    monkeypatch.setattr(speech.shutil, "which", lambda name: None)
    monkeypatch.setitem(speech.PACKAGES, "no-such-package", "nobody")
    hints = {line["what"]: line["hint"] for line in lines() if line["state"] == "note"}
    assert "is missing" in hints["whisper tiny.en"] and "apt-get install flite" in hints["flite"]
    assert hints["no-such-package"] == "only nobody needs it: pip install 'genward[speech]'" and "CMU" in str(hints)
    monkeypatch.setattr(speech, "tiny_folder", lambda: None)
    assert "genward[speech]" in {p.name: p.hint for p in speech.stock()}["whisper tiny.en"]
