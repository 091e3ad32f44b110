"""Parents of attacks in the benchmark ``m-erasure``."""

from __future__ import annotations

from genward.benchmarks.m_erasure.rows import Parents
from genward.core.records import Concept


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
