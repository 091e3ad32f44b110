"""The recipe's parts on small data made here: captions, worlds, the fold, the loss, resuming."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from genward.core.checkpoint import CHECKPOINT, load_checkpoint
from genward.core.records import load_concept
from genward.lab import autoencoder, data
from genward.lab import unet as net


def drawing(color: str) -> Image.Image:
    picture = Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(picture).ellipse((10, 20, 118, 100), fill=color)
    return picture


def test_vocabulary_is_consistent() -> None:
    words = data.vocabulary()
    assert len(words.things) >= 60 and len(words.styles) >= 8
    levels = ("name", "synonym", "synonym-heldout", "description", "description-heldout")
    phrases = [p for t in words.things for level in levels for p in t.variants(level)]
    assert len(phrases) == len(set(phrases)), "a phrase stands under two objects or levels"
    for thing in words.things:
        assert (
            len(thing.synonyms) >= 1
            and thing.synonym_heldout
            and thing.descriptions
            and thing.description_heldout
            and thing.kinds
        )
    assert all(len(v) >= 4 for v in words.kinds().values())


def test_held_out_pairs_are_a_tenth_and_never_sampled() -> None:
    words = data.vocabulary()
    pairs = [(t.name, s) for t in words.things for s in words.style_names]
    share = sum(data.held_out(*p) for p in pairs) / len(pairs)
    assert 0.07 < share < 0.13
    world, rng = data.World.build(pairs), random.Random(0)
    for _ in range(500):
        names, style, _ = world.sample(words, rng, scene=0.5)
        assert not any(data.held_out(n, style) for n in names) and len(set(names)) == len(names)


def test_a_world_without_concepts_never_says_or_shows_them() -> None:
    words = data.vocabulary()
    gone = [t for c in data.ORACLE_CONCEPTS for t in load_concept(c).targets]
    pairs = [(t.name, s) for t in words.things for s in words.style_names]
    world, rng = data.World.build(pairs, gone), random.Random(1)
    forbidden = [
        p for n in gone if n in words.names for level in data.LEVELS[:3] for p in words.thing(n).variants(level)
    ]
    for _ in range(1000):
        names, style, caption = world.sample(words, rng, scene=0.5)
        assert not set(gone) & {*names, style}
        assert (
            not any(p == caption.split(" in ")[0] for p in forbidden)
            and f" {style} style" in caption + f" {style} style"
        )


def test_heldout_wordings_never_enter_a_caption() -> None:
    words = data.vocabulary()
    world, rng = data.World.build([(t.name, "noto") for t in words.things]), random.Random(2)
    held = {p for t in words.things for level in ("synonym-heldout", "description-heldout") for p in t.variants(level)}
    for _ in range(1500):
        _, _, caption = world.sample(words, rng, scene=0.0)
        assert caption.removesuffix(" in noto style") not in held


def test_place_keeps_sizes() -> None:
    red, blue = drawing("red"), drawing("blue")
    for seed in range(20):
        rng = random.Random(seed)
        assert data.place([red], rng).size == (64, 64)
        scene = data.place([red, blue], rng)
        colors = {c for _, c in scene.getcolors(64 * 64) or []}
        assert (255, 0, 0) in colors and (0, 0, 255) in colors


def test_fold_changes_no_picture_and_centers_the_latents() -> None:
    torch.manual_seed(0)
    model = autoencoder.build().eval()
    x = autoencoder.to_tensor(
        [data.place([drawing(c)], random.Random(k)) for k, c in enumerate(("red", "green", "blue", "black") * 4)]
    )
    with torch.no_grad():
        before = model.decode(model.encode(x).latent_dist.mean).sample
        logvar = model.encode(x).latent_dist.logvar
        z_old = model.encode(x).latent_dist.mean
        autoencoder.fold(model, x)
        z = model.encode(x).latent_dist.mean
        after = model.decode(z).sample
    assert torch.allclose(before, after, atol=2e-5)
    assert z.mean((0, 2, 3)).abs().max() < 1e-4 and (z.std((0, 2, 3)) - 1).abs().max() < 1e-3
    s = z_old.std((0, 2, 3))
    assert torch.allclose(model.encode(x).latent_dist.logvar, logvar - 2 * s.log()[None, :, None, None], atol=1e-4)


def test_loss_is_each_error_over_its_typical_size() -> None:
    """Against a plain float64 loop over rows on a denoiser whose answer is known."""

    class Known(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> object:
            return type("Out", (), {"sample": 0.5 * x})()

    z, text = torch.randn(6, 4, 16, 16), torch.zeros(6, 28, 384)
    loss = net.NoiseLoss(net.scheduler(), torch.device("cpu"))
    got = float(loss(Known(), z, text, torch.Generator().manual_seed(3)))
    g = torch.Generator().manual_seed(3)
    noise, t = torch.randn(z.shape, generator=g), torch.randint(1000, (6,), generator=g)
    knots, total = list(net.TYPICAL), 0.0
    for row in range(6):
        beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        a = float(torch.prod(1 - beta[: int(t[row]) + 1]))
        x = a**0.5 * z[row].double() + (1 - a) ** 0.5 * noise[row].double()
        error = float(((0.5 * x - noise[row].double()) ** 2).mean())
        left = max(k for k in knots[:-1] if k <= int(t[row]))
        right = knots[knots.index(left) + 1]
        share = (int(t[row]) - left) / (right - left)
        typical = net.TYPICAL[left] ** (1 - share) * net.TYPICAL[right] ** share
        total += error / typical
    assert abs(got - total / 6) < 2e-3 * abs(total / 6)


@pytest.mark.slow
def test_rows_are_the_same_with_several_processes() -> None:
    words = data.vocabulary()
    pictures = {(t.name, "noto"): drawing(c) for t, c in zip(words.things, ("red", "green", "blue") * 20, strict=True)}
    world = data.World.build(list(pictures))
    jobs = [net.Drawing(world, words, scene, 5, 2, f"3|{scene}") for scene in (False, True)]
    one, two = list(net._drawn(jobs, pictures, 1)), list(net._drawn(jobs, pictures, 2))
    assert [w for _, w in one] == [w for _, w in two]
    assert all((a == b).all() for (a, _), (b, _) in zip(one, two, strict=True))
    assert [len(w[0]) for _, w in one] == [2, 2] and one[1][0].shape == (5, 64, 64, 3)
    assert all(" and " in w[0] for w in one[1][1])


def test_training_resumes_where_it_was_killed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    unet = net.build()
    pool = net.Pool(
        torch.randn(8, 4, 16, 16).half(),
        torch.zeros(8, 1, dtype=torch.long),
        torch.randn(1, 28, 384).half(),
        torch.arange(8) >= 4,
        torch.zeros(28, 384).half(),
    )
    net.train(unet, pool, seconds=1e9, steps=2, folder=tmp_path, batch=2)
    seen: list[dict[str, float]] = []
    first = load_checkpoint(tmp_path / CHECKPOINT)
    assert first["step"] == 2
    net.train(net.build(), pool, seconds=1e9, steps=3, folder=tmp_path, batch=2, report=seen.append)
    assert load_checkpoint(tmp_path / CHECKPOINT)["step"] == 3


def test_no_checkpoint_holds_what_came_of_a_loss_that_is_no_number(tmp_path: Path) -> None:
    pool = net.Pool(
        torch.full((8, 4, 16, 16), torch.nan).half(),
        torch.zeros(8, 1, dtype=torch.long),
        torch.randn(1, 28, 384).half(),
        torch.arange(8) >= 4,
        torch.zeros(28, 384).half(),
    )
    with pytest.raises(FloatingPointError, match="the loss became nan by step 2; lower the learning rate"):
        net.train(net.build(), pool, seconds=1e9, steps=2, folder=tmp_path, batch=2)
    assert not (tmp_path / CHECKPOINT).exists()


@pytest.mark.parametrize(("step", "seconds", "expect"), [(0, 0.0, 0.01), (99, 10.0, 1.0), (1000, 100.0, 0.02)])
def test_schedule(step: int, seconds: float, expect: float) -> None:
    assert net.schedule(step, seconds, 100.0, peak=1.0, decay=True) == pytest.approx(expect, rel=1e-6)


def test_the_second_vocabulary_adds_and_takes_nothing_away() -> None:
    """At least six trained and three held-out synonyms, four and two descriptions, three variants of every style; no
    phrase twice."""
    first, second = data.vocabulary(), data.second_vocabulary()
    assert second.names == first.names and second.style_names == first.style_names
    seen: dict[str, str] = {}
    for thing in second.things:
        old = first.thing(thing.name)
        counts = []
        for level in ("name", "synonym", "synonym-heldout", "description", "description-heldout"):
            phrases = thing.variants(level)
            assert phrases[: len(old.variants(level))] == old.variants(level)
            counts.append(len(phrases))
            for phrase in phrases:
                assert phrase == phrase.lower() and len(phrase.split()) <= 11
                assert seen.setdefault(phrase, f"{thing.name}/{level}") == f"{thing.name}/{level}", phrase
        assert counts[1] >= 6 and counts[2] >= 3 and counts[3] >= 4 and counts[4] >= 2, thing.name
    for style in second.styles:
        assert len(style.variants) >= 3 and len(style.variants_heldout) >= 3
        assert all(v.count("{}") == 1 and style.name in v for v in (*style.variants, *style.variants_heldout))


def test_captions_of_the_second_vocabulary_fit_the_encoder() -> None:
    from genward import lab

    tokenizer, _ = lab.text_encoder()
    words = data.second_vocabulary()
    world = data.World.build([(t.name, s) for t in words.things for s in words.style_names])
    rng = random.Random(3)
    captions = [world.sample(words, rng, scene=share)[2] for share in (0.0, 1.0) for _ in range(400)]
    assert max(len(ids) for ids in tokenizer(captions, truncation=False).input_ids) <= lab.TOKENS
