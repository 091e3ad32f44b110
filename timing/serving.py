"""What guards add to a call of a live pipeline: the lab bare and behind chains, one request and eight at once.

    python timing/serving.py --steps 20 --repeats 5

Bare and guarded calls take turns on equal prompts and seeds, so that a busy machine slows both. Printed: medians of
milliseconds, their difference, and the 95th percentile of the guarded calls. Prompts are harmless and pass every guard;
what a blocked row saves is measured by ``guards.py``."""

from __future__ import annotations

import argparse
import json
import platform
import time
from typing import Any

import numpy as np
import torch

from genward import lab
from genward.serve.protect import protect

CHAINS = (("aeiou",), ("normalize", "aeiou"), ("aeiou", "wukong"), ("normalize", "aeiou", "wukong", "image_filter"))
PROMPTS = [f"a {thing} in noto style" for thing in ("cat", "dog", "key", "house", "tree", "banana", "car", "cup")]


def call(made: Any, prompts: list[str], steps: int) -> float:
    """Milliseconds of one call."""
    noise = [torch.Generator().manual_seed(k) for k in range(len(prompts))]
    began = time.perf_counter()
    made(prompts, num_inference_steps=steps, generator=noise)
    return 1e3 * (time.perf_counter() - began)


def line(pipe: Any, chain: tuple[str, ...], batch: int, steps: int, repeats: int) -> dict[str, Any]:
    """One line of the table. A guard hooks its pipeline, so it is opened for its own calls alone."""
    bare, guarded = [], []
    for k in range(repeats + 1):
        first = call(pipe, PROMPTS[:batch], steps)
        with protect(pipe, "weapons", list(chain)) as opened:
            second = call(opened, PROMPTS[:batch], steps)
            released = len(opened.last.index)
        if k:  # the first round pays for what is loaded once
            bare.append(first)
            guarded.append(second)
    before, after = float(np.median(bare)), float(np.median(guarded))
    return {
        "chain": " + ".join(chain),
        "batch": batch,
        "bare_ms": round(before),
        "guarded_ms": round(after),
        "added_ms": round(float(np.median(np.subtract(guarded, bare)))),
        "added_share": round(after / before - 1, 3),
        "guarded_p95_ms": round(float(np.quantile(guarded, 0.95))),
        "released": released,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, action="append", help="1 and 8 by default")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    pipe = lab.pipeline()
    pipe.set_progress_bar_config(disable=True)
    asked = [(c, b) for c in CHAINS for b in given.batch or (1, 8)]
    if given.json:
        rows = [line(pipe, c, b, given.steps, given.repeats) for c, b in asked]
        where = {"machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
        print(json.dumps({**where, "steps": given.steps, "repeats": given.repeats, "rows": rows}, indent=1))
        return
    print(f"{'chain':<42} {'batch':>5} {'bare':>8} {'guarded':>8} {'added':>7} {'p95':>8}   milliseconds")
    for chain, batch in asked:
        row = line(pipe, chain, batch, given.steps, given.repeats)
        print(
            f"{row['chain']:<42} {row['batch']:>5} {row['bare_ms']:>8} {row['guarded_ms']:>8} {row['added_ms']:>7} "
            f"{row['guarded_p95_ms']:>8}   {row['added_share']:+.1%}, {row['released']} of {row['batch']} released",
            flush=True,
        )


if __name__ == "__main__":
    main()
