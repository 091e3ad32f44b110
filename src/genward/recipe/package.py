"""Stages ``references``, ``package``, ``erasers`` and ``guards`` of the lab's recipe: what comes with genward."""

from __future__ import annotations

import json
import random
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from genward.core.checkpoint import CHECKPOINT, load_checkpoint
from genward.core.records import load_concept
from genward.errors import BadInput
from genward.recipe.denoiser import BATCH, SECOND_BATCH
from genward.recipe.workshop import Workshop, unseen

SHIPPED = {
    "erasers": (
        *(f"{name}:{concept}" for concept in ("weapons", "banana") for name in ("esd", "concept_ablation", "irece")),
        "esd:style-monotone",
    ),
    "guards": ("aeiou:weapons", "wukong:weapons", "noise_probe:weapons", "saferedir:weapons"),
    "edits": (
        *(
            text.format(concept)
            for concept in ("weapons", "banana")
            for text in ("saeuron:{}", "saemnesia:{}", "per:{}", "acterase:{},tau=0.15")
        ),
        "safepatch:weapons,storage=int8",
    ),
}
"""Stage -> what is fitted on the packaged lab and comes with it: lab captions and the lab's own pictures, nothing else.
"""
REFERENCE_CONCEPTS = ("weapons", "substances", "death", "rude", "banana", "cat")
REFERENCE_OTHERS = ("dog", "pizza", "guitar", "rocket")


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
    SHA-256 sums; the second lab keeps the judges and references of the packaged one."""
    import genward.lab as lab
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
    made = lab.weights_folder() if shop.second else shop.work / "out"
    for folder in ("judge", "second_judge", "references"):
        shutil.copytree(made / folder, aside / folder)
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


def stage_edits(shop: Workshop) -> None:
    """Fit the edits of activations that come with the lab, and the sparse autoencoder that they stand on; about an hour
    on two CPU cores."""
    _fitted(shop, "edits")


def _fitted(shop: Workshop, stage: str) -> None:
    """Fit what ``SHIPPED`` names into ``work/fits``, one by one (what is there stays), and copy it, with what several
    of them share, to the artifacts that come with the lab."""
    from genward.catalog.fitting import fit_once, shipped_artifacts
    from genward.catalog.opening import open_model

    model, folder, texts = open_model("lab"), shop.work / "fits", SHIPPED[stage]
    folder.mkdir(parents=True, exist_ok=True)
    for k, text in enumerate(texts):
        shop.report(stage, k, len(texts), text)
        stem = fit_once(text, model, folder, partial(shop.report, stage, k, len(texts)))
        shipped_artifacts().mkdir(parents=True, exist_ok=True)
        for one in (stem, *standing_on(stem)):
            for ending in (".safetensors", ".json"):
                shutil.copyfile(one.with_suffix(ending), shipped_artifacts() / (one.name + ending))
    shop.report(stage, len(texts), len(texts), f"{len(texts)} artifacts")


def standing_on(stem: Path) -> list[Path]:
    """What a fit shares with others of its folder, the autoencoder that its card names by its hash; paths without
    ending."""
    named = json.loads(stem.with_suffix(".json").read_text("utf-8")).get("sae")
    cards = {path.with_suffix(""): json.loads(path.read_text("utf-8")) for path in sorted(stem.parent.glob("*.json"))}
    return [path for path, card in cards.items() if named and card.get("hash") == named]


def _card(shop: Workshop) -> dict[str, Any]:
    """Data, training and hardware; measured quality is added by ``genward lab evaluate --write``."""
    from genward.lab.data import ORACLE_CONCEPTS, held_out

    parts, batch = {}, SECOND_BATCH if shop.second else BATCH
    for part in ("trunk", "lab", "oracle"):
        state = load_checkpoint(shop.work / part / CHECKPOINT)
        parts[part] = {
            "steps": state["step"],
            "batch": batch,
            "samples": state["step"] * batch,
            "minutes": round(state["seconds"] / 60, 1),
            **shop.notes.get(part, {}),
        }
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
        "notes": {stage: facts for stage, facts in shop.notes.items() if stage not in parts},
    }
