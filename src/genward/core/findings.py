"""What an audit of a checkpoint found: records that any detector of any model family can make."""

from __future__ import annotations

from dataclasses import dataclass

LEVELS = ("note", "changed", "suspicious")
"""``note``: nothing follows from it; ``changed``: the checkpoint is not its base; ``suspicious``: it does what a
backdoor does."""
VERDICTS = ("clean", "changed", "suspicious")


@dataclass(frozen=True)
class AuditFinding:
    """One thing that a detector found."""

    detector: str
    level: str
    """One of ``LEVELS``"""
    where: str
    """Part or parameter of the checkpoint"""
    text: str
    """A sentence for the auditor"""
    score: float | None = None
    threshold: float | None = None
    """What the score was held against, where it decided"""
    evidence: tuple[tuple[str, float], ...] = ()
    """(what was tried, its score), highest first"""


@dataclass(frozen=True)
class Examined:
    """What one detector says."""

    findings: tuple[AuditFinding, ...] = ()
    skipped: str = ""
    """Why there was nothing to look at; empty where it looked."""
    cost: str = ""
    """What looking took, in words"""
    blind: tuple[str, ...] = ()
    """What it could not see, in sentences"""


def verdict(findings: list[AuditFinding]) -> str:
    """``suspicious`` where any finding is, else ``changed`` where any is, else ``clean``."""
    levels = {f.level for f in findings}
    return next((level for level in ("suspicious", "changed") if level in levels), "clean")
