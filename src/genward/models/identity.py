"""Who a model folder is: the files that ``from_pretrained`` would read from it, and nothing that lies beside them.

A folder may hold several variants of its weights (``fp16``, ``non_ema``), whole or in shards, and files of other tools.
Which of them are read follows diffusers and transformers: a component named in ``model_index.json`` is read in the
variant that was asked for where it has that variant, else plain; diffusers prefers a sharded copy (an index file) to a
single file, transformers a single file."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from genward.core.reading import parse_json, read_text, short
from genward.core.spec import Spec, file_hash
from genward.core.weights import PICKLES, problem
from genward.errors import BadArtifact, BadInput

INDEX = "model_index.json"
LIBRARIES = ("diffusers", "transformers", "stable_diffusion")
"""Where a component's class may come from; anything else is code of the folder's own, which is never run."""
NAMES = ("diffusion_pytorch_model", "model")
"""What weight files are called: by diffusers, by transformers"""
WEIGHTS = re.compile(
    r"(?P<name>diffusion_pytorch_model|model)"
    r"(?:\.(?P<variant>[A-Za-z0-9_]+?))?(?P<shard>-\d{5}-of-\d{5})?\.safetensors"
    r"(?P<index>\.index(?:\.(?P<of>[A-Za-z0-9_]+))?\.json)?"
)
HOW = (
    "convert it: diffusers.StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER), then give the folder"
)


class Folder(NamedTuple):
    """What would be read from a model folder."""

    path: Path
    variant: str
    """Empty where the plain weights are read"""
    kind: str
    """The pipeline's class"""
    files: tuple[Path, ...]
    """All files that are read, sorted"""
    weights: dict[str, tuple[Path, ...]]
    """Component -> its weight files"""


def read_folder(path: str | Path, variant: str = "") -> Folder:
    """Which files of a folder make its pipeline.

    Args:
        variant: ``fp16``, say: as ``from_pretrained``'s. Where it is not given and a component has no plain weights but
            all that lack them have one and the same variant, that one is read; it cannot be meant otherwise.

    Raises:
        BadInput: no pipeline's folder, weights that are pickles, pointers or cut short, no such variant, or several and
            none was asked for.
    """
    folder = Path(path)
    index = _index(folder)
    parts = {k: v for k, v in index.items() if not k.startswith("_") and isinstance(v, list)}
    components = {name: v[0] for name, v in parts.items() if len(v) == 2 and v[0] is not None}
    for name, library in components.items():
        if library not in LIBRARIES:
            raise BadInput(
                f"{short(folder / INDEX)}: the {short(name, 40)} comes from {short(library, 40)!r}, code that is not "
                f"part of {' or '.join(LIBRARIES[:2])}; such code is never run"
            )
        if not _is_folder(folder / name):
            raise BadInput(f"{short(folder / name)} is missing, and {INDEX} names it; fetch the whole pipeline")
    there = {name: _variants(folder / name) for name in components}
    networks = {name: found for name, found in there.items() if found or name in ("unet", "vae", "text_encoder")}
    chosen = _chosen(folder, variant, networks)
    files, weights = [folder / INDEX], {}
    for name, library in components.items():
        found = there[name]
        if name in networks:
            copies = found.get(chosen) or found[""]
            weights[name] = _copy(folder / name, copies, library)
            files += weights[name]
            files += [p for p in copies if p.name.endswith(".json") and len(weights[name]) > 1]
            files += [p for p in (folder / name).glob("*.json") if not WEIGHTS.fullmatch(p.name)]
        else:
            files += [p for p in (folder / name).iterdir() if p.suffix in (".json", ".txt", ".model") and p.is_file()]
    return Folder(folder, chosen, str(index["_class_name"]), tuple(sorted(set(files))), weights)


def _is_folder(path: Path) -> bool:
    """Whether there is such a folder; a name that no file system takes is none."""
    try:
        return path.is_dir()
    except OSError:
        return False


def variants(folder: Path) -> list[str]:
    """Names of the variants that any component of a model folder has, beside the plain weights."""
    return sorted({v for part in folder.iterdir() if part.is_dir() for v in _variants(part) if v})


def stored_dtype(path: Path) -> str:
    """In which dtype most of a safetensors file's tensors are stored, by torch's name."""
    from safetensors import safe_open

    with safe_open(path, "pt") as opened:
        kinds = Counter(str(opened.get_slice(name).get_dtype()) for name in opened.keys())  # noqa: SIM118 - no mapping
    most = kinds.most_common(1)[0][0] if kinds else ""
    return {"F16": "float16", "F32": "float32", "BF16": "bfloat16", "F64": "float64"}.get(most, most)


def _index(folder: Path) -> dict[str, Any]:
    if not (folder / INDEX).is_file():
        single = sorted(p.name for p in folder.glob("*") if p.suffix in (".safetensors", ".ckpt"))
        if single:
            raise BadInput(f"{short(folder)} holds {short(single[0])}, a single-file checkpoint, and no {INDEX}; {HOW}")
        raise BadInput(
            f"{short(folder)} is no diffusers pipeline (it has no {INDEX}); give a folder written by "
            "save_pretrained, or a hub id"
        )
    index = parse_json(read_text(folder / INDEX, "model index"), short(folder / INDEX))
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise BadInput(f"{short(folder / INDEX)} is no pipeline's index (a table with _class_name); fetch it again")
    for name, value in index.items():
        if isinstance(value, list) and not all(x is None or isinstance(x, str) for x in value):
            raise BadInput(
                f"{short(folder / INDEX)}: {short(name, 40)} is no pair of library and class; fetch it again"
            )
        if isinstance(value, list) and not re.fullmatch(r"\w+", name):
            raise BadInput(f"{short(folder / INDEX)}: {short(name, 40)!r} is no component's name; fetch it again")
    return index


def _variants(part: Path) -> dict[str, list[Path]]:
    """Variant -> safetensors weight files (shards and index files included) of a component's folder."""
    found: dict[str, list[Path]] = {}
    for path in sorted(part.iterdir()):
        match = WEIGHTS.fullmatch(path.name)
        if match and path.is_file():
            found.setdefault(match["of"] or match["variant"] or "", []).append(path)
    return found


def _chosen(folder: Path, variant: str, networks: dict[str, dict[str, list[Path]]]) -> str:
    """The variant that is read; checked: every network has it or plain weights."""
    known = sorted({v for found in networks.values() for v in found if v})
    if variant and variant not in known:
        there = f"there are {', '.join(known)}" if known else "there is none but the plain one"
        raise BadInput(f"{short(folder)} has no variant {short(variant, 40)!r}; {there}")
    lacking = {name: found for name, found in networks.items() if "" not in found and variant not in found}
    if not lacking:
        return variant
    for name, found in lacking.items():
        if not found:
            pickles = sorted(p.name for p in (folder / name).glob("*") if p.suffix in PICKLES)
            held = f"only {pickles[0]}, a pickle, which genward never loads" if pickles else "no weights"
            raise BadInput(
                f"{short(folder / name)} holds {held}; convert the pipeline with "
                "save_pretrained(safe_serialization=True)"
            )
    common = sorted(set.intersection(*(set(found) for found in lacking.values())))
    if variant or len(common) != 1:
        told = ", ".join(known)
        raise BadInput(
            f"{short(folder / next(iter(lacking)))} has no {variant or 'plain'} weights, only variants ({told}); name "
            "one "
            "with --variant (variant= in Python)"
        )
    return common[0]


def _copy(part: Path, copies: list[Path], library: str) -> tuple[Path, ...]:
    """The weight files of one variant that are read: one file, or the shards that an index names."""
    matches = {p: WEIGHTS.fullmatch(p.name) for p in copies}
    singles = [p for p, m in matches.items() if m and not m["shard"] and not m["index"]]
    indexes = [p for p, m in matches.items() if m and m["index"]]
    if singles and (library == "transformers" or not indexes):
        read: tuple[Path, ...] = (singles[0],)
    elif indexes:
        raw = parse_json(read_text(indexes[0], "index of shards", 64 << 20), short(indexes[0]))
        names = raw.get("weight_map") if isinstance(raw, dict) else None
        if not isinstance(names, dict) or not names or not all(isinstance(n, str) for n in names.values()):
            raise BadInput(f"{short(indexes[0])} names no shards (weight_map); fetch it again")
        read = tuple(part / n for n in sorted(set(names.values())))
        for path in read:
            if path.name != str(path.relative_to(part)) or path.suffix != ".safetensors":
                raise BadInput(f"{short(indexes[0])}: {short(path.name)!r} is no shard beside it; fetch it again")
    else:
        raise BadInput(f"{short(part)} holds shards and no index of them (…safetensors.index.json); fetch it again")
    for path in read:
        told = problem(path)
        if told:
            raise BadArtifact(f"{short(path)} {told}")
    return read


def folder_spec(folder: Path, name: str, dtype: str, variant: str = "") -> Spec:
    """A pipeline folder's identity: the SHA-256 (16 hex digits) of every file that would be read from it.

    Args:
        name: where it came from: a hub id, or the folder's name.
        dtype: what the weights are cast to.

    Raises:
        BadInput: see ``read_folder``.
    """
    return spec_of(folder, read_folder(folder, variant).files, name, dtype)


def spec_of(folder: Path, files: tuple[Path, ...], name: str, dtype: str) -> Spec:
    """The identity that these files of a folder make."""
    hashes = {str(p.relative_to(folder)): file_hash(p)[:16] for p in files}
    return Spec("model", "sd", {"source": name, "dtype": dtype, "files": hashes})
