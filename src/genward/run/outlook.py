"""What is left of a run and how long this machine needs for it, before anything is spent."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from genward.catalog import plugins
from genward.catalog.fitting import extra_nfe, parse_defense, ready, shipped_artifacts, unfitted
from genward.catalog.opening import LAB, Opener
from genward.core import defending
from genward.core.benchmark import Found
from genward.core.contracts import gradient_rows
from genward.core.records import Case
from genward.core.settings import changed
from genward.run.generate import Bound, missing
from genward.run.guard import arm_hash
from genward.run.judging import open_judge
from genward.run.known import check_names
from genward.run.plan import Plan, Planned, Work, planned, setting_of, work
from genward.run.search import known_search
from genward.run.second import labels_of
from genward.run.speed import Speed, speed_of
from genward.run.workbench import Bench, search
from genward.speech.effort import Effort, pace_of
from genward.speech.service import SpeechModel

if TYPE_CHECKING:
    from genward.store import Store

BACKWARD = 2
"""What the way back through the denoiser costs, in rows on the way there (``timing/attacks.py``)."""
RECORDED = 98.0
"""Denoiser rows per second of the machine that fitted the artifacts that come with the lab."""


@dataclass
class Left:
    """What of a run is still to be done."""

    rows: int = 0
    """Pictures to make"""
    there: int = 0
    """Pictures that the store holds"""
    nfe: float = 0.0
    """Denoiser rows of the pictures to make"""
    searches: int = 0
    """Searches to run"""
    search_nfe: float = 0.0
    """Their denoiser rows, the ways back of gradients among them"""
    fits: dict[str, float | None] = field(default_factory=dict)
    """Parts to fit -> seconds on this machine, ``None`` where nobody knows"""
    words: int = 0
    """Words to speak, of a run of speech"""
    hearings: int = 0
    """Sounds to hear, of a run of speech"""

    def add(self, rows: int, left: int, each: Mapping[str, float]) -> None:
        """Count rows of one arm, ``left`` of them to make at the costs of ``each``."""
        self.rows += left
        self.there += rows - left
        self.nfe += left * each.get("nfe", 0.0)


def expected(plan: Plan, models: Opener, store: Store, *, judge: Any = None, refit: bool = False) -> dict[str, Any]:
    """What is left of a run and how long it will take here; what would fail later fails now.

    Opens the judge and every model, builds and attaches every chain whose fits are at hand, and asks the store what it
    holds: fits, searches, pictures. Nothing is written. The denoiser is timed for about two seconds, voice and
    recognizer for a few, unless everything is there.

    Returns:
        ``plan``, the fields of ``Left``, ``minutes``, and ``rows_per_second`` and ``seconds_per_picture`` as measured
        (``None`` where there was nothing to measure for).

    Raises:
        What opening, building and attaching raise.
    """
    if plan.benchmark.media == "text":
        return {"plan": plan.name, **vars(Left()), "minutes": 0.0, "rows_per_second": None, "seconds_per_picture": None}
    setting = setting_of(plan)
    check_names(plan, setting, open_judge(plan.judge) if judge is None else judge)
    rows, left, effort = planned(plan, setting), Left(), Effort()
    bound: list[Bound] = []
    for piece in work(plan, rows.cases):
        model, sampler, parts = models(piece.model), piece.sampler(plan), parse_defense(piece.defenses)
        fits = unfitted(parts, model, store, refit, labels_of(plan))
        left.fits |= dict.fromkeys(fits)
        each = sampler.costs(extra_nfe(piece.defenses))
        if fits:
            model.refuse(sampler, ())
            left.add(len(piece.cases), len(piece.cases), each)
            _unseen(plan, piece, rows, left)
            continue
        chain = ready(parts, model, store, labels_by=labels_of(plan))
        arm = arm_hash(model.spec, chain.defenses, sampler)
        wanted = missing(piece.cases, arm, store.done(arm))
        with model.rig(chain.defenses) as rig:
            model.refuse(sampler, chain.defenses)
            if _speaks(model):
                effort.add(model, [piece.cases[k] for k in wanted], sampler, rig)
        left.add(len(piece.cases), len(wanted), each)
        bound.append(Bound(piece, arm, tuple(chain.defenses), 0.0, {}, sampler))
    if rows.parents:
        _searched(_Counter(plan, setting, bound, models, store, judge=judge, left=left, effort=effort), rows, left)
    if _speaks(models(plan.model)):
        return {"plan": plan.name, **vars(left), **_spoken(left, effort, models(plan.model))}
    speed = speed_of(models(plan.model), plan.sampler, plan.batch) if left.rows or left.searches or left.fits else None
    return {"plan": plan.name, **vars(left), **_minutes(plan, left, speed)}


def _unseen(plan: Plan, piece: Work, rows: Planned, left: Left) -> None:
    """Count the search of an arm that cannot be attached yet, as if it shared nothing."""
    setting = setting_of(plan)
    (mine,) = [w for w in work(plan, rows.parents) if (w.label, w.concept) == (piece.label, piece.concept)]
    outlook = plan.benchmark.outlook(mine.cases, setting, mine.label)
    left.searches += outlook.nfe > 0
    left.search_nfe += outlook.nfe
    extra = extra_nfe(piece.defenses)
    for count, guidance in outlook.rows:
        left.add(count, count, changed(plan.sampler, plan.model, guidance=guidance).costs(extra))


def _searched(bench: _Counter, rows: Planned, left: Left) -> None:
    """Let the benchmark search on a workbench that only counts, and count the pictures that follow."""
    plan, by = bench.plan, {(b.work.label, b.work.concept): b for b in bench.bound}
    for piece in search(bench, rows.parents).pieces:
        defenses = by[piece.label, piece.concept].defenses
        arm = arm_hash(bench.models(piece.model).spec, defenses, piece.sampler(plan))
        there = bench.store.done(arm)
        count = len(missing(piece.cases, arm, there))
        left.add(len(piece.cases), count, piece.sampler(plan).costs(extra_nfe(piece.defenses)))


@dataclass
class _Counter(Bench):
    """A workbench that takes searches from the store and counts those that are not there, which give back their
    parents: as many rows, under ids that no store has."""

    left: Left = field(default_factory=Left)
    effort: Effort = field(default_factory=Effort)
    _met: set[str] = field(default_factory=set)

    def _attacked(self, attack: Any, cases: Sequence[Case], model: str, defenses: Any, references: str) -> Found:
        held = self.held(references)
        given = (self.models(model), defenses, self.plan.sampler, held, self.store, self.means(attack))
        key, found = known_search(attack, cases, *given)
        if found is None:
            if key not in self._met:
                self._met.add(key)
                self.left.searches += 1
                self.left.search_nfe += attack.nfe(cases) + BACKWARD * gradient_rows(attack, cases)
                if _speaks(self.models(model)) and attack.access == "query":
                    with self.models(model).rig(defenses) as rig:
                        self.effort.search(cases, attack.budget, rig)
            found = Found(tuple(cases), {}, {}, {"seconds": 0.0}, key)
        return found


def _minutes(plan: Plan, left: Left, speed: Speed | None) -> dict[str, Any]:
    if speed is None:
        return {"minutes": 0.0, "rows_per_second": None, "seconds_per_picture": None}
    if plan.model in LAB:
        left.fits |= {text: _fit_seconds(text, speed) for text in left.fits}
    seconds = speed.seconds(left.rows, left.nfe) + left.search_nfe / speed.rows_per_second
    seconds += sum(s for s in left.fits.values() if s is not None)
    return {
        "fits": dict(left.fits),
        "minutes": round(seconds / 60, 1),
        "rows_per_second": round(speed.rows_per_second, 1) if "nfe" in plan.sampler.costs() else None,
        "seconds_per_picture": round(speed.seconds_per_picture, 4),
    }


def _speaks(model: Any) -> bool:
    """Whether a model is a speech service, whose voice and recognizer take the time; other audio is not timed."""
    return isinstance(model, SpeechModel)


def _spoken(left: Left, effort: Effort, model: Any) -> dict[str, Any]:
    """As ``_minutes``, of a run of speech: what is spoken and heard takes its time."""
    there = effort.words or effort.hearings
    seconds = effort.seconds(pace_of(model, effort.steps > 0)) if there else 0.0
    return {
        "words": effort.words,
        "hearings": effort.hearings,
        "minutes": round(seconds / 60, 1),
        "rows_per_second": None,
        "seconds_per_picture": round(seconds / left.rows, 4) if left.rows else None,
    }


def _fit_seconds(text: str, speed: Speed) -> float | None:
    """How long fitting a part takes here: by its own word, else by the longest fit of its method that comes with the
    lab."""
    method = parse_defense(text)[0].name
    rows = defending.fit_nfe(plugins.find("defense", method))
    if rows is not None:
        return rows / speed.rows_per_second
    cards = [json.loads(p.read_text("utf-8")) for p in shipped_artifacts().glob("*.json")]
    seconds = [float(c.get("seconds", 0.0)) for c in cards if c.get("method") == method]
    return round(max(seconds) * RECORDED / speed.rows_per_second, 1) if seconds else None


def in_words(costs: Mapping[str, Any]) -> str:
    """One line from ``expected``: what is left and the minutes that this machine needs."""
    if not (costs["rows"] or costs["searches"] or costs["fits"]):
        return f"{costs['plan']}: everything is there" if costs["there"] else f"{costs['plan']}: nothing to sample"
    parts = [f"{costs['rows']:,} rows" + (f" ({costs['there']:,} more are there)" if costs["there"] else "")]
    if costs["searches"]:
        parts.append(f"{costs['searches']} search{'es' if costs['searches'] > 1 else ''}")
    if costs["fits"]:
        unknown = [text for text, seconds in costs["fits"].items() if seconds is None]
        rest = f" (not counted: {', '.join(unknown)})" if unknown else ""
        parts.append(f"{len(costs['fits'])} fit{'s' if len(costs['fits']) > 1 else ''}{rest}")
    if costs.get("hearings"):
        parts.append(f"{costs['words']:,} words to speak and {costs['hearings']:,} sounds to hear at most")
    speed = costs["rows_per_second"]
    rate = "" if speed is None else f" ({speed:.3g} denoiser rows per second)"
    return f"{costs['plan']}: {', '.join(parts)}; about {costs['minutes']:g} minutes on this machine{rate}"
