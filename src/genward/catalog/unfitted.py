"""Why a learned defense is not at hand for a model, and how long fitting it took elsewhere: said before anything is
fitted, since that takes minutes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genward.catalog import plugins
from genward.catalog.fitting import DefenseRequest, fit_key, shipped_artifacts, template, unfitted
from genward.catalog.labelling import choices
from genward.catalog.opening import lab_spec
from genward.core import defending
from genward.core.records import load_concept
from genward.errors import BadInput

if TYPE_CHECKING:
    from genward.models.sd import StableDiffusion
    from genward.store import Store


def refuse_unfitted(
    requests: Sequence[DefenseRequest], model: StableDiffusion, store: Store | Path | str | None = None
) -> None:
    """Raise where a part would have to be fitted that costs denoiser rows; closed forms, which cost none, are none of
    it.

    Raises:
        BadInput: with the reason, how long such a fit took, and what would do.
    """
    for request in requests:
        if not request.artifact and defending.fit_nfe(plugins.find("defense", request.name)) == 0:
            continue
        for text in unfitted([request], model, store):
            took = recorded_seconds(request.name)
            cost = f"that took {took:.0f} s on the machine that made the lab's" if took else "which may take minutes"
            kept = "it is then kept in the store" if store is not None else "name a store too, so that it is kept"
            raise BadInput(
                f"{text} is not fitted for this model: {reason(request, model)}. Ask for the fit with fit=True "
                "(--fit): "
                f"{cost}; {kept}. Or fit it once with genward fit {request.name} --concept {request.concept} --model … "
                "--out FILE and name FILE in its place"
            )


def reason(request: DefenseRequest, model: StableDiffusion) -> str:
    """Why there is no fit: these weights are not those that the shipped one belongs to, and in what they differ; or
    there is none of this concept."""
    settings, concept = template(request), load_concept(request.concept)
    home = lab_spec("lab", "float32")
    keys = [fit_key(settings, concept, home.hash, by) for by in choices(settings, "")]
    if not any((shipped_artifacts() / f"{key}.json").is_file() for key in keys):
        return f"no fit of it for concept {concept.name!r} and these settings comes with genward"
    said = "these weights are not those that the shipped fit belongs to (the lab's, float32)"
    return f"{said}: {difference(model)}"


def difference(model: StableDiffusion) -> str:
    """In what a model differs from the lab's as it is shipped, in words."""
    source, dtype = str(model.spec.fields.get("source", "")), str(model.spec.fields.get("dtype", ""))
    network: Any = model.unet
    names = [name for name, _ in network.named_parameters()]
    if getattr(network, "peft_config", None) or any("lora_" in name for name in names):
        return "they carry a LoRA"
    if any(getattr(part, "fused_projections", False) for part in network.modules()):
        return "the projections of their attention are fused"
    if dtype not in ("", "float32"):
        return f"they are {dtype}"
    return "their values were changed" if source in ("live", "lab:changed") else f"they are those of {source}"


def recorded_seconds(method: str) -> float:
    """Seconds of the longest fit of a method that comes with the lab; 0 where there is none."""
    cards = [json.loads(p.read_text("utf-8")) for p in shipped_artifacts().glob("*.json")]
    return max((float(c.get("seconds", 0.0)) for c in cards if c.get("method") == method), default=0.0)
