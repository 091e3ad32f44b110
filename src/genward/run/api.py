"""A run from Python: ``genward.run("erasure", concepts=["banana"], defenses=["uce:banana"])``, and its results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genward.catalog import plugins
from genward.core.config import store_folder
from genward.errors import BadInput, UnknownName
from genward.run.recipes import recipe_of
from genward.run.storing import read_run

if TYPE_CHECKING:
    from genward.catalog.opening import Opener

HOW = ("refit", "retry", "fresh", "download", "device", "dtype")
"""Options of the run itself, as those of the command"""


@dataclass(frozen=True)
class Results:
    """A measured run."""

    store: Path
    name: str
    metrics: Mapping[str, Any]
    """All that ``metrics.json`` holds; docs/metrics.md says what the figures are"""

    @classmethod
    def of(cls, name: str = "", store: str | Path | None = None) -> Results:
        """A run that is in a store already, the one measured last without a name. ``StoreError`` where there is
        none."""
        folder = store_folder() if store is None else Path(store)
        return cls(folder, *read_run(folder, name))

    @property
    def cells(self) -> list[dict[str, Any]]:
        """The run's cells: one arm, concept and variant each."""
        return [dict(cell) for cell in self.metrics["cells"]]

    def rows(self) -> list[dict[str, Any]]:
        """Every row with the judge's answer; ``run.comparing.ROW_COLUMNS`` says what the columns hold."""
        from genward.run.comparing import rows_of

        return rows_of(self.store, self.name)

    def table(
        self,
        form: str = "markdown",
        *,
        columns: Sequence[str] = (),
        where: Mapping[str, str] | None = None,
        digits: int = 2,
    ) -> str:
        """The cells as CSV, Markdown or LaTeX; see ``run.tabling.table``."""
        from genward.run.tabling import table

        return table(self.metrics, form, columns=columns, where=where, digits=digits)

    def arrow(self, rows: bool = False) -> Any:
        """Cells, or rows, as a ``pyarrow.Table``; of the cells those columns that hold plain values."""
        import pyarrow

        from genward.run.tabling import ENDS, columns_of

        if rows:
            return pyarrow.Table.from_pylist(self.rows())
        cells = self.cells
        every = set().union(*cells)
        names = [w for n in columns_of(cells) for w in (n, *(n + e for e in ENDS if n + e in every))]
        return pyarrow.Table.from_pylist([{n: cell.get(n) for n in names} for cell in cells])

    def frame(self, rows: bool = False) -> Any:
        """The same as a ``pandas.DataFrame``. ``BadInput`` where pandas is not installed."""
        if find_spec("pandas") is None:
            raise BadInput("frame() wants pandas: pip install 'genward[frames]'; arrow() needs nothing more")
        return self.arrow(rows).to_pandas()


def _arguments() -> list[str]:
    """Names of ``run``'s own arguments."""
    return [name for name in signature(run).parameters if name not in ("benchmark", "more")]


def run(
    benchmark: str,
    preset: str = "",
    *,
    store: str | Path | None = None,
    concepts: str | Sequence[str] = (),
    defenses: str | Sequence[str] = (),
    name: str = "",
    model: str = "",
    judge: str = "",
    second: str = "",
    labels_by: str = "",
    steps: int = 0,
    guidance: float | None = None,
    models: Opener | None = None,
    say: Callable[[str], None] | None = None,
    **more: Any,
) -> Results:
    """Run a benchmark as ``genward run`` does: what is finished is kept, the same call resumes.

    Args:
        preset: ``quick``, ``standard``, ``full``, or a recipe file. store: by default as ``core.config.store_folder``.
        concepts, defenses: one text, or several; defenses as on the command line. models: opens models by name.
        say: told in words what is done.
        more: fields of the benchmark (``n=24``), and the options in ``HOW``.

    Raises:
        UnknownName, BadInput: no such benchmark, preset or field, or values that do not fit. StoreError: the store.
    """
    from genward.catalog.opening import opener
    from genward.run.loop import named, run_plan
    from genward.run.optional import fitted
    from genward.run.plan import make_plan
    from genward.run.storing import open_store

    benchmark = plugins.entry("benchmark", benchmark).name
    how = {key: more.pop(key) for key in HOW if key in more}
    known = [field for field, *_ in plugins.fields("benchmark", benchmark)]
    concepts, defenses = ((v,) if isinstance(v, str) and v else tuple(v) for v in (concepts, defenses))
    if concepts:
        more["concepts"] = concepts
    for key in more:
        if key not in known:
            raise UnknownName(f"argument or field of benchmark {benchmark}", key, [*known, *_arguments(), *HOW])
    names = {"name": name, "model": model, "judge": judge, "second": second, "labels_by": labels_by}
    plan = make_plan(
        recipe_of(benchmark, preset),
        benchmark=benchmark,
        defenses=list(defenses),
        steps=steps,
        guidance=guidance,
        **names,
        **more,
    )
    folder = store_folder() if store is None else Path(store)
    opened = open_store(folder, create=True)
    opens = models or opener(how.pop("device", None), how.pop("dtype", None), download=how.pop("download", False))
    plan = fitted(plan, opens, opened, say) if name else named(fitted(plan, opens, opened, say), opened)
    run_plan(plan, opened, models=opens, say=say, command="genward.run", **how)
    return Results.of(plan.name, folder)
