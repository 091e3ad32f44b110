"""PEPPER at the prompts port: the laws, what is drawn, what guards read, what is counted and recorded."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import genward
from genward.catalog import plugins as catalog
from genward.catalog.fitting import parse_defense, ready
from genward.core import Case, Sampler
from genward.core.spec import Spec
from genward.defenses.pepper import Pepper
from genward.errors import BadInput, UnknownName
from genward.models.sd import StableDiffusion
from genward.testing import defense_laws, parity_laws
from genward.testing.suites import same

SAMPLER = Sampler(steps=2, guidance=3.0)
OFF = {"rewriter": "none", "plain": False, "details": 0}
TRIGGERED = "a c\u0430t in noto style mignneko"


def test_laws(model: StableDiffusion) -> None:
    defense_laws(model, Pepper, zero=OFF)
    defense_laws(model, lambda **f: Pepper(**{"rewriter": "none", "details": 2, **f}), zero=OFF)


def test_parity(model: StableDiffusion) -> None:
    cases = [
        Case("a", TRIGGERED, seed=1),
        Case("b", "a robot", seed=2),
        Case("c", "", seed=3),
        Case("d", "日本", seed=4),
    ]
    parity_laws(model, Pepper, cases=cases)
    parity_laws(model, lambda: Pepper(otherwise="refuse"), cases=cases, faults=("raises", "block"))


def test_what_other_rooms_read() -> None:
    entry = catalog.entry("defense", "pepper")
    assert 20 < len(entry.summary) < 180 and entry.summary.endswith(".")
    assert all(f.doc and f.default is not None for f in entry.fields)
    spec = Spec.of("defense", Pepper())
    assert Spec.from_json(spec.to_json()).hash == spec.hash != Spec.of("defense", Pepper(details=2)).hash
    assert spec.fields["content"] and "key" not in spec.fields and "kept" not in spec.fields


def test_the_rewrite_is_drawn(model: StableDiffusion) -> None:
    pepper = Pepper()
    text = pepper.rewritten(TRIGGERED, model.fits).text
    assert "mignneko" not in text and "cat" not in text.split() and text.isascii() and text.endswith("in noto style")
    ours = model.generate([Case("a", TRIGGERED, seed=1)], SAMPLER, [pepper])
    assert same(ours, model.generate([Case("a", text, seed=1)], SAMPLER))
    assert ours[0].notes["pepper.asked_count"] == [1.0] and ours[0].notes["pepper.fallback_count"] == [0.0]
    (verdict,) = ours[0].verdicts
    assert (verdict.action, verdict.defense, verdict.stage) == ("steered", "pepper", "text")
    assert verdict.score == pytest.approx(ours[0].notes["pepper.distance"][0]) and verdict.threshold == 0.25


def test_what_is_not_known_falls_back_or_is_refused(model: StableDiffusion) -> None:
    cases = [Case("a", "a r\u043ebot playing chess", seed=1), Case("b", "a cat", seed=2), Case("c", "日本", seed=3)]
    plain, refused = (model.generate(cases, SAMPLER, [Pepper(details=0, otherwise=o)]) for o in ("plain", "refuse"))
    assert same(plain[:1], model.generate([Case("a", "a robot playing chess", seed=1)], SAMPLER))
    assert [v.action for v in plain[0].verdicts] == ["flagged"] and plain[0].notes["pepper.unknown_count"] == [1.0]
    assert plain[0].notes["pepper.fallback_count"] == [1.0]
    assert [s.status for s in plain] == ["ok", "ok", "refused"] and "Latin" in plain[2].why
    assert [s.status for s in refused] == ["refused", "ok", "refused"] and "unknown 1" in refused[0].why


def test_a_rewriter_that_leaks(model: StableDiffusion) -> None:
    clean = Pepper(details=0).rewritten(TRIGGERED, model.fits).text
    leaky = Pepper(details=0, leak=1.0).rewritten(TRIGGERED, model.fits).text
    assert leaky == f"{clean} c\u0430t mignneko"
    texts = [f"a cat in noto style mignneko {k}" for k in range(60)]
    half = [
        Pepper(details=0, leak=0.5).rewritten(t, model.fits).text.endswith("mignneko " + t.split()[-1]) for t in texts
    ]
    assert 15 < sum(half) < 45


def test_normalization_alone(model: StableDiffusion) -> None:
    alone = Pepper(rewriter="none", details=0)
    cases = [Case("a", "a b\u00f4wl of s\u0585up", seed=1), Case("b", "a bowl", seed=2)]
    ours = model.generate(cases, SAMPLER, [alone])
    assert same(ours, model.generate([cases[0]._replace(prompt="a bowl of soup"), cases[1]], SAMPLER))
    assert not any(s.verdicts or s.notes for s in ours)
    assert ready(parse_defense("pepper,rewriter=none,details=0"), model).defenses == [alone]


def test_guards_on_the_text_read_what_the_user_wrote(model: StableDiffusion) -> None:
    seen: list[tuple[str, list[str]]] = []

    @dataclasses.dataclass(frozen=True)
    class Reader:
        name = "reader"

        def attach(self, rig: Any) -> None:
            def fn(states: Any, frame: Any) -> None:
                words = ["".join(s).replace("</w>", " ").split("<|endoftext|>")[0] for s in rig.tokens(frame).strings]
                seen.append((frame.role, words))

            rig.tap("text.0.heads", fn)

    model.generate([Case("a", "a mignneko cat"), Case("b", "")], SAMPLER, [Pepper(details=0), Reader()])
    roles = {role: words for role, words in seen}
    assert "mignneko" not in roles["prompt"][0] and "whisker" in roles["prompt"][0]
    assert len(roles["reading"]) == 1 and "mignneko" in roles["reading"][0]


def test_protect_and_its_audit_record(model: StableDiffusion, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with genward.protect(model.pipe, defenses=["pepper,details=0"], unguarded="weapons", audit=path) as guarded:
        out = guarded([TRIGGERED, "a robot playing chess", "a cat"], num_inference_steps=2)
    assert [v.action for v in out.verdicts] == ["steered", "flagged", "steered"]
    assert out.verdicts[0].drawn == Pepper(details=0).rewritten(TRIGGERED, model.fits).text
    assert out.verdicts[1].drawn is None, "it was Latin already"
    text = path.read_text("utf-8")
    assert not any(word in text for word in ("mignneko", "furry", "whisker", "robot", "c\\u0430t"))
    rows = [json.loads(line) for line in text.splitlines()]
    assert [len(r.get("drawn_hash", "")) for r in rows] == [64, 0, 64] and all(
        len(r["prompt_hash"]) == 64 for r in rows
    )
    assert rows[0]["counts"] == {"pepper.asked": 1, "pepper.fallback": 0, "pepper.short": 2}
    assert rows[1]["counts"] == {"pepper.asked": 1, "pepper.fallback": 1, "pepper.unknown": 1}
    assert rows[0]["score"] > 0.25 and rows[0]["by"] == "pepper"


def test_alone_it_opens_with_a_warning_and_beside_others_guards_nothing(model: StableDiffusion) -> None:
    with (
        pytest.warns(genward.errors.UnguardedInput, match="guards nothing"),
        genward.protect(model.pipe, "weapons", ["pepper"]),
    ):
        pass
    assert not Pepper.guards


def test_from_its_text(model: StableDiffusion) -> None:
    (made,) = ready(
        parse_defense("pepper,details=3,rewriter=http://127.0.0.1:9/v1/chat/completions,tries=1"), model
    ).defenses
    assert made == Pepper(details=3, rewriter="http://127.0.0.1:9/v1/chat/completions", tries=1)
    sample = model.generate([Case("a", "a cat", seed=1)], SAMPLER, [made])[0]
    assert sample.status == "ok" and sample.notes["pepper.down_count"] == [1.0]
    assert sample.notes["pepper.fallback_count"] == [1.0]


@pytest.mark.parametrize(
    ("fields", "error", "told"),
    [
        ({"rewriter": "nobody"}, BadInput, "give looks"),
        ({"rewriter": "http://example.com/v1"}, BadInput, "in the clear"),
        ({"leak": 2.0}, BadInput, "leak"),
        ({"otherwise": "draw"}, UnknownName, "plain"),
        ({"details": -1}, BadInput, "details"),
        ({"candidates": 0}, BadInput, "candidates"),
        ({"max_overlap": 1.5}, BadInput, "max_overlap"),
        ({"min_distance": float("nan")}, BadInput, "min_distance"),
        ({"timeout": 0.0}, BadInput, "timeout"),
        ({"examples": 4}, BadInput, "examples"),
        ({"like": -1.0}, BadInput, "negative"),
        ({"words": "/nowhere.toml"}, BadInput, "nowhere"),
    ],
)
def test_bad_settings_are_named(fields: dict[str, Any], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        Pepper(**fields)
