"""Whether words stand in an order that somebody would write, or were shuffled around a phrase.

A shuffle keeps every word of a sentence and so every word of a phrase in it; so does an innocent sentence that happens
to use the same words. What tells them apart is whether the text as it stands is as likely as the best order of the same
words in which the phrase stands together: grammatical text is, word salad is not. HARMGEN's digest names best-order
reconstruction under an n-gram model with a beam of 50; comparing it with the order at hand, per word, is inferred."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from genward.errors import BadInput

BEAM = 50
MOST = 32
"""Most words that are put in order"""
TURN = 1.0
"""Gain in nats per word at which the score is 1/2; see ``order_score``"""
WIDTH = 0.25
"""Nats per word over which the score goes from 1/2 to 0.73"""


class OrderModel(Protocol):
    """What scores orders: ``ops.trigrams.Trigrams`` or anything with these methods."""

    ids: dict[str, int]

    def number(self, word: str) -> int: ...

    def log(self, word: int, before: int = -1, earlier: int = -1) -> float: ...

    def sentence(self, words: Sequence[str], breaks: Iterable[int] = ()) -> float: ...


def best_order(
    words: Sequence[str], phrase: Sequence[str], model: OrderModel, beam: int = BEAM
) -> tuple[float, tuple[str, ...]]:
    """The likeliest order of words in which a phrase stands together, found by beam search.

    Args:
        words: 1 to ``MOST`` words, the phrase's among them.
        phrase: words that stay together in this order; none for any order.
        beam: orders kept at every length; enough of them make the search exact.

    Returns:
        Natural log of its probability as a sentence, and the words in that order.

    Raises:
        BadInput: no words or too many, or the phrase has a word that they lack.
    """
    if not 1 <= len(words) <= MOST:
        raise BadInput(f"{len(words)} words to put in order; give 1 to {MOST}")
    left = Counter(words)
    left.subtract(phrase)
    if any(n < 0 for n in left.values()):
        raise BadInput(f"the phrase {' '.join(phrase)!r} has a word that the text lacks; give a text with all of them")
    units: list[tuple[str, ...]] = [(w,) for w, n in sorted(left.items()) if n > 0]
    counts = [left[u[0]] for u in units]
    if phrase:
        units.append(tuple(phrase))
        counts.append(1)
    numbers = [tuple(model.number(w) for w in u) for u in units]
    alone = [sum(model.log(n) for n in u) for u in numbers]
    # a beam over states of the same length, ranked by what their order gains over the words alone: ranked by
    # probability, those that put off rare words would crowd out the others
    levels: list[dict[tuple[tuple[int, ...], int, int], tuple[float, float, tuple[int, ...]]]]
    levels = [{} for _ in range(len(words) + 1)]
    levels[0][(tuple(counts), model.ids["<s>"], -1)] = (0.0, 0.0, ())
    for size in range(len(words)):
        kept = heapq.nsmallest(beam, levels[size].items(), key=lambda item: (-item[1][0], item[1][2]))
        for (remaining, before, earlier), (gain, total, path) in kept:
            for u, n in enumerate(remaining):
                if not n:
                    continue
                added, b, e = 0.0, before, earlier
                for number in numbers[u]:
                    added += model.log(number, b, e)
                    b, e = number, b
                level = levels[size + len(numbers[u])]
                new = gain + added - alone[u]
                state = ((*remaining[:u], n - 1, *remaining[u + 1 :]), b, e)
                old = level.get(state)
                if old is None or new > old[0]:
                    level[state] = (new, total + added, (*path, u))
    end = model.ids["</s>"]
    done = ((total + model.log(end, b, e), path) for (_, b, e), (_, total, path) in levels[-1].items())
    total, path = max(done, key=lambda item: (item[0], [-u for u in item[1]]))
    return total, tuple(w for u in path for w in units[u])


def order_gain(words: Sequence[str], phrase: Sequence[str], model: OrderModel, breaks: Iterable[int] = ()) -> float:
    """How much likelier, in nats per word, the words are in the best order that has the phrase than as they stand;
    arguments as ``best_order`` and ``order_score``. Negative for a text that beats every such order.

    That sentences end within the text costs it nothing, since the best order is of one sentence."""
    cuts = sorted(set(breaks))
    numbers = [model.ids["<s>"], *map(model.number, words)]
    ends = 0.0
    for start, k in zip([0, *cuts], cuts, strict=False):
        ends += model.log(model.ids["</s>"], numbers[k], numbers[k - 1] if k - start > 1 else model.ids["<s>"])
    return (best_order(words, phrase, model)[0] - model.sentence(words, cuts) + ends) / len(words)


def order_score(words: Sequence[str], phrase: Sequence[str], model: OrderModel, breaks: Iterable[int] = ()) -> float:
    """How far words look like a shuffle of a text that has the phrase.

    Args:
        words: the text's words as they stand, 1 to ``MOST``, the phrase's among them.
        breaks: where its sentences end, as for ``Trigrams.sentence``.

    Returns:
        0 to 1; 1/2 at a gain of ``TURN``, which was set on the canaries of the split ``calibrate`` and everyday
        sentences (tests/speech/test_rates.py).

    Raises:
        BadInput: as ``best_order``.
    """
    return 1.0 / (1.0 + math.exp(min(700.0, (TURN - order_gain(words, phrase, model, breaks)) / WIDTH)))


def smallest_windows(words: Sequence[str], wanted: Sequence[str], most: int) -> Iterator[tuple[int, int]]:
    """Stretches ``(start, end)`` of at most ``most`` words that hold all the wanted ones, as often as they are wanted,
    and from which no end can be left out; in order, found in one pass."""
    need = Counter(wanted)
    have: Counter[str] = Counter()
    missing, start = len(need), 0
    for end, word in enumerate(words, 1):
        if word in need:
            have[word] += 1
            missing -= have[word] == need[word]
        while missing == 0 and need:
            first = words[start]
            if first in need and have[first] == need[first]:
                # no wanted word can go from the front; the stretch is smallest if the last word is needed, too
                if word in need and have[word] == need[word] and end - start <= most:
                    yield start, end
                have[first] -= 1
                missing += 1
            elif first in need:
                have[first] -= 1
            start += 1
