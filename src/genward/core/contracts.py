"""The contracts between rooms, as protocols: anything with these methods takes part, ours or an outsider's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from genward.core.records import Call, Case, Concept, Frame, Prediction, Prompt, Sample, Sampler, Score, Tokens
from genward.core.spec import Spec

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Window = tuple[float, float]
"""Part of the sampling loop, as fractions of its steps: ``(0.0, 1.0)`` is all of it; start included, end excluded, the
last step in at 1.0."""


@dataclass(frozen=True)
class Site:
    """A named place in a model: module path, element of its output, what stream it carries and how many channels."""

    name: str
    path: str
    element: int | None
    """Index into a tuple output, ``None`` where the output is the tensor"""
    stream: str
    """``image`` (rows, c, h, w) | ``tokens`` (rows, n, c) | ``text`` (rows, t, c) | ``heads`` (rows, t, heads·dim, the
    input of the output projection) | ``probs`` (rows, heads, n, t, read-only)"""
    channels: int


@runtime_checkable
class Rig(Protocol):
    """The one door to a live model. Undone on close, counted while open. See ``genward.models.rig``."""

    now: Frame | None
    """Where the port that runs is being called; ``images`` ports, which get no frame, read it here"""
    model: Any
    """The model behind it, see ``Model``; ports reach everything that a method needs but the schedule and the
    encoders"""

    def prompts(self, fn: Callable[[list[Prompt]], list[Prompt]]) -> None: ...
    def readings(self, fn: Callable[[list[str]], list[str]]) -> None: ...
    def passages(self, fn: Callable[[list[str]], list[list[str]]]) -> None: ...
    def tap(self, site: str, fn: Callable[[Tensor, Frame], Tensor | None], *, during: Window = (0.0, 1.0)) -> None: ...
    def inputs(self, fn: Callable[[Call, Frame], Call], *, during: Window = (0.0, 1.0)) -> None: ...
    def guidance(
        self, fn: Callable[[Tensor | None, Tensor, Call, Frame], Tensor], *, during: Window = (0.0, 1.0)
    ) -> None: ...
    def latents(self, fn: Callable[[Tensor, Frame], Tensor], *, during: Window = (0.0, 1.0)) -> None: ...
    def weights(self, match: str, edit: Callable[[str, Tensor], Tensor]) -> None: ...
    def images(self, fn: Callable[[list[Image]], list[Image]]) -> None: ...
    def starts(self, fn: Callable[[list[Image]], object]) -> None: ...
    def block(
        self,
        frame: Frame,
        rows: Tensor,
        why: str,
        *,
        score: Tensor | None = None,
        threshold: float | None = None,
        category: str | Sequence[str] = "",
        tokens: Sequence[Sequence[tuple[str, float]]] | None = None,
    ) -> None: ...
    def flag(
        self,
        frame: Frame,
        rows: Tensor,
        why: str,
        *,
        action: str = "flagged",
        score: Tensor | None = None,
        threshold: float | None = None,
        category: str | Sequence[str] = "",
        tokens: Sequence[Sequence[tuple[str, float]]] | None = None,
    ) -> None: ...
    def tokens(self, frame: Frame) -> Tokens: ...
    def fits(self, text: str) -> bool: ...
    def encode(self, texts: Sequence[str]) -> Tensor: ...
    def texts(self, frame: Frame) -> list[str]: ...
    def read(self, texts: Sequence[str], sites: Sequence[str]) -> tuple[dict[str, Tensor], Tokens]: ...
    def predict(self, call: Call, *, weights: str = "live", read: Sequence[str] = ()) -> Prediction: ...
    def note(self, frame: Frame, **signals: Tensor) -> None: ...


@runtime_checkable
class Defense(Protocol):
    """A frozen dataclass; its fields are its configuration. ``core.defending`` names what it may say beside these two
    members, and what holds where it does not."""

    name: ClassVar[str]

    def attach(self, rig: Rig) -> None: ...


@dataclass(frozen=True, eq=False)
class Artifact:
    """Learned weights with their card; identity is the hash of the content. Saved as safetensors + JSON, never
    pickled."""

    tensors: Mapping[str, Tensor]
    card: Mapping[str, Any]
    hash: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Artifact) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)


class FitTools(Protocol):
    """What a fit is given beside the model and the concept; ``ops.tools.Tools`` is the one that genward gives.

    A fit uses what it needs of it and ignores the rest; without anyone who listens, counts or stores, each member does
    nothing and costs nothing."""

    @property
    def words(self) -> Mapping[str, Any]:
        """The model's vocabulary as plain tables (``catalog.opening.words_of``); empty where it has none."""
        ...

    @property
    def judge(self) -> Judge | None:
        """Who labels pictures of this model, ``None`` where nobody was named."""
        ...

    def need_judge(self, why: str) -> Judge:
        """The judge. Raises ``BadInput`` that begins with ``why`` and says how to name one, where there is none."""
        ...

    def progress(self, step: int, steps: int, loss: float) -> None:
        """Tell how far the fit is: ``step`` of ``steps``, and its loss, NaN where there is none."""
        ...

    def say(self, text: str) -> None:
        """Tell the user something in words."""
        ...

    def due(self) -> bool:
        """Whether the state should be kept now: it can be, and the last time is long enough ago."""
        ...

    def checkpoint(self, state: Any = None, part: str = "state") -> Any:
        """Keep the state of a long fit (tensors, numbers, texts, dicts, lists of them), or (``None``) take up the one
        that an interrupted fit of the same settings kept; ``None`` where there is none.

        ``part`` names it, where a fit has several. A fit that goes on from there ends at the same bits as one that was
        never stopped, so the state holds its random generators too."""
        ...

    def shared(self, name: str, about: Mapping[str, Any], make: Callable[[Any], Artifact]) -> Artifact:
        """What several fits learn once, by name and all that decides it: found where it is kept, else ``make(tools)``,
        which is given tools of its own."""
        ...

    def record(self, model: Model, cases: Sequence[Case], sampler: Sampler, sources: Sequence[Any], **how: Any) -> Any:
        """States of the model on its way through the cases, streamed to shards of bounded memory; an interrupted
        recording goes on. Takes what ``ops.activations.record`` takes, and returns its ``Recording``."""
        ...


class Fits(Protocol):
    """Only for defenses that learn something first: they have a field of type ``Artifact | None`` as well."""

    def fit(self, model: Model, concept: Concept, tools: FitTools) -> Any:
        """The defense itself with what it learned in that field; the model is left as it was.

        Raises:
            BadInput: nothing can be learned from this concept on this model, or no judge where one is needed.
        """
        ...


class Model(Protocol):
    """A generative model of one family."""

    family: str
    makes: ClassVar[str]
    """What its samples hold: one of ``media.KINDS``"""
    sampler_class: ClassVar[type[Any]]
    """Its family's settings, see ``core.settings.Settings``"""

    @property
    def sites(self) -> Mapping[str, Site]: ...
    @property
    def spec(self) -> Spec: ...
    def generate(
        self, cases: Sequence[Case], sampler: Sampler, defenses: Sequence[Defense] = (), *, keep_latents: bool = False
    ) -> list[Sample]: ...


class Target(Protocol):
    """What an attack may touch, by access level (``prompt`` < ``query`` < ``gradient``); every use is counted and
    priced.

    A white-box attack gets the defended arm itself, a black-box one a surrogate (the undefended model); neither can
    tell which it is."""

    @property
    def sampler(self) -> Sampler: ...
    @property
    def schedule(self) -> Mapping[str, Any]:
        """The sampler's configuration: ``num_train_timesteps``, ``steps_offset``, ``prediction_type``, ``final_alpha``
        and what else it has."""
        ...

    @property
    def alphas(self) -> Tensor:
        """(1000,) float32 signal levels (``alphas_cumprod``)."""
        ...

    @property
    def needs_guidance(self) -> bool:
        """Whether a defense of this arm acts only under classifier-free guidance."""
        ...

    @property
    def styles(self) -> Sequence[str]:
        """Names of the styles that the model knows; empty where nobody can say."""
        ...

    def sample(self, cases: Sequence[Case]) -> list[Sample]:
        """Access ``query``: pictures of the cases."""
        ...

    def shown(self, samples: Sequence[Sample]) -> list[float]:
        """Access ``query``: by how much each finished picture shows its case's concept, at least 0 where it does by the
        judge's card; below -1 where nothing was released."""
        ...

    def undefended(self, cases: Sequence[Case]) -> list[Sample]:
        """Samples of the attacked cases under the attacker's own copy without defenses; for attacks whose ``asks``
        holds ``undefended``."""
        ...

    @property
    def things(self) -> Mapping[str, Any]:
        """Object -> level (``name``, ``synonym``, ...) -> phrases; for attacks whose ``asks`` holds ``things``."""
        ...

    def phrases(self, concept: str) -> Sequence[str]:
        """The concept file's phrases; for attacks whose ``asks`` holds ``phrases``."""
        ...

    @property
    def vocabulary(self) -> Any:
        """``attacks._tokens.Vocabulary`` of the public tokenizer and its embeddings."""
        ...

    def states(
        self, ids: Sequence[Sequence[int]], vectors: Tensor | None = None, *, length: int = 0
    ) -> tuple[Tensor, Tensor]:
        """States (n, t, c) of prompts in token ids by the public text encoder, undefended, and their mask (n, t)."""
        ...

    def base(self, prompts: Sequence[str], noisy: Tensor, timestep: Tensor, *, guidance: float = 1.0) -> Tensor:
        """Access ``gradient``: the prediction of the same model without defenses under texts, without gradient."""
        ...

    def references(self, concept: str) -> list[Image]:
        """Pictures of the concept that the attacker holds, RGB, of the model's size."""
        ...

    def text(self, prompts: Sequence[str], vectors: Mapping[str, Tensor] = {}) -> Tensor:
        """Access ``gradient``: text states (n, t, c); ``vectors`` maps token texts such as ``<x1>`` to (width,)
        embeddings, with gradient."""
        ...

    def predict(self, call: Call, *, guidance: float = 1.0) -> Tensor:
        """Access ``gradient``: the arm's guided prediction (rows, c, h, w) of conditional rows; above 1 the empty text
        is the other branch."""
        ...

    def listening(self, heard: list[Any]) -> AbstractContextManager[None]:
        """Inside, what guards note is put on the list with its graph: (frame, signal name -> (rows,) numbers)."""
        ...

    def latents(self, images: Sequence[Image]) -> Tensor:
        """Scaled latents (n, c, h, w) of pictures."""
        ...

    def word(self, text: str) -> Tensor:
        """(width,) mean of the token embeddings of a word, where a learned token starts."""
        ...

    def keep(self, tensor: Tensor, **facts: Any) -> str:
        """Store a tensor with JSON facts about it; its content hash is what goes into ``Case.inputs``."""
        ...

    def checkpoint(self, state: Mapping[str, Tensor] | None = None) -> Mapping[str, Tensor]:
        """Keep the state of a long search, or (``None``) take up the one that was kept; empty where there is none."""
        ...


class Attack(Protocol):
    """A frozen dataclass. ``search`` yields cases derived from the given ones, each with its ``parent``, in order,
    batched inside.

    ``asks`` on its class names what else it wants of a target: ``judge`` (``shown``), ``undefended``, ``things``,
    ``phrases``; ``draws`` says that one with gradient access draws finished pictures as well.

    One that takes gradients may say with ``gradient_nfe(cases)`` how many of the rows of ``nfe`` have a way back; see
    ``gradient_rows``."""

    name: ClassVar[str]
    access: ClassVar[str]
    parents: ClassVar[tuple[str, ...]]
    """Wordings of the rows that it starts from."""

    def nfe(self, cases: Sequence[Case]) -> int:
        """Denoiser rows that a search will cost, before anything is spent."""
        ...

    def search(self, cases: Sequence[Case], target: Target) -> Iterator[Case]: ...


def gradient_rows(attack: Attack, cases: Sequence[Case]) -> int:
    """Denoiser rows with a backward pass behind them that a search will cost; 0 of an attack that does not say."""
    asked = getattr(attack, "gradient_nfe", None)
    return 0 if asked is None else int(asked(cases))


@dataclass(frozen=True)
class Card:
    """What is known of a judge or a benchmark: its labelled set and its measured error rates, per label."""

    name: str
    summary: str
    labels: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """label -> {sensitivity, specificity, positives, negatives, threshold}"""
    facts: Mapping[str, Any] = field(default_factory=dict)


class Judge(Protocol):
    name: ClassVar[str]
    needs: ClassVar[frozenset[str]]
    """What a sample must hold for it: names of ``media.KINDS``"""

    @property
    def card(self) -> Card | None: ...
    def judge(self, samples: Sequence[Sample]) -> Iterable[Score]: ...


@runtime_checkable
class Masking(Protocol):
    """A defense that acts in places of the picture and can show them, for the report."""

    name: ClassVar[str]

    def attach(self, rig: Rig) -> None: ...
    def acted(self, sample: Sample) -> float:
        """How much it did on a row, to show those first where it did something."""
        ...

    def masks(
        self,
        model: Any,
        cases: Sequence[Case],
        sampler: Sampler,
        before: Sequence[Defense],
        starts: Mapping[str, Tensor] | None,
    ) -> Sequence[tuple[int, Tensor]]:
        """(step, uint8 (cases, h, w)) of each active step of a generation, the defenses ``before`` attached first."""
        ...
