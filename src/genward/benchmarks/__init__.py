"""Benchmarks: one file each; a frozen dataclass with a ``name`` whose ``cases()`` are the rows."""
