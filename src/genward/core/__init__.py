"""Records, contracts and identities shared by every room. Nothing here imports torch."""

from genward.core.contracts import Artifact, Attack, Benchmark, Card, Defense, Fits, FitTools, Judge, Model, Rig, Target
from genward.core.media import Audio, Image, Media, decode
from genward.core.records import (
    Call,
    Case,
    Concept,
    Frame,
    Inputs,
    Prediction,
    Prompt,
    Sample,
    Sampler,
    Score,
    Tokens,
    Verdict,
    load_concept,
)
from genward.core.spec import Spec, canonical, digest

__all__ = [
    "Artifact", "Attack", "Audio", "Benchmark", "Call", "Card", "Case", "Concept", "Defense", "FitTools", "Fits", "Frame", "Image", "Inputs", "Judge",
    "Media", "Model", "Prediction", "Prompt", "Rig", "Sample", "Sampler", "Score", "Spec", "Target", "Tokens", "Verdict", "canonical", "decode",
    "digest", "load_concept",
]  # fmt: skip
