"""Prompts as a guard accepts them: text that can be encoded and that reads as it looks."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

from genward.core.records import MAX_PROMPT
from genward.errors import BadInput

OVERRIDES = "\u202d\u202e"
"""Characters that show a text in another order than it is read in."""


def checked_text(text: Any, what: str) -> str:
    """A prompt that can be encoded, or ``BadInput`` that says where it cannot."""
    if not isinstance(text, str):
        raise BadInput(f"{what} is {type(text).__name__}, not text; give a text or a list of texts")
    if len(text) > MAX_PROMPT:
        raise BadInput(f"{what} has {len(text):,} characters, at most {MAX_PROMPT:,} are accepted; shorten it")
    for k, char in enumerate(text):
        kind = unicodedata.category(char)
        if kind == "Cs":
            raise BadInput(
                f"{what} holds half a surrogate pair (U+{ord(char):04X}) at character {k}; it is not text, decode it "
                "again"
            )
        if kind == "Cc" and char not in "\t\n\r":
            raise BadInput(f"{what} holds a control character (U+{ord(char):04X}) at character {k}; remove it")
        if char in OVERRIDES:
            raise BadInput(
                f"{what} holds a direction override (U+{ord(char):04X}) at character {k}, so it reads otherwise than "
                "it looks; remove it"
            )
    return text


def checked_prompts(prompt: Any) -> list[str]:
    """The prompts of a call as a list; ``BadInput`` for anything but a text or a list of texts, or an empty list."""
    if isinstance(prompt, str):
        return [checked_text(prompt, "the prompt")]
    if not isinstance(prompt, list):
        raise BadInput(f"prompt is {type(prompt).__name__}; give a text or a list of texts")
    if not prompt:
        raise BadInput("the list of prompts is empty; give at least one")
    return [checked_text(p, f"prompt {k}") for k, p in enumerate(prompt)]


def checked_negatives(negative: Any, count: int) -> list[str]:
    """One negative prompt a prompt; one text serves all."""
    if negative is None:
        return [""] * count
    if isinstance(negative, str):
        return [checked_text(negative, "the negative prompt")] * count
    if not isinstance(negative, list) or len(negative) != count:
        found = f"{len(negative)} in a list" if isinstance(negative, list) else type(negative).__name__
        raise BadInput(f"negative_prompt: {found} for {count} prompts; give one text, or a list with one a prompt")
    return [checked_text(n, f"negative prompt {k}") for k, n in enumerate(negative)]


def read_prompts(path: Path) -> list[str]:
    """One prompt a line, blank lines and repeats left out.

    Raises:
        BadInput: no such file, not UTF-8 text, or no prompt in it.
    """
    if not path.is_file():
        raise BadInput(f"no file at {path}; give a text file with one prompt a line")
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    prompts = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not prompts:
        raise BadInput(f"{path} holds no prompt; write one a line")
    return prompts
