"""Reports: a run's results out of the store, as one HTML file that opens anywhere. Draws blocks (``core.blocks``),
knows no benchmark by name, works without torch."""

from genward.report.page import build

__all__ = ["build"]
