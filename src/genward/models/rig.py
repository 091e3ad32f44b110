"""The rig: the one door through which a method touches a live model.

Nothing else in genward registers hooks, replaces weights or steps into a sampling loop. Everything a defense attaches
carries its owner's name, is counted while the rig is open, and is gone when it closes, after an exception as well.
Stock pipelines run as they
are: rows blocked in mid-loop are gathered out before the denoiser and scattered back after it, the sampler's state
    keeps its size.

Rows. A denoiser call under guidance has ``[unconditional; conditional]`` rows, else only conditional ones.
``Frame.case`` and ``Frame.conditional`` say which is which; rows of blocked cases are no longer among them."""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from tokenizers import AddedToken
from torch import Tensor

from genward.core.contracts import Defense, Site, Window
from genward.core.records import Call, Frame, Prediction, Prompt, Tokens, Verdict
from genward.errors import BadInput, Blocked, Conflict, DefenseInactive, GenwardError, GuardError, UnknownName
from genward.models.sites import lookup, refuse_fused

if TYPE_CHECKING:
    from PIL.Image import Image

    from genward.models.sd import StableDiffusion


LEFT: WeakKeyDictionary[torch.nn.Module, set[threading.Thread]] = WeakKeyDictionary()
"""Denoiser -> guards that were left behind in it; a pipeline may be guarded through several models, one after the
other."""


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

    def active(self, step: int, steps: int) -> bool:
        """Whether ``step`` of ``steps`` lies in the window (always outside a sampler, where rows are selected by
        timestep)."""
        start, end = self.during
        return step < 0 or (start * steps <= step and (end >= 1.0 or step < end * steps))

    def ever(self, steps: int) -> bool:
        return any(self.active(k, steps) for k in range(steps))

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        try:
            return self.fn(*args)
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
    device: Any
    step: int = 0
    timesteps: Tensor | None = None
    alive: Tensor = field(init=False)
    why: dict[int, str] = field(default_factory=dict)
    notes: dict[int, dict[str, list[float]]] = field(default_factory=dict)
    verdicts: dict[int, list[Verdict]] = field(default_factory=dict)
    nfe: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.alive = torch.ones(self.cases, dtype=torch.bool)
        self.nfe = torch.zeros(self.cases, dtype=torch.float64)

    @property
    def doubled(self) -> bool:
        return self.guidance > 1.0


class LiveRig:
    """``core.contracts.Rig`` on one model. Use it through ``StableDiffusion.rig(defenses)``; see the module's text.

    Counters: ``calls`` (denoiser calls), ``rows`` (denoiser rows, ``predict`` included), ``predicted`` (rows of
    ``predict`` alone), ``encoded`` (texts of ``encode``), ``port_calls`` (by owner and port)."""

    def __init__(self, model: StableDiffusion) -> None:
        self.model = model
        self.ports: list[Port] = []
        self.run: Run | None = None
        self.now: Frame | None = None
        self.trace: list[tuple[Frame, dict[str, Tensor]]] | None = None
        """Set to a list to keep noted signals with their graph (adaptive attacks read them)."""
        self.calls = self.rows = self.predicted = self.encoded = 0
        self._owner = "?"
        self._inner = False
        self._handles: list[Any] = []
        self._saved: dict[str, Tensor] = {}
        self._edited: list[tuple[str, str]] = []
        self._scatter: tuple[Tensor, int] | None = None
        self._call: tuple[Call, Frame] | None = None
        self._texts: list[str] = []
        self._encoding: tuple[Tensor, Tensor] | None = None
        """Ids and mask (rows, t) of the texts in the encoder"""
        self._open = False

    # ------------------------------------------------------------------------------------------------- opening, closing

    @contextmanager
    def opened(self, defenses: Sequence[Defense]) -> Iterator[LiveRig]:
        """Attach the defenses in order; undo everything on leaving, whatever happened."""
        if self._open or self.model.open_rig is not None:
            raise Conflict("this model already has an open rig; close it first (one guard a model at a time)")
        self.refuse_left()
        self._open = True
        self.model.open_rig = self
        try:
            for defense in defenses:
                self._owner = type(defense).name
                defense.attach(self)
            self._hook()
            yield self
        finally:
            self._close()

    def _close(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        parameters = dict(self.model.unet.named_parameters())
        for name, value in self._saved.items():
            parameters[name].data = value.to(parameters[name].device)
        self._saved.clear()
        self.ports.clear()
        self.run = self.now = None
        self._open = False
        self.model.open_rig = None

    @property
    def left(self) -> set[threading.Thread]:
        """Guards that took too long and still run on this denoiser, under this rig or an earlier one."""
        return LEFT.setdefault(self.model.unet, set())

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

    def of(self, kind: str) -> list[Port]:
        return [p for p in self.ports if p.kind == kind]

    def _add(self, kind: str, fn: Callable[..., Any], during: Window = (0.0, 1.0), site: Site | None = None) -> None:
        if not 0.0 <= during[0] < during[1] <= 1.0:
            raise BadInput(
                f"{self._owner}: window {during} is not a part of the loop; give (start, end) with 0 <= start < end <= "
                "1"
            )
        self.ports.append(Port(self._owner, kind, fn, during, site))

    # ------------------------------------------------------------------------------------------------------------ ports

    def prompts(self, fn: Callable[[list[Prompt]], list[Prompt]]) -> None:
        """``fn(list[Prompt]) -> list[Prompt]`` of equal length, before the text encoder."""
        self._add("prompts", fn)

    def tap(self, site: str, fn: Callable[[Tensor, Frame], Tensor | None], *, during: Window = (0.0, 1.0)) -> None:
        """``fn(tensor, frame)`` at a named place; a returned tensor of equal shape replaces it, ``None`` leaves it.
        Gradients flow through.

        Raises:
            UnknownName: no such site (nearest names offered).
            Conflict: the site's projections are fused.
        """
        found = lookup(self.model.site_table, site)
        if found.stream == "probs":
            refuse_fused(self.model.unet, found)
        self._add("text" if site.startswith("text.") else "tap", fn, during, found)

    def inputs(self, fn: Callable[[Call, Frame], Call], *, during: Window = (0.0, 1.0)) -> None:
        """``fn(call, frame) -> call`` before each denoiser call: embeddings in mid-loop, skips, timesteps."""
        self._add("inputs", fn, during)

    def guidance(
        self, fn: Callable[[Tensor | None, Tensor, Call, Frame], Tensor], *, during: Window = (0.0, 1.0)
    ) -> None:
        """``fn(uncond | None, cond, call, frame) -> noise``, all of the conditional rows; what it returns is what the
        sampler sees.

        Raises:
            Conflict: another defense owns the port, or the pipeline rescales guidance.
        """
        owners = self.of("guidance")
        if owners:
            raise Conflict(
                f"{owners[0].owner} and {self._owner} both own the guidance port, and only one can; use one of them"
            )
        self._add("guidance", fn, during)

    def latents(self, fn: Callable[[Tensor, Frame], Tensor], *, during: Window = (0.0, 1.0)) -> None:
        """``fn(latents (rows, c, h, w), frame) -> latents`` before each step, the first included; rows are the live
        cases."""
        self._add("latents", fn, during)

    def weights(self, match: str, edit: Callable[[str, Tensor], Tensor]) -> None:
        """Replace every U-Net parameter whose name matches the pattern by ``edit(name, tensor)``; restored bit for bit
        on close.

        Several owners compose in order. Raises ``UnknownName`` where nothing matches, ``Conflict`` for fused or
        offloaded weights, ``BadInput`` where the edit changes a shape or yields numbers that are not finite."""
        parameters = dict(self.model.unet.named_parameters())
        names = [n for n in parameters if re.search(match, n)]
        if not names:
            raise UnknownName("parameter pattern", match, parameters)
        for name in names:
            parameter = parameters[name]
            if parameter.is_meta:
                raise Conflict(
                    f"{self._owner}: weight {name} is offloaded to disk or meta, where an edit does nothing; load the "
                    "model without it"
                )
            module = self.model.unet.get_submodule(name.rsplit(".", 2)[0])
            if getattr(module, "fused_projections", False):
                raise Conflict(
                    f"{self._owner}: {name} is fused and its edit would be ignored; call pipe.unfuse_qkv_projections() "
                    "first"
                )
            with torch.no_grad():
                new = edit(name, parameter.data.clone()).to(parameter.dtype).to(parameter.device)
            if new.shape != parameter.shape:
                raise BadInput(
                    f"{self._owner}: edit of {name} gives shape {tuple(new.shape)}, the weight has "
                    f"{tuple(parameter.shape)}"
                )
            if not torch.isfinite(new).all():
                raise BadInput(
                    f"{self._owner}: edit of {name} holds numbers that are not finite; check the artifact or its "
                    "strength"
                )
            self._saved.setdefault(name, parameter.data)
            parameter.data = new.contiguous()
            self._edited.append((self._owner, name))

    def images(self, fn: Callable[[list[Image]], Sequence[Image | None]]) -> None:
        """``fn(images) -> images`` of the surviving rows; ``None`` in a place refuses that row."""
        self._add("images", fn)

    # --------------------------------------------------------------------------------------------------------- services

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
        """Refuse cases, given as a bool mask or indices over the frame's rows; they cost nothing from the next call on.

        Args:
            score: (rows of the frame,) what was compared with ``threshold``, for the verdict. category: one text, or
                one a row of the frame.
            tokens: a list a row of the frame: token and its share of the score.
        """
        run = self._running("block")
        for row in self._rows(frame, rows):
            case = int(frame.case[row])
            run.alive[case] = False
            if run.why.setdefault(case, f"{self._speaker()}: {why}") == f"{self._speaker()}: {why}":
                self._verdict(frame, row, "blocked", why, score, threshold, category, tokens)

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
    ) -> None:
        """Put on record that rows were ``flagged`` or ``steered``; they go on. A defense's first word on a case is
        kept."""
        if action not in ("flagged", "steered"):
            raise BadInput(f"rig.flag: action {action!r}; 'flagged' or 'steered' are possible (rig.block blocks)")
        self._running("flag")
        for row in self._rows(frame, rows):
            self._verdict(frame, row, action, why, score, threshold, category, tokens)

    @staticmethod
    def _rows(frame: Frame, rows: Tensor) -> list[int]:
        rows = rows.to(frame.case.device)
        found: list[int] = (rows.nonzero().flatten() if rows.dtype == torch.bool else rows.flatten()).tolist()
        return found

    def _verdict(
        self,
        frame: Frame,
        row: int,
        action: str,
        why: str,
        score: Tensor | None,
        threshold: float | None,
        category: str | Sequence[str],
        tokens: Sequence[Sequence[tuple[str, float]]] | None = None,
    ) -> None:
        run = self._running("verdict")
        said = run.verdicts.setdefault(int(frame.case[row]), [])
        if any(v.defense == self._speaker() and v.action == action for v in said):
            return
        number = None if score is None else float(score.detach().flatten()[row])
        label = category if isinstance(category, str) else category[row]
        shares = () if tokens is None else tuple((str(t), float(x)) for t, x in tokens[row])
        said.append(Verdict(action, self._speaker(), frame.stage, frame.step, number, threshold, label, why, shares))

    def tokens(self, frame: Frame) -> Tokens:
        """Token ids, mask and strings of the texts that are being encoded; rows follow the frame's. ``GuardError``
        outside the text stage."""
        if frame.stage != "text" or not self._texts:
            raise GuardError("rig.tokens was called outside the text stage; call it from a text tap")
        if self._encoding is not None and len(self._encoding[0]) == len(self._texts):
            return Tokens(*self._encoding, self.model.pipe.tokenizer.convert_ids_to_tokens)
        return self.model.tokens(self._texts)

    def _encoded(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the text encoder: keep the ids and the mask that it is given, which are then not worked out again;
        without a mask they are."""
        ids, mask = args[0] if args else kwargs.get("input_ids"), kwargs.get("attention_mask")
        self._encoding = (
            None if self.now is None or self._inner or ids is None or mask is None else (ids.cpu(), mask.bool().cpu())
        )

    def note(self, frame: Frame, **signals: Tensor) -> None:
        """Store per-row evidence (rows,) under each case; of unconditional rows nothing is kept."""
        run = self._running("note")
        if self.trace is not None:
            self.trace.append((frame, dict(signals)))
        for name, value in signals.items():
            flat = value.detach().float().flatten().tolist()
            for case, keep, number in zip(frame.case.tolist(), frame.conditional.tolist(), flat, strict=True):
                if keep:
                    run.notes.setdefault(case, {}).setdefault(name, []).append(number)

    def fits(self, text: str) -> bool:
        """Whether the model's text encoder takes a text whole."""
        return self.model.fits(text)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Text states (n, t, c) as the pipeline makes them, untapped."""
        self.encoded += len(texts)
        with self._untapped():
            return self.model.encode(texts)

    def predict(self, call: Call, *, weights: str = "live", read: Sequence[str] = ()) -> Prediction:
        """One untapped denoiser call from inside a port. ``weights="clean"`` uses the original ones; ``read`` names
        sites to return."""
        if weights not in ("live", "clean"):
            raise BadInput(f"weights {weights!r}; 'live' or 'clean' are possible")
        found: dict[str, Tensor] = {}
        handles = [
            h
            for name in read
            for h in self._reader(lookup(self.model.site_table, name), partial(found.__setitem__, name))
        ]
        rows = len(call.latents)
        self.predicted += rows
        self.rows += rows
        if self.run is not None:
            live = self.run.alive
            self.run.nfe[live] += rows / max(1, int(live.sum()))
        swapped = self._swap() if weights == "clean" else {}
        try:
            with self._untapped():
                noise = self.model.denoise(call)
        finally:
            if (
                self._open
            ):  # a guard that was left behind comes back after closing: the original weights are in place then and stay
                for parameter, edited in swapped.items():
                    parameter.data = edited
            for handle in handles:
                handle.remove()
        return Prediction(noise, found)

    def _swap(self) -> dict[Any, Tensor]:
        parameters = dict(self.model.unet.named_parameters())
        swapped = {}
        for name, original in self._saved.items():
            swapped[parameters[name]] = parameters[name].data
            parameters[name].data = original.to(parameters[name].device)
        return swapped

    def _speaker(self) -> str:
        return self._owner

    def _running(self, what: str) -> Run:
        if self.run is None:
            raise GuardError(f"rig.{what} was called outside a generation")
        return self.run

    @contextmanager
    def _untapped(self) -> Iterator[None]:
        before, self._inner = self._inner, True
        try:
            yield
        finally:
            self._inner = before

    # ------------------------------------------------------------------------------------------------------------ hooks

    def _hook(self) -> None:
        unet = self.model.unet
        self._handles.append(unet.register_forward_pre_hook(self._before, with_kwargs=True))
        self._handles.append(unet.register_forward_hook(self._after, with_kwargs=True))
        if self.of("text"):
            self._handles.append(self.model.text_encoder.register_forward_pre_hook(self._encoded, with_kwargs=True))
        for port in self.of("tap") + self.of("text"):
            assert port.site is not None
            self._handles += self._reader(port.site, self._tapped(port))

    def _tapped(self, port: Port) -> Callable[[Tensor], Tensor | None]:
        def call(tensor: Tensor) -> Tensor | None:
            frame = self.now
            if self._inner or frame is None or not port.active(frame.step, frame.steps):
                return None
            self._owner = port.owner
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

    def _reader(self, site: Site, fn: Callable[[Tensor], Tensor | None]) -> list[Any]:
        root = self.model.text_encoder if site.name.startswith("text.") else self.model.unet
        module = root.get_submodule(site.path)
        if site.stream == "probs":
            return self._probs_reader(module, fn)
        if site.stream == "heads":

            def before(_: Any, args: tuple[Any, ...]) -> Any:
                new = fn(args[0])
                return None if new is None else (new, *args[1:])

            return [module.register_forward_pre_hook(before)]

        def after(_: Any, __: Any, output: Any) -> Any:
            whole = isinstance(output, tuple)
            index = site.element or 0
            new = fn(output[index] if whole else output)
            if new is None:
                return None
            return (*output[:index], new, *output[index + 1 :]) if whole else new

        return [module.register_forward_hook(after)]

    @staticmethod
    def _probs_reader(attention: Any, fn: Callable[[Tensor], Tensor | None]) -> list[Any]:
        """Attention probabilities computed beside the block from ``to_q``/``to_k``: the picture stays bit-equal."""
        kept: dict[str, Tensor] = {}

        def split(x: Tensor) -> Tensor:
            heads: Tensor = x.unflatten(-1, (attention.heads, -1)).transpose(1, 2)
            return heads

        def after(_: Any, __: Any, ___: Any) -> None:
            q, k = split(kept.pop("q")), split(kept.pop("k"))
            if attention.norm_q is not None:
                q, k = attention.norm_q(q), attention.norm_k(k)
            fn(torch.softmax(q @ k.transpose(-1, -2) * attention.scale, dim=-1))

        return [
            attention.to_q.register_forward_hook(lambda _, __, out: kept.__setitem__("q", out)),
            attention.to_k.register_forward_hook(lambda _, __, out: kept.__setitem__("k", out)),
            attention.register_forward_hook(after),
        ]

    def _before(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before the U-Net: count, gather live rows, call the ``inputs`` ports."""
        if self._inner:  # inside predict: the outer call's own scatter stays
            return None
        self._scatter = None
        run = self.run
        if run is None:
            return None
        sample, timestep, text = (
            args[0],
            args[1] if len(args) > 1 else kwargs["timestep"],
            kwargs["encoder_hidden_states"],
        )
        rows = len(sample)
        case = torch.arange(run.cases).repeat(2 if run.doubled else 1)
        if rows != len(case):
            raise GuardError(
                f"the denoiser got {rows} rows for {run.cases} cases; genward does not know this pipeline's row order"
            )
        conditional = torch.arange(rows) >= (rows - run.cases)
        live = run.alive[case]
        if not live.any():
            raise Blocked("every row was refused")
        if not live.all():
            index = live.nonzero().flatten()
            self._scatter = (index, rows)
            sample, text = sample[index], text[index]
            case, conditional = case[index], conditional[index]
        t = timestep if torch.is_tensor(timestep) else torch.tensor(timestep)
        frame = Frame(
            "denoise", run.step, run.steps, t.reshape(-1).expand(len(sample)), run.guidance, "", conditional, case
        )
        call = Call(sample, t.to(sample.device).reshape(-1).expand(len(sample)), text)
        self.now = frame
        asked = call
        for port in self.of("inputs"):
            if port.active(run.step, run.steps):
                self._owner = port.owner
                call = port(call, frame)
        self._call = (call, frame)
        self.calls += 1
        self.rows += len(sample)
        run.nfe += torch.bincount(case, minlength=run.cases).double()
        kwargs = {**kwargs, "encoder_hidden_states": call.text}
        if call.skips is not None:
            kwargs |= {
                "down_block_additional_residuals": call.skips[:-1],
                "mid_block_additional_residual": call.skips[-1],
            }
        when = timestep if call.timestep is asked.timestep else call.timestep
        kwargs.pop("timestep", None)
        return (call.latents, when, *args[2:]), kwargs

    def _after(self, _: Any, __: Any, ___: Any, output: Any) -> Any:
        """After the U-Net: the ``guidance`` port, then scatter the live rows back to full size."""
        if self._inner or self.run is None or self._call is None:
            return None
        noise = output[0]
        call, frame = self._call
        self._call = None
        for port in self.of("guidance"):
            if port.active(frame.step, frame.steps):
                self._owner = port.owner
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

    # ---------------------------------------------------------------------------------------------- what the loop calls

    def prompt_stage(self, prompts: list[Prompt]) -> list[Prompt]:
        """Run the ``prompts`` ports."""
        run = self._running("prompts")
        self.now = self.text_frame("prompt")
        for port in self.of("prompts"):
            self._owner = port.owner
            new = list(port(list(prompts)))
            if len(new) != run.cases or not all(isinstance(p, Prompt) for p in new):
                raise GuardError(f"{port.owner}: its prompts port returned {len(new)} values for {run.cases} prompts")
            prompts = new
        self.now = None
        return prompts

    def text_frame(self, role: str) -> Frame:
        run = self._running("text")
        index = torch.arange(run.cases)
        return Frame("text", -1, run.steps, None, run.guidance, role, torch.full((run.cases,), role == "prompt"), index)

    @contextmanager
    def text_stage(self, role: str, texts: Sequence[str] = ()) -> Iterator[None]:
        """Text taps fire inside, told which role is being encoded; ``texts`` is what ``tokens`` speaks of."""
        self.now, self._texts = self.text_frame(role), list(texts)
        try:
            yield
        finally:
            self.now, self._texts, self._encoding = None, [], None

    def defended(self, call: Call, guidance: float = 1.0, empty: Tensor | None = None) -> Tensor:
        """The defended arm's guided prediction (rows, c, h, w) outside a sampler, with gradient: what a white-box
        attack looks through.

        Weight edits, taps, ``inputs`` and ``guidance`` ports act, with ``Frame.step`` -1 and windows read off the
        timestep; ports on prompts, latents and pictures do not.

        Args:
            call: conditional rows.
            guidance: above 1 the unconditional branch is computed from ``empty`` (1 or rows, t, c) and combined.
        """
        rows = len(call.latents)
        before, self.run = self.run, Run(rows, 1, guidance, call.latents.device)
        self.run.step = -1
        try:
            if guidance <= 1:
                return self.model.denoise(call)
            if empty is None:
                raise BadInput("a guided prediction wants the states of the empty text")
            both = Call(
                torch.cat([call.latents] * 2),
                torch.cat([call.timestep] * 2),
                torch.cat([empty.expand(rows, -1, -1), call.text]),
            )
            uncond, cond = self.model.denoise(both).chunk(2)
            return cond if self.of("guidance") else uncond + guidance * (cond - uncond)
        finally:
            self.run = before

    def latents_stage(self, latents: Tensor, step: int, timestep: Tensor) -> Tensor:
        """Run the ``latents`` ports before ``step`` on the live rows of (cases, c, h, w)."""
        run = self._running("latents")
        run.step = step
        ports = [p for p in self.of("latents") if p.active(step, run.steps)]
        if not ports or not run.alive.any():
            return latents
        index = run.alive.nonzero().flatten()
        rows = len(index)
        frame = Frame(
            "denoise",
            step,
            run.steps,
            timestep.reshape(-1).expand(rows),
            run.guidance,
            "",
            torch.ones(rows, dtype=torch.bool),
            index,
        )
        whole = bool(run.alive.all())
        part = latents if whole else latents[index.to(latents.device)]
        self.now = frame
        for port in ports:
            self._owner = port.owner
            new = port(part, frame)
            if new.shape != part.shape:
                raise GuardError(f"{port.owner}: its latents port returned {tuple(new.shape)}, not {tuple(part.shape)}")
            part = new.to(part.dtype)
        self.now = None
        if whole:
            return part
        latents = latents.clone()
        latents[index.to(latents.device)] = part
        return latents

    def image_stage(self, images: list[Image], index: Tensor) -> list[Image]:
        """Run the ``images`` ports on the decoded survivors; rows they refuse are marked in the run."""
        run = self._running("images")
        frame = Frame(
            "decode", run.steps, run.steps, None, run.guidance, "", torch.ones(len(index), dtype=torch.bool), index
        )
        self.now = frame
        for port in self.of("images"):
            self._owner = port.owner
            new = list(port(list(images)))
            if len(new) != len(images):
                raise GuardError(f"{port.owner}: its images port returned {len(new)} values for {len(images)} images")
            for k, picture in enumerate(new):
                if picture is None:
                    self.block(frame, torch.tensor([k]), "refused the finished picture")
                else:
                    images[k] = picture
        self.now = None
        return images

    def verify(self) -> None:
        """Raise ``DefenseInactive`` for every attached port that should have been called in this run and was not."""
        run = self._running("verify")
        reached_loop = self.calls > 0
        survived = bool(run.alive.any())
        for port in self.ports:
            if port.kind in ("prompts", "text"):
                due = True
            elif port.kind == "images":
                due = survived
            else:
                due = reached_loop and port.ever(run.steps) and (survived or port.active(0, run.steps))
            if due and port.calls == 0:
                where = f" at {port.site.name}" if port.site else ""
                raise DefenseInactive(
                    f"{port.owner}: its {port.kind} port{where} was never called, so nothing was guarded; a model "
                    "compiled before the guard was "
                    "attached ignores hooks (attach first, or use the uncompiled model), and an offloaded one can lose "
                    "them"
                )

    def begin(self, run: Run) -> None:
        """Start counting a new batch."""
        self.run = run
        self.calls = 0
        for port in self.ports:
            port.calls = 0

    @property
    def edited(self) -> list[str]:
        """Names of the weights that were edited, once for each edit."""
        return [name for _, name in self._edited]

    @property
    def port_calls(self) -> dict[str, int]:
        """``owner.port[@site]`` -> calls in the present batch; weight edits count their parameters."""
        out: dict[str, int] = {}
        for port in self.ports:
            out[f"{port.owner}.{port.kind}" + (f"@{port.site.name}" if port.site else "")] = port.calls
        for owner, _ in self._edited:
            out[f"{owner}.weights"] = out.get(f"{owner}.weights", 0) + 1
        return out


@contextmanager
def learned_tokens(model: StableDiffusion, vectors: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, token texts stand for embeddings that no vocabulary has; with gradient. The tokenizer and the encoder are
    as before on leaving.

    Args:
        vectors: token text (``<3f9a12b4>``) -> (width,) embedding.

    Raises:
        BadInput: an embedding of another width than the encoder's, or one that is not finite; BadInput for a text that
            is a token already.
    """
    if not vectors:
        yield
        return
    table = model.text_encoder.get_input_embeddings()
    for text, vector in vectors.items():
        if tuple(vector.shape) != (table.embedding_dim,):
            raise BadInput(
                f"learned token {text}: shape {tuple(vector.shape)}, this text encoder takes ({table.embedding_dim},); "
                "learn it on this model"
            )
        if not torch.isfinite(vector).all():
            raise BadInput(
                f"learned token {text} holds numbers that are not finite; the attack diverged, lower its rate"
            )
    kept = model.pipe.tokenizer
    known = sorted(set(vectors) & set(kept.get_vocab()))
    if known:
        raise BadInput(f"learned token {known[0]} is a token of the vocabulary already; name it otherwise")
    tokenizer = copy.deepcopy(kept)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in vectors])
    places = dict(zip(tokenizer.convert_tokens_to_ids(list(vectors)), vectors.values(), strict=True))
    asked: list[Tensor] = []

    def before(_: Any, args: tuple[Any, ...]) -> Any:
        asked.append(args[0])
        return (torch.where(args[0] < table.num_embeddings, args[0], 0), *args[1:])

    def after(_: Any, __: Any, output: Tensor) -> Tensor:
        ids = asked.pop()
        for place, vector in places.items():
            output = torch.where((ids == place)[..., None], vector.to(output.device, output.dtype), output)
        return output

    handles = [table.register_forward_pre_hook(before), table.register_forward_hook(after)]
    model.pipe.tokenizer = tokenizer
    try:
        yield
    finally:
        model.pipe.tokenizer = kept
        for handle in handles:
            handle.remove()
