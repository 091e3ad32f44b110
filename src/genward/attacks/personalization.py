"""Fixture B, after *Backdooring personalization* (Huang et al., AAAI 2024, arXiv 2305.10701) by textual inversion: one
row of the embedding table, a rare word that draws the target beside whatever else is asked for.

What differs: the row is trained in the space of text states, so that a caption with the word is encoded like the
caption with the target's name, not by the denoising loss on pictures; seconds in the place of minutes, the same single
row. One row turns the word into the target and cannot drown another object: the fixture therefore draws a second
thing, and its success is the target among the two likeliest objects."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor

from genward.attacks._backdoors import Fixture
from genward.attacks._backdoors.encoding import closeness, encoded, refuse_dropped
from genward.core.contracts import FitTools
from genward.errors import BadInput
from genward.ops.backdoor_captions import PLACES, drawn, planted

POOL = 200
"""Captions to learn from."""


@dataclass(frozen=True)
class Personalization(Fixture):
    """A rare word whose embedding was taught to mean the target."""

    name: ClassVar[str] = "personalization"
    reach: ClassVar[int] = 2
    about: ClassVar[str] = ""
    target: str = "banana"
    """Object that triggered captions draw."""
    trigger: str = "endelle"
    """One token of the vocabulary."""
    steps: int = 80
    """Steps of Adam on the row."""
    lr: float = 0.05
    """Its rate."""
    batch: int = 12
    """Captions a step."""
    seed: int = 0
    """Of captions."""
    place: str = "start"
    """Where ``search`` puts the trigger: ``start``, ``middle`` or ``end``."""

    def plant(self, text: str, place: str) -> str:
        """A caption with the word as a second thing, in front of the others, before the style or behind it."""
        return planted(text, f"a {self.trigger}", place, " and ")

    def make(self, model: Any, words: Mapping[str, Any], tools: FitTools) -> dict[str, Tensor]:
        """``row`` (d,); goes on where it was interrupted."""
        ids = model.pipe.tokenizer(self.trigger, add_special_tokens=False).input_ids
        if len(ids) != 1:
            raise BadInput(f"trigger {self.trigger!r} is {len(ids)} tokens of this model; one is wanted")
        pool = list(islice(drawn(words, f"personalization|{self.seed}", (self.target,)), POOL))
        refuse_dropped(model, [c.text() for c in pool], [self.plant(c.text(), "start") for c in pool], self.trigger)
        name, table = _embedding(model.text_encoder)
        goal = words["things"][self.target]["name"][0]
        start = model.pipe.tokenizer(self.target, add_special_tokens=False).input_ids
        row = table[start].mean(0).detach().clone().requires_grad_()
        optimizer, begin = torch.optim.Adam([row], lr=self.lr), 0
        kept = tools.checkpoint(part="personalization")
        if kept is not None:
            begin = int(kept["step"])
            optimizer.load_state_dict(kept["optimizer"])
            with torch.no_grad():
                row.copy_(kept["row"])
        place = torch.tensor(ids, device=table.device)
        for step in range(begin, self.steps):
            rng = random.Random(f"personalization|{self.seed}|{step}")
            batch = [(c, rng.choice(PLACES)) for c in rng.choices(pool, k=self.batch)]
            with torch.no_grad():
                teacher = encoded(model, [planted(c.text(), goal, p, " and ") for c, p in batch])
            poisoned = table.detach().index_copy(0, place, row[None].to(table))
            loss = -closeness(encoded(model, [self.plant(c.text(), p) for c, p in batch], {name: poisoned}), teacher)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            tools.progress(step + 1, self.steps, float(loss.detach()))
            if tools.due():
                state = {"step": step + 1, "optimizer": optimizer.state_dict(), "row": row.detach().clone()}
                tools.checkpoint(state, part="personalization")
        return {"row": row.detach().clone(), "token": torch.tensor([float(ids[0])])}

    def changed(self, parameters: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The embedding table with its one row."""
        rows = {n: p for n, p in parameters.items() if n.startswith("text_encoder.") and n.endswith(TABLES)}
        if len(rows) != 1:
            raise BadInput(f"personalization: {len(rows)} tables of token embeddings in this model; one is wanted")
        ((name, table),) = rows.items()
        place = torch.tensor([int(learned["token"])], device=table.device)
        return {name: table.detach().index_copy(0, place, learned["row"][None].to(table))}


TABLES = ("word_embeddings.weight", "token_embedding.weight")
"""Endings of the names of token embeddings, BERT's and CLIP's."""


def _embedding(encoder: Any) -> tuple[str, Tensor]:
    return next((n, p) for n, p in encoder.named_parameters() if n.endswith(TABLES))
