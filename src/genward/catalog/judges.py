"""Judges by name: opened with their settings, written down, identified; with a card that ``genward judge calibrate``
measured where the text names one: ``image_classifier,model=./resnet,labels=church,card=./card.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from genward.catalog import plugins
from genward.core.contracts import Card
from genward.core.reading import parse_json, read_text, short
from genward.core.spec import Spec, digest
from genward.core.typed import is_number
from genward.errors import BadInput

CARD = "genward judge card 1"
"""``schema`` of a card's file"""
RATES = ("sensitivity", "specificity")
COUNTS = ("positives", "negatives")


def open_judge(text: str) -> Any:
    """A judge by name with its settings: ``lab``, ``clip_zero_shot,model=./clip,phrases=a church;a castle``, and
    ``card=FILE`` beside them for error rates that ``genward judge calibrate`` measured; raises as ``plugins.made``.

    Raises:
        BadInput: a card that cannot be read, or was measured on another judge.
    """
    path = card_of(text)
    judge = plugins.made("judge", bare(text))
    return judge if path is None else with_card(judge, path)


def card_of(text: str) -> str | None:
    """The file that a judge's text names as its card."""
    found = [part.removeprefix("card=") for part in text.split(",")[1:] if part.strip().startswith("card=")]
    if len(found) > 1 or (found and not found[0].strip()):
        raise BadInput(f"judge {short(text)!r}: card names {len(found)} files; give one, card=./card.json")
    return found[0].strip() if found else None


def bare(text: str) -> str:
    """A judge's text without its card."""
    head, *parts = text.split(",")
    return ",".join([head, *(part for part in parts if not part.strip().startswith("card="))])


def with_card(judge: Any, path: str | Path) -> Any:
    """A judge with the error rates of a card's file on its own card; its identity holds them too."""
    rates, hash_of = _read_card(path)
    own = judge_hash(judge)
    if hash_of != own:
        raise BadInput(
            f"{path} was measured on judge {hash_of}, and this one is {own} (settings, model files and thresholds "
            "count); measure it again: genward judge calibrate FOLDER"
        )
    known = judge.card or Card(type(judge).name, "")
    labels = {**known.labels, **{label: {**known.labels.get(label, {}), **found} for label, found in rates.items()}}
    card = replace(known, labels=labels, facts={**known.facts, "measured": digest(rates)})

    class Carded(type(judge)):  # type: ignore[misc]  # its name, fields and methods, with another card
        pass

    made = object.__new__(Carded)
    made.__dict__.update(vars(judge))
    for name, value in (("card", card), ("hash", digest({"judge": own, "card": rates}))):
        setattr(Carded, name, value)  # over a property of its class
        made.__dict__[name] = value  # over what the judge has worked out already
    Carded.__module__, Carded.__qualname__, Carded.__name__ = (
        type(judge).__module__,
        type(judge).__qualname__,
        type(judge).__name__,
    )
    return made


def _read_card(path: str | Path) -> tuple[dict[str, dict[str, float]], str]:
    """(label -> error rates, hash of the judge) of a card's file."""
    where = f"judge card {short(path)}"
    raw = parse_json(read_text(path, "judge card", hint="genward judge calibrate FOLDER writes one"), where)
    labels = raw.get("labels") if isinstance(raw, Mapping) else None
    if not isinstance(raw, Mapping) or raw.get("schema") != CARD or not isinstance(labels, Mapping) or not labels:
        raise BadInput(f"{where}: no card of a judge ({CARD!r}); genward judge calibrate writes one")
    out = {}
    for label, found in labels.items():
        given: dict[str, Any] = {
            key: found.get(key) if isinstance(found, Mapping) else None for key in (*RATES, *COUNTS)
        }
        for key, value in given.items():
            if not (is_number(value) and (0 <= value <= 1 if key in RATES else value >= 1)):
                raise BadInput(
                    f"{where}: {key} of {label!r} is {short(value, 40)}; measure it on pictures that show the label "
                    "and on some that do not"
                )
        out[str(label)] = {key: float(value) for key, value in given.items()}
    return out, str(raw.get("hash", ""))


def judge_spec(judge: Any) -> Spec:
    """A judge written down: its fields, and the digest of its card, which changes with its weights and thresholds."""
    spec = Spec.of("judge", judge)
    return Spec("judge", spec.name, {**spec.fields, "card": digest(judge.card) if judge.card is not None else ""})


def judge_hash(judge: Any) -> str:
    """Identity of a judge; names its folder in the store. A judge may bring its own as ``hash``."""
    return str(getattr(judge, "hash", "") or judge_spec(judge).hash)
