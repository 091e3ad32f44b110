"""Judges by name: opened with their settings, written down, identified."""

from __future__ import annotations

from typing import Any

from genward.catalog import plugins
from genward.core.spec import Spec, digest


def open_judge(text: str) -> Any:
    """A judge by name with its settings: ``lab``, ``clip_zero_shot,model=./clip,phrases=a church;a castle``; raises as
    ``plugins.made``."""
    return plugins.made("judge", text)


def judge_spec(judge: Any) -> Spec:
    """A judge written down: its fields, and the digest of its card, which changes with its weights and thresholds."""
    spec = Spec.of("judge", judge)
    return Spec("judge", spec.name, {**spec.fields, "card": digest(judge.card) if judge.card is not None else ""})


def judge_hash(judge: Any) -> str:
    """Identity of a judge; names its folder in the store. A judge may bring its own as ``hash``."""
    return str(getattr(judge, "hash", "") or judge_spec(judge).hash)
