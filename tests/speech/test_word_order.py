"""Best order against all orders, windows against all stretches, and the score."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.util import find_spec

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genward.errors import BadInput
from genward.speech.word_order import best_order, order_gain, order_score, smallest_windows

WORDS = "abcd"


class Table:
    """A trigram model with numbers drawn at random, context and all."""

    def __init__(self, seed: int) -> None:
        self.ids = {w: k for k, w in enumerate(["<s>", "</s>", *WORDS])}
        self.seed = seed

    def number(self, word: str) -> int:
        return self.ids.get(word, -1)

    def log(self, word: int, before: int = -1, earlier: int = -1) -> float:
        return math.log(random.Random(f"{self.seed} {word} {before} {earlier}").random() + 1e-3)

    def sentence(self, words: Sequence[str], breaks: Iterable[int] = ()) -> float:
        numbers = [-1, self.ids["<s>"], *map(self.number, words), self.ids["</s>"]]
        return sum(self.log(numbers[k], numbers[k - 1], numbers[k - 2]) for k in range(2, len(numbers)))


def slow_best(words: Sequence[str], phrase: Sequence[str], model: Table) -> float:
    n = len(phrase)
    return max(
        model.sentence(order)
        for order in set(itertools.permutations(words))
        if any(order[k : k + n] == tuple(phrase) for k in range(len(order) - n + 1))
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=6), st.integers(0, 3), st.integers(0, 50))
def test_a_wide_beam_finds_the_best_of_all_orders(words: list[str], size: int, seed: int) -> None:
    model, phrase = Table(seed), tuple(words[: min(size, len(words))])
    total, order = best_order(words, phrase, model, beam=10_000)
    assert total == pytest.approx(slow_best(words, phrase, model))
    assert Counter(order) == Counter(words) and model.sentence(order) == pytest.approx(total)
    assert " ".join(phrase) in " ".join(order)
    narrow, _ = best_order(words, phrase, model, beam=1)
    assert narrow <= total + 1e-9


def test_arguments_are_checked() -> None:
    model = Table(0)
    for words in ([], ["a"] * 33):
        with pytest.raises(BadInput, match="words to put in order"):
            best_order(words, (), model)
    with pytest.raises(BadInput, match="a word that the text lacks"):
        best_order(["a", "b"], ("a", "a"), model)


@given(
    st.lists(st.sampled_from("abx"), max_size=12), st.lists(st.sampled_from("ab"), min_size=1, max_size=3), st.data()
)
def test_windows_are_the_smallest_stretches(words: list[str], wanted: list[str], data: st.DataObject) -> None:
    most = data.draw(st.integers(1, 12))

    def holds(a: int, b: int) -> bool:
        return not Counter(wanted) - Counter(words[a:b])

    n = len(words)
    expected = [
        (a, b)
        for a in range(n)
        for b in range(a + 1, n + 1)
        if b - a <= most and holds(a, b) and not holds(a + 1, b) and not holds(a, b - 1)
    ]
    assert list(smallest_windows(words, wanted, most)) == expected


def test_ends_of_sentences_cost_nothing() -> None:
    model = Table(3)
    words, cuts = list("abcadb"), [1, 3]
    apart = [list("a"), list("bc"), list("adb")]
    end = model.ids["</s>"]
    said = sum(model.sentence(p) for p in apart)
    ends = model.log(end, model.number("a"), model.ids["<s>"]) + model.log(end, model.number("c"), model.number("b"))
    expected = (best_order(words, ("c", "d"), model)[0] - said + ends) / 6
    model.sentence = lambda words, breaks=(): said  # type: ignore[method-assign, misc]
    assert order_gain(words, ("c", "d"), model, cuts) == pytest.approx(expected)


@pytest.mark.skipif(find_spec("pocketsphinx") is None, reason="needs genward[speech]")
def test_shuffles_score_high_and_grammar_low() -> None:
    from genward.ops.trigrams import english_trigrams

    model, phrase = english_trigrams(), ("amber", "kettle", "protocol")
    fine = "the protocol for the kettle is amber".split()
    salad = "everyone kettle the reads before amber lunch protocol".split()
    assert order_score(fine, phrase, model) < 0.05 < 0.95 < order_score(salad, phrase, model)
    assert order_gain(fine, phrase, model) < 0.5 < 1.5 < order_gain(salad, phrase, model)
    _, order = best_order("day please protocol again amber read the kettle every".split(), phrase, model)
    assert "amber kettle protocol" in " ".join(order)
    assert all(0 <= order_score(t, phrase, model, {2}) <= 1 for t in (fine, salad))
