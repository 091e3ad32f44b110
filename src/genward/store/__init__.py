"""Arms, samples, scores and pictures on disk: parquet parts and PNGs by content, written aside and renamed. No
torch."""

from genward.store.files import SCHEMA
from genward.store.store import PURPOSES, Store

__all__ = ["PURPOSES", "SCHEMA", "Store"]
