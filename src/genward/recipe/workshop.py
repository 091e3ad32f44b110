"""What the stages of the lab's recipe share: the work folder, the icons, the frozen parts, the notes."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genward.core.records import load_concept
from genward.errors import BadInput

MINUTES = {"autoencoder": 16.0, "trunk": 36.0, "branch": 52.0, "judge": 11.0, "second_judge": 8.0}
"""Minutes of training on two CPU cores, by part."""
SETS = (
    "noto", "noto-v1", "twemoji", "fluent-emoji", "fluent-emoji-flat", "fluent-emoji-high-contrast", "emojione",
    "emojione-monotone", "fxemoji",
)  # fmt: skip
Report = Callable[[str, float, float, str], None]
"""``(stage, seconds done, seconds in all, text)``"""


def quiet(stage: str, done: float, whole: float, text: str) -> None:
    """Report nothing."""


@dataclass
class Workshop:
    """Everything the stages share: the work folder, the icons, and the frozen parts once they are needed."""

    work: Path
    icons: Path | None = None
    scale: float = 1.0
    """Factor on every stage's minutes."""
    minutes: float | None = None
    """Minutes for each training stage instead of the recipe's."""
    steps: int | None = None
    """Exact steps for the denoiser's parts instead of minutes."""
    report: Report = quiet
    second: bool = False
    """Train on the second vocabulary (``words-second.toml``), with more rows and larger steps, on the packaged
    autoencoder, compiled; made for an accelerator."""
    _cache: dict[str, Any] = field(default_factory=dict)

    def seconds(self, part: str) -> float:
        return 60 * (self.minutes if self.minutes is not None else MINUTES[part] * self.scale)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._cache:
            self._cache[name] = make()
        return self._cache[name]

    @property
    def notes(self) -> dict[str, Any]:
        """Facts that stages kept, by stage."""
        file = self.work / "notes.json"
        found: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {}
        return found

    @property
    def words(self) -> Any:
        from genward.lab.data import second_vocabulary, vocabulary

        return second_vocabulary() if self.second else vocabulary()

    @property
    def sets(self) -> Any:
        from genward.lab.data import Icons

        def read() -> Any:
            icons = Icons(self.icons or self.work / "icons")
            missing = [s for s in SETS if s not in icons.sets]
            if missing:
                raise BadInput(
                    f"icon sets {', '.join(missing)} are not in {self.icons or self.work / 'icons'}; run the data "
                    "stage, or name a folder with --icons"
                )
            return icons

        return self.once("sets", read)

    @property
    def sprites(self) -> Any:
        from genward.lab.data import sprites

        return self.once("sprites", lambda: sprites(self.sets, self.words))

    def strangers(self, first: int, last: int) -> list[tuple[str, Any]]:
        """Icons ``first`` to ``last`` of a fixed shuffle of those from outside the vocabulary, with their style.

        Icons whose name holds an object's (``water-pistol``, ``middle-finger-dark``, ``cat-face``) are left out: to
        call them "none of these" would teach a judge something wrong."""
        own = {(s.set, self.sets.find(s.set, t.icons)) for t in self.words.things for s in self.words.styles}
        style = {s.set: s.name for s in self.words.styles}
        every = [e for e in self.sets.every() if e not in own]
        random.Random(0).shuffle(every)
        strange = [e for e in every if not names_known(e[1], self.words)]
        return [(style[p], self.sets.sprite(p, n)) for p, n in strange[first:last]]

    @property
    def others(self) -> list[tuple[str, Any]]:
        """2,500 icons from outside the vocabulary, for training."""
        found: list[tuple[str, Any]] = self.once("others", lambda: self.strangers(0, 2500))
        return found

    @property
    def unknown(self) -> list[tuple[str, Any]]:
        """500 more, for calibration only (other icons; the same thing in another style may be among ``others``)."""
        found: list[tuple[str, Any]] = self.once("unknown", lambda: self.strangers(2500, 3000))
        return found

    @property
    def vae(self) -> Any:
        from diffusers import AutoencoderKL

        if self.second:
            import genward.lab as lab

            own = lab.weights_folder() / "vae"
            return self.once(
                "vae",
                lambda: AutoencoderKL.from_pretrained(own, use_safetensors=True).float().eval().requires_grad_(False),
            )
        if not (self.work / "vae").is_dir():
            raise BadInput(f"no autoencoder in {self.work / 'vae'}; run the autoencoder stage first")
        return self.once("vae", lambda: AutoencoderKL.from_pretrained(self.work / "vae").eval().requires_grad_(False))


def names_known(icon: str, words: Any) -> bool:
    """Whether an icon's name holds the name of an object of the vocabulary, as whole words (in names without hyphens,
    at either end)."""
    known = {re.sub(r"[^a-z0-9]", "", n.lower()) for t in words.things for n in (t.name, *t.icons)}
    parts = icon.lower().split("-")
    if len(parts) == 1:
        return parts[0] in known or any(len(k) > 3 and (parts[0].startswith(k) or parts[0].endswith(k)) for k in known)
    runs = {"".join(parts[a:b]) for a in range(len(parts)) for b in range(a + 1, len(parts) + 1)}
    return bool(known & (runs | {r.removesuffix("s") for r in runs}))


def unseen() -> list[str]:
    """Objects and styles the trunk and the oracle never see."""
    from genward.lab.data import ORACLE_CONCEPTS

    return [t for c in ORACLE_CONCEPTS for t in load_concept(c).targets]


def note(shop: Workshop, stage: str, facts: dict[str, Any]) -> None:
    """Keep facts about a stage in ``notes.json``."""
    (shop.work / "notes.json").write_text(json.dumps({**shop.notes, stage: facts}, indent=1), "utf-8")
