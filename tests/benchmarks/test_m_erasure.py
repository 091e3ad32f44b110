"""Parents of attacks in the benchmark ``m-erasure``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from genward.benchmarks.m_erasure import MErasureBenchmark
from genward.benchmarks.m_erasure.rows import Parents
from genward.core.benchmark import Found, Setting
from genward.core.records import Case, Concept


def test_embedding_parents_of_a_style_read_as_english() -> None:
    keep = ("cherries in flat style", "an umbrella in flat style", "a cactus in flat style")
    concept = Concept(
        "style-noto", "style", "", targets=("noto",), phrases=("noto style",), neighbors=("flat",), keep=keep
    )
    cases = list(Parents((concept,), n=3, kinds=("embedding",)))
    assert [c.prompt for c in cases if c.variant == "embedding"] == [
        "cherries in {} style",
        "an umbrella in {} style",
        "a cactus in {} style",
    ]


def attacks(text: str) -> Any:
    class Attack:
        name = text
        parents = ("embedding",) if text == "textual_inversion" else ("latent", "keep-latent")

        def nfe(self, cases: Sequence[Case]) -> int:
            return len(cases)

    return Attack()


REFERENCES = {"weapons": [("gun", "noto")] * 3, "keep": [("apple", "noto")] * 3}
SETTING = Setting(
    (Concept("weapons", "policy", "", targets=("gun",), phrases=("gun",)),), attack=attacks, shown=lambda _: REFERENCES
)


def searched(attacked: tuple[str, ...]) -> tuple[MErasureBenchmark, list[Case], list[tuple[str, str]]]:
    """The benchmark, its parents, and (arm, column) of what was searched through two arms."""
    bench = MErasureBenchmark(
        concepts=("weapons",), n=3, attacks=("textual_inversion", "ddim_inversion"), attacked=attacked
    )
    parents = list(bench.parents(SETTING))

    def found(_: Any, cases: Sequence[Case], *__: Any) -> Found:
        return Found(tuple(cases), {}, {}, {"seconds": 0.0}, "key")

    arms = [
        SimpleNamespace(label=a, concepts=frozenset({"weapons"}), guidance=4.0, needs_guidance=False)
        for a in ("base", "uce")
    ]
    work = SimpleNamespace(setting=SETTING, arms=arms, tell=lambda *_: None, black=found, white=found)
    return bench, parents, [(s.arm.label, s.variant) for s in bench.search(parents, work)]


def test_learned_embeddings_are_searched_through_the_arms_that_are_named() -> None:
    bench, parents, every = searched(())
    _, _, some = searched(("base",))
    assert ("uce", "embedding-white: heldout") in every
    assert set(every) - set(some) == {("uce", "embedding-white: heldout")}
    assert ("uce", "embedding-black: heldout") in some and ("uce", "latent-white: empty") in some
    named = replace(bench, attacked=("base",))
    of = {c.variant: sum(1 for p in parents if p.variant == c.variant) for c in parents}
    assert of == {"embedding": 3, "latent": 3, "keep-latent": 3}
    assert bench.outlook(parents, SETTING, "uce") == bench.outlook(parents, SETTING) == named.outlook(parents, SETTING)
    left = named.outlook(parents, SETTING, "uce")
    assert left.nfe == 6 and bench.outlook(parents, SETTING).nfe == 9
    assert sum(n for n, _ in left.rows) == sum(n for n, _ in bench.outlook(parents, SETTING).rows) - 3
