"""``protect``: a live pipeline of the user's own under a policy.

::

    with genward.protect(pipe, policy="weapons", defenses=["aeiou", "wukong"]) as guarded:
        out = guarded(["a cat", "a bomb"], num_inference_steps=20)

This file turns what the user has (a stock pipeline, a policy's name, defenses as texts or objects) into a model, a
policy and a chain ready to attach; the call itself is in ``serve.guarded``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genward.catalog.fitting import DefenseRequest, parse_defense, ready, with_probe
from genward.core import defending
from genward.core.contracts import Defense
from genward.core.defending import artifact_field, concept_of
from genward.core.spec import Spec
from genward.errors import BadInput, Conflict, GenwardError, UnknownName
from genward.serve.audit import Audit
from genward.serve.guarded import Guarded, GuardRig, Rule, ruled
from genward.serve.policy import Category, Policy, load_policy, merged

if TYPE_CHECKING:
    from genward.models.sd import StableDiffusion
    from genward.store import Store

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
"""What a pipeline must have to be guarded."""
FAMILY = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
"""Pipelines that can be guarded, and what is derived from them."""


@contextmanager
def protect(
    pipe_or_model: Any,
    policy: Policy | str | Path = "weapons",
    defenses: Sequence[str | Defense] | str = ("aeiou", "wukong"),
    *,
    store: Store | Path | str | None = None,
    audit: Audit | Path | str | None = None,
    timeout: float | None = None,
    progress: Callable[[str], None] | None = None,
) -> Iterator[Guarded]:
    """Guard a pipeline while the block runs; it is as before afterwards, whatever happened.

    Args:
        pipe_or_model: a ``StableDiffusionPipeline`` or ``StableDiffusionImg2ImgPipeline``, or what
            ``genward.open_model`` gives.
        policy: a shipped name, a concept, a TOML file or a ``Policy``.
        defenses: texts (``"aeiou"``, ``"uce:weapons"``, ``"sld,preset=strong"``) or objects, in order of application. A
            text that names no concept takes the policy's: one defense a category where it learns its concept, one for
            all categories else. Objects are attached as they are.
        store: where fitted defenses are kept and looked for.
        audit: a file for one JSON line a row; without its record nothing is released.
        timeout: seconds that a guard may take each time it is called; its rows are refused after that.
        progress: told in words what is being fitted or reused.

    Raises:
        BadInput, UnknownName: no such policy, defense or concept; a pipeline that lacks a part or is of another kind.
        Conflict: the pipeline is compiled or its weights are offloaded, it has an open guard already, or two defenses
            own one port.
        StoreError: the audit file cannot be written.
    """
    if timeout is not None and not (math.isfinite(timeout) and timeout > 0):
        raise BadInput(f"timeout {timeout}; give seconds above 0, or none")
    rules = load_policy(policy)
    parts = [defenses] if isinstance(defenses, str) else list(defenses)
    asked = [request for part in parts for request in (parse_defense(part) if isinstance(part, str) else [part])]
    log = Audit.of(audit)
    if log is not None:
        log.check()
    model = as_model(pipe_or_model)
    chain = build(asked, rules, model, store, progress)
    names = named([d for d, _ in chain])
    rig = GuardRig(model, timeout)
    with rig.opened([ruled(d, rule, name) for (d, rule), name in zip(chain, names, strict=True)]):
        yield Guarded(model, rules, dict(zip(names, [d for d, _ in chain], strict=True)), rig, log)


def named(defenses: Sequence[Any]) -> list[str]:
    """One name a defense for verdicts: its own; with its concept, and a number if need be, where one is attached
    several times."""
    own = [str(type(d).name) for d in defenses]
    first = [
        n if own.count(n) == 1 else f"{n}:{concept_of(d) or k}"
        for k, (n, d) in enumerate(zip(own, defenses, strict=True))
    ]
    return [n if first.count(n) == 1 else f"{n}:{k}" for k, n in enumerate(first)]


# ------------------------------------------------------------------------------------------------------------ the chain


def build(
    asked: Sequence[DefenseRequest | Defense],
    policy: Policy,
    model: StableDiffusion,
    store: Store | Path | str | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[tuple[Defense, Rule]]:
    """The chain ready to attach, each defense with what the policy says about it.

    Raises:
        BadInput: an action or a threshold that a defense cannot follow.
    """
    out = []
    for part in asked:
        for request, categories in placed(part, policy):
            defense = (
                fitted(request, categories, policy, model, store, progress)
                if isinstance(request, DefenseRequest)
                else request
            )
            about = concept_of(defense)
            names = {about, *about.split("+")}  # one that learned several concepts at once is about each of them
            mine = categories or [
                c for c in policy.categories if not about or names & {c.name, policy.concepts[c.name].name}
            ]
            out.append(
                (
                    followed(with_probe(defense), mine),
                    Rule(mine[0].name if len(mine) == 1 else "", {c.name: c.action for c in mine}),
                )
            )
    return out


def placed(part: DefenseRequest | Defense, policy: Policy) -> list[tuple[DefenseRequest | Defense, list[Category]]]:
    """A part of the chain for the policy's categories: itself, or once a category. An empty list of categories: those
    that it says it is about."""
    if not isinstance(part, DefenseRequest) or part.artifact:
        return [(part, [])]
    if part.concept:
        return [(part, [c for c in policy.categories if c.named(part.concept)])]
    from genward.catalog import plugins as catalog

    cls = catalog.find("defense", part.name)
    if artifact_field(cls) or "action" in {f.name for f in dataclasses.fields(cls)}:
        return [(part._replace(concept=c.concept), [c]) for c in policy.categories]
    return [(part, list(policy.categories))]


def fitted(
    request: DefenseRequest,
    categories: Sequence[Category],
    policy: Policy,
    model: StableDiffusion,
    store: Store | Path | str | None,
    progress: Callable[[str], None] | None,
) -> Defense:
    """A request as an object. One that takes a concept, learns nothing and names none is made for all the policy's
    categories at once."""
    from genward.catalog import plugins as catalog

    if request.name and not request.concept:
        cls = catalog.find("defense", request.name)
        if defending.takes_concept(cls) and not defending.learns(cls):
            concept = merged([policy.concepts[c.name] for c in categories])
            try:
                made: Defense = defending.made_for(
                    cls, concept, **catalog.options("defense", request.name, dict(request.options))
                )
            except TypeError as error:
                raise BadInput(f"defense {request.text!r}: {error}; see genward show defense {request.name}") from error
            return made
    return ready([request], model, store, progress=progress).defenses[0]


def followed(defense: Any, categories: Sequence[Category]) -> Any:
    """The defense as the policy wants it: its threshold, and its action where it has such a field.

    Raises:
        BadInput: the policy sets a threshold that the defense does not have, or several different ones; or asks a
            detector that cannot steer to steer.
    """
    name = type(defense).name
    fields = {f.name for f in dataclasses.fields(defense)}
    limits = {c.thresholds[name] for c in categories if name in c.thresholds}
    if limits and "threshold" not in fields:
        raise BadInput(f"the policy sets a threshold for {name}, which has none; take it out of the policy")
    if len(limits) > 1:
        raise BadInput(
            f"the policy sets different thresholds for {name} ({', '.join(f'{x:g}' for x in sorted(limits))}), which "
            "is attached once for all; name a concept each"
        )
    if limits:
        defense = dataclasses.replace(defense, threshold=limits.pop())
    actions = {c.action for c in categories}
    if "action" not in fields or len(actions) != 1:
        return defense  # one that steers steers; what it blocks, if anything, is flagged where the policy says so
    action = actions.pop()
    try:
        return dataclasses.replace(defense, action=action)
    except (BadInput, UnknownName) as error:
        raise BadInput(
            f"the policy wants {name} to {action}, which it cannot do: {error}; use a defense that steers (sld, "
            "saferedir), or another action"
        ) from error


# ------------------------------------------------------------------------------------------------------------ the model


def as_model(given: Any) -> StableDiffusion:
    """A stock pipeline as a genward model, on its device, its settings left alone; a model is itself.

    Raises:
        BadInput: no pipeline of the family, or one that lacks a part. Conflict: compiled, or offloaded.
    """
    from genward.models.sd import StableDiffusion

    if isinstance(given, StableDiffusion):
        checked_pipe(given.pipe)
        return given
    checked_pipe(given)
    before = getattr(given, "_progress_bar_config", None)
    model = StableDiffusion(given, identity(given))
    if before is None:
        del given._progress_bar_config
    else:
        given._progress_bar_config = before
    return model


def checked_pipe(pipe: Any) -> None:
    """``BadInput`` or ``Conflict`` for a pipeline that cannot be guarded."""
    kinds = {cls.__name__ for cls in type(pipe).__mro__}
    if not kinds & set(FAMILY):
        raise BadInput(
            f"a {type(pipe).__name__} cannot be guarded; give a {' or '.join(FAMILY)}, or what genward.open_model "
            "returns"
        )
    for part in PARTS:
        if getattr(pipe, part, None) is None:
            raise BadInput(f"this {type(pipe).__name__} has no {part}, and a guard needs it; load the whole pipeline")
    for part in ("unet", "vae", "text_encoder"):
        module = getattr(pipe, part)
        if compiled(module):
            raise Conflict(
                f"the pipeline's {part} is compiled, and a compiled model can pass a guard by; give the uncompiled one"
            )
        if any(p.is_meta for p in module.parameters()):
            raise Conflict(
                f"weights of the pipeline's {part} are offloaded one by one, where they can be neither checked nor "
                "edited; use pipe.to(device)"
            )


def compiled(module: Any) -> bool:
    """Whether ``torch.compile`` was put on a module, on a part of it, or on its forward."""
    if hasattr(module, "_orig_mod") or hasattr(vars(module).get("forward"), "_torchdynamo_orig_callable"):
        return True
    return any(getattr(m, "_compiled_call_impl", None) is not None or hasattr(m, "_orig_mod") for m in module.modules())


def identity(pipe: Any) -> Spec:
    """Who a live pipeline is: the folder it was loaded from, if its weights are still those, so that what was fitted on
    the folder fits; else its weights.

    Reads every weight once (seconds for a model of gigabytes); pass an opened model to spare it.
    """
    for spec in (_lab(pipe), _folder(pipe)):
        if spec is not None:
            return spec
    from genward.ops.artifacts import content_hash

    weights = {
        part: content_hash(dict(getattr(pipe, part).state_dict()))[:16] for part in ("unet", "vae", "text_encoder")
    }
    return Spec("model", "sd", {"source": "live", "dtype": _dtype(pipe), "weights": weights})


def _dtype(pipe: Any) -> str:
    return str(next(pipe.unet.parameters()).dtype).removeprefix("torch.")


def _lab(pipe: Any) -> Spec | None:
    """The lab's identity, if this is the lab's pipeline, unchanged."""
    from genward import lab
    from genward.catalog.opening import lab_spec

    root = lab.weights_folder()
    source = Path(str(pipe.unet.config.get("_name_or_path", "")))
    if source.parent != root or source.name not in ("unet", "oracle"):
        return None
    try:
        lab.manifest()
        same = (
            unchanged(pipe.unet, source)
            and unchanged(pipe.vae, root / "vae")
            and unchanged(pipe.text_encoder, lab.encoder_folder())
        )
        return lab_spec("lab" if source.name == "unet" else "oracle", _dtype(pipe)) if same else None
    except GenwardError:
        return None


def _folder(pipe: Any) -> Spec | None:
    """The identity of the folder (or hub snapshot on this machine) that a pipeline was loaded from, if its weights are
    unchanged."""
    from genward.models.sd import folder_spec

    source = str(pipe.config.get("_name_or_path", "") or "")
    folder = Path(source) if source else None
    if folder is not None and not folder.is_dir():
        folder = _snapshot(source)
    if folder is None or not (folder / "model_index.json").is_file():
        return None
    if not all(unchanged(getattr(pipe, part), folder / part) for part in ("unet", "vae", "text_encoder")):
        return None
    return folder_spec(folder, folder.name if Path(source).is_dir() else source, _dtype(pipe))


def _snapshot(source: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, OSError):
        return None


def unchanged(module: Any, folder: Path) -> bool:
    """Whether a module's weights are those of the safetensors files in a folder, cast to the module's dtype."""
    import torch
    from safetensors import safe_open

    state: Mapping[str, Any] = module.state_dict()
    missing = {name for name, _ in module.named_parameters()}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as tensors:
            for name in tensors.keys():
                if name not in state:
                    continue
                kept = tensors.get_tensor(name)
                if kept.shape != state[name].shape or not torch.equal(kept.to(state[name].dtype), state[name].cpu()):
                    return False
                missing.discard(name)
    return not missing
