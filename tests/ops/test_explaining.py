"""Words and what a score loses without each; on the lab's named prompts the concept's word comes first."""

from __future__ import annotations

import torch

from genward import lab, protect
from genward.catalog.opening import words_of
from genward.core.records import load_concept
from genward.ops.explaining import MOST, shares, without, words


def test_words_and_texts_without_them() -> None:
    text = "  a bomb, in twemoji-like   style (it's 2!) "
    found = words(text)
    assert [w.text for w in found] == ["a", "bomb", "in", "twemoji-like", "style", "it's", "2"]
    assert all(text[w.start : w.end] == w.text for w in found)
    assert without(text, found[1]) == "a , in twemoji-like style (it's 2!)"
    assert [w.text for w in words("\U0001f52b !")] == ["\U0001f52b"] and [w.text for w in words("?!")] == ["?", "!"]
    assert words("") == [] and len(words("a " * 500)) == MOST


def test_shares_are_differences_of_the_texts_own_score() -> None:
    asked: list[list[str]] = []

    def score(texts: list[str]) -> torch.Tensor:
        asked.append(texts)
        return torch.tensor([[3.0 * ("bomb" in t) + 0.5 * len(t.split()) for t in texts], [1.0 for _ in texts]])

    found = shares(["a bomb", "a cat"], score)
    assert found == [[("a", 0.5), ("bomb", 3.5)], [("a", 0.0), ("cat", 0.0)]]
    assert len(asked) == 1 and len(set(asked[0])) == len(asked[0]), "one batch, each text once"
    assert shares([], score) == [] and shares([""], score) == [[]]


def test_the_concepts_word_comes_first_on_named_prompts() -> None:
    concept, known = load_concept("weapons"), words_of("lab")
    named = [known["things"][t]["name"][0] for t in concept.targets]
    rows = [(f"{name} in {style} style", name) for name in named for style in known["styles"]]
    right = blocked = 0
    with protect(lab.pipeline(), concept.name, ["aeiou"]) as guarded:
        for k in range(0, len(rows), 15):
            out = guarded([text for text, _ in rows[k : k + 15]], num_inference_steps=1, guidance_scale=1.0)
            for (_, name), verdict in zip(rows[k : k + 15], out.verdicts, strict=True):
                if verdict.action == "blocked":
                    blocked += 1
                    right += max(verdict.tokens, key=lambda x: x[1])[0] in name.split()[1:]
    assert blocked >= 0.9 * len(rows) and right >= 0.9 * blocked, (right, blocked, len(rows))
