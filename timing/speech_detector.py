"""Fit and measure the small detector of synthetic speech: python timing/speech_detector.py (needs py-nanotts).

The embedded voice (synthetic) against SVOX Pico, another synthesizer: fitted on canaries of the split fit, measured on
the split evaluate, clean and after each change of the sound, with the other Pico speaker as well."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import genward
from genward.core.media import Audio
from genward.ops.canaries import canaries
from genward.speech.changes import CHANGES, changed
from genward.speech.deepfake import SmallDetector, equal_error_rate
from genward.speech.voices import HIBARI, EmbeddedVoice


def pico(text: str, speaker: str = "en-US") -> Audio:
    from py_nanotts import NanoTTS

    raw = np.frombuffer(NanoTTS().speak(text, voice=speaker), "<i2")
    return Audio((raw.astype(np.float32) / 32_768), 16_000)


def main() -> None:
    voice = EmbeddedVoice()
    fit = [t for c in canaries("fit")[:12] for t in (*c.carriers, *c.twins)]
    held = [t for c in canaries("evaluate")[:8] for t in (*c.carriers, *c.twins)]
    made = SmallDetector.fitted(
        [voice.speak(t, k, 0.8 + 0.1 * (k % 5)) for k, t in enumerate(fit)],
        [pico(t, ("en-US", "en-GB")[k % 2]) for k, t in enumerate(fit)],
        "embedded voice against SVOX Pico",
    )
    ours, theirs = [voice.speak(t, k) for k, t in enumerate(held)], [pico(t) for t in held]
    rates = {"none": equal_error_rate([made.score(a) for a in ours], [made.score(a) for a in theirs])}
    for name in CHANGES:
        scores = [[made.score(changed(a, name)) for a in kind[:20]] for kind in (ours, theirs)]
        rates[name] = equal_error_rate(*scores)
    for name, rate in rates.items():
        print(f"{name:12} EER {100 * rate.eer:.1f} %, {rate.direction}")
    facts = {
        "synthetic": HIBARI,
        "other": "SVOX Pico en-US and en-GB, another synthesizer: no recorded speech was at hand",
        "fitted_on": len(fit),
        "measured_on": len(held),
        "eer": {name: round(rate.eer, 4) for name, rate in rates.items()},
        "direction": {name: rate.direction for name, rate in rates.items()},
    }
    path = Path(genward.__file__).parent / "lab" / "voice_detector.json"
    path.write_text(json.dumps(made.to_json(facts), indent=1, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    main()
