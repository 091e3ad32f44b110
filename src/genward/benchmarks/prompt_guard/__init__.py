"""Benchmark ``prompt-guard``: prompt guards on real prompt sets, by the lab's pretrained text encoder, every guard on
the same rows. No picture is made.

Three questions, told apart by a cell's ``split``:

- ``own``: fitted on a part of the set itself (and benign rows of the pool's sets, where it holds harmful ones only),
  measured on the rest of it.
- ``in``: fitted on a part of every set, measured on the rest of each: one guard for all.
- ``out``: leave one set out: nothing of the set, of its family, or of any text that it shares was fitted on. What a
  guard is worth on harm from elsewhere; the first two reward knowing the source.

Units (pairs, equal texts, near-duplicates, in any set) are never parted. A set that holds harmful rows only is measured
against a pool of benign rows of other sets that no guard was fitted on; a set that is benign throughout gives a
false-positive rate.

Guards: ``aeiou`` (AEIOU's per-head states in one ridge regression, what many mixed sources want), and beside it on the
same rows ``aeiou-heads`` (the mean of the best heads' LDA projections, only where it is asked for), a ``keywords``
list, ``better-profanity`` where it is installed, a logistic ``probe`` on the sentence embedding, and ``concepts``
(cosine to concept phrases, after Latent Guard's matching without its training). Encoded states, scores and the fitted
guard are kept in the run's folder, without a prompt. The store keeps the sets' files themselves under ``given/``, as of
every run; rows are neither printed nor logged."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from genward.benchmarks.prompt_guard.figures import cells_of, means, plain
from genward.benchmarks.prompt_guard.guards import (
    ALL_GUARDS,
    FITTED,
    GUARDS,
    OWN_PENALTY,
    PENALTY,
    Guard,
    capped,
    guards_for,
    keep_guard,
    keyword_guard,
    other_guard,
    profanity_guard,
)
from genward.benchmarks.prompt_guard.questions import SPLITS, Question, layout_of, questions
from genward.benchmarks.prompt_guard.sets import PromptRow, read_sets
from genward.benchmarks.prompt_guard.states import TOKENS, Table, states_of, time_encoding
from genward.core.benchmark import Benchmark, Evidence, Printed, Scene, Setting, Workbench
from genward.core.files import json_text, write_file, written
from genward.core.records import Case, row_seed
from genward.errors import BadInput, StoreError, UnknownName

ANSWERS = "answers"
"""File in the run's folder: what every guard said to every question (scores as safetensors, the rest as JSON)."""


@dataclass(frozen=True)
class PromptGuardBenchmark(Benchmark):
    """Prompt guards on labeled prompt sets of one's own: who tells harmful prompts from harmless ones, and how fast."""

    name: ClassVar[str] = "prompt-guard"
    media: ClassVar[str] = "text"
    columns: ClassVar[tuple[str, ...]] = (
        *("guard", "dataset", "split", "auroc", "low", "high", "auprc", "accuracy", "tpr_at_fpr1", "tpr_at_fpr5"),
        *("fpr", "n", "ms_per_prompt"),
    )
    folders: ClassVar[Mapping[str, tuple[str, ...]]] = {"data": ("*.csv",)}
    data: str = ""
    """Folder of prompt sets: CSV files with the columns prompt and label."""
    sets: tuple[str, ...] = ()
    """Names of the sets, without ending; empty: all."""
    n: int = 1_500
    """Rows per set, at most."""
    seed: int = 0
    """Of the choice of rows and of the split."""
    guards: tuple[str, ...] = GUARDS
    """Which of ours: aeiou, aeiou-heads, probe, concepts, keywords, better-profanity (where it is installed)."""
    others: tuple[str, ...] = ()
    """Guards of other makers, as ``text_classifier,model=…,labels=…`` or ``moderation,url=…`` (is sent the prompts)."""

    def __post_init__(self) -> None:
        if self.n < 1:
            raise BadInput(f"{self.n} rows per set; at least 1 is needed")
        for name in self.guards:
            if name not in ALL_GUARDS:
                raise UnknownName("prompt guard", name, ALL_GUARDS)

    @cached_property
    def _sets(self) -> dict[str, list[PromptRow]]:
        if not self.data:
            raise BadInput(
                "prompt-guard reads prompt sets from a folder; name it with --data, or as data in the recipe"
            )
        return read_sets(self.data, self.sets, self.n, self.seed)

    @property
    def _rows(self) -> list[PromptRow]:
        return [row for found in self._sets.values() for row in found]

    def cases(self, setting: Setting) -> Iterator[Case]:
        """One per row; ``variant`` is the row's label, ``group`` its unit, ``concept`` its first category."""
        for name, found in self._sets.items():
            for k, row in enumerate(found):
                concept = row.categories[0] if row.categories else ""
                seed = row_seed("prompt-sets", self.seed, name, k)
                label = "harm" if row.harmful else "benign"
                yield Case(f"{name}/{k:05d}", row.text, label, concept, seed, variant=row.label, group=row.unit)

    def search(self, parents: Sequence[Case], bench: Workbench) -> Iterator[Scene]:
        """Encode the rows, fit every guard for every question, and keep what it says about the rows to be measured."""
        others = [bench.text_guard(text) for text in self.others]
        coder = bench.text_encoder(TOKENS)
        table = states_of(self._sets, coder, bench.folder, bench.tell)
        layout = layout_of(table.rows, self._sets, self.seed)
        asked = questions(table.rows, layout)
        if not asked:
            raise BadInput(
                "nothing is left to fit on: at least 20 harmful and 20 benign rows apart from those that are measured "
                "are needed; give more sets"
            )
        began = time.perf_counter()
        ms = table.ms if math.isfinite(table.ms) else time_encoding(table, coder)
        profanity = profanity_guard(table)
        fixed = {"keywords": keyword_guard(table)} | ({} if profanity is None else {"better-profanity": profanity})
        fixed |= {other.name: other_guard(table, other) for other in others}
        wanted = [*self.guards, *(other.name for other in others)]
        wanted = [g for g in dict.fromkeys(wanted) if g in FITTED or g == "concepts" or g in fixed]
        scores, answers, seconds = self._answered(asked, table, coder, wanted, fixed, ms, bench)
        fit = [k for k in range(len(table.rows)) if layout.side[k] == "fit"]
        artifact = keep_guard(table, fit, coder, self.seed, bench.folder, bench.plugin("defense", "aeiou"))
        run = {
            "encoder": coder.name,
            "tokens": coder.tokens,
            "pool": len(layout.pool),
            "guards": wanted,
            "left_out": [g for g in self.guards if g not in wanted],
            "encode_ms": plain(ms),
            "fit_seconds": round(seconds, 2),
            "seconds": round(time.perf_counter() - began, 2),
            "artifact": artifact,
        }
        _keep(bench, scores, {"answers": answers, "run": run})
        return iter(())

    def _answered(
        self,
        asked: Sequence[Question],
        table: Table,
        coder: Any,
        wanted: Sequence[str],
        fixed: Mapping[str, Guard],
        ms: float,
        bench: Workbench,
    ) -> tuple[dict[str, Any], list[dict[str, Any]], float]:
        """Scores by key, what is known of each answer, and the seconds that fits took; questions with the same rows to
        fit on share their guards."""
        scores: dict[str, Any] = {}
        answers: list[dict[str, Any]] = []
        seconds = 0.0
        ready: dict[tuple[int, ...], list[Guard]] = {}
        for step, question in enumerate(asked):
            bench.tell("measure", step, len(asked), f"{question.dataset}, {question.split}")
            index = capped(table.rows, question.fit)
            key = (SPLITS.index(question.split) > 0, *index)
            if key not in ready:
                penalty = OWN_PENALTY if question.split == "own" else PENALTY
                ready = {key: guards_for(table, index, coder, self.seed, wanted, fixed, penalty)}
                seconds += sum(g.seconds for g in ready[key])
            scores[f"rows.{step}"] = np.asarray(question.rows, np.int64)
            for guard in ready[key]:
                guard.score(question.rows[:1])  # warm: word lists and tables are made on first use
                began = time.perf_counter()
                scores[f"scores.{step}.{guard.name}"] = guard.score(question.rows)
                added = 1000 * (time.perf_counter() - began) / max(1, len(question.rows))
                answers.append(
                    {
                        "question": step,
                        "guard": guard.name,
                        "dataset": question.dataset,
                        "split": question.split,
                        "against": question.against,
                        "threshold": guard.threshold,
                        "ms_per_prompt": (ms if guard.encodes else 0.0) + added,
                        "added_ms": added,
                        "fitted_on": len(question.fit) if guard.name in FITTED else 0,
                    }
                )
        bench.tell("measure", len(asked), len(asked), "then figures")
        return scores, answers, seconds

    def measure(self, evidence: Evidence) -> dict[str, Any]:
        """One cell per guard, dataset, split and larger category, see ``figures``; means over datasets in ``run``."""
        from safetensors.numpy import load_file

        place = evidence.folder / f"{ANSWERS}.json"
        if not place.is_file():
            raise StoreError(f"{place} is missing: the run did not come to its end; give the same command again")
        kept = json.loads(place.read_text("utf-8"))
        scores, rows = load_file(place.with_suffix(".safetensors")), self._rows
        cells = []
        for answer in kept["answers"]:
            step = answer["question"]
            cells += cells_of(rows, answer, scores[f"rows.{step}"].tolist(), scores[f"scores.{step}.{answer['guard']}"])
        sets = {
            name: {"rows": len(own), "harmful": sum(row.harmful for row in own)} for name, own in self._sets.items()
        }
        run = {**kept["run"], "sets": sets, "limit": self.n, "rows": len(rows), "means": means(cells)}
        return {"cells": cells, "run": run}

    @classmethod
    def printed(cls, metrics: Mapping[str, Any]) -> list[Printed]:
        """The cells of whole sets, and the guards' means over sets."""
        whole = [c for c in metrics["cells"] if not c["category"]]
        rows = [{"guard": guard, **row} for guard, row in metrics["run"]["means"].items()]
        columns = ("guard", *(f"auroc_{s}{end}" for s in SPLITS for end in ("", "_pool")))
        note = (
            "the second table has mean AUROC over sets; _pool: over sets of harmful rows only, against benign rows of "
            "others. --json has each category too"
        )
        return [Printed(whole, cls.columns), Printed(rows, columns, note)]


def _keep(bench: Workbench, scores: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Scores first, then what makes them readable: an interrupted run leaves no answers that lack their scores."""
    from safetensors.numpy import save_file

    place = bench.folder / f"{ANSWERS}.json"
    place.unlink(missing_ok=True)
    with written(place.with_suffix(".safetensors")) as aside:
        save_file(dict(scores), aside)
    write_file(place, json_text(facts))
