"""Speech: how fast voice, recognizer and moderation are; the transcript judge's card.

python timing/speech.py            real-time factors and decision times, ratios of one run
python timing/speech.py --ears     batched transcription against one by one, equal words
python timing/speech.py --policy   decision time of a text by the number of phrases, with their index and without
python timing/speech.py --card     measure the judge's card on the split fit, and write it beside the lab's files
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import genward
from genward.core.records import Case, Sample
from genward.defenses.speech_moderation import SpeechModeration
from genward.judges.transcript import TranscriptJudge
from genward.ops.canaries import canaries, everyday
from genward.ops.ears import Whisper, hear_together
from genward.ops.hearing import words_of
from genward.run.results import processor
from genward.speech.matching import Matcher
from genward.speech.policies import SpeechPolicy
from genward.speech.service import SpeechModel
from genward.speech.voices import HIBARI


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def speed() -> None:
    """The same forty requests with and without moderation, sounds made anew each time."""
    texts = [t for c in canaries("calibrate")[:10] for t in c.twins]
    cases = [Case(f"c{k}", t, seed=k) for k, t in enumerate(texts)]
    print(f"{processor()}, one thread; {len(texts)} innocent requests")
    bare, made = 0.0, []
    for label, defenses in (
        ("voice alone", ()),
        ("text taps (T0, T2)", (SpeechModeration(taps=("T0", "T2")),)),
        ("all taps", (SpeechModeration(),)),
    ):
        model = SpeechModel.opened("lab.speech")
        model._made.clear()
        model.ear = Whisper()
        model.generate(cases[:1], defenses=defenses)
        model._made.clear()
        took, made = seconds(lambda m=model, d=defenses: m.generate(cases, defenses=d))
        sound = sum(s.costs["sound_seconds"] for s in made)
        decided = sum(s.costs["decision_ms"] for s in made) / sum(s.costs["requests"] for s in made)
        bare = bare or took
        print(
            f"{label:20} {took:6.2f} s for {sound:.0f} s of sound, RTF {took / sound:.3f}, {took / bare:5.2f}x", end=""
        )
        print(f", moderators {decided:.1f} ms a request")
        for tap in ("T0", "T1", "T2", "T3"):
            spent = [s.costs[f"{tap}_ms"] for s in made if f"{tap}_ms" in s.costs]
            if spent:
                print(f"    {tap}: median {np.median(spent):.1f} ms, 95 % within {np.percentile(spent, 95):.1f} ms")
    stop = [Case(f"h{k}", c.carriers[0], seed=k) for k, c in enumerate(canaries("calibrate"))]
    model._made.clear()
    took, _ = seconds(lambda: model.generate(stop, defenses=(SpeechModeration(),)))
    print(f"refused at T0        {1e3 * took / len(stop):.1f} ms a request; no sound is made")


def ears() -> None:
    """The same 24 sounds heard one by one and in batches, on equal threads."""
    model, whisper = SpeechModel.opened("lab.speech"), Whisper()
    texts = [t for c in canaries("calibrate")[:12] for t in c.twins[:2]]
    sounds = [model.speak(t, k) for k, t in enumerate(texts)]
    whisper.hear(sounds[0])
    whisper._kept.clear()
    alone, one = seconds(lambda: [whisper.hear(a) for a in sounds])
    print(f"{processor()}; {len(sounds)} sounds of {sum(a.seconds for a in sounds):.0f} s")
    print(f"one by one    {alone:6.2f} s")
    for size in (4, 12):
        took, many = seconds(
            lambda n=size: [t for k in range(0, len(sounds), n) for t in hear_together(whisper, sounds[k : k + n])]
        )
        same = sum(words_of(a.text) == words_of(b.text) for a, b in zip(one, many, strict=True))
        print(f"batches of {size:2d} {took:6.2f} s, {took / alone:.2f}x; equal words in {same} of {len(sounds)}")


def policy() -> None:
    """The same everyday sentences held against policies of 15, 50 and all canaries; processor time, the first round
    not counted. Without the index every phrase is aligned with every text."""
    texts, phrases = everyday("evaluate"), [c.phrase for c in canaries()]
    print(f"{processor()}, one thread; {len(texts)} sentences")
    for count in (15, 50, len(phrases)):
        matcher = Matcher([SpeechPolicy("canaries", phrases=tuple(phrases[-count:]))])
        took = []
        for least in (0.5, 0.0):
            for text in texts:
                matcher(text, least)
            began = time.process_time()
            for text in texts:
                matcher(text, least)
            took.append(1e3 * (time.process_time() - began) / len(texts))
        print(f"{count:3} phrases  {took[0]:.2f} ms a text, {took[1]:.2f} ms without the index")


def card() -> None:
    """Carriers hold the phrase, twins do not; a spoken sentence is intact, one that was spoken backwards is not."""
    model, judge = SpeechModel.opened("lab.speech"), TranscriptJudge()
    rows: dict[str, list[tuple[bool, float]]] = {"spoken": [], "intact": []}
    for k, c in enumerate(canaries("fit")):
        for j, (text, holds) in enumerate([*((t, True) for t in c.carriers), *((t, False) for t in c.twins)]):
            case = Case(f"{k}/{j}", text, seed=1000 + 10 * k + j, group=c.phrase)
            (sample,) = model.generate([case])
            found = {s.label: s.value for s in judge.judge([sample])}
            rows["spoken"].append((holds, found["spoken"]))
            rows["intact"].append((True, found["intact"]))
            other = case._replace(prompt=" ".join(reversed(text.split())))
            wrong = {s.label: s.value for s in judge.judge([Sample(other, output=sample.output)])}
            rows["intact"].append((False, wrong["intact"]))
    labels = {}
    for label, threshold in (("spoken", 0.99), ("intact", 0.5)):
        yes = [v >= threshold for truth, v in rows[label] if truth]
        no = [v < threshold for truth, v in rows[label] if not truth]
        labels[label] = {
            "sensitivity": round(float(np.mean(yes)), 4),
            "specificity": round(float(np.mean(no)), 4),
            "positives": float(len(yes)),
            "negatives": float(len(no)),
            "threshold": threshold,
        }
    facts = {"voice": HIBARI, "rows": "canaries of the split fit, their twins, and sentences read backwards"}
    path = Path(genward.__file__).parent / "lab" / "transcript.json"
    path.write_text(json.dumps({"labels": labels, "facts": facts}, indent=1, sort_keys=True) + "\n", "utf-8")
    print(path.read_text("utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--card", action="store_true")
    parser.add_argument("--ears", action="store_true")
    parser.add_argument("--policy", action="store_true")
    asked = parser.parse_args()
    (card if asked.card else ears if asked.ears else policy if asked.policy else speed)()


if __name__ == "__main__":
    main()
