"""Searches over tokens as ratios measured in one run: ``python timing/searches.py [part …] --out results.json``.

Parts: ``genetic`` (Ring-A-Bell's generations, memoized, without autograd, all prompts in one batch, against a plain
loop: one prompt after the other, candidate by candidate, with autograd on, survivors scored again), ``batched``
(UnlearnDiffAtk's steps on 16 prompts at once against one after the other), ``projection`` (the projection onto the
vocabulary's simplex by active sets against bisection row by row, as in the reference code). Both sides do the same
work; that they find the same is a test (``tests/attacks``), not measured here."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from turns import CLOCK, alternately  # beside this file

from genward.attacks import ring_a_bell
from genward.attacks._prefix import in_front
from genward.attacks._tokens import project_simplex
from genward.attacks.ring_a_bell import RingABell
from genward.attacks.unlearndiffatk import Simplex, UnlearnDiffAtk
from genward.catalog.opening import open_model
from genward.core import Case, Sampler, load_concept
from genward.run.attacking import rows_of
from genward.run.target import ArmTarget, Means

CONCEPT = load_concept("weapons")
PROMPTS = 16


@contextmanager
def target_of(model: Any, cases: Sequence[Case], access: str) -> Iterator[ArmTarget]:
    """A target without defenses that holds the concept's phrases and the undefended pictures."""
    own = model.generate(cases, Sampler(steps=4)) if access == "gradient" else ()
    with model.rig() as rig:
        means = Means(phrases={CONCEPT.name: CONCEPT.phrases})
        yield ArmTarget(model, rig, Sampler(guidance=1.0), access=access, means=means, undefended=own)


def part_genetic(model: Any, repeats: int) -> dict[str, Any]:
    """Seconds of a generation of 200 candidates, four prompts."""
    cases = rows_of(CONCEPT, 4, "lab")
    attack = RingABell(tokens=8, population=200, generations=1, compare="places")
    with target_of(model, cases, "prompt") as target:
        words = target.vocabulary
        own = attack.encoded(target, [words.ids(c.prompt) for c in cases]).detach()
        wanted = own + attack.eta * ring_a_bell.concept_vector(attack, target, CONCEPT.name)
        people = torch.stack([ring_a_bell.fresh(attack, c, -1, attack.population, words.usable) for c in cases])

        keep = attack.population // 2
        size = attack.population
        first = ring_a_bell.distances(attack, target, people.flatten(0, 1), wanted.repeat_interleave(size, 0))
        people, scores = ring_a_bell.ordered(people, first.view(len(cases), size))

        def ours() -> None:
            more = [ring_a_bell.offspring(attack, c, 0, people[k, :keep], words.usable) for k, c in enumerate(cases)]
            ring_a_bell.scored(attack, target, torch.stack(more), wanted, people, scores)

        def plain() -> None:
            for k in range(len(cases)):
                for ids in people[k].tolist():
                    text = words.text(ids)
                    states = model.encode([text])[:, : wanted.shape[1]]
                    float((states - wanted[k]).square().sum().detach())

        with torch.enable_grad():
            fast, slow = alternately(ours, plain, repeats)
    return {
        "prompts": len(cases),
        "population": attack.population,
        "seconds": fast,
        "plain": slow,
        "ratio": slow / fast,
    }


def part_batched(model: Any, repeats: int) -> dict[str, Any]:
    """Seconds of two gradient steps on 16 prompts."""
    cases = rows_of(CONCEPT, PROMPTS, "lab")
    attack = UnlearnDiffAtk(tokens=3, rounds=1, steps=2, stop=False)
    with target_of(model, cases, "gradient") as target:
        together = Simplex(attack, target, cases, [in_front(c.prompt, 3) for c in cases])
        apart = [Simplex(replace(attack), target, [c], [in_front(c.prompt, 3)]) for c in cases]

        def ours() -> None:
            together._round(range(len(cases)), 1)

        def plain() -> None:
            for one in apart:
                one._round([0], 1)

        fast, slow = alternately(ours, plain, repeats)
    return {"prompts": len(cases), "steps": attack.steps, "seconds": fast, "plain": slow, "ratio": slow / fast}


def bisected(row: torch.Tensor, precision: float = 1e-5) -> torch.Tensor:
    """One row's projection by bisection of the shift until it is known to a precision; the sum is taken in the middle
    and at both ends each time, as the reference code does."""
    low, high = float(row.min()) - 1, float(row.max())
    while high - low > precision:
        middle = (low + high) / 2
        excess = [float((row - at).clamp(0, 1).sum()) - 1 for at in (low, middle, high)]
        low, high = (middle, high) if excess[0] * excess[1] > 0 else (low, middle)
    return (row - low).clamp(0, 1)


def part_projection(model: Any, repeats: int) -> dict[str, Any]:
    """Seconds of projecting 16 x 3 rows over CLIP's vocabulary: against bisection to the precision of the reference
    code, and to about the one that active sets have."""
    rows = torch.full((PROMPTS, 3, 49408), 1 / 49408)
    rows += 0.01 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))

    out: dict[str, Any] = {"rows": PROMPTS * 3, "words": rows.shape[-1]}
    for name, precision in (("published", 1e-5), ("equal", 1e-8)):

        def plain(precision: float = precision) -> torch.Tensor:
            return torch.stack([torch.stack([bisected(row, precision) for row in mine]) for mine in rows])

        difference = float((project_simplex(rows) - plain()).abs().max())
        fast, slow = alternately(lambda: project_simplex(rows), plain, 5 * repeats)
        out[name] = {"largest_difference": difference, "seconds": fast, "plain": slow, "ratio": slow / fast}
    return out


PARTS: dict[str, Callable[[Any, int], dict[str, Any]]] = {
    "genetic": part_genetic,
    "batched": part_batched,
    "projection": part_projection,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--cpu", action="store_true", help="the process's seconds in the place of the clock's")
    told = parser.parse_args()
    if told.cpu:
        CLOCK[0] = time.process_time
    model = open_model("lab")
    machine = {"python": platform.python_version(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    found: dict[str, Any] = {"machine": machine}
    for part in told.parts or PARTS:
        found[part] = PARTS[part](model, told.repeats)
        print(f"{part}: {json.dumps(found[part])}", file=sys.stderr)
    text = json.dumps(found, indent=1)
    if told.out:
        told.out.write_text(text + "\n", "utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
