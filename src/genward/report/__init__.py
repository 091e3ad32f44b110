"""Reports: a run's results out of the store, as one HTML file that opens anywhere. Draws blocks (``core.blocks``),
knows no benchmark by name, works without torch."""

from genward.report.page import build
from genward.report.view import build_all

__all__ = ["build", "build_all"]
