"""Loading, export and identity of Stable Diffusion pipelines; bad folders are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from genward.core import Case, Inputs, Sampler
from genward.errors import BadInput, Conflict
from genward.models.loading import load_pipeline
from genward.testing import EXAMPLES, tiny_pipeline, tiny_sd
from genward.testing.suites import CASES, same

SAMPLER = Sampler(steps=3, guidance=3.0)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipe") / "tiny"
    tiny_pipeline().save_pretrained(folder, safe_serialization=True)
    return folder


def test_a_saved_folder_is_the_same_model(saved: Path) -> None:
    loaded = load_pipeline(str(saved), device="cpu")
    assert same(tiny_sd().generate(CASES, SAMPLER), loaded.generate(CASES, SAMPLER))
    assert loaded.spec.hash == load_pipeline(str(saved), device="cpu").spec.hash


def test_identity_follows_the_weights(saved: Path, tmp_path: Path) -> None:
    pipe = tiny_pipeline(seed=3)
    pipe.save_pretrained(tmp_path / "tiny", safe_serialization=True)
    assert (
        load_pipeline(str(tmp_path / "tiny"), device="cpu").spec.hash
        != load_pipeline(str(saved), device="cpu").spec.hash
    )


def test_export_loads_without_genward_and_equals_the_guarded_model(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    model = tiny_sd()
    fade = EXAMPLES["example-weights"](strength=0.3)
    guarded = model.generate(CASES, SAMPLER, [fade], keep_latents=True)
    folder = model.export(tmp_path / "edited", [fade])
    stock = StableDiffusionPipeline.from_pretrained(folder)
    stock.set_progress_bar_config(disable=True)
    start = torch.stack([torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(c.seed)) for c in CASES])
    latents = stock(
        [c.prompt for c in CASES], latents=start, num_inference_steps=3, guidance_scale=3.0, output_type="latent"
    ).images
    assert all(torch.equal(s.latents, z) for s, z in zip(guarded, latents, strict=True))
    assert json.loads((folder / "genward.json").read_text())["defenses"][0]["name"] == "example-weights"
    with pytest.raises(Conflict, match="cannot be written into weights"):
        model.export(tmp_path / "other", [EXAMPLES["example-tap"]()])
    assert not (tmp_path / "other").exists()
    with pytest.raises(BadInput, match="not empty"):
        model.export(tmp_path / "edited", [fade])


def test_bad_folders(saved: Path, tmp_path: Path) -> None:
    import shutil

    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"no model_index\.json"):
        load_pipeline(str(tmp_path / "empty"))
    with pytest.raises(BadInput, match="no such folder, and not a hub id"):
        load_pipeline("nowhere")
    with pytest.raises(BadInput, match="--download"):
        load_pipeline("nobody/nothing-at-all")
    pickled = tmp_path / "pickled"
    shutil.copytree(saved, pickled)
    weight = next((pickled / "unet").glob("*.safetensors"))
    weight.rename(weight.with_name("diffusion_pytorch_model.bin"))
    with pytest.raises(BadInput, match="a pickle, which genward never loads"):
        load_pipeline(str(pickled))
    cut = tmp_path / "cut"
    shutil.copytree(saved, cut)
    weight = next((cut / "unet").glob("*.safetensors"))
    weight.write_bytes(weight.read_bytes()[:5000])
    with pytest.raises(BadInput, match="cut short"):
        load_pipeline(str(cut))


def test_sizes_and_starts_are_checked() -> None:
    model = tiny_sd()
    with pytest.raises(BadInput, match="multiples of 8"):
        model.generate(CASES, Sampler(steps=2, height=60, width=64))
    with pytest.raises(BadInput, match="were not supplied"):
        model.generate([Case("a", "a cat", inputs=Inputs({"latents": "gone"}))], SAMPLER)
    with pytest.raises(BadInput, match="have shape"):
        model.generate(
            [Case("a", "a cat", inputs=Inputs({"latents": "z"}))], SAMPLER, starts={"z": torch.zeros(4, 4, 4)}
        )


def test_trainable_copy_is_detached() -> None:
    model = tiny_sd()
    copy = model.trainable(r"attn2\.to_k\.weight$")
    names = [n for n, p in copy.named_parameters() if p.requires_grad]
    assert names and all("attn2.to_k" in n for n in names)
    with torch.no_grad():
        dict(copy.named_parameters())[names[0]].add_(1)
    assert not torch.equal(dict(copy.named_parameters())[names[0]], dict(model.unet.named_parameters())[names[0]])
