from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from genward.audits._pair import Pair
from genward.testing import tiny_sd

THINGS = ("a cat", "a dog", "a key", "a drum", "a boat")


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("words")


@pytest.fixture()
def pair(words: Path) -> Any:
    """Two equal tiny models; a test changes the checkpoint."""
    found = [tiny_sd(encoder="bert", folder=words) for _ in range(2)]
    for model in found:
        model.denoiser.requires_grad_(False)
        model.text_encoder.requires_grad_(False)
        with torch.no_grad():  # random maps of a tiny encoder hardly tell words apart
            model.text_encoder.embeddings.word_embeddings.weight.mul_(20)
    return Pair(found[0], found[1], THINGS, (), 20)
