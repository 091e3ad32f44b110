"""Policies of a file behind a live service: refuse, redact, hold for review; what is spoken and what is logged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from genward import protect
from genward.core.records import Case, Verdict
from genward.core.speech import Heard, Play, Ruling, Turn
from genward.defenses.speech_moderation import SpeechModeration
from genward.errors import BadInput, UnknownName
from genward.ops.ears import ear
from genward.speech.service import SpeechModel

FILE = """
[[policies]]
id = "pots"
phrases = ["purple teapot"]
action = "redact"

[[policies]]
id = "lights"
phrases = ["green lantern festival"]
action = "review"

[[policies]]
id = "numbers"
patterns = ["kettle number \\\\d{1,4}"]
"""


@pytest.fixture(scope="module")
def service() -> SpeechModel:
    return SpeechModel.opened("lab.speech")


def test_each_policy_of_a_file_has_its_own_action(service: SpeechModel, tmp_path: Path) -> None:
    file, log = tmp_path / "mine.toml", tmp_path / "audit.jsonl"
    file.write_text(FILE)
    with protect(service, file, audit=log) as guarded:
        cut = guarded.speak("we saw the purple teapot on the table")
        assert cut.status == "ok" and cut.audio is not None and cut.verdicts[0].action == "steered"
        said = ear().hear(cut.audio).text.casefold()
        assert "teapot" not in said and "tea pot" not in said and "table" in said and "redacted" in said
        assert (
            guarded.speak("we saw the P-U-R-P-L-E teapot there").status == "refused"
        )  # in disguise: nothing to cut out
        held = guarded.speak("when is the green lantern festival")
        assert held.status == "review" and held.audio is None and "held for review" in held.why
        assert guarded.speak("bring kettle number 42 please").status == "refused"
        assert guarded.speak("bring the other kettle please").status == "ok"
    rows = [json.loads(line)["action"] for line in log.read_text("utf-8").splitlines()]
    assert rows == ["redacted", "refused", "held for review", "refused", "released"]
    assert "teapot" not in log.read_text("utf-8")


def test_a_redacted_request_does_not_say_what_it_meant(service: SpeechModel) -> None:
    """A model that understands disguises speaks what is left of a redacted text, not what was meant."""
    strict = SpeechModel.opened("lab.speech:open")
    play = Play((Turn("the purple teapot and tea", means="the purple teapot and more"),), "the purple teapot and tea")
    guard = SpeechModeration(phrases=("purple teapot",), action="redact", taps=("T0",))
    (made,) = strict.generate([Case("a", play.prompt())], defenses=[guard])
    assert made.audio is not None and "teapot" not in ear().hear(made.audio).text.casefold().replace(" ", "")


def test_a_phrase_in_pieces_cannot_be_redacted(service: SpeechModel) -> None:
    with protect(service, defenses=[SpeechModeration(phrases=("purple teapot",), action="redact")]) as guarded:
        assert guarded.speak("look at the purple", session="s").status == "ok"
        assert guarded.speak("teapot over there", session="s").status == "refused"


def test_another_text_at_a_tap_of_sound_is_an_error(service: SpeechModel) -> None:
    class Rewriter:
        name = "rewriter"

        def attach(self, rig: Any) -> None:
            rig.moderate(("T3",), self)

        def __call__(self, heard: Heard) -> Ruling:
            return Ruling(Verdict("steered", "rewriter", "text", 0), "other words")

    (made,) = service.generate([Case("a", "hello there")], defenses=[Rewriter()])
    assert made.status == "error" and made.audio is None and "T0 and T2" in made.why


def test_bad_policy_files(service: SpeechModel, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    for text, kind, told in (
        ("policies = []\n", BadInput, "no policies"),
        ('[[policies]]\nid = "a"\nphrases = ["b c"]\naction = "maybe"\n', UnknownName, "review"),
        ('[[policies]]\nid = "a"\npatterns = ["(a+)+"]\n', BadInput, "take forever"),
    ):
        file.write_text(text)
        with pytest.raises(kind, match=told), protect(service, file):
            pass
