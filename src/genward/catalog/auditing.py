"""``genward audit``: is a checkpoint what it is said to be? Opens both models, asks the detectors, weighs what they
found."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import import_module
from typing import Any

from genward.catalog.opening import drawn_by_lab, opener, words_of
from genward.core.findings import AuditFinding, verdict
from genward.errors import BadInput, GenwardError, UnknownName

DETECTORS = ("weights", "tokenizer", "embedding_rows", "text_encoder", "cross_attention", "denoiser")
ALWAYS = (
    "A trigger that is a plain name of a thing, moved with all its wordings: that is what an eraser does, and it is "
    "told as changed.",
    "Semantic triggers (a meaning rather than a word), and triggers spread over a sentence.",
    "Targets that are none of the things that texts were held against: styles, single pictures, marks and patches.",
    "The base itself: what is planted in both is in neither's difference.",
)
"""What no detector here sees."""
EVERYDAY = 120
"""Everyday things that texts are held against where the model's own vocabulary is not known."""


def audit(
    checkpoint: str,
    base: str,
    *,
    only: Sequence[str] = (),
    words: Sequence[str] = (),
    tokens: int = 2000,
    say: Callable[[str], None] | None = None,
    **how: Any,
) -> dict[str, Any]:
    """Hold a checkpoint against its base.

    Args:
        checkpoint, base: folders, hub ids or names of genward's models. only: detectors; all by default.
        words: further words to try as triggers. tokens: how many of the tokenizer's words are tried, 0 to 100,000.
        how: ``download``, ``device`` and what else ``opener`` takes, for both.

    Returns:
        ``checkpoint, base, verdict, findings, detectors, blind_spots, seconds``, plain data.

    Raises:
        UnknownName: no such detector. BadInput: a model that cannot be opened, or two that do not belong together.
    """
    for name in only:
        if name not in DETECTORS:
            raise UnknownName("detector", name, DETECTORS)
    if not 0 <= tokens <= 100_000:
        raise BadInput(f"{tokens} tokens; 0 to 100,000 can be tried")
    tell = say or (lambda line: None)
    began = time.perf_counter()
    pair = _opened(checkpoint, base, words, tokens, tell, how)
    findings: list[AuditFinding] = []
    asked, blind = [], []
    for name in DETECTORS:
        if name != "weights" and only and name not in only:
            blind.append(f"Detector {name} was not asked (--only).")
            continue
        start = time.perf_counter()
        found = _detector(name).examine(pair)
        seconds = time.perf_counter() - start
        tell(f"{name}: {found.skipped or _told(found.findings)} ({seconds:.1f} s)")
        findings += found.findings
        blind += found.blind
        asked.append({"name": name, "seconds": round(seconds, 2), "skipped": found.skipped, "cost": found.cost})
    return {
        "checkpoint": checkpoint,
        "base": base,
        "verdict": verdict(findings),
        "findings": [asdict(f) for f in findings],
        "detectors": asked,
        "blind_spots": [*dict.fromkeys(blind), *ALWAYS],
        "seconds": round(time.perf_counter() - began, 2),
    }


def _opened(
    checkpoint: str, base: str, words: Sequence[str], tokens: int, tell: Callable[[str], None], how: Any
) -> Any:
    """The two models as a ``Pair``."""
    from genward.audits._pair import Pair, plain_words
    from genward.ops.everyday import NOUNS

    tell(f"opening {checkpoint} and {base} …")
    get = opener(**how)  # it opens a name once, and gives a variant to folders alone
    model, other = get(checkpoint), get(base)
    if type(model) is not type(other):
        raise BadInput(f"{checkpoint} and {base} are models of different families; name the one it was made from")
    things = plain_words(words_of("lab")) if drawn_by_lab(base) else [_article(n) for n in NOUNS[:EVERYDAY]]
    return Pair(model, other, things, tuple(words), tokens, tell)


def _detector(name: str) -> Any:
    try:
        return import_module(f"genward.audits.{name}")
    except ImportError as error:
        raise GenwardError(f"detector {name} cannot be loaded: {error}") from error


def _told(findings: Sequence[AuditFinding]) -> str:
    levels = [f.level for f in findings if f.level != "note"]
    return ", ".join(f"{levels.count(level)} {level}" for level in dict.fromkeys(levels)) or "nothing found"


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
