"""Noise probe on tiny models: laws, the slow form, the saving, what a fit costs, fail closed."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from genward.catalog import plugins as catalog
from genward.catalog.opening import words_of
from genward.core import Call, Concept, Sampler, load_concept
from genward.defenses.noise_probe import NoiseProbe, logistic, probability, told_by_caption
from genward.errors import BadArtifact, BadInput, Inapplicable, UnknownName
from genward.models.sd import StableDiffusion
from genward.ops import artifacts
from genward.ops.captions import learning_cases
from genward.ops.tools import Tools
from genward.testing import FakeJudge, defense_laws, tiny_sd
from genward.testing.suites import CASES, same

SAMPLER = Sampler(4, 3.0)
SMALL = NoiseProbe(images=24, per_caption=2, sampling_steps=4, guidance=3.0, step=0.5, pool=4)


@pytest.fixture(scope="module")
def judge(model: StableDiffusion) -> FakeJudge:
    """A judge that calls the brighter half of a tiny model's pictures the concept."""
    shown = model.generate([CASES[k % 3]._replace(id=f"b{k}", seed=k) for k in range(12)], SAMPLER)
    return FakeJudge(
        labels=("saw",),
        threshold=float(
            np.median([np.asarray(s.image.convert("L")).mean() / 255 for s in shown if s.image is not None])
        ),
    )


@pytest.fixture(scope="module")
def tools(concept: Concept) -> Concept:
    return dataclasses.replace(concept, judge=("saw",))


@pytest.fixture(scope="module", params=["picture", "caption"])
def fitted(request: pytest.FixtureRequest, model: StableDiffusion, tools: Concept, judge: FakeJudge) -> NoiseProbe:
    return dataclasses.replace(SMALL, truth=request.param).fit(model, tools, Tools(judge=judge))


def test_laws(fitted: NoiseProbe, model: StableDiffusion) -> None:
    late = artifacts.make(fitted.artifact.tensors, {**plain(fitted), "timestep": 1})  # type: ignore[union-attr]

    def make(**fields: Any) -> NoiseProbe:
        return dataclasses.replace(fitted, **{"artifact": late, "threshold": 0.0, "step": 3, **fields})

    defense_laws(model, make, zero={"threshold": 1.0}, sampler=SAMPLER)
    defense_laws(model, make, zero={"action": "flag"}, sampler=SAMPLER)


def plain(fitted: NoiseProbe) -> dict[str, Any]:
    assert fitted.artifact is not None
    return {k: v for k, v in fitted.artifact.card.items() if k not in artifacts.RESERVED}


def test_the_score_equals_the_slow_form(fitted: NoiseProbe, model: StableDiffusion) -> None:
    """The stock loop by hand, one row at a time; pooling, standardization and the logistic in float64."""
    latents: dict[int, torch.Tensor] = {}

    class Keep:
        name = "keep"

        def attach(self, rig: Any) -> None:
            rig.latents(lambda z, frame: latents.setdefault(frame.step, z.clone()))

    model.generate(CASES, SAMPLER, [Keep()])
    samples = model.generate(CASES, SAMPLER, [dataclasses.replace(fitted, threshold=1.0)])
    assert fitted.artifact is not None
    mean, scale, weights, bias = (
        fitted.artifact.tensors[k].double().numpy() for k in ("mean", "scale", "weights", "bias")
    )
    text, empty = model.encode([c.prompt for c in CASES]), model.encode([""])
    for k, sample in enumerate(samples):
        z = latents[1][k : k + 1]
        cond, uncond = (
            model.unet(z, 501, encoder_hidden_states=s)[0].double().numpy()[0] for s in (text[k : k + 1], empty)
        )
        logit = float(bias[0])
        for j in range(64):
            c, row, column = j // 16, j // 4 % 4, j % 4
            block = (cond - uncond)[c, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            logit += float(weights[j]) * (float(block.mean()) - float(mean[j])) / float(scale[j])
        assert sample.notes["noise_probe.score"][0] == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-3)


def test_the_regression_is_the_penalized_one() -> None:
    """Its gradient vanishes: by hand in float64, on standardized numbers, a constant one included."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(80, 6)) * [1, 10, 0.1, 5, 1, 0] + 3
    y = (x[:, 0] + draw.normal(size=80) > 3).astype(float)
    found = logistic(torch.from_numpy(x), torch.from_numpy(y), 0.05)
    z = (x - x.mean(0)) / np.where(x.std(0) < 1e-8, 1, x.std(0))
    w, b = found["weights"].double().numpy(), float(found["bias"])
    p = 1 / (1 + np.exp(-(z @ w + b)))
    assert (
        np.abs(z.T @ (p - y) / 80 + 0.05 * w).max() < 1e-4 and abs((p - y).mean()) < 1e-4 and np.abs(w[:5]).max() > 0.1
    )
    np.testing.assert_allclose(probability(found, torch.from_numpy(x)).numpy(), p, atol=1e-5)


def test_a_blocked_row_costs_nothing_afterwards(fitted: NoiseProbe, model: StableDiffusion) -> None:
    base = model.generate(CASES, SAMPLER)
    found = [
        s.notes["noise_probe.score"][0]
        for s in model.generate(CASES, SAMPLER, [dataclasses.replace(fitted, threshold=1.0)])
    ]
    cut = sorted(found)[1]
    guarded = model.generate(CASES, SAMPLER, [dataclasses.replace(fitted, threshold=cut)])
    for sample, score, bare in zip(guarded, found, base, strict=True):
        if score > cut:
            assert sample.status == "refused" and sample.nfe == 4 and "step 2 of 4 looks like tools" in sample.why
            verdict = sample.verdicts[0]
            assert (verdict.action, verdict.defense, verdict.step, verdict.category) == (
                "blocked",
                "noise_probe",
                1,
                "tools",
            )
            assert verdict.score == pytest.approx(score) and verdict.threshold == pytest.approx(cut)
        else:
            assert sample.status == "ok" and sample.nfe == 8 and not sample.verdicts and same([sample], [bare])
    assert {s.status for s in guarded} == {"ok", "refused"}


def test_the_threshold_is_the_rate_on_harmless_held_out_rows(fitted: NoiseProbe, model: StableDiffusion) -> None:
    assert fitted.artifact is not None
    harmless = fitted.artifact.tensors["harmless"]
    assert len(harmless) and fitted.artifact.card["rows"] <= len(fitted.artifact.card["seeds"])
    for fpr in (0.0, 0.3):
        made = dataclasses.replace(fitted, fpr=fpr)
        cut = min(float(x) for x in harmless if float((harmless > x).float().mean()) <= fpr)
        samples = model.generate(CASES, SAMPLER, [made])
        assert all((s.status == "refused") == (s.notes["noise_probe.score"][0] > cut) for s in samples)


def test_what_a_fit_costs(model: StableDiffusion, tools: Concept, judge: FakeJudge) -> None:
    calls: list[int] = []
    handle = model.unet.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    told: list[tuple[int, int]] = []
    try:
        counts = {}
        for truth in ("picture", "caption"):
            calls.clear()
            made = dataclasses.replace(SMALL, truth=truth).fit(
                model,
                tools,
                Tools(judge=judge, progress=lambda done, whole, loss: told.append((done, whole))),
            )
            assert made.artifact is not None
            counts[truth] = sum(calls) / len(made.artifact.card["seeds"])
    finally:
        handle.remove()
    assert counts == {"picture": 8, "caption": 4}, (
        "four steps under guidance; two where captions tell and no picture is wanted"
    )
    assert told[-1][0] == told[-1][1]


def test_what_captions_tell() -> None:
    concepts = [load_concept("weapons")]
    cases = learning_cases(concepts, words_of("lab"))
    told = {c.prompt: told_by_caption(c, concepts) for c in cases}
    names = {p for c in concepts for p in c.phrases}
    for case in cases:
        value = told[case.prompt]
        if case.variant == "scene":
            assert value == float(bool(set(case.group.split(" and ")) & names))
        else:
            assert math.isnan(value) if case.variant == "kind" else value == {"name": 1, "keep": 0}[case.variant]
    assert {1.0, 0.0} <= {told[c.prompt] for c in cases if c.variant == "scene"}


def test_scores_do_not_depend_on_the_batch(fitted: NoiseProbe, model: StableDiffusion) -> None:
    quiet = dataclasses.replace(fitted, threshold=1.0)
    many, alone = model.generate(CASES, SAMPLER, [quiet]), model.generate([CASES[2]], SAMPLER, [quiet])
    assert many[2].notes["noise_probe.score"][0] == pytest.approx(alone[0].notes["noise_probe.score"][0], abs=1e-4)


def test_saved_and_loaded(fitted: NoiseProbe, model: StableDiffusion, tmp_path: Any) -> None:
    assert fitted.artifact is not None
    artifacts.save(tmp_path / "x", fitted.artifact.tensors, fitted.artifact.card)
    loaded = dataclasses.replace(fitted, artifact=artifacts.load(tmp_path / "x"))
    a, b = (model.generate(CASES, SAMPLER, [d]) for d in (fitted, loaded))
    assert [(s.status, s.notes) for s in a] == [(s.status, s.notes) for s in b]
    card = fitted.artifact.card
    assert (
        card["method"] == "noise_probe"
        and card["concepts"]
        and card["timestep"] == 501
        and not set(card["settings"]) & NoiseProbe.at_attach
    )
    assert ("judge" in card) == (fitted.truth == "picture") and set(card["held_out"]) <= {
        "auroc",
        "auprc",
        "positives",
        "rows",
        "recall_at_fpr",
        "fpr",
    }


def test_a_score_that_is_no_number_blocks(fitted: NoiseProbe) -> None:
    model = tiny_sd()
    model.unet.conv_out.bias.data.fill_(float("nan"))
    for action in ("block", "flag"):
        samples = model.generate(CASES, SAMPLER, [dataclasses.replace(fitted, action=action)])
        assert all(s.status == "error" and "not a number" in s.why and s.nfe == 4 for s in samples)
        assert samples[0].verdicts[-1].action == "blocked", "a policy that only flags must not take it for a decision"


def test_another_models_artifact_is_refused(fitted: NoiseProbe, model: StableDiffusion, deep: StableDiffusion) -> None:
    with pytest.raises(BadArtifact, match="was fitted on model"):
        deep.generate(CASES, SAMPLER, [fitted])
    for bad in (
        {"method": "noise_probe"},
        {**plain(fitted), "numbers": 65},
        {k: v for k, v in plain(fitted).items() if k != "timestep"},
    ):
        broken = artifacts.make(fitted.artifact.tensors, bad)  # type: ignore[union-attr]
        with pytest.raises(BadArtifact, match="noise.probe"):
            model.generate(CASES, SAMPLER, [dataclasses.replace(fitted, artifact=broken)])
    with pytest.raises(BadArtifact, match="256 numbers here"):
        model.generate(CASES, SAMPLER, [dataclasses.replace(fitted, pool=0)])


def test_a_loop_it_was_not_fitted_for_is_refused(fitted: NoiseProbe, model: StableDiffusion) -> None:
    with pytest.raises(BadInput, match="fitted at timestep 501, step 3"):
        model.generate(CASES, SAMPLER, [dataclasses.replace(fitted, step=3)])
    with pytest.raises(BadInput, match="loop of 4"):
        model.generate(CASES, SAMPLER, [dataclasses.replace(fitted, step=4)])
    with pytest.raises(Inapplicable, match="guidance above 1"):
        model.generate(CASES, Sampler(4, 1.0), [fitted])
    for steps in (2, 10, 20):  # a share of any loop is the same timestep, near enough
        found = model.generate(CASES, Sampler(steps, 3.0), [dataclasses.replace(fitted, threshold=1.0)])
        assert all(s.status == "ok" and len(s.notes["noise_probe.score"]) == 1 for s in found)


def test_it_reads_what_it_is_told_to(model: StableDiffusion, tools: Concept, judge: FakeJudge) -> None:
    made = dataclasses.replace(SMALL, reads=("noise", "latents"), guidance=1.0).fit(model, tools, Tools(judge=judge))
    assert made.artifact is not None and made.artifact.card["numbers"] == 128
    assert all("noise_probe.score" in s.notes for s in model.generate(CASES, Sampler(4, 1.0), [made]))


def test_gradients_reach_an_adaptive_attack(fitted: NoiseProbe, model: StableDiffusion) -> None:
    text, empty = model.encode(["a saw"]).requires_grad_(), model.encode([""])
    with model.rig([fitted]) as rig:
        rig.trace = []
        call = Call(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([801]), text)
        rig.defended(call)
        assert not rig.trace, "without guidance there is no direction"
        rig.defended(call, 3.0, empty)
        signal = next(v for _, signals in rig.trace for k, v in signals.items() if k == "noise_probe.score")
    signal.sum().backward()
    assert text.grad is not None and bool((text.grad != 0).any())


def test_equal_seeds_equal_artifacts(model: StableDiffusion, tools: Concept, judge: FakeJudge) -> None:
    first, again, other = (
        dataclasses.replace(SMALL, seed=s).fit(model, tools, Tools(judge=judge)).artifact for s in (0, 0, 1)
    )
    assert first is not None and again is not None and other is not None and first.hash == again.hash != other.hash


def test_what_a_fit_refuses(model: StableDiffusion, tools: Concept, concept: Concept, judge: FakeJudge) -> None:
    with pytest.raises(BadInput, match="no judge"):
        SMALL.fit(model, tools)
    with pytest.raises(BadInput, match="names no judge labels"):
        SMALL.fit(model, concept, Tools(judge=judge))
    assert dataclasses.replace(SMALL, truth="caption").fit(model, concept).artifact is not None, "captions need neither"
    with pytest.raises(BadInput, match="never or always"):
        SMALL.fit(model, tools, Tools(judge=FakeJudge(labels=("saw",), threshold=0.999)))
    with pytest.raises(BadInput, match="captions of what must stay"):
        SMALL.fit(model, dataclasses.replace(tools, keep=(), anchors=(), anchor="", neighbors=()), Tools(judge=judge))
    with pytest.raises(BadInput, match="learned nothing yet"):
        model.generate(CASES, SAMPLER, [NoiseProbe()])


def test_what_other_rooms_read() -> None:
    entry = catalog.entry("defense", "noise_probe")
    assert (
        entry.class_name == "NoiseProbe"
        and 20 < len(entry.summary) < 180
        and all(f.doc and f.default is not None for f in entry.fields)
    )
    assert NoiseProbe.at_attach <= {f.name for f in entry.fields} and NoiseProbe().last_look(20) == 4


@pytest.mark.parametrize(
    ("bad", "error", "told"),
    [
        ({"action": "steer"}, UnknownName, "action"),
        ({"truth": "seed"}, UnknownName, "picture"),
        ({"reads": ("sound",)}, UnknownName, "noise"),
        ({"reads": ()}, BadInput, "something to read"),
        ({"threshold": 1.5}, BadInput, "probability"),
        ({"step": -1.0}, BadInput, "step"),
        ({"fpr": 1.0}, BadInput, "fpr"),
        ({"penalty": 0.0}, BadInput, "penalty"),
        ({"guidance": 1.0}, BadInput, "reads=noise"),
        ({"captions": ("a cat",), "truth": "caption"}, BadInput, "captions"),
    ],
)
def test_bad_settings_are_named(bad: dict[str, Any], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        NoiseProbe(**bad)
