"""The rig of a guarded call: it knows the policy and watches the clock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genward.core import defending
from genward.core.contracts import Defense, Site, Window
from genward.core.records import Call, Frame, Prediction
from genward.errors import Conflict, GenwardError, GuardError, Inapplicable
from genward.models.backbone import check_pipe
from genward.models.ports import PortError, Run
from genward.models.prints import Print, changed, taken
from genward.models.rig import LiveRig

if TYPE_CHECKING:
    from genward.models.backbone import Backbone


@dataclass(frozen=True)
class Rule:
    """What a policy says about one attached defense."""

    category: str = ""
    actions: Mapping[str, str] = field(default_factory=dict)
    """Category -> action"""

    def flags(self, category: str) -> bool:
        """Whether what the defense would block is only flagged."""
        actions = [self.actions[category]] if category in self.actions else list(self.actions.values())
        return bool(actions) and all(a == "flag" for a in actions)


class GuardRig(LiveRig):
    """A rig that knows the policy: it turns blocks into flags where the policy says so, and watches the clock."""

    def __init__(self, model: Backbone, timeout: float | None = None) -> None:
        super().__init__(model)
        self.timeout = timeout
        self.rule = Rule()
        self.prints: list[tuple[str, torch.nn.Module, list[Print]]] = []
        """Networks that fitted guards read, as they were when the guard was opened"""

    def _hook(self) -> None:
        super()._hook()
        self.note_weights()

    def note_weights(self) -> None:
        """Remember a few numbers of each weight, edits included, where a guard was fitted on the model: of the text
        encoder, and of the denoiser where a guard of any kind is attached inside it."""
        fitted = any(getattr(defense, "fitted", False) for defense in self.defenses)
        inside = any(port.kind not in OUTSIDE for port in self.ports)
        networks = [("text_encoder", self.model.text_encoder), ("denoiser", self.model.denoiser if inside else None)]
        self.prints = [(name, net, taken(net)) for name, net in networks if fitted and net is not None]

    def _add(self, kind: str, fn: Callable[..., Any], during: Window = (0.0, 1.0), site: Site | None = None) -> None:
        rule, owner = self.rule, self._owner

        def acting(*args: Any) -> Any:
            self.rule = rule
            try:
                return fn(*args) if self.timeout is None else timed(self, fn, args, self.timeout, owner, kind)
            except (GuardError, Conflict, Inapplicable):
                raise
            except GenwardError as error:  # in a service it is the guard's failure, whatever it complains about
                raise PortError(owner, kind, error) from error

        super()._add(kind, acting, during, site)

    def begin(self, run: Run) -> None:
        self.refuse_left()
        super().begin(run)

    def inspect(self, *, weights: bool = True) -> None:
        """As ``LiveRig.inspect``; what was checked when the guard was opened (compiled, offloaded, what
        each defense wants of model and sampler) is checked again."""
        super().inspect(weights=weights)
        for name, network, prints in self.prints if weights and self.guarding else ():
            lost = changed(network, prints)
            if lost:
                raise GuardError(
                    f"{len(lost)} weights of the {name} are not those that the guard was opened on ({lost[0]}"
                    f"{' …' if len(lost) > 1 else ''}), and what it learned holds for those; open the guard again "
                    "after changing the model"
                )
        if weights and self.guarding:
            try:
                self.check_parts()
                for defense in self.defenses:
                    defending.check(defense, self)
            except GuardError:
                raise
            except GenwardError as error:
                raise GuardError(str(error)) from error

    def check_parts(self) -> None:
        """Whether hooks and edits still act on the pipeline; see ``models.backbone.check_pipe``."""
        check_pipe(self.model.pipe)

    def verify(self) -> None:
        super().verify()
        self.refuse_left()

    def _heard(self, what: str) -> None:
        if threading.current_thread() in self.left:
            raise GuardError(f"rig.{what}: this guard took too long and its rows are refused already")

    def predict(self, call: Call, *, weights: str = "live", read: Sequence[str] = ()) -> Prediction:
        self._heard("predict")
        return super().predict(call, weights=weights, read=read)

    def _running(self, what: str) -> Run:
        self._heard(what)
        return super()._running(what)

    @contextmanager
    def _untapped(self) -> Iterator[None]:
        self._heard("predict")
        with super()._untapped():
            yield

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
    ) -> None:
        """As ``LiveRig.block``, after the policy: rows of a category that is only flagged go on."""
        self._running("block")
        index = self._rows(frame, rows)
        names = [category] * len(frame.case) if isinstance(category, str) else list(category)
        names = [name or self.rule.category for name in names]
        numbers = None if score is None else score.detach().float().flatten().cpu()
        flagged = [
            r for r in index if self.rule.flags(names[r]) and (numbers is None or bool(torch.isfinite(numbers[r])))
        ]
        blocked = [r for r in index if r not in flagged]
        if flagged:
            self.flag(
                frame, torch.tensor(flagged), why, score=score, threshold=threshold, category=names, tokens=tokens
            )
        if blocked:
            super().block(
                frame, torch.tensor(blocked), why, score=score, threshold=threshold, category=names, tokens=tokens
            )


OUTSIDE = ("prompts", "readings", "passages", "text", "images", "starts")
"""Ports that lie before and behind the denoiser"""


def ruled(defense: Defense, rule: Rule, name: str) -> Any:
    """A defense that tells the rig which rule is its own before it attaches itself."""

    learned = defending.artifact_of(defense)

    class Ruled:
        fitted = learned is not None and "model_hash" in learned.card

        def attach(self, rig: GuardRig) -> None:
            rig.rule = rule
            defending.attach(defense, rig)

        def last_look(self, steps: int) -> int | None:
            return defending.last_look(defense, steps)

        def check(self, rig: GuardRig) -> None:
            defending.check(defense, rig)

    Ruled.name = name  # type: ignore[attr-defined]
    return Ruled()


def timed(rig: GuardRig, fn: Callable[..., Any], args: tuple[Any, ...], seconds: float, owner: str, kind: str) -> Any:
    """``fn(*args)`` in a thread that is waited for so long and then left to itself.

    Raises:
        PortError: it took longer. What ``fn`` raises is raised here.
    """
    out: dict[str, Any] = {}
    done = threading.Event()
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def work() -> None:
        try:
            with torch.inference_mode(inference), torch.set_grad_enabled(grad and not inference):
                out["value"] = fn(*args)
        except BaseException as error:
            out["error"] = error
        finally:
            done.set()

    thread = threading.Thread(target=work, name=owner, daemon=True)
    try:
        thread.start()
        done.wait(seconds)  # not join: an interrupted join may take a running thread for one that has ended
    finally:  # an interrupted wait (Ctrl-C) leaves the guard behind as well
        if not done.is_set():
            rig.left.add(thread)
    if not done.is_set():
        raise PortError(owner, kind, TimeoutError(f"it took longer than {seconds:g} s"))
    if "error" in out:
        raise out["error"]
    return out["value"]
