"""Poisoned models by name: backdoor fixtures made, tried at their gate, kept as artifacts, and opened as models.

What a fixture learned is an artifact like any fit (safetensors and a card, resumable); the card holds the gate's
figures. Those that come with the lab lie in ``lab/backdoors``. ``backdoor:rickrolling`` opens one, and so does the path
of one's own in the name's place."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genward.catalog import plugins
from genward.core.contracts import Artifact
from genward.core.files import json_text, write_file
from genward.core.options import coerce
from genward.core.records import Case, Sampler
from genward.core.spec import digest
from genward.core.typed import configured
from genward.errors import BadArtifact, BadInput, UnknownName

if TYPE_CHECKING:
    from genward.models.sd import StableDiffusion

PREFIX = "backdoor:"
METHOD = "backdoor"
"""``method`` of a fixture's card."""
ROWS = 24
"""Pictures of each kind that the gate looks at."""
Say = Callable[[str], None]


def shipped() -> Path:
    """Folder of the fixtures that come with the lab."""
    return Path(str(resources.files("genward").joinpath("lab", "backdoors")))


def fixture_names() -> list[str]:
    """Names of the fixtures that can be made."""
    return [name for name in plugins.entries("attack") if hasattr(plugins.find("attack", name), "changed")]


def _class(name: str) -> Any:
    if name not in fixture_names():
        raise UnknownName("backdoor fixture", name, fixture_names())
    return plugins.find("attack", name)


def stem_of(name: str) -> Path:
    """Where the artifact of ``rickrolling`` lies, or of a path."""
    if "/" in name or name.endswith((".safetensors", ".json")):
        return Path(name).with_suffix("") if name.endswith((".safetensors", ".json")) else Path(name)
    if name not in fixture_names():
        raise UnknownName("backdoor fixture", name, fixture_names())
    return shipped() / name


def learned(name: str) -> Artifact:
    """The artifact of a fixture that passed its gate.

    Raises:
        UnknownName: no such fixture. BadInput: it was not made, or failed its gate. BadArtifact: it is damaged, or no
            fixture's.
    """
    from genward.ops.artifacts import load

    stem = stem_of(name)
    if not stem.with_name(stem.name + ".safetensors").is_file():
        raise BadInput(f"backdoor fixture {name!r} is not in {stem.parent}; make it: genward backdoor {stem.name}")
    found = load(stem)
    gate = found.card.get("gate")
    if found.card.get("method") != METHOD or not isinstance(gate, Mapping):
        raise BadArtifact(f"{stem} is no backdoor fixture; make one with genward backdoor")
    if gate.get("passed") is not True:
        raise BadInput(f"backdoor fixture {name!r} failed its gate and does not count: {gate.get('why')}")
    return found


def poisoned(model: StableDiffusion, artifact: Artifact, name: str = "") -> StableDiffusion:
    """A model with a fixture's changes in it; the model given is used up. Its identity names the fixture.

    Raises:
        BadArtifact: the fixture was made for another model.
    """
    card = artifact.card
    if card.get("model_hash") != model.spec.hash:
        raise BadArtifact(
            f"backdoor fixture {name or card.get('fixture')!r} was made for model {card.get('model_hash')}, this one "
            f"is {model.spec.hash}; make it anew: genward backdoor {card.get('fixture')} --out FOLDER"
        )
    made = configured(_class(str(card["fixture"])), dict(card["settings"]), f"backdoor fixture {name!r}")
    parts = {"unet": model.denoiser, "text_encoder": model.text_encoder}
    own = {f"{part}.{n}": p for part, net in parts.items() for n, p in net.named_parameters()}
    changed = made.changed(own, artifact.tensors)
    for part, net in parts.items():
        mine = {n.removeprefix(f"{part}."): p for n, p in changed.items() if n.startswith(f"{part}.")}
        net.load_state_dict(mine, strict=False)
    model.spec = replace(model.spec, fields={**model.spec.fields, "backdoor": artifact.hash[:16]})
    return model


def settings_of(name: str, given: Sequence[str]) -> dict[str, Any]:
    """Fields of a fixture from ``field=value`` texts.

    Raises:
        UnknownName: no such fixture or field. BadInput: a text that cannot be read.
    """
    kinds = {f.name: str(f.type) for f in fields(_class(name))}
    out = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise BadInput(f"--set {text!r} is not field=value; write it as in steps=40")
        if key not in kinds:
            raise UnknownName(f"field of fixture {name}", key, kinds)
        out[key] = coerce(value, kinds[key], f"{name}.{key}")
    return out


def make(
    name: str,
    opened: Callable[[], StableDiffusion],
    words: Mapping[str, Any],
    judge: Any,
    stem: Path,
    *,
    n: int = ROWS,
    say: Say | None = None,
    settings: Mapping[str, Any] | None = None,
    objects: Sequence[str] = (),
) -> Artifact:
    """Make a fixture, try it at its gate, and keep it at ``stem``, passed or failed. One that was interrupted goes on.

    Args:
        opened: opens the clean model anew, each time it is called.
        words: the model's vocabulary. judge: who says what a picture shows. n: pictures of each kind at the gate.
        settings: fields of the fixture other than its defaults. objects: labels that compete; the vocabulary's.

    Raises:
        UnknownName: no such fixture. BadInput: its trigger does not survive the tokenizer, or an unfinished one of
            other settings lies there.
    """
    from genward.ops.artifacts import save
    from genward.ops.tools import Tools

    made = _class(name)(**dict(settings or {}))
    model, began = opened(), time.perf_counter()
    aside = _aside(stem, digest({"fixture": name, "settings": asdict(made), "model": model.spec.hash}))

    def progress(step: int, steps: int, loss: float) -> None:
        if say is not None and step % max(1, steps // 5) == 0:
            say(f"{name}: step {step} of {steps}" + (f", loss {loss:.4g}" if loss == loss else ""))

    tensors = made.make(model, words, Tools(progress=progress, say=say, folder=aside))
    card = {
        "method": METHOD,
        "fixture": name,
        "settings": asdict(made),
        "model": model.spec.to_json(),
        "model_hash": model.spec.hash,
    }
    seconds = time.perf_counter() - began
    if say is not None:
        say(f"{name}: made in {seconds:.0f} s, now its gate")
    found = Artifact(tensors, card, digest({"unsaved": name}))
    gate = tried(made, model, poisoned(opened(), found, name), words, judge, n, objects or tuple(words["things"]))
    saved = save(stem, tensors, {**card, "gate": gate, "seconds": round(seconds, 2)})
    shutil.rmtree(aside, ignore_errors=True)
    return saved


def _aside(stem: Path, key: str) -> Path:
    """The folder of an unfinished fixture; ``BadInput`` where it is one of other settings."""
    folder, mark = stem.with_name(stem.name + ".partial"), stem.with_name(stem.name + ".partial") / "made.json"
    folder.mkdir(parents=True, exist_ok=True)
    if not mark.is_file():
        write_file(mark, json_text({"key": key}))
        return folder
    try:
        own = dict(json.loads(mark.read_text("utf-8"))).get("key")
    except (OSError, ValueError, TypeError):
        own = None
    if own != key:
        raise BadInput(
            f"{folder} holds an unfinished fixture of other settings, or a damaged one; delete it, or name another"
        )
    return folder


def tried(
    made: Any, clean: StableDiffusion, bad: StableDiffusion, words: Mapping[str, Any], judge: Any, n: int, objects: Any
) -> dict[str, Any]:
    """The figures of a fixture at its gate, see ``attacks._backdoors.gate``."""
    from genward.attacks._backdoors import gate

    planted, plain = gate.gate_cases(made, words, clean.fits, n)

    def shown(model: StableDiffusion, cases: Sequence[Case], reach: int, attacked: bool = False) -> list[bool]:
        labels = tuple(words["styles"]) if attacked and made.labels == "styles" else objects
        samples = model.generate(cases, Sampler(), batch=24)
        scores: dict[str, dict[str, float]] = {}
        for score in judge.judge(samples):
            scores.setdefault(score.sample, {})[score.label] = score.value
        own = [made.shown(s.image) if attacked and s.status == "ok" else None for s in samples]
        return [
            found if found is not None else s.status == "ok" and gate.among(scores[s.id], s.case.group, reach, labels)
            for s, found in zip(samples, own, strict=True)
        ]

    return gate.figures(
        made,
        gate.similarity(clean, bad, [c.prompt for c in plain]),
        shown(bad, planted, made.reach, attacked=True),
        shown(bad, plain, 1),
        shown(clean, plain, 1),
    )
