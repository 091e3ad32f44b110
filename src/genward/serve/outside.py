"""Guards of the text and of the finished picture around pipelines that genward does not step into
(``models.outside``): SDXL, SD3, FLUX, inpainting, compiled ones.

The stock call runs whole, and what it returns is looked at before it is released. A prompt that a text guard blocks is
taken out of the call where each row has random numbers of its own, else an empty text takes its place and its picture
is dropped: the other rows get the pictures of the stock call either way. Fail closed: a defense that wants more than
the text or the picture, a text or a picture that comes in where no guard reads it, and a result of another size are
refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from genward.core.contracts import Site, Window
from genward.core.records import Prompt
from genward.core.texts import checked_negatives, checked_rows
from genward.errors import BadInput, Blocked, Conflict, GuardError, Inapplicable, Unguarded, UnknownName
from genward.models.hooks import around, read_site
from genward.models.outside import OutsidePipeline
from genward.models.ports import Run
from genward.models.sampling import Outcome
from genward.serve.arguments import OUTPUTS, bound, call_arguments, count_of
from genward.serve.call import Guarded, Made, collect
from genward.serve.rig import GuardRig

if TYPE_CHECKING:
    from genward.models.backbone import Backbone

SEEN = ("readings", "passages", "text", "images", "starts")
"""Ports that there are without a denoiser."""
TEXTS = ("prompt", "prompt_2", "prompt_3", "prompt_4")
PICTURES = ("ip_adapter_image", "ip_adapter_image_embeds", "masked_image_latents", "negative_ip_adapter_image")
"""Arguments through which pictures come in that no guard is shown."""
HARMLESS_TEXTS = ("output_type", "scheduler_type")
"""Arguments that are texts and no prompts."""
PLAN = ("timesteps", "sigmas", "generator")
"""Arguments that may be tensors or arrays and hold nothing that could be drawn."""
OVER = ("image", "mask_image")
"""Arguments with a picture that guards are shown."""


class OutsideRig(GuardRig):
    """A rig on the text encoder and the finished picture alone. Hooks are on while a text guard reads and at no other
    time, so that a compiled denoiser, or a compiled encoder around the one that is read, never meets one."""

    def __init__(self, model: OutsidePipeline, timeout: float | None = None) -> None:
        super().__init__(cast("Backbone", model), timeout)

    def _add(self, kind: str, fn: Callable[..., Any], during: Window = (0.0, 1.0), site: Site | None = None) -> None:
        if kind not in SEEN:
            raise self._inapplicable(kind)
        if kind == "text":
            cast(OutsidePipeline, self.model).readable(self._owner)
        super()._add(kind, fn, during, site)

    def weights(self, match: str, edit: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
        raise self._inapplicable("weights")

    def _inapplicable(self, kind: str) -> Inapplicable:
        return Inapplicable(refusal(self._owner, self.model.pipe, f"its {kind} port"))

    def _hook(self) -> None:
        """Nothing stays hooked; see ``text_stage``."""
        self.note_weights()

    @contextmanager
    def text_stage(self, role: str, texts: Sequence[str] = ()) -> Iterator[None]:
        handles = around(self.model.text_encoder, self._encoded)
        try:
            for port in self.of("text"):
                assert port.site is not None
                handles += read_site(self.model.text_encoder, port.site, self._tapped(port))
            with super().text_stage(role, texts):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def check_parts(self) -> None:
        """Nothing: the denoiser may be compiled or offloaded here, and ``readable`` asks about the text encoder."""
        if self.of("text"):
            cast(OutsidePipeline, self.model).readable(self.of("text")[0].owner)


def refusal(who: str, pipe: Any, what: str) -> str:
    """Why a defense cannot act on a pipeline, and what can."""
    return (
        f"{who} acts inside the denoiser ({what}), and a {type(pipe).__name__} that is compiled or of another family "
        "is not stepped into; guards of the text and of the finished picture work here: defenses=['aeiou'], "
        "['normalize', 'aeiou'], ['image_filter']"
    )


class GuardedOutside(Guarded):
    """A guarded pipeline that runs whole between its guards."""

    rig: OutsideRig

    def _arguments(self) -> dict[str, Any]:
        return call_arguments(type(self.pipe))

    def _made(self, args: tuple[Any, ...], kwargs: dict[str, Any], observe: bool) -> Made:
        asked = _Asked(self, args, kwargs)
        run = Run(asked.rows, 1, 1.0, "cpu")
        self.rig.begin(run)
        try:
            outcome = _Through(self.rig, asked, run).outcome(observe)
        finally:
            self.rig.end()
        told = bool(self.defenses) or getattr(self.pipe, "safety_checker", None) is not None
        return Made(collect(outcome, asked.output, told), asked.row_texts(), asked.whole)


class _Asked:
    """One call, read and checked."""

    def __init__(self, guarded: GuardedOutside, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        pipe, known, rig = guarded.pipe, guarded.known, guarded.rig
        for key in kwargs:
            if key not in known:
                raise UnknownName(f"argument of {type(pipe).__name__}", key, known)
        self.given = {k: v for k, v in bound(type(pipe), pipe, args, kwargs).items() if k in known}
        self.output = self.given.get("output_type", "pil")
        if self.output not in OUTPUTS:
            raise UnknownName("output_type", str(self.output), OUTPUTS)
        self.whole = bool(self.given.get("return_dict", True))
        self.copies = count_of(self.given.get("num_images_per_prompt", 1))
        self.pipe, self.names = pipe, ", ".join(guarded.named)
        reads, looks = bool(rig.of("text")), bool(rig.of("images"))
        self.texts: dict[str, list[str]] = {}
        """Argument -> one text a prompt"""
        self.bad: dict[int, str] = {}
        self._read_texts(reads)
        if guarded.defenses:
            self._refuse_unseen(reads, looks)

    def _read_texts(self, reads: bool) -> None:
        given = self.given
        count = None
        for name in TEXTS:
            if given.get(name) is None:
                continue
            found = checked_rows(given[name], name)
            self.bad |= {k: why for k, why in found.bad.items() if k not in self.bad}
            if count is not None and len(found.texts) != count:
                raise BadInput(f"{name}: {len(found.texts)} texts for {count} prompts; give one a prompt")
            count = len(found.texts)
            self.texts[name] = found.texts
        embeds = given.get("prompt_embeds")
        if count is None:
            if reads or not torch.is_tensor(embeds):
                raise BadInput(f"prompt is missing; {self.names or 'the pipeline'} reads it as a text")
            count = len(embeds)
        self.count = count
        negative = given.get("negative_prompt")
        self.negatives = checked_negatives(negative, count)

    def _refuse_unseen(self, reads: bool, looks: bool) -> None:
        """What comes in, or goes out, past every guard of the chain."""
        for name, value in self.given.items():
            if value is None or name in self.texts:
                continue
            if name in PICTURES:
                raise Conflict(f"{name}: a picture that comes in there is shown to no guard; leave it out")
            if reads and ("embeds" in name or "attention_mask" in name or name == "prompt_embeds_mask"):
                raise Conflict(f"{name}: {self.names} reads the text, and embeddings have none; give the prompt")
            if reads and not name.startswith("negative_prompt") and name not in HARMLESS_TEXTS and _holds_text(value):
                raise Conflict(f"{name}: a text that comes in there is read by no guard; leave it out")
            if name.endswith("attention_kwargs") and set(value) - {"scale"}:
                raise Conflict(f"{name}: only scale (of LoRA weights) can be guarded")
            if name.endswith("latents"):
                self._refuse_latents(name, looks)
            elif reads and name not in PLAN + OVER and _holds_numbers(value):
                raise Conflict(
                    f"{name}: {self.names} reads the text, and what comes in there as numbers or as a picture has "
                    "none; leave it out"
                )
        if looks and self.output == "latent":
            raise Conflict("output_type 'latent': a guard that looks at pictures has none to look at; ask for 'pil'")

    def _refuse_latents(self, name: str, looks: bool) -> None:
        if not looks:
            raise Unguarded(
                f"{name}: they may hold a picture, and none of {self.names} looks at pictures; add image_filter with "
                "a judge of this model's pictures, or leave them out"
            )

    @property
    def rows(self) -> int:
        return self.count * self.copies

    def row_texts(self) -> list[Prompt]:
        """One (prompt, negative) a row, in the pipeline's order."""
        texts = self.texts.get("prompt") or next(iter(self.texts.values()), [""] * self.count)
        pairs = zip(texts, self.negatives, strict=True)
        return [Prompt(p, n) for p, n in pairs for _ in range(self.copies)]

    def arguments(self, dead: set[int]) -> tuple[dict[str, Any], list[int]]:
        """The stock call's arguments without the prompts ``dead``, and the rows of ours that its pictures are."""
        given = dict(self.given)
        kept = [p for p in range(self.count) if p not in dead]
        rows = [p * self.copies + k for p in range(self.count) for k in range(self.copies)]
        generator = given.get("generator")
        own = isinstance(generator, list | tuple) and len(generator) == self.rows
        apart = not any(_holds_numbers(value) for name, value in given.items() if name not in PLAN)
        cut = bool(dead) and own and apart
        for name, texts in self.texts.items():
            left = [texts[p] for p in kept] if cut else ["" if p in dead else text for p, text in enumerate(texts)]
            given[name] = left[0] if isinstance(given[name], str) else left
        if cut:
            rows = [r for r in rows if r // self.copies not in dead]
            assert generator is not None
            given["generator"] = [generator[r] for r in rows]
            for name, value in self.given.items():
                if name.startswith("negative_prompt") and isinstance(value, list):
                    given[name] = [value[p] for p in kept]
        return {**given, "return_dict": True}, rows


class _Through:
    """One call on its way: the text, the start pictures, the stock pipeline, the finished pictures."""

    def __init__(self, rig: OutsideRig, asked: _Asked, run: Run) -> None:
        self.rig, self.asked, self.run, self.pipe = rig, asked, run, asked.pipe

    def outcome(self, observe: bool) -> Outcome:
        failure: GuardError | None = None
        index: list[int] = []
        data: Any = None
        try:
            self.rig.inspect()
            index, data = self._rows(observe)
            if not observe:
                self.rig.verify()
        except Blocked as error:
            self.rig.refuse(range(self.run.cases), error.owner or "genward", *self._place(), str(error), failed=False)
        except GuardError as error:
            failure, owner = error, getattr(error, "owner", "") or "genward"
            self.rig.refuse(range(self.run.cases), owner, *self._place(), str(error).removeprefix(f"{owner}: "))
        keep = [k for k, row in enumerate(index) if bool(self.run.alive[row])]
        self.run.nfe.fill_(-1)  # the denoiser is not hooked, so nobody counted
        left = [index[k] for k in keep]
        return Outcome(self.run, left, _picked(data, keep, self.asked.output), None, failure)

    def _place(self) -> tuple[str, int]:
        frame = self.rig.now
        return (frame.stage, frame.step) if frame is not None else ("decode" if self.run.entered else "text", -1)

    def _rows(self, observe: bool) -> tuple[list[int], Any]:
        asked, run = self.asked, self.run
        for prompt, why in asked.bad.items():
            mine = range(prompt * asked.copies, (prompt + 1) * asked.copies)
            self.rig.refuse(mine, "genward", "text", -1, why, failed=False)
        if self.rig.of("text") or self.rig.of("readings"):
            self._texts()
        self._starts()
        if not bool(run.alive.any()) or (observe and not self.rig.of("images")):
            return [], None
        alive = run.alive.view(asked.count, asked.copies).any(1)
        arguments, rows = asked.arguments(set((~alive).nonzero().flatten().tolist()))
        found = self.pipe(**arguments)
        run.seen = 0
        data = getattr(found, "images", None)
        if data is None:
            raise GuardError(
                f"a {type(self.pipe).__name__} gives back no images ({type(found).__name__}), so nobody can look at "
                "what it made; nothing is released"
            )
        if len(data) != len(rows):
            raise GuardError(f"the pipeline gave back {len(data)} pictures for {len(rows)} rows; nothing is released")
        self._checked(found, rows)
        return rows, self._looked(data, rows)

    def _texts(self) -> None:
        """Every text of a row is read, ``prompt`` and what other encoders get (``prompt_2``)."""
        rig, copies = self.rig, self.asked.copies
        for texts in dict.fromkeys(tuple(found) for found in self.asked.texts.values()):
            rows = rig.prompt_stage([Prompt(t, "") for t in texts for _ in range(copies)])
            written = [p.text for p in rows]
            with rig.text_stage("prompt", written):
                rig.model.encode(written)

    def _starts(self) -> None:
        """Show the pictures that are painted over to the guards."""
        given, run, asked = self.asked.given.get("image"), self.run, self.asked
        run.pictured = given is not None
        if given is None or not self.rig.of("starts") or not bool(run.alive.any()):
            return
        pixels = self.pipe.image_processor.preprocess(given)
        if pixels.shape[1] != 3 or asked.rows % len(pixels) or (len(pixels) > 1 and asked.copies > 1):
            raise BadInput(
                f"image: {tuple(pixels.shape)} for {asked.rows} rows; give one picture of three channels, or one a "
                "prompt with num_images_per_prompt=1, so that the guard knows whose it is"
            )
        lost = ~torch.isfinite(pixels).flatten(1).all(1)
        self.rig.refuse(
            [r for r in range(run.cases) if bool(lost[r % len(pixels)])],
            "genward",
            "start",
            -1,
            "its start picture holds numbers that are not finite",
        )
        index = run.alive.nonzero().flatten()
        pictures = self.pipe.image_processor.postprocess(pixels.nan_to_num(), output_type="pil")
        if len(index):
            self.rig.start_stage([pictures[r % len(pictures)] for r in index.tolist()], index)

    def _checked(self, found: Any, rows: Sequence[int]) -> None:
        """What the pipeline's own checker says ends rows instead of painting them black."""
        for name in ("nsfw_content_detected", "nsfw_detected"):
            flags = getattr(found, name, None)
            if flags is None:
                continue
            said = [bool(f) for f in flags]
            if len(said) != len(rows):
                raise GuardError(f"the pipeline's checker said {len(said)} things about {len(rows)} pictures")
            hit = [row for row, flag in zip(rows, said, strict=True) if flag]
            why = "the pipeline's own checker flagged the picture"
            self.rig.refuse(hit, "safety_checker", "decode", -1, why, failed=False)

    def _looked(self, data: Any, rows: Sequence[int]) -> Any:
        """The pictures after the guards: what they are shown is what is released."""
        if not self.rig.of("images"):
            return data
        finite = _finite(data)
        lost = [row for row, fine in zip(rows, finite, strict=True) if not fine]
        self.rig.refuse(lost, "genward", "decode", -1, "the picture holds numbers that are not finite")
        alive = [k for k, row in enumerate(rows) if bool(self.run.alive[row])]
        if not alive:
            return data
        shown = _pil(data)
        seen = self.rig.image_stage([shown[k] for k in alive], torch.tensor([rows[k] for k in alive]))
        for k, picture in zip(alive, seen, strict=True):
            if picture is not shown[k] and bool(self.run.alive[rows[k]]):
                if not isinstance(data, list):
                    raise GuardError("a guard gave another picture back; ask for output_type 'pil' to get it")
                data[k] = picture
        return data


def _finite(data: Any) -> list[bool]:
    if isinstance(data, list):
        return [True] * len(data)
    return [bool(np.isfinite(np.asarray(x)).all()) for x in data]


def _pil(data: Any) -> list[Any]:
    """Pictures from what a pipeline returned: PIL as they are, arrays (n, h, w, 3) and tensors (n, 3, h, w) of [0, 1]
    rounded to bytes, as diffusers itself does."""
    from PIL import Image

    if isinstance(data, list):
        return list(data)
    array = data.permute(0, 2, 3, 1).float().cpu().numpy() if torch.is_tensor(data) else np.asarray(data)
    whole = (np.nan_to_num(array) * 255).round().clip(0, 255).astype(np.uint8)
    return [Image.fromarray(one) for one in whole]


def _picked(data: Any, keep: list[int], kind: str) -> Any:
    if kind == "pil":
        return [] if data is None else [data[k] for k in keep]
    if data is None:
        return np.zeros((0, 0, 0, 3), np.float32) if kind == "np" else torch.zeros((0, 3, 0, 0))
    return data[keep]


def _holds_numbers(value: Any) -> bool:
    """Whether a tensor, an array or a picture is in an argument, however deep."""
    if isinstance(value, Mapping):
        return _holds_numbers(list(value.values()))
    if isinstance(value, list | tuple):
        return any(_holds_numbers(v) for v in value)
    if torch.is_tensor(value) or isinstance(value, np.ndarray):
        return value.ndim > 0
    from PIL.Image import Image

    return isinstance(value, Image)


def _holds_text(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_holds_text(v) for v in value)
    return isinstance(value, str) or (isinstance(value, Mapping) and _holds_text(list(value.values())))
