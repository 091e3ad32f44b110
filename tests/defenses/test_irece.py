"""IRECE on tiny models of the real classes: its laws, its gate, its masks, and what it may not depend on."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from genward.core import Case, Concept, Inputs, Sampler, Spec
from genward.core.contracts import Artifact
from genward.defenses.irece import Irece, calibration_cases, trace
from genward.errors import BadArtifact, BadInput, Conflict, Inapplicable, WeakFit
from genward.models.sd import StableDiffusion
from genward.ops import artifacts, localize
from genward.ops.localizer import localizer, word_positions
from genward.ops.localizer_fit import Seen as Seen_
from genward.ops.localizer_fit import gate_rates, learn
from genward.ops.tools import Tools
from genward.testing import defense_laws
from genward.testing.examples import Fade
from genward.testing.suites import CASES

SETTINGS = Irece(images=10, fpr=0.2, sampling_steps=4, threshold=0.0)
SAMPLER = Sampler(steps=4, guidance=3.0)


@pytest.fixture(scope="session")
def fitted(model: StableDiffusion, concept: Concept) -> Irece:
    return SETTINGS.fit(model, concept)


def latents(
    model: StableDiffusion, *defenses: Any, cases: Any = CASES, sampler: Sampler = SAMPLER, **options: Any
) -> torch.Tensor:
    return torch.stack([s.latents for s in model.generate(cases, sampler, defenses, keep_latents=True, **options)])


def with_benign(fitted: Irece, value: float) -> Irece:
    """The same defense as if every benign row had given this statistic: its gate's threshold."""
    assert fitted.artifact is not None
    tensors, card = (
        fitted.artifact.tensors,
        {k: v for k, v in fitted.artifact.card.items() if k not in artifacts.RESERVED},
    )
    flat = {name: torch.full_like(tensors[name], value) for name in ("benign", "benign_mass")}
    return replace(fitted, artifact=artifacts.make({**tensors, **flat}, card))


@pytest.mark.parametrize(
    "fields",
    [
        {"gate": False},
        {"gate": False, "form": "blank", "readout": "mass"},
        {"gate": False, "form": "noise", "control": "random"},
    ],
)
def test_laws(model: StableDiffusion, fitted: Irece, fields: dict[str, Any]) -> None:
    def make(**more: Any) -> Irece:
        return replace(fitted, **{**fields, **more})

    defense_laws(model, make, zero={"strength": 0.0}, changes=False)
    assert (latents(model, make()) != latents(model)).any()


def test_masked_encoder_and_the_layout_of_stable_diffusion(
    masked: StableDiffusion, deep: StableDiffusion, concept: Concept
) -> None:
    for model, layers in ((masked, 2), (deep, 3)):
        made = SETTINGS.fit(model, concept)
        assert made.artifact is not None and len(made.artifact.card["layers"]) == layers
        assert all(name.startswith("up_blocks") for name in made.artifact.card["layers"])
        assert (latents(model, replace(made, gate=False)) != latents(model)).any()


def test_fit_is_reproducible_and_its_card_says_what_was_done(
    model: StableDiffusion, concept: Concept, fitted: Irece, tmp_path: Any
) -> None:
    assert fitted.artifact is not None
    card, tensors = fitted.artifact.card, fitted.artifact.tensors
    assert SETTINGS.fit(model, concept).artifact == fitted.artifact
    assert (
        card["method"] == "irece"
        and card["concepts"] == {concept.name: concept.hash}
        and card["model_hash"] == model.spec.hash
    )
    assert set(concept.phrases) | set(concept.keep) <= set(card["captions"]) and len(card["seeds"]) == 20
    assert card["localizers"] == ["a picture of a saw, an axe, hammer"] and card["rows"] == {
        "concept": 10,
        "benign": 10,
        "paths": ["sampled", "re-noised"],
    }
    assert card["fpr"] == 0.2 and 0 <= card["tpr"] <= 1 and card["threshold"] == pytest.approx(fitted.limit())
    assert {(r["readout"], r["decide"], r["fpr"]) for r in card["gate"]} >= {
        ("probe", "latch", 0.1),
        ("mass", "first", 0.2),
    }
    assert all(0 <= card["coverage"][who][cut] <= 1 for who in ("concept", "benign") for cut in ("0.0", "0.5", "1.0"))
    assert not set(card["settings"]) & fitted.at_attach
    artifacts.save(tmp_path / "x", tensors, card)
    loaded = replace(fitted, gate=False, artifact=artifacts.load(tmp_path / "x"))
    assert torch.equal(latents(model, loaded), latents(model, replace(fitted, gate=False)))
    assert (
        Spec.of("defense", loaded).hash
        == Spec.of("defense", replace(fitted, gate=False)).hash
        != Spec.of("defense", fitted).hash
    )


def test_rows_do_not_depend_on_their_neighbors(model: StableDiffusion, fitted: Irece) -> None:
    for fields in ({}, {"control": "random"}):
        defense = replace(fitted, gate=False, **fields)
        together = latents(model, defense)
        alone = torch.cat([latents(model, defense, cases=[case]) for case in reversed(CASES)]).flip(0)
        batched = latents(model, defense, batch=2)
        assert torch.allclose(together, alone, atol=1e-4) and torch.allclose(together, batched, atol=1e-4)


def test_notes_verdicts_and_cost(model: StableDiffusion, fitted: Irece) -> None:
    samples = model.generate(CASES, SAMPLER, [replace(fitted, gate=False)])
    for sample in samples:
        assert all(len(sample.notes[f"irece.{name}"]) == 2 for name in ("gate", "fired", "coverage")), (
            "steps 1 and 2 of 4 are active"
        )
        assert sample.notes["irece.fired"] == [1.0, 1.0] and 0 <= sample.notes["irece.coverage"][0] <= 1
        assert sample.nfe == 4 * 2 + 2 and [v.action for v in sample.verdicts] == ["steered"]
    assert {s.nfe for s in model.generate(CASES, SAMPLER, [replace(fitted, strength=0.0)])} == {8}, "off costs nothing"


def test_gate_decisions(model: StableDiffusion, fitted: Irece) -> None:
    """Every rule as the notes' own statistics say; rows with a closed gate are the base bit for bit."""
    cases = [
        Case(f"c{k}", p, seed=k)
        for k, p in enumerate(["a saw", "an axe", "a dog", "a red apple", "a hammer", "a hatchet"])
    ]
    base = latents(model, cases=cases)
    fitted = replace(fitted, readout="mass")  # on random weights the probe tells nothing, its statistic is 0 for all
    middle = (
        sorted(s.notes["irece.gate"][0] for s in model.generate(cases, SAMPLER, [replace(fitted, gate=False)]))[3]
        - 1e-6
    )
    cut = with_benign(fitted, middle)
    for decide in ("latch", "each", "first"):
        defense = replace(cut, decide=decide)
        assert defense.limit() == pytest.approx(middle)
        samples = model.generate(cases, SAMPLER, [defense], keep_latents=True)
        for k, sample in enumerate(samples):
            over = [float(v > middle) for v in sample.notes["irece.gate"]]
            wanted = {"latch": [over[0], max(over)], "each": over, "first": [over[0]] * 2}[decide]
            assert sample.notes["irece.fired"] == wanted
            assert [v.threshold for v in sample.verdicts] == ([defense.limit()] if any(wanted) else [])
            if not any(wanted):
                assert sample.notes["irece.coverage"] == [0.0, 0.0] and torch.equal(sample.latents, base[k])
        assert {s.notes["irece.fired"][0] for s in samples} == {0.0, 1.0}
        random = model.generate(cases, SAMPLER, [replace(defense, control="random")])
        assert [s.notes["irece.fired"][0] for s in random] == [s.notes["irece.fired"][0] for s in samples], (
            "the control's gate is the same"
        )


def test_control_masks_have_equal_area_elsewhere(model: StableDiffusion, fitted: Irece) -> None:
    first = [
        trace(model, CASES, SAMPLER, replace(fitted, gate=False, dilation=0, control=c))[0]
        for c in ("concept", "random")
    ]
    (step, ours), (_, theirs) = first
    assert step == 1 and ours.dtype == torch.uint8 and ours.shape == (3, 8, 8)
    assert torch.equal(ours.sum((1, 2)), theirs.sum((1, 2))) and not torch.equal(ours, theirs)


def test_masks_come_from_clean_weights(model: StableDiffusion, fitted: Irece) -> None:
    """On latents of equal content the mask is the same with and without an edit of the weights below it."""
    defense = replace(fitted, gate=False, during=(0.0, 0.25))
    without, under = (trace(model, CASES, SAMPLER, defense, before) for before in ((), (Fade(),)))
    assert [s for s, _ in without] == [0] and torch.equal(without[0][1], under[0][1]) and without[0][1].any()
    assert (latents(model, Fade(), defense) != latents(model, Fade())).any(), "and it acts on top of the edit"
    notes = [
        model.generate(CASES, SAMPLER, chain)[0].notes["irece.gate"]
        for chain in ([defense], [Fade(), defense], [defense, Fade()])
    ]
    assert notes[0] == notes[1] == notes[2]


def test_trace_leaves_closed_rows_empty(model: StableDiffusion, fitted: Irece) -> None:
    shut = with_benign(fitted, 1e6)
    assert not any(mask.any() for _, mask in trace(model, CASES, SAMPLER, shut))
    assert torch.equal(latents(model, shut), latents(model))


def test_guidance_one_and_more_steps(model: StableDiffusion, fitted: Irece) -> None:
    for sampler in (Sampler(steps=4, guidance=1.0), Sampler(steps=9, guidance=3.0)):
        defense = replace(fitted, gate=False)
        assert (latents(model, defense, sampler=sampler) != latents(model, sampler=sampler)).any()


def test_several_localizers(model: StableDiffusion, concept: Concept, fitted: Irece) -> None:
    two = replace(SETTINGS, phrases=("a saw", "an axe")).fit(model, concept)
    assert two.artifact is not None and two.artifact.card["localizers"] == [
        "a picture of a saw, hammer",
        "a picture of an axe, hammer",
    ]
    sample = model.generate(CASES, SAMPLER, [replace(two, gate=False)])[0]
    assert sample.nfe == 4 * 2 + 2 * 2, "one row a localizer and active step"


def test_word_positions(model: StableDiffusion, masked: StableDiffusion) -> None:
    for m in (model, masked):
        tokenizer, length = m.pipe.tokenizer, m.encode([""]).shape[1]
        for template, phrase, words in (
            ("a picture of {}", "a saw", ["saw"]),
            ("{} here", "a cup", ["cup"]),
            ("{}", "a", ["a"]),
        ):
            text = template.replace("{}", phrase)
            at = word_positions(tokenizer, template, text, length)
            tokens = tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)
            got = "".join(tokens[k].replace("##", "").replace("</w>", " ") for k in at).replace(" ", "")
            assert got == "".join(words), (template, phrase, tokens)
    cut = word_positions(masked.pipe.tokenizer, "a picture of {}", "a picture of " + "saw" * 20, 28)
    assert cut and max(cut) == 26, "words that are cut off are not asked for, the end mark is no word"


def test_calibration_rows_are_their_own(concept: Concept) -> None:
    cases, groups = calibration_cases([concept], SETTINGS)
    assert len(cases) == len(groups) == 20 and [c.label for c in cases] == ["harm"] * 10 + ["benign"] * 10
    assert len({c.seed for c in cases}) == 20
    benign = {c.prompt for c in cases if c.label == "benign"}
    assert benign == {"a dog", "a red apple", "a hammer", "a cup", "a bowl"} and not benign & set(concept.phrases)
    assert {c.seed for c in cases}.isdisjoint(
        c.seed for c in calibration_cases([concept], replace(SETTINGS, seed=1))[0]
    )


def test_learned_gate_finds_what_only_one_word_tells() -> None:
    """Attention on one word differs between classes, total attention does not: the probe tells them apart on held-out
    rows, mass does not."""
    random = torch.Generator().manual_seed(0)
    rows, steps, groups = 80, 2, torch.arange(40).repeat(2)
    shown = torch.arange(rows) < 40
    pooled = torch.randn(2, rows, steps, 6, generator=random)
    pooled[:, shown, :, 2] += 1.5
    pooled[:, shown, 1, 4] += 3.0  # the second step tells more
    cells = pooled[:, :, :, None] + 0.3 * torch.randn(2, rows, steps, 8, 6, generator=random)
    best = torch.randn(2, rows, steps, 2, 4, 4, generator=random)
    tensors, facts = learn(
        Seen_(torch.tensor([900, 500]), pooled, cells.half(), best.half(), torch.zeros(0)),
        shown,
        groups,
        replace(SETTINGS, images=40),
    )
    law = tensors["gate_law"]
    assert law[1, 2] > law[0, 2] > 0.8, "the effect grows with what the step tells"
    assert gate_rates(tensors, "probe", "latch", 0.05)[1] > 0.6 and gate_rates(tensors, "mass", "latch", 0.05)[1] < 0.3
    assert (
        facts["threshold"] == gate_rates(tensors, "probe", "latch", 0.2)[0]
        and float(tensors["gate"][0, 1].abs().argmax()) == 2.0
    )
    benign = tensors["benign"].amax(2)
    assert all(
        float((path > gate_rates(tensors, "probe", "latch", 0.1)[0]).float().mean()) <= 0.1 for path in benign
    ), "neither path fires more often"


BAD: tuple[tuple[Callable[[], Any], str], ...] = (
    (lambda: Irece(readout="clip"), "probe"),
    (lambda: Irece(form="blur"), "renoise"),
    (lambda: Irece(decide="never"), "latch"),
    (lambda: Irece(control="none"), "random"),
    (lambda: Irece(strength=1.5), r"\[0, 1\]"),
    (lambda: Irece(during=(0.5, 0.5)), "window"),
    (lambda: Irece(images=2), "at least 10"),
    (lambda: Irece(images=20, fpr=0.01), "more images"),
    (lambda: Irece(template="a picture"), "exactly one"),
    (lambda: Irece(edges=(16, 8)), "edges"),
)


@pytest.mark.parametrize(("make", "told"), BAD)
def test_bad_settings_are_named(make: Callable[[], Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        make()


def test_refusals(model: StableDiffusion, concept: Concept, fitted: Irece) -> None:
    from diffusers import EulerDiscreteScheduler

    with pytest.raises(BadInput, match="learned nothing yet"):
        model.generate(CASES, SAMPLER, [Irece()])
    with pytest.raises(Inapplicable, match="none of 1 steps"):
        model.generate(CASES, Sampler(steps=1), [fitted])
    with pytest.raises(BadInput, match="widen edges"):
        localizer(model, [concept], replace(SETTINGS, edges=(100, 200)))
    with pytest.raises(BadInput, match="keep and neighbors"):
        SETTINGS.fit(model, replace(concept, keep=(), neighbors=(), anchors=(), anchor=""))
    with pytest.raises(BadArtifact, match="fit it again"):
        broken = {k: v for k, v in fitted.artifact.tensors.items() if k != "cell"} if fitted.artifact else {}
        model.generate(
            CASES,
            SAMPLER,
            [replace(fitted, artifact=Artifact(broken, fitted.artifact.card if fitted.artifact else {}, ""))],
        )
    stock = model.pipe.scheduler
    try:
        model.pipe.scheduler = EulerDiscreteScheduler.from_config(stock.config)
        with pytest.raises(Conflict, match="EulerDiscreteScheduler"):
            model.generate(CASES, SAMPLER, [fitted])
    finally:
        model.pipe.scheduler = stock


def test_gradients_pass_and_the_localizer_keeps_no_graph(model: StableDiffusion, fitted: Irece) -> None:
    start = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(3)).requires_grad_(True)
    case = Case("g", "a saw", seed=1, inputs=Inputs({"latents": "x"}))
    sample = model.generate(
        [case], SAMPLER, [Fade(), replace(fitted, gate=False)], keep_latents=True, starts={"x": start}, gradients=True
    )[0]
    sample.latents.square().sum().backward()
    assert start.grad is not None and torch.isfinite(start.grad).all() and start.grad.any()


def test_perturbation_is_where_the_mask_is(model: StableDiffusion, fitted: Irece) -> None:
    """The last active step is the last step: latents there differ from the unperturbed ones by what one step of DDIM
    makes of the mask."""
    defense = replace(fitted, gate=False, during=(0.0, 0.2), form="blank", strength=1.0)
    step, mask = trace(model, CASES, SAMPLER, defense)[0]
    seen: list[torch.Tensor] = []

    class Look:
        name = "look"

        def attach(self, rig: Any) -> None:
            rig.latents(lambda z, frame: seen.append(z.clone()) or z, during=(0.0, 0.2))

    model.generate(CASES, SAMPLER, [Look(), defense, Look()])
    before, after = seen
    changed = (before != after).any(1)
    assert step == 0 and torch.equal(changed, mask.bool()) and localize.dilate(changed, 0) is changed


def test_contrast_words_are_read_and_are_not_the_concepts(model: StableDiffusion, concept: Concept) -> None:
    plain = localizer(model, [concept], replace(SETTINGS, contrast=()))
    near = localizer(model, [concept], SETTINGS)
    given = localizer(model, [concept], replace(SETTINGS, contrast=("cup", "bowl")))
    assert [x.texts[0] for x in (plain, near, given)] == [
        "a picture of a saw, an axe",
        "a picture of a saw, an axe, hammer",
        "a picture of a saw, an axe, cup, bowl",
    ]
    assert plain.own == near.own == given.own == [len(plain.words[0])]
    assert near.words[0][: near.own[0]] == plain.words[0] and len(near.words[0]) > len(plain.words[0])
    assert near.mine.tolist() == [True] * near.own[0] + [False] * (len(near.words[0]) - near.own[0])
    assert (near.marks() == 1).sum() == near.own[0] and (near.marks() == 2).sum() == len(near.words[0]) - near.own[0]
    many = localizer(model, [concept], replace(SETTINGS, contrast=tuple(f"word{k}" for k in range(200))))
    assert model.fits(many.texts[0]) and "word0" in many.texts[0] and "word199" not in many.texts[0]


def test_a_gate_that_cannot_tell_says_so_with_its_rate(model: StableDiffusion, concept: Concept) -> None:
    told: list[str] = []
    with pytest.warns(WeakFit, match=r"irece:tools: the gate opens on \d+ % of the concept's pictures at 20 %"):
        replace(SETTINGS, least=1.0).fit(model, concept, Tools(say=told.append))
    assert len(told) == 1 and "contrast" in told[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replace(SETTINGS, least=0.0).fit(model, concept)
