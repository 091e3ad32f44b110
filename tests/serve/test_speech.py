"""A guarded speech service: pieces over requests, sessions apart, audit without texts, bounded memory, fail closed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from genward import protect
from genward.core.records import Case
from genward.core.speech import Heard
from genward.defenses.speech_moderation import Moderator, SpeechModeration
from genward.errors import BadInput, Inapplicable, StoreError, Unguarded, UnknownName
from genward.ops.canaries import canaries
from genward.speech.service import SpeechModel

PHRASE = canaries("evaluate")[0].phrase
A, B, C = PHRASE.split()


@pytest.fixture(scope="module")
def service() -> SpeechModel:
    return SpeechModel.opened("lab.speech")


def test_a_phrase_in_pieces_is_seen_within_its_session(service: SpeechModel, tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    with protect(service, defenses=["speech_moderation,taps=T0;T2"], audit=log) as guarded:
        first = guarded.speak(f"tell me what the {A}", session="one")
        other = guarded.speak(f"{B} {C} is nice", session="two")
        assert first.status == other.status == "ok" and first.audio is not None
        last = guarded.speak(f"{B} {C} is", session="one")
        assert last.status == "refused" and last.audio is None and "T0" in last.why
        assert last.verdicts[0].category == PHRASE and last.verdicts[0].score == 1
        assert guarded.speak(f"{B} {C} is").status == "ok"  # stands alone
    with pytest.raises(BadInput, match="closed"):
        guarded.speak("hello", session="one")
    rows = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    assert [r["action"] for r in rows] == ["released", "released", "refused", "released"]
    assert PHRASE not in log.read_text("utf-8") and A not in log.read_text("utf-8")
    assert all(len(r["prompt_hash"]) == 64 for r in rows) and [r["turn"] for r in rows] == [0, 0, 1, 0]


def test_a_policy_file_of_ones_own(service: SpeechModel, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('phrases = ["purple teapot"]\n')
    with protect(service, file) as guarded:
        assert guarded.speak("where is the purple teapot").status == "refused"
        assert guarded.speak("where is the teapot").status == "ok"
    file.write_text("phrases = []\n")
    with pytest.raises(BadInput, match="no list of texts"), protect(service, file):
        pass
    with pytest.raises(Inapplicable, match="about pictures"), protect(service, "all"):
        pass


class Painter:
    name = "painter"

    def attach(self, rig: Any) -> None:
        rig.latents(lambda latents, frame: latents)


def test_what_cannot_be_guarded(service: SpeechModel, tmp_path: Path) -> None:
    with pytest.raises(Unguarded, match="speech_moderation"), protect(service, defenses=[]):
        pass
    with pytest.raises(Inapplicable, match="speech service has no"), protect(service, defenses=[Painter()]):
        pass
    folder = tmp_path / "taken"
    folder.mkdir()
    with pytest.raises(StoreError), protect(service, audit=folder):
        pass
    with protect(service) as guarded, pytest.raises(BadInput, match="characters"):
        guarded.speak(" ")


def test_a_pipeline_of_pictures_says_that_nothing_is_spoken() -> None:
    from genward.testing import tiny_sd

    with pytest.raises(Inapplicable, match="draws pictures"), tiny_sd().rig([SpeechModeration()]):
        pass


def test_settings_are_checked() -> None:
    with pytest.raises(UnknownName, match="T4"):
        SpeechModeration(taps=("T4",))
    for wrong in (
        {"taps": ()},
        {"phrases": ("word",)},
        {"fragments": 0},
        {"threshold": 0.0},
        {"action": "maybe"},
        {"relisten": "maybe"},
    ):
        with pytest.raises(BadInput):
            SpeechModeration(**wrong)  # type: ignore[arg-type]


def heard(session: str, turn: int, text: str) -> Heard:
    return Heard("T0", text, Case(session, "x"), session, turn, turn + 1)


def test_memory_is_bounded_and_sessions_do_not_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genward.defenses.speech_moderation.SESSIONS", 25)
    moderator: Any = Moderator(SpeechModeration(phrases=("purple teapot",), fragments=3, reorder=False))
    for k in range(200):
        assert moderator(heard(f"s{k}", 0, "the purple")) is None
    assert moderator.moderate.buffer.size[0] == 25 * 4  # of each tap
    assert moderator(heard("s0", 1, "teapot is")) is None  # forgotten
    assert moderator(heard("s199", 1, "teapot is")) is not None
    for turn in range(10):
        moderator(heard("long", turn, "word " * 2_000))
    sessions, characters = moderator.moderate.buffer.size
    assert sessions <= 100 and characters <= 100 * 8_000


def test_flagging_releases_and_says_so(service: SpeechModel) -> None:
    with protect(service, defenses=[SpeechModeration(taps=("T0",), action="flag")]) as guarded:
        found = guarded.speak(f"what is the {PHRASE}")
    assert found.status == "ok" and found.verdicts[0].action == "flagged"
