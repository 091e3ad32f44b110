"""Texts that the changed text encoder reads as another thing.

Rickrolling (Struppek et al., ICCV 2023) teaches an encoder to read a look-alike letter as a whole other prompt."""

from __future__ import annotations

from genward.audits._pair import MODIFIERS, Pair, compared, scaled_through
from genward.audits.embedding_rows import TABLES
from genward.core.findings import Examined

NAME = "text_encoder"


def examine(pair: Pair) -> Examined:
    """``suspicious`` where a text with a possible trigger is read as a thing that it does not name, and the same text
    without it is not."""
    if not pair.moved(lambda n: n.startswith("text_encoder.") and not n.endswith(TABLES)):
        return Examined(skipped="no layer of the text encoder differs from the base by more than rounding")
    texts, of = pair.probes()
    maps = pair.maps(pair.base)
    states = [pair.pooled(pair.plain, by_base=True), *(pair.pooled(texts, by_base=b) for b in (True, False))]
    states.append(pair.pooled(pair.plain, by_base=False))
    plain, old, new, new_plain = scaled_through(states, [maps] * 4)
    found = compared(
        NAME, NAME, pair, texts, of, (old, new, plain, new_plain), "states through the base's key and value maps"
    )
    return Examined(found.findings, cost=found.cost, blind=(unseen(pair),))


def unseen(pair: Pair) -> str:
    """What a sweep over texts leaves out."""
    every = len(pair.model.pipe.tokenizer.get_vocab())
    tried = f"{len(pair.vocabulary()):,} of the tokenizer's {every:,} entries were, each alone"
    return (
        f"Triggers that were not tried: {tried}, and {len(MODIFIERS)} modifiers in front of each thing; not phrases of "
        "several rare words (give yours with --word)."
    )
