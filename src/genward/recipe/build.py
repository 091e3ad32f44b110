"""``genward lab build``: the recipe that made the embedded models, stage by stage, resumable at any moment.

Stages, in order: ``data`` (icon sets), ``autoencoder``, ``unet`` (the trunk, then the branch that becomes the lab
model), ``judge`` (both judges), ``oracles`` (the branch that never sees the oracle's concepts, as many steps as the
lab's), ``references``, ``package`` (fp16 safetensors, manifest). Each reads what the earlier ones left in the work
folder."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genward.core.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint
from genward.core.precision import autocast
from genward.core.records import load_concept
from genward.errors import BadInput, UnknownName

STAGES = ("data", "autoencoder", "unet", "judge", "oracles", "references", "package", "erasers", "guards")
SHIPPED = {
    "erasers": tuple(
        [
            f"{name}:{concept}"
            for concept in ("weapons", "banana", "style-monotone")
            for name in ("esd", "concept_ablation")
        ]
        + [f"irece:{concept}" for concept in ("weapons", "banana")]
    ),
    "guards": ("aeiou:weapons", "wukong:weapons", "noise_probe:weapons", "saferedir:weapons"),
}
"""Stage -> what is fitted on the packaged lab and comes with it: lab captions and the lab's own pictures, nothing else.
"""
MINUTES = {"autoencoder": 16.0, "trunk": 36.0, "branch": 52.0, "judge": 11.0, "second_judge": 8.0}
"""Minutes of training on two CPU cores, by part."""
SECOND_STEPS = {"trunk": 15_700, "lab": 5_500, "oracle": 5_500}
"""Steps of 64 samples of the second lab's parts: a million samples on the trunk, 352,000 on each branch."""
MUON = 1.0
"""Rate of matrices under Muon as a multiple of AdamW's, for the second lab; 0 is AdamW alone.

Equal samples (19,200) from the packaged oracle, held-out loss of the averaged weights, rate 1e-3: Muon 0.04710, AdamW
0.04730 (which needs about a quarter more samples to get there); a step costs 15 % more.
"""
SETS = (
    "noto", "noto-v1", "twemoji", "fluent-emoji", "fluent-emoji-flat", "fluent-emoji-high-contrast", "emojione", "emojione-monotone", "fxemoji",
)  # fmt: skip
REFERENCE_CONCEPTS = ("weapons", "substances", "death", "rude", "banana", "cat")
REFERENCE_OTHERS = ("dog", "pizza", "guitar", "rocket")
Report = Callable[[str, float, float, str], None]
"""``(stage, seconds done, seconds in all, text)``"""


def quiet(stage: str, done: float, whole: float, text: str) -> None:
    """Report nothing."""


@dataclass
class Workshop:
    """Everything the stages share: the work folder, the icons, and the frozen parts once they are needed."""

    work: Path
    icons: Path | None = None
    scale: float = 1.0
    """Factor on every stage's minutes."""
    minutes: float | None = None
    """Minutes for each training stage instead of the recipe's."""
    steps: int | None = None
    """Exact steps for the denoiser's parts instead of minutes."""
    report: Report = quiet
    second: bool = False
    """Train on the second vocabulary (``words-second.toml``), with more rows, on the packaged autoencoder, from the
    packaged oracle, under ``MUON``, compiled."""
    _cache: dict[str, Any] = field(default_factory=dict)

    def seconds(self, part: str) -> float:
        return 60 * (self.minutes if self.minutes is not None else MINUTES[part] * self.scale)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._cache:
            self._cache[name] = make()
        return self._cache[name]

    @property
    def words(self) -> Any:
        from genward.lab.data import second_vocabulary, vocabulary

        return second_vocabulary() if self.second else vocabulary()

    @property
    def sets(self) -> Any:
        from genward.lab.data import Icons

        def read() -> Any:
            icons = Icons(self.icons or self.work / "icons")
            missing = [s for s in SETS if s not in icons.sets]
            if missing:
                raise BadInput(
                    f"icon sets {', '.join(missing)} are not in {self.icons or self.work / 'icons'}; run the data "
                    "stage, or name a folder with --icons"
                )
            return icons

        return self.once("sets", read)

    @property
    def sprites(self) -> Any:
        from genward.lab.data import sprites

        return self.once("sprites", lambda: sprites(self.sets, self.words))

    def strangers(self, first: int, last: int) -> list[tuple[str, Any]]:
        """Icons ``first`` to ``last`` of a fixed shuffle of those from outside the vocabulary, with their style.

        Icons whose name holds an object's (``water-pistol``, ``middle-finger-dark``, ``cat-face``) are left out: to
        call them "none of these" would teach a judge something wrong."""
        own = {(s.set, self.sets.find(s.set, t.icons)) for t in self.words.things for s in self.words.styles}
        style = {s.set: s.name for s in self.words.styles}
        every = [e for e in self.sets.every() if e not in own]
        random.Random(0).shuffle(every)
        strange = [e for e in every if not names_known(e[1], self.words)]
        return [(style[p], self.sets.sprite(p, n)) for p, n in strange[first:last]]

    @property
    def others(self) -> list[tuple[str, Any]]:
        """2,500 icons from outside the vocabulary, for training."""
        found: list[tuple[str, Any]] = self.once("others", lambda: self.strangers(0, 2500))
        return found

    @property
    def unknown(self) -> list[tuple[str, Any]]:
        """500 more, for calibration only (other icons; the same thing in another style may be among ``others``)."""
        found: list[tuple[str, Any]] = self.once("unknown", lambda: self.strangers(2500, 3000))
        return found

    @property
    def vae(self) -> Any:
        from diffusers import AutoencoderKL

        if self.second:
            from genward import lab

            own = lab.weights_folder() / "vae"
            return self.once(
                "vae",
                lambda: AutoencoderKL.from_pretrained(own, use_safetensors=True).float().eval().requires_grad_(False),
            )
        if not (self.work / "vae").is_dir():
            raise BadInput(f"no autoencoder in {self.work / 'vae'}; run the autoencoder stage first")
        return self.once("vae", lambda: AutoencoderKL.from_pretrained(self.work / "vae").eval().requires_grad_(False))


def names_known(icon: str, words: Any) -> bool:
    """Whether an icon's name holds the name of an object of the vocabulary, as whole words (in names without hyphens,
    at either end)."""
    known = {re.sub(r"[^a-z0-9]", "", n.lower()) for t in words.things for n in (t.name, *t.icons)}
    parts = icon.lower().split("-")
    if len(parts) == 1:
        return parts[0] in known or any(len(k) > 3 and (parts[0].startswith(k) or parts[0].endswith(k)) for k in known)
    runs = {"".join(parts[a:b]) for a in range(len(parts)) for b in range(a + 1, len(parts) + 1)}
    return bool(known & (runs | {r.removesuffix("s") for r in runs}))


# --------------------------------------------------------------------------------------------------------------- stages


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
    _note(shop, "autoencoder", {"psnr_heldout_renders": ae.psnr(model, pictures), "pictures": len(pictures)})


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


def unseen() -> list[str]:
    """Objects and styles the trunk and the oracle never see."""
    from genward.lab.data import ORACLE_CONCEPTS

    return [t for c in ORACLE_CONCEPTS for t in load_concept(c).targets]


def _pool(shop: Workshop, which: str) -> Any:
    """Encoded training rows, kept on disk: ``without`` the oracle's concepts, or ``full``."""

    from genward import lab
    from genward.lab.data import World
    from genward.lab.unet import Pool

    file = shop.work / f"pool-{which}.safetensors"
    if file.exists():
        return Pool(**load_checkpoint(file))
    full = which == "full"
    world = World.build(list(shop.sprites), () if full else unseen(), unseen() if full else ())
    tokenizer, encoder = lab.text_encoder()
    pool = Pool.make(
        world,
        shop.words,
        shop.sprites,
        shop.vae,
        tokenizer,
        encoder,
        singles=16000 if shop.second else 9000,
        scenes=24000 if shop.second else 14000,
        seed=1 if full else 0,
        progress=lambda text: shop.report(f"pool {which}", 0, 0, text),
    )
    save_checkpoint(file, vars(pool))
    return pool


def _packaged_oracle() -> Any:
    """Weights of the oracle that comes with genward: it never saw the oracle's concepts, so a trunk may start from
    it."""
    from diffusers import UNet2DConditionModel

    from genward import lab

    return (
        UNet2DConditionModel.from_pretrained(lab.weights_folder() / "oracle", use_safetensors=True).float().state_dict()
    )


def _part(shop: Workshop, part: str) -> None:
    """Train one part of the denoiser: ``trunk``, ``lab`` or ``oracle``."""
    import torch

    from genward.lab import unet as net

    torch.manual_seed(0)
    branch = part != "trunk"
    start, steps = None, shop.steps
    if steps is None and shop.second:
        steps = SECOND_STEPS[part]
    if branch:
        trunk = shop.work / "trunk" / CHECKPOINT
        if not trunk.exists():
            raise BadInput(f"no trunk in {trunk.parent}; run the unet stage first")
        start = load_checkpoint(trunk)["average"]
    elif shop.second:
        start = _packaged_oracle()
    if part == "oracle":
        lab_file = shop.work / "lab" / CHECKPOINT
        if not lab_file.exists():
            raise BadInput(
                f"no lab branch in {lab_file.parent}; the oracle takes as many steps as it, so run the unet stage first"
            )
        steps = int(load_checkpoint(lab_file)["step"])
    seconds = shop.seconds("branch" if branch else "trunk")
    began = time.monotonic()

    def tell(line: dict[str, float]) -> None:
        whole = seconds if steps is None else (time.monotonic() - began) * steps / max(1.0, line["step"])
        shop.report(
            part,
            line["seconds"] if steps is None else time.monotonic() - began,
            whole,
            f"step {line['step']:.0f}, loss {line['loss']:.4f}",
        )

    net.train(
        net.build(),
        _pool(shop, "full" if part == "lab" else "without"),
        seconds=seconds,
        steps=steps,
        folder=shop.work / part,
        peak=1e-3 if shop.second else 1.4e-3 if branch else 1.5e-3,
        decay=branch,
        scene=(lambda done: 0.5) if branch else (lambda done: 0.2 + 0.35 * done),
        start=start,
        seed=len(part),
        muon=MUON if shop.second else 0.0,
        compiled=shop.second,
        report=tell,
    )


def stage_unet(shop: Workshop) -> None:
    """The trunk without the oracle's concepts, then the branch with everything: the lab model."""
    _part(shop, "trunk")
    _part(shop, "lab")


def stage_oracles(shop: Workshop) -> None:
    """The branch that goes on without the oracle's concepts, as many steps as the lab's."""
    _part(shop, "oracle")


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


def stage_references(shop: Workshop) -> None:
    """About 200 small renders: 22 concepts × 9 styles, none of them a training row (held-out pairs, or another
    placement)."""
    from genward.lab.data import held_out, place

    folder = shop.work / "out" / "references"
    folder.mkdir(parents=True, exist_ok=True)
    names = [*dict.fromkeys(t for c in REFERENCE_CONCEPTS for t in load_concept(c).targets), *REFERENCE_OTHERS]
    for name in names:
        for style in shop.words.style_names:
            if (name, style) in shop.sprites:
                rng = random.Random(f"reference|{name}|{style}")
                picture = place([shop.sprites[name, style]], rng, jitter=not held_out(name, style))
                picture.save(folder / f"{name.replace(' ', '-')}--{style}.png", optimize=True)
    shop.report("references", 1, 1, f"{len(list(folder.glob('*.png')))} pictures")


def stage_package(shop: Workshop, out: Path | None = None) -> Path:
    """Write everything trained as fp16 safetensors into ``out`` (the installed package by default), with a manifest of
    SHA-256 sums."""

    from genward import lab
    from genward.lab import unet as net
    from genward.models.sd import file_hash

    out = out or lab.weights_folder()
    aside = out.with_name(out.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    shop.vae.half().save_pretrained(aside / "vae", safe_serialization=True)
    net.scheduler().save_pretrained(aside / "scheduler")
    for part, folder in (("lab", "unet"), ("oracle", "oracle")):
        file = shop.work / part / CHECKPOINT
        if not file.exists():
            raise BadInput(f"{file} is missing; run the stages before package first")
        model = net.build()
        model.load_state_dict(load_checkpoint(file)["average"])
        model.half().save_pretrained(aside / folder, safe_serialization=True)
    for folder in ("judge", "second_judge", "references"):
        shutil.copytree(shop.work / "out" / folder, aside / folder)
    for file in aside.rglob(
        "config.json"
    ):  # where it was built is nobody's business, and would change the model's identity
        config = {k: v for k, v in json.loads(file.read_text("utf-8")).items() if k != "_name_or_path"}
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    manifest = {str(p.relative_to(aside)): file_hash(p) for p in sorted(aside.rglob("*")) if p.is_file()}
    (aside / "manifest.json").write_text(json.dumps(manifest, indent=0), "utf-8")
    (aside / "card.json").write_text(json.dumps(_card(shop), indent=1), "utf-8")
    shutil.rmtree(out, ignore_errors=True)
    aside.rename(out)
    lab.manifest.cache_clear()
    return out


def stage_erasers(shop: Workshop) -> None:
    """Fit the erasers that come with the lab; about 40 minutes on two CPU cores."""
    _fitted(shop, "erasers")


def stage_guards(shop: Workshop) -> None:
    """Fit the guards that come with the lab; about 20 minutes on two CPU cores."""
    _fitted(shop, "guards")


def _fitted(shop: Workshop, stage: str) -> None:
    """Fit what ``SHIPPED`` names into ``work/fits``, one by one (what is there stays), and copy it to the artifacts
    that come with the lab."""
    from genward.catalog.fitting import fit_once, shipped_artifacts
    from genward.catalog.opening import open_model

    model, folder, texts = open_model("lab"), shop.work / "fits", SHIPPED[stage]
    folder.mkdir(parents=True, exist_ok=True)
    for k, text in enumerate(texts):
        shop.report(stage, k, len(texts), text)
        stem = fit_once(text, model, folder, lambda told, k=k: shop.report(stage, k, len(texts), told))  # type: ignore[misc]
        shipped_artifacts().mkdir(parents=True, exist_ok=True)
        for ending in (".safetensors", ".json"):
            shutil.copyfile(stem.with_suffix(ending), shipped_artifacts() / (stem.name + ending))
    shop.report(stage, len(texts), len(texts), f"{len(texts)} artifacts")


def _note(shop: Workshop, stage: str, facts: dict[str, Any]) -> None:
    file = shop.work / "notes.json"
    notes = json.loads(file.read_text("utf-8")) if file.exists() else {}
    notes[stage] = facts
    file.write_text(json.dumps(notes, indent=1), "utf-8")


def _card(shop: Workshop) -> dict[str, Any]:
    """Data, training and hardware; measured quality is added by ``genward lab evaluate --write``."""
    import torch

    from genward.lab.data import ORACLE_CONCEPTS, held_out

    parts = {}
    for part in ("trunk", "lab", "oracle"):
        state = load_checkpoint(shop.work / part / CHECKPOINT)
        parts[part] = {"steps": state["step"], "batch": 64, "minutes": round(state["seconds"] / 60, 1)}
    notes = shop.work / "notes.json"
    return {
        "name": "genward lab",
        "data": {
            "objects": list(shop.words.names),
            "styles": list(shop.words.style_names),
            "pairs": len(shop.sprites),
            "missing_pairs": [
                [t.name, s]
                for t in shop.words.things
                for s in shop.words.style_names
                if (t.name, s) not in shop.sprites
            ],
            "held_out_pairs": sum(held_out(*p) for p in shop.sprites),
            "oracle_never_saw": unseen(),
            "oracle_concepts": list(ORACLE_CONCEPTS),
        },
        "training": parts,
        "hardware": f"{torch.get_num_threads()} CPU threads"
        if not torch.cuda.is_available()
        else torch.cuda.get_device_name(),
        "versions": {"torch": torch.__version__},
        "notes": json.loads(notes.read_text("utf-8")) if notes.exists() else {},
    }


RUN: dict[str, Callable[[Workshop], Any]] = {
    "data": stage_data,
    "autoencoder": stage_autoencoder,
    "unet": stage_unet,
    "judge": stage_judge,
    "oracles": stage_oracles,
    "references": stage_references,
    "package": stage_package,
    "erasers": stage_erasers,
    "guards": stage_guards,
}


def build(
    stages: Sequence[str] = STAGES,
    *,
    work: Path,
    icons: Path | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    scale: float = 1.0,
    second: bool = False,
    report: Report = quiet,
) -> None:
    """Run stages in the recipe's order; each resumes from its last checkpoint, so the same command goes on after a
    kill.

    Args:
        work: folder for checkpoints and results. icons: folder with the icon sets instead of fetching them.
        minutes: for each training part, instead of the recipe's. steps: exact steps for the denoiser's parts. scale:
            factor on all minutes.
        second: train the second lab, see ``Workshop.second``.

    Raises:
        UnknownName: no such stage; BadInput: what an earlier stage makes is missing.
    """
    for stage in stages:
        if stage not in RUN:
            raise UnknownName("stage", stage, STAGES)
    work.mkdir(parents=True, exist_ok=True)
    shop = Workshop(work, icons, scale, minutes, steps, report, second)
    for stage in STAGES:
        if stage in stages:
            RUN[stage](shop)
