"""What papers print for UnlearnCanvas (Stable Diffusion 1.5), in per cent. Nothing here was measured by genward."""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """One row of a paper's table."""

    method: str
    task: str
    """``style`` | ``object``"""
    ua: float
    ira: float
    cra: float
    source: str


CANVAS, SAE, MNESIA, LOOK = "2402.11846", "2501.18052", "2509.21379", "2606.31699"
_BOTH = {
    "ESD": ((98.58, 80.97, 93.96), (92.15, 55.78, 44.23)),
    "FMN": ((88.48, 56.77, 46.60), (45.64, 90.63, 73.46)),
    "UCE": ((98.40, 60.22, 47.71), (94.31, 39.35, 34.67)),
    "CA": ((60.82, 96.01, 92.70), (46.67, 90.11, 81.97)),
    "SalUn": ((86.26, 90.39, 95.08), (86.91, 96.35, 99.59)),
    "SEOT": ((56.90, 94.68, 84.31), (23.25, 95.57, 82.71)),
    "SPM": ((60.94, 92.39, 84.33), (71.25, 90.79, 81.65)),
    "EDiff": ((92.42, 73.91, 98.93), (86.67, 94.03, 48.48)),
    "SHS": ((95.84, 80.42, 43.27), (80.73, 81.15, 67.99)),
}
PUBLISHED: tuple[Published, ...] = (
    *(
        Published(method, task, *row, f"arXiv {CANVAS}")
        for method, both in _BOTH.items()
        for task, row in zip(("style", "object"), both, strict=True)
    ),
    Published("SAeUron", "style", 96.76, 98.70, 98.10, f"arXiv {SAE}"),
    Published("SAeUron", "object", 84.23, 90.05, 76.78, f"arXiv {SAE}"),
    Published("SAeUron (counted again)", "object", 87.16, 85.57, 74.14, f"arXiv {MNESIA}"),
    Published("SAEmnesia", "style", 96.60, 98.67, 99.30, f"arXiv {MNESIA}"),
    Published("SAEmnesia", "object", 94.65, 91.39, 88.48, f"arXiv {MNESIA}"),
    Published("PER on SAeUron", "object", 85.37, 81.14, 86.55, f"arXiv {LOOK}"),
    Published("PER on SAEmnesia", "object", 91.37, 91.92, 97.97, f"arXiv {LOOK}"),
)
