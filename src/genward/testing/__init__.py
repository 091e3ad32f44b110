"""Tiny pipelines of the real classes, a judge with known answers, one example defense a port, and the contract suites.

Importable by anyone who writes a plug-in: ``from genward.testing import tiny_sd, defense_laws``.
"""

from genward.testing.examples import EXAMPLES
from genward.testing.judge import FakeJudge
from genward.testing.suites import defense_laws
from genward.testing.tiny import tiny_pipeline, tiny_sd

__all__ = ["EXAMPLES", "FakeJudge", "defense_laws", "tiny_pipeline", "tiny_sd"]
