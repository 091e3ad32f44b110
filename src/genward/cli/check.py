"""stub"""
from __future__ import annotations

from genward.cli import common


def main(store: str = "x", as_json: bool = common.Json) -> None:
    """Stub."""
    raise NotImplementedError
