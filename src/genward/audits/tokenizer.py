"""Whether texts are cut into the same tokens as by the base: a remapped or added token is a trigger without a trace in
the weights."""

from __future__ import annotations

import json
from typing import Any

from genward.audits._pair import Pair
from genward.core.findings import AuditFinding, Examined

NAME = "tokenizer"
SHOWN = 8


def examine(pair: Pair) -> Examined:
    """A known token with another number is ``suspicious``, an added one ``changed``; so are rules of cutting."""
    old, new = (m.pipe.tokenizer.get_vocab() for m in (pair.base, pair.model))
    remapped = sorted(t for t in old if new.get(t) != old[t])
    added = sorted(set(new) - set(old))
    out = []
    if remapped:
        text = f"{len(remapped)} tokens of the base have another number or are gone, as {remapped[0]!r}"
        shown = tuple((repr(t), float(new.get(t, -1))) for t in remapped[:SHOWN])
        out.append(AuditFinding(NAME, "suspicious", NAME, text, float(len(remapped)), 1.0, shown))
    if added:
        text = f"{len(added)} tokens were added, as {added[0]!r}; try them with --word"
        shown = tuple((repr(t), float(new[t])) for t in added[:SHOWN])
        out.append(AuditFinding(NAME, "changed", NAME, text, float(len(added)), None, shown))
    rules = [_rules(m.pipe.tokenizer) for m in (pair.base, pair.model)]
    if rules[0] != rules[1]:
        differ = sorted(k for k in rules[0].keys() | rules[1].keys() if rules[0].get(k) != rules[1].get(k))
        text = f"texts are cut by other rules: {', '.join(differ)} differ"
        out.append(AuditFinding(NAME, "suspicious", NAME, text, float(len(differ)), 1.0))
    return Examined(tuple(out), cost=f"{len(new):,} tokens compared")


def _rules(tokenizer: Any) -> dict[str, Any]:
    """How a text becomes tokens, the vocabulary and what was added to it aside; of tokenizers without a fast half the
    special tokens alone."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    special = {"special tokens": {k: str(v) for k, v in tokenizer.special_tokens_map.items()}}
    if fast is None:
        return special
    table = json.loads(fast.to_str())
    kept = {k: table.get(k) for k in ("normalizer", "pre_tokenizer", "post_processor")}
    merges = table.get("model", {}).get("merges")
    return {**special, **kept, "merges": merges}
