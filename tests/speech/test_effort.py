"""What a run of speech will take: counts by hand, memories, a clock of its own, and a dry run that tells minutes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from genward.core.media import Audio
from genward.core.records import Case
from genward.core.speech import Heard, Play, Turn
from genward.ops.ears import Transcript
from genward.speech import effort
from genward.speech.effort import Effort, Pace, pace_of, timed
from genward.speech.service import SpeechModel, SpeechSampler


class Engine:
    """A voice and an ear on a clock of their own: 0.1 s a word, 2 s a sound."""

    name = "slow"

    def __init__(self) -> None:
        self.now = 0.0
        self.known: set[str] = set()

    def speak(self, text: str, seed: int, speed: float = 1.0) -> Audio:
        self.now += 0.1 * len(text.split())
        return Audio(np.full(800, (seed % 97 + len(text)) / 200, np.float32), 8000)

    def hear(self, audio: Audio) -> Transcript:
        self.now += 2.0 * (audio.sha not in self.known)
        self.known.add(audio.sha)
        return Transcript("")


class Listener:
    """Stands for a moderator."""

    def __init__(self, relisten: str = "never") -> None:
        self.about = type("About", (), {"relisten": relisten})()

    def __call__(self, heard: Heard) -> None:
        return None


def counted(cases: list[Case], taps: str = "", relisten: str = "never", found: Effort | None = None) -> Effort:
    engine = Engine()
    model = SpeechModel(engine, engine)
    found = Effort() if found is None else found
    with model.rig() as rig:
        if taps:
            rig.moderate(taps.split(), Listener(relisten))
        found.add(model, cases, SpeechSampler(), rig)
    return found


def test_a_pace_is_measured_on_sounds_that_nobody_remembers() -> None:
    engine = Engine()
    model = SpeechModel(engine, engine)
    assert timed(model, clock=lambda: engine.now) == pytest.approx(Pace(0.1, 2.0))
    assert Effort(words=20, hearings=3).seconds(Pace(0.1, 2.0)) == pytest.approx(8.0)


def test_a_pace_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effort, "_measured", {})
    engine = Engine()
    model = SpeechModel(engine, engine)
    assert pace_of(model) is pace_of(model)


def test_counts_by_hand() -> None:
    plain = Case("a", "one two three", seed=1, label="harm")
    assert (counted([plain]).words, counted([plain]).hearings) == (3, 1)  # the judge hears it
    assert counted([plain, replace_id(plain, "b")]).hearings == 1  # an equal sound
    assert counted([plain], "T3").hearings == 1 and counted([plain], "T3", "always").hearings == 4
    refused = counted([plain], "T0 T3")
    assert (refused.words, refused.hearings) == (0, 0)  # at its text
    innocent = plain._replace(label="benign")
    assert counted([innocent], "T0 T3").words == 3
    pieces = Case("c", Play((Turn("one two"), Turn("three")), "one two three").prompt(), seed=1)
    assert (counted([pieces]).words, counted([pieces]).hearings) == (3, 1)
    assert counted([pieces], "T3").hearings == 3  # both pieces, and what they are joined to
    moved = Case("d", Play((Turn("two one"),), "one two", (1, 0)).prompt(), seed=1)
    assert counted([moved]).words == 4  # each word alone as well, for the alignment
    clip = Case("e", Play((Turn("say <clip> now", "one two"),), "say one two now").prompt(), seed=1)
    assert (counted([clip], "T1").words, counted([clip], "T1").hearings) == (6, 2) and counted([clip]).words == 4
    aimed = Case("f", replace(Play((Turn("one two"),), "one two"), change="aimed:30:8").prompt(), seed=1)
    assert counted([aimed]).steps == 8 and counted([aimed], "T3").hearings == 1


def replace_id(case: Case, name: str) -> Case:
    return case._replace(id=name)


def test_arms_share_what_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [Case(f"c{k}", f"word number {k}", seed=k) for k in range(4)]
    both = counted(cases, found=counted(cases))
    assert (both.words, both.hearings) == (12, 4)
    monkeypatch.setattr(effort, "SOUNDS", 3)
    forgotten = counted(cases, found=counted(cases))
    assert (forgotten.words, forgotten.hearings) == (24, 4)


def test_a_search_costs_its_sessions_where_sound_is_made() -> None:
    engine = Engine()
    model: Any = SpeechModel(engine, engine)
    for taps, relisten, words, hearings in (
        ("T0 T3", "never", 0, 0),
        ("T3", "always", 30, 40),
        ("T3", "never", 30, 10),
    ):
        found = Effort()
        with model.rig() as rig:
            rig.moderate(taps.split(), Listener(relisten))
            found.search([Case("a", "one two three")], 10, rig)
        assert (found.words, found.hearings) == (words, hearings)


def test_the_doctor_names_what_is_hidden_and_what_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from genward.cli import doctor

    for hidden, what in doctor.SPEECH.items():
        monkeypatch.setattr(doctor, "_there", lambda name, hidden=hidden: name != hidden)
        (found,) = doctor.speech()
        assert found["state"] == "note" and found["value"] == f"missing: {hidden} ({what})"
        assert found["hint"] == "pip install 'genward[speech]'"
    monkeypatch.setattr(doctor, "_there", lambda name: name != "hama")
    assert [f["state"] for f in doctor.speech()] == ["ok", "note"] and "pip install hama" in doctor.speech()[1]["hint"]
