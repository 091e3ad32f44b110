"""Which model a live pipeline is: on its device, its settings left alone, with the identity of its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genward.core.spec import Spec
from genward.errors import BadInput, GenwardError
from genward.models.backbone import check_pipe, family
from genward.models.outside import DENOISERS, inside, kind_of

if TYPE_CHECKING:
    from genward.models.outside import OutsidePipeline
    from genward.models.sd import StableDiffusion


def as_model(given: Any) -> StableDiffusion:
    """A stock pipeline as a genward model, on its device, its settings left alone; a model is itself.

    Raises:
        BadInput: no pipeline of the family, or one that lacks a part. Conflict: compiled, or offloaded.
    """
    from genward.models.sd import StableDiffusion

    if isinstance(given, StableDiffusion):
        check_pipe(given.pipe)
        return given
    check_pipe(given)
    before = getattr(given, "_progress_bar_config", None)
    model: StableDiffusion = family(given)(given, identity(given))
    if before is None:
        del given._progress_bar_config
    else:
        given._progress_bar_config = before
    return model


def as_outside(given: Any) -> OutsidePipeline:
    """A pipeline that is not stepped into: of another family, or compiled.

    Raises:
        BadInput: it makes no pictures from text, nor by inpainting.
    """
    from genward.models.outside import OutsidePipeline

    kind_of(given)
    return OutsidePipeline(given, outside_identity(given))


def outside_identity(pipe: Any) -> Spec:
    """Who a pipeline is of which guards read the text and the picture alone: the lab where it consists of the lab's
    parts, else its class and dtype and the content of its text encoder. The denoiser, of which no guard reads
    anything, is not hashed, so that a model of many gigabytes is opened at once."""
    from genward.ops.artifacts import content_hash

    found = _lab(pipe)
    if found is not None:
        return found
    encoder = inside(getattr(pipe, "text_encoder", None))
    fields = {
        "source": "lab:changed" if _lab_source(pipe) is not None else "outside",
        "pipeline": type(pipe).__name__,
        "dtype": _dtype(pipe),
        "text_encoder": "" if encoder is None else content_hash(dict(encoder.state_dict()))[:16],
    }
    return Spec("model", "outside", fields)


def identity(pipe: Any) -> Spec:
    """Who a live pipeline is: the folder it was loaded from, if its weights are still those, so that what was fitted on
    the folder fits; else its weights.

    Reads every weight once (seconds for a model of gigabytes); pass an opened model to spare it.
    """
    for spec in (_lab(pipe), _folder(pipe)):
        if spec is not None:
            return spec
    from genward.ops.artifacts import content_hash

    weights = {part: content_hash(dict(getattr(pipe, part).state_dict()))[:16] for part in family(pipe).networks}
    source = (
        "lab:changed" if _lab_source(pipe) is not None else "live"
    )  # the lab's judge knows what it draws either way
    return Spec("model", "sd", {"source": source, "dtype": _dtype(pipe), "weights": weights})


def _denoiser(pipe: Any) -> Any:
    return inside(getattr(pipe, next(n for n in DENOISERS if getattr(pipe, n, None) is not None)))


def _dtype(pipe: Any) -> str:
    return str(next(_denoiser(pipe).parameters()).dtype).removeprefix("torch.")


def _lab_source(pipe: Any) -> Path | None:
    """The folder of the lab that a pipeline's denoiser was loaded from, whatever became of its weights."""
    import genward.lab as lab

    source = Path(str(_denoiser(pipe).config.get("_name_or_path", "")))
    return source if source.parent == lab.weights_folder() and source.name in ("unet", "oracle") else None


def _lab(pipe: Any) -> Spec | None:
    """The lab's identity, if this is the lab's pipeline, unchanged."""
    import genward.lab as lab
    from genward.catalog.opening import lab_spec

    root, source = lab.weights_folder(), _lab_source(pipe)
    if source is None:
        return None
    try:
        lab.manifest()
        same = (
            unchanged(_denoiser(pipe), source.glob("*.safetensors"))
            and unchanged(inside(pipe.vae), (root / "vae").glob("*.safetensors"))
            and unchanged(inside(pipe.text_encoder), lab.encoder_folder().glob("*.safetensors"))
        )
        return lab_spec("lab" if source.name == "unet" else "oracle", _dtype(pipe)) if same else None
    except GenwardError:
        return None


def _folder(pipe: Any) -> Spec | None:
    """The identity of the folder (or hub snapshot on this machine) that a pipeline was loaded from, if its weights are
    unchanged.

    A pipeline does not say which variant it was loaded from: it is the one whose weights it has; of several, the one
    that is stored in the pipeline's own dtype, else the plain one."""
    from genward.models.identity import read_folder, spec_of, stored_dtype, variants

    source = str(pipe.config.get("_name_or_path", "") or "")
    folder = Path(source) if source else None
    if folder is not None and not folder.is_dir():
        folder = _snapshot(source)
    if folder is None or not (folder / "model_index.json").is_file():
        return None
    same = []
    for variant in ("", *variants(folder)):
        try:
            found = read_folder(folder, variant)
        except BadInput:
            continue
        if all(unchanged(getattr(pipe, part), found.weights.get(part, ())) for part in family(pipe).networks):
            same.append(found)
    if not same:
        return None
    chosen = next((f for f in same if stored_dtype(f.weights[family(pipe).networks[0]][0]) == _dtype(pipe)), same[0])
    return spec_of(folder, chosen.files, folder.name if Path(source).is_dir() else source, _dtype(pipe))


def _snapshot(source: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, OSError):
        return None


def unchanged(module: Any, files: Iterable[Path]) -> bool:
    """Whether a module's weights are those of safetensors files, cast to the module's dtype."""
    import torch
    from safetensors import safe_open

    state: Mapping[str, Any] = module.state_dict()
    missing = {name for name, _ in module.named_parameters()}
    for path in sorted(files):
        with safe_open(path, "pt") as tensors:
            for name in tensors.keys():
                if name not in state:
                    continue
                kept = tensors.get_tensor(name)
                if kept.shape != state[name].shape or not torch.equal(kept.to(state[name].dtype), state[name].cpu()):
                    return False
                missing.discard(name)
    return not missing
