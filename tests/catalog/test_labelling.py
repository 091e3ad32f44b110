"""Which judge labels and filters: names, identities of fits, what stands in, and what a run says about it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from genward.benchmarks.erasure import ErasureBenchmark
from genward.catalog.fitting import fit_key, parse_defense, ready, shipped_artifacts, template, unfitted
from genward.catalog.judges import judge_hash
from genward.catalog.labelling import FIRST, LABELS_BY, choices, seen_by, with_probe
from genward.catalog.opening import open_model
from genward.catalog.tooling import tools_for
from genward.core import defending
from genward.core.records import load_concept
from genward.defenses.image_filter import ImageFilter
from genward.judges.lab import LabJudge, SecondLabJudge
from genward.report.judges import cautions
from genward.run.plan import ArmPlan, Plan, from_toml, to_toml
from genward.run.second import labels_of, same_eye

WEAPONS = load_concept("weapons")
PLAN = Plan("p", (ArmPlan("base", control="base"),), ErasureBenchmark(("weapons",), n=1))


def part(text: str) -> object:
    return template(parse_defense(text)[0])


@pytest.mark.parametrize("name", ["image_filter", "preview_filter"])
def test_filters_ask_the_second_judge_unless_another_is_named(name: str) -> None:
    opened = with_probe(part(f"{name}:weapons"))
    assert isinstance(opened.probe, SecondLabJudge) and opened.judge == "lab_second"
    assert opened.judge_hash == judge_hash(SecondLabJudge())
    swapped = with_probe(part(f"{name}:weapons"), "lab")
    assert type(swapped.probe) is LabJudge
    named = with_probe(part(f"{name}:weapons,judge=lab"), "lab_second")
    assert type(named.probe) is LabJudge and named == swapped, "a name of one's own is kept, and is the same defense"


def test_the_judge_is_part_of_a_fit_that_asks_for_labels() -> None:
    for text in ("wukong:weapons", "saferedir:weapons", "noise_probe:weapons"):
        defense = part(text)
        assert defending.labelled(defense)
        first, second = (fit_key(defense, WEAPONS, "m", by) for by in (FIRST, LABELS_BY))
        assert first == fit_key(defense, WEAPONS, "m") != second, "what the first one labelled keeps the key it had"
        assert choices(defense, "") == [LABELS_BY, FIRST] and choices(defense, FIRST) == [FIRST]
    for text in ("esd:weapons", "noise_probe:weapons,truth=caption"):
        defense = part(text)
        assert not defending.labelled(defense) and choices(defense, "") == [""]
        assert fit_key(defense, WEAPONS, "m", LABELS_BY) == fit_key(defense, WEAPONS, "m")


def test_fits_on_the_lab_are_labelled_by_the_second_judge() -> None:
    model = open_model("lab")
    assert type(tools_for(model).need_judge("x")) is SecondLabJudge
    assert type(tools_for(model, labels_by="lab").need_judge("x")) is LabJudge


def test_shipped_fits_are_labelled_by_the_second_judge(tmp_path: Path) -> None:
    model, requests = open_model("lab"), parse_defense("noise_probe:weapons")
    key = fit_key(template(requests[0]), WEAPONS, model.spec.hash, LABELS_BY)
    assert (shipped_artifacts() / f"{key}.safetensors").is_file()
    said: list[str] = []
    chain = ready(requests, model, tmp_path, progress=said.append)
    assert seen_by(chain.defenses, chain.artifacts) == ("lab_second",) and "reusing" in said[0]
    assert unfitted(requests, model) == unfitted(requests, model, labels_by="lab_second") == []
    assert unfitted(requests, model, labels_by="lab") == ["noise_probe:weapons"], "asked for by name, it is fitted"


def test_who_labels_in_a_run() -> None:
    assert labels_of(PLAN) == "", "the second judge, and what the first one labelled stands in"
    assert labels_of(replace(PLAN, judge="lab_second")) == "lab", "swapped"
    assert labels_of(replace(PLAN, labels_by="lab")) == "lab", "asked for"
    named = replace(PLAN, labels_by="lab_second")
    assert from_toml(to_toml(named)) == named and "labels_by" not in to_toml(PLAN)


def test_a_run_says_which_arms_are_scored_by_the_judge_they_were_built_on() -> None:
    arms = [{"label": "wukong", "labels_by": ["lab"]}, {"label": "image_filter", "labels_by": ["lab_second"]}]
    metrics = {"judges": [{"name": "lab"}, {"name": "lab_second"}], "arms": arms}
    assert same_eye(metrics) == ["wukong"]
    assert cautions(metrics)[0] == "wukong: labelled or filtered by judge lab, which scores here too."
    assert same_eye({"judges": [{"name": "lab"}], "arms": [{"label": "uce"}]}) == []
    assert seen_by([ImageFilter(judge="lab_second", labels=("bomb",))], []) == ("lab_second",)
