"""Preview filter: x0 of one step shown to a judge; laws, the saving, fail closed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from genward import lab
from genward.catalog import plugins as catalog
from genward.core import Concept, Sampler, Score, Spec, load_concept
from genward.defenses.preview_filter import PreviewFilter
from genward.errors import BadInput, UnknownName
from genward.models.sd import StableDiffusion
from genward.ops.asking import scores, thresholds
from genward.serve.protect import protect, with_probe
from genward.testing import defense_laws, tiny_sd
from genward.testing.judge import FakeJudge
from genward.testing.suites import CASES, same

SAMPLER = Sampler(4, 3.0)


@dataclass
class Numbers:
    """A judge that says given numbers, one a picture, and keeps the pictures."""

    name: ClassVar[str] = "numbers"
    needs: ClassVar[frozenset[str]] = frozenset({"image"})
    values: tuple[float, ...] = ()
    card: Any = None
    shown: Sequence[Any] = ()

    def judge(self, samples: Sequence[Any]) -> list[Score]:
        self.shown = [s.image for s in samples]
        return [Score(s.id, "x", v) for s, v in zip(samples, self.values, strict=False)]


def bright(**fields: Any) -> PreviewFilter:
    return PreviewFilter(**{"labels": ("bright",), "probe": FakeJudge(), "threshold": 0.0, "step": 3, **fields})


def numbers(*values: float, **fields: Any) -> PreviewFilter:
    return PreviewFilter(**{"labels": ("x",), "threshold": 0.5, "step": 1, "probe": Numbers(values), **fields})


def test_laws(model: StableDiffusion) -> None:
    defense_laws(model, bright, zero={"threshold": 2.0}, sampler=SAMPLER)
    defense_laws(model, bright, zero={"action": "flag"}, sampler=SAMPLER)


def test_the_judge_sees_x0_decoded(model: StableDiffusion) -> None:
    """Against the slow form: the stock loop by hand in float64, one row at a time."""
    guard = numbers(0.0, 0.0, 0.0)
    model.generate(CASES, SAMPLER, [guard])
    alphas = model.alphas_cumprod.double()
    latents: dict[int, torch.Tensor] = {}

    class Keep:
        name = "keep"

        def attach(self, rig: Any) -> None:
            rig.latents(lambda z, frame: latents.setdefault(frame.step, z.clone()))

    model.generate(CASES, SAMPLER, [Keep()])
    t = int(model.pipe.scheduler.timesteps[1])
    assert t == 501
    text, empty = model.encode([c.prompt for c in CASES]), model.encode([""])
    for k, shown in enumerate(guard.probe.shown):  # type: ignore[union-attr]
        z = latents[1][k : k + 1]
        cond, uncond = (model.unet(z, t, encoder_hidden_states=s)[0].double() for s in (text[k : k + 1], empty))
        a = float(alphas[t])
        x0 = (z.double() - (1 - a) ** 0.5 * (uncond + 3.0 * (cond - uncond))) / a**0.5
        wanted = np.asarray(model.decode(x0.float())[0], np.int16)
        assert np.abs(np.asarray(shown, np.int16) - wanted).max() <= 1


def test_a_blocked_row_costs_nothing_afterwards(model: StableDiffusion) -> None:
    base = model.generate(CASES, SAMPLER)
    samples = model.generate(CASES, SAMPLER, [numbers(0.4, 0.5, float("nan"))])
    assert [s.status for s in samples] == ["ok", "refused", "error"] and same(samples[:1], base[:1])
    assert [s.nfe for s in samples] == [8, 4, 4], "two calls of four, no row of its own"
    verdict = samples[1].verdicts[0]
    assert (verdict.action, verdict.stage, verdict.step, verdict.score, verdict.threshold, verdict.category) == (
        "blocked",
        "denoise",
        1,
        0.5,
        0.5,
        "x",
    )
    assert "preview at step 2 of 4 shows x" in samples[1].why and samples[0].notes["preview_filter.score"] == [
        pytest.approx(0.4)
    ]
    assert "not a number" in samples[2].why and samples[2].verdicts[0].score is None


def test_what_has_no_number_is_not_safe(model: StableDiffusion) -> None:
    flagged = model.generate(CASES, SAMPLER, [numbers(0.4, 0.5, float("nan"), action="flag")])
    assert [s.status for s in flagged] == ["ok", "ok", "error"] and flagged[1].verdicts[0].action == "flagged"
    assert [s.status for s in model.generate(CASES, SAMPLER, [numbers(0.1)])] == ["ok", "error", "error"], (
        "a preview without a score is not safe"
    )
    broken = tiny_sd()
    broken.unet.conv_out.bias.data.fill_(float("nan"))
    guard = numbers()
    samples = broken.generate(CASES, SAMPLER, [guard])
    assert all(s.status == "error" and "not a number" in s.why and s.nfe == 4 for s in samples)
    assert not guard.probe.shown, "what cannot be decoded is not shown to a judge"  # type: ignore[union-attr]


def test_without_guidance_and_beside_rows_that_ended(model: StableDiffusion) -> None:
    assert [s.nfe for s in model.generate(CASES, Sampler(4, 1.0), [numbers(0.1, 0.9, 0.1)])] == [4, 2, 4]
    first, second = numbers(0.1, 0.9, 0.1, step=0), numbers(0.1, 0.9, step=0.75)
    samples = model.generate(CASES, SAMPLER, [first, second])
    assert [s.status for s in samples] == ["ok", "refused", "refused"] and [s.nfe for s in samples] == [8, 2, 6], (
        "rows are told apart by case"
    )
    with pytest.raises(BadInput, match="loop of 4"):
        model.generate(CASES, SAMPLER, [numbers(0.1, 0.1, 0.1, step=4)])


def test_the_judge_comes_with_the_chain() -> None:
    concept = load_concept("weapons")
    made = with_probe(PreviewFilter.for_concept(concept))
    assert (
        made.step == 4
        and made.last_look(20) == 4
        and made.labels == concept.judge
        and made.probe.name == "lab_second"
        and made.judge_hash
    )
    assert thresholds(made.probe, made.labels, None, "preview_filter").tolist() == [
        made.probe.card.labels[label]["threshold"] for label in made.labels
    ]
    assert thresholds(made.probe, made.labels, 0.25, "preview_filter").tolist() == [0.25] * len(made.labels)
    assert (
        Spec.from_json(Spec.of("defense", made).to_json()).hash
        == Spec.of("defense", made).hash
        != Spec.of("defense", replace(made, step=5)).hash
    )
    with protect(lab.pipeline(), "weapons", ["preview_filter,step=1"]) as guarded:
        out = guarded(["a cat", "a key"], num_inference_steps=2)
        assert all("preview_filter.score" in v.notes for v in out.verdicts) and guarded.defenses[0].concept == "weapons"  # type: ignore[attr-defined]
        seen = guarded.observe(["a cat"], num_inference_steps=6, generator=torch.Generator().manual_seed(0))
        assert seen.verdicts[0].nfe == 4, "where only scores are wanted the loop ends with the last look"


def test_scores_are_the_judges_numbers() -> None:
    from PIL import Image

    images = [Image.new("L", (4, 4), 255), None, Image.new("L", (4, 4), 51)]
    values = scores(FakeJudge(labels=("a", "b")), images, ("b", "c"))
    assert (
        values[[0, 2], 0].tolist() == [1.0, pytest.approx(0.2)]
        and np.isnan(values[1]).all()
        and np.isnan(values[:, 1]).all()
    )


def test_what_other_rooms_read() -> None:
    entry = catalog.entry("defense", "preview_filter")
    assert (
        entry.class_name == "PreviewFilter"
        and 20 < len(entry.summary) < 180
        and all(f.doc and f.default is not None for f in entry.fields)
    )
    assert PreviewFilter.at_attach <= {f.name for f in entry.fields}


def test_bad_settings_are_named(model: StableDiffusion, concept: Concept) -> None:
    for make, error, told in (
        (lambda: PreviewFilter(threshold=float("nan")), BadInput, "finite"),
        (lambda: PreviewFilter(step=-1), BadInput, "step"),
        (lambda: PreviewFilter(action="steer"), UnknownName, "block"),
        (lambda: PreviewFilter.for_concept(concept), BadInput, "names no judge labels"),
    ):
        with pytest.raises(error, match=told):
            make()
    for bad, error, told in (
        (PreviewFilter(labels=("x",)), BadInput, "no judge to ask"),
        (PreviewFilter(probe=FakeJudge()), BadInput, "no labels"),
        (PreviewFilter(labels=("brigth",), probe=FakeJudge()), UnknownName, "bright"),
        (PreviewFilter(labels=("x",), probe=Numbers()), BadInput, "states no threshold"),
    ):
        with pytest.raises(error, match=told):
            model.generate(CASES, Sampler(steps=1), [bad])
