"""Defense texts and fits: grammar, reuse by content, artifacts as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from genward.catalog import fitting as fit
from genward.catalog.labelling import LABELS_BY
from genward.core import defending
from genward.core.records import Case, Sampler, load_concept
from genward.core.spec import Spec
from genward.errors import BadArtifact, BadInput, UnknownName
from genward.testing import tiny_sd
from genward.testing.suites import same


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_sd()


def test_the_grammar() -> None:
    uce, sld = fit.parse_defense("uce:weapons,lam=1e+1+sld:weapons,preset=strong")
    assert uce == fit.DefenseRequest("uce", "weapons", (("lam", "1e+1"),))
    assert sld.text == "sld:weapons,preset=strong"
    assert fit.parse_defense("none") == fit.parse_defense("none+none") == []
    assert fit.parse_defense("some/folder/x.safetensors,strength=0")[0].artifact == "some/folder/x.safetensors"


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("ucee:weapons", UnknownName, "uce"),
        ("uce:weapon", UnknownName, "weapons"),
        ("uce:weapons,lamb=1", UnknownName, "lam"),
        ("uce:weapons,strong", BadInput, "field=value"),
        ("uce:weapons,,", BadInput, "field=value"),
        ("", BadInput, "empty"),
        (":weapons", BadInput, "empty"),
    ],
)
def test_texts_that_cannot_be_read(text: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        fit.parse_defense(text)


def test_extra_passes_are_the_classes_own_word() -> None:
    assert fit.extra_nfe("sld:weapons+uce:weapons") == 1.0
    assert fit.extra_nfe("none") == 0.0


def test_a_method_that_learns_nothing_is_made_for_the_concept(model: Any) -> None:
    chain = fit.ready(fit.parse_defense("sld:banana,preset=strong+negative_prompt:cat"), model)
    assert [type(d).name for d in chain.defenses] == ["sld", "negative_prompt"]
    assert "banana" in chain.defenses[0].text and chain.defenses[0].preset == "strong" and not chain.artifacts  # type: ignore[attr-defined]


def test_a_fit_is_kept_and_reused_with_its_true_cost(model: Any, tmp_path: Path) -> None:
    said: list[str] = []
    first = fit.ready(fit.parse_defense("uce:banana"), model, tmp_path, progress=said.append)
    files = sorted((tmp_path / "fits").iterdir())
    stamps = [f.stat().st_mtime_ns for f in files]
    again = fit.ready(fit.parse_defense("uce:banana,strength=0.5"), model, tmp_path, progress=said.append)
    assert [f.suffix for f in files] == [".json", ".safetensors"]
    assert [f.stat().st_mtime_ns for f in files] == stamps
    assert again.artifacts[0].hash == first.artifacts[0].hash and again.prepare_seconds == first.prepare_seconds
    assert said[0].endswith("solving its closed form") and "reusing" in said[-1]
    assert Spec.of("defense", first.defenses[0]).hash != Spec.of("defense", again.defenses[0]).hash
    fit.ready(fit.parse_defense("uce:banana"), model, tmp_path, refit=True)
    assert [f.stat().st_mtime_ns for f in files] != stamps


def test_other_settings_concepts_and_models_are_other_fits(model: Any) -> None:
    uce = fit.template(fit.parse_defense("uce:banana")[0])
    banana, cat = load_concept("banana"), load_concept("cat")
    key = fit.fit_key(uce, banana, model.spec.hash)
    assert key == fit.fit_key(fit.template(fit.parse_defense("uce:banana,strength=0")[0]), banana, model.spec.hash)
    others = {
        fit.fit_key(fit.template(fit.parse_defense("uce:banana,lam=0.1")[0]), banana, model.spec.hash),
        fit.fit_key(uce, cat, model.spec.hash),
        fit.fit_key(uce, banana, tiny_sd(seed=1).spec.hash),
    }
    assert len(others) == 3 and key not in others


@pytest.mark.parametrize("method", ["saeuron", "saemnesia"])
def test_how_hard_latents_are_turned_needs_no_new_fit(method: str) -> None:
    plain, other, learned = (
        fit.fit_fields(fit.template(fit.parse_defense(f"{method}:banana{more}")[0]))
        for more in ("", ",rule=scale,multiplier=-5", ",k=16")
    )
    assert plain == other != learned


def test_a_field_that_counts_where_it_is_set() -> None:
    """A method that grows such a field keeps its fits; another value is another fit."""
    plain = fit.template(fit.parse_defense("concept_ablation:banana")[0])
    assert "anchor" not in fit.fit_fields(plain) and "lr" in fit.fit_fields(plain)
    other = fit.template(fit.parse_defense("concept_ablation:banana,anchor=a fruit")[0])
    assert fit.fit_fields(other) == {**fit.fit_fields(plain), "anchor": "a fruit"}


def test_a_fitted_file_is_a_defense_on_its_model_only(model: Any, tmp_path: Path) -> None:
    made = fit.ready(fit.parse_defense("uce:banana,lam=0.2"), model, tmp_path)
    (file,) = (tmp_path / "fits").glob("*.safetensors")
    loaded = fit.ready(fit.parse_defense(str(file)), model)
    assert Spec.of("defense", loaded.defenses[0]).hash == Spec.of("defense", made.defenses[0]).hash
    cases, sampler = [Case("c", "a banana", seed=3)], Sampler(steps=2, guidance=3.0)
    assert same(model.generate(cases, sampler, loaded.defenses), model.generate(cases, sampler, made.defenses))
    with pytest.raises(BadArtifact, match="another|fitted on"):
        fit.ready(fit.parse_defense(str(file)), tiny_sd(seed=1))
    with pytest.raises(BadArtifact, match="pickle"):
        fit.ready(fit.parse_defense("x/weights.pt"), model)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(BadArtifact):
        fit.ready(fit.parse_defense("uce:banana,lam=0.2"), model, tmp_path)


def test_a_method_that_learns_wants_a_concept(model: Any) -> None:
    with pytest.raises(BadInput, match="names none"):
        fit.ready(fit.parse_defense("uce"), model)
    assert not list(fit.ready([], model).defenses)


def test_every_shipped_artifact_is_found_under_its_key() -> None:
    """What the lab's arms name is there: the key of its defense, fields, concept and the lab, and not a fit anew."""
    from genward.catalog.opening import open_model
    from genward.ops import artifacts
    from genward.recipe.package import SHIPPED, standing_on

    lab = open_model("lab")
    keys = set()
    for text in (t for texts in SHIPPED.values() for t in texts):
        (request,) = fit.parse_defense(text)
        defense = fit.template(request)
        by = LABELS_BY if defending.labelled(defense) else ""
        key = fit.fit_key(defense, load_concept(request.concept), lab.spec.hash, by)
        artifact = artifacts.load(fit.shipped_artifacts() / key)
        assert artifact.card["method"] == request.name and artifact.card["model_hash"] == lab.spec.hash
        keys |= {key, *(path.name for path in standing_on(fit.shipped_artifacts() / key))}
        if "sae" in artifact.card:
            assert (
                sum(
                    artifacts.load(path).hash == artifact.card["sae"]
                    for path in (fit.shipped_artifacts() / k for k in keys)
                )
                == 1
            )
    assert keys == {p.stem for p in fit.shipped_artifacts().glob("*.safetensors")}
    assert not fit.damaged_fits(fit.shipped_artifacts())


class Stopped(Exception):
    """Stands for a Ctrl-C in a fit."""


def test_an_interrupted_fit_goes_on(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "esd:banana,iterations=6,batch=2,sampling_steps=2,lr=0.003"
    whole = fit.ready(fit.parse_defense(text), model, tmp_path / "whole")
    said: list[str] = []
    tools_for = fit.tools_for

    def stopping(*given: Any) -> Any:
        tools = tools_for(*given)
        tools.pace = 0.0
        tell = tools.progress

        def progress(step: int, steps: int, loss: float) -> None:
            tell(step, steps, loss)
            if step == 4:
                raise Stopped

        tools.progress = progress
        return tools

    monkeypatch.setattr(fit, "tools_for", stopping)
    with pytest.raises(Stopped):
        fit.ready(fit.parse_defense(text), model, tmp_path, progress=said.append)
    (aside,) = (tmp_path / "fits").glob("*.partial")
    assert (aside / "steps.safetensors").is_file() and not list((tmp_path / "fits").glob("*.safetensors"))
    monkeypatch.setattr(fit, "tools_for", tools_for)
    again = fit.ready(fit.parse_defense(text), model, tmp_path, progress=said.append)
    assert any("going on after step 3 of 6" in line for line in said)
    assert again.artifacts[0] == whole.artifacts[0], "bit for bit as if it had never been stopped"
    assert not aside.exists() and [line for line in said if "step 1 of 6" in line] == [said[1]]


def test_a_fit_without_its_card_is_made_again(model: Any, tmp_path: Path) -> None:
    made = fit.ready(fit.parse_defense("uce:banana"), model, tmp_path)
    (card,) = (tmp_path / "fits").glob("*.json")
    card.unlink()
    assert fit.damaged_fits(tmp_path / "fits") != []
    said: list[str] = []
    again = fit.ready(fit.parse_defense("uce:banana"), model, tmp_path, progress=said.append)
    assert again.artifacts[0] == made.artifacts[0] and "never finished" in said[0] and card.is_file()
    assert fit.damaged_fits(tmp_path / "fits") == []


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("irece:weapons,during=0.5", "during is .0.5,., which is a list|during is .0.5,."),
        ("irece:weapons,edges=8", "edges is .8,."),
        ("irece:weapons,threshold=nan", "threshold is nan, which is a number; give a finite number"),
        ("irece:weapons,seed=99999999999999999999999", "seed is 99999999999999999999999"),
        ("uce:weapons,lam=inf", "lam is inf"),
    ],
)
def test_fields_are_checked_by_their_type(text: str, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        fit.template(fit.parse_defense(text)[0])


def test_a_card_that_its_method_cannot_read_is_named_when_it_is_attached(tmp_path: Path) -> None:
    from genward.ops import artifacts

    model = tiny_sd()
    made = fit.ready(fit.parse_defense("uce:banana"), model, tmp_path).artifacts[0]
    card = {k: v for k, v in made.card.items() if k not in artifacts.RESERVED}
    for k, broken in enumerate(({"settings": {"lam": "much"}}, {"settings": {"mode": 5}}, {"concepts": 5})):
        artifacts.save(tmp_path / f"x{k}", made.tensors, {**card, **broken})
        with (
            pytest.raises(BadArtifact),
            model.rig(fit.ready(fit.parse_defense(str(tmp_path / f"x{k}.safetensors")), model).defenses),
        ):
            pass
