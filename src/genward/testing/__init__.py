"""Tiny pipelines of the real classes, a tiny model of sound, judges with known answers, one example defense for each
port, and the contract suites.

Importable by anyone who writes a plug-in: ``from genward.testing import tiny_sd, defense_laws``.
"""

from genward.testing.attacking import attack_laws
from genward.testing.examples import EXAMPLES
from genward.testing.judge import FakeJudge
from genward.testing.parity import parity_laws
from genward.testing.scoring import scoring_laws
from genward.testing.suites import defense_laws
from genward.testing.tiny import tiny_inpaint, tiny_pipeline, tiny_sd, tiny_xl
from genward.testing.tone import ToneJudge, ToneModel, ToneSampler

__all__ = [
    "EXAMPLES", "FakeJudge", "ToneJudge", "ToneModel", "ToneSampler", "attack_laws", "defense_laws",
    "parity_laws", "scoring_laws", "tiny_inpaint", "tiny_pipeline", "tiny_sd", "tiny_xl",
]  # fmt: skip
