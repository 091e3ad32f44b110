"""Arms, samples, scores, pictures and sounds on disk: parquet parts, and media by content, written aside and renamed.
No torch."""

from genward.store.files import SCHEMA
from genward.store.rows import PURPOSES
from genward.store.store import Store

__all__ = ["PURPOSES", "SCHEMA", "Store"]
