"""A dry run of speech tells minutes: what is spoken and heard is counted and timed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from genward.benchmarks.harmgen import HarmgenBenchmark
from genward.catalog.opening import open_model
from genward.judges.transcript import TranscriptJudge
from genward.run import outlook
from genward.run.outlook import expected, in_words
from genward.run.plan import ArmPlan, Plan
from genward.speech.effort import Pace
from genward.speech.service import SpeechSampler
from genward.store import Store

pytestmark = pytest.mark.skipif(find_spec("hibari") is None, reason="needs genward[speech]")


def test_minutes_of_a_run_of_speech(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arms = (ArmPlan("base", control="base"), ArmPlan("T0", "speech_moderation,taps=T0", model="lab.speech:open"))
    bench = HarmgenBenchmark(phrases=2, trials=1, twins=0, everyday=3, conditions=("direct",))
    plan = Plan("speech", arms, bench, model="lab.speech", judge="transcript", sampler=SpeechSampler())
    monkeypatch.setattr(outlook, "pace_of", lambda *_: Pace(1.0, 60.0))
    found = expected(plan, open_model, Store(tmp_path), judge=TranscriptJudge(("spoken", "intact")))
    rows = list(bench.cases(None))  # type: ignore[arg-type]
    words = sum(len(r.prompt.split()) for r in rows)
    innocent = sum(len(r.prompt.split()) for r in rows if r.label == "benign")
    assert (found["rows"], found["hearings"], found["words"]) == (10, 5, words + innocent)
    assert found["minutes"] == pytest.approx(5 + (words + innocent) / 60, abs=0.1)
    assert "5 sounds to hear at most; about" in in_words(found)
