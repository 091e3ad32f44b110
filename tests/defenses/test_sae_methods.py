"""SAeUron, SAEmnesia and PER on tiny models: laws, one shared autoencoder, what they leave alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from genward.core import Concept, Sampler, Spec
from genward.core.spec import Spec as Identity
from genward.defenses.per import Per
from genward.defenses.saemnesia import Saemnesia
from genward.defenses.saeuron import Saeuron
from genward.errors import BadArtifact, BadInput, UnknownName
from genward.models.sd import StableDiffusion
from genward.ops import artifacts
from genward.ops.tools import Tools
from genward.sae.autoencoder import encode, tokens_of
from genward.sae.concepts import latents_of, sae_settings
from genward.sae.fit import SaeSettings
from genward.testing import defense_laws
from genward.testing.suites import CASES

SMALL: dict[str, Any] = {
    "expansion": 3, "k": 4, "sae_images": 12, "sae_epochs": 1, "images": 4, "others": 2, "sampling_steps": 4,
    "guidance": 2.0,
}  # fmt: skip
METHODS = (
    Saeuron(**SMALL, percentile=95, multiplier=-50.0),
    Saemnesia(**SMALL, labels="vocabulary", labeled_images=15, epochs=1, multiplier=-50.0),
    Per(**SMALL, detector="scored", percentile=90, dilation=0),
)
OFF: dict[str, dict[str, Any]] = {
    "saeuron": {"strength": 0.0}, "saemnesia": {"strength": 0.0}, "per": {"threshold": 1e12},
}  # fmt: skip
SAMPLER = Sampler(steps=4, guidance=3.0)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fits")


@pytest.fixture(scope="module")
def fitted(model: StableDiffusion, concept: Concept, home: Path) -> dict[str, Any]:
    return {m.name: m.fit(model, concept, Tools(places=[home])) for m in METHODS}


def latents(model: StableDiffusion, *defenses: Any, sampler: Sampler = SAMPLER) -> torch.Tensor:
    return torch.stack([s.latents for s in model.generate(CASES, sampler, defenses, keep_latents=True)])


def test_defaults_are_those_of_genward_fit_sae() -> None:
    assert {sae_settings(method()) for method in (Saeuron, Saemnesia, Per)} == {SaeSettings()}


def test_the_three_share_one_autoencoder(fitted: dict[str, Any], home: Path) -> None:
    cards = {n: d.artifact.card for n, d in fitted.items()}
    base, supervised = cards["saeuron"]["sae"], cards["saemnesia"]["sae"]
    assert cards["per"]["sae"] == base != supervised
    kept = {a.hash: a.card for a in map(artifacts.load, sorted(home.glob("*.safetensors")))}
    assert set(kept) == {base, supervised} and kept[supervised]["sae"] == base
    assert kept[base]["method"] == "sae" and 0 < kept[base]["held"]["fvu"] and kept[base]["held"]["l0"] <= 4
    owned = kept[supervised]["assigned"]
    assert len({latent for _, _, latent in owned}) == len(owned) >= 5 and {n for n, _, _ in owned} >= {"saw", "axe"}
    assert not list(home.glob("*.partial"))


@pytest.mark.parametrize("name", OFF)
def test_random_latents_as_control(
    name: str, model: StableDiffusion, fitted: dict[str, Any], concept: Concept, home: Path
) -> None:
    chosen = fitted[name].artifact.card
    drawn = dataclasses.replace(fitted[name], artifact=None, control=True).fit(model, concept, Tools(places=[home]))
    told = drawn.artifact.card
    assert len(told["latents"]) == len(chosen["latents"]) and not set(told["latents"]) & set(chosen["latents"])
    assert told["sae"] == chosen["sae"]


@pytest.mark.parametrize("name", OFF)
def test_laws(name: str, model: StableDiffusion, fitted: dict[str, Any], concept: Concept, tmp_path: Path) -> None:
    defense = fitted[name]

    def make(**fields: Any) -> Any:
        return dataclasses.replace(defense, **fields)

    defense_laws(model, make, zero=OFF[name], changes=False)
    acted = latents(model, defense)
    assert bool((acted != latents(model)).flatten(1).any(1).any())
    artifacts.save(tmp_path / "x", defense.artifact.tensors, defense.artifact.card)
    loaded = dataclasses.replace(defense, artifact=artifacts.load(tmp_path / "x"))
    assert torch.equal(latents(model, loaded), acted)
    assert Spec.of("defense", loaded).hash == Spec.of("defense", defense).hash
    card = defense.artifact.card
    assert card["method"] == name and card["model_hash"] == model.spec.hash and card["seconds"] > 0
    assert set(concept.phrases) <= set(card["captions"]) and not set(card["settings"]) & defense.at_attach


@pytest.mark.parametrize("name", OFF)
def test_other_steps_no_guidance_and_notes(name: str, model: StableDiffusion, fitted: dict[str, Any]) -> None:
    for sampler in (Sampler(steps=7, guidance=3.0), Sampler(steps=4, guidance=1.0)):
        acting = dataclasses.replace(fitted[name], **({"threshold": 0.0} if name == "per" else {}))
        samples = model.generate(CASES, sampler, [acting])
        assert all(len(s.notes[f"{name}.tokens"]) == sampler.steps for s in samples)
        assert all(0 <= share <= 1 for s in samples for share in s.notes[f"{name}.tokens"])
        for sample in samples:
            steered = any(share > 0 for share in sample.notes[f"{name}.tokens"])
            assert [v.action for v in sample.verdicts] == (["steered"] if steered else [])
    assert any(sum(s.notes[f"{name}.tokens"]) > 0 for s in samples)


class Spy:
    """Keeps what leaves a site."""

    name = "spy"

    def __init__(self, site: str) -> None:
        self.site, self.seen = site, []

    def attach(self, rig: Any) -> None:
        rig.tap(self.site, lambda x, frame: self.seen.append((x.clone(), frame)))


@pytest.mark.parametrize("name", OFF)
def test_tokens_without_the_concept_keep_their_bits(name: str, model: StableDiffusion, fitted: dict[str, Any]) -> None:
    defense = fitted[name]
    before, after = Spy(defense.site), Spy(defense.site)
    once = Sampler(steps=1, guidance=3.0)
    wide = dataclasses.replace(defense, **({"threshold": 0.5} if name == "per" else {}))
    model.generate(CASES, once, [before, wide, after])
    (x, frame), (y, _) = before.seen[0], after.seen[0]
    found = latents_of(defense.artifact, name)
    floor, _ = found.at(frame.timestep.expand(len(x)))
    code = encode(tokens_of(x), found.sae)[..., found.latents]
    hit = (code > (floor * 0.5 if name == "per" else floor)[:, None]).any(2)
    changed = (tokens_of(x) != tokens_of(y)).any(2)
    assert torch.equal(changed, hit) and 0 < int(hit.sum()) < hit.numel()


def test_conditional_branch_and_released_error(
    model: StableDiffusion, fitted: dict[str, Any], concept: Concept, home: Path
) -> None:
    defense = fitted["saeuron"]
    before, after = Spy(defense.site), Spy(defense.site)
    one = dataclasses.replace(defense, branch="conditional")
    model.generate(CASES, Sampler(steps=1, guidance=3.0), [before, one, after])
    (x, frame), (y, _) = before.seen[0], after.seen[0]
    moved = (x != y).flatten(1).any(1)
    assert not bool(moved[~frame.conditional].any()) and bool(moved[frame.conditional].any())
    paper = dataclasses.replace(METHODS[0], error="paper").fit(model, concept, Tools(places=[home]))
    assert (latents(model, paper) != latents(model, defense)).flatten(1).any(1).all(), "every token goes through it"
    with pytest.raises(BadArtifact, match="fit it with error=paper"):
        latents(model, dataclasses.replace(defense, error="paper"))


def test_identity_of_what_acts(fitted: dict[str, Any]) -> None:
    defense = fitted["saeuron"]
    other = dataclasses.replace(defense, multiplier=-1.0)
    assert Identity.of("defense", other).hash != Identity.of("defense", defense).hash
    assert other.artifact is defense.artifact


def test_labels_of_the_request_need_no_other_pictures(model: StableDiffusion, concept: Concept, home: Path) -> None:
    settings = dataclasses.replace(METHODS[1], labels="request", epochs=2)
    made = settings.fit(model, concept, Tools(places=[home]))
    card, found = made.artifact.card, latents_of(made.artifact, "saemnesia")
    assert card["classes"][:2] == ["saw", "axe"] and len(set(card["latents"])) == 2 == found.mean.shape[1]
    assert 2 <= len(card["losses"]) <= 3 and set(card["peak"]) == {"base", "supervised"}
    kept = {a.hash: a for a in map(artifacts.load, sorted(home.glob("*.safetensors")))}
    base = kept[card["sae"]]
    assert base.card["method"] == "sae" and not torch.equal(base.tensors["encoder"], made.artifact.tensors["encoder"])
    wide = dataclasses.replace(made, multiplier=-1000.0)
    assert bool((latents(model, wide) != latents(model)).any()) and torch.equal(
        latents(model, dataclasses.replace(made, strength=0.0)), latents(model)
    )


def test_assigned_latents_look_for_per(model: StableDiffusion, concept: Concept, home: Path) -> None:
    settings = dataclasses.replace(METHODS[2], detector="assigned", labels="vocabulary", labeled_images=15, epochs=1)
    made = settings.fit(model, concept, Tools(places=[home]))
    assert len(made.artifact.card["latents"]) == len(concept.targets)
    assert len(list(home.glob("*.safetensors"))) == 2, "SAEmnesia's autoencoder is taken"


@pytest.mark.parametrize("stops", [(2, 1), (4, 1)])
def test_a_stopped_fit_ends_at_the_same_bits(
    stops: tuple[int, ...], model: StableDiffusion, concept: Concept, fitted: dict[str, Any], tmp_path: Path
) -> None:
    settings = METHODS[1]
    calls = 0

    def progress(step: int, steps: int, loss: float) -> None:
        nonlocal calls
        calls += 1
        if calls == stop:
            raise KeyboardInterrupt

    for stop in stops:  # noqa: B007
        calls = 0
        with pytest.raises(KeyboardInterrupt):
            tools = Tools(progress=progress, folder=tmp_path / "x.partial", places=[tmp_path], pace=0.0)
            settings.fit(model, concept, tools)
    again = settings.fit(model, concept, Tools(folder=tmp_path / "x.partial", places=[tmp_path]))
    assert again.artifact == fitted["saemnesia"].artifact


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        (METHODS[0], {"percentile": 100.0}),
        (METHODS[0], {"error": "none"}),
        (METHODS[0], {"strength": 1.5}),
        (METHODS[0], {"multiplier": float("nan")}),
        (METHODS[0], {"multiplier": None, "rule": "scale"}),
        (METHODS[1], {"loss": "mse"}),
        (METHODS[1], {"assign": "first"}),
        (METHODS[1], {"pool": "last"}),
        (METHODS[1], {"labels": "none"}),
        (METHODS[1], {"during": (0.5, 0.5)}),
        (METHODS[2], {"threshold": -1.0}),
        (METHODS[2], {"neighbors": 0}),
        (METHODS[2], {"detector": "all"}),
        (METHODS[2], {"branch": "unconditional"}),
        (METHODS[2], {"images": 0}),
    ],
)
def test_bad_settings(settings: Any, fields: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        dataclasses.replace(settings, **fields)


@pytest.mark.parametrize("settings", METHODS, ids=lambda m: m.name)
def test_bad_places_and_models(
    settings: Any, model: StableDiffusion, deep: StableDiffusion, concept: Concept, fitted: dict[str, Any]
) -> None:
    with pytest.raises(UnknownName, match=r"up_blocks"):
        dataclasses.replace(settings, site="up_blocks.9").fit(model, concept)
    with pytest.raises(BadInput, match="carries"):
        dataclasses.replace(settings, site="text.0").fit(model, concept)
    with pytest.raises(BadInput, match="learned nothing"), model.rig([settings]):
        pass
    done = fitted[settings.name]
    with pytest.raises(BadArtifact, match="fitted on model"), deep.rig([done]):
        pass
    card = {k: v for k, v in done.artifact.card.items() if k not in artifacts.RESERVED}
    tensors = done.artifact.tensors
    narrow = {n: t[..., :3] if n in ("encoder", "decoder_rows", "bias") else t for n, t in tensors.items()}
    with (
        pytest.raises(BadArtifact, match="width"),
        model.rig([dataclasses.replace(done, artifact=artifacts.make(narrow, card))]),
    ):
        pass


def test_the_layout_of_stable_diffusion_and_a_masked_encoder(
    deep: StableDiffusion, masked: StableDiffusion, concept: Concept
) -> None:
    for model in (deep, masked):
        made = METHODS[0].fit(model, concept)
        assert (latents(model, made) != latents(model)).any()
