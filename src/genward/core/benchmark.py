"""The contract of a benchmark, and what the runner tells it: a benchmark owns its rows, its search, its figures, its
claims and its presets; the runner (``genward.run``) owns models, defenses, pictures, judges and the store.

The stages of a run: ``cases`` and ``parents`` → ``search`` → pictures of every row under every arm → judging →
``measure``. A benchmark that makes nothing (``media = "text"``) has no arms and ends with what its search keeps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from genward.core.blocks import Section
from genward.core.plain import plain_table
from genward.core.records import Case, Concept
from genward.errors import BadInput

if TYPE_CHECKING:
    from genward.core.contracts import Card

Row = Mapping[str, Any]
"""A row of the store: the fields of its case, ``id``, ``arm``, ``status``, ``output``, ``mime``, ``seconds``,
``costs``"""


KEEP = "keep"
"""Name of the reference pictures of what must stay."""
_APART = f"{KEEP}|"


def apart(concept: str) -> str:
    """The concept under which an attack is given a row whose reference pictures are those of what must stay."""
    return _APART + concept


def together(concept: str) -> str:
    """The concept behind ``apart``, or itself."""
    return concept.removeprefix(_APART)


def _no_attack(text: str) -> Any:
    raise BadInput(f"attack {text!r}: this setting opens no attacks; a run's own does")


def _no_references(folder: str) -> Mapping[str, Sequence[tuple[str, str]]]:
    return {}


@dataclass(frozen=True)
class Setting:
    """What rows may depend on besides the benchmark's own fields; the runner makes it from the plan."""

    concepts: tuple[Concept, ...] = ()
    """The concept files that the benchmark's field ``concepts`` names, read."""
    words: Mapping[str, Any] = field(default_factory=dict)
    """The model's vocabulary, ``{"styles": […], "things": {object: {level: [phrase]}}}``; empty where it has none."""
    avoid: tuple[str, ...] = ()
    """Objects and styles that a control arm's model never saw: they may stand in harm rows only."""
    attack: Callable[[str], Any] = _no_attack
    """``ddim_inversion,steps=50`` -> the attack."""
    shown: Callable[[str], Mapping[str, Sequence[tuple[str, str]]]] = _no_references
    """Folder of reference pictures (``""``: the model's own) -> concept, or ``keep`` -> (object, style) of each."""


class Found(NamedTuple):
    """What one search came back with."""

    cases: tuple[Case, ...]
    tensors: Mapping[str, Any]
    """Content hash -> what ``Case.inputs`` name"""
    facts: Mapping[str, Mapping[str, Any]]
    """Content hash -> what the attack says about it: learning curve, round-trip error, …"""
    cost: Mapping[str, float]
    """``nfe``, ``gradient_nfe`` (denoiser rows), ``pictures``, ``seconds``: when it was run, now or earlier"""
    key: str
    """Identity of the search"""


class Pool(NamedTuple):
    """Rows of several columns that one claim compares two arms on, or rates one arm on."""

    claim: str
    """Its id"""
    arm: str
    versus: str
    """Empty: the arm's own figure"""
    concepts: tuple[str, ...]
    variants: tuple[str, ...]
    """Of harm rows; empty for what all variants share"""
    measure: str
    """``crr``, ``retention``, ``drift``, or one of the benchmark's own (``Benchmark.pooled``)"""


class ArmView(Protocol):
    """One arm as a search sees it; bound to one concept where its defenses were fitted on it."""

    @property
    def label(self) -> str: ...
    @property
    def concepts(self) -> frozenset[str]:
        """Names of the concepts whose rows it sees."""
        ...

    @property
    def guidance(self) -> float:
        """The plan's classifier-free guidance."""
        ...

    @property
    def needs_guidance(self) -> bool:
        """Whether a defense of this arm acts only above guidance 1."""
        ...


class Scene(NamedTuple):
    """Rows that a search adds to one arm: where they stand in the table, and under which guidance they are made."""

    arm: ArmView
    concept: str
    variant: str
    """The cells' ``variant``."""
    cases: tuple[Case, ...]
    """Empty where the arm cannot make such rows; ``facts`` then say why."""
    guidance: float | None = None
    """``None``: the plan's."""
    attack: str = ""
    """Identity of the search, ``Found.key``."""
    facts: Mapping[str, Any] = {}
    """What ``measure`` wants to know about it, in JSON."""


class Workbench(Protocol):
    """What the runner puts at a benchmark's disposal while it searches. Everything spent is counted and kept."""

    @property
    def arms(self) -> Sequence[ArmView]:
        """In the plan's order; none for a benchmark that makes nothing."""
        ...

    @property
    def setting(self) -> Setting: ...
    @property
    def folder(self) -> Path:
        """The run's own folder, for files that are no pictures: encoded states, fitted guards."""
        ...

    def black(self, attack: Any, cases: Sequence[Case], references: str = "") -> Found:
        """Search on the undefended model; one search for all arms. ``references``: folder, see ``Setting.shown``."""
        ...

    def white(self, attack: Any, cases: Sequence[Case], arm: ArmView, references: str = "") -> Found:
        """Search through an arm; arms that look the same to the attack share one search."""
        ...

    def tell(self, stage: str, done: int, total: int, about: str = "") -> None:
        """Progress: ``about`` names the arm or the file in work."""
        ...

    def plugin(self, kind: str, name: str) -> Any:
        """A plug-in's class by kind and name, as ``("defense", "aeiou")``."""
        ...

    def text_guard(self, text: str) -> Any:
        """A prompt guard of another maker from ``name,field=value,…``: ``name``, ``threshold``, ``scores(texts)``."""
        ...

    def text_encoder(self, tokens: int) -> Any:
        """The embedded model's text encoder with its attention heads readable; texts are cut at ``tokens``."""
        ...


class Second(NamedTuple):
    """What a second judge says of a run's pictures."""

    name: str
    scores: Mapping[tuple[str, str], float]
    """(row id, label) -> its number, NaN where it could not say."""
    card: Card | None


@dataclass(frozen=True)
class Evidence:
    """Everything that a run's figures are computed from; nothing in it needs a model."""

    cases: Sequence[Case] = ()
    """All rows of the plan, an attack's parents left out."""
    rows: Sequence[Row] = ()
    """The store's rows, ``arm`` being the hash under which the arm's label stands; those of a search carry ``scene``,
    a mapping of its facts, and its column as ``variant``."""
    scores: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """(row id, label) -> the judge's number, NaN where it could not say."""
    features: Mapping[str, Any] = field(default_factory=dict)
    """Row id -> (d,) numbers, where the judge has features."""
    cards: Mapping[str, Card | None] = field(default_factory=dict)
    """Judge -> its card."""
    arms: Sequence[Mapping[str, Any]] = ()
    """Tables with ``label``, ``hashes`` (concept or ``*`` -> hash), ``control``, ``prepare``."""
    concepts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name -> ``{"kind", "labels", "hash"}``."""
    compare: Sequence[tuple[str, str]] = ()
    """Pairs of labels that are compared on equal rows: each with the base, and those that claims name."""
    pools: Sequence[Pool] = ()
    """What claims compare over several columns at once."""
    scenes: Sequence[Mapping[str, Any]] = ()
    """What the search added: ``arm, concept, variant, guidance, attack, ids`` and the scene's facts."""
    attacks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Key -> card of each search: ``attack, cost, facts``."""
    folder: Path = Path()
    """The run's folder, see ``Workbench.folder``."""
    strips: Callable[..., list[dict[str, Any]]] = lambda *_, **__: []
    """Sample grids, ``strips(rows, each=2, first={})``: pictures of one case under every arm, ``each`` per concept and
    variant of the rows; ``first`` names the references, row id -> content hash, that come first in their strip."""
    reference: Callable[[str, str, int], str | None] = lambda *_: None
    """``reference(folder, concept, k)``: content hash of the k-th reference picture."""
    illustrations: Sequence[Mapping[str, Any]] = ()
    """Strips of what defenses did inside the rows that ``illustrated`` named."""
    setting: Setting = field(default_factory=Setting)
    second: Second | None = None
    """The second judge's word on the same rows, where the run has one that saw them all."""

    labelled: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    """Concept -> class of arm (``undefended``, ``defended``) -> the judge's error rates by labels of hand, where the
    run has any."""

    @property
    def card(self) -> Card | None:
        """The card of the run's judge."""
        return next(iter(self.cards.values()), None)

    @property
    def base(self) -> str:
        """Label of the undefended arm. ``BadInput`` where the plan has none."""
        found = [str(a["label"]) for a in self.arms if a["control"] == "base"]
        if not found:
            raise BadInput('the plan has no arm with control = "base", which everything is measured against; add one')
        return found[0]

    def rows_of(self, label: str) -> list[Row]:
        """The rows of one arm, by its label.

        Raises:
            BadInput: there is no such arm.
        """
        found = next((a for a in self.arms if a["label"] == label), None)
        if found is None:
            raise BadInput(f"no arm {label!r}; the run has {', '.join(str(a['label']) for a in self.arms)}")
        hashes = set(found["hashes"].values())
        return [row for row in self.rows if row["arm"] in hashes]

    @property
    def prepare(self) -> dict[str, float]:
        """Arm hash -> seconds that its fits cost."""
        return {h: a["prepare"][k] for a in self.arms for k, h in a["hashes"].items()}


class Outlook(NamedTuple):
    """What a search will cost, before anything is spent."""

    nfe: int = 0
    """Denoiser rows of searching through one arm."""
    rows: tuple[tuple[int, float | None], ...] = ()
    """(rows that it adds to the arm, their guidance or ``None`` for the plan's)."""
    shared: int | None = None
    """Denoiser rows of searching on the undefended model, which all arms share; ``None``: as many as ``nfe``."""


class Printed(NamedTuple):
    """One table of those that ``genward run`` prints."""

    rows: Sequence[Mapping[str, Any]]
    columns: Sequence[str]
    note: str = ""
    """How to read it, on stderr"""


class Benchmark(ABC):
    """Derive from it with a frozen dataclass in a folder or module of its own: ``cases`` and ``measure`` are needed.

    The fields are the preset's table: what a preset (``presets/<name>.toml`` beside the class) says besides the plan's
    own ``arm``, ``batch``, ``judge``, ``model``, ``preset`` and ``sampler`` is a field. Claims stand in ``claims.toml``
    beside the class."""

    name: ClassVar[str]
    """With hyphens, as users type it."""
    media: ClassVar[str] = "image"
    """What its rows become: ``image``, ``audio``, or ``text`` where rows are prompts and nothing is made."""
    table: ClassVar[str] = "cells"
    """The section of its metrics that ``genward run`` prints."""
    figure: ClassVar[str] = ""
    """The figure of that section whose interval, ``<figure>_low`` to ``<figure>_high``, is printed as ``interval``."""
    columns: ClassVar[tuple[str, ...]] = ()
    """Columns of the table that ``genward run`` prints; empty: those of the first row."""
    pooled: ClassVar[frozenset[str]] = frozenset()
    """Figures whose claims over several columns ``measure`` decides on all their rows as one sample (``pools``)."""
    folders: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Field that names a folder -> patterns of the files that are read there (``*.csv``; with ``/`` at the end, of
    folders whose names alone are): a run's store keeps them."""
    concepts: tuple[str, ...] = ()
    """Concepts, by name or file, that arms with ``{concept}`` are bound to; a field where there are any."""

    @abstractmethod
    def cases(self, setting: Setting) -> Iterable[Case]:
        """All rows, in order; the same fields and setting give the same rows."""

    @abstractmethod
    def measure(self, evidence: Evidence) -> dict[str, Any]:
        """The sections of the run's metrics, in JSON; ``cells`` (a list of tables) must be one of them.

        A cell has ``arm``, ``concept`` and ``variant``; a figure ``x`` its interval as ``x_low`` and ``x_high``, for
        claims. ``{"run": {…}}`` is added to the runner's own table of that name."""

    def parents(self, setting: Setting) -> Iterable[Case]:
        """Rows that a search starts from and that are not made themselves; default none."""
        return ()

    def search(self, parents: Sequence[Case], bench: Workbench) -> Iterator[Scene]:
        """What has to be found before anything is made: attacks, fits. Default nothing."""
        return iter(())

    def outlook(self, parents: Sequence[Case], setting: Setting, arm: str = "") -> Outlook:
        """What ``search`` will cost the arm of this label that sees these parents; no label: what is searched once for
        all arms. Default nothing."""
        return Outlook()

    def harm_columns(self, setting: Setting) -> tuple[str, ...]:
        """Variants of the harm cells, for the count of a dry run; empty: those of the harm rows."""
        return ()

    def illustrated(self, cases: Sequence[Case]) -> Sequence[Case]:
        """Of an arm's rows those in which defenses that draw masks show what they did; default none."""
        return ()

    @classmethod
    def printed(cls, metrics: Mapping[str, Any]) -> list[Printed]:
        """The tables that ``genward run`` prints; default the section ``table``, the interval of ``figure`` as text."""
        rows = [raw_marked({**row, "interval": interval(row, cls.figure)}, cls.figure) for row in metrics[cls.table]]
        return [Printed(rows, cls.columns or (list(metrics[cls.table][0]) if rows else ()))]

    @classmethod
    def kept(cls, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """What of the metrics is kept as a small result file; default all but pairs and pictures."""
        return {k: v for k, v in metrics.items() if k not in ("pairs", "pools", "grids")}

    @classmethod
    def sections(cls, metrics: Mapping[str, Any]) -> list[Section]:
        """Its part of a run's report, in reading order; default the tables that ``genward run`` prints.

        Claims and judges have sections of the page's own. ``genward.sections`` has what benchmarks share.

        Raises:
            BadInput: metrics that it cannot read.
        """
        tables = (plain_table(list(part.rows), part.columns) for part in cls.printed(metrics))
        return [Section("figures", "Figures", tuple(tables))]


def interval(row: Mapping[str, Any], figure: str) -> str:
    """``0.12 … 0.40`` of a figure, or a dash where it has no interval; without a figure that of the row's ``low``."""
    low, high = (row.get(f"{figure}_{end}" if figure else end) for end in ("low", "high"))
    return "-" if low is None or high is None else f"{low:.2f} … {high:.2f}"


def raw_marked(row: Mapping[str, Any], figure: str) -> dict[str, Any]:
    """A printed row in which a figure that nothing could be corrected by is the judge's raw rate, marked *raw*, with
    the raw rate's interval."""
    raw, ends = row.get(f"{figure}_raw"), [row.get(f"{figure}_raw_{end}") for end in ("low", "high")]
    if not figure or row.get(figure) is not None or raw is None or None in ends:
        return dict(row)
    return {**row, figure: f"{raw:.3g} raw", "interval": interval(row, f"{figure}_raw")}
