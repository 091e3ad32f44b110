"""Speech models under their rig: what each port sees, what a refusal saves, what fails closed. The sounds are real."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from genward.core import Audio, Case, Inputs, Prompt, Spec
from genward.core.settings import matched, read_settings, stated
from genward.core.sound import silence
from genward.core.speech import Heard, SpeechFrame
from genward.errors import BadInput, Blocked, DefenseInactive, GuardError, Inapplicable, UnknownName
from genward.models import speech as module
from genward.models.speech import FAMILY, LAB, SpeechModel, SpeechSampler
from genward.models.speech_aligned import Profile, SimulatedAligned
from genward.models.speech_voices import HibariVoice
from genward.run.guard import Guard, arm_hash
from genward.store import Store

TEXTS = ("Open the window.", "Feed the cat.", "Call the office.")
CASES = [Case(f"c{k}", text, seed=k) for k, text in enumerate(TEXTS)]


@dataclass
class CountedVoice:
    """Hibari, counting what it speaks."""

    spoken: list[str] = field(default_factory=list)
    inner: HibariVoice = HibariVoice()  # noqa: RUF009 - frozen

    @property
    def spec(self) -> Spec:
        return self.inner.spec

    def tuned(self, speaker: str, speed: float) -> CountedVoice:
        return replace(self, inner=self.inner.tuned(speaker, speed))

    def speak(self, text: str, seed: int = 0, phonemes: Sequence[str] | None = None) -> Audio:
        self.spoken.append(text)
        return self.inner.speak(text, seed, phonemes)


@dataclass
class KnowingEar:
    """Says how long a sound is, and counts: the rig's books are looked at, not what is heard."""

    calls: list[int] = field(default_factory=list)
    spec: ClassVar[Spec] = Spec("ear", "knowing")

    def hear(self, audios: Sequence[Audio]) -> list[Heard]:
        self.calls.append(len(audios))
        return [Heard(f"{audio.seconds:.2f}") for audio in audios]


@dataclass(frozen=True)
class Guarding:
    """A defense of any port that the rig has."""

    name: ClassVar[str] = "guarding"
    port: str = "prompts"
    fn: Callable[..., Any] = field(default=lambda *_: None, metadata={"identity": False})

    def attach(self, rig: Any) -> None:
        getattr(rig, self.port)(lambda *given: self.fn(rig, *given))


def model(mind: Any = None) -> SpeechModel:
    return SpeechModel(CountedVoice(), mind, KnowingEar())


def willing(phrases: tuple[str, ...] = ("amber kettle protocol",)) -> SimulatedAligned:
    """A simulated model that listens and refuses nothing."""
    return SimulatedAligned("middle", phrases, Profile(0, 0, 0, 0, 0, 0, 0))


def test_each_case_becomes_its_sound_whatever_its_neighbors() -> None:
    opened = SpeechModel.opened("lab.speech")
    made = opened.generate(CASES)
    assert [s.status for s in made] == ["ok"] * 3 and made[0].audio == HibariVoice().speak(TEXTS[0], 0)
    assert (
        made[1].output
        == opened.generate([CASES[1]])[0].output
        != opened.generate([CASES[1]._replace(seed=9)])[0].output
    )
    assert made[0].notes == {"refused": [0.0], "emitted": [TEXTS[0]]}
    assert made[0].costs == {"requests": 1.0, "speech": made[0].audio.seconds} and made[0].seconds > 0
    assert [s.output for s in opened.generate(CASES, batch=2)] == [s.output for s in made]


def test_sampler_settings() -> None:
    opened = model()
    plain, fast, still = (
        opened.generate([CASES[2]], s)[0]
        for s in (SpeechSampler(), SpeechSampler(speed=1.6), SpeechSampler(seeded=False))
    )
    assert fast.costs["speech"] < 0.8 * plain.costs["speech"] and still.output == HibariVoice().speak(TEXTS[2], 0)
    assert read_settings(FAMILY, {"voice": "heart", "trials": 3}, "x") == SpeechSampler("heart", trials=3)
    assert stated(SpeechSampler()) == {"speed": 1.0, "trials": 1, "seeded": True}
    for wrong in ({"speed": 9.0}, {"trials": 0}, {"voice": 3}):
        with pytest.raises(BadInput):
            SpeechSampler(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="hibari speaker"):
        opened.generate(CASES, SpeechSampler(voice="nobody"))


def test_every_port_sees_its_stage_and_may_change_what_it_sees() -> None:
    seen: list[tuple[str, Any]] = []

    def prompts(rig: Any, given: list[Prompt]) -> list[Prompt]:
        seen.append((rig.now.stage, [p.text for p in given]))
        assert rig.now.cases == tuple(CASES[:2])
        return [p._replace(text=p.text.replace("window", "door")) for p in given]

    def emitted(rig: Any, texts: list[str], frame: SpeechFrame) -> list[str]:
        seen.append((frame.stage, list(texts)))
        return [text.replace("cat", "dog") for text in texts]

    def sounds(rig: Any, given: list[Any], frame: SpeechFrame) -> list[Audio | None]:
        seen.append((frame.stage, frame.case))
        return [silence(0.5, 8000), None]

    opened = model()
    chain = [Guarding("prompts", prompts), Guarding("emitted", emitted), Guarding("sounds", sounds)]
    first, second = opened.generate(CASES[:2], defenses=chain)
    told = [("text", list(TEXTS[:2])), ("emitted", ["Open the door.", TEXTS[1]]), ("sound", (0, 1))]
    assert seen == told and opened.voice.spoken == ["Open the door.", "Feed the dog."]
    assert first.audio == silence(0.5, 8000) and first.notes["emitted"] == ["Open the door."]
    assert (second.status, second.output) == ("refused", None) and second.why == "guarding: refused the finished sound"


@pytest.mark.parametrize("rows", [[1], [False, True, False], np.array([1]), torch.tensor([False, True, False])])
def test_a_row_refused_at_the_text_costs_no_synthesis(rows: Any) -> None:
    opened = model()

    def fn(rig: Any, given: list[Prompt]) -> list[Prompt]:
        scores = torch.tensor([0.1, 0.9, 0.2])
        rig.note(rig.now, **{"guarding.score": scores})
        rig.block(rig.now, rows, "a cat", score=scores, threshold=0.5, category="pets", tokens=[[], [("cat", 1)], []])
        rig.flag(rig.now, [0], "looked at", action="steered")
        return given

    a, b, c = opened.generate(CASES, defenses=[Guarding("prompts", fn)])
    assert [a.status, b.status, c.status] == ["ok", "refused", "ok"] and b.why == "guarding: a cat"
    assert opened.voice.spoken == [TEXTS[0], TEXTS[2]] and "speech" not in b.costs
    (said,) = b.verdicts
    assert said[:4] == ("blocked", "guarding", "text", -1) and said.score == pytest.approx(0.9)
    assert (said.threshold, said.category, said.tokens) == (0.5, "pets", (("cat", 1.0),))
    assert a.verdicts[0].action == "steered" and b.notes["guarding.score"] == [pytest.approx(0.9)]


def test_transcripts_are_made_when_asked_once_for_all_and_shared() -> None:
    opened = model()
    listens = Guarding("sounds", lambda rig, given, frame: [None for s in given if not s.heard.text] or None)
    opened.generate(CASES, defenses=[Guarding("sounds")])
    assert opened.ear.calls == [], "nobody asked"
    made = opened.generate(CASES, defenses=[listens, listens])
    assert opened.ear.calls == [3] and all(s.costs["heard"] == s.costs["speech"] for s in made)


def test_sounds_of_a_request_are_shown_and_heard() -> None:
    clip = HibariVoice().speak("kettle")
    row = Case("a", "Boil the <sound> now.", inputs=Inputs({"<sound>": clip.sha, "session": "s"}))
    opened, seen = model(willing()), []

    def requests(rig: Any, given: list[Any], frame: SpeechFrame) -> None:
        seen.append((frame.stage, frame.case, [s.heard.text for s in given], frame.cases[0].inputs["session"]))

    guard = Guarding("requests", requests)
    (sample, plain) = opened.generate([row, CASES[0]], defenses=[guard], sounds={clip.sha: clip})
    assert seen == [("request", (0,), [f"{clip.seconds:.2f}"], "s")] and opened.ear.calls == [1], (
        "model and guard share it"
    )
    assert (
        sample.status == plain.status == "ok" and sample.costs["heard"] == clip.seconds and "heard" not in plain.costs
    )
    assert f"{clip.seconds:.2f}" in sample.notes["emitted"][0]
    (deaf,) = model().generate([row], sounds={clip.sha: clip})
    assert deaf.status == "error" and "takes text alone" in deaf.why
    with pytest.raises(BadInput, match="was not supplied"):
        opened.generate([row])

    def refuse(rig: Any, given: list[Any], frame: SpeechFrame) -> None:
        rig.block(frame, [0], "no clips")

    before = len(opened.ear.calls)
    (ended,) = opened.generate([row], defenses=[Guarding("requests", refuse)], sounds={clip.sha: clip})
    assert ended.why == "guarding: no clips" and len(opened.ear.calls) == before, "not heard by the model either"


PORTS = ("prompts", "emitted", "sounds")


def crash(*_: Any) -> Any:
    raise ZeroDivisionError("on purpose")


WRONG: dict[str, Callable[..., Any]] = {
    "crash": crash,
    "too few": lambda *_: [],
    "another type": lambda rig, given, *_: [3] * len(given),
    "text": lambda *_: "abc",
    "not finite": lambda rig, given, *_: rig.note(rig.now, **{"guarding.score": [float("nan")] * 3}) or list(given),
    "a short mask": lambda rig, *_: rig.block(rig.now, [True], "x"),
    "rows beyond": lambda rig, *_: rig.block(rig.now, [7], "x"),
    "few scores": lambda rig, *_: rig.block(rig.now, [0], "x", score=[0.5]),
}


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize("how", WRONG)
def test_a_defense_that_fails_makes_errors_and_no_sound(port: str, how: str) -> None:
    made = model().generate(CASES, defenses=[Guarding(port, WRONG[how])])
    assert [s.status for s in made] == ["error"] * 3 and all(s.output is None and "guarding" in s.why for s in made)


def test_a_score_that_is_no_number_makes_an_error_of_its_row_alone() -> None:
    scores = [0.1, float("inf"), 0.2]
    fn = lambda rig, given, frame: rig.block(frame, [1], "x", score=scores)  # noqa: E731
    assert [s.status for s in model().generate(CASES, defenses=[Guarding("sounds", fn)])] == ["ok", "error", "ok"]


def test_blocked_refuses_all_that_are_left_and_user_errors_pass() -> None:
    def word(*_: Any) -> Any:
        raise Blocked("closed today")

    opened = model()
    made = opened.generate(CASES, defenses=[Guarding("emitted", word)])
    assert [s.status for s in made] == ["refused"] * 3 and made[0].verdicts[0].stage == "emitted"
    assert opened.voice.spoken == [] and made[0].why == "guarding: closed today"

    def user(*_: Any) -> Any:
        raise BadInput("no such policy")

    with pytest.raises(BadInput, match="no such policy"):
        opened.generate(CASES, defenses=[Guarding("prompts", user)])


def test_a_defense_that_was_never_called_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for stage, port in (("sound_stage", "sounds"), ("emitted_stage", "emitted"), ("text_stage", "prompts")):
        with monkeypatch.context() as patch:
            patch.setattr(module.LiveSpeechRig, stage, lambda self: None)
            with pytest.raises(DefenseInactive, match=f"guarding: its {port} port was never called"):
                model().generate(CASES, defenses=[Guarding(port, lambda rig, given, *_: given)])
    clip = silence(0.2, 8000)
    row = Case("a", "now", inputs=Inputs({"<sound>": clip.sha}))
    unused = Guarding("requests")
    assert model(willing()).generate(CASES, defenses=[unused])[0].status == "ok", "no row brings a sound"
    with monkeypatch.context() as patch:
        patch.setattr(module.LiveSpeechRig, "request_stage", lambda self: None)
        with pytest.raises(DefenseInactive, match="requests port"):
            model(willing()).generate([row], defenses=[unused], sounds={clip.sha: clip})


def test_a_row_that_a_port_was_not_shown_is_not_released(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.LiveSpeechRig, "living", lambda self: [0])
    with pytest.raises(GuardError, match="was not shown every row"):
        model().generate(CASES, defenses=[Guarding("sounds")])


def test_the_rig_has_its_ports_and_no_others() -> None:
    opened = model()
    with opened.rig() as rig:
        for name in ("tap", "weights", "guidance", "images"):
            with pytest.raises(Inapplicable, match=f"no '{name}'"):
                getattr(rig, name)
        with pytest.raises(GuardError, match="outside a generation"):
            rig.block(SpeechFrame("text", (0,), ()), [0], "x")
        with pytest.raises(BadInput, match="action"):
            rig.flag(SpeechFrame("text", (0,), ()), [0], "x", action="bent")
    with pytest.raises(GuardError, match="closed"):
        opened.generate(CASES, rig=rig)
    late = Guarding("prompts", lambda rig, given: rig.sounds(lambda *_: None) or given)
    assert all("before a generation" in s.why for s in opened.generate(CASES, defenses=[late]))


def test_trials_are_asked_until_one_is_spoken() -> None:
    odds = Profile(0.6, 0.6, 0.6, 0.6, 0, 0, 0)
    opened = model(SimulatedAligned("middle", ("amber kettle protocol",), odds))
    rows = [Case(f"c{k}", "Start the amber kettle protocol.", seed=k) for k in range(40)]
    once, often = opened.generate(rows), opened.generate(rows, SpeechSampler(trials=8))
    assert 10 < sum(s.status == "refused" for s in once) < 35
    assert [s.notes["refused"][0] for s in often] == [s.notes["refused"][0] for s in once], (
        "the first is the case's own"
    )
    for sample in often:
        assert len(sample.notes["refused"]) == 8 and sample.costs["requests"] == 8
        assert (sample.status == "refused") == all(sample.notes["refused"])
    assert 0.45 < np.mean([s.notes["refused"] for s in often]) < 0.75
    refused = next(s for s in once if s.status == "refused")
    assert refused.why == "simulated model middle: it will not speak this" and refused.verdicts[0].defense == "model"


def test_what_cannot_be_spoken_is_an_error_of_its_row() -> None:
    made = model().generate([Case("a", "…"), CASES[0]])
    assert [s.status for s in made] == ["error", "ok"] and "can be spoken" in made[0].why
    with pytest.raises(BadInput, match="characters"):
        model().generate([Case("a", "x" * 3000)])


def test_models_by_name_and_their_identities() -> None:
    opened = {name: SpeechModel.opened(name) for name in (*LAB, "speech:hibari", "speech:pico/en-GB")}
    hashes = {name: m.spec.hash for name, m in opened.items()}
    assert hashes["lab.speech"] == hashes["speech:hibari"] and len(set(hashes.values())) == 5
    fields = opened["lab.speech:strict"].spec.fields
    assert fields["mind"]["name"] == "simulated-aligned" and fields["voice"]["name"] == "hibari"
    other = opened["lab.speech:strict"].about(["two words"])
    assert other.spec.hash != hashes["lab.speech:strict"] and other.mind.phrases == ("two words",)
    assert opened["lab.speech"].about(["two words"]).spec.hash == hashes["lab.speech"]
    for name in ("lab.speech:stirct", "speech", "speech:nobody"):
        with pytest.raises(UnknownName):
            SpeechModel.opened(name)
    with pytest.raises(BadInput, match="float32"):
        SpeechModel.opened("lab.speech", dtype="float16")
    matched("audio", "lab.speech", media="audio")


def test_arms_guards_and_the_store_take_speech(tmp_path: Any) -> None:
    opened, sampler = SpeechModel.opened("lab.speech"), SpeechSampler()
    guard = Guard(opened, [Guarding("prompts", lambda rig, given: given)])  # type: ignore[arg-type]
    made = guard.generate(CASES[:1], sampler)  # type: ignore[arg-type]
    assert made[0].arm == arm_hash(opened.spec, guard.defenses, sampler)  # type: ignore[arg-type]
    store = Store(tmp_path)
    store.put_arm({"model": opened.spec.to_json()}, made[0].arm)
    store.put_samples(made, f"{made[0].arm}/0")
    (row,) = store.samples()
    assert row["mime"] == "audio/wav" and row["costs"]["requests"] == 1 and store.check() == []
