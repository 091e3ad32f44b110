"""The site table against the published full-size configurations, instantiated on the meta device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from genward.models.sites import text_sites, unet_sites
from genward.testing import tiny_sd

DOWN = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
UP = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
COMMON: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": DOWN,
    "up_block_types": UP,
    "layers_per_block": 2,
}
SD15 = {**COMMON, "sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
SD21 = {
    **COMMON,
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}


@pytest.mark.parametrize(("config", "millions", "heads"), [(SD15, 859.5, 8), (SD21, 865.9, None)])
def test_full_size_unets(config: dict[str, Any], millions: float, heads: int | None) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    assert round(sum(p.numel() for p in unet.parameters()) / 1e6, 1) == millions
    sites = unet_sites(unet)
    cross = [s for n, s in sites.items() if n.endswith("attn2")]
    assert len(cross) == 16
    order = [n.split(".attentions")[0] for n in sites if n.endswith("attn2")]
    assert order == sorted(order, key=lambda n: (n[0] != "d", n[0] == "u", n)), "execution order: down, middle, up"
    widths = {n.split(".attentions")[0]: s.channels for n, s in sites.items() if n.endswith("attn2")}
    assert widths == {
        "down_blocks.0": 320, "down_blocks.1": 640, "down_blocks.2": 1280, "mid_block": 1280, "up_blocks.1": 1280,
        "up_blocks.2": 640, "up_blocks.3": 320,
    }  # fmt: skip
    assert sum(s.channels for n, s in sites.items() if n.endswith("ff.hidden")) == 49_920
    assert (
        sites["down_blocks.0"].element == 0
        and sites["mid_block"].element is None
        and sites["up_blocks.1.attentions.1"].element == 0
    )
    if heads:
        assert {s.channels for n, s in sites.items() if n.endswith("probs")} == {heads}
    for site in sites.values():
        unet.get_submodule(site.path)


def test_clip_text_sites() -> None:
    with torch.device("meta"):
        encoder = CLIPTextModel(CLIPTextConfig(hidden_size=768, num_hidden_layers=12, num_attention_heads=12))
    sites = text_sites(encoder)
    assert (
        len(sites) == 24
        and sites["text.11.heads"].channels == 768
        and sites["text.11.heads"].path.endswith("layers.11.self_attn.out_proj")
    )


def test_every_site_of_a_deep_tiny_model_fires_with_its_layout() -> None:
    model = tiny_sd(deep=True)
    sites = model.sites
    assert len([n for n in sites if n.endswith("attn2")]) == 16
    seen: dict[str, torch.Size] = {}

    class Watch:
        name = "watch"

        def attach(self, rig: Any) -> None:
            for name in sites:
                rig.tap(name, lambda x, f, n=name: seen.__setitem__(n, x.shape))

    from genward.core import Sampler
    from genward.testing.suites import CASES

    model.generate(CASES, Sampler(steps=1, guidance=2.0), [Watch()])  # type: ignore[list-item]
    assert set(seen) == set(sites)
    for name, shape in seen.items():
        site = sites[name]
        axis = 1 if site.stream in ("image", "probs") else -1
        assert shape[axis] == site.channels and len(shape) == (4 if site.stream in ("image", "probs") else 3), name
        assert shape[0] == (3 if name.startswith("text.") else 6)
