"""The trigram model against the decoder's own reading of the same file."""

from __future__ import annotations

import importlib
import math
import random
from importlib.util import find_spec
from pathlib import Path

import pytest

from genward.errors import BadArtifact, BadInput
from genward.ops import trigrams
from genward.ops.canaries import canaries, everyday

speech = pytest.mark.skipif(find_spec("pocketsphinx") is None, reason="needs genward[speech]")


@speech
def test_probabilities_are_those_of_the_decoder() -> None:
    sphinx = importlib.import_module("pocketsphinx")
    path = trigrams.model_file("en-us.lm.bin")
    theirs = sphinx.NGramModel(sphinx.Config(), sphinx.LogMath(1.0001), str(path))
    ours = trigrams.english_trigrams()
    rng, words, texts = random.Random(0), sorted(ours.ids), [t.split() for c in canaries() for t in c.twins]
    triples = [tuple(t[k : k + 3]) for t in texts for k in range(len(t) - 2)]
    triples += [(rng.choice(words), rng.choice(words), rng.choice(words)) for _ in range(500)]
    assert len(set(triples)) > 1500
    for earlier, before, word in triples:
        numbers = [ours.number(w) for w in (word, before, earlier)]
        for size in (1, 2, 3):
            expected = theirs.prob([word, before, earlier][:size]) * math.log(1.0001)
            assert ours.log(*numbers[:size]) == pytest.approx(expected, abs=2e-4), (earlier, before, word, size)


@speech
def test_probabilities_after_a_context_sum_to_one() -> None:
    model = trigrams.english_trigrams()
    for context in (("the",), ("kettle", "the"), ("of", "one"), ("<s>",)):
        numbers = [model.number(w) for w in context]
        total = sum(math.exp(model.log(w, *numbers)) for w in model.ids.values() if w != model.ids["<s>"])
        assert total == pytest.approx(1.0, abs=0.02)


@speech
def test_sentences_break_where_they_are_told_to() -> None:
    model = trigrams.english_trigrams()
    text = "the kettle is hot"
    assert model.sentence(text.split()) > model.sentence("hot the is kettle".split())
    both = [*text.split(), *everyday("calibrate")[0].split()]
    parts = model.sentence(text.split()) + model.sentence(both[4:])
    assert model.sentence(both, {4}) == pytest.approx(parts) and model.sentence(both, {4}) != model.sentence(both)
    assert model.sentence(["zzyzxq"]) < trigrams.UNKNOWN and model.number("zzyzxq") == -1
    assert model.log(model.number("kettle"), -1, 3) == model.log(model.number("kettle"))


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    header = trigrams.MAGIC + b"\x03" + (2).to_bytes(4, "little") * 3
    for content in (b"", b"x" * 100, trigrams.MAGIC, header, header + b"\0\0\0\0" + bytes(100), header + b"\1\0\0\0"):
        path.write_bytes(content)
        with pytest.raises(BadArtifact, match="not a trigram model.*reinstall"):
            trigrams.Trigrams(path)
    with pytest.raises(BadArtifact):
        trigrams.Trigrams(tmp_path / "none")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(trigrams.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"pip install 'genward\[speech\]'"):
        trigrams.model_file("en-us.lm.bin")
    spec = importlib.machinery.ModuleSpec("pocketsphinx", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(trigrams.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(BadArtifact, match="is missing; reinstall"):
        trigrams.model_file("en-us.lm.bin")
