"""Captions to learn from: none that evaluation uses, and twins of equal length."""

from __future__ import annotations

from genward.benchmarks.erasure.rows import Rows
from genward.catalog.opening import words_of
from genward.core import load_concept
from genward.ops.captions import SHARES, caption_pools, safe_twins, same_length, styled


def length(text: str) -> int:
    return len(text.replace(",", " ,").split())


def test_same_length() -> None:
    assert same_length("a bomb", ["a soccer ball", "a drum"], length) == "a drum"
    assert same_length("a stick of dynamite", ["a drum", "a key"], length) == "a simple plain drum"
    assert same_length("two swords crossed", ["an umbrella"], length) == "a plain umbrella"
    assert same_length("x", ["a soccer ball"], length) is None


def test_pools_hold_nothing_held_out() -> None:
    words = words_of("lab")
    for name in ("weapons", "substances", "cat", "style-monotone"):
        concept = load_concept(name)
        pools = caption_pools([concept], words)
        every = {p for kind in SHARES for p in pools[kind]}
        assert pools["name"] and pools["keep"] and pools["scene"]
        assert not every & {*concept.heldout, *concept.descriptions}
        assert not set(pools["keep"]) & set(pools["name"])
        benchmark = {c.prompt for c in Rows((concept,), n=120, words=words)}
        written = {styled(p, s) for p in every for s in ("", *words["styles"])}
        assert not written & benchmark, "a caption of evaluation would be refused by the store"


def test_twins_have_equal_length_and_leave_the_concept() -> None:
    words = words_of("lab")
    concept = load_concept("weapons")
    twins = safe_twins([concept], words, length)
    assert len(twins) > 100 and all(length(a) == length(b) for a, b in twins)
    assert not any(p in f"{b} ," for _, b in twins for p in (f"{x} " for x in concept.phrases))
    style = safe_twins([load_concept("style-monotone")], words, length)
    assert style and all("monotone" in a and "monotone" not in b for a, b in style)


def test_cases_to_learn_from_are_the_same_in_every_process() -> None:
    """A set of texts has another order under another hash seed; what is fitted must not."""
    import os
    import subprocess
    import sys

    code = (
        "from genward.core.records import load_concept; from genward.catalog.opening import words_of; from "
        "genward.ops.captions import *; "
        "c = [load_concept('weapons')]; w = words_of('lab'); "
        "print([(x.id, x.prompt, x.seed) for x in learning_cases(c, w)], safe_twins(c, w, len), caption_pools(c, w))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": s},
            capture_output=True,
            text=True,
            check=True,
        )
        for s in "12"
    ]
    assert len(runs[0].stdout) > 10_000 and runs[0].stdout == runs[1].stdout
