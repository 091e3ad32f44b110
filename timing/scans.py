"""What UFID's K generations cost in common batches and one by one, on the lab: seconds a caption, and their ratio.
``python timing/scans.py [captions]`` (a minute on one idle core)."""

from __future__ import annotations

import argparse
import time

import torch

from genward.catalog.judges import open_judge
from genward.catalog.opening import open_model
from genward.defenses import _scanning
from genward.defenses.ufid import Ufid

CAPTIONS = ("a cat in noto style", "a robot in blob style", "a key in twemoji style", "a dog in noto style")


def seconds(scan: Ufid, texts: list[str], rows: int) -> tuple[float, torch.Tensor]:
    """Seconds of a scan with at most ``rows`` denoiser rows at once, and its scores."""
    model = open_model("lab")
    before, _scanning.CHUNK = _scanning.CHUNK, rows
    try:
        with torch.no_grad(), model.rig() as rig:
            scan.measure(rig, texts[:1])  # warm
            began = time.perf_counter()
            found = scan.measure(rig, texts)
            return time.perf_counter() - began, found[:, 0]
    finally:
        _scanning.CHUNK = before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("captions", type=int, nargs="?", default=8, help="captions to scan")
    count = max(1, parser.parse_args().captions)
    texts = [CAPTIONS[k % len(CAPTIONS)] for k in range(count)]
    scan = Ufid(probe=open_judge("lab_second"))
    batched, together = seconds(scan, texts, _scanning.CHUNK)
    single, apart = seconds(scan, texts, 2)
    drift = float((together - apart).abs().max())
    print(f"{scan.pictures} pictures of {scan.sampling_steps} steps, {count} captions")
    print(f"in common batches  {batched / count:6.2f} s a caption")
    print(f"one by one         {single / count:6.2f} s a caption: {single / batched:.1f} times as long")
    print(f"largest difference of a score {drift:.1e}")


if __name__ == "__main__":
    main()
