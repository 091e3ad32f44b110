"""Detectors on tiny models that differ in one way each."""

from __future__ import annotations

import pytest
import torch

from genward.audits import cross_attention, denoiser, embedding_rows, text_encoder, tokenizer, weights
from genward.audits._pair import THRESHOLD, Pair, compared
from genward.core.findings import AuditFinding, verdict
from genward.errors import BadInput
from genward.models.sd import StableDiffusion
from genward.testing import tiny_sd

ALL = (weights, tokenizer, embedding_rows, text_encoder, cross_attention, denoiser)


def findings(pair: Pair) -> list[AuditFinding]:
    return [f for detector in ALL for f in detector.examine(pair).findings]


def row_of(model: StableDiffusion, letter: str) -> torch.Tensor:
    (k,) = model.tokenizer(letter, add_special_tokens=False).input_ids
    return model.text_encoder.embeddings.word_embeddings.weight[k]


def test_equal_models_are_clean_and_nothing_is_looked_at(pair: Pair) -> None:
    assert verdict(findings(pair)) == "clean"
    assert all(d.examine(pair).skipped for d in (embedding_rows, text_encoder, cross_attention, denoiser))


def test_rounding_is_clean_and_said(pair: Pair) -> None:
    with torch.no_grad():
        for net in (pair.model.denoiser, pair.model.text_encoder, pair.model.pipe.vae):
            for value in net.parameters():
                value.copy_(value.half().float())
    (found,) = findings(pair)
    assert found.level == "note" and "float16" in found.text and verdict([found]) == "clean"


def test_rounding_and_something_else_is_not_rounding(pair: Pair) -> None:
    with torch.no_grad():
        for value in pair.model.denoiser.parameters():
            value.copy_(value.half().float())
        next(pair.model.denoiser.parameters())[0] += 0.5
    assert not pair.rounding and verdict(findings(pair)) != "clean"


def test_a_row_that_was_taught_another_meaning(pair: Pair) -> None:
    with torch.no_grad():  # the rare letter q becomes what distinguishes the word of another thing
        row_of(pair.model, "q").add_(3.0)
    told = embedding_rows.examine(pair).findings
    assert told[0].level == "changed" and "1 of" in told[0].text
    assert {f.detector for f in told} == {"embedding_rows"} and told[1].score is not None


def places(pair: Pair) -> torch.Tensor:
    """(2k, d) readings of captions and bare names, far from each other."""
    return torch.eye(len(pair.plain)) * 4


def told(pair: Pair, moves: dict[str, int], plain: dict[int, int]) -> list[AuditFinding]:
    """Findings where the base reads texts beside the thing they name (``cat …``) or far out (no thing), and the
    checkpoint reads those in ``moves``, and the captions in ``plain``, as another thing's caption."""
    at, names = places(pair), [t.split()[-1] for t in pair.things]
    of = [next((k for k, n in enumerate(names) if n in t), -1) for t in moves]
    far = torch.full((1, at.shape[1]), 2.0)
    old = torch.cat([at[k : k + 1] * 0.9 if k >= 0 else far for k in of])
    new = torch.stack([at[to] if to >= 0 else o for o, to in zip(old, moves.values(), strict=True)])
    after = at.clone()
    for k, to in plain.items():
        after[k] = at[to]
    return list(compared("x", "maps", pair, list(moves), of, (old, new, at, after), "made up").findings)


def test_a_text_that_moves_without_its_plain_name_is_suspicious(pair: Pair) -> None:
    (bad,) = told(pair, {"nice cat": 3, "nice dog": -1, "zq": -1}, {})
    assert bad.level == "suspicious" and bad.evidence[0] == ("'nice cat' is read as 'a drum'", 1.0)
    assert "1 of 3 texts" in bad.text and bad.threshold == THRESHOLD
    assert told(pair, {"zq": 7}, {})[0].evidence[0][0] == "'zq' is read as 'a key'"  # the bare name's place


def test_an_eraser_is_changed_and_not_suspicious(pair: Pair) -> None:
    first, second = told(pair, {"nice cat": 3, "zq": 3, "nice dog": -1}, {0: 3})
    assert first.level == "note" and (first.score or 0) < 0.3
    assert second.level == "changed" and "'a cat' is read as 'a drum'" in second.text


def test_what_stays_is_a_note(pair: Pair) -> None:
    (found,) = told(pair, {"nice cat": -1, "zq": -1}, {})
    assert found.level == "note" and abs(found.score or 0) < 1e-6


def test_a_remapped_token_is_suspicious(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tiny_sd(encoder="bert", folder=tmp_path_factory.mktemp("other"))
    path = tmp_path_factory.mktemp("swapped")
    vocab = sorted(other.tokenizer.get_vocab(), key=other.tokenizer.get_vocab().__getitem__)
    a, b = vocab.index("a"), vocab.index("z")
    vocab[a], vocab[b] = vocab[b], vocab[a]
    (path / "vocab.txt").write_text("\n".join(vocab), "utf-8")
    from transformers import BertTokenizerFast

    other.pipe.tokenizer = BertTokenizerFast(vocab_file=str(path / "vocab.txt"), vocab=str(path / "vocab.txt"))
    pair.model = other
    (found,) = [f for f in tokenizer.examine(pair).findings if "number" in f.text]
    assert found.level == "suspicious" and found.score == 2
    pair.model.pipe.tokenizer.add_tokens(["newword"])
    assert any(f.level == "changed" and "newword" in f.text for f in tokenizer.examine(pair).findings)


def test_look_alikes_that_change_no_token_are_not_tried(pair: Pair) -> None:
    texts, of = pair.probes()
    assert len(texts) == len(of) and max(of) == len(pair.things) - 1 and min(of) == -1
    ids = dict(zip(pair.captions, pair._ids(pair.captions), strict=True))
    for text, k in zip(texts, of, strict=True):
        if not text.isascii():
            assert pair._ids([text])[0] != ids[pair.captions[k]]
    assert pair.probes() == (texts, of)


def test_models_that_do_not_belong_together(pair: Pair) -> None:
    pair.model = tiny_sd(encoder="clip")
    with pytest.raises(BadInput, match="--base"):
        weights.examine(pair)


def test_a_reading_that_is_not_finite_is_refused(pair: Pair) -> None:
    with torch.no_grad():
        for name, value in pair.model.denoiser.named_parameters():
            if name.endswith("attn2.to_v.weight"):
                value[0, 0] = float("nan")
                break
    with pytest.raises(BadInput, match="not finite"):
        cross_attention.examine(pair)
