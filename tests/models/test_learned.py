"""What attacks reach through: learned tokens, defended predictions outside a sampler, and what defenses put on
record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from genward.core.records import Call, Case, Inputs, Sampler
from genward.errors import BadInput, GuardError
from genward.models.sd import token_text
from genward.testing.examples import Dim, Fade, Halfway, Steer
from genward.testing.suites import hooks, same
from genward.testing.tiny import tiny_sd

NAME = "3f9a12b45c6d" + "0" * 52


@pytest.fixture(params=["clip", "bert"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return tiny_sd(encoder=request.param, folder=tmp_path)


def call(model: Any, rows: int = 3) -> Call:
    torch.manual_seed(0)
    text = model.encode([f"a cat {k}" for k in range(rows)])
    return Call(torch.randn(rows, 4, 8, 8), torch.tensor([900, 500, 100][:rows]), text)


def test_a_learned_token_that_equals_a_word_gives_that_words_states(model: Any) -> None:
    tokenizer, table = model.pipe.tokenizer, model.text_encoder.get_input_embeddings()
    word = "x"
    (place,) = tokenizer(word, add_special_tokens=False).input_ids
    before = hooks(model)
    with model.learned({token_text(NAME): table.weight[place].detach().clone()}):
        ids = model.pipe.tokenizer(f"a {token_text(NAME)} b", add_special_tokens=False).input_ids
        assert max(ids) >= len(tokenizer) and len(ids) == 3, "the token must stay in one piece"
        learned = model.encode([f"a {token_text(NAME)} b"])
    assert torch.allclose(learned, model.encode([f"a {word} b"]), atol=1e-6)
    assert model.pipe.tokenizer is tokenizer and hooks(model) == before


def test_gradients_reach_a_learned_token_and_only_rows_that_use_it(model: Any) -> None:
    width = model.text_encoder.get_input_embeddings().embedding_dim
    vector = torch.zeros(width, requires_grad=True)
    with model.learned({"<x1>": vector}):
        model.encode(["a <x1>"]).square().sum().backward()
    assert vector.grad is not None and float(vector.grad.abs().sum()) > 0
    other = torch.zeros(width, requires_grad=True)
    with model.learned({"<x1>": other}):
        states = model.encode(["a cat"])
    assert not states.requires_grad or torch.autograd.grad(states.sum(), other, allow_unused=True)[0] in (
        None,
        pytest.approx(0),
    )


def test_the_same_words_do_not_copy_the_tokenizer_again(model: Any) -> None:
    width, kept = model.text_encoder.get_input_embeddings().embedding_dim, model.pipe.tokenizer
    seen: list[Any] = []
    for texts in (("<x1>", "<x2>"), ("<x3>",), ("<x1>", "<x2>"), *((f"<y{k}>",) for k in range(5)), ("<x1>", "<x2>")):
        with model.learned(dict.fromkeys(texts, torch.zeros(width))):
            seen.append(model.pipe.tokenizer)
            assert set(texts) <= set(seen[-1].get_vocab())
        assert model.pipe.tokenizer is kept and not set(texts) & set(kept.get_vocab())
    assert seen[0] is seen[2] is not seen[1] and seen[-1] is not seen[0], "a few copies are kept, not all"
    assert "<x1>" not in seen[1].get_vocab(), "words of an earlier search are none of this one's"


def test_learned_tokens_that_cannot_be_used(model: Any) -> None:
    width = model.text_encoder.get_input_embeddings().embedding_dim
    for vector, says in ((torch.zeros(width + 1), "shape"), (torch.full((width,), float("nan")), "not finite")):
        with pytest.raises(BadInput, match=says), model.learned({"<x1>": vector}):
            pass
    with (
        pytest.raises(BadInput, match="vocabulary"),
        model.learned({model.pipe.tokenizer.convert_ids_to_tokens(5): torch.zeros(width)}),
    ):
        pass


def test_a_case_names_its_learned_embedding(model: Any) -> None:
    width = model.text_encoder.get_input_embeddings().embedding_dim
    torch.manual_seed(1)
    vectors = {NAME: torch.randn(width)}
    sampler = Sampler(steps=2, guidance=3.0)
    cases = [Case("a", f"a {token_text(NAME)}", inputs=Inputs({token_text(NAME): NAME})), Case("b", "a cat")]
    learned, plain = model.generate(cases, sampler, vectors=vectors)
    assert learned.status == "ok" and not same([learned], model.generate([Case("a", "a dog")], sampler))
    assert same([plain], model.generate([cases[1]], sampler)) or plain.status == "ok"
    with pytest.raises(BadInput, match="was not supplied"):
        model.generate(cases, sampler)


@pytest.mark.parametrize("defense", [Steer(), Dim(), Fade(), Halfway()])
def test_a_defended_prediction_is_what_the_guided_sampler_would_see(model: Any, defense: Any) -> None:
    given, empty = call(model), model.encode([""])
    base = model.denoise(given)
    seen: list[torch.Tensor] = []

    @dataclass(frozen=True)
    class Watch:
        name: ClassVar[str] = "watch"

        def attach(self, rig: Any) -> None:
            rig.tap("mid_block", lambda x, frame: seen.append(frame.conditional))

    with torch.no_grad(), model.rig([defense, Watch()]) as rig:
        guided = rig.defended(given, 3.0, empty)
        alone = rig.defended(given, 1.0)
        assert rig.rows == 9 and rig.run is None
    assert seen[0].tolist() == [False] * 3 + [True] * 3 and seen[1].tolist() == [True] * 3
    with torch.no_grad(), model.rig([]) as rig:
        plain = rig.defended(given, 3.0, empty)
        assert torch.allclose(rig.defended(given, 1.0), base, atol=1e-5)
        uncond = model.denoise(given._replace(text=empty.expand(3, -1, -1)))
    assert torch.allclose(plain, uncond + 3.0 * (base - uncond), atol=1e-4)
    assert not torch.allclose(guided, plain, atol=1e-5)
    if not isinstance(defense, Halfway):
        assert not torch.allclose(alone, base, atol=1e-6)


def test_gradients_go_through_a_defended_prediction(model: Any) -> None:
    given = call(model)
    text = given.text.clone().requires_grad_()
    with model.rig([Steer(), Dim(), Halfway()]) as rig:
        rig.defended(given._replace(text=text), 3.0, model.encode([""])).square().sum().backward()
    assert text.grad is not None and float(text.grad.abs().sum()) > 0


@dataclass(frozen=True)
class Watchful:
    """Flags every row at the text stage with its tokens, blocks the second at step 1."""

    name: ClassVar[str] = "watchful"

    def attach(self, rig: Any) -> None:
        def read(x: Any, frame: Any) -> None:
            if frame.role == "prompt":
                found = rig.tokens(frame)
                shares = [
                    [(t, 0.5) for t, m in zip(row, mask, strict=True) if m]
                    for row, mask in zip(found.strings, found.mask.tolist(), strict=True)
                ]
                every = torch.ones(len(x), dtype=torch.bool)
                rig.flag(
                    frame,
                    every,
                    "looked at",
                    score=torch.arange(len(x)) / 10,
                    threshold=0.9,
                    category=["a", "b", "c"][: len(x)],
                    tokens=shares,
                )

        def stop(z: Any, frame: Any) -> Any:
            rows = frame.case == 1
            if frame.step == 1 and rows.any():
                rig.block(frame, rows, "second row", score=frame.case.float(), threshold=0.5, category="b")
            return z

        rig.tap("text.0.heads", read)
        rig.latents(stop)


def test_verdicts_are_kept_by_row(model: Any) -> None:
    made = model.generate(
        [Case(f"c{k}", f"a cat {k}", seed=k) for k in range(3)], Sampler(steps=3, guidance=3.0), [Watchful()]
    )
    assert [s.status for s in made] == ["ok", "refused", "ok"]
    assert [len(s.verdicts) for s in made] == [1, 2, 1]
    first, block = made[1].verdicts
    assert (first.action, first.stage, first.step, first.category, first.threshold) == ("flagged", "text", -1, "b", 0.9)
    assert (
        first.score == pytest.approx(0.1) and len(first.tokens) >= 3 and all(share == 0.5 for _, share in first.tokens)
    )
    assert (block.action, block.defense, block.stage, block.step, block.score, block.category) == (
        "blocked",
        "watchful",
        "denoise",
        1,
        1.0,
        "b",
    )
    assert made[1].why == "watchful: second row"


def test_tokens_are_known_at_the_text_stage_only(model: Any) -> None:
    @dataclass(frozen=True)
    class Late:
        name: ClassVar[str] = "late"

        def attach(self, rig: Any) -> None:
            rig.latents(lambda z, frame: rig.tokens(frame) and z)

    with pytest.raises(GuardError, match="text stage"):
        model.generate([Case("c", "a cat")], Sampler(steps=2), [Late()])


def test_tokens_are_those_in_the_encoder_and_those_of_the_tokenizer(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts that hold the padding token's own text, and none at all: the mask is the tokenizer's word, and where the
    encoder is given it, it is not asked twice."""
    seen: list[Any] = []

    @dataclass(frozen=True)
    class Reader:
        name: ClassVar[str] = "reader"

        def attach(self, rig: Any) -> None:
            rig.tap("text.0.heads", lambda x, frame: seen.append((frame.role, rig.tokens(frame))))

    texts = ["a cat", f"a {model.pipe.tokenizer.pad_token} dog", ""]
    known = model.tokens(texts)
    with monkeypatch.context() as patch:
        if getattr(
            model.text_encoder.config, "use_attention_mask", False
        ):  # where the encoder is given no mask, the tokenizer is asked for it
            patch.setattr(
                type(model), "tokens", lambda self, texts: pytest.fail("the texts were cut into tokens a second time")
            )
        model.generate(
            [Case(f"c{k}", t, seed=k) for k, t in enumerate(texts)], Sampler(steps=2, guidance=3.0), [Reader()]
        )
    found = next(t for role, t in seen if role == "prompt")
    assert torch.equal(found.ids, known.ids) and torch.equal(found.mask, known.mask) and found.strings == known.strings
    monkeypatch.setattr(model.text_encoder.config, "use_attention_mask", False, raising=False)
    seen.clear()
    model.generate([Case("c", texts[0])], Sampler(steps=2, guidance=3.0), [Reader()])
    assert torch.equal(next(t for role, t in seen if role == "prompt").mask, known.mask[:1])
