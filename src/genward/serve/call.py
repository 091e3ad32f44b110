"""A stock pipeline called under guards: its signature, its random numbers, its scheduler; refused rows instead of black
pictures.

``Guarded`` reads the arguments as the pipeline itself would (``serve.arguments``) and hands the rows to the batch
engine (``models.sampling``), which every picture of genward comes from. Without defenses the output is the pipeline's,
bit for bit.

Fail closed: a guard that raises, returns a score that is not a number, takes longer than ``timeout`` or was not called
refuses the rows it should have guarded; so do an interrupted loop, exchanged parts of the pipeline, edited weights that
were changed, and latents that are not finite."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from genward.core.contracts import Defense
from genward.core.files import finite
from genward.core.records import Prompt, Verdict
from genward.core.spec import Spec, digest
from genward.errors import Conflict, GuardError
from genward.models.ports import Run
from genward.models.sampling import Outcome, sample
from genward.serve.arguments import job_of, known_arguments, read_call
from genward.serve.audit import Audit
from genward.serve.rig import GuardRig

if TYPE_CHECKING:
    from genward.models.sd import StableDiffusion
    from genward.serve.policy import Policy

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
    """Denoiser rows spent"""
    notes: Mapping[str, list[float]] = {}
    """What guards measured: signal -> numbers, one per call"""
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


class Guarded:
    """A guarded pipeline: call it as the pipeline itself. Made by ``genward.protect``; works until that closes.

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
        self.last: GuardedOutput | None = None
        self.known = known_arguments(type(model.pipe))
        """Arguments of the pipeline's call and their defaults"""
        self.told_of_latents = False
        """Whether the user was warned that nobody looks at start latents"""
        self._lock = threading.Lock()
        self._caller: int | None = None
        """The thread that is inside a call"""

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
            raise GuardError(
                "this guard is closed; call it inside its with block: with genward.protect(pipe) as guarded: ..."
            )
        began = time.perf_counter()
        asked = read_call(self, args, kwargs)
        job = job_of(self, asked, observe)
        told = bool(self.defenses) or (self._checker and job.output != "latent")
        output = collect(sample(self.rig, job), job.output, told)
        output.seconds = time.perf_counter() - began
        if self.audit is not None and not observe:
            self.audit.write(self._records(output, job.prompts))
        self.last = output
        return output, bool(asked.given["return_dict"])

    @property
    def _checker(self) -> bool:
        return getattr(self.pipe, "safety_checker", None) is not None

    def _records(self, output: GuardedOutput, texts: Sequence[Prompt]) -> list[dict[str, Any]]:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        known = {"time": stamp, "guard": self.hash, "policy": self.policy.name}
        keys = ("action", "by", "stage", "step", "score", "threshold", "category", "failed", "nfe", "why")
        out = []
        for row, (verdict, text) in enumerate(zip(output.verdicts, texts, strict=True)):
            record = {key: getattr(verdict, key) for key in keys}
            for key in ("score", "threshold"):
                record[key] = finite(record[key])
            if verdict.drawn is not None:
                record["drawn"] = verdict.drawn
            if counts := counted(verdict.notes):
                record["counts"] = counts
            out.append(
                {
                    **known,
                    "row": row,
                    "prompt": text.text,
                    "negative": text.negative,
                    **record,
                    "tokens": verdict.tokens,
                }
            )
        return out


def counted(notes: Mapping[str, Sequence[float]]) -> dict[str, int]:
    """What guards counted: signals whose name ends in ``_count``, less that ending."""
    return {name.removesuffix("_count"): int(sum(x)) for name, x in notes.items() if name.endswith("_count")}


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
    facts["drawn"] = run.drawn.get(case)
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
