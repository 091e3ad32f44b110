"""The records that flow through the loop: cases in, samples out, scores on samples; and what a port is told."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from genward.core.media import Audio, Image, Media
from genward.core.reading import brief, half_pair, short
from genward.core.spec import digest, named
from genward.core.typed import build, checked, parse_toml, read_toml
from genward.errors import BadInput, UnknownName

if TYPE_CHECKING:
    import PIL.Image
    from torch import Tensor

LABELS = ("harm", "benign")
STATUSES = ("ok", "refused", "error")
MAX_PROMPT = 2_000
"""Longest prompt in characters that is accepted."""
MAX_SEED = (1 << 63) - 1
"""Largest seed of a case: what a store's 64-bit column holds."""


LATENTS = "latents"
"""Name under which a case holds its start latents."""
PICTURE = "picture@"
"""Name, with the strength after it (``picture@0.2``), under which a case holds the picture that it starts from."""


class Inputs(Mapping[str, str]):
    """What a case is sampled from besides its text, name -> content hash; cannot be changed, and can be hashed.

    ``latents`` names start latents; ``picture@0.2`` the picture, (3, h, w) in [0, 1], that a row is drawn over at this
    strength; a learned embedding stands under its token's text as the prompt writes it (``<3f9a12b4c5d6>``).
    """

    __slots__ = ("_held",)
    _held: dict[str, str]

    def __init__(self, given: Mapping[str, str] | None = None) -> None:
        held: dict[Any, Any] = dict(given) if isinstance(given, Mapping) else {}
        wrong = given is not None and not isinstance(given, Mapping)
        if wrong or not all(isinstance(k, str) and isinstance(v, str) for k, v in held.items()):
            raise BadInput(f"inputs {brief(given)}; a name and a content hash, both as text, are wanted for each")
        object.__setattr__(self, "_held", {k: held[k] for k in sorted(held)})

    @property
    def pictured(self) -> bool:
        """Whether a picture is among them, which diffusers' img2img pipeline starts from."""
        return any(name.startswith(PICTURE) for name in self._held)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("the inputs of a case cannot be changed; make new ones")

    def __getitem__(self, name: str) -> str:
        return self._held[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def __hash__(self) -> int:
        return hash(tuple(self._held.items()))

    def __repr__(self) -> str:
        return f"Inputs({self._held!r})"

    def __reduce__(self) -> tuple[type[Inputs], tuple[dict[str, str]]]:
        return Inputs, (dict(self._held),)


class Case(NamedTuple):
    """One row of a benchmark; an attack yields more of them, each with its ``parent`` and the ``queries`` spent."""

    id: str
    prompt: str
    label: str = "benign"
    concept: str = ""
    seed: int = 0
    negative: str = ""
    variant: str = ""
    group: str = ""
    """What the row is clustered by in statistics (the object shown, say)."""
    parent: str = ""
    queries: int = 0
    inputs: Inputs = Inputs()
    """What the row starts from besides its text, by content hash; see ``Inputs``."""

    def named(self) -> dict[str, Any]:
        """The fields that are not at their defaults, by name: what digests over cases are made of, so that a field
        that a later version adds leaves them alone."""
        return named(self)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Case:
        """The case that ``named`` wrote down. Raises ``BadInput`` for fields that no case has."""
        try:
            return cls(**{**fields, "inputs": Inputs(fields.get("inputs"))})
        except TypeError as error:
            raise BadInput(f"not a case: {error}; its fields are {', '.join(cls._fields)}") from error

    def checked(self) -> Case:
        """Itself, or ``BadInput`` where a field cannot be used."""
        if not isinstance(self.prompt, str):
            raise BadInput(f"case {brief(self.id)}: the prompt is {type(self.prompt).__name__}, not text")
        if len(self.prompt) > MAX_PROMPT:
            raise BadInput(
                f"case {brief(self.id)}: the prompt has {len(self.prompt):,} characters, at most {MAX_PROMPT:,} are "
                "accepted; shorten it"
            )
        if "\x00" in self.prompt:
            raise BadInput(f"case {brief(self.id)}: the prompt holds a zero byte; it is not text")
        for name in ("id", "prompt", "negative", "concept", "group", "variant", "parent"):
            text = getattr(self, name)
            if not isinstance(text, str) or half_pair(text) is not None:
                raise BadInput(f"case {brief(self.id)}: {name} is {brief(text)}, no text that can be written down")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed <= MAX_SEED:
            raise BadInput(
                f"case {brief(self.id)}: the seed is {brief(self.seed)}; a whole number from 0 to {MAX_SEED} will do"
            )
        if not isinstance(self.inputs, Inputs):
            raise BadInput(
                f"case {brief(self.id)}: its inputs are {type(self.inputs).__name__}; give Inputs({{name: hash}})"
            )
        if not isinstance(self.label, str) or self.label not in LABELS:
            raise BadInput(f"case {brief(self.id)}: label {brief(self.label)} is not one of {', '.join(LABELS)}")
        return self


@dataclass(frozen=True)
class Sampler:
    """How diffusion models sample pictures. Part of an arm's identity; batch size and device are not."""

    steps: int = 20
    """Denoising steps, 1 to 1000"""
    guidance: float = 4.0
    """Scale of classifier-free guidance, 0 to 100; at 1 and below there is no unconditional branch."""
    height: int = 0
    """Pixels; 0 takes the model's own size."""
    width: int = 0
    """Pixels; 0 takes the model's own size."""
    eta: float = 0.0
    """Share of the sampler's own noise in each step, 0 (DDIM) to 1 (DDPM), for schedulers that have it."""

    def __post_init__(self) -> None:
        checked(self, "sampler")
        if not 1 <= self.steps <= 1000:
            raise BadInput(f"{self.steps} steps; between 1 and 1000 are possible")
        if not 0 <= self.guidance <= 100:
            raise BadInput(f"guidance {self.guidance}; between 0 and 100 is possible")

    def costs(self, extra_nfe: float = 0.0) -> dict[str, float]:
        """What one row costs, by name: ``nfe`` denoiser rows, two per step under guidance, else one, and what defenses
        add to each step."""
        return {"nfe": self.steps * ((2 if self.guidance > 1 else 1) + extra_nfe)}


class Verdict(NamedTuple):
    """What one defense decided about one case. ``score`` and ``threshold`` are ``None`` where it does not decide by a
    number."""

    action: str
    """``blocked`` | ``steered`` | ``flagged``"""
    defense: str
    stage: str
    """``text`` | ``denoise`` | ``decode``"""
    step: int
    """0-based step of the loop, -1 outside a sampler"""
    score: float | None = None
    threshold: float | None = None
    category: str = ""
    why: str = ""
    tokens: tuple[tuple[str, float], ...] = ()
    """Token and its share of the score, where the defense can say."""


@dataclass
class Sample:
    """What a model returned for one case under one arm. ``status`` is ``ok``, ``refused`` or ``error``; ``why`` says by
    whom and for what. A PIL picture may be given as ``image=`` in place of ``output=Image(picture)``."""

    case: Case
    arm: str = ""
    status: str = "ok"
    output: Media | None = None
    """What was made; ``None`` where nothing may be or could be released."""
    latents: Any = None
    """Final latents (c, h, w), kept only when asked for."""
    why: str = ""
    notes: dict[str, Any] = field(default_factory=dict)
    """Signal name -> list of numbers, one a call of the port that noted it."""
    seconds: float = 0.0
    costs: dict[str, float] = field(default_factory=dict)
    """What was spent on this case, by name: ``nfe`` counts denoiser rows."""
    verdicts: list[Verdict] = field(default_factory=list)
    """What defenses decided, in order; empty: released untouched. Not kept in a store, ``why`` and ``notes`` are."""

    @property
    def id(self) -> str:
        """Identity: 24 hex digits of arm and case, its fields by name."""
        return digest({"arm": self.arm, "case": self.case.named()}, length=24)

    @property
    def image(self) -> PIL.Image.Image | None:
        """The picture, where the output is one."""
        return self.output.picture if isinstance(self.output, Image) else None

    @property
    def audio(self) -> Audio | None:
        """The sound, where the output is one."""
        return self.output if isinstance(self.output, Audio) else None

    @property
    def nfe(self) -> int:
        """Denoiser rows spent on this case: the cost ``nfe``."""
        return int(self.costs.get("nfe", 0))


_MADE: Any = Sample.__init__


def _with_picture(self: Any, *args: Any, image: PIL.Image.Image | None = None, **fields: Any) -> None:
    if image is None:
        _MADE(self, *args, **fields)
    else:
        _MADE(self, *args, output=Image(image), **fields)


setattr(Sample, "__init__", _with_picture)  # noqa: B010  # ``image`` is a property, so it cannot be a field as well


class Score(NamedTuple):
    """One judge's word on one sample: a number, or NaN with a reason."""

    sample: str
    label: str
    value: float
    why: str = ""


class Prompt(NamedTuple):
    text: str
    negative: str = ""


class Call(NamedTuple):
    """One denoiser input: ``latents`` (rows, c, h, w), ``timestep`` (rows,), ``text`` (rows, tokens, width)."""

    latents: Tensor
    timestep: Tensor
    text: Tensor
    skips: tuple[Tensor, ...] | None = None
    """Residuals added to the skip connections (the last one to the middle block), as ControlNet's."""


class Frame(NamedTuple):
    """Where a port is being called. Row tensors follow the rows of the tensor that the port is given."""

    stage: str
    """``text`` | ``denoise`` | ``decode``"""
    step: int
    """0-based step of the loop, -1 outside a sampler"""
    steps: int
    timestep: Tensor | None
    guidance: float
    role: str
    """Text stage: ``prompt`` | ``negative`` | ``reading``, a prompt as a reader takes it, which is not drawn"""
    conditional: Tensor
    """bool (rows,): which rows carry the prompt"""
    case: Tensor
    """int (rows,): which case each row belongs to"""


@dataclass
class Tokens:
    """The texts being encoded at the text stage: token ids and mask (rows, t), and the tokens as text, padding
    included."""

    ids: Tensor
    mask: Tensor
    """bool: no padding; the encoder's own start and end marks count as tokens"""
    texts: Callable[[list[int]], list[str]]
    """Ids of a row -> its tokens as text"""

    @cached_property
    def strings(self) -> list[list[str]]:
        """Tokens of each row as text; worked out when they are first asked for, since most guards need none."""
        return [self.texts(row) for row in self.ids.tolist()]


class Prediction(NamedTuple):
    """A denoiser's answer (rows, c, h, w) and the sites that were read on the way."""

    noise: Tensor
    sites: Mapping[str, Tensor]


@dataclass(frozen=True)
class Concept:
    """A concept as data: what to remove, in which words, what to map it to, what must stay, which judge labels show
    it."""

    name: str
    kind: str
    """``policy`` | ``object`` | ``style`` | ``custom``"""
    summary: str
    targets: tuple[str, ...]
    phrases: tuple[str, ...]
    heldout: tuple[str, ...] = ()
    descriptions: tuple[str, ...] = ()
    anchors: tuple[str, ...] = ()
    anchor: str = ""
    neighbors: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    judge: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()

    @property
    def hash(self) -> str:
        return digest(self)

    def anchor_of(self, phrase: str) -> str:
        """The safe phrase that a concept phrase is mapped to: the anchor of the target it names, else the default
        anchor."""
        if len(self.anchors) == len(self.targets) and self.targets:
            per = max(1, len(self.phrases) // len(self.targets))
            if phrase in self.phrases:
                return self.anchors[min(self.phrases.index(phrase) // per, len(self.anchors) - 1)]
        return self.anchor


def concept_names() -> list[str]:
    """Names of the concept files that come with genward."""
    folder = resources.files("genward").joinpath("concepts")
    return sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".toml"))


def load_concept(name_or_path: str | Path) -> Concept:
    """Read a concept file: a shipped name (``weapons``) or a path to a TOML file; several with ``&`` between them
    (``cat&banana``) as one concept, see ``merged``.

    Raises:
        UnknownName: no shipped concept of that name.
        BadInput: the file cannot be read, lacks a field, or holds one that is unknown or of another type (named with
            its path).
    """
    text, hint = str(name_or_path), "see docs/concepts.md for its fields"
    if "&" in text and not Path(text).is_file():
        return merged([load_concept(part) for part in text.split("&")])
    if text.endswith(".toml") or "/" in text:
        known = f"give a .toml file or one of: {', '.join(concept_names())}"
        raw = read_toml(text, "concept file", hint, missing=known)
    else:
        if text not in concept_names():
            raise UnknownName("concept", text, concept_names())
        raw = parse_toml(resources.files("genward").joinpath("concepts", f"{text}.toml").read_text("utf-8"), text)
    where = f"concept file {short(text)}"
    judge = build(_Judge, raw.pop("judge", {}), where, hint, "judge.")
    concept = replace(build(Concept, raw, where, hint), judge=judge.labels)
    for name in ("name", "summary"):
        if not getattr(concept, name).strip():
            raise BadInput(f"{where}: {name} is empty; {hint}")
    for name in ("targets", "phrases"):
        if not getattr(concept, name):
            raise BadInput(f"{where}: {name} is an empty list; a concept has at least one")
    for name in ("targets", "phrases", "heldout", "descriptions", "neighbors", "keep", "judge", "prompts"):
        for k, line in enumerate(getattr(concept, name)):
            if not line.strip() or len(line) > MAX_PROMPT:
                raise BadInput(f"{where}: {name}[{k}] has {len(line):,} characters; 1 to {MAX_PROMPT:,} are possible")
    if concept.anchors and len(concept.anchors) != len(concept.targets):
        raise BadInput(
            f"{where}: {len(concept.anchors)} anchors for {len(concept.targets)} targets; give one a target, or "
            "`anchor` alone"
        )
    return concept


def merged(concepts: Sequence[Concept]) -> Concept:
    """Several concepts as one, to be learned jointly: all lists one after the other, what must stay less what is gone.

    Raises:
        BadInput: fewer than two, one twice, or styles together with objects.
    """
    names = [c.name for c in concepts]
    styles = {c.kind == "style" for c in concepts}
    if len(names) < 2 or len(set(names)) < len(names) or len(styles) > 1:
        raise BadInput(
            f"concept {short('&'.join(names))!r}: two concepts or more are wanted, each once, styles apart from objects"
        )
    joined = {
        key: tuple(dict.fromkeys(x for c in concepts for x in getattr(c, key)))
        for key in ("targets", "phrases", "heldout", "descriptions", "prompts")
    }
    gone = {*joined["targets"], *joined["phrases"]}
    judge = tuple(dict.fromkeys(x for c in concepts for x in (c.judge or c.targets)))
    kept = {
        key: tuple(dict.fromkeys(x for c in concepts for x in getattr(c, key) if x not in gone))
        for key in ("neighbors", "keep")
    }
    given = all(len(c.anchors) == len(c.targets) for c in concepts)
    anchors = tuple(a for c in concepts for a in c.anchors) if given else ()
    kind = concepts[0].kind if styles == {True} else "policy"
    about = " ".join(c.summary for c in concepts)
    return Concept(
        "&".join(names), kind, about, **joined, **kept, anchors=anchors, anchor=concepts[0].anchor, judge=judge
    )


@dataclass(frozen=True)
class _Judge:
    """The table ``judge`` of a concept file."""

    labels: tuple[str, ...] = ()


def row_seed(*parts: object) -> int:
    """A 63-bit seed from the parts' text: the same case and repeat always start from the same noise, whatever its
    neighbors in a batch."""
    return int.from_bytes(hashlib.sha256("|".join(map(str, parts)).encode()).digest()[:8], "big") >> 1
