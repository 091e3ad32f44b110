"""Stages ``unet`` and ``oracles`` of the lab's recipe: the denoiser, its trunk and its two branches.

The trunk never sees what the oracle must not know (``data.ORACLE_CONCEPTS``). Two branches of equal steps continue from
it: one on everything (the lab model), one still without (the oracle). All three use the same rule: epsilon prediction
on Stable Diffusion's scaled-linear schedule, min-SNR-5 weights (Hang et al. 2023), 10 % of captions dropped for
classifier-free guidance, an exponential moving average of the weights. The learning rate is constant along the trunk
and decays along the branches, so a trunk can be trained on in a later working period."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genward.core.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint
from genward.core.precision import autocast
from genward.lab.autoencoder import to_tensor
from genward.lab.data import Vocabulary, World, place

TOKENS = 28
"""Length every prompt is padded or cut to."""


def build() -> Any:
    """The untrained denoiser (9.2 M parameters): cross-attention at 16×16 and 8×8, heads of 32 channels."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 128, 192),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=384,
        attention_head_dim=(2, 4, 6),
        norm_num_groups=16,
    )


def scheduler() -> Any:
    """Stable Diffusion's DDIM schedule, epsilon prediction, no clipping."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


@torch.no_grad()
def encode_text(tokenizer: Any, encoder: Any, texts: list[str], *, size: int = 256) -> Tensor:
    """Token states (n, 28, 384) in half precision, padding masked inside the encoder, exactly what a stock pipeline
    passes on."""
    out = []
    for k in range(0, len(texts), size):
        ids = tokenizer(
            texts[k : k + size], padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
        )
        with autocast():
            out.append(encoder(ids.input_ids, attention_mask=ids.attention_mask)[0].half())
    return torch.cat(out)


@dataclass
class Pool:
    """Encoded training rows: latents (n, 4, 16, 16) fp16, captions as indices (n, captions) into text states (m, 28,
    384) fp16."""

    latents: Tensor
    captions: Tensor
    text: Tensor
    scenes: Tensor
    empty: Tensor

    @classmethod
    def make(
        cls,
        world: World,
        words: Vocabulary,
        pictures: Mapping[tuple[str, str], Any],
        vae: Any,
        tokenizer: Any,
        encoder: Any,
        *,
        singles: int,
        scenes: int,
        captions: int = 3,
        seed: int = 0,
        progress: Callable[[str], None] = lambda _: None,
    ) -> Pool:
        """Draw ``singles`` + ``scenes`` rows from ``world``, compose and encode them, with ``captions`` wordings a
        row."""
        rng = random.Random(seed)
        table: dict[str, int] = {}
        latents, index, is_scene = [], [], []
        pending = []
        for n in range(singles + scenes):
            scene = n >= singles
            names, style, first = world.sample(words, rng, scene=1.0 if scene else 0.0)
            row = [first]
            for _ in range(captions - 1):
                row.append(world.reword(words, rng, names, style))
            index.append([table.setdefault(t, len(table)) for t in row])
            is_scene.append(scene)
            pending.append(place([pictures[o, style] for o in names], rng))
            if len(pending) == 128 or n + 1 == singles + scenes:
                with torch.no_grad(), autocast():
                    latents.append(vae.encode(to_tensor(pending)).latent_dist.mean.half())
                pending = []
                progress(f"{n + 1} of {singles + scenes} pictures encoded")
        text = encode_text(tokenizer, encoder, list(table))
        progress(f"{len(table)} captions encoded")
        empty = encode_text(tokenizer, encoder, [""])[0]
        return cls(torch.cat(latents), torch.tensor(index), text, torch.tensor(is_scene), empty)

    def batch(self, size: int, scene: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``size`` random rows, a share ``scene`` of them scenes, 10 % with the empty caption: latents and text states
        in float32."""
        singles = int((~self.scenes).sum())
        take = torch.rand(size, generator=generator) < scene
        rows = torch.where(
            take,
            singles + (torch.rand(size, generator=generator) * (len(self.scenes) - singles)).long(),
            (torch.rand(size, generator=generator) * singles).long(),
        )
        which = self.captions[rows, torch.randint(self.captions.shape[1], (size,), generator=generator)]
        text = self.text[which].float()
        text[torch.rand(size, generator=generator) < 0.1] = self.empty.float()
        return self.latents[rows].float(), text


def loss(unet: Any, sched: Any, z: Tensor, text: Tensor, generator: torch.Generator) -> Tensor:
    """Epsilon loss with min-SNR-5 weights, mean over the batch; noise and timesteps come from the CPU generator on any
    device."""
    noise = torch.randn(z.shape, generator=generator).to(z.device)
    t = torch.randint(1000, (len(z),), generator=generator)
    a = sched.alphas_cumprod[t].to(z.device)
    x = a.sqrt()[:, None, None, None] * z + (1 - a).sqrt()[:, None, None, None] * noise
    with autocast(z.device):
        pred = unet(x, t.to(z.device), text).sample.float()
    snr = a / (1 - a)
    value: Tensor = ((pred - noise).pow(2).mean((1, 2, 3)) * snr.clamp(max=5) / snr).mean()
    return value


def device() -> torch.device:
    """The accelerator when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def eager_attention(unet: Any) -> None:
    """On the CPU, use plain batched products for attention: the fused kernel's backward pass took 41 % of a training
    step on two cores."""
    if device().type != "cpu":
        return
    from diffusers.models.attention_processor import AttnProcessor

    unet.set_attn_processor(AttnProcessor())


class Optimizers:
    """AdamW for everything, or Muon for matrices (convolution kernels as (out, in·h·w)) beside AdamW for the rest;
    saved as one state.

    Muon (Jordan et al. 2024, ``torch.optim.Muon``) orthogonalizes the momentum of a matrix. Its rate is given as a
    multiple of AdamW's, at AdamW's root mean square of an update. Embeddings, the input and output convolutions and all
    vectors stay with AdamW, as its authors advise."""

    def __init__(self, unet: Any, peak: float, muon: float = 0.0) -> None:
        self.pairs: list[tuple[Tensor, Tensor]] = []
        rest = []
        for name, weight in unet.named_parameters():
            if muon and weight.ndim >= 2 and not name.startswith(("conv_in", "conv_out", "time_embedding")):
                self.pairs.append((weight, torch.nn.Parameter(weight.data.view(len(weight), -1))))
            else:
                rest.append(weight)
        self.each: dict[str, torch.optim.Optimizer] = {
            "rest": torch.optim.AdamW(rest, peak, betas=(0.9, 0.99), weight_decay=1e-3)
        }
        self.factor = {"rest": 1.0, "matrices": muon}
        if self.pairs:
            self.each["matrices"] = torch.optim.Muon(
                [flat for _, flat in self.pairs],
                peak * muon,
                momentum=0.95,
                weight_decay=1e-3,
                adjust_lr_fn="match_rms_adamw",
            )

    def step(self, rate: float) -> None:
        """One step at AdamW's ``rate``; gradients are cleared."""
        for weight, flat in self.pairs:
            flat.grad = None if weight.grad is None else weight.grad.view(flat.shape)
        for which, optimizer in self.each.items():
            for group in optimizer.param_groups:
                group["lr"] = rate * self.factor[which]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for weight, _ in self.pairs:
            weight.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {which: optimizer.state_dict() for which, optimizer in self.each.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for which, optimizer in self.each.items():
            optimizer.load_state_dict(state[which])


def schedule(step: int, seconds: float, budget: float, *, peak: float, decay: bool, warmup: int = 100) -> float:
    """Learning rate: linear warm-up, then constant; with ``decay`` a cosine to 2 % of the peak over the last two thirds
    of the budget."""
    rate = peak * min(1.0, (step + 1) / warmup)
    if decay:
        done = min(1.0, max(0.0, 1.5 * seconds / budget - 0.5))
        rate *= 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))
    return rate


class Averaged:
    """A denoiser in training with the moving average of its weights, kept in a checkpoint of ``folder``.

    Args:
        unet: on its device.
        ema: share of the average that stays with each step, once the average is warm.
    """

    def __init__(self, unet: Any, optimizer: Optimizers, folder: Path, ema: float) -> None:
        self.unet, self.optimizer, self.file, self.ema = unet, optimizer, folder / CHECKPOINT, ema
        self.live = unet.state_dict()
        self.average = {k: v.detach().clone() for k, v in self.live.items()}
        self.step, self.spent = 0, 0.0

    def load(self, where: torch.device) -> None:
        """Take up the checkpoint, if there is one."""
        if not self.file.exists():
            return
        state = load_checkpoint(self.file, where)
        self.unet.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = state["average"]
        self.step, self.spent = int(state["step"]), float(state["seconds"])

    def save(self) -> None:
        """Write weights, average, optimizer, step and seconds spent, whole or not at all."""
        state = {"weights": self.live, "average": self.average, "optimizer": self.optimizer.state_dict()}
        save_checkpoint(self.file, {**state, "step": self.step, "seconds": self.spent})

    def learn(self, value: Tensor, rate: float) -> None:
        """One step of the optimizer on a loss, gradients clipped to norm 1, and of the average."""
        if not math.isfinite(value.item()):
            raise FloatingPointError(
                f"the loss became {value.item()} at step {self.step}; lower the learning rate and resume from "
                f"{self.file}"
            )
        value.backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimizer.step(rate)
        keep = min(self.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), [self.live[k] for k in self.average], 1 - keep)
        self.step += 1


def train(
    unet: Any,
    pool: Pool,
    *,
    seconds: float,
    folder: Path,
    peak: float = 1e-3,
    decay: bool = False,
    scene: Callable[[float], float] = lambda done: 0.25 + 0.3 * done,
    batch: int = 64,
    ema: float = 0.9985,
    seed: int = 0,
    steps: int | None = None,
    start: Mapping[str, Tensor] | None = None,
    muon: float = 0.0,
    compiled: bool = False,
    report: Callable[[dict[str, float]], None] = lambda _: None,
) -> dict[str, Tensor]:
    """Train for ``seconds`` of compute time (or exactly ``steps`` steps) and return the averaged weights.

    A checkpoint (weights, average, optimizer, step, seconds spent) is written aside and renamed into ``folder`` once a
    minute and picked up again when it is there. ``start`` are weights to begin from when there is no checkpoint;
    ``muon`` is the rate of matrices under Muon as a multiple of AdamW's (0: AdamW alone); ``compiled`` runs the
    denoiser through ``torch.compile`` (needs a C++ compiler; 1.3 times the samples per second on two cores, after two
    minutes of compiling)."""
    sched = scheduler()
    eager_attention(unet)
    unet.to(where := device())
    if start is not None:
        unet.load_state_dict(start)
    kept = Averaged(unet, Optimizers(unet, peak, muon), folder, ema)
    kept.load(where)
    forward = torch.compile(unet) if compiled else unet
    generator = torch.Generator().manual_seed(seed * 1_000_003 + kept.step)
    began, saved, smooth = time.monotonic() - kept.spent, time.monotonic(), 0.0
    while (kept.spent < seconds) if steps is None else (kept.step < steps):
        done = min(1.0, kept.spent / seconds if steps is None else kept.step / steps)
        z, text = pool.batch(batch, scene(done), generator)
        value = loss(forward, sched, z.to(where), text.to(where), generator)
        kept.learn(value, schedule(kept.step, done * seconds, seconds, peak=peak, decay=decay))
        kept.spent = time.monotonic() - began
        smooth = 0.98 * smooth + 0.02 * value.item() if smooth else value.item()
        if kept.step % 50 == 0:
            report({"step": kept.step, "samples": kept.step * batch, "seconds": kept.spent, "loss": smooth})
        if time.monotonic() - saved > 60 or (kept.spent >= seconds if steps is None else kept.step == steps):
            kept.save()
            saved = time.monotonic()
    return {k: v.cpu() for k, v in kept.average.items()}
