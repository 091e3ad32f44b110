"""The text normalizer as a defense."""

from __future__ import annotations

import pytest

from genward.core import Case, Concept, Prompt, Sampler
from genward.defenses.normalize import TextNormalizer
from genward.errors import BadInput, UnknownName
from genward.models.sd import StableDiffusion
from genward.testing import defense_laws
from genward.testing.suites import same


def test_laws(model: StableDiffusion) -> None:
    defense_laws(model, TextNormalizer, zero={"steps": ()}, changes=False)


def test_a_disguised_prompt_draws_what_the_plain_one_draws(model: StableDiffusion) -> None:
    sampler = Sampler(steps=2, guidance=3.0)
    plain = model.generate([Case("a", "a red cat", seed=1, negative="a dog")], sampler)
    hidden = [Case("a", "a r\u200bеd c4t", seed=1, negative="a d\u200bog")]
    assert same(plain, model.generate(hidden, sampler, [TextNormalizer()]))
    assert not same(plain, model.generate(hidden, sampler))


def test_words_come_from_the_concept(concept: Concept, fake_rig: type) -> None:
    defense = TextNormalizer.for_concept(concept)
    assert defense.concept == "tools" and "hatchet" in defense.words and "a" not in defense.words
    rig = fake_rig()
    defense.attach(rig)
    assert rig.attached["prompts"]([Prompt("a saaaaw", "ａxe")]) == [Prompt("a saw", "axe")]


def test_bad_settings() -> None:
    with pytest.raises(UnknownName, match="leet"):
        TextNormalizer(steps=("lee",))
    with pytest.raises(BadInput, match="NFKC"):
        TextNormalizer(form="NFC")
