"""Defenses by name: from ``uce:weapons+sld:weapons,preset=strong`` to objects ready to attach, fitted or reused.

Grammar: parts joined by ``+``; a part is ``name[:concept][,field=value]…``, or the path of a fitted artifact. ``none``
is the empty chain.

A fitted part is looked for in the store (``fits/<key>``), then among the artifacts that come with the lab, else fitted
and kept in the store. The key is the digest of the defense's name and fitting fields, the concept's content and the
model's identity, so an edited concept file or another model is another fit. What fitting cost is kept in the artifact's
card: reuse reports the true preparation time."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from genward.catalog import plugins as catalog
from genward.catalog.labelling import choices, identity, with_probe
from genward.catalog.tooling import Say, tools_for
from genward.core import defending
from genward.core.contracts import Artifact, Defense
from genward.core.defending import artifact_field
from genward.core.files import json_text
from genward.core.origin import origin
from genward.core.reading import short
from genward.core.records import Concept, load_concept
from genward.core.spec import PLUGIN, digest
from genward.core.typed import configured, shown
from genward.errors import BadArtifact, BadInput, UnknownName

if TYPE_CHECKING:
    from genward.models.sd import StableDiffusion
    from genward.store import Store


class DefenseRequest(NamedTuple):
    """One part of a defense text."""

    name: str
    concept: str = ""
    options: tuple[tuple[str, str], ...] = ()
    artifact: str = ""
    """Path of a fitted artifact; ``name`` is then empty, the artifact's card knows it."""

    @property
    def text(self) -> str:
        head = self.artifact or self.name + (f":{self.concept}" if self.concept else "")
        return ",".join([head, *(f"{k}={v}" for k, v in self.options)])


class Ready(NamedTuple):
    """A chain ready to attach, and what its fits cost in seconds when they were made, now or earlier; 0 where nothing
    is learned."""

    defenses: list[Defense]
    prepare_seconds: float
    artifacts: list[Artifact]


def parse_defense(text: str) -> list[DefenseRequest]:
    """Read a defense text; names are checked against the catalog, nothing is imported.

    Raises:
        UnknownName: no such defense, field or shipped concept; BadInput: the text does not follow the grammar.
    """
    requests = []
    for part in re.split(r"\+(?=[A-Za-z_./~])", text.strip()):
        head, *pairs = [p.strip() for p in part.split(",")]
        options = []
        for pair in pairs:
            if pair.partition(":")[0] in catalog.entries("defense"):
                raise BadInput(
                    f"defense {text!r}: a comma goes before a field; write a chain as {text.replace(',', '+')}, or, "
                    f"for genward guard, {' '.join('-d ' + p.strip() for p in text.split(','))}"
                )
            if not re.fullmatch(r"[A-Za-z_]\w*=.+", pair):
                raise BadInput(f"defense {part!r}: {pair!r} is not field=value; write it as in uce:weapons,lam=0.1")
            key, _, value = pair.partition("=")
            options.append((key, value))
        if head.endswith((".safetensors", ".bin", ".pt", ".ckpt", ".pkl", ".json")):
            requests.append(DefenseRequest("", "", tuple(options), head))
            continue
        name, _, concept = head.partition(":")
        if name == "none" and not concept and not pairs:
            continue
        if not name:
            raise BadInput(f"defense {text!r} has an empty part; write it as in uce:weapons+sld:weapons")
        entry = catalog.entry("defense", name)
        known = {f.name for f in entry.fields}
        for key, _ in options:
            if key not in known:
                raise UnknownName(f"field of {name}", key, known)
        if concept:
            load_concept(concept)
        requests.append(DefenseRequest(name, concept, tuple(options)))
    return requests


def extra_nfe(text: str) -> float:
    """Denoiser rows a step that a chain adds to guidance's two, by its classes' own word (``extra_nfe``); 0 where
    they say nothing."""
    names = [r.name for r in parse_defense(text) if r.name]
    return sum((defending.extra_nfe(catalog.find("defense", n)) for n in names), 0.0)


# ------------------------------------------------------------------------------------------------------------- building


def fit_key(defense: Any, concept: Concept, model_hash: str, labels_by: str = "") -> str:
    """Identity of a fit: defense and its fitting fields (not those that act ``at_attach``), concept content, model, and
    the judge that labels where it is not the lab's first one (``labelling.identity``)."""
    about = {"defense": type(defense).name, "fields": fit_fields(defense), "concept": concept.hash, "model": model_hash}
    if judge := identity(defense, labels_by):
        about["labels_by"] = judge
    theirs = origin(type(defense))  # a new version of an outsider's method learns anew
    return digest({**about, PLUGIN: theirs} if theirs else about)


def fit_fields(defense: Any) -> dict[str, Any]:
    """The fields that decide what is learned. One with the metadata ``identity: "where set"`` counts where it is not
    its default, so that a method which grows such a field keeps what it has learned."""
    skip, values = {artifact_field(defense), *defending.at_attach(defense)}, defending.fields(defense)
    return {
        f.name: values[f.name] for f in dataclasses.fields(defense) if f.name not in skip and _counts(f, values[f.name])
    }


def _counts(field: dataclasses.Field[Any], value: Any) -> bool:
    """Whether a field's value is part of a fit's identity."""
    told = field.metadata.get("identity", True)
    return bool(value != field.default) if told == "where set" else bool(told)


def template(request: DefenseRequest) -> Any:
    """The defense with its given fields; one that learns has no artifact yet, one that does not is made for the
    concept."""
    cls = catalog.find("defense", request.name)
    given = catalog.options("defense", request.name, dict(request.options))
    where = f"defense {short(request.text)!r}"
    if not request.concept or artifact_field(cls):
        return configured(cls, given, where)
    return configured(cls, given, where, partial(defending.made_for, cls, load_concept(request.concept)))


def ready(
    requests: Sequence[DefenseRequest],
    model: StableDiffusion,
    store: Store | Path | str | None = None,
    refit: bool = False,
    progress: Say | None = None,
    labels_by: str = "",
) -> Ready:
    """Build a chain for ``model``; what must be fitted is reused or fitted and kept in the store.

    Args:
        store: a store or its folder; without one, fits live in a temporary folder for this call only.
        refit: fit again even where a fitted artifact is at hand.
        progress: told in words what is being fitted or reused.
        labels_by: judge that labels and filters; where none is named, see ``labelling.choices``.

    Raises:
        BadArtifact: an artifact is pickled, corrupt, or was fitted on another model.
        BadInput: a part needs a concept and has none.
    """
    say = progress or (lambda _: None)
    folder = _fits_folder(store)
    defenses: list[Defense] = []
    artifacts: list[Artifact] = []
    seconds = 0.0
    for request in requests:
        if request.artifact:
            defense, artifact = from_artifact(request, model)
            defense = with_probe(defense, labels_by)
        else:
            defense = template(request)
            field = artifact_field(defense)
            if field is None or defending.artifact_of(defense) is not None:
                defenses.append(with_probe(defense, labels_by))
                continue
            artifact = _artifact(request, defense, model, folder, refit, say, labels_by)
            defense = with_probe(dataclasses.replace(defense, **{field: artifact}), labels_by)
        defenses.append(defense)
        artifacts.append(artifact)
        seconds += float(artifact.card.get("seconds", 0.0))
    return Ready(defenses, seconds, artifacts)


def unfitted(
    requests: Sequence[DefenseRequest],
    model: StableDiffusion,
    store: Store | Path | str | None = None,
    refit: bool = False,
    labels_by: str = "",
) -> list[str]:
    """Texts of the parts that ``ready`` would have to fit for this model.

    Raises:
        BadInput: a part needs a concept and has none. BadArtifact: what is at hand is damaged.
    """
    found = []
    for request in requests:
        defense = None if request.artifact else template(request)
        if defense is None or artifact_field(defense) is None or defending.artifact_of(defense) is not None:
            continue
        keys = [fit_key(defense, _learned(request), model.spec.hash, by) for by in choices(defense, labels_by)]
        places = [place for place in (_fits_folder(store), shipped_artifacts()) if place is not None and not refit]
        if not any(_found(place / key, request.text, lambda _: None) for key in keys for place in places):
            found.append(request.text)
    return found


def _fits_folder(store: Store | Path | str | None) -> Path | None:
    if store is None:
        return None
    return Path(store if isinstance(store, (str, Path)) else store.root) / "fits"


def shipped_artifacts() -> Path:
    """Folder of the fitted artifacts that come with the lab."""
    return Path(str(resources.files("genward").joinpath("lab", "artifacts")))


def _artifact(
    request: DefenseRequest,
    defense: Any,
    model: StableDiffusion,
    folder: Path | None,
    refit: bool,
    say: Say,
    labels_by: str,
) -> Artifact:
    concept, judges = _learned(request), choices(defense, labels_by)
    keys = [fit_key(defense, concept, model.spec.hash, by) for by in judges]
    for key, place in itertools.product(keys, (folder, shipped_artifacts())):
        if not refit and place is not None:
            found = _found(place / key, request.text, say)
            if found is not None:
                return _fitting_model(found, model, str(place / key))
    key = keys[0]
    say(f"{request.text}: {'solving its closed form' if defending.fit_nfe(defense) == 0 else 'fitting'}")
    if folder is not None:
        return fit_artifact(request.name, defense, concept, model, folder / key, say, labels_by=judges[0])
    with tempfile.TemporaryDirectory() as aside:
        return fit_artifact(request.name, defense, concept, model, Path(aside) / key, say, labels_by=judges[0])


def _learned(request: DefenseRequest) -> Concept:
    """The concept that a part learns; ``BadInput`` where it names none."""
    if not request.concept:
        raise BadInput(
            f"defense {request.text!r} learns a concept and names none; write {request.name}:weapons, say (genward "
            "list concepts)"
        )
    return load_concept(request.concept)


def _found(stem: Path, text: str, say: Say) -> Artifact | None:
    """The artifact at ``stem``, ``None`` where there is none, or one half of one that was never finished.

    Raises:
        BadArtifact: it is damaged.
    """
    from genward.ops.artifacts import load

    if not _with(stem, ".safetensors").is_file():
        return None
    if not _with(stem, ".json").is_file():
        say(f"{text}: {stem}.safetensors has no card, so its fit was never finished")
        return None
    found = load(stem)
    say(f"{text}: reusing {stem}.safetensors")
    return found


def _with(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)


def damaged_fits(folder: Path) -> list[str]:
    """One line for each artifact of a folder that is not whole: unreadable, or one file without the other."""
    from genward.ops.artifacts import load

    problems = []
    for stem in sorted({p.with_suffix("") for p in folder.glob("*") if p.suffix in (".safetensors", ".json")}):
        try:
            load(stem)
        except BadArtifact as error:
            problems.append(str(error))
    return problems


def fit_once(text: str, model: StableDiffusion, folder: Path, progress: Say | None = None) -> Path:
    """Fit one part (``esd:weapons,variant=x``) unless ``folder`` has it; returns the artifact's path without ending.

    Raises:
        BadInput: the text names no concept, several parts, or a defense that learns nothing.
    """
    requests = parse_defense(text)
    defense = template(requests[0]) if len(requests) == 1 and requests[0].name else None
    if defense is None or artifact_field(defense) is None or not requests[0].concept:
        raise BadInput(f"defense {text!r} is not one part that learns a concept; write it as esd:weapons,variant=x")
    concept = load_concept(requests[0].concept)
    stems = [folder / fit_key(defense, concept, model.spec.hash, by) for by in choices(defense, "")]
    for stem in stems:
        found = _found(stem, text, lambda _: None)
        if found is not None:
            _fitting_model(found, model, str(stem))
            return stem
    fit_artifact(requests[0].name, defense, concept, model, stems[0], progress)
    return stems[0]


def partial_folder(stem: Path) -> Path:
    """Where an unfinished fit keeps its checkpoints and recordings: beside the artifact that it will become."""
    return stem.with_name(stem.name + ".partial")


def fit_artifact(
    name: str,
    defense: Any,
    concept: Concept,
    model: StableDiffusion,
    stem: Path,
    progress: Say | None = None,
    shared: Path | None = None,
    labels_by: str = "",
) -> Artifact:
    """Fit a defense and save what it learned at ``stem`` (``.safetensors`` and a ``.json`` card with settings, rows
    seen, model and seconds). A fit that was interrupted goes on where it was.

    Args:
        shared: folder of what several fits share; by default that of ``stem``.
        labels_by: judge that labels pictures of the lab where the fit asks for one; empty: the lab's second one.

    Raises:
        BadInput: the folder of unfinished work beside ``stem`` belongs to a fit of other settings.
    """
    from genward.ops.artifacts import save

    aside, by = partial_folder(stem), labels_by or choices(defense, labels_by)[0]
    key = fit_key(defense, concept, model.spec.hash, by)
    spent = _take_up(aside, key)
    if spent and progress is not None:
        progress(f"{name}: going on with the fit that was interrupted")
    began = time.perf_counter()
    try:
        places = [shared or aside.parent, shipped_artifacts()]
        asked = with_probe(defense, by) if defending.judge_field(defense) else defense
        made = asked.fit(model, concept, tools_for(model, name, aside, progress, places, by))
    except BaseException:
        _mark(aside, key, spent + time.perf_counter() - began)
        raise
    artifact = made if isinstance(made, Artifact) else defending.artifact_of(made)
    if artifact is None:
        raise BadInput(f"defense {name!r}: fit gave back no artifact; see genward.core.contracts.Fits")
    took = float(artifact.card.get("seconds", time.perf_counter() - began))
    card = {"method": name, "settings": fit_fields(defense), "model_hash": model.spec.hash, **artifact.card}
    saved = save(stem, artifact.tensors, card | {"seconds": round(spent + took, 2)})
    shutil.rmtree(aside, ignore_errors=True)
    return saved


def _take_up(aside: Path, key: str) -> float:
    """Make the folder of an unfinished fit, or find it; returns the seconds that were spent there before."""
    mark = aside / "fit.json"
    if not mark.is_file():
        _mark(aside, key, 0.0)
        return 0.0
    try:
        found = json.loads(mark.read_text("utf-8"))
        theirs, spent = str(found["key"]), float(found["seconds"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{mark} cannot be read ({error}); delete the folder, the fit then begins again") from error
    if theirs != key:
        raise BadInput(f"{aside} holds an unfinished fit of other settings; delete it, or name another place")
    return spent


def _mark(aside: Path, key: str, seconds: float) -> None:
    from genward.ops.artifacts import write_all

    write_all({aside / "fit.json": json_text({"key": key, "seconds": round(seconds, 2)}).encode()})


def _fitting_model(artifact: Artifact, model: StableDiffusion, where: str) -> Artifact:
    fitted_on = artifact.card.get("model_hash", model.spec.hash)
    if fitted_on != model.spec.hash:
        raise BadArtifact(
            f"{where} was fitted on model {fitted_on}, this one is {model.spec.hash}; fit it again on this model "
            "(genward fit)"
        )
    return artifact


def from_artifact(request: DefenseRequest, model: StableDiffusion) -> tuple[Defense, Artifact]:
    """A defense rebuilt from the path of its artifact.

    Raises:
        BadArtifact: unreadable, no defense's, or fitted on another model.
    """
    from genward.ops.artifacts import load

    path = Path(request.artifact)
    artifact = load(path)
    name = str(artifact.card.get("method", ""))
    if not name:
        raise BadArtifact(f"{path}: its card names no method; make it with genward fit")
    cls = catalog.find("defense", name)
    field = artifact_field(cls)
    if field is None:
        raise BadArtifact(f"{path}: defense {name!r} takes no artifact; the card is wrong")
    known = {f.name for f in dataclasses.fields(cls)}
    settings = artifact.card.get("settings", {})
    if not isinstance(settings, dict):
        raise BadArtifact(f"{path}: the settings of its card are {shown(settings)}; fit again")
    config = {k: v for k, v in settings.items() if k in known and k != field}
    config |= catalog.options("defense", name, dict(request.options))
    fitted = _fitting_model(artifact, model, str(path))
    try:
        return configured(cls, {**config, field: fitted}, str(path)), artifact
    except BadArtifact:
        raise
    except BadInput as error:
        raise BadArtifact(str(error)) from error
