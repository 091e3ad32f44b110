"""Judge: score the samples that a judge has not seen yet, and keep its features where it offers any. Costs no
generation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from genward.catalog import plugins as catalog
from genward.core.spec import Spec, digest

if TYPE_CHECKING:
    from genward.store import Store

Progress = Callable[[int, int], None]


class Judged(NamedTuple):
    """What judging did: samples scored now, samples that were scored already, seconds."""

    scored: int
    there: int
    seconds: float


def open_judge(text: str) -> Any:
    """A judge by name with its settings: ``lab``, ``clip_zero_shot,model=./clip,phrases=a church;a castle``; raises as
    ``catalog.made``."""
    return catalog.made("judge", text)


def judge_spec(judge: Any) -> Spec:
    """A judge written down: its fields, and the digest of its card, which changes with its weights and thresholds."""
    spec = Spec.of("judge", judge)
    return Spec("judge", spec.name, {**spec.fields, "card": digest(judge.card) if judge.card is not None else ""})


def judge_hash(judge: Any) -> str:
    """Identity of a judge; names its folder in the store. A judge may bring its own as ``hash``."""
    return str(getattr(judge, "hash", "") or judge_spec(judge).hash)


def judge_samples(
    store: Store,
    arms: Iterable[str],
    judge: Any,
    *,
    only: set[str] | None = None,
    batch: int = 256,
    progress: Progress | None = None,
) -> Judged:
    """Score every sample of the arms that the judge has not scored; resumes after a kill, scores nothing twice.

    Args:
        arms: hashes.
        only: sample ids to look at; all of the arms' by default.
        batch: samples read and scored at a time; the unit of writing.
        progress: ``progress(samples done, samples)``.
    """
    began = time.perf_counter()
    name = judge_hash(judge)
    rows = [r for r in store.samples(set(arms)) if only is None or r["id"] in only]
    seen = store.judged(name)
    if hasattr(judge, "features"):
        seen &= set(store.features(name)) | {r["id"] for r in rows if not r["image"]}
    todo = [r for r in rows if r["id"] not in seen]
    there = len(rows) - len(todo)
    for k in range(0, len(todo), batch):
        if progress is not None:
            progress(there + k, len(rows))
        _judge_batch(store, name, judge, [store.load(row) for row in todo[k : k + batch]])
    if progress is not None:
        progress(len(rows), len(rows))
    return Judged(len(todo), there, time.perf_counter() - began)


def _judge_batch(store: Store, name: str, judge: Any, samples: Sequence[Any]) -> None:
    key = digest([s.id for s in samples])
    shown = [s for s in samples if s.image is not None]
    if shown and hasattr(judge, "features"):
        store.put_features(name, {s.id: vector for s, vector in zip(shown, judge.features(shown), strict=True)}, key)
    store.put_scores(name, judge.judge(samples), card=judge.card, key=key, spec=judge_spec(judge).to_json())
