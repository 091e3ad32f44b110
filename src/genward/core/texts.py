"""Prompts as a guard accepts them: text that can be encoded and that reads as it looks."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from genward.core.reading import lines, read_text
from genward.core.records import MAX_PROMPT
from genward.core.tables import MAX_BYTES, read_table
from genward.errors import BadInput

BENIGN_LABELS = frozenset({"safe", "benign", "unverified"})
"""Labels of rows that may stand in a list of benign prompts."""
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


class Rows(NamedTuple):
    """The prompts of a call, one that cannot be used as an empty text."""

    texts: list[str]
    bad: dict[int, str]
    """Prompt -> why it cannot be used"""


def checked_rows(prompt: Any, what: str = "prompt") -> Rows:
    """The prompts of a call; of a list in which some cannot be used, those are told apart, so that one bad prompt costs
    its own row and not its neighbors'.

    Raises:
        BadInput: neither a text nor a list of texts, an empty list, or no prompt that can be used.
    """
    if isinstance(prompt, str) or not isinstance(prompt, list) or not prompt:
        return Rows(checked_prompts(prompt), {})
    texts: list[str] = []
    bad: dict[int, str] = {}
    for k, one in enumerate(prompt):
        try:
            texts.append(checked_text(one, f"{what} {k}"))
        except BadInput as error:
            if not isinstance(one, str) or len(bad) + 1 == len(prompt):
                raise
            bad[k] = str(error)
            texts.append("")
    return Rows(texts, bad)


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


def read_prompts(path: Path, labels: Collection[str] = ()) -> list[str]:
    """Prompts of a file, blank lines and repeats left out: one a line, or the column ``prompt`` of a ``.csv``.

    Args:
        labels: what a row's ``label`` in a CSV file may be; empty: anything.

    Raises:
        BadInput: no such file, not text, a table that is not named ``.csv``, a row of another label, or no prompt in
            it.
    """
    if path.suffix.lower() == ".csv":
        return _of_table(path, labels)
    found = [line.strip() for line in lines(read_text(path, "file of prompts", MAX_BYTES)) if line.strip()]
    if not found:
        raise BadInput(f"{path} holds no prompt; write one a line")
    head = [cell.strip().strip('"').lower() for cell in re.split(r"[,;\t|]", found[0])]
    if "prompt" in head:
        raise BadInput(
            f"{path} begins with the column names of a table ({found[0][:60]!r}), which are no prompt; save it as CSV "
            "under a name that ends in .csv, or leave one prompt a line"
        )
    if path.suffix.lower() in (".json", ".jsonl", ".tsv") or found[0].startswith(('{"', '["')):
        raise BadInput(f"{path} is no list of prompts; give a text file with one prompt a line, or a .csv")
    return list(dict.fromkeys(found))


def _of_table(path: Path, labels: Collection[str]) -> list[str]:
    table = read_table(path, ("prompt", "label"), ("prompt",), "file of prompts")
    for row in table.rows:
        label = row.cells.get("label", "").strip().lower()
        if not row.cells["prompt"].strip():
            raise BadInput(f"{path}, {row.place}: empty prompt; write a text or take the row out")
        if labels and label and label not in labels:
            raise BadInput(
                f"{path}, {row.place}: label {label[:40]!r} where only {', '.join(sorted(labels))} belong; take the "
                "row out"
            )
    return list(dict.fromkeys(" ".join(row.cells["prompt"].split()) for row in table.rows))
