"""The rig: the one way in which a method touches a live model.

Nothing else in genward steps into a sampling loop; hooks and weight edits themselves are put on by ``models.hooks``,
for the rig alone. Everything a defense attaches carries its owner's name, is counted while the rig is open, and is gone
when it closes, after an exception as well. Stock pipelines run as they are: rows blocked in mid-loop are gathered out
before the denoiser and scattered back after it, the sampler's state keeps its size.

Rows. A denoiser call under guidance has ``[unconditional; conditional]`` rows, else only conditional ones; which it is,
is read from each call (``Backbone.layout``), since guidance may be switched off in mid-loop. ``Frame.case`` and
``Frame.conditional`` say which row is which; rows of blocked cases are no longer among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genward.core.contracts import Site, Window
from genward.core.records import Call, Frame, Prediction, Prompt, Tokens, Verdict
from genward.errors import BadInput, Conflict, GuardError
from genward.models.hooks import sites_read
from genward.models.ports import Port, PortError, Run
from genward.models.sites import lookup, refuse_fused
from genward.models.watch import Watch
from genward.models.wiring import rig_on

if TYPE_CHECKING:
    from PIL.Image import Image

    from genward.models.backbone import Backbone

__all__ = ["LiveRig", "PortError", "Run", "rig_on"]


READ_AT_ONCE = 64
"""Readings and passages that are encoded in one batch at most."""


class LiveRig(Watch):
    """``core.contracts.Rig`` on one model. Use it through ``StableDiffusion.rig(defenses)``; see the module's text.

    Counters: ``calls`` (denoiser calls), ``rows`` (denoiser rows, ``predict`` included), ``predicted`` (rows of
    ``predict`` alone), ``encoded`` (texts of ``encode``), ``port_calls`` (by owner and port)."""

    def __init__(self, model: Backbone) -> None:
        super().__init__(model)
        self.trace: list[tuple[Frame, dict[str, Tensor]]] | None = None
        """Set to a list to keep noted signals with their graph (adaptive attacks read them)."""

    def _add(self, kind: str, fn: Callable[..., Any], during: Window = (0.0, 1.0), site: Site | None = None) -> None:
        if not 0.0 <= during[0] < during[1] <= 1.0:
            raise BadInput(f"{self._owner}: window {during} is no part of the loop; give 0 <= start < end <= 1")
        self.ports.append(Port(self._owner, kind, fn, during, site))

    # ------------------------------------------------------------------------------------------------------------ ports

    def prompts(self, fn: Callable[[list[Prompt]], list[Prompt]]) -> None:
        """``fn(list[Prompt]) -> list[Prompt]`` of equal length, before the text encoder."""
        self._add("prompts", fn)

    def readings(self, fn: Callable[[list[str]], list[str]]) -> None:
        """``fn(list[str]) -> list[str]`` of equal length: what guards on the text read beside the prompts themselves.

        Rows whose reading is another text than the prompt are encoded once more, for text taps alone
        (``Frame.role`` is ``reading``); a guard that scores both acts on the worse. The pipeline draws the prompt."""
        self._add("readings", fn)

    def passages(self, fn: Callable[[list[str]], list[list[str]]]) -> None:
        """``fn(list[str]) -> list[list[str]]`` of equal length: further texts that guards on the text read for each
        prompt, such as its parts. It is shown the prompts and, where they differ, their readings.

        Each passage is encoded for the text taps alone, as a reading is: ``Frame.case`` names its row, which may stand
        there several times."""
        self._add("passages", fn)

    def tap(self, site: str, fn: Callable[[Tensor, Frame], Tensor | None], *, during: Window = (0.0, 1.0)) -> None:
        """``fn(tensor, frame)`` at a named place; a returned tensor of equal shape replaces it, ``None`` leaves it.
        Gradients flow through.

        Raises:
            UnknownName: no such site (nearest names offered).
            Conflict: the site's projections are fused.
        """
        found = lookup(self.model.site_table, site)
        if found.stream == "probs":
            refuse_fused(self.model.denoiser, found)
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
        """Replace every parameter of the denoiser whose name matches the pattern by ``edit(name, tensor)``; restored
        bit for bit on close.

        Several owners compose in order. Raises ``UnknownName`` where nothing matches, ``Conflict`` for fused or
        offloaded weights, ``BadInput`` where the edit changes a shape or yields numbers that are not finite."""
        self.edits.apply(self._owner, self.model.denoiser, match, edit)

    def images(self, fn: Callable[[list[Image]], Sequence[Image | None]]) -> None:
        """``fn(images) -> images`` of the surviving rows; ``None`` in a place refuses that row."""
        self._add("images", fn)

    def starts(self, fn: Callable[[list[Image]], object]) -> None:
        """``fn(images)`` looks at the pictures that the surviving rows start from, one per row, before the loop; called
        where a pipeline starts from pictures (img2img). What it returns is ignored: it blocks or flags."""
        self._add("starts", fn)

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
        numbers = None if score is None else score.detach().float().flatten().cpu()
        for row in self._rows(frame, rows):
            case = int(frame.case[row])
            if bool(run.alive[case]) and numbers is not None and not bool(torch.isfinite(numbers[row])):
                run.failed.add(case)
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

    def note(self, frame: Frame, **signals: Tensor) -> None:
        """Store per-row evidence (rows,) under each case; of unconditional rows nothing is kept. A row whose
        ``….score`` is not a number is refused: its guard cannot tell."""
        run = self._running("note")
        if self.trace is not None:
            self.trace.append((frame, dict(signals)))
        for name, value in signals.items():
            flat = value.detach().float().flatten().tolist()
            decisive = name.endswith(".score") or name == self._speaker().partition(":")[0]
            for case, keep, number in zip(frame.case.tolist(), frame.conditional.tolist(), flat, strict=True):
                if keep:
                    run.looked.setdefault(self._speaker(), {})[case] = frame.step
                    run.notes.setdefault(case, {}).setdefault(name, []).append(number)
                    if decisive:
                        run.scored(case, self._speaker(), number)
            if decisive:
                broken = ~torch.isfinite(value.detach().float().flatten().cpu()) & frame.conditional.cpu()
                cases = sorted(set(frame.case.cpu()[broken].tolist()))
                self.refuse(cases, self._speaker(), frame.stage, frame.step, f"{name} is not a number")

    def fits(self, text: str) -> bool:
        """Whether the model's text encoder takes a text whole."""
        return self.model.fits(text)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Text states (n, t, c) as the pipeline makes them, untapped."""
        self.encoded += len(texts)
        with self._untapped():
            return self.model.encode(texts)

    def texts(self, frame: Frame) -> list[str]:
        """The texts that are being encoded; rows follow the frame's. None outside the text stage."""
        return list(self._texts) if frame.stage == "text" else []

    def read(self, texts: Sequence[str], sites: Sequence[str]) -> tuple[dict[str, Tensor], Tokens]:
        """What passes text sites while these texts are encoded, untapped, and their tokens."""
        known = {name: lookup(self.model.site_table, name) for name in sites}
        with self._untapped(), torch.no_grad(), sites_read(self.model.text_encoder, known) as found:
            tokens = self.model.read_texts(texts)
        return found, tokens

    def predict(self, call: Call, *, weights: str = "live", read: Sequence[str] = ()) -> Prediction:
        """One untapped denoiser call. ``weights="clean"`` uses the original ones; ``read`` names sites to return."""
        if weights not in ("live", "clean"):
            raise BadInput(f"weights {weights!r}; 'live' or 'clean' are possible")
        rows = len(call.latents)
        self.predicted += rows
        self.rows += rows
        if self.run is not None:
            live = self.run.alive
            self.run.nfe[live] += rows / max(1, int(live.sum()))
        sites = {name: lookup(self.model.site_table, name) for name in read}
        swapped = self.edits.swap() if weights == "clean" else {}
        try:
            with self._untapped(), sites_read(self.model.denoiser, sites) as found:
                noise = self.model.denoise(call)
        finally:
            if self._open:  # a guard that was left behind comes back after closing: the originals are in place and stay
                for parameter, edited in swapped.items():
                    parameter.data = edited
        return Prediction(noise, found)

    # ---------------------------------------------------------------------------------------------- what the loop calls

    def prompt_stage(self, prompts: list[Prompt]) -> list[Prompt]:
        """Run the ``prompts`` ports."""
        run, written = self._running("prompts"), prompts
        self.now = self.text_frame("prompt")
        for port in self.of("prompts"):
            self._owner = port.owner
            new = list(port(list(prompts)))
            if len(new) != run.cases or not all(isinstance(p, Prompt) for p in new):
                raise GuardError(f"{port.owner}: its prompts port returned {len(new)} values for {run.cases} prompts")
            prompts = new
        pairs = zip(written, prompts, strict=True)
        run.drawn |= {k: new.text for k, (old, new) in enumerate(pairs) if new.text != old.text}
        self._readings = read = [p.text for p in prompts]
        for port in self.of("readings"):
            self._owner = port.owner
            read = list(port(list(read)))
            if len(read) != run.cases or not all(isinstance(text, str) for text in read):
                raise GuardError(f"{port.owner}: its readings port returned {len(read)} values for {run.cases} prompts")
            self._readings = read
        self._passages = self._parted([p.text for p in prompts])
        self.now = None
        return prompts

    def _parted(self, texts: Sequence[str]) -> list[list[str]]:
        """What the ``passages`` ports make of each row's prompt and reading."""
        out: list[list[str]] = [[] for _ in texts]
        shown = [(k, t) for k, text in enumerate(texts) for t in dict.fromkeys((text, self._readings[k]))]
        for port in self.of("passages"):
            self._owner = port.owner
            new = list(port([text for _, text in shown]))
            if len(new) != len(shown) or not all(
                isinstance(found, list) and all(isinstance(text, str) for text in found) for found in new
            ):
                raise GuardError(f"{port.owner}: its passages port returned {len(new)} lists for {len(shown)} texts")
            for (k, _), found in zip(shown, new, strict=True):
                out[k] += found
        return out

    def text_frame(self, role: str) -> Frame:
        run = self._running("text")
        index = torch.arange(run.cases)
        mine = torch.full((run.cases,), role != "negative")
        return Frame("text", -1, run.steps, None, run.guidance, role, mine, index)

    @contextmanager
    def text_stage(self, role: str, texts: Sequence[str] = ()) -> Iterator[None]:
        """Text taps fire inside, told which role is being encoded; ``texts`` is what ``tokens`` speaks of. After the
        prompts they are shown the readings of those that read as something else."""
        self.now, self._texts = self.text_frame(role), list(texts)
        try:
            yield
            if role == "prompt" and (self.of("readings") or self.of("passages")):
                self._read_again()
        finally:
            self.now, self._texts, self._encoding = None, [], None

    def _read_again(self) -> None:
        """Encode the readings that differ from the texts at hand, and passages, for the taps; the states are
        dropped."""
        if len(self._readings) != len(self._texts):
            raise GuardError(f"{len(self._readings)} readings for {len(self._texts)} texts: nobody read these texts")
        more = [
            (k, text)
            for k, (own, read, parts) in enumerate(zip(self._texts, self._readings, self._passages, strict=True))
            for text in dict.fromkeys((read, *parts))
            if text != own
        ]
        frame = self.text_frame("reading")
        for start in range(0, len(more), READ_AT_ONCE):
            part = more[start : start + READ_AT_ONCE]
            index = torch.tensor([k for k, _ in part])
            self.now = frame._replace(conditional=frame.conditional[index], case=frame.case[index])
            self._texts, self._encoding = [text for _, text in part], None
            with torch.no_grad():
                self.model.read_texts(self._texts)

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

    def start_stage(self, images: list[Image], index: Tensor) -> None:
        """Run the ``starts`` ports on the pictures that the rows ``index`` start from."""
        run = self._running("starts")
        frame = Frame("start", -1, run.steps, None, run.guidance, "", torch.ones(len(index), dtype=torch.bool), index)
        for port in self.of("starts"):
            self.now, self._owner = frame, port.owner
            port(list(images))
        self.now = None

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
