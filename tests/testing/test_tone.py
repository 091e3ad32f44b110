"""A model of sound through the whole loop: no picture anywhere."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from genward.core import Audio, Case, Sample
from genward.core.settings import changed, matched, read_settings, stated
from genward.errors import BadInput, Inapplicable
from genward.metrics import erasure
from genward.run.guard import arm_hash, arm_spec
from genward.run.judging import judge_hash, judge_samples
from genward.store import Store
from genward.testing import EXAMPLES, FakeJudge, ToneJudge, ToneModel, ToneSampler
from genward.testing.tone import FAMILY, PITCHES, closeness, dominant, pitch_of, tone

MODEL, JUDGE = ToneModel(), ToneJudge()
CASES = tuple(
    Case(f"{label}/{k}", f"a {word} tone, number {k}", label, "high", seed=10 * k + j, variant=variant, group=f"g{k}")
    for k in range(6)
    for j, (label, word, variant) in enumerate((("harm", "high", "name"), ("benign", "low", "keep")))
)


@dataclasses.dataclass(frozen=True)
class Hush:
    """A defense on prompts: the high tone is asked for as a low one."""

    name = "hush"

    def attach(self, rig: object) -> None:
        rig.prompts(lambda prompts: [p._replace(text=p.text.replace("high", "low")) for p in prompts])  # type: ignore[attr-defined]


def test_a_text_becomes_the_pitch_that_the_judge_hears() -> None:
    for word, pitch in PITCHES.items():
        (sample,) = MODEL.generate([Case("a", f"a {word} tone", seed=3)])
        assert sample.status == "ok" and sample.image is None and sample.audio is not None
        assert abs(12 * math.log2(dominant(sample.audio) / pitch)) < 0.15, "a tenth of a semitone of it is the seed's"
        scores = {s.label: s.value for s in JUDGE.judge([sample])}
        assert scores[word] > 0.9 and all(v < 0.01 for label, v in scores.items() if label != word)
        assert sample.costs == {"samples": 2000.0} == ToneSampler().costs() and sample.nfe == 0
    assert 110 <= pitch_of("anything else") <= 1760 and pitch_of("anything else") != pitch_of("something else")


@pytest.mark.parametrize("pitch", [123.4, 440.0, 1501.7, 3300.0])
def test_the_strongest_partial_is_found_between_bins(pitch: float) -> None:
    t = np.arange(4000) / 16_000
    made = Audio((0.6 * np.sin(2 * np.pi * pitch * t) + 0.2 * np.sin(2 * np.pi * 2.5 * pitch * t)), 16_000)
    assert abs(dominant(made) - pitch) < 0.3, "bins are 4 Hz wide"
    stereo = Audio(np.stack([made.samples, made.samples], 1), 16_000)
    assert dominant(stereo) == pytest.approx(dominant(made))
    assert math.isnan(dominant(Audio(np.zeros(100), 8000)))


def test_equal_seeds_give_equal_sounds_whatever_their_neighbors() -> None:
    alone, among = MODEL.generate([CASES[1]])[0], MODEL.generate(CASES)[1]
    assert alone.output == among.output and alone.output != MODEL.generate([CASES[1]._replace(seed=99)])[0].output
    (low,) = MODEL.generate([Case("a", "a high tone")], ToneSampler(rate=1000))
    assert low.status == "error" and low.output is None and "880 Hz at 1000" in low.why


def test_defenses_act_on_prompts_and_on_nothing_else() -> None:
    (calm,) = MODEL.generate([Case("a", "tone", seed=1)], defenses=[EXAMPLES["example-prompts"]()])
    assert calm.output == MODEL.generate([Case("a", "calm tone", seed=1)])[0].output
    with pytest.raises(Inapplicable, match="no 'tap'"), MODEL.rig([EXAMPLES["example-tap"]()]):
        pass


def test_the_judge_is_measured() -> None:
    card = JUDGE.card
    for label in PITCHES:
        line = card.labels[label]
        assert line["positives"] == line["negatives"] == 60 and line["threshold"] == 0.5
        assert line["sensitivity"] >= 0.95 and line["specificity"] >= 0.95
    assert closeness(440 * 2 ** (1 / 12), 440) == pytest.approx(0.5) and math.isnan(closeness(math.nan, 440))
    silent = Sample(Case("a", "b"), status="refused", why="hush: loud")
    assert all(math.isnan(s.value) and "no sound: refused hush" in s.why for s in JUDGE.judge([silent]))


def test_settings_belong_to_the_family() -> None:
    assert read_settings(FAMILY, {"seconds": 0.5}, "plan x") == ToneSampler(0.5)
    with pytest.raises(BadInput, match=r"unknown field sampler.'guidance'; known: seconds, rate, vibrato"):
        read_settings(FAMILY, {"guidance": 4.0}, "plan x")
    with pytest.raises(BadInput, match="0 to 12 are possible"):
        read_settings(FAMILY, {"vibrato": 20.0}, "plan x")
    assert stated(ToneSampler()) == {"seconds": 0.25, "rate": 8000}
    assert stated(ToneSampler(vibrato=1.0))["vibrato"] == 1.0
    assert changed(ToneSampler(), "tone", seconds=1.0, guidance=None) == ToneSampler(1.0)
    with pytest.raises(
        BadInput, match="'tone' is sampled without guidance; its ToneSampler has seconds, rate, vibrato"
    ):
        changed(ToneSampler(), "tone", guidance=4.0)


def test_media_are_matched() -> None:
    matched("audio", "tone", judges=[JUDGE], media="audio", benchmark="tones")
    with pytest.raises(BadInput, match="judge 'fake' needs image and model 'tone' makes audio"):
        matched(MODEL.makes, "tone", judges=[FakeJudge()])
    with pytest.raises(BadInput, match="benchmark 'erasure' is about image and model 'tone' makes audio"):
        matched(MODEL.makes, "tone", media="image", benchmark="erasure")
    with pytest.raises(BadInput, match="makes 'smell'; one of image, audio"):
        matched("smell", "nose")


def arms_in(store: Store) -> list[dict[str, object]]:
    """Both arms generated into the store; the metrics' table of arms."""
    arms: list[dict[str, object]] = []
    for label, control, defenses in (("base", "base", ()), ("hush", "", (Hush(),))):
        sampler = ToneSampler()
        name = store.put_arm(arm_spec(MODEL.spec, defenses, sampler), arm_hash(MODEL.spec, defenses, sampler))
        made = MODEL.generate(CASES, sampler, defenses)
        for sample in made:
            sample.arm = name
        store.put_samples(made, f"{name}/0")
        arms.append({"label": label, "hash": name, "hashes": {"*": name}, "control": control})
    return arms


def test_from_the_model_to_the_metrics(tmp_path: Path) -> None:
    store = Store(tmp_path)
    arms = arms_in(store)
    hashes = [str(a["hash"]) for a in arms]
    done = judge_samples(store, hashes, JUDGE)
    assert (done.scored, done.there) == (24, 0) and judge_samples(store, hashes, JUDGE).there == 24
    with pytest.raises(BadInput, match="judge 'fake' needs image"):
        judge_samples(store, hashes, FakeJudge())
    rows, by = store.samples(), judge_hash(JUDGE)
    assert {r["mime"] for r in rows} == {"audio/wav"} and {r["costs"]["samples"] for r in rows} == {2000}
    assert not list(store.root.rglob("*.png")) and len(list(store.root.rglob("*.wav"))) == len(
        {r["output"] for r in rows}
    )
    assert store.check() == []
    scores = {(s["sample"], s["label"]): s["value"] for s in store.scores(by)}
    concepts = {"high": {"kind": "custom", "labels": ["high"], "hash": "0" * 16}}
    cells = erasure.cells(rows, scores, store.features(by), arms=arms, base="base", concepts=concepts, card=JUDGE.card)
    crr = {c["arm"]: c["crr"] for c in cells if c["variant"] == "name"}
    assert crr["base"] == pytest.approx(1.0) and crr["hush"] == pytest.approx(0.0)


def test_a_pitch_above_half_the_rate_is_refused() -> None:
    with pytest.raises(BadInput, match="half of that"):
        tone(5000.0, 0)
