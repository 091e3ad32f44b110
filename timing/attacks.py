"""Parts of ``speed.py`` on attacks and IRECE: searches side by side against one after the other, IRECE's cost by its
window.

Both sides of a ratio do the same work on the same model in turns; equality of what they find is a test
(``tests/attacks``), not measured here."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from typing import Any

import torch
from turns import alternately  # beside this file

from genward import lab
from genward.attacks.ddim_inversion import DdimInversion
from genward.attacks.textual_inversion import TextualInversion
from genward.catalog.fitting import parse_defense, ready
from genward.core import Call, Case, Sampler
from genward.run.target import ArmTarget
from genward.store import Store

CONCEPTS = ("cat", "dog", "pizza", "guitar")


def held() -> dict[str, list[Any]]:
    """Reference pictures of four objects, eight each."""
    every = lab.references()
    return {c: [picture for thing, _, picture in every if thing == c][:8] for c in CONCEPTS}


def search(model: Any, attack: Any, cases: list[Case]) -> None:
    with model.rig([]) as rig:
        list(attack.search(cases, ArmTarget(model, rig, Sampler(guidance=1.0), references=held())))


def part_textual_inversion(model: Any, timed: Any) -> dict[str, Any]:
    """Four concepts in one batch of rows against four searches."""
    attack = TextualInversion(steps=10, rows=8, heldout=8)
    cases = [Case(c, "{} in noto style", concept=c) for c in CONCEPTS]
    together, apart = timed(
        lambda: search(model, attack, cases), lambda: [search(model, attack, [c]) for c in cases], 2
    )
    return {
        "concepts": len(cases),
        "steps": attack.steps,
        "batched_seconds": together,
        "single_seconds": apart,
        "ratio": apart / together,
    }


def part_gradient_row(model: Any, timed: Any, rows: int = 16, repeats: int = 5) -> dict[str, Any]:
    """A denoiser row with its way back to the text over one without, in a search's usual batch: what a gradient row
    counts for in ``grid``. What it takes through the text encoder comes on top and is not in it."""
    text = model.encode([f"a {c} in noto style" for c in CONCEPTS]).repeat(rows // len(CONCEPTS), 1, 1)
    latents = torch.randn(rows, *model.latent_shape(), generator=torch.Generator().manual_seed(0))
    call = Call(latents, torch.full((rows,), 500), text)

    def plain() -> None:
        with torch.no_grad():
            model.denoise(call)

    def both() -> None:
        leaf = text.clone().requires_grad_()
        with torch.enable_grad():
            torch.autograd.grad(model.denoise(call._replace(text=leaf)).square().sum(), leaf)

    back, forth = timed(both, plain, repeats)
    return {"rows": rows, "seconds": back, "forward_seconds": forth, "ratio": back / forth}


def part_ddim_inversion(model: Any, timed: Any) -> dict[str, Any]:
    """Sixteen pictures in one batch against batches of one."""
    cases = [Case(f"{c}{k}", "", concept=c) for c in CONCEPTS for k in range(4)]
    attack = DdimInversion(steps=20, batch=32)
    together, apart = timed(
        lambda: search(model, attack, cases), lambda: search(model, replace(attack, batch=1), cases), 2
    )
    return {
        "pictures": len(cases),
        "steps": attack.steps,
        "batched_seconds": together,
        "single_seconds": apart,
        "ratio": apart / together,
    }


def part_irece(model: Any, timed: Any, images: int = 16) -> dict[str, Any]:
    """Denoiser rows and seconds an image that IRECE adds, by its window."""
    words, out = lab.data.vocabulary(), {}
    rows = [
        Case(str(k), f"{words.things[k].phrase} in {words.styles[k % 9].name} style", seed=k) for k in range(images)
    ]
    with tempfile.TemporaryDirectory() as folder:
        (irece,) = ready(parse_defense("irece:weapons"), model, Store(folder)).defenses
    for during in ((0.1, 0.3), (0.1, 0.6), (0.0, 1.0)):
        guarded = [replace(irece, during=during)]  # type: ignore[type-var]
        nfe = [sum(s.nfe for s in model.generate(rows, Sampler(), d, batch=images)) / images for d in ([], guarded)]
        plain, repaired = timed(
            lambda: model.generate(rows, Sampler(), batch=images),
            lambda: model.generate(rows, Sampler(), guarded, batch=images),  # noqa: B023
            2,
        )  # noqa: B023
        out[f"{during[0]}-{during[1]}"] = {
            "extra_nfe": nfe[1] - nfe[0],
            "plain_seconds_per_image": plain / images,
            "irece_seconds_per_image": repaired / images,
            "ratio": repaired / plain,
        }
    return out


def part_grid(n: int = 2) -> dict[str, Any]:
    """The quick m-erasure grid with ``n`` rows a cell: its whole time over the time of its denoiser rows alone.

    A row with gradient is among ``nfe``; the last figure counts it as many rows as ``gradient_row`` measures in the
    same run."""
    from genward.catalog.opening import opener
    from genward.run.loop import run_plan
    from genward.run.plan import make_plan
    from genward.run.speed import speed_of

    models, plan = opener(), make_plan("m-erasure-quick", n=n)
    rate = speed_of(models("lab"), plan.sampler, plan.batch).rows_per_second
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        found = run_plan(plan, folder, models=models)
        whole = time.perf_counter() - began
    searched = sum(a["cost"]["nfe"] for a in found["attacks"])
    backward = sum(a["cost"]["gradient_nfe"] for a in found["attacks"])
    nfe = found["run"]["nfe"] + searched
    counts = part_gradient_row(models("lab"), alternately)["ratio"]
    return {"rows": found["run"]["rows"], "nfe": nfe, "gradient_nfe": backward, "seconds": whole,
            "gradient_row_counts": counts,
            "rows_per_second": rate,
            "multiple_of_forward_time": whole * rate / nfe,
            "multiple_of_denoiser_time": whole * rate / (nfe + (counts - 1) * backward)}  # fmt: skip
