"""One small example defense for each port of the rig: templates for plug-in writers, subjects of the laws in the
tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from genward.core.contracts import Window
from genward.core.records import Call, Frame, Prompt


@dataclass(frozen=True)
class Rewrite:
    """prompts port: put a word before every prompt (strength 0: change nothing)."""

    name: ClassVar[str] = "example-prompts"
    strength: float = 1.0

    def attach(self, rig: Any) -> None:
        def fn(prompts: list[Prompt]) -> list[Prompt]:
            return [p._replace(text="calm " + p.text) for p in prompts] if self.strength else prompts

        rig.prompts(fn)


@dataclass(frozen=True)
class Steer:
    """tap port: scale a site's output by ``1 + strength``."""

    name: ClassVar[str] = "example-tap"
    strength: float = 0.5
    site: str = "mid_block"
    during: Window = (0.0, 1.0)

    def attach(self, rig: Any) -> None:
        rig.tap(self.site, lambda x, frame: x * (1 + self.strength), during=self.during)


@dataclass(frozen=True)
class SteerText:
    """text tap: scale the states of one head layer in the prompt's encoding."""

    name: ClassVar[str] = "example-text"
    strength: float = 0.5
    site: str = "text.0.heads"

    def attach(self, rig: Any) -> None:
        rig.tap(self.site, lambda x, frame: x * (1 + self.strength) if frame.role == "prompt" else None)


@dataclass(frozen=True)
class Dim:
    """inputs port: scale the conditional rows' text states by ``1 - strength``."""

    name: ClassVar[str] = "example-inputs"
    strength: float = 0.5
    during: Window = (0.0, 1.0)

    def attach(self, rig: Any) -> None:
        def fn(call: Call, frame: Frame) -> Call:
            keep = frame.conditional.to(call.text.device)[:, None, None]
            return call._replace(text=call.text * (1 - self.strength * keep))

        rig.inputs(fn, during=self.during)


@dataclass(frozen=True)
class Halfway:
    """guidance port: classifier-free guidance with its scale reduced by ``strength``."""

    name: ClassVar[str] = "example-guidance"
    strength: float = 0.5

    def attach(self, rig: Any) -> None:
        def fn(uncond: Any, cond: Any, call: Call, frame: Frame) -> Any:
            if uncond is None:
                return cond
            return uncond + frame.guidance * (1 - self.strength) * (cond - uncond)

        rig.guidance(fn)


@dataclass(frozen=True)
class Shrink:
    """latents port: scale the latents by ``1 - strength`` before each step of the window."""

    name: ClassVar[str] = "example-latents"
    strength: float = 0.1
    during: Window = (0.0, 1.0)

    def attach(self, rig: Any) -> None:
        rig.latents(lambda z, frame: z * (1 - self.strength), during=self.during)


@dataclass(frozen=True)
class Fade:
    """weights port: scale the cross-attention K/V maps by ``1 - strength``."""

    name: ClassVar[str] = "example-weights"
    strength: float = 0.5

    def attach(self, rig: Any) -> None:
        rig.weights(r"attn2\.to_[kv]\.weight$", lambda name, w: w * (1 - self.strength))


@dataclass(frozen=True)
class Mirror:
    """images port: mirror the picture (strength 0: leave it)."""

    name: ClassVar[str] = "example-images"
    strength: float = 1.0

    def attach(self, rig: Any) -> None:
        from PIL import ImageOps

        rig.images(lambda images: [ImageOps.mirror(i) if self.strength else i for i in images])


@dataclass(frozen=True)
class Stop:
    """block: refuse every second case at a step (strength 0: none)."""

    name: ClassVar[str] = "example-block"
    strength: float = 1.0
    step: int = 2

    def attach(self, rig: Any) -> None:
        def fn(call: Call, frame: Frame) -> Call:
            if self.strength and frame.step == self.step:
                rig.block(frame, frame.case % 2 == 1, "every second row, as an example")
            return call

        rig.inputs(fn)


EXAMPLES: dict[str, Callable[..., Any]] = {
    c.name: c for c in (Rewrite, Steer, SteerText, Dim, Halfway, Shrink, Fade, Mirror, Stop)
}
"""Name -> class, one for each port."""
