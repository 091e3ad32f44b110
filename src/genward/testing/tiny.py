"""Tiny Stable Diffusion pipelines: the real classes, random weights, built in code in about 0.1 s."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

from genward.core.spec import Spec
from genward.models.sd import StableDiffusion
from genward.ops.asking import STAND_IN


def _clip(seed: int) -> tuple[Any, Any]:
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    # CLIP's byte alphabet: printable bytes stand for themselves, the others are shifted past 255
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in keep] + [chr(256 + k) for k in range(256 - len(keep))]
    words = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={w: k for k, w in enumerate(words)}, merges=[], model_max_length=77)
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )
    return tokenizer, CLIPTextModel(config).eval()


def _bert(seed: int, folder: Path) -> tuple[Any, Any]:
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    alphabet = [*string.ascii_lowercase, *string.digits, *"',.-!?"]
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *alphabet, *("##" + c for c in alphabet)]
    (folder / "vocab.txt").write_text("\n".join(vocab), "utf-8")
    tokenizer = BertTokenizerFast(
        vocab_file=str(folder / "vocab.txt"), vocab=str(folder / "vocab.txt"), model_max_length=28
    )
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocab), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    encoder = BertModel(config).eval()
    encoder.config.use_attention_mask = True
    return tokenizer, encoder


def _vae() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=64,
    ).eval()


def tiny_pipeline(*, seed: int = 0, encoder: str = "clip", folder: Path | None = None, deep: bool = False) -> Any:
    """A stock ``StableDiffusionPipeline`` of tiny width, 64×64 pixels (8×8 latents), DDIM.

    Args:
        seed: of the random weights.
        encoder: ``clip`` (77 tokens, no mask) or ``bert`` (28 tokens, masked; needs ``folder`` for its word list).
        deep: the block layout of Stable Diffusion 1.5 (16 transformer blocks) instead of a shallow one (7).
    """
    import torch
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    tokenizer, text_encoder = _clip(seed) if encoder == "clip" else _bert(seed, folder or Path("."))
    torch.manual_seed(seed + 1)
    layout: dict[str, Any] = (
        {"block_out_channels": (8, 16, 32, 32), "layers_per_block": 2}
        if deep
        else {
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        }
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=2,
        **layout,
    ).eval()
    vae = _vae()
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    for part in (text_encoder, unet, vae):
        part.requires_grad_(False)
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    setattr(pipe, STAND_IN, True)
    return pipe


def tiny_xl(*, seed: int = 0) -> Any:
    """A stock ``StableDiffusionXLPipeline`` of tiny width, with two CLIP encoders, 64×64 pixels, DDIM."""
    import torch
    from diffusers import DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModelWithProjection

    tokenizer, first = _clip(seed)
    tokenizer_2, plain = _clip(seed + 1)
    torch.manual_seed(seed + 2)
    config = plain.config
    config.projection_dim = 16
    second = CLIPTextModelWithProjection(config).eval()
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        norm_num_groups=4,
        cross_attention_dim=32,
        attention_head_dim=2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
    ).eval()
    pipe = StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    setattr(pipe, STAND_IN, True)
    return pipe


def tiny_inpaint(*, seed: int = 0) -> Any:
    """A stock ``StableDiffusionInpaintPipeline`` of the parts of ``tiny_pipeline``."""
    from diffusers import StableDiffusionInpaintPipeline

    pipe = StableDiffusionInpaintPipeline(**tiny_pipeline(seed=seed).components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    setattr(pipe, STAND_IN, True)
    return pipe


def tiny_sd(*, seed: int = 0, encoder: str = "clip", folder: Path | None = None, deep: bool = False) -> StableDiffusion:
    """``tiny_pipeline`` as a genward model; its identity is the recipe that built it."""
    pipe = tiny_pipeline(seed=seed, encoder=encoder, folder=folder, deep=deep)
    return StableDiffusion(pipe, Spec("model", "tiny-sd", {"seed": seed, "encoder": encoder, "deep": deep}))
