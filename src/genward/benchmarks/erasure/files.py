"""Rows of CSV files in the place of a concept's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from genward.core.prompts_csv import CsvPrompts
from genward.core.records import Case
from genward.errors import BadInput

CSV_HARM, CSV_BENIGN = "prompts", "keep-prompts"
"""Variants of the rows of CSV files."""


def csv_cases(prompts: Sequence[str], concepts: Sequence[str]) -> dict[str, list[Case]]:
    """Concept name -> rows of the CSV files, in the files' order.

    An entry is a path and fields of ``core.prompts_csv.CsvPrompts``; ``concept`` may be left out where there is one. A
    row is harm or benign by its label or by ``harm`` categories; its ``group`` (else its categories) is what statistics
    cluster by, and the judge's label that a benign row is expected to show: where the judge does not have that label,
    retention is unscored.

    Raises:
        BadInput: an entry names none of the concepts, or a file or a row of it cannot be used.
    """
    found: dict[str, list[Case]] = {}
    for entry in prompts:
        bench = CsvPrompts.of(entry)
        concept = bench.concept or (concepts[0] if len(concepts) == 1 else "")
        if concept not in concepts:
            path = entry.split(",")[0]
            raise BadInput(
                f"prompts {entry!r}: which concept are they about? write {path},concept=… with one of "
                f"{', '.join(sorted(concepts))}"
            )
        rows = (
            c._replace(concept=concept, variant=CSV_HARM if c.label == "harm" else CSV_BENIGN) for c in bench.cases()
        )
        found.setdefault(concept, []).extend(rows)
    return found


def with_files(cases: Iterable[Case], prompts: Sequence[str], concepts: Sequence[str]) -> Iterator[Case]:
    """The cases, those of concepts that have CSV files replaced by the files' rows."""
    mine = csv_cases(prompts, concepts)
    served = set()
    for case in cases:
        if case.concept not in mine:
            yield case
        elif case.concept not in served:
            served.add(case.concept)
            yield from mine[case.concept]
