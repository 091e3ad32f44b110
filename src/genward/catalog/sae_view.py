"""``genward sae show``: where a concept's latent fires, and what it knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from genward.catalog.fitting import shipped_artifacts
from genward.catalog.tooling import Say, tools_for
from genward.core.records import Concept, Sampler
from genward.errors import BadInput

if TYPE_CHECKING:
    import PIL.Image

    from genward.models.sd import StableDiffusion

CELL = 96
"""Pixels of a picture's edge on the sheet."""


class View(NamedTuple):
    """A concept's latents, seen."""

    rows: list[dict[str, Any]]
    """A row a target: target, latent, peak score, purity"""
    neighbors: dict[str, float]
    """See ``sae.figures.neighbors_table``"""
    sheet: PIL.Image.Image
    """A line a picture: the picture, then where the latents fire at some steps"""
    steps: list[int]


def view(
    model: StableDiffusion,
    concept: Concept,
    method: Any,
    folder: Path,
    pictures: int = 4,
    per: int = 6,
    progress: Say | None = None,
) -> View:
    """Figures on pictures of the concept and of what must stay, and a sheet of where its latents fire.

    Args:
        method: settings of ``saeuron`` or ``saemnesia``, which say how the latents are found.
        folder: where the shared autoencoder is kept.
        pictures: on the sheet. per: pictures of each class for the figures, at least 4.

    Raises:
        BadInput: the concept owns no latent, or nothing is there to tell it from.
    """
    import torch

    from genward.sae.autoencoder import sae_of
    from genward.sae.concepts import class_pictures, sae_settings
    from genward.sae.fit import classes_of, recorded, shared_sae
    from genward.sae.supervised import assigned_to, shared_supervised

    if pictures < 1 or per < 4:
        raise BadInput("at least one picture on the sheet and four of each class are needed")
    tools = tools_for(model, "sae show", None, progress, [folder, shipped_artifacts()])
    settings, owned = sae_settings(method), None
    if type(method).name == "saemnesia":
        from genward.defenses.saemnesia import supervision

        trained = shared_supervised(model, [concept], settings, supervision(method), tools)
        owned = assigned_to(trained, list(classes_of([concept])))
    else:
        trained = shared_sae(model, [concept], settings, tools)
    sae = sae_of(trained.tensors, method.k)
    drawn = class_pictures([concept], tools.words, per, per, method.seed, "sae-show")
    found = recorded(model, drawn.cases, method, tools, len(drawn.cases))
    rows, neighbors = _figures(found, method.site, sae, drawn, owned)
    cases = [c for c, label in zip(drawn.cases, drawn.labels.tolist(), strict=True) if label < drawn.targets]
    shown = cases[:: max(1, len(cases) // pictures)][:pictures]
    sheet, steps = _sheet(model, shown, method, sae, torch.tensor([row["latent"] for row in rows]))
    return View(rows, neighbors, sheet, steps)


def _figures(
    found: Any, site: str, sae: Any, drawn: Any, owned: Sequence[int] | None
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Rows of ``View`` and its neighbors; ``owned`` are the targets' latents, by score where there are none."""
    from genward.sae.concepts import means_of, scores
    from genward.sae.figures import features_of, neighbors_table, purity
    from genward.sae.fit import maps_of

    means = means_of(found, site, sae, drawn.labels, drawn.names)
    told = features_of(maps_of(found, site), sae)
    others, rows = range(drawn.targets, len(drawn.names)), []
    for target in range(drawn.targets):
        score = scores(means.table, target, others).mean(0)
        latent = int(score.argmax()) if owned is None else owned[target]
        rows.append(
            {
                "target": drawn.names[target],
                "latent": latent,
                "score": float(score[latent]),
                "peak": float(score.max()),
                "purity": purity(told.values[:, latent], drawn.labels[told.case] == target),
            }
        )
    return rows, neighbors_table(told, drawn.labels, len(drawn.names))


def _sheet(model: Any, cases: Sequence[Any], method: Any, sae: Any, latents: Any) -> tuple[PIL.Image.Image, list[int]]:
    """Pictures beside maps of their latents' largest value, red over the picture; one scale for the whole sheet."""
    import torch

    from genward.ops.activations import record, sources
    from genward.sae.autoencoder import encode, grid_of, tokens_of

    count = method.sampling_steps
    steps = sorted({round(k * (count - 1) / 5) for k in range(6)})
    found = record(
        model, cases, Sampler(steps=count, guidance=method.guidance), sources([method.site]), steps=steps,
        in_memory=True, keep_samples=True,
    )  # fmt: skip
    states = found.dense(method.site)
    heat = torch.stack(
        [encode(tokens_of(states[:, k].float()), sae)[..., latents].amax(2) for k in range(len(steps))], 1
    )
    height, width = grid_of(states[:, 0])
    heat = (heat / heat.max().clamp_min(1e-9)).view(len(cases), len(steps), height, width)
    return _drawn([s.image for s in found.samples], heat), steps


def _drawn(pictures: Sequence[Any], heat: Any) -> PIL.Image.Image:
    import numpy as np
    from PIL import Image

    lines, columns = heat.shape[:2]
    sheet = Image.new("RGB", ((columns + 1) * CELL, lines * CELL), "white")
    for line, picture in enumerate(pictures):
        if picture is None:
            continue
        plain = picture.convert("RGB").resize((CELL, CELL))
        sheet.paste(plain, (0, line * CELL))
        for column in range(columns):
            mask = Image.fromarray((200 * heat[line, column].numpy()).astype(np.uint8)).resize((CELL, CELL))
            over = plain.convert("L").convert("RGB")
            over.paste(Image.new("RGB", (CELL, CELL), (230, 30, 30)), (0, 0), mask)
            sheet.paste(over, ((column + 1) * CELL, line * CELL))
    return sheet
