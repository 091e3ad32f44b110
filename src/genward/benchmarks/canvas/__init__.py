"""Benchmark ``canvas``: UnlearnCanvas' protocol (Zhang et al., arXiv 2402.11846) for weight erasers, guards and edits
of activations, side by side.

For each request an arm draws the answer set, every object in every style: UA is the share of pictures of the target
that do not show it, IRA the accuracy on the other classes of its domain, CRA that of the other domain. A request is for
one concept (``uce:{concept}``), for several in sequence (``uce:cat+uce:banana``), or for several at once
(``uce:cat&banana``). Rows are in ``rows``, requests in ``requests``, figures in ``figures``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from genward.benchmarks.canvas import attacked, figures, rows, sections
from genward.core.benchmark import Benchmark, Evidence, Outlook, Printed, Scene, Setting, Workbench, interval
from genward.core.blocks import Section
from genward.core.records import Case
from genward.errors import BadInput


@dataclass(frozen=True)
class CanvasBenchmark(Benchmark):
    """Erasure on every object in every style: single, joint and sequential requests, with cost."""

    name: ClassVar[str] = "canvas"
    figure: ClassVar[str] = "ua"
    folders: ClassVar[Mapping[str, tuple[str, ...]]] = {"data": ("*/*/",), "references": ("*/*",)}
    columns: ClassVar[tuple[str, ...]] = (
        *("arm", "concept", "variant", "ua", "interval", "n", "ira", "n_ira", "cra", "n_cra", "cra_without"),
        *("average", "artifacts", "locality", "frechet", "prepare_seconds", "storage_bytes", "peak_bytes", "overhead"),
    )
    concepts: tuple[str, ...] = ()
    """What is to be gone, one at a time and together: names or files."""
    n: int = 1
    """Seeds for each pair of object and style (published: 5)."""
    scenes: int = 12
    """Scenes of two objects for each concept that is no style."""
    seed: int = 0
    """Another number gives other starting noise everywhere."""
    others: int = 0
    """Objects beside the targets, spread over the vocabulary; 0: all."""
    objects: tuple[str, ...] = ()
    """Objects by name; empty: the vocabulary's, or those of ``data``."""
    styles: tuple[str, ...] = ()
    """Styles by name; empty: the vocabulary's, or those of ``data``."""
    data: str = ""
    """Folder of the published data, ``Style/Object/1.jpg``, whose names are taken."""
    caption: str = ""
    """Caption with ``{object}`` and ``{style}``; empty: the lab's, with ``data`` the published checkpoint's."""
    attacks: tuple[str, ...] = ()
    """Attacks through every arm on top, as ``textual_inversion,steps=300``."""
    references: str = ""
    """Folder of reference pictures for attacks; empty: the model's own."""

    def __post_init__(self) -> None:
        if not self.concepts:
            raise BadInput(f"the benchmark {self.name} got no concept; name at least one (genward list concepts)")
        if not 1 <= self.n <= 100 or not 0 <= self.scenes <= 1000 or self.others < 0:
            raise BadInput(
                f"canvas: n {self.n}, scenes {self.scenes}, others {self.others}; 1 to 100 seeds, 0 to 1,000 scenes "
                "and 0 or more objects are possible"
            )
        if self.caption and not {"{object}", "{style}"} <= {p for p in ("{object}", "{style}") if p in self.caption}:
            raise BadInput(f"canvas: caption {self.caption!r} lacks {{object}} or {{style}}")

    def _canvas(self, setting: Setting) -> rows.Canvas:
        return rows.canvas_of(self, setting.words, setting.concepts, setting.avoid)

    def cases(self, setting: Setting) -> Iterator[Case]:
        """The scenes of each concept; answer sets follow through ``search``, so that an arm draws its own once."""
        canvas = self._canvas(setting)
        for concept in setting.concepts:
            yield from rows.scenes(canvas, concept, self.scenes, self.seed)

    def _answers(self, setting: Setting) -> list[Case]:
        harm = [t for c in setting.concepts if c.kind == "policy" for t in c.targets]
        return rows.answers(self._canvas(setting), self.n, self.seed, harm)

    def parents(self, setting: Setting) -> Iterable[Case]:
        """The answer set once for each concept, and what attacks start from."""
        for concept in setting.concepts:
            for case in self._answers(setting):
                yield case._replace(id=f"{concept.name}/{case.id}", concept=concept.name)
        yield from attacked.parents(self, setting)

    def search(self, parents: Sequence[Case], bench: Workbench) -> Iterator[Scene]:
        """The answer set of each arm, and what attacks find through it. Two arms with the same defenses share it."""
        cases = tuple(self._answers(bench.setting))
        order = [c.name for c in bench.setting.concepts]
        for arm in bench.arms:
            (first, *_) = [name for name in order if name in arm.concepts]
            yield Scene(arm, first, rows.ANSWERS, cases)
        yield from attacked.scenes(self, parents, bench)

    def outlook(self, parents: Sequence[Case], setting: Setting, arm: str = "") -> Outlook:
        """Answer sets cost no search; attacks do."""
        once = {(c.prompt, c.seed) for c in parents if c.variant == rows.ANSWERS}
        return attacked.outlook(self, parents, setting, len(once))

    def measure(self, evidence: Evidence) -> dict[str, Any]:
        """``cells`` and ``pairs`` of ``figures``, the matrix of ``earlier`` targets, and sample ``grids``; before the
        answer sets are drawn, nothing."""
        if not any(r["variant"] == rows.ANSWERS for r in evidence.rows):
            return {"cells": [], "pairs": [], "earlier": [], "grids": []}
        cells = attacked.joined(evidence, figures.cells(evidence))
        grids = evidence.strips(each=1) if any(r["variant"] == rows.SCENE for r in evidence.rows) else []
        return {"cells": cells, "pairs": figures.pairs(evidence), "earlier": figures.earlier(cells), "grids": grids}

    @classmethod
    def printed(cls, metrics: Mapping[str, Any]) -> list[Printed]:
        """The cells, and how they were counted."""
        table = [{**row, "interval": interval(row, cls.figure)} for row in metrics["cells"]]
        return [Printed(table, cls.columns, sections.COUNTED if table else "answer sets are drawn now")]

    @classmethod
    def sections(cls, metrics: Mapping[str, Any]) -> list[Section]:
        """See ``sections``."""
        return sections.sections(metrics, cls.columns)
