"""Searching over tokens: the words of a public tokenizer, what survives being written and read again, and projections
onto them. Pure, batched, without a denoiser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from genward.core.records import MAX_PROMPT
from genward.errors import BadInput

REFUSED = -2.0
"""Stands for the margin of a picture that nobody may see; margins of pictures lie in [-1, 1]."""
READ_AT_ONCE = 4096
FUNCTION = frozenset("a an the of in on at to with and or for from by above below two pair image picture style".split())
"""Words that no filter knows a concept by"""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The tokens of a text encoder that an attack may write."""

    tokenizer: Any
    """A tokenizer of transformers; it is not changed."""
    table: Tensor
    """(V, width) embeddings, float32 or wider"""
    usable: Tensor
    """(k,) sorted ids of tokens that stand alone: written out and read again they are themselves"""

    @classmethod
    def of(cls, tokenizer: Any, table: Tensor) -> Self:
        """All words of a tokenizer.

        Raises:
            BadInput: no token survives being written and read again.
        """
        special = set(tokenizer.all_special_ids)
        ids = [k for k in range(min(len(tokenizer), len(table))) if k not in special]
        texts = [_written(tokenizer, [k]) for k in ids]
        kept = []
        for k in range(0, len(ids), READ_AT_ONCE):
            read = tokenizer(texts[k : k + READ_AT_ONCE], add_special_tokens=False).input_ids
            part = zip(ids[k : k + READ_AT_ONCE], texts[k : k + READ_AT_ONCE], read, strict=True)
            kept += [i for i, text, found in part if found == [i] and text.isprintable()]
        if not kept:
            raise BadInput("no token of this tokenizer survives being written and read again; nothing can be searched")
        wide = table.detach().to(torch.promote_types(table.dtype, torch.float32))
        return cls(tokenizer, wide, torch.tensor(kept, dtype=torch.long))

    def without(self, forbidden: Sequence[str]) -> Self:
        """Without the tokens whose text holds a forbidden word, or is held by one (from three letters on), whatever
        its case. ``BadInput`` where nothing is left."""
        low = [w.casefold() for w in forbidden if w.strip()]
        texts = [_written(self.tokenizer, [k]).casefold() for k in self.usable.tolist()]
        good = [not any(w in t or (len(t) > 2 and t in w) for w in low) for t in texts]
        left = self.usable[torch.tensor(good, dtype=torch.bool)]
        if not len(left):
            raise BadInput("every token is forbidden; name fewer words")
        return replace(self, usable=left)

    def within(self, words: Sequence[str]) -> Self:
        """Only the tokens that are one of the words, whatever its case. ``BadInput`` where nothing is left."""
        wanted = {w.casefold() for w in words}
        good = [_written(self.tokenizer, [k]).casefold() in wanted for k in self.usable.tolist()]
        left = self.usable[torch.tensor(good, dtype=torch.bool)]
        if not len(left):
            raise BadInput("no token of this tokenizer is one of the words that may be written")
        return replace(self, usable=left)

    def text(self, ids: Sequence[int]) -> str:
        """Tokens as they are written in a prompt."""
        return _written(self.tokenizer, ids)

    def ids(self, text: str) -> list[int]:
        """The tokens of a prompt, without the encoder's own marks."""
        found: list[int] = self.tokenizer(text, add_special_tokens=False, truncation=False).input_ids
        return found

    def survives(self, ids: Sequence[int]) -> bool:
        """Whether tokens, written out and read again, are the same, fit the window and can be a prompt."""
        text = self.text(ids)
        return len(text) <= MAX_PROMPT and len(ids) <= self.room and self.ids(text) == list(ids)

    @property
    def room(self) -> int:
        """Tokens that a prompt may have, the encoder's own marks left out."""
        return min(int(self.tokenizer.model_max_length), 512) - sum(map(len, self.marks))

    def whole(self, ids: Sequence[int]) -> list[int]:
        """Tokens with the encoder's own marks around them."""
        return [*self.marks[0], *ids, *self.marks[1]]

    @cached_property
    def marks(self) -> tuple[list[int], list[int]]:
        """The encoder's own marks in front of a text and behind it."""
        one = int(self.usable[0])
        found: list[int] = self.tokenizer(self.text([one])).input_ids
        place = found.index(one)
        return found[:place], found[place + 1 :]


def content_words(phrases: Sequence[str]) -> list[str]:
    """The words of phrases that mean something, in lower case, each once: no articles and prepositions."""
    found = (w.casefold().strip(",.") for phrase in phrases for w in phrase.split())
    return [w for w in dict.fromkeys(found) if w and w not in FUNCTION]


def _written(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
    return text.strip()


def nearest(vectors: Tensor, table: Tensor, usable: Tensor) -> Tensor:
    """The usable token whose embedding has the largest cosine with each vector (hard prompts, Wen et al., arXiv
    2302.03668).

    Args:
        vectors: (..., width). table: (V, width). usable: (k,) ids.

    Returns:
        (...) ids. All vectors in one matrix product; of equals the one that comes first in ``usable``.
    """
    mine = torch.nn.functional.normalize(table[usable].to(vectors), dim=-1)
    return usable[(torch.nn.functional.normalize(vectors, dim=-1) @ mine.T).argmax(-1).to(usable.device)]


FOLD = 16
"""Entries that share a place of a folded row"""
FEW = 256
"""Entries of a row from which on it is not folded"""
AT_ONCE = 1 << 19
"""Entries that are looked at together: they should stay in the processor's cache from one pass to the next"""


def project_simplex(rows: Tensor) -> Tensor:
    """The nearest point of the probability simplex to each row (..., V), exact and many rows at once, where the
    reference code of UnlearnDiffAtk bisects row by row.

    The shift is found by active sets (Michelot, J. Optim. Theory Appl. 1986): while what lies above the shift adds up
    to more than 1, it is raised by the excess over their number, until none falls below it. It only rises, so that any
    part of a row's entries gives a start below the row's shift: rows are folded, and the shift of the largest entries
    of each place leaves few places to look at.
    """
    flat = rows.reshape(-1, rows.shape[-1])
    out = torch.empty_like(flat)
    size = max(1, AT_ONCE // flat.shape[-1])
    for k in range(0, len(flat), size):
        part = out[k : k + size]
        torch.sub(flat[k : k + size], _shift(flat[k : k + size]), out=part)
        part.clamp_(min=0)
    return out.view_as(rows)


def _shift(rows: Tensor) -> Tensor:
    """(n, 1) the number by which each row (n, V) is lowered."""
    count, width = rows.shape
    if width <= FEW:
        return _raised(lambda shift: _above(rows, shift), (rows.sum(-1, keepdim=True) - 1) / width)
    even = width // FOLD * FOLD
    folded, rest = rows[:, :even].view(count, FOLD, -1), rows[:, even:]
    top = folded.amax(1)
    low = _shift(top)
    row, place = (top > low).nonzero(as_tuple=True)
    if len(row) * 2 > top.numel():  # most places stay: picking them costs more than it saves
        return _raised(lambda shift: _above(rows, shift), low)
    left = folded[row, :, place]

    def above(shift: Tensor) -> tuple[Tensor, Tensor]:
        mine, others = _above(left, shift[row]), _above(rest, shift)
        return others[0].index_add_(0, row, mine[0]), others[1].index_add_(0, row, mine[1])

    return _raised(above, low)


def _above(rows: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """((n, 1) sum of the excess over a shift (n, 1), (n, 1) number of entries above it)."""
    over = (rows - shift).clamp_(min=0)
    return over.sum(-1, keepdim=True), over.sign().sum(-1, keepdim=True)


def _raised(above: Callable[[Tensor], tuple[Tensor, Tensor]], shift: Tensor) -> Tensor:
    """The shift (n, 1), raised until the excess over it is 1."""
    while True:
        excess, number = above(shift)
        # rounding may leave a row without entries above its shift: it has converged
        after = shift + (excess - 1).clamp_(min=0) / number.clamp_(min=1)
        if bool((after <= shift).all()):
            return shift
        shift = after


def refuse_nothing(name: str, **counts: float) -> None:
    """``BadInput`` that names every count below 1: a budget of nothing finds nothing."""
    low = [f"{key}={value:g}" for key, value in counts.items() if not value >= 1]
    if low:
        raise BadInput(f"{name}: {', '.join(low)}; each must be at least 1")
