"""PEPPER (Chew et al., arXiv 2511.16830): the caption is written anew before the model reads it, so that a backdoor's
trigger is not there or is diluted.

Of the paper only the abstract and the opening paragraphs were readable: an instruction-tuned language model makes a
caption that is far in wording, visually similar and enriched with unobtrusive details. The filter, the fallback and the
embedded rule-based rewriter are ours (``defenses._rewriting``, ``ops.looks``). Guards on the text read the user's own
caption beside the one that is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from genward.core.contracts import Rig
from genward.core.records import Frame, Prompt
from genward.defenses._rewriters import Rewriter, content_of, enriched, opened, turn_of
from genward.defenses._rewriting import EXAMPLES, Rewrite, Rules, chance, instruction, leaked, settle
from genward.errors import BadInput, UnknownName
from genward.ops.looks import world
from genward.ops.sentences import basic

POLICIES = ("plain", "refuse")


@dataclass(frozen=True)
class Pepper:
    """PEPPER: captions are written anew with objects by their look and neutral details, against backdoor triggers; it
    trusts nothing of the model under test."""

    name: ClassVar[str] = "pepper"
    at_attach: ClassVar[frozenset[str]] = frozenset()
    guards: ClassVar[bool] = False
    rewriter: str = "looks"
    """``looks`` (rules, embedded), the address of a chat service, the folder of a chat model, or ``none``."""
    otherwise: str = "plain"
    """Where no rewrite is accepted: ``plain`` draws the caption in Basic Latin with details behind it, ``refuse``
    refuses the row."""
    plain: bool = True
    """Whether a caption that is not written anew is drawn in Basic Latin, without look-alikes, marks and invisible
    characters; rewriters are shown it so in any case."""
    details: int = 1
    """Neutral details to add, as many as the text encoder takes; 0 adds none."""
    candidates: int = 4
    """Rewrites that are asked for at once."""
    tries: int = 3
    """Times that a rewriter is asked about one caption."""
    max_overlap: float = 0.2
    """Largest share of the caption's content words that a rewrite may use again; colors, counts and styles apart."""
    min_distance: float = 0.25
    """Least distance in wording, 1 less the cosine under an encoder of our own (``ops.sentences``)."""
    min_similarity: float = 0.6
    """Least share of the caption's facts that a rewrite shows; a caption without known facts passes."""
    min_gain: int = 2
    """Words by which a rewrite is longer at least, where the text encoder has room."""
    max_characters: int = 600
    """Characters of the longest rewrite that is looked at."""
    far: float = 1.0
    """Weight of the distance in the choice among accepted candidates."""
    like: float = 1.0
    """Weight of the similarity in that choice."""
    longer: float = 0.25
    """Weight of the added length in that choice."""
    leak: float = 0.0
    """For ablations: share of captions whose rewrite says again what the world does not know, as a language model does
    that copies a trigger."""
    words: str = ""
    """Vocabulary file of the world whose facts are known; empty: the lab's."""
    coverage: float = 0.5
    """``looks``: least share of a caption's content words that must be known for it to be written anew."""
    model: str = ""
    """Name of the model at a chat service."""
    temperature: float = 0.7
    """Of a language model's sampling; 0 takes the likeliest words."""
    timeout: float = 20.0
    """Seconds that a chat service may take for one answer."""
    key: str = field(default="OPENAI_API_KEY", metadata={"identity": False})
    """Environment variable with the key of a chat service."""
    most_words: int = 40
    """Words that a language model is told to write at most."""
    examples: int = 2
    """Worked examples in the instruction, 0 to 3."""
    kept: str = field(default="", metadata={"identity": False})
    """Folder where a language model's rewrites are kept by content, as texts for the owner alone; empty: in memory."""
    content: str = field(init=False, default="")
    """Hash of the vocabulary or of the chat model's files; filled in."""

    def __post_init__(self) -> None:
        if self.otherwise not in POLICIES:
            raise UnknownName("way out", self.otherwise, POLICIES)
        low = {"details": 0, "candidates": 1, "tries": 1, "min_gain": 0, "max_characters": 1, "most_words": 1}
        for name, least in low.items():
            if not least <= getattr(self, name) <= 10_000:
                raise BadInput(f"pepper: {name} is {getattr(self, name)}; {least} to 10,000 are possible")
        for name in ("max_overlap", "min_distance", "min_similarity", "coverage", "leak"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"pepper: {name} is {getattr(self, name)}; 0 to 1 are possible")
        if not 0 <= self.examples <= len(EXAMPLES) or not self.timeout > 0 or not 0 <= self.temperature <= 2:
            raise BadInput(
                f"pepper: examples {self.examples}, timeout {self.timeout}, temperature {self.temperature}; 0 to "
                f"{len(EXAMPLES)}, above 0 and 0 to 2 are possible"
            )
        if not all(x >= 0 for x in (self.far, self.like, self.longer)):
            raise BadInput("pepper: a weight (far, like, longer) is negative; give numbers of at least 0")
        if self.rewriter not in ("none", "looks"):
            self._opened()  # an address in the clear, or nothing of that name
        found = "" if self.rewriter == "none" else content_of(self.rewriter, self.words)
        object.__setattr__(self, "content", found)

    def _opened(self) -> Rewriter:
        shared = {"temperature": self.temperature}
        chat = {"model": self.model, "timeout": self.timeout, "key": self.key, "folder": self.kept, **shared}
        return opened(
            self.rewriter,
            {
                "looks": {"words": self.words, "coverage": self.coverage},
                "endpoint": chat,
                "chat": {"cache": self.kept, **shared},
            },
        )

    @property
    def rules(self) -> Rules:
        """The filter's numbers."""
        return Rules(
            self.candidates,
            self.tries,
            self.max_overlap,
            self.min_distance,
            self.min_similarity,
            self.min_gain,
            self.max_characters,
            (self.far, self.like, self.longer),
        )

    def rewritten(self, caption: str, fits: Callable[[str], bool]) -> Rewrite:
        """What becomes of one caption. ``accepted`` is false where it stays the user's own, with details or without.

        Args:
            fits: whether the model's text encoder takes a text whole.
        """
        text = basic(caption) if self.plain else caption
        if not text:
            return Rewrite("", False, 0)
        if self.rewriter == "none":
            return Rewrite(enriched(text, self.details, fits, turn_of(text)), False, 0)
        found = settle(
            caption,
            self._opened(),
            self.rules,
            world(self.words),
            fits,
            details=self.details,
            order=instruction(self.details, self.most_words, self.examples),
            plain=self.plain,
        )
        if found.accepted and self.leak and chance("pepper", "leak", caption) < self.leak:
            found.text = leaked(caption, found.text, world(self.words), fits)
        return found

    def attach(self, rig: Rig) -> None:
        """Write prompts anew before they are encoded; guards on the text read what the user wrote as well.

        Noted per row: ``pepper.asked_count`` (answers asked for), ``pepper.fallback_count`` (1 where no rewrite was
        accepted), ``pepper.distance`` and ``pepper.similarity`` of an accepted one, and
        ``pepper.<reason>_count`` of each failure and rejection (``defenses._rewriting``)."""
        own: dict[str, list[str]] = {}

        def fn(prompts: list[Prompt]) -> list[Prompt]:
            found = [self.rewritten(p.text, rig.fits) for p in prompts]
            own["texts"] = [p.text for p in prompts]
            frame = rig.now
            if frame is not None:
                self._told(rig, frame, [p.text for p in prompts], found)
            return [p._replace(text=r.text) for p, r in zip(prompts, found, strict=True)]

        def read(texts: list[str]) -> list[str]:
            mine = own.get("texts", [])
            return list(mine) if len(mine) == len(texts) else texts

        rig.prompts(fn)
        rig.readings(read)

    def _told(self, rig: Rig, frame: Frame, texts: Sequence[str], found: Sequence[Rewrite]) -> None:
        """Notes and verdicts of the rows; an empty caption has none, and where nothing writes anew no other has one."""
        for k, (text, row) in enumerate(zip(texts, found, strict=True)):
            one = frame._replace(conditional=frame.conditional[k : k + 1], case=frame.case[k : k + 1])
            every = torch.ones(1, dtype=torch.bool)
            if text.strip() and not row.text:
                rig.block(one, every, "nothing of the prompt can be read in basic Latin letters")
            if not row.text or self.rewriter == "none":
                continue
            numbers = {"asked_count": row.asked, "fallback_count": int(not row.accepted)}
            numbers |= {f"{why}_count": n for why, n in row.reasons.items()}
            measured = {"distance": row.distance, "similarity": row.similarity} if row.accepted else {}
            rig.note(one, **{f"pepper.{n}": torch.tensor([float(x)]) for n, x in (numbers | measured).items()})
            if row.accepted:
                far, least = torch.tensor([row.distance]), self.min_distance
                rig.flag(one, every, "written anew", action="steered", score=far, threshold=least)
            elif self.otherwise == "refuse":
                rig.block(one, every, f"no rewrite was accepted ({_reasons(row)})")
            else:
                rig.flag(one, every, f"no rewrite was accepted ({_reasons(row)}); drawn as it was written")


def _reasons(row: Rewrite) -> str:
    return ", ".join(f"{why} {n}" for why, n in sorted(row.reasons.items())) or "nothing came back"
