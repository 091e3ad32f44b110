"""Detectors of triggers in captions: each against a slow form in float64, the laws, calibration, fail closed."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from genward.catalog import fitting
from genward.catalog import plugins as catalog
from genward.catalog.opening import words_of
from genward.core import Case, Concept, Sampler, load_concept
from genward.core.records import Inputs
from genward.defenses import _scanning, t2ishield
from genward.defenses.activation_scan import LEAST, ActivationScan, change, masked, ratio
from genward.defenses.pepper import Pepper
from genward.defenses.t2ishield import T2IShield
from genward.defenses.ufid import Ufid, mean_cosine
from genward.errors import BadArtifact, BadInput, GuardError, Inapplicable, UnknownName
from genward.models.sd import StableDiffusion
from genward.ops import artifacts
from genward.ops.closed_form import closed_form_edit
from genward.ops.detection import threshold_at_fpr
from genward.ops.tools import Tools
from genward.testing import FakeJudge, defense_laws, parity_laws, scoring_laws, tiny_sd
from genward.testing.suites import CASES, same

JUDGE = FakeJudge()
SAMPLER = Sampler(steps=4, guidance=3.0)
SMALL: tuple[Any, ...] = (
    ActivationScan(steps=4),
    T2IShield(components=4, sampling_steps=2, probe=JUDGE),
    Ufid(pictures=3, sampling_steps=2, probe=JUDGE),
)
TEXTS = ("a red saw", "in a quiet place a blue dog sleeps")


@pytest.fixture(scope="module")
def fitted(model: StableDiffusion, concept: Concept) -> dict[str, Any]:
    return {d.name: d.fit(model, concept) for d in SMALL}


NAMES = [d.name for d in SMALL]


# ------------------------------------------------------------------------------------------------------------ the laws


@pytest.mark.parametrize("name", NAMES)
def test_laws(name: str, model: StableDiffusion, fitted: dict[str, Any]) -> None:
    def make(**fields: Any) -> Any:
        return dataclasses.replace(fitted[name], **{"action": "flag", "threshold": -1e9, **fields})

    defense_laws(model, make, zero={"threshold": 1e9}, sampler=SAMPLER, changes=False)
    stopped = model.generate(CASES, SAMPLER, [make(action="block")])
    assert all(s.status == "refused" and s.image is None and name in s.why for s in stopped)
    assert {v.stage for s in stopped for v in s.verdicts} == {"text"}
    scoring_laws(model, make(threshold=1e9, action="block"), sampler=SAMPLER)
    parity_laws(model, lambda: make(threshold=1e9, action="block"), faults=("raises",))


@pytest.mark.parametrize("name", NAMES)
def test_blank_prompts_are_not_looked_at(name: str, model: StableDiffusion, fitted: dict[str, Any]) -> None:
    shut = dataclasses.replace(fitted[name], threshold=-1e9)
    blank, other = model.generate([Case("a", " "), Case("b", "a dog")], SAMPLER, [shut])
    assert blank.status == "ok" and blank.notes[f"{name}.score"] == [0.0] and other.status == "refused"


@pytest.mark.parametrize("name", NAMES)
def test_what_a_row_costs_and_that_its_neighbors_do_not_matter(
    name: str, model: StableDiffusion, fitted: dict[str, Any]
) -> None:
    open_ = dataclasses.replace(fitted[name], threshold=1e9)
    many = model.generate(CASES, SAMPLER, [open_])
    (alone,) = model.generate(CASES[1:2], SAMPLER, [open_])
    assert many[1].notes[f"{name}.score"] == pytest.approx(alone.notes[f"{name}.score"], rel=1e-4)
    own = alone.nfe - 8
    assert own == {"activation_scan": 1 + len(masked(CASES[1].prompt, "")), "t2ishield": 4, "ufid": 12}[name]
    assert same(model.generate(CASES, SAMPLER), many)


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_clean_captions_alone(
    name: str, model: StableDiffusion, fitted: dict[str, Any], concept: Concept, tmp_path: Any
) -> None:
    card, tensors = fitted[name].artifact.card, fitted[name].artifact.tensors
    assert card["method"] == name and card["captions"] == list(concept.keep) and card["model_hash"] == model.spec.hash
    clean = tensors["clean"].double()
    column = clean[:, 1] if clean.ndim == 2 else clean
    loose = dataclasses.replace(fitted[name], fpr=0.5)
    assert loose.limit(clean) == threshold_at_fpr(column.numpy(), np.zeros(len(column)), 0.5)
    assert dataclasses.replace(fitted[name], threshold=0.25).limit(clean) == 0.25
    artifacts.save(tmp_path / "x", tensors, card)
    (again,) = fitting.ready(fitting.parse_defense(f"{tmp_path / 'x.safetensors'},action=flag"), model).defenses
    again = dataclasses.replace(again, probe=JUDGE) if hasattr(again, "probe") else again
    ours, theirs = (
        model.generate(CASES, SAMPLER, [dataclasses.replace(d, action="flag")]) for d in (fitted[name], again)
    )
    assert [s.notes for s in ours] == [s.notes for s in theirs]


def test_clean_captions() -> None:
    words, banana = words_of("lab"), load_concept("banana")
    texts = _scanning.clean_captions([banana], words, 60, "x")
    assert len(set(texts)) == 60 and not any("banana" in t for t in texts)
    assert (
        texts
        == _scanning.clean_captions([banana], words, 60, "x")
        != _scanning.clean_captions([banana], words, 60, "y")
    )
    short = [t for t in texts if len(t.split()) < 10]
    assert 20 < len(short) < 40 and not any(t.startswith("a ") and not t.startswith("a picture of") for t in short), (
        "a short one in the benchmark's own form could be one of its rows"
    )
    with pytest.raises(BadInput, match="must stay"):
        _scanning.clean_captions([dataclasses.replace(banana, keep=("a cat",))], {}, 9, "x")


def test_its_own_generation_is_the_pipelines(model: StableDiffusion) -> None:
    with torch.no_grad(), model.rig() as rig:
        start = torch.stack([_scanning.noise(rig, "x", t) for t in TEXTS])
        (part,) = _scanning.generations(rig, TEXTS, start, steps=4, guidance=3.0)
    cases = [Case(t, t, seed=0, inputs=Inputs({"latents": str(k)})) for k, t in enumerate(TEXTS)]
    stock = model.generate(cases, SAMPLER, keep_latents=True, starts={str(k): z for k, z in enumerate(start)})
    assert torch.allclose(part.latents, torch.stack([s.latents for s in stock]), atol=1e-4)


# ----------------------------------------------------------------------------------------------------------------- UFID


def test_ufid_is_the_slow_form(model: StableDiffusion) -> None:
    made = SMALL[2]
    with torch.no_grad(), model.rig() as rig:
        found = made.measure(rig, TEXTS)
        starts = {f"{t}{k}": _scanning.noise(rig, "ufid", 0, t, k) for t in TEXTS for k in range(3)}
    for text, value in zip(TEXTS, found[:, 0].tolist(), strict=True):
        vectors = []
        for k, copy in enumerate(made.copies(text)):
            case = Case("one", copy, seed=0, inputs=Inputs({"latents": f"{text}{k}"}))
            (one,) = model.generate([case], Sampler(2, 4.0), starts=starts)
            vectors.append(np.asarray(JUDGE.features([one])[0], np.float64))
        slow = [a @ b / math.sqrt((a @ a) * (b @ b)) for a, b in itertools.combinations(vectors, 2)]
        assert value == pytest.approx(sum(slow) / 3, abs=2e-4)


def test_mean_cosine_and_copies() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(3, 5, 7, generator=generator, dtype=torch.float64), dim=-1)
    slow = [np.mean([float(a @ b) for a, b in itertools.combinations(row, 2)]) for row in x]
    assert mean_cosine(x).tolist() == pytest.approx(slow)
    made = Ufid()
    copies = made.copies("a cat")
    assert copies[0] == "a cat" and len(set(copies)) == 5 and all(c.endswith(" and a cat") for c in copies[1:])
    assert copies == Ufid().copies("a cat") != Ufid(seed=1).copies("a cat")


def test_ufid_wants_someone_who_looks(model: StableDiffusion, fitted: dict[str, Any], concept: Concept) -> None:
    class Blind:
        name = "blind"

    for probe, told in ((None, "probe="), (Blind(), "no features")):
        with pytest.raises(BadInput, match=told):
            model.generate(CASES, SAMPLER, [dataclasses.replace(fitted["ufid"], probe=probe)])
    other = type("Other", (FakeJudge,), {"name": "other"})()
    with pytest.raises(BadArtifact, match="calibrated with the judge 'fake'"):
        model.generate(CASES, SAMPLER, [dataclasses.replace(fitted["ufid"], probe=other)])
    with pytest.raises(BadInput, match="ufid compares pictures"):
        Ufid().fit(model, concept)
    asked = Ufid(pictures=2, sampling_steps=1).fit(model, concept, Tools(judge=JUDGE))
    assert asked.artifact is not None and asked.artifact.card["judge"] == "fake"


# ------------------------------------------------------------------------------------------------------------ T2IShield


def test_maps_and_distances_are_the_slow_form(model: StableDiffusion) -> None:
    """One generation by hand: average over heads, sites and steps, each map to a maximum of 1, the start's skipped."""
    made = SMALL[1]
    sites, edge = made._sites(model)
    assert (sites, edge) == (["mid_block.attentions.0.tb.0.attn2.probs"], 4)
    text = TEXTS[0]
    maps: list[np.ndarray[Any, Any]] = []
    with torch.no_grad(), model.rig() as rig:
        (found,) = made.measure(rig, [text])
        start = _scanning.noise(rig, "t2ishield", 0, text)[None]
        for part in _scanning.generations(rig, [text], start, steps=2, guidance=4.0, read=sites):
            maps += [step[sites[0]][0].double().numpy() for step in part.sites]
    mean = sum(m.mean(0) for m in maps) / 2
    count = int(model.tokens([text]).mask.sum())
    every = [mean[:, t].reshape(4, 4) / mean[:, t].max() for t in range(1, mean.shape[1])]
    own = every[: count - 1]
    center = sum(own) / len(own)
    slow = np.mean([math.sqrt(((m - center) ** 2).sum()) for m in own]) * 16 / 4
    assert float(found[0]) == pytest.approx(slow, rel=1e-6)
    x = np.stack([m.ravel() for m in every])
    x = x - x.mean(0)
    basis = np.linalg.svd(x, full_matrices=False)[2][:4]
    covariance = np.cov((x @ basis.T).T)
    shrunk = 0.9 * covariance + 0.1 * np.trace(covariance) / 4 * np.eye(4)
    logarithm = scipy.linalg.logm(shrunk)
    assert np.abs(logarithm - np.diag(np.diag(logarithm))).max() < 1e-6, "diagonal in its principal components"
    assert found[1:].tolist() == pytest.approx(np.diag(logarithm).tolist(), rel=1e-5, abs=1e-5)


def test_distances_from_clean_captions() -> None:
    generator = torch.Generator().manual_seed(1)
    clean = torch.randn(9, 5, generator=generator, dtype=torch.float64)
    made = T2IShield(components=4, shrinkage=0.2, detect="cda")
    learned = made.learn(clean)
    x = clean[:, 1:].numpy()
    covariance = np.cov(x.T)
    shrunk = 0.8 * covariance + 0.2 * np.trace(covariance) / 4 * np.eye(4)
    slow = [math.sqrt((r - x.mean(0)) @ np.linalg.inv(shrunk) @ (r - x.mean(0))) for r in x]
    assert made.score(learned, clean).tolist() == pytest.approx(slow)
    ftt = dataclasses.replace(made, detect="ftt")
    assert torch.equal(ftt.score(learned, clean), -clean[:, 0])
    both = made.calibration(learned, clean)
    assert both.shape == (9, 2) and bool((both.diff(dim=0) >= 0).all())
    assert ftt.limit(both) == float(both[-1, 0]) and made.limit(both) == float(both[-1, 1])
    few = made.learn(clean[:2])
    assert bool(torch.isfinite(made.score(few, clean)).all()), "fewer rows than components have a distance all the same"


@pytest.mark.parametrize(
    ("trigger", "wanted"),
    [(("mignneko",), ["mignneko"]), (("latte", "coffee"), ["latte", "coffee"]), (("zzz",), None)],
)
def test_halving(trigger: tuple[str, ...], wanted: list[str] | None) -> None:
    words = "a cat latte coffee in noto mignneko style".split()
    asked: list[int] = []

    def likeness(texts: Sequence[str]) -> list[float]:
        asked.append(len(texts))
        return [float(all(t in text.split() for t in trigger)) for text in texts]

    assert t2ishield.halved(words, likeness, 0.5) == wanted
    assert sum(asked) <= 2 * math.ceil(math.log2(len(words)))
    assert t2ishield.halved(["cat"], likeness, 0.5) is None
    assert t2ishield.halved(words, lambda texts: [math.nan, math.nan], 0.5) is None
    assert t2ishield.without(" ".join(words), ["latte", "coffee"]) == "a cat in noto mignneko style"


def test_the_edit_of_states_is_that_of_the_maps(model: StableDiffusion) -> None:
    made = T2IShield(lam=0.3)
    with torch.no_grad(), model.rig() as rig:
        delta = made.delta(rig, "a zzz cat", ["zzz"])
        old, new, keep = (
            rig.encode(t).double().flatten(0, 1) for t in (["zzz", "a zzz cat"], ["", "a cat"], ["", "a cat"])
        )
        states = rig.encode(["a zzz cat"])[0]
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v.weight"
    weight = dict(model.denoiser.named_parameters())[name].detach().double()
    slow = closed_form_edit(weight, old, new, keep, lam=0.3) @ states.double().T
    fast = weight @ t2ishield.edited(states.double(), delta).T
    assert torch.allclose(slow, fast, atol=1e-9)


def test_edit_draws_another_picture_or_blocks(model: StableDiffusion, fitted: dict[str, Any]) -> None:
    edit = dataclasses.replace(fitted["t2ishield"], action="edit", threshold=-1e9, lam=1e-3)
    plain = model.generate(CASES, SAMPLER, keep_latents=True)
    found = model.generate(CASES, SAMPLER, [dataclasses.replace(edit, same=1e-6)], keep_latents=True)
    for before, after in zip(plain, found, strict=True):
        if len(before.case.prompt.split()) > 1:
            assert after.status == "ok" and [v.action for v in after.verdicts] == ["steered"]
            assert bool((before.latents != after.latents).any())
    lost = model.generate(CASES, SAMPLER, [dataclasses.replace(edit, same=1.0)])
    assert all(s.status == "refused" for s in lost), "a trigger that is not located cannot be edited out"
    assert same(
        model.generate(CASES, SAMPLER), model.generate(CASES, SAMPLER, [dataclasses.replace(edit, threshold=1e9)])
    )
    parity_laws(model, lambda: dataclasses.replace(edit, same=1e-6), faults=())
    with pytest.raises(BadInput, match="probe="):
        model.generate(CASES, SAMPLER, [dataclasses.replace(edit, probe=None)])
    with pytest.raises(Inapplicable, match="no cross-attention maps of 5×5"):
        model.generate(CASES, SAMPLER, [dataclasses.replace(fitted["t2ishield"], edge=5)])


def test_sizes_of_maps(deep: StableDiffusion) -> None:
    sites = {n for n in deep.sites if n.endswith("attn2.probs")}
    with torch.no_grad(), deep.rig() as rig:
        start = _scanning.noise(rig, 0)[None]
        (part,) = _scanning.generations(rig, ["a dog"], start, steps=1, guidance=1.0, read=sorted(sites))
    for name, value in part.sites[0].items():
        assert value.shape[2] == t2ishield._edge(deep, name, 8) ** 2, name


# ------------------------------------------------------------------------------------------------------ activation scan


def test_activation_scan_is_the_slow_form(model: StableDiffusion) -> None:
    """Each masked caption by a call of its own, read by hooks of plain torch."""
    made, text = SMALL[0], TEXTS[1]
    assert masked(text, "") == [
        "in a place a blue dog sleeps",
        "in a quiet a blue dog sleeps",
        "in a quiet place a dog sleeps",
        "in a quiet place a blue sleeps",
        "in a quiet place a blue dog",
    ]
    seen: dict[str, Tensor] = {}
    unet = model.denoiser
    blocks = {"mid": unet.mid_block} | {f"d{k}": b for k, b in enumerate(unet.down_blocks)}
    blocks |= {f"u{k}": b for k, b in enumerate(unet.up_blocks)}
    with torch.no_grad(), model.rig() as rig:
        (found,) = made.measure(rig, [text])[:, 0].tolist()
        z = _scanning.noise(rig, "activation_scan", 0, text)[None]
        timestep = _scanning.plan_of(rig, 4)[-1].timestep

    def states(caption: str) -> dict[str, Tensor]:
        handles = [
            b.register_forward_hook(
                lambda m, i, out, n=n: seen.__setitem__(n, (out[0] if isinstance(out, tuple) else out).double())
            )
            for n, b in blocks.items()
        ]
        with torch.no_grad():
            unet(z, torch.tensor([timestep]), encoder_hidden_states=model.encode([caption]))
        for handle in handles:
            handle.remove()
        return dict(seen)

    whole = states(text)
    slow = []
    for caption in masked(text, ""):
        mine = states(caption)
        moved = np.mean([float((mine[n] - whole[n]).abs().mean()) for n in blocks])
        slow.append(moved / max(LEAST, change(text, caption)))
    slow.sort()
    assert found == pytest.approx(slow[-1] / np.mean(slow[:3]), rel=1e-4)


def test_ratio_and_masks() -> None:
    assert ratio(torch.tensor([4.0, 1.0, 2.0, 3.0]), 0.75) == pytest.approx(4 / 2)
    assert ratio(torch.tensor([4.0]), 0.75) == 1.0 == ratio(torch.zeros(3), 0.75)
    assert masked("a \u043a\u043e\u0442 of ink", "[MASK]") == ["a [MASK] of ink", "a \u043a\u043e\u0442 of [MASK]"]
    assert change("a cat", "a cat") == 0 < change("a cat", "a dog")


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (lambda: Ufid(pictures=1), BadInput, "pictures 1"),
        (lambda: Ufid(fpr=1.0), BadInput, "fpr"),
        (lambda: Ufid(action="edit"), UnknownName, "block"),
        (lambda: T2IShield(detect="lda"), UnknownName, "cda"),
        (lambda: T2IShield(shrinkage=0.0), BadInput, "shrinkage"),
        (lambda: T2IShield(threshold=math.nan), BadInput, "finite"),
        (lambda: T2IShield(components=0), BadInput, "components"),
        (lambda: ActivationScan(low=0.0), BadInput, "low"),
        (lambda: ActivationScan(captions=1), BadInput, "captions 1"),
    ],
)
def test_bad_settings_are_named(make: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        make()


@pytest.mark.parametrize("name", NAMES)
def test_what_does_not_belong_together_is_refused(name: str, model: StableDiffusion, fitted: dict[str, Any]) -> None:
    made = fitted[name]
    with pytest.raises(BadInput, match="learned nothing yet"):
        model.generate(CASES, SAMPLER, [dataclasses.replace(made, artifact=None)])
    with pytest.raises(BadArtifact, match="fitted on model"):
        tiny_sd(seed=5).generate(CASES, SAMPLER, [made])
    plain = {k: v for k, v in made.artifact.card.items() if k not in artifacts.RESERVED}
    wrong = artifacts.make({"other": torch.zeros(3)}, plain)
    with pytest.raises(BadArtifact, match="fit it again"):
        model.generate(CASES, SAMPLER, [dataclasses.replace(made, artifact=wrong)])
    with pytest.raises(GuardError, match="no model"):
        made.check(object())


@pytest.mark.parametrize("name", NAMES)
def test_the_chains_order_says_what_is_read(name: str, model: StableDiffusion, fitted: dict[str, Any]) -> None:
    """Before PEPPER a scan reads the user's caption, after it the rewrite."""
    scan = dataclasses.replace(fitted[name], action="flag")
    pepper = Pepper(details=0)
    text = "a cat in noto style mignneko"
    rewrite = pepper.rewritten(text, model.fits).text

    def noted(chain: Sequence[Any], prompt: str) -> float:
        (sample,) = model.generate([Case("a", prompt, seed=1)], SAMPLER, chain)
        return float(sample.notes[f"{name}.score"][0])

    assert noted([scan, pepper], text) == noted([scan], text)
    assert noted([pepper, scan], text) == noted([scan], rewrite) != noted([scan], text)


def test_named_in_the_catalog(model: StableDiffusion, concept: Concept, tmp_path: Any) -> None:
    for name in NAMES:
        entry = catalog.entry("defense", name)
        assert 20 < len(entry.summary) < 180 and entry.summary.endswith(".") and all(f.doc for f in entry.fields)
        assert {"threshold", "fpr", "action", "artifact"} <= {f.name for f in entry.fields}
