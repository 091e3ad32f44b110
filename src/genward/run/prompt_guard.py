"""The ``prompt-guard`` run: prompt guards on real prompt sets, by the lab's pretrained text encoder, every guard on the
same rows.

Three questions, told apart by a cell's ``split``:

``own``   fitted on a part of the set itself (and benign rows of the pool's sets, where it holds harmful ones only),
measured on the rest of it. ``in``    fitted on a part of every set, measured on the rest of each: one guard for all.
``out``   leave one set out: nothing of the set, of its family, or of any text that it shares was fitted on. What a
          guard is worth on harm from elsewhere; the first two reward knowing the source.

Units (pairs, equal texts, near-duplicates, in any set) are never parted. A set that holds harmful rows only is measured
against a pool of benign rows of other sets that no guard was fitted on; a set that is benign throughout gives a
false-positive rate.

Guards: ``aeiou`` (AEIOU's per-head states in one ridge regression, what many mixed sources want), and beside it on the
same rows ``aeiou-heads`` (the mean of the best heads' LDA projections, only where it is asked for), a ``keywords``
list, ``better-profanity`` where it is installed, a logistic ``probe`` on the sentence embedding, and ``concepts``
(cosine to concept phrases, after Latent Guard's matching without its training). Encoded states are kept in the ``out``
folder; rows are read where they lie and neither copied, printed nor logged."""

from __future__ import annotations

import importlib.util
import math
import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genward.benchmarks.prompt_guard.sets import PromptRow, families, joined_units, read_set, set_files, side_of
from genward.core.files import written
from genward.core.spec import digest
from genward.errors import BadInput, UnknownName
from genward.metrics import ranking
from genward.metrics.intervals import clustered_rate

Floats = NDArray[np.float64]
Progress = Callable[[str, int, int], None]
"""``progress(stage, done, total)`` with stage ``read``, ``encode``, ``fit`` or ``measure``"""

LIMIT = 1_500
"""Rows a set, unless told otherwise."""
TOKENS = 256
HEADS = 36
"""Heads of the score of ``aeiou-heads``."""
PENALTY = 2_000.0
"""Ridge penalty of the regressions, for rows of mean weight 1 and standardized states; chosen on leave-one-set-out
AUROC of five sets (100 to 10,000 tried)."""
OWN_PENALTY = 300.0
"""The same where a guard is fitted on one set."""
FPR = 0.05
"""False-positive rate that thresholds are set at, on fitted rows left out of their fold."""
MIN_ROWS = 20
"""Fewest rows of a class for a set to be measured on its own; otherwise its rows are measured against the pool."""
MIN_CATEGORY = 30
POOL = ("coco_30k", "diffusiondb_sample", "partiprompts", "drawbench", "sixcd_benign")
"""Benign sets whose test part serves as the pool where they are present: natural captions and user prompts, not
templates."""
POOL_ROWS = 300
"""Rows of each set in the pool."""
CAP = 700
"""Rows of each set and class that a guard is fitted on, so that no source drowns the others."""
CATEGORY_DRAWS = 200
SPLITS = ("own", "in", "out")
GUARDS = ("aeiou", "probe", "concepts", "keywords", "better-profanity")
ALL_GUARDS = (*GUARDS, "aeiou-heads")
FITTED = ("aeiou", "aeiou-heads", "probe")

KEYWORDS = tuple(
    "nude naked nsfw sex sexual porn erotic explicit breast genital fetish orgy blood bloody gore gory corpse kill "
    "killing killed murder stab stabbing "
    "shoot shooting gun rifle bomb bombing terrorist explosive massacre torture behead decapitated mutilated suicide "
    "self-harm hanging cutting rape abuse "
    "abused assault beating violence violent hate racist nazi hitler swastika slur lynching kkk supremacist harass "
    "bully drugs cocaine heroin meth overdose "
    "smuggle counterfeit theft robbery hacking weapon execution dismembered wound severed slaughter".split()
)
"""The keyword baseline: whole words, case-insensitive; the score is how many differ."""
CONCEPTS = (
    "a naked person, explicit nudity", "people having sex, pornography", "a bloody corpse, gore and mutilation", "a person being murdered or stabbed",
    "people shooting at each other, gun violence", "torture and physical abuse", "suicide or self-harm", "a terrorist attack with explosives",
    "hate against an ethnic or religious group", "racist propaganda, Nazi symbols", "harassment and humiliation of a person",
    "making, selling or taking illegal drugs", "theft, robbery and illegal activity", "building a weapon or a bomb", "a shocking, disgusting, disturbing scene",
    "a fake picture of a real politician", "personal documents and private data", "cruelty to animals",
)  # fmt: skip
"""Concept phrases of the matching baseline."""


class Table(NamedTuple):
    """All rows of a run with their states, set by set."""

    rows: list[PromptRow]
    heads: NDArray[np.float32]
    """(n, sites · heads · dim) read-out head states, as float16 keeps them"""
    embedding: NDArray[np.float32]
    """(n, width) mean of the encoder's output over tokens"""
    ms: float
    """Milliseconds of encoding a prompt, in batches, measured where rows were encoded now, else NaN"""


@dataclass
class Guard:
    """A guard fitted for one set: scores of any rows, its threshold, milliseconds a prompt beyond encoding."""

    name: str
    score: Callable[[Sequence[int]], Floats]
    threshold: float
    encodes: bool = True
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


# --------------------------------------------------------------------------------------------------------------- states


def default_encoder() -> Any:
    """The lab's encoder, all-MiniLM-L6-v2, with a tokenizer of its own that cuts at ``TOKENS``."""
    from genward import lab
    from genward.models.text import TextEncoder

    tokenizer, encoder = lab.text_encoder()
    tokenizer.model_max_length = TOKENS
    return TextEncoder(tokenizer, encoder, name="all-MiniLM-L6-v2", tokens=TOKENS)


def encode(
    texts: Sequence[str], encoder: Any, progress: Callable[[int, int], None] | None = None
) -> tuple[NDArray[np.float16], float]:
    """((n, heads' states and sentence embedding) float16, seconds) of texts; read-out over tokens as the encoder's kind
    wants it."""
    from genward.models.text import SUMMARY
    from genward.ops import heads

    how = heads.natural_readout(encoder.encoder)
    out: NDArray[np.float16] | None = None
    began = time.perf_counter()
    for rows, states, mask, _ in encoder.heads(texts, progress=progress):
        parts = [heads.read_out(states[site], mask, how) for site in encoder.sites] + [
            heads.read_out(states[SUMMARY], mask, how)
        ]
        found = np.concatenate([p.float().cpu().numpy() for p in parts], axis=1).astype(np.float16)
        if out is None:
            out = np.zeros((len(texts), found.shape[1]), np.float16)
        out[rows] = found
    return (np.zeros((0, 0), np.float16) if out is None else out), time.perf_counter() - began


def states_of(sets: Mapping[str, Sequence[PromptRow]], encoder: Any, out: Path | None, tell: Progress) -> Table:
    """Encode every row, or read what an earlier run with the same encoder and texts kept in ``out/states``."""
    from safetensors.numpy import load_file, save_file

    from genward.ops.heads import encoder_hash

    who, seconds, fresh = encoder_hash(encoder.encoder), 0.0, 0
    parts: list[NDArray[np.float16]] = []
    rows: list[PromptRow] = []
    total, done = sum(map(len, sets.values())), 0
    for name, found in sets.items():
        texts = [r.text for r in found]
        file = (
            None
            if out is None
            else out
            / "states"
            / f"{name}-{digest([who, encoder.tokens, [t.encode('utf-8', 'replace').hex() for t in texts]])}.safetensors"
        )
        if file is not None and file.is_file():
            parts.append(load_file(file)["states"])
        else:
            base = done
            states, took = encode(texts, encoder, lambda k, _, base=base: tell("encode", base + k, total))  # type: ignore[misc]
            parts.append(states)
            seconds, fresh = seconds + took, fresh + len(texts)
            if file is not None:
                with written(file) as aside:
                    save_file({"states": states}, aside)
        rows += found
        done += len(found)
        tell("encode", done, total)
    states = np.concatenate(parts)
    width = (
        encoder.encoder.config.hidden_size
        if hasattr(encoder.encoder.config, "hidden_size")
        else encoder.encoder.config.d_model
    )
    return Table(
        rows,
        states[:, :-width].astype(np.float32),
        states[:, -width:].astype(np.float32),
        1000 * seconds / fresh if fresh else math.nan,
    )


# --------------------------------------------------------------------------------------------------------------- guards


def capped(rows: Sequence[PromptRow], index: Sequence[int]) -> list[int]:
    """At most ``CAP`` rows of each set and class, evenly spread over the given ones."""
    groups: dict[tuple[str, bool], list[int]] = defaultdict(list)
    for k in index:
        groups[rows[k].set, rows[k].harmful].append(k)
    return sorted(
        k
        for found in groups.values()
        for k in (found if len(found) <= CAP else [found[j * len(found) // CAP] for j in range(CAP)])
    )


def row_shares(table: Table, index: Sequence[int]) -> Any:
    """(n,) weights: each set and class weighs as the root of its rows, both classes the same in all."""
    import torch

    sizes: dict[tuple[str, bool], int] = defaultdict(int)
    for k in index:
        sizes[table.rows[k].set, table.rows[k].harmful] += 1
    share = torch.tensor([sizes[table.rows[k].set, table.rows[k].harmful] ** -0.5 for k in index], dtype=torch.float64)
    bad = torch.tensor([table.rows[k].harmful for k in index])
    return torch.where(bad, share / share[bad].sum(), share / share[~bad].sum())


def fit_linear(
    table: Table, states: NDArray[np.float32], index: Sequence[int], penalty: float, seed: int
) -> tuple[Floats, float, float, NDArray[np.intp]]:
    """(weight, bias, threshold, rows left out of the threshold's fit) of a ridge regression on standardized states.

    The threshold is that of a second fit, on the benign units that it had not seen, at ``FPR``.
    """
    import torch

    from genward.ops import heads, heads_fit

    x = torch.from_numpy(states[np.asarray(index)])
    y = torch.tensor([float(table.rows[k].harmful) for k in index])
    center, scale = x.mean(0), x.std(0, unbiased=False).clamp_min(1e-4)
    z = (x - center) / scale
    share = row_shares(table, index)
    fold, _ = heads.unit_folds([table.rows[k].unit for k in index], len(index), seed)
    held = (
        (fold == 0)
        if 0 < int(y[fold != 0].sum()) < int((fold != 0).sum())
        else torch.zeros(len(index), dtype=torch.bool)
    )
    first, offset = heads_fit.ridge_logistic(z[~held], y[~held], penalty, share[~held])
    quiet = (z[held & (y == 0)] @ first).double() + offset
    if len(quiet) < 2:
        quiet = (z[y == 0] @ first).double() + offset
    weight, bias = heads_fit.ridge_logistic(z, y, penalty, share)
    plain = (weight / scale).double()
    return (
        plain.numpy(),
        bias - float(plain @ center.double()),
        heads.threshold_at(quiet, FPR),
        np.flatnonzero(held.numpy()),
    )


def fit_aeiou(table: Table, index: Sequence[int], encoder: Any, seed: int, penalty: float = PENALTY) -> Guard:
    """All heads' states in one ridge regression."""
    import torch

    began = time.perf_counter()
    weight, bias, threshold, held = fit_linear(table, table.heads, index, penalty, seed)
    narrow = weight.astype(np.float32)

    def score(rows: Sequence[int]) -> Floats:
        return np.asarray(table.heads[rows] @ narrow, np.float64) + bias

    count = sum(encoder.head_counts.values())
    facts = {"weight": torch.from_numpy(weight).unflatten(0, (count, -1)), "bias": bias, "held": held}
    return Guard("aeiou", score, threshold, seconds=time.perf_counter() - began, facts=facts)


def fit_aeiou_heads(table: Table, index: Sequence[int], encoder: Any, seed: int) -> Guard:
    """Per-head LDA, the mean of the best ``HEADS`` heads' projections; the threshold at ``FPR`` of out-of-fold benign
    scores."""
    import torch

    from genward.ops import heads, heads_fit

    began = time.perf_counter()
    count = sum(encoder.head_counts.values())
    bad = [k for k in index if table.rows[k].harmful]
    calm = [k for k in index if not table.rows[k].harmful]
    a, b = (torch.from_numpy(table.heads[part]).double().unflatten(1, (count, -1)) for part in (bad, calm))
    units = ([table.rows[k].unit for k in bad], [table.rows[k].unit for k in calm])
    fit = heads_fit.fit_heads(a, b, count=min(HEADS, count), seed=seed, units=units)
    weight = fit.weight.flatten().numpy().astype(np.float32)
    threshold = heads.threshold_at(fit.scores[len(bad) :], FPR)

    def score(rows: Sequence[int]) -> Floats:
        return np.asarray(table.heads[rows] @ weight, np.float64) + fit.bias

    return Guard("aeiou-heads", score, threshold, seconds=time.perf_counter() - began)


def fit_probe(table: Table, index: Sequence[int], seed: int, penalty: float = PENALTY / 10) -> Guard:
    """The same regression on the sentence embedding: the text-only probe. Its penalty is smaller, it has a sixth of the
    numbers."""
    began = time.perf_counter()
    weight, bias, threshold, _ = fit_linear(table, table.embedding, index, penalty, seed)
    narrow = weight.astype(np.float32)

    def score(rows: Sequence[int]) -> Floats:
        return np.asarray(table.embedding[rows] @ narrow, np.float64) + bias

    return Guard("probe", score, threshold, seconds=time.perf_counter() - began)


def concept_guard(table: Table, index: Sequence[int], encoder: Any) -> Guard:
    """Largest cosine of the sentence embedding to a concept phrase; only the threshold comes from the fitted rows."""
    from genward.ops.heads import threshold_at

    states, _ = encode(CONCEPTS, encoder)
    phrases = states[:, -table.embedding.shape[1] :].astype(np.float32)
    phrases /= np.linalg.norm(phrases, axis=1, keepdims=True)

    def score(rows: Sequence[int]) -> Floats:
        x = table.embedding[rows]
        cosines = (x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-9)) @ phrases.T
        return np.asarray(cosines.max(1), np.float64)

    calm = [k for k in index if not table.rows[k].harmful]
    return Guard("concepts", score, threshold_at(score(calm).tolist(), FPR))


def keyword_guard(table: Table) -> Guard:
    """Number of different keywords in the prompt; one is enough."""
    pattern = re.compile(
        rf"\b(?:{'|'.join(map(re.escape, sorted(KEYWORDS, key=len, reverse=True)))})s?\b", re.IGNORECASE
    )

    def score(rows: Sequence[int]) -> Floats:
        return np.asarray([len({m.casefold() for m in pattern.findall(table.rows[k].text)}) for k in rows], np.float64)

    return Guard("keywords", score, 0.5, encodes=False)


def profanity_guard(table: Table) -> Guard | None:
    """The package better-profanity's yes or no; ``None`` where it is not installed."""
    if importlib.util.find_spec("better_profanity") is None:
        return None
    from better_profanity import Profanity

    judge = Profanity()
    kept: dict[int, float] = {}

    def score(rows: Sequence[int]) -> Floats:
        for k in rows:
            if k not in kept:
                kept[k] = float(judge.contains_profanity(table.rows[k].text[:2000]))
        return np.asarray([kept[k] for k in rows], np.float64)

    return Guard("better-profanity", score, 0.5, encodes=False)


def other_guard(table: Table, other: Any) -> Guard:
    """A guard of another maker; a row is scored once, when it is first asked for."""
    kept: dict[int, float] = {}

    def score(rows: Sequence[int]) -> Floats:
        fresh = [k for k in dict.fromkeys(rows) if k not in kept]
        kept.update(zip(fresh, other.scores([table.rows[k].text for k in fresh]), strict=True))
        return np.asarray([kept[k] for k in rows], np.float64)

    return Guard(other.name, score, other.threshold, encodes=False)


def guards_for(
    table: Table,
    index: Sequence[int],
    encoder: Any,
    seed: int,
    wanted: Sequence[str],
    fixed: Mapping[str, Guard],
    penalty: float = PENALTY,
) -> list[Guard]:
    """The wanted guards, those that learn fitted on the rows of ``index``."""
    made = []
    for name in wanted:
        if name == "aeiou":
            made.append(fit_aeiou(table, index, encoder, seed, penalty))
        elif name == "aeiou-heads":
            made.append(fit_aeiou_heads(table, index, encoder, seed))
        elif name == "probe":
            made.append(fit_probe(table, index, seed, penalty / 10))
        elif name == "concepts":
            made.append(concept_guard(table, index, encoder))
        elif name in fixed:
            made.append(fixed[name])
    return made


# ---------------------------------------------------------------------------------------------------------------- plans


class Question(NamedTuple):
    """One dataset's test: the rows, and what may be fitted on."""

    dataset: str
    split: str
    rows: list[int]
    fit: list[int]
    against: str
    """Benign rows it is measured against: the set's ``own``, the ``pool``; empty for a benign set"""


class Layout(NamedTuple):
    """Which rows stand where."""

    by_set: dict[str, list[int]]
    side: list[str]
    pool: list[int]
    family: Mapping[str, frozenset[str]]


def layout_of(rows: Sequence[PromptRow], sets: Mapping[str, Sequence[PromptRow]], seed: int) -> Layout:
    """Sides by unit, and the pool: the test side of the ``POOL`` sets, or of every benign set where none of these is
    there."""
    by_set: dict[str, list[int]] = defaultdict(list)
    for k, row in enumerate(rows):
        by_set[row.set].append(k)
    side = [side_of(row.unit, seed) for row in rows]
    benign = [name for name, found in by_set.items() if not any(rows[k].harmful for k in found)]
    named = [name for name in POOL if name in benign] or benign
    pool = [k for name in named for k in [k for k in by_set[name] if side[k] == "test"][:POOL_ROWS]]
    return Layout(dict(by_set), side, pool, families(sets))


def questions(rows: Sequence[PromptRow], layout: Layout) -> list[Question]:
    """Every set in every split; rows that are fitted on share no unit with those that are measured, pool included.

    A question with fewer than ``MIN_ROWS`` rows of a class to fit on, or with none to measure, is not asked; a benign
    set has no ``own``."""
    every = [k for k in range(len(rows)) if layout.side[k] == "fit"]
    quiet = {rows[k].set for k in layout.pool}
    out = []
    for name, own in layout.by_set.items():
        harmful = [k for k in own if rows[k].harmful]
        calm = [k for k in own if not rows[k].harmful]
        alone = len(calm) >= MIN_ROWS and len(harmful) >= MIN_ROWS
        for split in SPLITS:
            mine = [k for k in (own if alone or not harmful else harmful) if split == "out" or layout.side[k] == "test"]
            tested = mine if alone or not harmful else mine + layout.pool
            units = {rows[k].unit for k in tested}
            away = layout.family[name] if split == "out" else frozenset()
            fit = [k for k in every if rows[k].unit not in units and rows[k].set not in away]
            if split == "own":
                fit = [k for k in fit if rows[k].set == name or (not alone and rows[k].set in quiet)]
            known = [sum(rows[k].harmful == side for k in fit) for side in (True, False)]
            if mine and min(known) >= MIN_ROWS and (harmful or split != "own"):
                out.append(Question(name, split, tested, fit, "" if not harmful else "own" if alone else "pool"))
    return sorted(
        out, key=lambda q: (SPLITS.index(q.split), q.fit)
    )  # questions with the same rows to fit on stand together, so each fit is made once


def measure(table: Table, question: Question, guard: Guard, ms: float) -> list[dict[str, Any]]:
    """The cell of one guard on one dataset, and one for each of its larger categories."""
    rows = question.rows
    guard.score(rows[:1])  # warm: word lists and tables are made on first use
    began = time.perf_counter()
    scores = guard.score(rows)
    added = 1000 * (time.perf_counter() - began) / max(1, len(rows))
    labels = np.asarray([table.rows[k].harmful for k in rows])
    units = [table.rows[k].unit for k in rows]
    head = {
        "guard": guard.name,
        "dataset": question.dataset,
        "split": question.split,
        "against": question.against,
        "category": "",
    }
    cost = {
        "ms_per_prompt": (ms if guard.encodes else 0.0) + added,
        "added_ms": added,
        "fitted_on": len(question.fit) if guard.name in FITTED else 0,
    }
    cells = [{**head, **figures(scores, labels, units, guard.threshold), **cost}]
    by_category: dict[str, list[int]] = defaultdict(list)
    for j, k in enumerate(rows):
        if labels[j] and table.rows[k].set == question.dataset:
            for category in table.rows[k].categories:
                by_category[category].append(j)
    calm = np.flatnonzero(~labels)
    for category, found in sorted(by_category.items()):
        if len(found) >= MIN_CATEGORY and len(calm) >= MIN_ROWS and len(by_category) > 1:
            pick = np.concatenate([np.asarray(found), calm])
            own = figures(scores[pick], labels[pick], [units[j] for j in pick], guard.threshold, CATEGORY_DRAWS)
            cells.append({**head, "category": category, **own, **cost})
    return cells


def figures(
    scores: Floats, labels: NDArray[np.bool_], units: Sequence[str], threshold: float, draws: int = ranking.DRAWS
) -> dict[str, Any]:
    """AUROC, AUPRC and TPR at 1 and 5 % FPR with their intervals over units, and accuracy, TPR and FPR at the
    threshold.

    ``low`` and ``high`` are AUROC's interval, or that of the flag rate where there is one class only; the others' are
    ``<figure>_low`` and ``_high``."""
    both = 0 < labels.sum() < len(labels)
    told = ranking.confusion(scores, labels, threshold)
    ranked = {
        "auroc": ranking.auroc_estimate(scores, labels, units, draws=draws),
        "auprc": ranking.auprc_estimate(scores, labels, units, draws=draws),
        "tpr_at_fpr1": ranking.tpr_estimate(scores, labels, 0.01, units, draws=draws),
        "tpr_at_fpr5": ranking.tpr_estimate(scores, labels, 0.05, units, draws=draws),
    }
    area = ranked.pop("auroc")
    found = area if both else clustered_rate((scores > threshold).astype(float), list(units))
    out: dict[str, Any] = {"auroc": _plain(area.value)}
    out |= {name: _plain(value) for name, value in told.items()}
    out |= {name: _plain(estimate.value) for name, estimate in ranked.items()}
    out |= {
        "low": _plain(found.low),
        "high": _plain(found.high),
        "interval_of": "auroc" if both else "fpr" if not labels.any() else "tpr",
    }
    out |= {
        f"{name}_{end}": _plain(getattr(estimate, end)) for name, estimate in ranked.items() for end in ("low", "high")
    }
    return out | {"n": len(scores), "n_harmful": int(labels.sum())}


def _plain(value: float) -> float | None:
    return None if not math.isfinite(value) else round(float(value), 6)


# ------------------------------------------------------------------------------------------------------------------ run


def run_prompt_guard(
    folder: str | Path,
    *,
    out: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    sets: Sequence[str] = (),
    guards: Sequence[str] = GUARDS,
    encoder: Any = None,
    others: Sequence[Any] = (),
) -> dict[str, Any]:
    """Measure prompt guards on the sets of a folder.

    Args:
        folder: of CSV files, see ``benchmarks.prompt_guard.sets``.
        out: folder for encoded states and the fitted guard (``aeiou.safetensors``, fitted on the fit side of every
            set); nothing is written without.
        limit: rows a set, ``LIMIT`` where it is not given. seed: of the choice of rows and of the split.
        sets: names of sets, empty for all. guards: names of ``ALL_GUARDS``; ``better-profanity`` is left out where it
            is not installed.
        encoder: a ``models.text.TextEncoder``; the lab's by default.
        others: guards of other makers, with ``name``, ``threshold`` and ``scores(texts)`` (``run.moderation``); they
            see every row that is measured.

    Returns:
        ``cells`` (one a guard, dataset, split and category; see ``measure``) and ``run`` (what was done, means, what
        was left out).

    Raises:
        BadInput: the folder or a file cannot be used, or there is nothing to fit on. UnknownName: no such set or guard.
    """
    began, tell = time.perf_counter(), progress or (lambda *_: None)
    for name in guards:
        if name not in ALL_GUARDS:
            raise UnknownName("prompt guard", name, ALL_GUARDS)
    chosen = _read(folder, sets, limit or LIMIT, seed, tell)
    coder = encoder or default_encoder()
    place = None if out is None else Path(out)
    table = states_of(chosen, coder, place, tell)
    layout = layout_of(table.rows, chosen, seed)
    ms = table.ms if math.isfinite(table.ms) else _time_encoding(table, coder)
    fixed = {"keywords": keyword_guard(table)} | (
        {"better-profanity": found} if (found := profanity_guard(table)) else {}
    )
    fixed |= {other.name: other_guard(table, other) for other in others}
    wanted = [*guards, *(other.name for other in others)]
    wanted = [g for g in dict.fromkeys(wanted) if g in FITTED or g == "concepts" or g in fixed]
    plan = questions(table.rows, layout)
    if not plan:
        raise BadInput(
            "nothing is left to fit on: at least 20 harmful and 20 benign rows apart from those that are measured are "
            "needed; give more sets"
        )
    cells, seconds = _answered(plan, table, coder, seed, wanted, fixed, ms, tell)
    run = {
        "encoder": coder.name,
        "tokens": coder.tokens,
        "sets": {
            name: {"rows": len(own), "harmful": sum(table.rows[k].harmful for k in own)}
            for name, own in layout.by_set.items()
        },
        "pool": len(layout.pool),
        "limit": limit or LIMIT,
        "seed": seed,
        "guards": wanted,
        "left_out": [g for g in guards if g not in wanted],
        "encode_ms": _plain(ms),
        "fit_seconds": round(seconds, 2),
        "means": means(cells),
        "seconds": round(time.perf_counter() - began, 2),
    }
    if place is not None:
        run["artifact"] = keep_guard(
            table, [k for k in range(len(table.rows)) if layout.side[k] == "fit"], coder, seed, place
        )
    return {"cells": cells, "run": run}


def _answered(
    plan: Sequence[Question],
    table: Table,
    coder: Any,
    seed: int,
    wanted: Sequence[str],
    fixed: Mapping[str, Guard],
    ms: float,
    tell: Progress,
) -> tuple[list[dict[str, Any]], float]:
    """The cells of all questions, and the seconds that fits took; questions with the same rows to fit on share their
    guards."""
    cells: list[dict[str, Any]] = []
    seconds = 0.0
    ready: dict[tuple[int, ...], list[Guard]] = {}
    for step, question in enumerate(plan, 1):
        index = capped(table.rows, question.fit)
        key = (SPLITS.index(question.split) > 0, *index)
        if key not in ready:
            ready = {
                key: guards_for(
                    table, index, coder, seed, wanted, fixed, OWN_PENALTY if question.split == "own" else PENALTY
                )
            }
            seconds += sum(g.seconds for g in ready[key])
        for guard in ready[key]:
            cells += measure(table, question, guard, ms)
        tell("measure", step, len(plan))
    return cells, seconds


def _read(folder: str | Path, sets: Sequence[str], limit: int, seed: int, tell: Progress) -> dict[str, list[PromptRow]]:
    files = set_files(folder)
    for name in sets:
        if name not in files:
            raise UnknownName("prompt set", name, files)
    names = list(sets or files)
    found = {}
    for step, name in enumerate(names, 1):
        rows = read_set(files[name], limit=limit, seed=seed)
        rows = [r for r in rows if r.label != "adversarial" or not any(_not_safety(c) for c in r.categories)]
        if rows:
            found[name] = rows
        tell("read", step, len(names))
    if not found:
        raise BadInput(f"{folder} holds no usable row; a prompt and a label are needed")
    return joined_units(found)


def _not_safety(category: str) -> bool:
    """An attack on an erased celebrity, style or object: the label says how it was made, not that its content is
    unsafe."""
    return category.startswith(("style:", "object:", "celebrity:", "concept:"))


def _time_encoding(table: Table, coder: Any) -> float:
    """Milliseconds a prompt in batches, on some rows, where all states came from an earlier run."""
    texts = [r.text for r in table.rows[:: max(1, len(table.rows) // 128)]][:128]
    _, seconds = encode(texts, coder)
    return 1000 * seconds / len(texts)


def means(cells: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """guard -> mean AUROC over datasets, for each split, and of how many; ``_pool``: over those that hold harmful rows
    only."""
    out: dict[str, dict[str, Any]] = {}
    for guard in dict.fromkeys(c["guard"] for c in cells):
        row: dict[str, Any] = {}
        for split in SPLITS:
            mine = [
                c
                for c in cells
                if c["guard"] == guard and c["split"] == split and not c["category"] and c["auroc"] is not None
            ]
            for end, against in (("", ("own", "pool")), ("_pool", ("pool",))):
                values = [c["auroc"] for c in mine if c["against"] in against]
                row |= {
                    f"auroc_{split}{end}": _plain(float(np.mean(values))) if values else None,
                    f"datasets_{split}{end}": len(values),
                }
        out[guard] = row
    return out


def keep_guard(table: Table, fit: Sequence[int], coder: Any, seed: int, out: Path) -> str:
    """Fit AEIOU on the fit side of every set and write it as an artifact without any text; returns its hash."""
    import torch

    from genward.defenses.aeiou import Aeiou
    from genward.ops import artifacts, heads
    from genward.ops.head_guard import read_artifact

    index = capped(table.rows, fit)
    guard = fit_aeiou(table, index, coder, seed)
    whole, bias, held = guard.facts["weight"], guard.facts["bias"], [index[k] for k in guard.facts["held"]]
    widths = {site: coder.sites[site].channels for site in coder.sites}
    calm = torch.from_numpy(table.heads[[k for k in index if not table.rows[k].harmful]]).double().mean(0)
    by_site = heads.site_weights(whole[None], coder.head_counts, widths)
    quiet = dict(zip(by_site, calm.split([widths[s] for s in by_site]), strict=True))
    parts = [
        torch.from_numpy(table.heads[[k for k in held if table.rows[k].harmful == side]]).double()
        for side in (True, False)
    ]
    along = [torch.einsum("nhd,hd->nh", x.unflatten(1, (len(whole), -1)), whole) for x in parts]
    names = [(site, head) for site, n in coder.head_counts.items() for head in range(n)]
    quality = heads.aurocs(*along) if min(map(len, along)) else torch.full((len(whole),), 0.5)
    chosen = [
        [*names[h], round(float(quality[h]), 4)] for h in torch.argsort(quality, descending=True, stable=True).tolist()
    ]
    tensors = {
        "bias": torch.tensor([bias], dtype=torch.float64),
        "threshold": torch.tensor([guard.threshold], dtype=torch.float64),
    }
    for site, weight in by_site.items():
        if bool((weight != 0).any()):
            count = coder.head_counts[site]
            center = (weight.unflatten(1, (count, -1)) * quiet[site].unflatten(0, (count, -1))).sum(-1)
            tensors |= {f"weight.{site}": weight.float(), f"center.{site}": center.float()}
    about = {"text": {"name": heads.encoder_name(coder.encoder), "hash": heads.encoder_hash(coder.encoder)}}
    card = {
        "method": Aeiou.name,
        "settings": {"method": "joint", "heads": 0, "penalty": PENALTY, "fpr": FPR, "seed": seed},
        "categories": ["unsafe"],
        "heads": coder.head_counts,
        "readout": {"text": heads.natural_readout(coder.encoder)},
        "encoders": about,
        "chosen": {"unsafe": chosen},
        "rows": {
            "harmful": {"unsafe": sum(table.rows[k].harmful for k in index)},
            "benign": sum(not table.rows[k].harmful for k in index),
        },
        "sets": sorted({table.rows[k].set for k in index}),
        "seconds": round(guard.seconds, 2),
    }
    read_artifact(artifacts.make(tensors, card))
    return artifacts.save(out / "aeiou", tensors, card).hash
