"""Part ``ufid`` of ``speed.py``: UFID's K generations of some captions in common batches, of one caption in one batch,
and one by one."""

from __future__ import annotations

from typing import Any

import torch

from genward.catalog.judges import open_judge
from genward.defenses import _scanning
from genward.defenses.ufid import Ufid

CAPTIONS = ("a cat in noto style", "a robot in blob style", "a key in twemoji style", "a dog in noto style")


def part_ufid(model: Any, timed: Any, count: int = 8, repeats: int = 2) -> dict[str, Any]:
    """Seconds a caption, and the largest difference of a score."""
    texts = [CAPTIONS[k % len(CAPTIONS)] for k in range(count)]
    scan = Ufid(probe=open_judge("lab_second"))
    together = _scanning.CHUNK

    def drawn(rows: int, size: int) -> torch.Tensor:
        """Scores with at most ``rows`` denoiser rows a call and ``size`` captions at once."""
        _scanning.CHUNK = rows
        try:
            with torch.no_grad(), model.rig() as rig:
                return torch.cat([scan.measure(rig, texts[k : k + size])[:, 0] for k in range(0, count, size)])
        finally:
            _scanning.CHUNK = together

    drift = float((drawn(together, count) - drawn(2, count)).abs().max())
    batched, single = timed(lambda: drawn(together, count), lambda: drawn(2, count), repeats)
    one, alone = timed(lambda: drawn(together, 1), lambda: drawn(2, 1), repeats)
    return {"captions": count, "pictures": scan.pictures, "steps": scan.sampling_steps, "largest_difference": drift,
            "batched_seconds": batched / count, "single_seconds": single / count, "ratio": single / batched,
            "one_caption_ratio": alone / one}  # fmt: skip
