"""A judge measured on pictures that somebody has labelled: its error rates, and the card that a run corrects by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from genward.catalog.judges import CARD, bare, judge_hash, open_judge
from genward.core.files import json_text, write_file
from genward.core.media import Image
from genward.core.records import Case, Sample
from genward.errors import BadInput, UnknownName
from genward.metrics.intervals import card_figures, wilson

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
NONE = "none"
"""Folder of pictures that show none of the labels"""
FEW = 20
"""Pictures of a label below which its rate says little"""


def labelled(folder: str | Path, labels: Sequence[str] = ()) -> dict[str, list[Path]]:
    """Label -> its pictures: one folder a label below ``folder``, ``none`` for pictures that show none of them.

    Raises:
        BadInput: no such folder, no picture below it, or a label without pictures. UnknownName: a folder that is no
            label of the judge.
    """
    root = Path(folder)
    if not root.is_dir():
        raise BadInput(f"{root}: no such folder; give one with a folder of pictures a label, church/ and none/ say")
    found: dict[str, list[Path]] = {}
    for part in sorted(p for p in root.iterdir() if p.is_dir()):
        if labels and part.name not in (*labels, NONE):
            raise UnknownName(f"label of the judge (folder of {root})", part.name, (*labels, NONE))
        pictures = sorted(p for p in part.rglob("*") if p.suffix.lower() in PICTURES and p.is_file())
        if not pictures:
            raise BadInput(f"{part} holds no picture ({', '.join(PICTURES)}); add some, or take the folder out")
        found[part.name] = pictures
    if not [name for name in found if name != NONE]:
        raise BadInput(f"{root} holds no folder of a label; name its folders after the labels, church/ and none/ say")
    return found


def error_rates(
    said: Mapping[str, Sequence[float]], truth: Sequence[str], label: str, threshold: float
) -> dict[str, float]:
    """Sensitivity and specificity of one label at a threshold, with the numbers of pictures that they are of.

    Args:
        said: label -> score a picture, NaN where the judge could not say; those are left out.
        truth: label of each picture.
    """
    out: dict[str, float] = {"threshold": threshold}
    for name, count, wanted in (("sensitivity", "positives", True), ("specificity", "negatives", False)):
        mine = [s for s, t in zip(said[label], truth, strict=True) if (t == label) == wanted and math.isfinite(s)]
        right = sum((s >= threshold) == wanted for s in mine)
        out |= {name: right / len(mine) if mine else math.nan, count: float(len(mine))}
    return out


def calibrate(
    text: str, folder: str | Path, out: Path, *, batch: int = 32, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Measure a judge on labelled pictures and write its card.

    Args:
        text: the judge as it is named elsewhere (``image_classifier,model=./resnet,labels=church;fish``).
        folder: see ``labelled``. out: a ``.json`` file; ``<judge>,card=<out>`` opens the judge with it.

    Returns:
        What was written: judge, hash, labels (error rates), unscored, and the rates' intervals by label.

    Raises:
        BadInput, UnknownName: as ``labelled``; a judge that has no threshold for a label.
    """
    if out.suffix != ".json":
        raise BadInput(f"--out {out}: a card is a file that ends in .json")
    text = bare(text)
    judge = open_judge(text)
    known = dict(judge.card.labels) if judge.card is not None else {}
    pictures = labelled(folder, tuple(known))
    labels = [name for name in pictures if name != NONE]
    truth = [name for name, paths in pictures.items() for _ in paths]
    files = [path for paths in pictures.values() for path in paths]
    said: dict[str, list[float]] = {label: [] for label in labels}
    for k in range(0, len(files), batch):
        samples = [Sample(Case(str(path), "", seed=0), output=_picture(path)) for path in files[k : k + batch]]
        table = {(s.sample, s.label): s.value for s in judge.judge(samples)}
        for label in labels:
            said[label] += [table.get((sample.id, label), math.nan) for sample in samples]
        if progress is not None:
            progress(min(k + batch, len(files)), len(files))
    rates = {}
    for label in labels:
        threshold = known.get(label, {}).get("threshold", math.nan)
        if not math.isfinite(threshold):
            raise BadInput(f"judge {type(judge).name} states no threshold for {label!r}; give it one (threshold=0.5)")
        rates[label] = error_rates(said, truth, label, float(threshold))
    card = {
        "schema": CARD,
        "judge": text,
        "hash": judge_hash(judge),
        "labels": rates,
        "unscored": sum(not math.isfinite(s) for s in said[labels[0]]),
        "intervals": {label: _intervals(found) for label, found in rates.items()},
    }
    write_file(out, json_text(card))
    return card


def _intervals(found: Mapping[str, float]) -> dict[str, list[float]]:
    """The 95 % intervals (Wilson) of both rates."""
    out = {}
    for rate, count in (("sensitivity", "positives"), ("specificity", "negatives")):
        n = found[count]
        if n:
            got = wilson(round(found[rate] * n), n)
            out[rate] = [got.low, got.high]
    return out


def _picture(path: Path) -> Image:
    from PIL import Image as Pillow

    try:
        with Pillow.open(path) as opened:
            return Image(opened.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise BadInput(f"{path} is no picture that can be read ({error}); take it out of the folder") from error


def few(card: Mapping[str, Any]) -> list[str]:
    """Labels whose rates are of few pictures, in words."""
    return [
        f"{label}: {found['positives']:.0f} pictures that show it and {found['negatives']:.0f} that do not; from {FEW} "
        "on a rate says something, and the interval of every figure becomes wider for it"
        for label, found in card["labels"].items()
        if min(found["positives"], found["negatives"]) < FEW
    ]


def uncorrected(card: Mapping[str, Any]) -> list[str]:
    """Labels whose rates correct nothing, so that a run's figures stay raw with this card, and why."""
    whys = {label: card_figures(found)[-1] for label, found in card["labels"].items()}
    return [f"{label}: {why}" for label, why in whys.items() if why]
