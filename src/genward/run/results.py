"""What every result says about itself: date, commit, clean or dirty, versions, device."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from genward import __version__
from genward.catalog import plugins
from genward.core.files import json_text, write_file

PACKAGES = ("torch", "diffusers", "transformers", "numpy")


def git_state(folder: Path) -> tuple[str, bool | None]:
    """(commit, dirty) of the checkout that holds ``folder``; ``("", None)`` where there is none or no git."""
    try:
        head = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        inside = subprocess.run(
            ["git", "-C", str(folder), "ls-files", "--error-unmatch", __file__],
            capture_output=True,
            timeout=10,
            check=False,
        )
        if inside.returncode:
            return "", None  # installed below somebody else's checkout
        changes = subprocess.run(
            ["git", "-C", str(folder), "status", "--porcelain"], capture_output=True, text=True, timeout=30, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return "", None
    return head, bool(changes.strip())


def versions() -> dict[str, str]:
    """Versions of genward, Python and the packages that make pictures; what is not installed is left out."""
    found = {"genward": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def device_text(device: str = "cpu") -> str:
    """The device in words: its name, or the processor's with the number of cores this process may use."""
    if device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name(device))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{processor()}, {cores} cores"


def processor() -> str:
    """The processor's name, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def provenance(command: str | Sequence[str] = "", device: str = "cpu") -> dict[str, Any]:
    """The table that goes into every result: ``date`` (UTC), ``commit``, ``dirty``, ``versions``, ``device``,
    ``platform``, ``command``."""
    commit, dirty = git_state(Path(__file__).resolve().parent)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": commit,
        "dirty": dirty,
        "versions": versions(),
        "device": device_text(device),
        "platform": f"{platform.system()} {platform.machine()}",
        "command": command if isinstance(command, str) else " ".join(command),
    }


def command_line() -> str:
    """The command that runs now, as it would be typed."""
    import shlex

    words = sys.argv
    head = Path(words[0]).name if words else "python"
    return shlex.join(["genward" if head in ("genward", "__main__.py") else head, *words[1:]])


def write_json(path: Path, data: Mapping[str, Any]) -> Path:
    """Write a result aside and rename it; numbers that are not finite become ``null``, so that any JSON reader takes
    the file."""
    write_file(path, json_text(data))
    return path


def keep(metrics: Mapping[str, Any], path: Path) -> Path:
    """Write a run's figures as one small JSON file: what its benchmark keeps of them, each judge by name and hash;
    pictures, pairs and the judge's whole card stay in the store."""
    name = str(metrics.get("run", {}).get("benchmark") or "erasure")
    found = plugins.find("benchmark", name).kept(metrics)
    found["judges"] = [{"name": j.get("name"), "hash": j.get("hash")} for j in metrics.get("judges", ())]
    return write_json(path, found)
