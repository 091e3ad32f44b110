"""What guards add to a call of a live pipeline: the lab bare and behind chains, one request and eight at once.

    python timing/serving.py --steps 20 --repeats 5
    python timing/serving.py --steps 20 --repeats 5 --server     # behind examples/server.py, over loopback

With ``--server`` as many clients as the batch has rows ask at the same time, each for one picture; ``served`` is the
time until the last of them has its answer, beside the bare pipeline's call of the same batch, and the last two columns
are the latency of a single request. The server waits up to 20 ms for a batch to fill.

Bare and guarded calls take turns on equal prompts and seeds, so that a busy machine slows both. Printed: medians of
milliseconds, their difference, and the 95th percentile of the guarded calls. Prompts are harmless and pass every guard;
what a blocked row saves is measured by ``guards.py``."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
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


@contextmanager
def serving(guarded: Any, steps: int) -> Iterator[tuple[str, Any]]:
    """The example's server on a free port of this machine: its address and its service."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
    import server
    import uvicorn

    service = server.Service(guarded, {"num_inference_steps": steps})
    config = uvicorn.Config(server.app(service, server.Metrics()), port=0, log_level="warning", ws="none")
    front = uvicorn.Server(config)
    thread = threading.Thread(target=front.run)
    thread.start()
    try:
        while not front.started:
            if not thread.is_alive():
                raise RuntimeError("the server did not start; what it printed says why")
            time.sleep(0.01)
        yield f"http://127.0.0.1:{front.servers[0].sockets[0].getsockname()[1]}/generate", service
    finally:
        front.should_exit = True
        thread.join()


def ask(url: str, prompt: str, seed: int) -> tuple[float, bool]:
    """Milliseconds of one request, and whether it came back with a picture."""
    body = json.dumps({"prompt": prompt, "seed": seed}).encode()
    began = time.perf_counter()
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=600) as found:
        told = json.load(found)
    return 1e3 * (time.perf_counter() - began), bool(told["picture"])


def served(bare: Any, pipe: Any, chain: tuple[str, ...], batch: int, steps: int, repeats: int) -> dict[str, Any]:
    """One line of the server's table: ``batch`` clients at once, in turns with the bare pipeline."""
    direct, whole, each, released = [], [], [], 0
    with protect(pipe, "weapons", list(chain)) as guarded, serving(guarded, steps) as (url, service):
        with ThreadPoolExecutor(batch) as pool:
            for k in range(repeats + 1):
                first = call(bare, PROMPTS[:batch], steps)
                began = time.perf_counter()
                answers = list(pool.map(ask, [url] * batch, PROMPTS, range(batch)))
                second = 1e3 * (time.perf_counter() - began)
                released = sum(shown for _, shown in answers)
                if k:
                    direct.append(first)
                    whole.append(second)
                    each += [taken for taken, _ in answers]
        rows = service.batches[-repeats:]
    return {
        "chain": " + ".join(chain),
        "clients": batch,
        "bare_ms": round(float(np.median(direct))),
        "served_ms": round(float(np.median(whole))),
        "added_ms": round(float(np.median(np.subtract(whole, direct)))),
        "added_share": round(float(np.median(whole)) / float(np.median(direct)) - 1, 3),
        "request_p50_ms": round(float(np.median(each))),
        "request_p95_ms": round(float(np.quantile(each, 0.95))),
        "largest_batch": max(rows),
        "released": released,
    }


COLUMNS = {
    False: {"batch": 5, "bare_ms": 8, "guarded_ms": 10, "added_ms": 8, "guarded_p95_ms": 14},
    True: {
        "clients": 7,
        "largest_batch": 13,
        "bare_ms": 8,
        "served_ms": 9,
        "added_ms": 8,
        "request_p50_ms": 14,
        "request_p95_ms": 14,
    },
}
"""Column -> width, of the table without the server and with it"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, action="append", choices=range(1, 9), help="1 and 8 by default")
    parser.add_argument("--server", action="store_true", help="behind examples/server.py, over loopback")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    pipes = [lab.pipeline() for _ in range(1 + given.server)]
    for pipe in pipes:
        pipe.set_progress_bar_config(disable=True)
    of = served if given.server else line
    asked = [(c, b) for c in CHAINS for b in given.batch or (1, 8)]
    found = (of(*pipes, c, b, given.steps, given.repeats) for c, b in asked)
    if given.json:
        where = {"machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
        print(json.dumps({**where, "steps": given.steps, "repeats": given.repeats, "rows": list(found)}, indent=1))
        return
    columns = COLUMNS[given.server]
    print(f"{'chain':<42} " + " ".join(f"{name:>{wide}}" for name, wide in columns.items()))
    for row in found:
        rest = f"   {row['added_share']:+.1%}, {row['released']} of {row.get('batch', row.get('clients'))} released"
        cells = " ".join(f"{row[name]:>{wide}}" for name, wide in columns.items())
        print(f"{row['chain']:<42} {cells}{rest}", flush=True)


if __name__ == "__main__":
    main()
