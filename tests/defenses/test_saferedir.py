"""SafeRedir on tiny models: laws, when and whom it moves, its stages against a loop, and what a fit refuses."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from genward.core import Call, Case, Concept, Sampler
from genward.defenses.saferedir import SafeRedir
from genward.errors import BadArtifact, BadInput, UnknownName
from genward.models.sd import StableDiffusion
from genward.ops import activations, artifacts
from genward.ops import saferedir_net as nets
from genward.ops.saferedir_data import paired_items
from genward.ops.tools import Tools
from genward.testing import FakeJudge, defense_laws, tiny_sd
from genward.testing.suites import CASES, same

SAMPLER = Sampler(4, 3.0)
SMALL = SafeRedir(
    pairs=5,
    per_caption=1,
    benign=3,
    learn_at=(0.0, 0.99),
    sampling_steps=2,
    guidance=1.0,
    epochs=1,
    batch=16,
    width=0.125,
)


@pytest.fixture(scope="module", params=["token", "shared"])
def fitted(request: pytest.FixtureRequest, model: StableDiffusion, concept: Concept) -> SafeRedir:
    return dataclasses.replace(SMALL, trunk=request.param).fit(model, concept)


def always(fitted: SafeRedir, **fields: Any) -> SafeRedir:
    return dataclasses.replace(fitted, **{"threshold": 0.0, **fields})


class Watch:
    """Keeps the text states of every denoiser call, as the last defense of a chain sees them."""

    name = "watch"

    def __init__(self) -> None:
        self.texts: list[Tensor] = []
        self.calls: list[Call] = []

    def attach(self, rig: Any) -> None:
        def fn(call: Call, frame: Any) -> Call:
            self.texts.append(call.text.clone())
            self.calls.append(call)
            return call

        rig.inputs(fn)


@pytest.mark.parametrize(
    "fields", [{}, {"when": "after", "check": "current", "apply_to": "both", "release": True, "hold": 0}]
)
def test_laws(fitted: SafeRedir, model: StableDiffusion, fields: dict[str, Any]) -> None:
    def make(**more: Any) -> SafeRedir:
        return always(fitted, **{"strength": 4.0, **fields, **more})

    defense_laws(
        model, make, zero={"strength": 0.0}, sampler=SAMPLER, changes=False
    )  # a tiny model's pictures may round to the same bytes
    defense_laws(model, make, zero={"threshold": 1.0}, sampler=SAMPLER, changes=False)
    plain, moved = (model.generate(CASES, SAMPLER, d, keep_latents=True) for d in ([], [make()]))
    assert all(bool((a.latents != b.latents).any()) for a, b in zip(plain, moved, strict=True))


def reference(fitted: SafeRedir, calls: list[Call]) -> list[Tensor]:
    """The digest's loop for one case at a time, on the calls that the unsteered text entered with (conditional row
    last)."""
    assert fitted.artifact is not None
    net = nets.unpack(fitted.artifact.card["network"], fitted.artifact.tensors)
    current, countdown, out = None, 0, []
    for step, call in enumerate(calls):
        x, given, t = call.latents[-1:], call.text[-1:], call.timestep[-1:]
        used = given if current is None else current
        if step % fitted.every:
            pass
        elif countdown > 0:
            countdown -= 1
        else:
            with torch.no_grad():
                found = net(x, used if fitted.check == "current" else given, t)
            if float(found.logits.softmax(1)[0, 1]) > fitted.threshold:
                unit = found.delta / found.delta.norm(dim=-1, keepdim=True)
                size = fitted.scale * fitted.strength * found.alpha[..., None] * given.norm(dim=-1, keepdim=True)
                current = given + size * unit * (found.mask[..., None] if fitted.mask else 1)
                countdown = fitted.hold
        out.append(used if fitted.when == "after" else (given if current is None else current))
    return out


@pytest.mark.parametrize(
    "fields",
    [
        {"hold": 0},
        {"hold": 2},
        {"hold": 1, "when": "after", "check": "current"},
        {"hold": 0, "check": "current", "strength": 0.5},
        {"threshold": 1.0},
        {"hold": 1, "every": 2},
    ],
)
def test_the_loop_of_the_digest(fitted: SafeRedir, model: StableDiffusion, fields: dict[str, Any]) -> None:
    settings = always(fitted, **fields)
    before, after = Watch(), Watch()
    model.generate(CASES[:1], Sampler(5, 3.0), [before, settings, after])  # type: ignore[list-item]
    for got, call, wanted in zip(after.texts, before.calls, reference(settings, before.calls), strict=True):
        assert torch.allclose(got[-1:], wanted, atol=1e-5)
        assert torch.equal(got[0], call.text[0]), "the unconditional row stays"


def test_rows_keep_states_of_their_own(fitted: SafeRedir, model: StableDiffusion) -> None:
    """A batch is its rows one by one: some steered, some not, some ended by another defense on the way."""
    worst = [
        max(s.notes["saferedir.score"])
        for s in model.generate(CASES, SAMPLER, [dataclasses.replace(fitted, threshold=1.0)])
    ]
    settings = dataclasses.replace(fitted, threshold=sum(sorted(worst)[:2]) / 2, hold=1)
    many = model.generate(CASES, SAMPLER, [settings], keep_latents=True)
    assert {bool(s.verdicts) for s in many} == {True, False}
    for k, sample in enumerate(many):
        alone = model.generate([CASES[k]], SAMPLER, [settings], keep_latents=True)[0]
        assert torch.allclose(sample.latents, alone.latents, atol=1e-4) and bool(sample.verdicts) == bool(
            alone.verdicts
        )
        if sample.verdicts:
            verdict = sample.verdicts[0]
            assert (verdict.action, verdict.defense, verdict.category, verdict.threshold) == (
                "steered",
                "saferedir",
                "tools",
                settings.threshold,
            )
            assert sample.status == "ok" and len([v for v in sample.verdicts if v.action == "steered"]) == 1

    class End:
        name = "end"

        def attach(self, rig: Any) -> None:
            def fn(call: Call, frame: Any) -> Call:
                if frame.step == 1:
                    rig.block(frame, frame.case == 0, "as an example")
                return call

            rig.inputs(fn)

    ended = model.generate(CASES, SAMPLER, [End(), always(fitted)], keep_latents=True)  # type: ignore[list-item]
    whole = model.generate(CASES, SAMPLER, [always(fitted)], keep_latents=True)
    assert ended[0].status == "refused" and all(
        torch.allclose(a.latents, b.latents, atol=1e-4) for a, b in zip(ended[1:], whole[1:], strict=True)
    )


def test_both_halves_and_release(fitted: SafeRedir, model: StableDiffusion) -> None:
    watch = Watch()
    model.generate(CASES[:1], SAMPLER, [always(fitted, apply_to="both", hold=0), watch])  # type: ignore[list-item]
    given = model.encode(["", CASES[0].prompt])
    shift = watch.texts[0] - given
    assert torch.allclose(shift[0], shift[1], atol=1e-5) and float(shift.abs().max()) > 0
    states = torch.tensor([1.0, 0.0, 1.0, 0.0])  # a check that says unsafe, safe, unsafe, safe
    for release, moved in ((True, [True, False, True, False]), (False, [True] * 4)):
        settings = dataclasses.replace(fitted, threshold=0.5, hold=0, release=release)
        watch = Watch()
        with scripted(states):
            model.generate(CASES[:1], SAMPLER, [settings, watch])  # type: ignore[list-item]
        assert [not torch.equal(t[1], given[1]) for t in watch.texts] == moved


class scripted:
    """The network's classifier answers with these probabilities, call by call."""

    def __init__(self, probabilities: Tensor) -> None:
        self.left = list(probabilities)

    def __enter__(self) -> None:
        self.forward = nets.Redirector.forward

        def forward(net: Any, *args: Any) -> nets.Redirection:
            p = self.left.pop(0).clamp(1e-6, 1 - 1e-6)
            return self.forward(net, *args)._replace(logits=torch.stack([(1 - p).log(), p.log()])[None])

        nets.Redirector.forward = forward  # type: ignore[method-assign]

    def __exit__(self, *_: Any) -> None:
        nets.Redirector.forward = self.forward  # type: ignore[method-assign]


def test_window_limits_it(fitted: SafeRedir, model: StableDiffusion) -> None:
    watch = Watch()
    model.generate(CASES[:1], SAMPLER, [always(fitted, during=(0.5, 1.0)), watch])  # type: ignore[list-item]
    given = model.encode([CASES[0].prompt])[0]
    assert [torch.equal(t[1], given) for t in watch.texts] == [True, True, False, False]


def test_no_memory_between_batches(fitted: SafeRedir, model: StableDiffusion) -> None:
    settings = always(fitted)
    cases = [*CASES, Case("more", "a cup", seed=5)]
    with model.rig([settings]) as rig:
        first = model.generate(cases[:2], SAMPLER, [settings], rig=rig, keep_latents=True)
        model.generate(cases[2:], SAMPLER, [settings], rig=rig)
        again = model.generate(cases[:2], SAMPLER, [settings], rig=rig, keep_latents=True)
    assert same(first, again) and all(torch.equal(a.latents, b.latents) for a, b in zip(first, again, strict=True))


def test_outside_a_loop_it_acts_with_gradient(fitted: SafeRedir, model: StableDiffusion) -> None:
    text = model.encode(["a saw"]).requires_grad_()
    call = Call(torch.randn(1, 4, 8, 8), torch.tensor([801]), text)
    with model.rig([always(fitted)]) as rig:
        guarded = rig.defended(call)
    assert not torch.equal(guarded, model.predict(call))
    guarded.sum().backward()
    assert text.grad is not None and bool((text.grad != 0).any())


def test_a_score_that_is_no_number_blocks(fitted: SafeRedir, model: StableDiffusion) -> None:
    with scripted(torch.tensor([float("nan")])):
        samples = model.generate(CASES[:1], SAMPLER, [fitted])
    assert samples[0].status == "error" and "not a number" in samples[0].why
    assert samples[0].verdicts[-1].action == "blocked", "a policy that only flags must not take it for a decision"


def test_saved_loaded_and_refused(
    fitted: SafeRedir, model: StableDiffusion, masked: StableDiffusion, tmp_path: Any
) -> None:
    assert fitted.artifact is not None
    artifacts.save(tmp_path / "x", fitted.artifact.tensors, fitted.artifact.card)
    loaded = always(fitted, artifact=artifacts.load(tmp_path / "x"))
    a, b = (model.generate(CASES, SAMPLER, [d], keep_latents=True) for d in (always(fitted), loaded))
    assert all(torch.equal(x.latents, y.latents) for x, y in zip(a, b, strict=True))
    card = fitted.artifact.card
    assert (
        card["method"] == "saferedir"
        and card["labels"] == "captions"
        and not set(card["settings"]) & SafeRedir.at_attach
    )
    with pytest.raises(BadArtifact, match="saferedir was fitted on model"):
        masked.generate(CASES, SAMPLER, [fitted])
    with pytest.raises(BadArtifact, match="not SafeRedir's"):
        model.generate(
            CASES,
            SAMPLER,
            [dataclasses.replace(fitted, artifact=artifacts.make(fitted.artifact.tensors, {"method": "x"}))],
        )
    with pytest.raises(BadInput, match="learned nothing yet"):
        model.generate(CASES, SAMPLER, [SafeRedir()])


def test_items_of_pairs(model: StableDiffusion, concept: Concept) -> None:
    twins = SMALL.twins(model, [concept], {})
    cases = SMALL.cases(twins, [concept], {})
    assert all(int(model.tokens([a]).mask.sum()) == int(model.tokens([b]).mask.sum()) for a, b in twins)
    assert all(c.seed == d.seed for c in cases for d in cases if c.group == d.group and c.id[-1] == d.id[-1]), (
        "both sides start from equal noise"
    )
    found = activations.collect(model, cases, Sampler(2, 1.0), parts=("latents", "text"), steps=(0, 1))
    items, groups = paired_items(model, found.states, found.timesteps, cases, twins)
    assert len(groups) == len(cases) == 2 * len(twins) + 3 and int(items.paired.sum()) == int(items.label.sum()) == len(
        twins
    )
    for k in items.paired.nonzero().flatten().tolist():
        pair = twins[int(groups[k].split("-")[1])]
        ids = model.tokens(list(pair)).ids
        assert items.mask[k].tolist() == [float(a != b) for a, b in zip(*ids.tolist(), strict=True)]
        assert torch.allclose(items.safe[k].float(), model.encode([pair[1]])[0], atol=5e-3)
    harm = torch.tensor([float("nan")] + [1.0] * (len(cases) - 1))
    judged, _ = paired_items(model, found.states, found.timesteps, cases, twins, harm)
    assert (
        len(judged.label) == len(cases) - 1
        and bool((judged.label == 1).all())
        and int(judged.paired.sum()) == len(twins) - 1
    )


def test_pictures_may_label(model: StableDiffusion, concept: Concept) -> None:
    judge = FakeJudge(labels=("saw",), threshold=0.999)
    with pytest.raises(BadInput, match="only one kind"):
        SMALL.fit(model, dataclasses.replace(concept, judge=("saw",)), Tools(judge=judge))


def test_denoiser_target_and_repeatability(concept: Concept) -> None:
    model = tiny_sd()
    before = {n: p.clone() for n, p in model.unet.named_parameters()}
    first, again = (dataclasses.replace(SMALL, denoiser=0.5).fit(model, concept).artifact for _ in range(2))
    plain = SMALL.fit(model, concept).artifact
    assert first is not None and again is not None and plain is not None and first.hash == again.hash != plain.hash
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in model.unet.named_parameters())


@pytest.mark.parametrize(
    ("bad", "error", "told"),
    [
        ({"trunk": "two"}, UnknownName, "trunk"),
        ({"sees": "sound"}, UnknownName, "sees"),
        ({"apply_to": "uncond"}, UnknownName, "apply_to"),
        ({"when": "never"}, UnknownName, "when"),
        ({"check": "none"}, UnknownName, "check"),
        ({"threshold": -0.1}, BadInput, "threshold"),
        ({"hold": -1}, BadInput, "hold"),
        ({"every": 0}, BadInput, "every"),
        ({"width": 0.0}, BadInput, "width"),
        ({"pairs": 0}, BadInput, "pairs"),
    ],
)
def test_bad_settings_are_named(bad: dict[str, Any], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        SafeRedir(**bad)
