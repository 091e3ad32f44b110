"""Records, contracts and identities shared by every room. Nothing here imports torch."""

from genward.core.benchmark import Benchmark, Evidence, Found, Outlook, Scene, Setting, Workbench
from genward.core.contracts import Artifact, Attack, Card, Defense, Fits, FitTools, Judge, Model, Rig, Target
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
    "Artifact", "Attack", "Audio", "Benchmark", "Call", "Card", "Case", "Concept", "Defense", "Evidence",
    "FitTools", "Fits", "Found", "Frame", "Image", "Inputs", "Judge", "Media", "Model", "Outlook", "Prediction",
    "Prompt", "Rig", "Sample", "Sampler", "Scene", "Score", "Setting", "Spec", "Target", "Tokens", "Verdict",
    "Workbench", "canonical", "decode", "digest", "load_concept",
]  # fmt: skip
