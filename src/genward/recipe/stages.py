"""Stages ``data``, ``autoencoder`` and ``judge`` of the lab's recipe."""

from __future__ import annotations

import math
import random
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from genward.core.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint
from genward.core.precision import autocast
from genward.errors import BadInput
from genward.recipe.workshop import SETS, Workshop, note


def stage_data(shop: Workshop) -> None:
    """Fetch the nine icon sets from the npm registry with ``npm pack`` and unpack them; a folder given with ``--icons``
    is only checked."""
    folder = shop.work / "icons"
    if shop.icons is None:
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.which("npm") is None:
            raise BadInput(
                "npm is not installed, and it fetches the icon sets; install nodejs and npm, or name a folder of "
                "icons.json files with --icons"
            )
        for k, name in enumerate(SETS):
            if not (folder / name / "icons.json").is_file():
                shop.report("data", k, len(SETS), f"@iconify-json/{name}")
                done = subprocess.run(
                    ["npm", "pack", "--silent", f"@iconify-json/{name}"],
                    cwd=folder,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if done.returncode:
                    raise BadInput(
                        f"npm pack @iconify-json/{name} failed: {done.stderr.strip()[-200:]}; check the network and "
                        "try again"
                    )
                archive = folder / done.stdout.split()[-1]
                _unpack(archive, folder / name)
                archive.unlink()
    shop.report("data", len(SETS), len(SETS), f"{len(shop.sprites)} object × style pairs")


def _unpack(archive: Path, folder: Path) -> None:
    """Take ``icons.json`` and ``info.json`` out of an npm package, and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        for name in ("icons.json", "info.json"):
            stream = tar.extractfile(f"package/{name}")
            if stream is None:
                raise BadInput(f"{archive.name} holds no {name}")
            (folder / name).write_bytes(stream.read())


def stage_autoencoder(shop: Workshop) -> None:
    """Train the autoencoder, fold its latent statistics away, save it as ``vae``; the second lab keeps the packaged
    one."""
    if shop.second:
        return
    import torch

    from genward.lab import autoencoder as ae
    from genward.lab.data import held_out, place

    torch.manual_seed(0)
    singles = [p for pair, p in shop.sprites.items() if not held_out(*pair)]
    held = [p for pair, p in shop.sprites.items() if held_out(*pair)]
    others = [p for _, p in shop.others]
    rng, model, seconds = random.Random(1), ae.build(), shop.seconds("autoencoder")
    average = _train_autoencoder(shop, ae, model, lambda: ae.batch(singles, others, rng, 32), seconds)
    model.load_state_dict(average)
    model.eval()
    ae.fold(model, torch.cat([ae.batch(singles, others, random.Random(5), 64) for _ in range(12)]))
    pictures = ae.to_tensor([place([p], random.Random(k)) for k, p in enumerate(held)])
    model.save_pretrained(shop.work / "vae")
    note(shop, "autoencoder", {"psnr_heldout_renders": ae.psnr(model, pictures), "pictures": len(pictures)})


def _train_autoencoder(
    shop: Workshop, ae: Any, model: Any, batches: Callable[[], Any], seconds: float
) -> dict[str, Any]:
    import torch

    from genward.lab.unet import device

    file = shop.work / "autoencoder" / CHECKPOINT
    where = model.to(device()).device
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    average = {k: v.clone() for k, v in model.state_dict().items()}
    step, spent = 0, 0.0
    if file.exists():
        state = load_checkpoint(file, where)
        model.load_state_dict(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        average, step, spent = state["average"], state["step"], state["seconds"]
    began, saved = time.monotonic() - spent, time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(batches)
        while spent < seconds:
            done = spent / seconds
            decay = 1.0 if done < 0.3 else 0.5 * (1 + math.cos(math.pi * (done - 0.3) / 0.7))
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * min(1.0, (step + 1) / 200) * (0.02 + 0.98 * decay)
            x, coming = coming.result(), pool.submit(batches)
            with autocast(where):
                value, mse = ae.loss(model, x.to(where))
            optimizer.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            keep = min(0.998, (1 + step) / (10 + step))
            with torch.no_grad():
                for name, weight in model.state_dict().items():
                    average[name].lerp_(weight, 1 - keep)
            step, spent = step + 1, time.monotonic() - began
            if step % 50 == 0:
                shop.report(
                    "autoencoder", spent, seconds, f"step {step}, {10 * math.log10(4 / max(1e-9, float(mse))):.1f} dB"
                )
            if time.monotonic() - saved > 60 or spent >= seconds:
                state = {
                    "weights": model.state_dict(),
                    "average": average,
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                    "seconds": spent,
                }
                save_checkpoint(file, state)
                saved = time.monotonic()
    model.cpu()
    return {k: v.cpu() for k, v in average.items()}


def stage_judge(shop: Workshop) -> None:
    """Both judges and their cards."""
    from genward.recipe.judges import Pictures, fit

    for which in ("judge", "second_judge"):
        seconds = shop.seconds(which)
        fit(
            which,
            lambda seed: Pictures(shop.words, shop.sprites, shop.others, shop.vae, seed=seed, reuse=0.75),
            held=lambda seed: Pictures(shop.words, shop.sprites, shop.unknown, shop.vae, seed=seed),
            seconds=seconds,
            work=shop.work,
            out=shop.work / "out" / which,
            report=lambda d, w=which, s=seconds: shop.report(
                w, d["seconds"], s, f"step {d['step']:.0f}, loss {d['loss']:.3f}"
            ),  # type: ignore[misc]
        )
