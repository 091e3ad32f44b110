"""Old module names import the new modules, and say so."""

from __future__ import annotations

import importlib
import sys

import pytest

import genward  # noqa: F401 - installs the forwarding
from genward._moved import MOVED


@pytest.mark.parametrize(("old", "new"), list(MOVED.items()))
def test_an_old_name_is_the_new_module(old: str, new: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} has moved to {new}"):
        found = importlib.import_module(old)
    assert found is importlib.import_module(new)


def test_names_that_never_were_are_not_found() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("genward.run.nothing")
