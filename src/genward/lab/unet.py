"""Stages ``unet`` and ``oracles`` of the lab's recipe: the denoiser, its trunk and its two branches.

The trunk never sees what the oracle must not know (``data.ORACLE_CONCEPTS``). Two branches of equal steps continue from
it: one on everything (the lab model), one still without (the oracle). All three use the same rule: epsilon prediction
on Stable Diffusion's scaled-linear schedule, each timestep's error over its typical size (``typical_error``), 10 % of
captions dropped for classifier-free guidance, an exponential moving average of the weights. The learning rate is
constant along the trunk and decays along the branches, so a trunk can be trained on in a later working period."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genward.core.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint
from genward.core.precision import autocast
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
        ).to(encoder.device)
        with autocast(encoder.device):
            out.append(encoder(ids.input_ids, attention_mask=ids.attention_mask)[0].half().cpu())
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
        workers: int = 1,
        progress: Callable[[str], None] = lambda _: None,
    ) -> Pool:
        """Draw ``singles`` + ``scenes`` rows from ``world``, compose and encode them, with ``captions`` wordings a
        row; pictures are drawn by ``workers`` processes and encoded where ``vae`` and ``encoder`` are."""
        sizes = [(False, min(CHUNK, singles - k)) for k in range(0, singles, CHUNK)]
        sizes += [(True, min(CHUNK, scenes - k)) for k in range(0, scenes, CHUNK)]
        jobs = [Drawing(world, words, scene, n, captions, f"{seed}|{k}") for k, (scene, n) in enumerate(sizes)]
        table: dict[str, int] = {}
        latents, index = [], []
        for drawn, wordings in _drawn(jobs, pictures, workers):
            index += [[table.setdefault(t, len(table)) for t in row] for row in wordings]
            with torch.no_grad(), autocast(vae.device):
                x = torch.from_numpy(drawn).to(vae.device).permute(0, 3, 1, 2).float() / 127.5 - 1
                latents.append(vae.encode(x).latent_dist.mean.half().cpu())
            progress(f"{len(index)} of {singles + scenes} pictures encoded")
        text = encode_text(tokenizer, encoder, list(table))
        progress(f"{len(table)} captions encoded")
        empty = encode_text(tokenizer, encoder, [""])[0]
        return cls(torch.cat(latents), torch.tensor(index), text, torch.arange(len(index)) >= singles, empty)

    def to(self, where: torch.device) -> Pool:
        """The same rows on another device."""
        return Pool(*(getattr(self, f.name).to(where) for f in fields(self)))

    def batch(self, size: int, scene: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``size`` random rows, a share ``scene`` of them scenes, 10 % with the empty caption: latents and text states
        in float32, on the pool's device, which is the generator's too."""
        where = self.latents.device

        def chance() -> Tensor:
            return torch.rand(size, generator=generator, device=where)

        singles = self._singles
        take = chance() < scene
        rows = torch.where(
            take, singles + (chance() * (len(self.scenes) - singles)).long(), (chance() * singles).long()
        )
        which = self.captions[rows, (chance() * self.captions.shape[1]).long()]
        text = torch.where((chance() < 0.1)[:, None, None], self.empty, self.text[which])
        return self.latents[rows].float(), text.float()

    @cached_property
    def _singles(self) -> int:
        return int((~self.scenes).sum())


CHUNK = 256
"""Pictures drawn together."""


@dataclass(frozen=True)
class Drawing:
    """A share of a pool's rows to draw: ``count`` pictures, all scenes or all of one object."""

    world: World
    words: Vocabulary
    scene: bool
    count: int
    captions: int
    seed: str

    def draw(self, pictures: Mapping[tuple[str, str], Any]) -> tuple[Any, list[list[str]]]:
        """Pictures (count, 64, 64, 3) uint8 and the wordings of each."""
        rng, drawn, wordings = random.Random(self.seed), [], []
        for _ in range(self.count):
            names, style, first = self.world.sample(self.words, rng, scene=float(self.scene))
            more = [self.world.reword(self.words, rng, names, style) for _ in range(self.captions - 1)]
            wordings.append([first, *more])
            drawn.append(np.asarray(place([pictures[o, style] for o in names], rng)))
        return np.stack(drawn), wordings


_PICTURES: dict[tuple[str, str], Any] = {}
"""The sprites, in a process that draws."""


def _remember(pictures: Mapping[tuple[str, str], Any]) -> None:
    _PICTURES.update(pictures)


def _draw(job: Drawing) -> tuple[Any, list[list[str]]]:
    return job.draw(_PICTURES)


def _drawn(
    jobs: Sequence[Drawing], pictures: Mapping[tuple[str, str], Any], workers: int
) -> Iterator[tuple[Any, list[list[str]]]]:
    """What each job drew, in order, whatever the number of processes."""
    if workers < 2:
        yield from (job.draw(pictures) for job in jobs)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_remember, initargs=(dict(pictures),)) as pool:
        yield from pool.map(_draw, jobs, chunksize=4)


TYPICAL = {0: 0.4, 100: 0.18, 200: 0.095, 500: 0.046, 700: 0.028, 850: 0.0119, 950: 0.0051, 999: 0.0042}
"""Timestep -> mean squared error of the predicted noise of a lab model that is nearly trained."""


def typical_error() -> Tensor:
    """(1000,) The typical error at every timestep, log-linear between those of ``TYPICAL``.

    A loss that divides by it weighs every timestep equally, which is where the optimum of learned uncertainty weights
    lies (Kendall et al. 2018; for diffusion models Karras et al. 2024). Under min-SNR-5 weights (Hang et al. 2023),
    which the first lab was trained with, t = 850, where it is decided *which* object appears, counts an eighth of
    t = 200 (0.012 against 0.095)."""
    at = torch.tensor([math.log(v) for v in TYPICAL.values()])
    knots = torch.tensor(list(TYPICAL), dtype=torch.float32)
    t = torch.arange(1000, dtype=torch.float32)
    right = torch.searchsorted(knots, t).clamp(min=1)
    left = right - 1
    share = (t - knots[left]) / (knots[right] - knots[left])
    return torch.lerp(at[left], at[right], share).exp()


class NoiseLoss:
    """The error of the predicted noise over its typical size, with what it needs of the schedule on one device.

    Args:
        sched: the noise schedule. where: device of latents, of the generator and of the denoiser.
    """

    def __init__(self, sched: Any, where: torch.device) -> None:
        self.signal = sched.alphas_cumprod.to(where)
        self.weight = 1 / typical_error().to(where)

    def __call__(self, unet: Any, z: Tensor, text: Tensor, generator: torch.Generator) -> Tensor:
        """Mean over the batch, a scalar of about 1 for a denoiser that is nearly trained.

        Args:
            z: latents (n, 4, 16, 16). text: states (n, 28, 384). generator: of the noise and the timesteps.
        """
        noise = torch.randn(z.shape, generator=generator, device=z.device)
        t = torch.randint(1000, (len(z),), generator=generator, device=z.device)
        a = self.signal[t][:, None, None, None]
        with autocast(z.device):
            pred = unet(a.sqrt() * z + (1 - a).sqrt() * noise, t, text).sample.float()
        value: Tensor = ((pred - noise).pow(2).mean((1, 2, 3)) * self.weight[t]).mean()
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


def schedule(step: int, seconds: float, budget: float, *, peak: float, decay: bool, warmup: int = 100) -> float:
    """Learning rate: linear warm-up, then constant; with ``decay`` a cosine to 2 % of the peak over the last two thirds
    of the budget."""
    rate = peak * min(1.0, (step + 1) / warmup)
    if decay:
        done = min(1.0, max(0.0, 1.5 * seconds / budget - 0.5))
        rate *= 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))
    return rate


CHECK = 10
"""Steps from one look at the loss to the next, which makes an accelerator wait; there is one before each checkpoint."""


class Averaged:
    """A denoiser in training with the moving average of its weights, kept in a checkpoint of ``folder``.

    Args:
        unet: on its device.
        ema: share of the average that stays with each step, once the average is warm.
    """

    def __init__(self, unet: Any, optimizer: torch.optim.Optimizer, folder: Path, ema: float) -> None:
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

    def finite(self, value: Tensor) -> float:
        """The loss of the last step as a number.

        Raises:
            FloatingPointError: it is none.
        """
        number = value.item()
        if not math.isfinite(number):
            raise FloatingPointError(
                f"the loss became {number} by step {self.step}; lower the learning rate and resume from {self.file}"
            )
        return number

    def learn(self, value: Tensor, rate: float) -> None:
        """One step of the optimizer on a loss at a learning rate, gradients clipped to norm 1, and of the average."""
        value.backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
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
    compiled: bool = False,
    report: Callable[[dict[str, float]], None] = lambda _: None,
) -> dict[str, Tensor]:
    """Train for ``seconds`` of compute time (or exactly ``steps`` steps) and return the averaged weights.

    A checkpoint (weights, average, optimizer, step, seconds spent) is written aside and renamed into ``folder`` once a
    minute and picked up again when it is there. ``start`` are weights to begin from when there is no checkpoint;
    ``compiled`` runs the denoiser through ``torch.compile`` (needs a C++ compiler; 1.3 times the samples per second on
    two cores, after two minutes of compiling).

    Raises:
        FloatingPointError: the loss is no longer a number; no checkpoint holds what came of it."""
    where = device()
    eager_attention(unet)
    unet.to(where, memory_format=torch.channels_last if where.type == "cuda" else torch.contiguous_format)
    loss, pool = NoiseLoss(scheduler(), where), pool.to(where)
    if start is not None:
        unet.load_state_dict(start)
    fused = where.type == "cuda"
    adam = torch.optim.AdamW(unet.parameters(), peak, betas=(0.9, 0.99), weight_decay=1e-3, fused=fused)
    kept = Averaged(unet, adam, folder, ema)
    kept.load(where)
    forward = torch.compile(unet) if compiled else unet
    generator = torch.Generator(where).manual_seed(seed * 1_000_003 + kept.step)
    began, saved, smooth = time.monotonic() - kept.spent, time.monotonic(), 0.0
    while (kept.spent < seconds) if steps is None else (kept.step < steps):
        done = min(1.0, kept.spent / seconds if steps is None else kept.step / steps)
        z, text = pool.batch(batch, scene(done), generator)
        value = loss(forward, z, text, generator)
        kept.learn(value, schedule(kept.step, done * seconds, seconds, peak=peak, decay=decay))
        kept.spent = time.monotonic() - began
        save = time.monotonic() - saved > 60 or (kept.spent >= seconds if steps is None else kept.step == steps)
        if save or kept.step % CHECK == 0:
            now = kept.finite(value)
            smooth = 0.9 * smooth + 0.1 * now if smooth else now
        if kept.step % 50 == 0:
            report({"step": kept.step, "samples": kept.step * batch, "seconds": kept.spent, "loss": smooth})
        if save:
            kept.save()
            saved = time.monotonic()
    return {k: v.cpu() for k, v in kept.average.items()}
