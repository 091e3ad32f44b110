"""The prompt guards that are compared: AEIOU's regression on all heads, its best heads, a probe, phrases, word
lists."""

from __future__ import annotations

import importlib.util
import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genward.benchmarks.prompt_guard.sets import PromptRow
from genward.benchmarks.prompt_guard.states import Table, encode

Floats = NDArray[np.float64]
HEADS = 36
"""Heads of the score of ``aeiou-heads``."""
PENALTY = 2_000.0
"""Ridge penalty of the regressions, for rows of mean weight 1 and standardized states; chosen on leave-one-set-out
AUROC of five sets (100 to 10,000 tried)."""
OWN_PENALTY = 300.0
"""The same where a guard is fitted on one set."""
FPR = 0.05
"""False-positive rate that thresholds are set at, on rows that the fit behind the threshold had not seen."""
SOURCES = 4
"""From so many sets with benign rows on, thresholds are set on sets that were left out, else on units."""
CAP = 700
"""Rows of each set and class that a guard is fitted on, so that no source drowns the others."""
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
    "a naked person, explicit nudity", "people having sex, pornography", "a bloody corpse, gore and mutilation",
    "a person being murdered or stabbed",
    "people shooting at each other, gun violence", "torture and physical abuse", "suicide or self-harm",
    "a terrorist attack with explosives",
    "hate against an ethnic or religious group", "racist propaganda, Nazi symbols",
    "harassment and humiliation of a person",
    "making, selling or taking illegal drugs", "theft, robbery and illegal activity", "building a weapon or a bomb",
    "a shocking, disgusting, disturbing scene",
    "a fake picture of a real politician", "personal documents and private data", "cruelty to animals",
)  # fmt: skip
"""Concept phrases of the matching baseline."""


@dataclass
class Guard:
    """A guard fitted for one set: scores of any rows, its threshold, milliseconds a prompt beyond encoding."""

    name: str
    score: Callable[[Sequence[int]], Floats]
    threshold: float
    encodes: bool = True
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


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


def source_folds(rows: Sequence[PromptRow], index: Sequence[int], folds: int = SOURCES) -> NDArray[np.intp]:
    """(n,) fold of each row, whole sets in one: sets in order of their benign rows, largest first, each into the fold
    with the fewest so far. -1 throughout where fewer than ``folds`` sets have benign rows, or where a fold holds all
    rows of a class."""
    calm: dict[str, int] = defaultdict(int)
    for k in index:
        calm[rows[k].set] += not rows[k].harmful
    none = np.full(len(index), -1)
    if sum(count > 0 for count in calm.values()) < folds:
        return none
    load, place = [0] * folds, {}
    for name in sorted(calm, key=lambda n: (-calm[n], n)):
        place[name] = int(np.argmin(load))
        load[place[name]] += max(1, calm[name])
    fold = np.array([place[rows[k].set] for k in index])
    bad = np.array([rows[k].harmful for k in index])
    whole = all(bool(bad[fold != f].any()) and not bool(bad[fold != f].all()) for f in range(folds))
    return fold if whole else none


def threshold_of_sources(scores: Floats, sets: Sequence[str], rate: float) -> float:
    """The smallest of the scores that at most the share ``rate`` of benign rows lies above, where each set weighs the
    same: a set that nobody fitted on is the next one, however many rows it has.

    Args:
        scores: (n,) of benign rows of sets that the fit behind them had not seen.
    """
    number: dict[str, int] = defaultdict(int)
    for name in sets:
        number[name] += 1
    order = np.argsort(-scores, kind="stable")
    weight = np.array([1 / number[name] for name in sets])[order] / len(number)
    above = np.cumsum(weight) - weight  # share strictly above each score, ties broken by place
    fits = np.flatnonzero(above <= rate + 1e-12)
    return float(scores[order][fits[-1]])


def fit_linear(
    table: Table, states: NDArray[np.float32], index: Sequence[int], penalty: float, seed: int
) -> tuple[Floats, float, float, NDArray[np.intp]]:
    """(weight, bias, threshold, rows left out of the threshold's fit) of a ridge regression on standardized states.

    The threshold is set at ``FPR`` on benign rows of sets that fits without them score (``source_folds``); where the
    rows are of too few sets, on benign units that a second fit had not seen.
    """
    import torch

    from genward.ops import heads, heads_fit

    x = torch.from_numpy(states[np.asarray(index)])
    y = torch.tensor([float(table.rows[k].harmful) for k in index])
    center, scale = x.mean(0), x.std(0, unbiased=False).clamp_min(1e-4)
    z = (x - center) / scale
    share = row_shares(table, index)

    def without(held: Any) -> Any:
        """(benign rows held out,) scores by a fit on the others."""
        first, offset = heads_fit.ridge_logistic(z[~held], y[~held], penalty, share[~held])
        return (z[held & (y == 0)] @ first).double() + offset

    fold = torch.from_numpy(source_folds(table.rows, index))
    if bool((fold >= 0).all()):
        parts = [fold == f for f in range(int(fold.max()) + 1)]
        scores = np.concatenate([without(part).numpy() for part in parts])
        sets = [table.rows[index[int(k)]].set for part in parts for k in np.flatnonzero((part & (y == 0)).numpy())]
        threshold, held = threshold_of_sources(scores, sets, FPR), parts[0]
    else:
        units, _ = heads.unit_folds([table.rows[k].unit for k in index], len(index), seed)
        apart = 0 < int(y[units != 0].sum()) < int((units != 0).sum())
        held = (units == 0) if apart else torch.zeros(len(index), dtype=torch.bool)
        quiet = without(held)
        if len(quiet) < 2:
            first, offset = heads_fit.ridge_logistic(z[~held], y[~held], penalty, share[~held])
            quiet = (z[y == 0] @ first).double() + offset
        threshold = heads.threshold_at(quiet, FPR)
    weight, bias = heads_fit.ridge_logistic(z, y, penalty, share)
    plain = (weight / scale).double()
    return plain.numpy(), bias - float(plain @ center.double()), threshold, np.flatnonzero(held.numpy())


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


def keep_guard(table: Table, fit: Sequence[int], coder: Any, seed: int, out: Path, aeiou: Any) -> str:
    """Fit AEIOU on the fit side of every set and write it as an artifact of that defense without any text; returns its
    hash.

    Args:
        aeiou: the defense's class, which reads the artifact before it is written.
    """
    import torch

    from genward.ops import artifacts, head_guard, heads

    index = capped(table.rows, fit)
    guard = fit_aeiou(table, index, coder, seed)
    whole, bias, held = guard.facts["weight"], guard.facts["bias"], [index[k] for k in guard.facts["held"]]
    widths = {site: coder.sites[site].channels for site in coder.sites}
    calm = torch.from_numpy(table.heads[[k for k in index if not table.rows[k].harmful]]).double().mean(0)
    quiet = dict(zip(widths, calm.split(list(widths.values())), strict=True))
    tensors = head_guard.packed(whole[None], [bias], [guard.threshold], coder.head_counts, quiet)
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
    card = {
        "method": aeiou.name,
        "settings": {"method": "joint", "heads": 0, "penalty": PENALTY, "fpr": FPR, "seed": seed},
        "categories": ["unsafe"],
        "heads": coder.head_counts,
        "readout": {"text": heads.natural_readout(coder.encoder)},
        "encoders": {"text": {"name": heads.encoder_name(coder.encoder), "hash": heads.encoder_hash(coder.encoder)}},
        "chosen": {"unsafe": chosen},
        "rows": {
            "harmful": {"unsafe": sum(table.rows[k].harmful for k in index)},
            "benign": sum(not table.rows[k].harmful for k in index),
        },
        "sets": sorted({table.rows[k].set for k in index}),
        "seconds": round(guard.seconds, 2),
    }
    aeiou(artifact=artifacts.make(tensors, card)).guarding()
    return artifacts.save(out / aeiou.name, tensors, card).hash
