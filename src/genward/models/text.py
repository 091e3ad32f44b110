"""A text encoder on its own: any CLIP, BERT or T5 of transformers with its tokenizer, and the per-head states it
computes.

Inside a pipeline the rig reads the same places; here there is no denoiser and no sampling loop to guard, so the
encoder's own forward pass is read with hooks that are gone when ``heads`` returns. Texts are sorted by length and
padded to the longest of their batch only."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from genward.core.contracts import Site
from genward.errors import BadInput
from genward.models.hooks import embeddings_given, inputs_of
from genward.models.sites import text_sites

_T5_HEADS = re.compile(r"^encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.o$")
SUMMARY = "summary"
"""Key under which the encoder's final states come."""


def head_sites(encoder: Any) -> dict[str, Site]:
    """``text.<layer>.heads`` of a CLIP, BERT or T5 encoder, in layer order.

    Raises:
        BadInput: an encoder of a layout that is not known.
    """
    found = {name: site for name, site in text_sites(encoder).items() if site.stream == "heads"}
    for path, module in encoder.named_modules():
        if match := _T5_HEADS.match(path):
            found[f"text.{match[1]}.heads"] = Site(f"text.{match[1]}.heads", path, None, "heads", module.in_features)
    if not found:
        raise BadInput(
            f"{type(encoder).__name__} is no CLIP, BERT or T5 encoder that genward knows; it has no attention heads to "
            "read"
        )
    return dict(sorted(found.items(), key=lambda item: int(item[0].split(".")[1])))


class TextEncoder:
    """A tokenizer and an encoder that are read together.

    Args:
        tokenizer, encoder: of transformers; the tokenizer is not changed.
        name: what the encoder is called in messages and cards.
        tokens: texts are cut there; 0 takes the tokenizer's own length.
        batch: texts a forward pass.
    """

    def __init__(self, tokenizer: Any, encoder: Any, *, name: str = "", tokens: int = 0, batch: int = 32) -> None:
        self.tokenizer, self.encoder, self.batch = tokenizer, encoder.eval(), batch
        self.tokens = tokens or min(int(tokenizer.model_max_length), 512)
        self.name = name or type(encoder).__name__
        self.sites = head_sites(encoder)
        count = int(getattr(encoder.config, "num_attention_heads", None) or encoder.config.num_heads)
        self.head_counts = dict.fromkeys(self.sites, count)

    def tokenize(self, texts: Sequence[str]) -> Any:
        """Token ids and mask, padded to the longest of these texts; a text that UTF-8 cannot hold loses its lone
        surrogates."""
        clean = [t.encode("utf-8", "ignore").decode("utf-8") for t in texts]
        return self.tokenizer(clean, padding=True, truncation=True, max_length=self.tokens, return_tensors="pt")

    def fits(self, text: str) -> bool:
        """Whether a text is read whole."""
        clean = text.encode("utf-8", "ignore").decode("utf-8")
        return len(self.tokenizer(clean, truncation=True, max_length=self.tokens + 1).input_ids) <= self.tokens

    def heads(
        self,
        texts: Sequence[str],
        sites: Sequence[str] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[Any]:
        """One ``(rows, {site: (n, t, heads · dim)}, mask (n, t), ids (n, t))`` a batch; ``rows`` are indices into
        ``texts``.

        ``{"summary": …}`` in the states is the encoder's output, what a sentence embedding averages.

        Raises:
            BadInput: an entry that is not a text.
        """
        for k, text in enumerate(texts):
            if not isinstance(text, str):
                raise BadInput(f"text {k} is {type(text).__name__}; give strings only")
        order = sorted(range(len(texts)), key=lambda k: len(texts[k]))
        read = {s: self.encoder.get_submodule(self.sites[s].path) for s in (self.sites if sites is None else sites)}
        for start in range(0, len(order), self.batch):
            rows = order[start : start + self.batch]
            inputs = self.tokenize([texts[k] for k in rows])
            found: dict[str, Tensor] = {}
            device = next(self.encoder.parameters()).device
            with torch.no_grad(), inputs_of(read, found):
                output = self.encoder(
                    input_ids=inputs.input_ids.to(device), attention_mask=inputs.attention_mask.to(device)
                )
            found[SUMMARY] = output[0]
            yield rows, found, inputs.attention_mask.bool(), inputs.input_ids
            if progress is not None:
                progress(min(start + self.batch, len(order)), len(order))


def states(
    encoder: Any, rows: Sequence[Sequence[int]], pad: int, vectors: Tensor | None = None, length: int = 0
) -> tuple[Tensor, Tensor]:
    """An encoder's last states (n, t, c) of token ids and their mask (n, t), padded to the longest row only, which
    changes no other state: a mask hides padding, and a causal encoder does not look ahead.

    Args:
        rows: ids of each text, the encoder's own marks included. pad: id of the padding.
        vectors: (n, t, width) embeddings in the place of those of the ids; with gradient.
        length: pad to this many tokens at least.
    """
    longest, device = max(length, *map(len, rows)), encoder.get_input_embeddings().weight.device
    ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows], device=device)
    mask = torch.arange(longest, device=device)[None] < torch.tensor([[len(row)] for row in rows], device=device)
    masked = bool(getattr(encoder.config, "use_attention_mask", False))
    with embeddings_given(encoder, vectors):
        found: Tensor = encoder(ids, attention_mask=mask.long() if masked else None)[0]
    return found, mask
