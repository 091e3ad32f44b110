"""A stock pipeline called under guards: its signature, its random numbers, its scheduler; refused rows instead of black
pictures.

``Guarded`` reads the arguments as the pipeline itself would (``serve.arguments``) and hands the rows to the batch
engine (``models.sampling``), which every picture of genward comes from. Without defenses the output is the pipeline's,
bit for bit.

Fail closed: a guard that raises, returns a score that is not a number, takes longer than ``timeout`` or was not called
refuses the rows it should have guarded; so do an interrupted loop, exchanged parts of the pipeline, edited weights that
were changed, and latents that are not finite."""

from __future__ import annotations

import asyncio
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from genward.core.contracts import Defense
from genward.core.reading import short
from genward.core.records import Prompt, Verdict
from genward.core.spec import Spec, digest
from genward.errors import Conflict, GuardError, UnguardedInput
from genward.models.chance import chance_kept
from genward.models.ports import Run
from genward.models.sampling import Outcome, sample
from genward.serve.arguments import job_of, known_arguments, read_call
from genward.serve.audit import TELLING, Audit, records, request_ids
from genward.serve.rig import GuardRig

if TYPE_CHECKING:
    from pathlib import Path

    from genward.models.sd import StableDiffusion
    from genward.serve.metrics import Hook
    from genward.serve.policy import Policy

CLOSED = (
    "this guard is closed; call it inside its with block (with genward.protect(pipe) as guarded: ...), or open it "
    "again (genward.protect(pipe).open())"
)
RANK = {"flagged": 1, "steered": 2, "blocked": 3}


class RowVerdict(NamedTuple):
    """What became of one row, and the one decision that counts most (blocked, then steered, then flagged)."""

    action: str
    """``released`` | ``flagged`` | ``steered`` | ``blocked``; there is a picture unless it is ``blocked``"""
    by: str = ""
    stage: str = ""
    """``text`` | ``start`` (the picture that the row starts from) | ``denoise`` | ``decode``"""
    step: int = -1
    score: float | None = None
    threshold: float | None = None
    category: str = ""
    why: str = ""
    tokens: tuple[tuple[str, float], ...] = ()
    failed: bool = False
    """Whether the row is blocked because a guard did not do its work, not because of what it found"""
    nfe: int = 0
    """Denoiser rows spent; -1 where the pipeline's denoiser is left alone, so that nobody counts"""
    notes: Mapping[str, list[float]] = {}
    """What guards measured: signal -> numbers, one per call"""
    scores: Mapping[str, float] = {}
    """Guard -> the highest score that it noted on the row, whatever became of it"""
    every: tuple[Verdict, ...] = ()
    """All that defenses said about the row, in order"""
    drawn: str | None = None
    """The text that was encoded, where a defense put another in the place of the prompt"""

    @property
    def passes(self) -> int:
        """``nfe`` by its old name."""
        return self.nfe


@dataclass
class GuardedOutput:
    """What a guarded call returns; reads like the stock pipeline's output."""

    images: Any
    """PIL: one per row, ``None`` where it was blocked. Arrays and latents: the released rows alone, see ``index``."""
    nsfw_content_detected: list[bool] | None
    """One per row; ``None`` where nothing is attached that could tell."""
    verdicts: list[RowVerdict]
    index: list[int]
    """Rows that were released; row ``i`` of an array is row ``index[i]`` of the call."""
    seconds: float = 0.0

    def to_tuple(self) -> tuple[Any, list[bool] | None]:
        return self.images, self.nsfw_content_detected

    def __getitem__(self, key: Any) -> Any:
        return getattr(self, key) if isinstance(key, str) else self.to_tuple()[key]


class Made(NamedTuple):
    """What one call came to."""

    output: GuardedOutput
    texts: Sequence[Prompt]
    """One a row"""
    whole: bool
    """Whether the output was asked for whole (``return_dict``)"""


class Chain(NamedTuple):
    """What a guard consists of before it is attached."""

    model: Any
    policy: Policy
    named: dict[str, Defense]
    parts: list[Any]
    """Defenses under their rules, as they are attached"""
    audit: Audit | None
    told: Callable[[GuardRig], list[str]]
    """What the chain does not look at, in words, once it is attached"""
    rig: type[GuardRig]
    guarded: type[Guarded]
    """The class of the pipelines that such a rig is for"""


class Recipe(Protocol):
    """What a guard is opened by (``serve.protect.Opening``)."""

    @property
    def timeout(self) -> float | None: ...
    @property
    def metrics(self) -> Hook | None: ...
    def chain(self) -> Chain: ...
    def again(self, model: Any, policy: Any, defenses: Any) -> Recipe: ...


class Guarded:
    """A guarded pipeline: call it as the pipeline itself. Opened by ``genward.protect``; works until ``close()``. It
    may be shared by threads, which wait for each other; one that nobody holds any more closes itself.

    Attributes:
        pipe: the user's pipeline. model: the same as a genward model. policy: what is guarded.
        defenses: attached, in order of application. named: the same by the names that verdicts use. last: the output of
            the latest call.
    """

    def __init__(
        self, model: StableDiffusion, policy: Policy, named: Mapping[str, Defense], rig: GuardRig, audit: Audit | None
    ) -> None:
        self.model, self.policy, self.named, self.rig, self.audit = model, policy, dict(named), rig, audit
        self.defenses = tuple(self.named.values())
        self.metrics: Hook | None = None
        """Told the records of each call; see ``serve.metrics``"""
        self.last: GuardedOutput | None = None
        self.known = self._arguments()
        """Arguments of the pipeline's call and their defaults"""
        self.told_of_latents = False
        """Whether the user was warned that nobody looks at start latents"""
        self._lock = threading.Lock()
        self._caller: int | None = None
        """The thread that is inside a call"""
        self._recipe: Recipe | None = None
        self._closing: Any = None

    # ------------------------------------------------------------------------------------------------- opening, closing

    @classmethod
    def opened(cls, chain: Chain, recipe: Recipe) -> Guarded:
        """A guard with its chain attached; see ``genward.protect``."""
        rig, stack = attached(chain, recipe.timeout)
        made = cls(chain.model, chain.policy, chain.named, rig, chain.audit)
        made.metrics = recipe.metrics
        made._recipe, made._closing = recipe, weakref.finalize(made, stack.close)
        return made

    @property
    def closed(self) -> bool:
        return not self.rig.is_open

    def close(self) -> None:
        """Leave the pipeline as it was: no hook, no edited weight. Waits for the call that is running; a second time
        nothing happens.

        Raises:
            Conflict: called from inside a call. GuardError: a weight could not be restored; it is named.
        """
        with self._alone():
            if self._closing is not None:
                self._closing()

    def reload(self, policy: Policy | str | Path, defenses: Sequence[str | Defense] | str | None = None) -> None:
        """Guard by another policy from the next call on, with the same kinds of defenses or those given. The call that
        is running ends under the old one. What cannot be opened leaves the old one in force.

        Raises:
            GuardError: the guard is closed. What ``genward.protect`` raises.
        """
        recipe = self._recipe
        if recipe is None or self.closed:
            raise GuardError(CLOSED)
        new = recipe.again(self.model, policy, defenses)
        with chance_kept():
            chain = new.chain()
        with self._alone(), chance_kept():
            before = recipe.again(self.model, self.policy, tuple(self.named.values()))
            self._closing()
            try:
                self._take(chain, new)
            except BaseException:
                self._take(before.chain(), recipe)
                raise

    def _take(self, chain: Chain, recipe: Recipe) -> None:
        self.rig, stack = attached(chain, recipe.timeout)
        self._recipe, self._closing = recipe, weakref.finalize(self, stack.close)
        self.policy, self.named, self.audit = chain.policy, dict(chain.named), chain.audit
        self.defenses, self.told_of_latents = tuple(self.named.values()), False

    def __enter__(self) -> Guarded:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """The call in a thread of its own, for servers that must go on meanwhile; calls still run one after the other.
        A caller that is cancelled stops waiting, and the call ends on its own."""
        return await asyncio.to_thread(self, *args, **kwargs)

    @property
    def pipe(self) -> Any:
        return self.model.pipe

    @property
    def hash(self) -> str:
        """Identity of what guards: policy, model and defenses in order; audit records carry it."""
        chain = [Spec.of("defense", d).to_json() for d in self.defenses]
        return digest({"policy": self.policy.hash, "model": self.model.spec.to_json(), "defenses": chain})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Generate under guard. Arguments are the pipeline's own (``prompt``, ``generator``, ``callback_on_step_end``,
        …).

        ``request_id``, beside them, is the caller's own name of the call, or a list with one a prompt, for the audit.

        Returns:
            A ``GuardedOutput``; with ``return_dict=False`` the pair (images, nsfw_content_detected), and ``last`` holds
            the rest.

        Raises:
            UnknownName: an argument that the pipeline does not have. BadInput: prompts, sizes, generators or latents
                that cannot be used or do not match.
            Conflict, Inapplicable: the arguments contradict a guard. StoreError: the audit record could not be written.
            GuardError: the guard is closed.
        """
        with self._alone():
            output, whole = self._guarded(args, kwargs, observe=False)
        return output if whole else output.to_tuple()

    def observe(self, *args: Any, **kwargs: Any) -> GuardedOutput:
        """A call for its measurements: it stops sampling when no guard looks any more, returns no pictures and writes
        no audit record."""
        with self._alone():
            return self._guarded(args, kwargs, observe=True)[0]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One call at a time: other threads wait, a call from inside a call is a ``Conflict``."""
        me = threading.get_ident()
        if self._caller == me:
            raise Conflict(
                "this guard is called from inside one of its own calls (a callback, say), and would wait for itself; "
                "call it afterwards"
            )
        with self._lock:
            self._caller = me
            try:
                yield
            finally:
                self._caller = None

    def _guarded(self, args: tuple[Any, ...], kwargs: dict[str, Any], observe: bool) -> tuple[GuardedOutput, bool]:
        """The output, and whether it was asked for whole (``return_dict``)."""
        if not self.rig.is_open:
            raise GuardError(CLOSED)
        began = time.perf_counter()
        ids = request_ids(kwargs.pop("request_id", None), args[0] if args else kwargs.get("prompt"))
        output, texts, whole = self._made(args, kwargs, observe)
        output.seconds = time.perf_counter() - began
        if not observe and (self.audit is not None or self.metrics is not None):
            self._told(records(output, texts, ids, self.hash, self.policy.name))
        self.last = output
        return output, whole

    def _arguments(self) -> dict[str, Any]:
        """Arguments of the pipeline's call and their defaults."""
        return known_arguments(type(self.pipe))

    def _made(self, args: tuple[Any, ...], kwargs: dict[str, Any], observe: bool) -> Made:
        asked = read_call(self, args, kwargs)
        job = job_of(self, asked, observe)
        told = bool(self.defenses) or (self._checker and job.output != "latent")
        return Made(collect(sample(self.rig, job), job.output, told), job.prompts, bool(asked.given["return_dict"]))

    @property
    def _checker(self) -> bool:
        return getattr(self.pipe, "safety_checker", None) is not None

    def _told(self, found: list[dict[str, Any]]) -> None:
        """Write the records of a call and count them. The record decides over release; a monitor that fails does not,
        and is said."""
        if self.audit is not None:
            self.audit.write(found)
        if self.metrics is not None:
            try:
                self.metrics([{k: v for k, v in record.items() if k not in TELLING} for record in found])
            except Exception as error:
                told = f"metrics failed ({type(error).__name__}: {short(error)}); the call goes on uncounted"
                warnings.warn(told, RuntimeWarning, stacklevel=4)


def attached(chain: Chain, timeout: float | None) -> tuple[GuardRig, ExitStack]:
    """A rig with the chain on it, and what takes it off again; what the chain does not look at is warned of."""
    rig, stack = chain.rig(chain.model, timeout), ExitStack()
    stack.enter_context(rig.opened(chain.parts))
    try:
        for told in chain.told(rig):
            warnings.warn(told, UnguardedInput, stacklevel=5)
    except BaseException:  # a warning may be an error
        stack.close()
        raise
    return rig, stack


def collect(outcome: Outcome, kind: str, told: bool) -> GuardedOutput:
    """Put a call's rows together: pictures in their places and one verdict per row."""
    run, images = outcome.run, outcome.data
    verdicts = [row_verdict(run, case) for case in range(run.cases)]
    if kind == "pil":
        images = [None] * run.cases
        for case, picture in zip(outcome.index, outcome.data, strict=True):
            images[case] = picture
    return GuardedOutput(images, [v.action == "blocked" for v in verdicts] if told else None, verdicts, outcome.index)


def row_verdict(run: Run, case: int) -> RowVerdict:
    """The decision that counts most for a row, with everything that was said about it."""
    said = tuple(run.verdicts.get(case, ()))
    facts: dict[str, Any] = {"nfe": round(float(run.nfe[case])), "notes": run.notes.get(case, {}), "every": said}
    facts |= {"drawn": run.drawn.get(case), "scores": dict(run.scores.get(case, {}))}
    if not bool(run.alive[case]):
        blocking = [v for v in said if v.action == "blocked"]
        by, _, why = run.why.get(case, "refused").partition(": ")
        first = blocking[0] if blocking else Verdict("blocked", by, "", -1, why=why)
    elif not said:
        return RowVerdict("released", **facts)
    else:
        first = max(said, key=lambda v: RANK.get(v.action, 0))  # of equals the first
    tokens = first.tokens or next((v.tokens for v in said if v.defense == first.defense and v.tokens), ())
    return RowVerdict(
        first.action,
        first.defense,
        first.stage,
        first.step,
        first.score,
        first.threshold,
        first.category,
        first.why,
        tokens,
        case in run.failed and first.action == "blocked",
        **facts,
    )
