"""Texts that the changed key and value maps of cross-attention read as another thing.

EvilEdit (Wang et al., ACM MM 2024) makes these maps read two ordinary words as a target, in closed form. UCE edits the
same maps in the same way to erase; its concept's own name moves, which is told as ``changed``."""

from __future__ import annotations

from genward.audits._pair import KV, Pair, compared, scaled_through
from genward.audits.text_encoder import unseen
from genward.core.findings import Examined

NAME = "cross_attention"


def examine(pair: Pair) -> Examined:
    """As ``text_encoder.examine``, on what the maps make of the base's own states."""
    if not pair.moved(lambda n: KV.match(n) is not None):
        return Examined(skipped="no key or value map differs from the base by more than rounding")
    texts, of = pair.probes()
    old, new = pair.maps(pair.base), pair.maps(pair.model)
    plain, some = (pair.pooled(t, by_base=True) for t in (pair.plain, texts))
    at, before, after, plain_after = scaled_through([plain, some, some, plain], [old, old, new, new])
    found = compared(
        NAME, "unet attn2 to_k, to_v", pair, texts, of, (before, after, at, plain_after), "key and value maps alone"
    )
    return Examined(found.findings, cost=found.cost, blind=(unseen(pair),))
