"""A model folder is what from_pretrained reads from it: variants and strange files beside it change nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from genward.errors import BadInput, UnknownName
from genward.models.identity import read_folder
from genward.models.loading import load_pipeline
from genward.testing import tiny_pipeline

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 3438167540\n"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def copied(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "tiny"))


def half() -> Any:
    return tiny_pipeline(seed=5).to(torch.float16)


def opened(folder: Path, **more: Any) -> Any:
    return load_pipeline(str(folder), device="cpu", **more)


def test_other_variants_beside_it_do_not_change_it(plain: Path, copied: Path) -> None:
    before = opened(plain).spec
    assert set(before.fields["files"]) == {str(p.relative_to(plain)) for p in plain.rglob("*") if p.is_file()}
    half().unet.save_pretrained(copied / "unet", variant="fp16")
    tiny_pipeline(seed=7).unet.save_pretrained(copied / "unet", variant="non_ema")
    tiny_pipeline(seed=7).text_encoder.save_pretrained(copied / "text_encoder", variant="non_ema")
    for stray in ("README.txt", "unet/notes.txt", "logs/a.json", "unet/other.safetensors", "genward.json"):
        (copied / stray).parent.mkdir(exist_ok=True)
        (copied / stray).write_text("{}")
    assert opened(copied).spec == before
    other = opened(copied, variant="non_ema")
    assert other.spec != before and "unet/diffusion_pytorch_model.non_ema.safetensors" in other.spec.fields["files"]
    assert "vae/diffusion_pytorch_model.safetensors" in other.spec.fields["files"], "what it lacks is read plain"
    assert not torch.equal(other.unet.conv_in.weight, opened(copied).unet.conv_in.weight)
    with pytest.raises(BadInput, match="has no variant 'fp8'; there are fp16, non_ema"):
        opened(copied, variant="fp8")


def test_a_folder_of_one_variant_alone_is_opened(tmp_path: Path) -> None:
    half().save_pretrained(tmp_path / "half", variant="fp16")
    named, found = opened(tmp_path / "half", variant="fp16"), opened(tmp_path / "half")
    assert named.spec == found.spec and torch.equal(named.unet.conv_in.weight, found.unet.conv_in.weight)
    for path in list((tmp_path / "half").rglob("*.fp16.safetensors")):
        shutil.copy(path, path.with_name(path.name.replace("fp16", "non_ema")))
    with pytest.raises(BadInput, match=r"no plain weights, only variants \(fp16, non_ema\); name one with --variant"):
        opened(tmp_path / "half")
    assert opened(tmp_path / "half", variant="fp16").spec == named.spec


def test_shards_are_read_by_their_index(plain: Path, copied: Path) -> None:
    whole = opened(plain)
    for part, name in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        (copied / part / f"{name}.safetensors").unlink()
        getattr(whole, part).save_pretrained(copied / part, max_shard_size="20KB")
    (copied / "unet" / "diffusion_pytorch_model-00099-of-00099.safetensors").write_bytes(b"of an older upload")
    model = opened(copied)
    assert torch.equal(model.unet.conv_in.weight, whole.unet.conv_in.weight)
    files = model.spec.fields["files"]
    assert (
        "unet/diffusion_pytorch_model.safetensors.index.json" in files
        and "text_encoder/model.safetensors.index.json" in files
    )
    assert sum("-of-" in name for name in files) > 4 and not any("00099-of-00099" in name for name in files)
    index = copied / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    for broken, match in (
        ({"weight_map": {"a": "../../secret.safetensors"}}, "is no shard beside it"),
        ({"weight_map": {"a": "none.safetensors"}}, "cannot be read"),
        ({"weight_map": ["a"]}, "names no shards"),
        ([], "names no shards"),
    ):
        index.write_text(json.dumps(broken))
        with pytest.raises(BadInput, match=match):
            opened(copied)
    index.unlink()
    with pytest.raises(BadInput, match="holds shards and no index"):
        opened(copied)


def test_nothing_but_what_is_listed_is_needed(plain: Path, copied: Path) -> None:
    half().unet.save_pretrained(copied / "unet", variant="fp16")
    kept = set(read_folder(copied).files)
    for path in copied.rglob("*"):
        if path.is_file() and path not in kept:
            path.unlink()
    assert opened(copied).spec == opened(plain).spec


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (POINTER.encode(), "is a git-LFS pointer, not the weights; run `git lfs pull`"),
        (b"<!DOCTYPE html><html>login</html>", "is a web page"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f{}", "no safetensors file or was cut short"),
        (b"PK\x03\x04" + b"0" * 100, "a pickle or a zip archive in spite of its name"),
        (b"\x80\x04\x95" + b"0" * 100, "a pickle in spite of its name"),
        (b"", r"cut short \(0 bytes\)"),
        (b"\x02\0\0\0\0\0\0\0[]", "damaged header"),
        (-5, "was cut short or damaged"),
    ],
)
def test_weights_that_are_none_are_named(copied: Path, data: bytes | int, match: str) -> None:
    for part, name in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        path = copied / part / f"{name}.safetensors"
        good = path.read_bytes()
        path.write_bytes(data if isinstance(data, bytes) else good[:data])
        with pytest.raises(BadInput, match=match) as told:
            opened(copied)
        assert f"{part}/{name}.safetensors" in str(told.value)
        path.write_bytes(good)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "is not JSON"),
        ("[]", "is no pipeline's index"),
        ('{"_class_name": 5}', "is no pipeline's index"),
        ("[" * 100_000, "levels deep"),
        ('{"_class_name": "StableDiffusionPipeline", "unet": [1, 2]}', "no pair of library and class"),
        ('{"_class_name": "StableDiffusionPipeline", "unet": ["mine", "Net"]}', "such code is never run"),
        ('{"_class_name": "StableDiffusionPipeline", "../unet": ["diffusers", "Net"]}', "is no component's name"),
        ('{"_class_name": "FluxPipeline"}', "holds a 'FluxPipeline'"),
    ],
)
def test_broken_indexes_are_named(copied: Path, text: str, match: str) -> None:
    (copied / "model_index.json").write_text(text)
    with pytest.raises(BadInput, match=match):
        opened(copied)


def test_a_part_whose_name_no_file_system_takes_is_missing(copied: Path) -> None:
    index = json.loads((copied / "model_index.json").read_text())
    index["x" * 5000] = index["unet"]
    (copied / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(BadInput, match="is missing, and model_index.json names it"):
        read_folder(copied)


def test_single_files_say_how_to_convert(tmp_path: Path) -> None:
    (tmp_path / "A").mkdir()
    (tmp_path / "A" / "mix.safetensors").write_bytes(b"\0" * 100)
    for source in (tmp_path / "A" / "mix.safetensors", tmp_path / "A", "models/mix.safetensors"):
        with pytest.raises(BadInput, match=r"single-file checkpoint.*from_single_file.*save_pretrained"):
            opened(source)  # type: ignore[arg-type]


def test_names_that_are_none(plain: Path) -> None:
    for source in ("", "x" * 5000, "a/" + "b" * 5000, "a\x00b", "../..", "\ud800/x", "a/b/c"):
        with pytest.raises(BadInput) as told:
            load_pipeline(source, device="cpu")
        assert len(str(told.value)) < 600
    with pytest.raises(UnknownName, match="dtype 'zzz'"):
        opened(plain, dtype="zzz")
    for device in ("zzz", "cuda:99", "meta", "cpu:x"):
        with pytest.raises(BadInput, match="cannot be used|there is no device"):
            load_pipeline(str(plain), device=device)


def test_a_live_pipeline_is_the_folder_and_the_variant_it_was_loaded_from(copied: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    from genward.serve.identity import identity

    def loaded(folder: Path, dtype: torch.dtype = torch.float32, **more: Any) -> Any:
        return StableDiffusionPipeline.from_pretrained(str(folder), safety_checker=None, dtype=dtype, **more)

    other = tiny_pipeline(seed=5)
    for part in ("unet", "vae", "text_encoder"):
        getattr(other, part).save_pretrained(tmp_path / "other" / part, variant="non_ema")
        for path in (tmp_path / "other" / part).glob("*.safetensors"):
            shutil.copy(path, copied / part)
    assert identity(loaded(copied)) == opened(copied).spec
    assert identity(loaded(copied, variant="non_ema")) == opened(copied, variant="non_ema").spec
    half().save_pretrained(tmp_path / "half", variant="fp16")
    assert identity(loaded(tmp_path / "half", variant="fp16")) == opened(tmp_path / "half").spec
    changed = loaded(copied)
    changed.unet.conv_in.weight.data += 1
    assert identity(changed).fields["source"] == "live"


def test_an_edit_under_a_lora_says_fuse_it_first() -> None:
    from genward.errors import Conflict
    from genward.models.sites import CROSS_ATTENTION_KV, named

    plain = [n for n, _ in tiny_pipeline().unet.named_parameters()]
    assert named(plain, CROSS_ATTENTION_KV)
    adapted = [n.replace("to_k.weight", "to_k.base_layer.weight") for n in plain]
    with pytest.raises(Conflict, match=r"fuse it first: pipe.fuse_lora\(\); pipe.unload_lora_weights\(\)"):
        named(adapted, CROSS_ATTENTION_KV)
    assert named([n.replace("to_q.weight", "to_q.base_layer.weight") for n in plain], CROSS_ATTENTION_KV)
