"""Strips that show what a defense did inside a picture: its masks over the steps, laid over the finished picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genward.catalog.opening import Opener
from genward.core.benchmark import Benchmark
from genward.core.contracts import Masking
from genward.core.media import Image
from genward.run.generate import Bound

if TYPE_CHECKING:
    from genward.store import Store

EACH = 2
"""Pictures per arm and concept whose masks are shown."""


def mask_strips(
    benchmark: Benchmark,
    bound: Sequence[Bound],
    models: Opener,
    store: Store,
    tensors: Mapping[str, Any],
    each: int = EACH,
) -> list[dict[str, Any]]:
    """Strips of masks in red for ``each`` of the rows that the benchmark wants illustrated, for each arm with a defense
    that has masks; those rows in which it did most."""
    out = []
    for piece in bound:
        found = next((k for k, d in enumerate(piece.defenses) if isinstance(d, Masking)), None)
        tried = list(benchmark.illustrated(piece.work.cases))[: 4 * each]
        if found is None or not tried:
            continue
        model, defense = models(piece.work.model), piece.defenses[found]
        assert isinstance(defense, Masking)
        made = model.generate(tried, piece.sampler, piece.defenses, batch=len(tried), starts=tensors)
        made.sort(key=lambda s: -defense.acted(s))  # of rows in which it did nothing there is nothing to see
        samples = made[:each]
        steps = defense.masks(model, [s.case for s in samples], piece.sampler, piece.defenses[:found], tensors)
        for k, sample in enumerate(samples):
            if isinstance(sample.output, Image):
                picture = sample.output.picture
                shown = {f"step {step:02d}": store.put_image(over(picture, mask[k].numpy())) for step, mask in steps}
                images = {piece.work.label: store.put_image(picture), **shown}
                head = {
                    "concept": sample.case.concept,
                    "variant": f"masks of {type(defense).name}",
                    "prompt": f"{piece.work.label}: {sample.case.parent}",
                    "seed": sample.case.seed,
                    "unsafe": True,
                }
                out.append({**head, "images": images, "status": dict.fromkeys(images, "ok")})
    return out


def over(image: Any, mask: Any) -> Any:
    """A picture in gray with a mask (h, w) of 0 and 1 laid over it in red."""
    from PIL import Image

    gray = image.convert("L").convert("RGB")
    red = Image.blend(gray, Image.new("RGB", image.size, (220, 30, 30)), 0.55)
    return Image.composite(
        red, gray, Image.fromarray((mask * 255).astype("uint8")).resize(image.size, Image.Resampling.NEAREST)
    )
