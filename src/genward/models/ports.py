"""What the rig keeps books on: attached functions (``Port``) and the rows of one batch (``Run``)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from genward.core.contracts import Site, Window
from genward.core.records import Verdict
from genward.errors import Blocked, GenwardError, GuardError

LOOP = ("tap", "inputs", "guidance", "latents")
"""Kinds of ports that act inside the sampling loop."""


class PortError(GuardError):
    """A defense's own code failed inside a port; the rows it should have guarded are refused."""

    def __init__(self, owner: str, port: str, error: BaseException) -> None:
        super().__init__(f"{owner} failed in its {port} port: {type(error).__name__}: {error}")
        self.owner = owner


@dataclass
class Port:
    """One attached function: who attached it, to which port, in which part of the loop, and how often it was called."""

    owner: str
    kind: str
    fn: Callable[..., Any]
    during: Window = (0.0, 1.0)
    site: Site | None = None
    calls: int = 0
    last: int = -2
    """Step of the latest call, -2 before the first"""

    def active(self, step: int, steps: int) -> bool:
        """Whether ``step`` of ``steps`` lies in the window (always outside a sampler, where rows are selected by
        timestep)."""
        start, end = self.during
        return step < 0 or (start * steps <= step and (end >= 1.0 or step < end * steps))

    def ever(self, steps: int) -> bool:
        return any(self.active(k, steps) for k in range(steps))

    @property
    def where(self) -> str:
        return f"its {self.kind} port" + (f" at {self.site.name}" if self.site else "")

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        try:
            return self.fn(*args)
        except Blocked as error:  # the guard's own word: the rows are its, whatever its type says
            error.owner = self.owner
            raise
        except GenwardError:  # what the user can fix, a step that the loop does not have, say
            raise
        except Exception as error:
            raise PortError(self.owner, self.kind, error) from error


@dataclass
class Run:
    """The rows of one batch on its way through a pipeline."""

    cases: int
    steps: int
    guidance: float
    """Scale of classifier-free guidance as it is now; at most 1 where there is none"""
    device: Any
    step: int = 0
    pictured: bool = False
    """Whether the rows start from pictures"""
    entered: bool = False
    """Whether the pipeline's sampling loop was called"""
    seen: int = -1
    """Last step that the pipeline itself reported as finished"""
    calls: int = 0
    """Denoiser calls when that step was finished"""
    alive: Tensor = field(init=False)
    failed: set[int] = field(default_factory=set)
    """Cases that ended because a guard did not do its work, not because of what it found"""
    why: dict[int, str] = field(default_factory=dict)
    notes: dict[int, dict[str, list[float]]] = field(default_factory=dict)
    scores: dict[int, dict[str, float]] = field(default_factory=dict)
    """Case -> owner -> the highest score that it noted; NaN stays"""
    verdicts: dict[int, list[Verdict]] = field(default_factory=dict)
    drawn: dict[int, str] = field(default_factory=dict)
    """Case -> the text that is encoded, where a defense put it in the place of the prompt"""
    looked: dict[str, dict[int, int]] = field(default_factory=dict)
    """Owner -> case -> last step at which it noted something about the case"""
    nfe: Tensor = field(init=False)
    thread: int = field(default_factory=threading.get_ident)
    """Where the batch runs; denoiser calls of other threads are none of its own"""

    def __post_init__(self) -> None:
        self.alive = torch.ones(self.cases, dtype=torch.bool)
        self.nfe = torch.zeros(self.cases, dtype=torch.float64)

    def scored(self, case: int, owner: str, score: float) -> None:
        """Keep a score that an owner noted on a case, if it is the highest so far."""
        mine = self.scores.setdefault(case, {})
        before = mine.get(owner)
        if before is None or (before == before and not score <= before):
            mine[owner] = score

    @property
    def guided(self) -> bool:
        """Whether there is an unconditional branch."""
        return self.guidance > 1.0
