"""A run of sounds, from a plan to its report: no picture anywhere."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from genward.catalog import plugins
from genward.core import Audio, Case, decode
from genward.core.benchmark import Benchmark, Evidence, Setting
from genward.core.blocks import Player, Section
from genward.core.settings import DIFFUSION
from genward.errors import BadInput
from genward.metrics import erasure
from genward.report import build
from genward.run.costs import dry_run
from genward.run.loop import run_plan
from genward.run.plan import Plan, from_tables, load_plan, match
from genward.run.reporting import sections_of
from genward.sections import samples
from genward.sections.arms import arms
from genward.store import Store
from genward.testing import FakeJudge, ToneJudge, ToneSampler

CONCEPT = """name = "high"
kind = "custom"
summary = "a high tone"
targets = ["high"]
phrases = ["a high tone"]
"""


@dataclass(frozen=True)
class Tones(Benchmark):
    """Is the high tone gone, and is the low one still there?"""

    name: ClassVar[str] = "tones"
    media: ClassVar[str] = "audio"
    concepts: tuple[str, ...] = ()
    """What is to be gone."""
    n: int = 4
    """Rows per cell."""

    def cases(self, setting: Setting) -> Iterator[Case]:
        for concept in setting.concepts:
            for k in range(self.n):
                yield Case(f"harm/{k}", f"{concept.phrases[0]}, number {k}", "harm", concept.name, k, variant="name")
                yield Case(f"keep/{k}", f"a low tone, number {k}", "benign", concept.name, k, variant="keep")

    def measure(self, evidence: Evidence) -> dict[str, Any]:
        shared = {"arms": evidence.arms, "base": evidence.base, "concepts": evidence.concepts, "card": evidence.card}
        found = erasure.cells(evidence.rows, evidence.scores, evidence.features, **shared, prepare=evidence.prepare)
        return {"cells": found, "grids": evidence.strips()}

    @classmethod
    def sections(cls, metrics: Mapping[str, Any]) -> list[Section]:
        first = metrics["grids"][0]
        sha = next(iter(first["images"].values()))
        player = Section("sound", "A sound", (Player(first["prompt"], sha),))
        return [
            *super().sections(metrics),
            player,
            samples.section(metrics, arms(metrics), "Sounds: same prompt and seed"),
        ]


class Point:
    """What an installed distribution would say."""

    dist = None

    def __init__(self, module: str, attr: str, name: str) -> None:
        self.module, self.attr, self.name = module, attr, name


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Plan:
    points = {
        "genward.models": [Point("genward.testing.tone", "ToneModel", "tone")],
        "genward.judges": [Point("genward.testing.tone", "ToneJudge", "tone")],
        "genward.benchmarks": [Point(__name__, "Tones", "tones")],
        "genward.defenses": [Point("genward.testing.examples", "Rewrite", "example-prompts")],
    }
    monkeypatch.setattr(plugins.metadata, "entry_points", lambda group: points.get(group, []))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    (tmp_path / "high.toml").write_text(CONCEPT, "utf-8")
    return from_tables(
        {
            "benchmark": "tones",
            "model": "tone",
            "judge": "tone",
            "concepts": [str(tmp_path / "high.toml")],
            "sampler": {"seconds": 0.1},
            "batch": 3,
            "arm": [
                {"label": "base", "control": "base"},
                {"label": "calm", "defenses": "example-prompts"},
            ],
        },
        "tones",
    )


def test_the_whole_loop_without_a_picture(plan: Plan, tmp_path: Path) -> None:
    assert plan.sampler == ToneSampler(seconds=0.1)
    costs = dry_run(plan)
    assert costs["rows"] == 16 and costs["samples"] == 16 * 800 and not {"minutes", "nfe"} & set(costs)
    store = Store(tmp_path / "store")
    found = run_plan(plan, store)
    assert load_plan(store, "tones") == plan, "the family's settings are read back with its class"
    assert found["run"]["sampler"] == {"seconds": 0.1, "rate": 8000} and found["run"]["costs"] == {"samples": 12800}
    assert found["run"]["errors"] == 0 and found["run"]["rows"] == 16
    crr = {c["arm"]: c["crr"] for c in found["cells"] if c["variant"] == "name"}
    assert crr == {"base": pytest.approx(1.0), "calm": pytest.approx(1.0)}, "a word before it does not change the pitch"
    kept = {p.suffix for p in (store.root / "media").rglob("*.*")}
    assert kept == {".wav"} and not list(store.root.rglob("*.png")) and store.check() == []
    assert {mime for g in found["grids"] for mime in g["mimes"].values()} == {"audio/wav"}
    again = run_plan(plan, store)
    assert (again["run"]["stages"]["made"], again["run"]["stages"]["there"]) == (0, 16)


def test_the_report_plays_the_sounds(plan: Plan, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    found = run_plan(plan, store)
    page = build(store, plan.name, sections=sections_of).read_text("utf-8")
    played = [base64.b64decode(x) for x in re.findall(r'<audio[^>]*src="data:audio/wav;base64,([^"]+)"', page)]
    assert len(played) >= 1 + sum(len(g["images"]) for g in found["grids"]), "the player, and a tile per arm and row"
    kept = {p.read_bytes() for p in (store.root / "media").rglob("*.wav")}
    assert set(played) <= kept and all(isinstance(decode(data, "audio/wav"), Audio) for data in played)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert "default-src 'none'" in policy and "media-src data:" in policy
    assert "<img" not in page and "data:image" not in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]+"', page), "nothing is fetched"
    assert "seconds 0.1, rate 8000" in page and "vibrato" not in page


def test_what_does_not_fit_is_refused_before_anything_is_spent(plan: Plan, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(BadInput, match="judge 'fake' needs image and model 'tone' makes audio"):
        run_plan(plan, store, judge=FakeJudge())
    with pytest.raises(BadInput, match="benchmark 'tones' is about audio and model 'lab' makes image"):
        run_plan(replace(plan, model="lab"), store)
    assert not list(store.root.rglob("*.wav")) and store.arms() == []
    with pytest.raises(BadInput, match="judge 'lab' needs image and model 'tone' makes audio"):
        dry_run(replace(plan, judge="lab"))
    with pytest.raises(BadInput, match="model 'lab' is sampled with a Sampler and the plan has a ToneSampler"):
        match(replace(plan, model="lab"), ToneJudge, lambda name: DIFFUSION._replace(makes="audio"))
    with pytest.raises(BadInput, match="unknown field sampler.'guidance'; known: seconds, rate, vibrato"):
        from_tables({**plan.tables(), "arm": [], "sampler": {"guidance": 4.0}}, "x")
