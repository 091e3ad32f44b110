"""How an open rig is wired to a model: what is opened and closed, the hooks, and the way of a denoiser call through
them. ``models.rig.LiveRig`` is built on it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from genward.core import defending
from genward.core.contracts import Defense
from genward.core.records import Call, Frame
from genward.errors import Blocked, Conflict, GuardError
from genward.models.hooks import Edits, around, read_site
from genward.models.ports import Port, Run

if TYPE_CHECKING:
    from typing import Self

    from genward.models.backbone import Backbone, Layout

LEFT: WeakKeyDictionary[torch.nn.Module, set[threading.Thread]] = WeakKeyDictionary()
"""Denoiser -> guards that were left behind in it; a pipeline may be guarded through several models, one after the
other."""
OPEN: WeakKeyDictionary[torch.nn.Module, Wiring] = WeakKeyDictionary()
"""Module -> the rig that is open on it, whatever pipeline, model or thread it was opened from."""
_OPENING = threading.Lock()


def rig_on(module: torch.nn.Module) -> Wiring | None:
    """The rig that is open on a module."""
    return OPEN.get(module)


class Wiring:
    """Opening, closing and hooks of a rig. Counters: see ``LiveRig``."""

    def __init__(self, model: Backbone) -> None:
        self.model = model
        self.ports: list[Port] = []
        self.run: Run | None = None
        self.now: Frame | None = None
        self.edits = Edits()
        self.defenses: tuple[Defense, ...] = ()
        self.attached: dict[str, Any] = {}
        """The pipeline's parts as they were when the rig was opened"""
        self._denoiser = model.denoiser
        self.calls = self.rows = self.predicted = self.encoded = 0
        self._owner = "?"
        self._local = threading.local()
        self._handles: list[Any] = []
        self._scatter: tuple[Tensor, int] | None = None
        self._call: tuple[Call, Frame] | None = None
        self._texts: list[str] = []
        self._readings: list[str] = []
        self._passages: list[list[str]] = []
        """What the prompts of the present batch read as, one per case"""
        self._encoding: tuple[Tensor, Tensor] | None = None
        """Ids and mask (rows, t) of the texts in the encoder"""
        self._open = False

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies of a hooked module would take its hooks, and with them the rig, along: a second model that no guard
        opened, with edited weights that nobody restores."""
        raise Conflict(
            "a model under an open guard cannot be copied or pickled, its hooks and edits are the guard's; copy it "
            "before opening the guard or after closing it"
        )

    # ------------------------------------------------------------------------------------------------- opening, closing

    @contextmanager
    def opened(self, defenses: Sequence[Defense]) -> Iterator[Self]:
        """Attach the defenses in order; undo everything on leaving, whatever happened.

        Raises:
            Conflict: a rig is open on one of the model's networks already, through this model or another one.
            GuardError: on leaving, where a weight could not be restored; it is named.
        """
        self.refuse_left()
        modules = [m for m in (self.model.denoiser, self.model.text_encoder) if m is not None]
        with _OPENING:
            if self._open or any(module in OPEN for module in modules):
                raise Conflict(
                    "this model already has an open rig on its denoiser or its text encoder, through this pipeline or "
                    "another one that shares them; close it first, or let both use one guard"
                )
            for module in modules:
                OPEN[module] = self
            self._open = True
        try:
            self.attached = {part: getattr(self.model.pipe, part) for part in self.model.parts}
            self._denoiser = self.model.denoiser
            self.defenses = tuple(defenses)
            for defense in defenses:
                self._owner = type(defense).name
                defending.attach(defense, self)  # type: ignore[arg-type]  # LiveRig has the ports
            self._hook()
            yield self
        finally:
            stuck = self._close(modules)
            if stuck:
                problem = (
                    f"these weights could not be restored and stay edited: {', '.join(stuck)}; load the model anew"
                )
                flying = sys.exception()
                if flying is None:
                    raise GuardError(problem)
                flying.add_note(problem)

    def _close(self, modules: Sequence[torch.nn.Module]) -> list[str]:
        """Undo everything; names of weights that could not be restored."""
        try:
            for handle in self._handles:
                handle.remove()
            self._handles.clear()
        finally:
            try:
                stuck = self.edits.restore()
            finally:
                self.ports.clear()
                self.attached, self.defenses = {}, ()
                self._reset()
                self._open = False
                with _OPENING:
                    for module in modules:
                        if OPEN.get(module) is self:
                            del OPEN[module]
        return stuck

    def _reset(self) -> None:
        """Forget everything about a batch, one that was interrupted as well."""
        self.run = self.now = None
        self._scatter = self._call = self._encoding = None
        self._texts = []

    @property
    def is_open(self) -> bool:
        return self._open

    @property
    def guarding(self) -> bool:
        """Whether a defense attached anything."""
        return bool(self.ports or self.edits.known)

    @property
    def left(self) -> set[threading.Thread]:
        """Guards that took too long and still run on this denoiser, under this rig or an earlier one."""
        return LEFT.setdefault(self.model.denoiser, set())

    def refuse_left(self) -> None:
        """``GuardError`` while a guard that took too long still runs: what it does to the model would reach this rig's
        pictures."""
        self.left.difference_update([thread for thread in self.left if not thread.is_alive()])
        if self.left:
            name = next(iter(self.left)).name
            raise GuardError(
                f"{name} took too long and still runs on this model; wait for it, then give the guard more time "
                "(timeout)"
            )

    def inspect(self, *, weights: bool = True) -> None:
        """``GuardError`` where the pipeline does not consist of the parts any more that the defenses were attached to,
        or where edited weights hold other numbers. Nothing is looked at where nothing is attached."""
        if not self.guarding:
            return
        for part, module in self.attached.items():
            if getattr(self.model.pipe, part, None) is not module:
                raise GuardError(
                    f"the pipeline's {part} is not the one that the guard was opened on, so nothing was guarded; open "
                    "the guard again after exchanging it"
                )
        lost = self.edits.lost(self._denoiser) if weights else []
        if lost:
            raise GuardError(
                f"{len(lost)} weights that a defense edited hold other numbers now ({', '.join(lost[:3])}"
                f"{' …' if len(lost) > 3 else ''}); open the guard again after changing the model"
            )

    @property
    def edited(self) -> list[str]:
        """Names of the weights that were edited, once for each edit."""
        return [name for _, name in self.edits.owners]

    @property
    def port_calls(self) -> dict[str, int]:
        """``owner.port[@site]`` -> calls in the present batch; weight edits count their parameters."""
        out: dict[str, int] = {}
        for port in self.ports:
            out[f"{port.owner}.{port.kind}" + (f"@{port.site.name}" if port.site else "")] = port.calls
        for owner, _ in self.edits.owners:
            out[f"{owner}.weights"] = out.get(f"{owner}.weights", 0) + 1
        return out

    def of(self, kind: str) -> list[Port]:
        return [p for p in self.ports if p.kind == kind]

    # ------------------------------------------------------------------------------------------------------------ state

    @property
    def _inner(self) -> bool:
        """Whether this thread is inside ``predict`` or ``encode``, where hooks do not act."""
        return bool(getattr(self._local, "inner", False))

    @contextmanager
    def _untapped(self) -> Iterator[None]:
        before, self._local.inner = self._inner, True
        try:
            yield
        finally:
            self._local.inner = before

    def _speaker(self) -> str:
        return self._owner

    def _running(self, what: str) -> Run:
        if self.run is None:
            raise GuardError(f"rig.{what} was called outside a generation")
        return self.run

    # ------------------------------------------------------------------------------------------------------------ hooks

    def _hook(self) -> None:
        self._handles += around(self.model.denoiser, self._before, self._after)
        if self.of("text"):
            self._handles += around(self.model.text_encoder, self._encoded)
        for port in self.of("tap") + self.of("text"):
            assert port.site is not None
            root = self.model.text_encoder if port.site.name.startswith("text.") else self.model.denoiser
            self._handles += read_site(root, port.site, self._tapped(port))

    def _encoded(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the text encoder: keep the ids and the mask that it is given, which are then not worked out again;
        without a mask they are."""
        ids, mask = args[0] if args else kwargs.get("input_ids"), kwargs.get("attention_mask")
        self._encoding = (
            None if self.now is None or self._inner or ids is None or mask is None else (ids.cpu(), mask.bool().cpu())
        )

    def _tapped(self, port: Port) -> Callable[[Tensor], Tensor | None]:
        def call(tensor: Tensor) -> Tensor | None:
            frame = self.now
            if self._inner or frame is None or not port.active(frame.step, frame.steps):
                return None
            self._owner = port.owner
            port.last = frame.step
            new = port(tensor, frame)
            if new is None or (port.site is not None and port.site.stream == "probs"):
                return None
            if new.shape != tensor.shape:
                raise GuardError(
                    f"{port.owner}: tap at {port.site.name if port.site else '?'} returned {tuple(new.shape)}, not "
                    f"{tuple(tensor.shape)}"
                )
            return self._windowed(port, frame, new.to(tensor.dtype), tensor)

        return call

    @staticmethod
    def _windowed(port: Port, frame: Frame, new: Tensor, old: Tensor) -> Tensor:
        """Outside a sampler a window selects rows by their timestep: a loop goes from 1000 down to 0."""
        if frame.step >= 0 or frame.timestep is None or port.during == (0.0, 1.0):
            return new
        done = 1 - frame.timestep.to(old.device, torch.float32) / 1000
        inside = (done >= port.during[0]) & ((done < port.during[1]) | (port.during[1] >= 1.0))
        return torch.where(inside.view(-1, *[1] * (old.ndim - 1)), new, old)

    def _before(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before the denoiser: count, gather live rows, call the ``inputs`` ports."""
        if self._inner:  # inside predict: the outer call's own scatter stays
            return None
        self._scatter = None
        run = self.run
        if run is None:
            return None
        if self._foreign(run):
            raise Conflict(
                "this model is in the middle of a guarded call in another thread; wait for it, or load another"
            )
        sample, timestep, text = self.model.read(args, kwargs)
        rows = len(sample)
        layout = self._layout(run, rows, len(text))
        if layout is None:
            self.calls += 1
            self.rows += rows
            return None
        case, conditional = layout
        live = run.alive[case]
        if not live.any():
            raise Blocked("every row was refused")
        if not live.all():
            index = live.nonzero().flatten()
            self._scatter = (index, rows)
            sample, text = sample[index], text[index]
            case, conditional = case[index], conditional[index]
        t = timestep if torch.is_tensor(timestep) else torch.tensor(timestep)
        scale = run.guidance if not bool(conditional.all()) else min(run.guidance, 1.0)
        frame = Frame("denoise", run.step, run.steps, t.reshape(-1).expand(len(sample)), scale, "", conditional, case)
        call = Call(sample, t.to(sample.device).reshape(-1).expand(len(sample)), text)
        self.now = frame
        asked = call
        for port in self.of("inputs"):
            if port.active(run.step, run.steps):
                self._owner, port.last = port.owner, run.step
                call = port(call, frame)
        self._call = (call, frame)
        self.calls += 1
        self.rows += len(sample)
        run.nfe += torch.bincount(case, minlength=run.cases).double()
        return self.model.write(args, kwargs, call, timestep if call.timestep is asked.timestep else call.timestep)

    @staticmethod
    def _foreign(run: Run) -> bool:
        """Whether another thread than the batch's own is here; torch's compiler cannot follow the question."""
        return not torch.compiler.is_compiling() and threading.get_ident() != run.thread

    def _layout(self, run: Run, rows: int, texts: int) -> Layout | None:
        """Whose rows a call holds; ``None`` where nobody needs to know. ``GuardError`` where a guard does."""
        layout = self.model.layout(rows, run.cases)
        if layout is not None and texts == rows:
            return layout
        if not self.guarding and bool(run.alive.all()):
            return None
        raise GuardError(
            f"the denoiser got {rows} rows with {texts} texts for {run.cases} cases; genward does not know this "
            "pipeline's row order"
        )

    def _after(self, _: Any, __: Any, ___: Any, output: Any) -> Any:
        """After the denoiser: the ``guidance`` port, then scatter the live rows back to full size."""
        if self._inner or self.run is None or self._call is None or self._foreign(self.run):
            return None
        noise = output[0]
        call, frame = self._call
        self._call = None
        for port in self.of("guidance"):
            if port.active(frame.step, frame.steps):
                self._owner, port.last = port.owner, frame.step
                noise = self._guide(port, noise, call, frame)
        if self._scatter is not None:
            index, rows = self._scatter
            full = noise.new_zeros((rows, *noise.shape[1:]))
            full[index.to(noise.device)] = noise
            noise = full
        self.now = None
        return (noise, *output[1:]) if isinstance(output, tuple) else type(output)(sample=noise)

    def _guide(self, port: Port, noise: Tensor, call: Call, frame: Frame) -> Tensor:
        keep = frame.conditional
        pick = keep.to(noise.device)
        conditional = Call(
            call.latents[pick], call.timestep[pick], call.text[pick], call.skips and tuple(s[pick] for s in call.skips)
        )
        inner = frame._replace(
            conditional=keep[keep],
            case=frame.case[keep],
            timestep=frame.timestep[keep] if frame.timestep is not None else None,
        )
        uncond = noise[~pick] if not keep.all() else None
        chosen = port(uncond, noise[pick], conditional, inner)
        if chosen.shape != noise[pick].shape:
            raise GuardError(f"{port.owner}: guidance returned {tuple(chosen.shape)}, not {tuple(noise[pick].shape)}")
        chosen = chosen.to(noise.dtype)
        return torch.cat([chosen, chosen]) if uncond is not None else chosen
