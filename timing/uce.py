"""Unified Concept Editing from texts to weights: ours against the published procedure as a plain loop.

    python timing/uce.py [--counts 1 10 100 1000] [--repeats 3]

The plain loop is the authors' 2025 procedure in our words: every phrase and every guide is encoded by the pipeline, one
text at a time, padded to the encoder's length; then for each map and each concept two products are added up, and each
map is solved with an inverse. Ours encodes each text once, without padding, in batches, and solves once for all maps.
Both start from an opened pipeline and end with edited weights on the CPU; loading the pipeline is left out. Concepts
are different made-up phrases of the vocabulary's words, with guides of which ten differ, as when many things are mapped
to a few classes."""

from __future__ import annotations

import argparse
import itertools
import json
import time
from typing import Any

import torch

from genward import lab
from genward.core.records import Concept
from genward.core.spec import Spec
from genward.defenses.uce import KV_MAPS, Uce, apply_shared, last_subject
from genward.models.sd import StableDiffusion
from genward.models.sites import named

ADJECTIVES = (
    *("red", "old", "tiny", "broken", "paper", "golden", "wet", "northern", "quiet", "striped", "glass", "soft"),
    *("heavy", "round", "bright", "dusty", "wooden", "blue", "frozen", "folded"),
)


def concepts(count: int) -> list[Concept]:
    """One phrase each, all different."""
    nouns = [t.name for t in lab.data.vocabulary().things]
    made = [f"a {a} {n}" for a, n in itertools.product(ADJECTIVES, nouns)][:count]
    if len(made) < count:
        raise SystemExit(f"there are {len(made)} phrases; ask for fewer concepts")
    return [
        Concept(
            name=f"c{k}",
            kind="object",
            summary="a thing",
            targets=(p,),
            phrases=(p,),
            anchor=f"a {nouns[k % 10]} thing",
        )
        for k, p in enumerate(made)
    ]


def ours(model: Any, wanted: list[Concept]) -> dict[str, torch.Tensor]:
    """The edited maps, by parameter name."""
    fitted = Uce(rows="last").fit(model, wanted)
    assert fitted.artifact is not None
    delta, parameters = fitted.artifact.tensors["delta"], dict(model.denoiser.named_parameters())
    return {n: apply_shared(parameters[n].detach(), delta, 1.0) for n in named(parameters, KV_MAPS)}


def plain(model: Any, wanted: list[Concept]) -> dict[str, torch.Tensor]:
    """The same maps by the plain loop."""

    def state(text: str) -> torch.Tensor:
        with torch.no_grad():
            return model.encode([text])[0, last_subject(model.pipe.tokenizer, [text])[0]].double()

    pairs = [(state(c.phrases[0]), state(c.anchor)) for c in wanted]
    empty, out = state(""), {}
    parameters = dict(model.denoiser.named_parameters())
    for name in named(parameters, KV_MAPS):
        w = parameters[name].detach().double()
        left, right = 0.5 * w, 0.5 * torch.eye(w.shape[1], dtype=w.dtype)
        for c, g in pairs:
            left = left + torch.outer(w @ g, c)
            right = right + torch.outer(c, c)
        left = left + torch.outer(w @ empty, empty)
        right = right + torch.outer(empty, empty)
        out[name] = left @ torch.inverse(right)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    model = StableDiffusion(lab.pipeline(), Spec("model", "lab"))
    for count in given.counts:
        wanted, mine, other = concepts(count), {}, {}
        seconds: dict[str, list[float]] = {"ours": [], "plain": []}
        for _ in range(given.repeats):
            began = time.perf_counter()
            mine = ours(model, wanted)
            between = time.perf_counter()
            other = plain(model, wanted)
            seconds["ours"].append(between - began)
            seconds["plain"].append(time.perf_counter() - between)
        worst = max(float((mine[n].double() - other[n]).abs().max()) for n in mine)
        best = {name: min(values) for name, values in seconds.items()}
        row = {"concepts": count, **best, "ratio": best["plain"] / best["ours"], "largest_difference": worst}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
