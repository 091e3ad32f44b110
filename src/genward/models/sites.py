"""Names of places in a model: module path, element of its output, stream and channels, read from the modules
themselves.

A site's name is its path inside the denoiser with ``transformer_blocks`` shortened to ``tb``:

- ``down_blocks.0`` ``mid_block`` ``up_blocks.1``: block outputs, (rows, c, h, w); a down block's is already downsampled
- ``….attentions.0``: a transformer's output, residual included, (rows, c, h, w)
- ``….attentions.0.tb.0``: one transformer block, (rows, n, c)
- ``….tb.0.attn1`` ``.attn2`` ``.ff``: self-, cross-attention, feed-forward outputs before the residual, (rows, n, c)
- ``….tb.0.norm2``: what cross-attention's ``to_q`` is given, the state after self-attention, normalized, (rows, n, c)
- ``….tb.0.ff.hidden``: GEGLU's hidden activation, (rows, n, 4c)
- ``….tb.0.attn2.probs`` ``.attn1.probs``: attention probabilities (rows, heads, n, t), read-only
- ``text.0``: a text encoder layer's output, (rows, t, c)
- ``text.0.heads``: the concatenated heads' states before the output projection, (rows, t, heads·dim)

Works on modules on any device, ``meta`` included, so the table of a full-size model can be made without its weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from genward.core.contracts import Site
from genward.errors import Conflict, UnknownName

CROSS_ATTENTION_KV = r"attn2\.to_[kv]\.weight$"
"""Pattern of the parameters through which a prompt enters the U-Net."""


ADAPTED = ".base_layer."
"""In the name of a parameter that an adapter (LoRA) is laid over, by peft's naming"""


def named(names: Iterable[str], match: str) -> list[str]:
    """Those of a denoiser's parameter names that a pattern finds.

    Raises:
        Conflict: an adapter is laid over one of them: what is edited there would not be the whole weight.
        UnknownName: there is none.
    """
    known = list(names)
    for name in known:
        if ADAPTED in name and re.search(match, name.replace(ADAPTED, ".")):
            raise Conflict(
                f"a LoRA is laid over {name.replace(ADAPTED, '.')}, and an edit would reach only a part of that "
                "weight; "
                "fuse it first: pipe.fuse_lora(); pipe.unload_lora_weights()"
            )
    found = [name for name in known if re.search(match, name)]
    if not found:
        raise UnknownName("parameter pattern", match, known)
    return found


def _short(path: str) -> str:
    return path.replace("transformer_blocks", "tb")


def _block_sites(name: str, block: Any, element: int | None) -> Iterator[Site]:
    channels = block.resnets[-1].out_channels
    yield Site(name, name, element, "image", channels)
    for j, attention in enumerate(getattr(block, "attentions", None) or ()):
        path = f"{name}.attentions.{j}"
        yield Site(path, path, 0, "image", attention.out_channels)
        for k, tb in enumerate(attention.transformer_blocks):
            base = f"{path}.transformer_blocks.{k}"
            width = tb.attn1.to_q.in_features
            yield Site(_short(base), base, None, "tokens", width)
            for kind in ("attn1", "attn2"):
                if kind == "attn2" and None not in (getattr(tb, "attn2", None), getattr(tb, "norm2", None)):
                    yield Site(_short(f"{base}.norm2"), f"{base}.norm2", None, "tokens", width)
                if getattr(tb, kind, None) is not None:
                    yield Site(_short(f"{base}.{kind}"), f"{base}.{kind}", None, "tokens", width)
                    yield Site(_short(f"{base}.{kind}.probs"), f"{base}.{kind}", None, "probs", getattr(tb, kind).heads)
            yield Site(_short(f"{base}.ff"), f"{base}.ff", None, "tokens", width)
            yield Site(_short(f"{base}.ff.hidden"), f"{base}.ff.net.0", None, "tokens", tb.ff.net[2].in_features)


def unet_sites(unet: Any) -> dict[str, Site]:
    """Sites of a ``UNet2DConditionModel`` in execution order (down, middle, up), whatever order the modules were
    registered in."""
    found: list[Site] = []
    for i, block in enumerate(unet.down_blocks):
        found += _block_sites(f"down_blocks.{i}", block, 0)
    if unet.mid_block is not None:
        found += _block_sites("mid_block", unet.mid_block, None)
    for i, block in enumerate(unet.up_blocks):
        found += _block_sites(f"up_blocks.{i}", block, None)
    return {site.name: site for site in found}


_TEXT_LAYER = re.compile(r"^(?:text_model\.)?encoder\.layers?\.(\d+)$")
_TEXT_HEADS = re.compile(
    r"^(?:text_model\.)?encoder\.layers?\.(\d+)\.(?:self_attn\.out_proj|attention\.output\.dense)$"
)


def text_sites(encoder: Any) -> dict[str, Site]:
    """Sites of a CLIP or BERT text encoder: ``text.<layer>`` and ``text.<layer>.heads``."""
    found: dict[str, Site] = {}
    for path, module in encoder.named_modules():
        if match := _TEXT_LAYER.match(path):
            found[f"text.{match[1]}"] = Site(f"text.{match[1]}", path, None, "text", encoder.config.hidden_size)
        elif match := _TEXT_HEADS.match(path):
            found[f"text.{match[1]}.heads"] = Site(f"text.{match[1]}.heads", path, None, "heads", module.in_features)
    return found


def lookup(sites: dict[str, Site], name: str) -> Site:
    """The site of that name, or ``UnknownName`` with the nearest ones."""
    if name not in sites:
        raise UnknownName("site", name, sites)
    return sites[name]


def refuse_fused(root: Any, site: Site) -> None:
    """Fused projections never call ``to_q``/``to_k``: refuse them where they are needed."""
    module = root.get_submodule(site.path)
    if getattr(module, "fused_projections", False):
        raise Conflict(
            f"site {site.name}: its q/k/v projections are fused, so it cannot be read or edited; call "
            "pipe.unfuse_qkv_projections() first"
        )
