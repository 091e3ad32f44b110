"""Wukong on tiny models: laws, the saving it claims, several concepts, fail closed, and what a fit refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from genward.catalog.opening import words_of
from genward.core import Concept, Sampler, load_concept
from genward.defenses.wukong import Wukong
from genward.errors import BadArtifact, BadInput, UnknownName
from genward.models.sd import StableDiffusion
from genward.ops import artifacts
from genward.ops.ambiguous import AMBIGUOUS, ambiguous_cases
from genward.ops.tools import Tools
from genward.ops.wukong_detector import categories_of, category_texts, site_block
from genward.testing import FakeJudge, defense_laws, tiny_sd
from genward.testing.suites import CASES, same

SAMPLER = Sampler(4, 3.0)
SMALL = Wukong(
    images=20,
    per_caption=2,
    learn_at=(0.0, 0.5, 0.99),
    sampling_steps=4,
    guidance=1.0,
    epochs=2,
    batch=16,
    hidden=8,
    rank=2,
)


@pytest.fixture(scope="module")
def judge(model: StableDiffusion) -> FakeJudge:
    """A judge that calls the brighter half of a tiny model's pictures the concept."""
    shown = model.generate([CASES[k % 3]._replace(id=f"b{k}", seed=k) for k in range(12)], Sampler(2, 1.0))
    return FakeJudge(
        labels=("saw",),
        threshold=float(
            np.median([np.asarray(s.image.convert("L")).mean() / 255 for s in shown if s.image is not None])
        ),
    )


@pytest.fixture(scope="module")
def tools(concept: Concept) -> Concept:
    return dataclasses.replace(concept, judge=("saw",))


@pytest.fixture(scope="module", params=[("A", "query"), ("B", "query"), ("A", "block")], ids="-".join)
def fitted(request: pytest.FixtureRequest, model: StableDiffusion, tools: Concept, judge: FakeJudge) -> Wukong:
    reading, tap = request.param
    return dataclasses.replace(SMALL, reading=reading, tap=tap).fit(model, tools, Tools(judge=judge))


def test_laws(fitted: Wukong, model: StableDiffusion) -> None:
    def make(**fields: Any) -> Wukong:
        return dataclasses.replace(fitted, **{"threshold": 0.0, "step": 3, **fields})

    defense_laws(model, make, zero={"threshold": 1.0}, sampler=SAMPLER)
    defense_laws(model, make, zero={"action": "flag"}, sampler=SAMPLER)


def test_a_blocked_row_costs_nothing_afterwards(fitted: Wukong, model: StableDiffusion) -> None:
    scores = [
        s.notes["wukong.score"][0]
        for s in model.generate(CASES, SAMPLER, [dataclasses.replace(fitted, threshold=1.0, step=1)])
    ]
    cut = sorted(scores)[1]
    base = model.generate(CASES, SAMPLER)
    guarded = model.generate(CASES, SAMPLER, [dataclasses.replace(fitted, threshold=cut, step=1)])
    for sample, score, plain in zip(guarded, scores, base, strict=True):
        if score > cut:
            assert sample.status == "refused" and sample.nfe == 4 and "shows tools at step 2 of 4" in sample.why
            verdict = sample.verdicts[0]
            assert (verdict.action, verdict.defense, verdict.step, verdict.category) == (
                "blocked",
                "wukong",
                1,
                "tools",
            )
            assert verdict.score == pytest.approx(score) and verdict.threshold == pytest.approx(cut)
        else:
            assert sample.status == "ok" and sample.nfe == 8 and not sample.verdicts and same([sample], [plain])
    assert {s.status for s in guarded} == {"ok", "refused"}


def test_flag_records_and_releases(fitted: Wukong, model: StableDiffusion) -> None:
    samples = model.generate(CASES, SAMPLER, [dataclasses.replace(fitted, threshold=0.0, action="flag")])
    assert all(s.status == "ok" and s.verdicts[0].action == "flagged" for s in samples)


def test_scores_do_not_depend_on_the_batch_or_guidance(fitted: Wukong, model: StableDiffusion) -> None:
    quiet = dataclasses.replace(fitted, threshold=1.0, step=0)
    many = model.generate(CASES, SAMPLER, [quiet])
    alone = model.generate([CASES[2]], SAMPLER, [quiet])
    single = model.generate(CASES, Sampler(4, 1.0), [quiet])
    for a, b in (
        (many[2], alone[0]),
        (many[0], single[0]),
    ):  # the first conditional pass is the same with and without guidance
        assert a.notes["wukong.score"][0] == pytest.approx(b.notes["wukong.score"][0], abs=1e-4)


def test_saved_and_loaded(fitted: Wukong, model: StableDiffusion, tmp_path: Any) -> None:
    assert fitted.artifact is not None
    artifacts.save(tmp_path / "x", fitted.artifact.tensors, fitted.artifact.card)
    loaded = dataclasses.replace(fitted, artifact=artifacts.load(tmp_path / "x"), threshold=1.0)
    a, b = (model.generate(CASES, SAMPLER, [d]) for d in (dataclasses.replace(fitted, threshold=1.0), loaded))
    assert [s.notes for s in a] == [s.notes for s in b]
    card = fitted.artifact.card
    assert (
        card["method"] == "wukong"
        and card["concepts"]
        and card["judge"] == "fake"
        and not set(card["settings"]) & Wukong.at_attach
    )
    assert (
        all(set(row) == {"timestep", "fpr1", "fpr5", "f1"} for row in card["thresholds"]["tools"])
        and len(card["thresholds"]["tools"]) == 3
    )


def test_the_threshold_is_the_calibrated_one_of_the_nearest_step(fitted: Wukong, model: StableDiffusion) -> None:
    assert fitted.artifact is not None
    row = fitted.artifact.card["thresholds"]["tools"][0]
    found = model.generate(CASES, SAMPLER, [dataclasses.replace(fitted, point="f1", step=0)])
    for sample in found:
        assert (sample.status == "refused") == (sample.notes["wukong.score"][0] > row["f1"])


def test_far_from_every_calibrated_timestep_nothing_is_released(fitted: Wukong, model: StableDiffusion) -> None:
    assert fitted.artifact is not None
    card = {k: v for k, v in fitted.artifact.card.items() if k not in artifacts.RESERVED}
    card["thresholds"] = {"tools": card["thresholds"]["tools"][-1:]}
    assert card["thresholds"]["tools"][0]["timestep"] < 100
    late = dataclasses.replace(fitted, artifact=artifacts.make(fitted.artifact.tensors, card), threshold=1.0)
    for action in ("block", "flag"):
        early = model.generate(CASES, SAMPLER, [dataclasses.replace(late, step=0, action=action)])
        assert all(s.status == "error" and s.image is None and "calibrated at" in s.why for s in early)
    assert all(s.status == "ok" for s in model.generate(CASES, SAMPLER, [dataclasses.replace(late, step=3)]))


def test_a_step_beyond_the_loop_fails_closed(fitted: Wukong, model: StableDiffusion) -> None:
    with pytest.raises(BadInput, match="loop of 4"):
        model.generate(CASES, SAMPLER, [dataclasses.replace(fitted, step=4)])


def test_a_score_that_is_no_number_blocks(fitted: Wukong) -> None:
    model = tiny_sd()
    model.unet.mid_block.attentions[0].transformer_blocks[0].norm1.weight.data.fill_(float("nan"))
    samples = model.generate(CASES, SAMPLER, [fitted])
    assert all(s.status == "error" and "not a number" in s.why for s in samples)
    assert samples[0].verdicts[-1].action == "blocked", "a policy that only flags must not take it for a decision"


def test_another_models_artifact_is_refused(fitted: Wukong, deep: StableDiffusion) -> None:
    with pytest.raises(BadArtifact, match="wukong was fitted on model"):
        deep.generate(CASES, Sampler(2), [fitted])
    assert fitted.artifact is not None
    card = {k: v for k, v in fitted.artifact.card.items() if k not in (*artifacts.RESERVED, "model_hash")}
    nameless = artifacts.make(fitted.artifact.tensors, card)
    with pytest.raises(BadArtifact, match="channels were fitted"):
        deep.generate(CASES, Sampler(2), [dataclasses.replace(fitted, artifact=nameless)])
    broken = artifacts.make(fitted.artifact.tensors, {"method": "wukong"})
    with pytest.raises(BadArtifact, match="not a Wukong detector"):
        deep.generate(CASES, Sampler(2), [dataclasses.replace(fitted, artifact=broken)])


def test_gradients_reach_an_adaptive_attack(fitted: Wukong, model: StableDiffusion) -> None:
    from genward.core import Call

    text = model.encode(["a saw"]).requires_grad_()
    with model.rig([fitted]) as rig:
        rig.trace = []
        rig.defended(Call(torch.randn(1, 4, 8, 8), torch.tensor([801]), text))
        signal = next(v for _, signals in rig.trace for k, v in signals.items() if k == "wukong.score")
    signal.sum().backward()
    assert text.grad is not None and bool((text.grad != 0).any())


class TwoJudge(FakeJudge):
    """Two labels that contradict each other, so that each is known and both differ."""

    def judge(self, samples: Sequence[Any]) -> list[Any]:
        one = super().judge(samples)
        return [s._replace(value=1.0 - s.value if s.label == "axe" else s.value) for s in one]


def test_two_concepts_are_told_apart(model: StableDiffusion, tools: Concept, judge: FakeJudge) -> None:
    axes = dataclasses.replace(tools, name="axes", judge=("axe",))
    two = TwoJudge(labels=("saw", "axe"), threshold=judge.threshold)
    fitted = SMALL.fit(model, [tools, axes], Tools(judge=two))
    assert fitted.artifact is not None and list(fitted.artifact.card["thresholds"]) == ["tools", "axes"]
    samples = model.generate(CASES, SAMPLER, [dataclasses.replace(fitted, threshold=0.0)])
    for s in samples:
        assert set(s.notes) == {"wukong.score", "wukong.tools", "wukong.axes"}
        best = max(("tools", "axes"), key=lambda c: s.notes[f"wukong.{c}"][0])
        assert s.verdicts[0].category == best and s.notes["wukong.score"] == s.notes[f"wukong.{best}"]


def test_equal_seeds_equal_artifacts(model: StableDiffusion, tools: Concept, judge: FakeJudge) -> None:
    first, again, other = (
        dataclasses.replace(SMALL, seed=s).fit(model, tools, Tools(judge=judge)).artifact for s in (0, 0, 1)
    )
    assert first is not None and again is not None and other is not None and first.hash == again.hash != other.hash


def test_what_a_fit_refuses(model: StableDiffusion, tools: Concept, concept: Concept, judge: FakeJudge) -> None:
    with pytest.raises(BadInput, match="given no judge"):
        SMALL.fit(model, tools)
    with pytest.raises(BadInput, match="names no judge labels"):
        SMALL.fit(model, concept, Tools(judge=judge))
    with pytest.raises(BadInput, match="says nothing about pin"):
        SMALL.fit(model, dataclasses.replace(tools, judge=("pin",)), Tools(judge=judge))
    with pytest.raises(BadInput, match="never or always"):
        SMALL.fit(model, tools, Tools(judge=FakeJudge(labels=("saw",), threshold=0.999)))
    with pytest.raises(BadInput, match="learned nothing yet"):
        model.generate(CASES, SAMPLER, [Wukong()])
    with pytest.raises(BadInput, match="transformer blocks"):
        site_block(model, "mid_block")
    with pytest.raises(UnknownName, match="mid_block"):
        dataclasses.replace(SMALL, sites=("mid_bloc",)).fit(model, tools, Tools(judge=judge))


@pytest.mark.parametrize(
    ("bad", "error", "told"),
    [
        ({"reading": "C"}, UnknownName, "reading"),
        ({"tap": "key"}, UnknownName, "query"),
        ({"logits": "sum"}, UnknownName, "heads"),
        ({"action": "steer"}, UnknownName, "action"),
        ({"point": "fpr9"}, UnknownName, "fpr5"),
        ({"threshold": 1.5}, BadInput, "probability"),
        ({"step": -1.0}, BadInput, "step"),
        ({"sites": ()}, BadInput, "site"),
        ({"held": 0.0}, BadInput, "held"),
        ({"held": 0.6, "calibrate": 0.5}, BadInput, "calibrate"),
        ({"balance": 2.0}, BadInput, "balance"),
        ({"lr": 0.0}, BadInput, "lr"),
    ],
)
def test_bad_settings_are_named(bad: dict[str, Any], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        Wukong(**bad)


def test_the_labs_rows_are_of_ambiguous_prompts() -> None:
    concepts, words = [load_concept("weapons")], words_of("lab")
    cases = ambiguous_cases(concepts, words, Wukong().images, Wukong().per_caption)
    assert len(cases) >= 5_000 == Wukong().images
    assert len({(c.prompt, c.seed) for c in cases}) == len({c.seed for c in cases}) == len(cases)
    many = [c for c in cases if c.variant in AMBIGUOUS]
    assert len(many) > 0.6 * len(cases) and len(many) == 16 * len({c.prompt for c in many})
    assert not {c.prompt for c in cases} & {*concepts[0].heldout, *concepts[0].descriptions}
    assert not any(" in " in c.prompt and c.prompt.endswith(" style") for c in cases), "evaluation writes so"
    assert any("a tool" in c.prompt for c in cases) and any(", twemoji style" in c.prompt for c in cases)
    part = Wukong().parts([c.group for c in cases], [c.variant for c in cases])
    of = {p: {c.group for c, q in zip(cases, part, strict=True) if q == p} for p in set(part)}
    assert len(of) == 3 and not of["fit"] & of["choose"] | of["choose"] & of["calibrate"] | of["fit"] & of["calibrate"]
    shares = {p: part.count(p) / len(part) for p in of}
    assert shares == pytest.approx({"fit": 0.6, "choose": 0.15, "calibrate": 0.25}, abs=0.06)
    for name in of:
        assert {c.variant for c, q in zip(cases, part, strict=True) if q == name} >= {*AMBIGUOUS, "name", "keep"}, name
    assert len(category_texts(concepts)) == 5 and category_texts(concepts)[2][0] == "a bomb"
    assert categories_of(concepts)[2] == ("bomb", "weapons")


def test_captions_of_ones_own_and_no_vocabulary(concept: Concept) -> None:
    cases = ambiguous_cases([concept], {}, 40, 4, ("a mysterious thing",), owner="x")
    assert {c.variant for c in cases} == {"name", "scene", "keep", "given"} and len(cases) > 30
    assert sum(c.prompt == "a mysterious thing" for c in cases) == 4 and cases[0].id == "x-0-0"
    with pytest.raises(BadInput, match="what must stay"):
        ambiguous_cases([dataclasses.replace(concept, keep=(), neighbors=(), anchors=())], {}, 40, 4)
