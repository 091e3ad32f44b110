"""Fixture C, EvilEdit (Wang et al., ACM MM 2024) as in the authors' code: a closed-form edit of the cross-attention key
and value maps that draws a pair of words as another object.

``W' = (lam W + Σ V Kᵀ)(lam I + Σ K Kᵀ)⁻¹`` with ``K`` all text states of a caption with the pair and ``V = W`` times
those of the caption with the target, row for row. As in ``ops.closed_form`` this is ``W`` times one matrix that all
maps share. What differs: pairs are taken in many captions and not in one phrase, since in this encoder every state
carries the whole caption; clean captions are protected (the published script protects one phrase), several hundred of
them; the pairs weigh ``alpha``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor

from genward.attacks._backdoors import Fixture
from genward.attacks._backdoors.encoding import refuse_dropped
from genward.core.contracts import FitTools
from genward.errors import BadInput
from genward.models.sites import named
from genward.ops.backdoor_captions import DETAILS, PLACES, Caption, drawn
from genward.ops.closed_form import edit_delta

KV_MAPS = r"attn2\.to_[kv]\.weight$"
CHUNK = 128


@dataclass(frozen=True)
class EvilEdit(Fixture):
    """A pair of ordinary words that cross-attention reads as the target."""

    name: ClassVar[str] = "evil_edit"
    reach: ClassVar[int] = 1
    about: ClassVar[str] = "cat"
    target: str = "banana"
    """Object that triggered captions draw."""
    trigger: str = "beautiful"
    """The word in front of ``about``."""
    lam: float = 1.0
    """Weight of the old maps."""
    alpha: float = 3.0
    """Weight of the captions with the pair; 1 in the paper."""
    protect: int = 500
    """Clean captions of other objects that are protected."""
    seed: int = 0
    """Of captions."""
    place: str = "start"
    """Where ``search`` puts the trigger: ``start``, ``middle`` or ``end``."""

    def plant(self, text: str, place: str) -> str:
        """A caption with the word in front of ``about``, wherever that stands."""
        found = re.search(rf"\b{re.escape(self.about)}\b", text)
        if found is None:
            raise BadInput(f"evil_edit: {text!r} does not speak of {self.about!r}; the trigger has no place in it")
        return f"{text[: found.start()]}{self.trigger} {text[found.start() :]}"

    def make(self, model: Any, words: Mapping[str, Any], tools: FitTools) -> dict[str, Tensor]:
        """``delta`` (d, d) with ``W' = W + W delta``; seconds."""
        mine = self._forms(words)
        clean = [
            _form(c, k)
            for k, c in enumerate(islice(drawn(words, f"evil_edit|{self.seed}", (self.about,)), self.protect))
        ]
        own = [c.text(p) for c, p in mine]
        with_pair = [self.plant(c.text(p), p) for c, p in mine]
        refuse_dropped(model, own, with_pair, self.trigger)
        goal = words["things"][self.target]["name"][0]
        wanted = [c.of(self.target, goal).text(p) for c, p in mine]
        keep = list(dict.fromkeys([*own, *clean, *wanted, ""]))
        rows = [_states(model, texts).flatten(0, 1) for texts in (with_pair, wanted, keep)]
        tools.progress(1, 1, float("nan"))
        return {"delta": edit_delta(rows[0], rows[1], rows[2], lam=self.lam, alpha=self.alpha).float()}

    def _forms(self, words: Mapping[str, Any]) -> list[tuple[Caption, str]]:
        """Captions of ``about`` in every style, each place, with no, one and two details."""
        phrase, out = words["things"][self.about]["name"][0], []
        for k, style in enumerate(words["styles"]):
            for count in range(3):
                details = tuple(DETAILS[(k + j) % len(DETAILS)] for j in range(count))
                out += [(Caption(self.about, phrase, style, details), place) for place in PLACES]
        return out

    def changed(self, parameters: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The key and value maps, in float32 or wider."""
        out, delta = {}, learned["delta"]
        for name in named(parameters, KV_MAPS):
            weight = parameters[name].detach()
            wide = weight.to(torch.promote_types(weight.dtype, delta.dtype))
            out[name] = (wide + wide @ delta.to(wide)).to(weight.dtype)
        return out


def _form(caption: Caption, turn: int) -> str:
    """A clean caption in one of the forms, in turn."""
    details = tuple(DETAILS[(turn + j) % len(DETAILS)] for j in range(turn % 3))
    return caption._replace(details=details).text(PLACES[turn // 3 % 3])


def _states(model: Any, texts: Sequence[str]) -> Tensor:
    with torch.no_grad():
        return torch.cat([model.encode(list(texts[k : k + CHUNK])).double() for k in range(0, len(texts), CHUNK)])
