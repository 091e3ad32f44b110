"""Reports: a run's results out of the store, as one HTML file that opens anywhere, or as rows for a terminal. Works
without torch."""

from genward.report.page import build
from genward.report.tables import summary_rows, text_table

__all__ = ["build", "summary_rows", "text_table"]
