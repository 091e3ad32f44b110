"""Models by name: the embedded lab, its oracle and its poisoned copies (``backdoor:rickrolling``, see
``catalog.backdoors``), a model of another distribution, a hub id, a local folder.

Another distribution adds a family of models by an entry point in the group ``genward.models``: a class with
``name: ClassVar[str]``, what ``core.Model`` wants, and a class method ``opened(name, *, device, dtype, download)``. It
answers to its name, alone or with a colon and more behind it (``tone``, ``tone:deep``). Our own speech models are
opened the same way: ``lab.speech``, ``lab.speech:strict``, ``speech:VOICE``; see ``models.speech``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from genward.catalog import plugins
from genward.catalog.backdoors import PREFIX, learned, poisoned
from genward.core.origin import origin
from genward.core.precision import device_of, dtype_of
from genward.core.records import load_concept
from genward.core.settings import DIFFUSION, Family
from genward.core.spec import PLUGIN, Spec
from genward.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from genward.models.sd import StableDiffusion

LAB = ("lab", "lab:oracle")
"""Names of the embedded models."""


SPEECH = ("lab.speech", "lab.speech:strict", "lab.speech:middle", "lab.speech:lenient")
"""Names of the embedded speech models: a voice, and three simulated aligned models around it."""


def drawn_by_lab(name: str) -> bool:
    """Whether a model draws the lab's pictures: an embedded one, or a poisoned copy."""
    return name in LAB or name.startswith(PREFIX)


Opener = Callable[[str], "StableDiffusion"]


def open_model(
    name: str,
    device: str | None = None,
    dtype: str | None = None,
    *,
    download: bool = False,
    variant: str = "",
) -> StableDiffusion:
    """``"lab"``, ``"lab:oracle"``, another distribution's model, a hub id or a folder as a model, ready to generate.

    Args:
        device: ``cpu``, ``cuda``, …; the best one there is by default.
        dtype: ``float32`` (default), ``float16``, ``bfloat16``.
        download: whether a hub id that is not on this machine may be fetched.
        variant: which copy of the weights to read where a folder holds several, as ``from_pretrained``'s (``fp16``).

    Raises:
        BadInput: nothing usable under that name; UnknownName: ``lab:`` with an unknown variant.
    """
    outside = _outside(name)
    if outside is not None:
        if variant:
            raise BadInput(f"model {name[:40]!r} takes no variant, and {variant[:40]!r} was asked for; leave it out")
        made: StableDiffusion = outside.opened(name, device=device, dtype=dtype, download=download)
        theirs = origin(outside)
        if theirs:
            with suppress(AttributeError):  # one that computes its spec answers for its identity itself
                made.spec = replace(made.spec, fields={**made.spec.fields, PLUGIN: theirs})
        return made
    from genward.models.loading import load_pipeline
    from genward.models.sd import StableDiffusion

    if name.startswith(PREFIX) and not variant:
        found = learned(name.removeprefix(PREFIX))
        return poisoned(open_model("lab", device, dtype), found, name.removeprefix(PREFIX))
    if name != "lab" and not name.startswith("lab:"):
        return load_pipeline(name, device=device, dtype=dtype or "float32", download=download, variant=variant)
    if name not in LAB:
        raise UnknownName("lab model", name, LAB)
    if variant:
        raise BadInput(f"{name} has one copy of its weights, and variant {variant[:40]!r} was asked for; leave it out")
    kind, where = dtype_of(dtype or "float32"), device_of(device)
    import genward.lab as lab

    which = "oracle" if name == "lab:oracle" else "lab"
    pipe = lab.pipeline(which)
    pipe.to(where)
    if dtype not in (None, "float32"):
        pipe.to(kind)
    return StableDiffusion(pipe, lab_spec(which, dtype or "float32"))


def family_of(name: str) -> Family:
    """What is known of a model before it is opened: what it makes, and how its family samples."""
    cls = _outside(name)
    return DIFFUSION if cls is None else Family.of(cls)


def _outside(name: str) -> Any:
    """The class of a speech model or of another distribution's model, or ``None``."""
    head = name.partition(":")[0]
    if head in ("lab.speech", "speech"):
        from genward.models.speech import SpeechModel

        return SpeechModel
    return plugins.find("model", head) if head in plugins.entries("model") and name not in LAB else None


def lab_spec(which: str, dtype: str) -> Spec:
    """Identity of an embedded model: the files it generates with (not the judges' or the other denoiser's beside them)
    and its text encoder."""
    import genward.lab as lab
    from genward.models.identity import spec_of

    parts = ("vae", "scheduler", "oracle" if which == "oracle" else "unet")
    root = lab.weights_folder()
    files = tuple(
        p
        for part in sorted(parts)
        for p in sorted((root / part).rglob("*"))
        if p.suffix in (".safetensors", ".json", ".txt")
    )
    whole = spec_of(root, files, f"lab:{which}", dtype)
    return Spec("model", "sd", {**whole.fields, "text_encoder": lab.ENCODER_SHA256[:16], "tokens": lab.TOKENS})


def opener(device: str | None = None, dtype: str | None = None, *, download: bool = False, variant: str = "") -> Opener:
    """``open_model`` with the settings bound, that opens each name once; ``variant`` is that of folders and hub ids,
    since the lab, whose oracle may be an arm beside them, has none."""
    opened: dict[str, StableDiffusion] = {}

    def get(name: str) -> StableDiffusion:
        if name not in opened:
            which = "" if name in LAB else variant
            opened[name] = open_model(name, device, dtype, download=download, variant=which)
        return opened[name]

    return get


def words_of(name: str) -> Mapping[str, Any]:
    """The vocabulary of a model as plain tables (see ``benchmarks.erasure.Words``); empty for any model but the
    lab's."""
    if not drawn_by_lab(name):
        return {}
    from genward.lab.data import vocabulary

    words = vocabulary()
    levels = ("name", "synonym", "synonym-heldout", "description", "description-heldout", "kind")
    things = {t.name: {level: list(t.variants(level)) for level in levels} for t in words.things}
    return {"styles": list(words.style_names), "things": things}


def oracle_concepts() -> tuple[str, ...]:
    """Names of the concepts that the lab's oracle never saw."""
    from genward.lab.data import ORACLE_CONCEPTS

    return tuple(ORACLE_CONCEPTS)


def unseen_by_oracle() -> tuple[str, ...]:
    """Objects and styles that the oracle never saw."""
    return tuple(dict.fromkeys(t for c in oracle_concepts() for t in load_concept(c).targets))
