"""Rows of the token embedding that differ from the base, and what the tokens now mean.

Personalization (Huang et al., AAAI 2024) plants a backdoor in a single row: a rare word is taught another thing."""

from __future__ import annotations

from genward.audits._pair import Pair, compared, scaled_through
from genward.core.findings import AuditFinding, Examined

NAME = "embedding_rows"
TABLES = ("word_embeddings.weight", "token_embedding.weight")
MOST = 2000
"""Changed rows whose tokens are read, the most changed first."""


def examine(pair: Pair) -> Examined:
    """``suspicious`` where the token of a changed row is read as a named thing that it did not mean."""
    old, new = pair.weights(pair.base), pair.weights(pair.model)
    names = [n for n in new if n.startswith("text_encoder.") and n.endswith(TABLES)]
    if not pair.moved(names.__contains__):
        return Examined(skipped="no row of the embedding table differs from the base by more than rounding")
    name = next(n for n in names if n in pair.changed)
    before = old[name].double()
    step = (new[name].double() - before).norm(dim=1) / before.norm(dim=1).clamp_min(1e-30)
    rows = [k for k in step.argsort(descending=True).tolist() if float(step[k]) > 0]
    texts = {}
    for k in rows[:MOST]:
        word = pair.model.pipe.tokenizer.convert_ids_to_tokens(k).removesuffix("</w>").removeprefix("##")
        if word.isprintable() and word.strip():
            texts[f"a picture of a {word}"] = float(step[k])
    told = f"{len(rows):,} of {len(step):,} rows differ, the most by {float(step[rows[0]]):.2g} of its length"
    first = AuditFinding(NAME, "changed", name, told, float(step[rows[0]]), None, tuple(list(texts.items())[:8]))
    if not texts:
        return Examined((first,), blind=("Tokens of changed rows cannot be typed; none was read.",))
    maps = pair.maps(pair.base)
    tried = list(texts)
    states = [pair.pooled(t, by_base=b) for t in (tried, pair.plain) for b in (True, False)]
    old_plain, new_plain = states[2], states[3]
    readings = scaled_through([old_plain, states[0], states[1], new_plain], [maps] * 4)
    found = compared(
        NAME,
        name,
        pair,
        tried,
        [-1] * len(tried),
        (readings[1], readings[2], readings[0], readings[3]),
        "tokens of changed rows, through the base's key and value maps",
    )
    blind: tuple[str, ...] = ()
    if len(rows) > MOST:
        blind = (f"{len(rows) - MOST:,} changed rows of the embedding table were not read, the least changed ones.",)
    return Examined((first, *found.findings), cost=found.cost, blind=blind)
