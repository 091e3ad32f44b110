"""The index over all phrases never loses one that alignment would find, and leaves most of them out."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genward.ops.canaries import canaries, everyday
from genward.ops.cmudict import SYMBOLS
from genward.speech.matching import Matcher, counted
from genward.speech.phonemes import english_lexicon
from genward.speech.policies import SpeechPolicy
from genward.speech.sound_index import SoundIndex
from genward.speech.sound_match import GAP, NUMBER, SWAP, Said, SoundTable, Stream, streams

sounds = st.lists(st.sampled_from(sorted(SYMBOLS)), min_size=1, max_size=9).map(tuple)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(sounds, min_size=1, max_size=5),
    st.lists(sounds, min_size=1, max_size=4),
    st.sampled_from([0.25, 0.5, 0.7, 0.95]),
    st.data(),
)
def test_scores_are_those_of_the_slow_rule(
    phrases: list[tuple[str, ...]], words: list[tuple[str, ...]], least: float, data: st.DataObject
) -> None:
    near = list(data.draw(st.sampled_from(phrases)))  # a phrase with a few sounds wrong is in the text
    for _ in range(data.draw(st.integers(0, 3))):
        near[data.draw(st.integers(0, len(near) - 1))] = data.draw(st.sampled_from(sorted(SYMBOLS)))
    words.insert(data.draw(st.integers(0, len(words))), tuple(near))
    bounds = frozenset({0, *np.cumsum([len(w) for w in words]).tolist()})
    stream = Stream(tuple(p for w in words for p in w), bounds)
    table = SoundTable([[Said(p, tuple(2 * k // len(p) for k in range(len(p))))] for p in phrases if len(p) > 1])
    slow, fast = table.scores(stream), table.scores(stream, least)
    assert np.array_equal(slow >= least, fast >= least)
    assert np.array_equal(np.where(slow >= least, slow, 0), np.where(fast >= least, fast, 0))


def test_rows_by_hand() -> None:
    row = [NUMBER[p] for p in ("K", "AE", "T", "S", "N", "P")]
    for text, most, there in (
        (("K", "T", "S", "N", "P"), 0.0, True),  # vowels are not looked at
        (("G", "D", "Z", "M", "B"), 0.0, True),  # sounds that may stand for others
        (("K", "T", "N", "P"), 0.9, False),
        (("K", "T", "N", "P"), 1.0, True),  # one left out
        (("K", "T", "K", "S", "N", "P"), 0.9, False),
        (("K", "T", "K", "S", "N", "P"), 1.0, True),  # one too many
        (("K", "T", "R", "F", "L", "S", "N", "P"), 0.9, True),  # too many that may cost less than 1
        (("P", "N", "S", "T", "K"), 2.0, False),
        ((), 4.9, False),
        ((), 5.0, True),
    ):
        index = SoundIndex([row], [most], SWAP, GAP)
        assert index.rows([NUMBER[p] for p in text]) == ([0] if there else []), text


@pytest.mark.skipif(find_spec("pocketsphinx") is None, reason="needs genward[speech]")
def test_canaries_are_found_alike_and_most_are_left_out() -> None:
    phrases = tuple(c.phrase for c in canaries())
    matcher, lexicon = Matcher([SpeechPolicy("c", phrases=phrases)]), english_lexicon()
    texts = (
        [c.carriers[0] for c in canaries()[::5]] + [c.twins[0] for c in canaries()[::4]] + list(everyday("evaluate"))
    )
    looked = 0
    for text in texts[::3]:
        assert counted(matcher(text, 0.5)) == counted(matcher(text))
        looked += sum(
            len(matcher.sounds.index(0.5).rows([NUMBER[p] for p in s.sounds]))
            for s in streams(matcher.read(text).plain.words, lexicon)
        )
    assert looked < 0.2 * len(texts[::3]) * len(matcher.sounds.rows)
