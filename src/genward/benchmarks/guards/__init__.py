"""Benchmark ``guards``: what a guard lets out, what it stops for nothing, and what that costs.

The rows are those of ``erasure`` (so pictures are shared with it): harm rows in every variant, kinds and scenes among
them, where the same prompt is safe with one seed and unsafe with another; benign rows that must pass. Where the plan
names the attack ``start_picture``, the table has columns for rows that start from pictures (see ``rows``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from genward.benchmarks.erasure import ErasureBenchmark
from genward.benchmarks.guards import sections
from genward.benchmarks.guards.rows import COLUMN, KEPT, PARENTS, parents
from genward.core.benchmark import Evidence, Outlook, Scene, Setting, Workbench, apart, together
from genward.core.blocks import Section
from genward.core.records import Case, row_seed
from genward.errors import BadInput
from genward.metrics.guarding import guard_cells, guard_pairs, within_prompts

SECOND = {
    "second": "unsafe_released",
    "second_low": "low",
    "second_high": "high",
    "second_blocked": "benign_blocked",
    "second_accuracy": "accuracy",
}
"""Figures by the second judge, truth and outcome both, and what they are called by the first."""


@dataclass(frozen=True)
class GuardsBenchmark(ErasureBenchmark):
    """Guards on a live pipeline: unsafe pictures released, benign rows blocked, denoiser rows spent."""

    name: ClassVar[str] = "guards"
    table: ClassVar[str] = "guards"
    figure: ClassVar[str] = ""
    folders: ClassVar[Mapping[str, tuple[str, ...]]] = {"references": ("*/*",)}
    columns: ClassVar[tuple[str, ...]] = (
        *("arm", "policy", "unsafe_released", "interval", "second", "agreement", "n"),
        *("benign_blocked", "n_benign", "accuracy", "within"),
        *("nfe_per_released", "nfe_per_blocked", "seconds_per_image"),
        *("img2img_released", "n_img2img", "img2img_blocked", "n_img2img_benign", "n_img2img_unread"),
    )
    attacks: tuple[str, ...] = ()
    """``start_picture`` with its fields, for rows that start from pictures."""
    references: str = ""
    """Folder with one folder of pictures per concept (and ``keep``) to start from; empty: the lab's."""
    seeds: int = 1
    """Rows of each prompt of a kind ("a tool in noto style"), with seeds of their own; figures within one prompt need
    several."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.attacks) > 1:
            raise BadInput("guards: one attack at most, start_picture with its strengths")
        if not 1 <= self.seeds <= 1_000:
            raise BadInput(f"{self.seeds} seeds a prompt of a kind; between 1 and 1,000 are possible")

    def cases(self, setting: Setting) -> Iterator[Case]:
        """Those of ``erasure``; after each prompt of a kind more rows of it, up to ``seeds``."""
        for case in super().cases(setting):
            yield case
            for k in range(1, self.seeds if case.variant == "kind" else 1):
                seed = row_seed("evaluate", self.seed, case.variant, case.prompt, case.id, k)
                yield case._replace(id=f"{case.id}-{k}", seed=seed)

    def parents(self, setting: Setting) -> Iterable[Case]:
        """Rows that start from pictures, see ``rows``."""
        for text in self.attacks:
            if not set(setting.attack(text).parents) <= set(PARENTS):
                raise BadInput(f"guards: attack {text!r} starts from other rows; start_picture is what it knows")
        return parents(setting, self.n, self.seed, self.references) if self.attacks else ()

    def search(self, parents: Sequence[Case], bench: Workbench) -> Iterator[Scene]:
        """The same pictures for every arm."""
        for text in self.attacks:
            mine = [c._replace(concept=apart(c.concept)) if c.variant == KEPT else c for c in parents]
            found = bench.black(bench.setting.attack(text), mine, self.references)
            rows = [c._replace(concept=together(c.concept)) for c in found.cases]
            for arm in bench.arms:
                for concept in sorted(arm.concepts):
                    for variant, column in zip(PARENTS, (COLUMN, f"keep-{COLUMN}"), strict=True):
                        cases = tuple(c for c in rows if c.concept == concept and c.variant == variant)
                        if cases:
                            yield Scene(arm, concept, column, cases, None, found.key)

    def outlook(self, parents: Sequence[Case], setting: Setting, arm: str = "") -> Outlook:
        """Nothing is searched; rows are counted as if they took all steps, and take the share that is their
        strength."""
        each = sum(len(setting.attack(text).strengths) for text in self.attacks)
        return Outlook(0, ((len(parents) * each, None),) if parents else ())

    def measure(self, evidence: Evidence) -> dict[str, Any]:
        """What ``erasure`` measures, with the section ``guards``: cells of ``metrics.guarding.guard_cells``. There, and
        in the cells of kinds, are the figures of ``metrics.guarding.within_prompts``. Rows that start from pictures are
        in their own columns only."""
        shared: dict[str, Any] = {
            "arms": evidence.arms,
            "base": evidence.base,
            "concepts": evidence.concepts,
            "card": evidence.card,
        }
        pictured = [r for r in evidence.rows if r["variant"] in (COLUMN, f"keep-{COLUMN}")]
        rows = [r for r in evidence.rows if r["variant"] not in (COLUMN, f"keep-{COLUMN}")]
        found = super().measure(replace(evidence, rows=rows))
        more = guard_pairs(rows, evidence.scores, **shared, compare=evidence.compare)
        cells = guard_cells(rows, evidence.scores, **shared)
        started = {(c["arm"], c["policy"]): c for c in guard_cells(pictured, evidence.scores, **shared)}
        cells = [{**c, **_started(started.get((c["arm"], c["policy"])))} for c in cells]
        within = within_prompts(rows, evidence.scores, **shared)
        cells = [c | within.get((c["arm"], c["policy"]), {}) for c in cells]
        found["cells"] = [
            c | (within.get((c["arm"], c["concept"]), {}) if c["variant"] == "kind" else {}) for c in found["cells"]
        ]
        if evidence.second is not None:
            again = guard_cells(rows, evidence.second.scores, **{**shared, "card": evidence.second.card})
            same = {(r["arm"], r["concept"]): r["agreement"] for r in found["two_judges"]}
            cells = [
                {**a, **{name: b[key] for name, key in SECOND.items()}, "agreement": same.get((a["arm"], a["policy"]))}
                for a, b in zip(cells, again, strict=True)
            ]
        return {**found, "guards": cells, "pairs": [*found["pairs"], *more]}

    @classmethod
    def sections(cls, metrics: Mapping[str, Any]) -> list[Section]:
        """See ``sections``."""
        return sections.sections(metrics)


def _started(cell: Mapping[str, Any] | None) -> dict[str, Any]:
    """The columns of rows that start from pictures; nothing where there are none."""
    if cell is None:
        return {}
    blocked = "benign_blocked"
    shares = (("released", "unsafe_released", "low", "high"), ("blocked", blocked, f"{blocked}_low", f"{blocked}_high"))
    found: dict[str, Any] = {}
    for name, full, low, high in shares:
        found |= {
            f"{COLUMN}_{name}": cell[full],
            f"{COLUMN}_{name}_low": cell[low],
            f"{COLUMN}_{name}_high": cell[high],
        }
    counts = {
        f"n_{COLUMN}": cell["n"],
        f"n_{COLUMN}_benign": cell["n_benign"],
        f"n_{COLUMN}_unread": cell["n_unscored"],
    }
    return {**found, **counts}
