"""ActErase's rules against plain loops in float64; gated and plain feed-forward networks; what a patch keeps and
refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.attention import FeedForward
from torch import Tensor

from genward.core import Case, Sampler
from genward.defenses._acterase import (
    Pairs,
    Patch,
    aggregate,
    agreed,
    learned,
    mask_name,
    mask_of,
    packed,
    patched,
    safe_name,
    scores,
    unpacked,
)
from genward.errors import BadArtifact, Inapplicable
from genward.ops.activations import AtSite, record
from genward.testing import tiny_sd

FF = "mid_block.attentions.0.tb.0.ff"


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_scores(hidden: Tensor, weight: Tensor, site: str) -> Tensor:
    rows, n, h = hidden.shape
    out = torch.zeros(rows, n, len(weight) if site == "output" else h, dtype=torch.float64)
    for r in range(rows):
        for p in range(n):
            if site == "output":
                for i in range(len(weight)):
                    out[r, p, i] = sum(abs(float(weight[i, j])) * abs(float(hidden[r, p, j])) for j in range(h))
            else:
                for j in range(h):
                    length = sum(float(w) ** 2 for w in weight[:, j]) ** 0.5
                    out[r, p, j] = abs(float(hidden[r, p, j])) * length
    return out


def slow_mask(source: Tensor, target: Tensor, tau: float, form: str, within: str) -> Tensor:
    rows, n, c = source.shape
    out = torch.zeros(rows, n, c, dtype=torch.bool)
    for r in range(rows):
        for p in range(n):
            for k in range(c):
                value = float(source[r, p, k])
                least = tau
                if form == "fraction":
                    among = sorted(
                        map(float, (source[r] if within == "layer" else source[r, p]).flatten()), reverse=True
                    )
                    least = among[max(1, int(tau * len(among) + 0.5)) - 1]
                out[r, p, k] = value >= least and value < float(target[r, p, k])
    return out


@pytest.mark.parametrize("site", ["output", "hidden"])
def test_scores_are_those_of_a_plain_loop(site: str) -> None:
    hidden, weight = random(2, 5, 8), random(3, 8, seed=1)
    assert torch.allclose(scores(hidden, weight, site), slow_scores(hidden, weight, site), rtol=1e-12)


@pytest.mark.parametrize("form", ["fraction", "absolute"])
@pytest.mark.parametrize("within", ["layer", "token"])
@pytest.mark.parametrize("tau", [0.01, 0.3, 1.0])
def test_the_mask_rule_is_that_of_a_plain_loop(form: str, within: str, tau: float) -> None:
    source, target = random(3, 6, 7).abs(), random(3, 6, 7, seed=1).abs()
    source[0, 0, :3] = source[0, 0, 0]  # ties count on both sides of the share
    mask = mask_of(source, target, tau, form, within)
    assert torch.equal(mask, slow_mask(source, target, tau, form, within)) and not mask.all()
    assert mask.any() or tau < 0.1
    assert not mask_of(source, source, tau, form, within).any(), "equal paths leave nothing to exchange"
    if form == "fraction" and within == "layer":
        assert int(mask_of(source, source + 1, tau, form)[1].sum()) == max(1, round(tau * 42)), "density is the share"


@pytest.mark.parametrize(("agree", "least"), [(0.5, 5), (0.1, 1), (0.55, 6), (1.0, 10), (0.01, 1)])
def test_a_share_of_the_pairs_must_agree(agree: float, least: int) -> None:
    assert agreed(torch.arange(11), 10, agree).tolist() == [k >= least for k in range(11)]


def test_concepts_are_aggregated_as_published() -> None:
    parts = [(random(4, 5, seed=k) > 0, random(4, 5, seed=10 + k)) for k in range(3)]
    mask, safe = aggregate(parts)
    for p in range(4):
        for k in range(5):
            mine = [float(x[p, k]) for m, x in parts if m[p, k]]
            assert bool(mask[p, k]) == bool(mine)
            assert float(safe[p, k]) == pytest.approx(sum(mine) / max(1, len(mine)), rel=1e-12)
    alone = aggregate(parts[:1])
    assert torch.equal(alone[0], parts[0][0]) and torch.equal(
        alone[1], torch.where(*parts[0], torch.zeros(4, 5).double())
    )


def test_a_patch_is_the_mixture_by_hand() -> None:
    x, safe, mask = random(2, 4, 5), random(4, 5, seed=1), random(4, 5, seed=2) > 0
    rows = torch.tensor([True, False])
    for strength in (1.0, 0.4):
        new = patched(x, mask, safe, rows, strength)
        assert torch.equal(new[1], x[1])
        m = mask.double() * strength
        assert torch.allclose(new[0], m * safe + (1 - m) * x[0], rtol=1e-12)
    assert torch.equal(patched(x, mask, safe, rows)[0], torch.where(mask, safe, x[0])), "whole strength is exact"
    assert torch.equal(patched(x, torch.zeros_like(mask), safe, rows), x)


@pytest.mark.parametrize("kind", ["geglu", "gelu"])
def test_the_second_map_is_given_what_is_behind_the_gate(kind: str) -> None:
    """``net[0]`` holds gate and GELU, ``net[2]`` is the second map: W2 · hidden + b2 is the network's output."""
    torch.manual_seed(0)
    net = FeedForward(6, mult=4, activation_fn=kind).double().eval()
    x = random(2, 5, 6)
    hidden, second = net.net[0](x), net.net[2]
    assert torch.allclose(net(x), hidden @ second.weight.T + second.bias) and hidden.shape[-1] == 24
    if kind == "geglu":
        value, gate = (x @ net.net[0].proj.weight.T + net.net[0].proj.bias).chunk(2, -1)
        assert torch.allclose(hidden, value * torch.nn.functional.gelu(gate))
    assert scores(hidden, second.weight).shape == (2, 5, 6)


# ----------------------------------------------------------------------------------------------------------- collecting

SAFE = {"a saw": "a cup", "an axe": "a bowl"}
STEPS = 3


def pairs(**how: Any) -> Any:
    cases = [Case(f"p{k}", text, seed=k) for k, text in enumerate(SAFE)]
    return record(tiny_sd(), cases, Sampler(STEPS, 3.0), [Pairs(SAFE, (FF,), tau=0.2, **how)], in_memory=True)


@pytest.fixture(scope="module")
def paths() -> dict[str, Tensor]:
    """(cases, steps, n, …) states of the safe path, and of the concept's captions on the same latents."""
    model, sampler = tiny_sd(), Sampler(STEPS, 3.0)
    cases = [Case(f"p{k}", text, seed=k) for k, text in enumerate(SAFE.values())]
    read = [AtSite(FF, exact=True), AtSite(FF + ".hidden", exact=True)]
    found = record(model, cases, sampler, read, in_memory=True)
    out = {"safe": found.dense(FF), "hidden": found.dense(FF + ".hidden")}
    texts, told = model.encode(list(SAFE)), []

    class Beside:
        name = "beside"

        def attach(self, rig: Any) -> None:
            def before(call: Any, frame: Any) -> Any:
                half = len(call.latents) // 2
                mine = type(call)(call.latents[half:], call.timestep[half:], texts)
                told.append(rig.predict(mine, read=[FF + ".hidden"]).sites[FF + ".hidden"])
                return call

            rig.inputs(before)

    model.generate(cases, sampler, [Beside()])
    return {
        **out,
        "target": torch.stack(told, 1),
        "weight": model.unet.get_submodule(FF.replace("tb.", "transformer_blocks.")).net[2].weight,
    }


@pytest.mark.parametrize("masks", ["union", "last", "timestep"])
@pytest.mark.parametrize("average", ["all", "timestep"])
@pytest.mark.parametrize("site", ["output", "hidden"])
def test_pairs_are_recorded_as_the_definition_says(
    masks: str, average: str, site: str, paths: dict[str, Tensor]
) -> None:
    found = pairs(masks=masks, average=average, site=site)
    weight, x = paths["weight"], paths["safe" if site == "output" else "hidden"]
    each = torch.stack([
        mask_of(scores(paths["hidden"][:, s], weight, site), scores(paths["target"][:, s], weight, site), 0.2)
        for s in range(STEPS)
    ], 1)  # fmt: skip
    wanted = {"union": each.any(1, keepdim=True), "last": each[:, -1:], "timestep": each}[masks]
    mean = x.mean(1, keepdim=True) if average == "all" else x
    assert torch.equal(found.dense(mask_name(FF)).bool(), wanted) and wanted.any()
    assert torch.allclose(found.dense(safe_name(FF)), mean, rtol=1e-5, atol=1e-6)
    for groups, parts in ((torch.tensor([0, 0]), 1), (torch.tensor([0, 1]), 2)):
        times, mask, safe = learned(found, FF, groups, 0.5)
        assert len(times) == (1 if masks != "timestep" and average == "all" else STEPS)
        assert torch.equal(mask, wanted.any(0).expand_as(mask)), "one of two is half, and concepts are joined by OR"
        count = wanted.sum(0) if parts == 2 else None
        own = (
            torch.where(wanted, mean, torch.zeros(())).sum(0) / count.clamp(min=1)
            if count is not None
            else mean.mean(0)
        )
        assert torch.allclose(safe, torch.where(mask, own.expand_as(safe), torch.zeros(())), rtol=1e-5, atol=1e-6)


def test_channels_alone_are_means_over_the_picture(paths: dict[str, Tensor]) -> None:
    found = pairs(axis="channels", masks="timestep", average="timestep")
    assert torch.allclose(found.dense(safe_name(FF)), paths["safe"].mean(2, keepdim=True), rtol=1e-5, atol=1e-6)
    score = [scores(paths[k], paths["weight"]).mean(2, keepdim=True) for k in ("hidden", "target")]
    wanted = torch.stack([mask_of(score[0][:, s], score[1][:, s], 0.2) for s in range(STEPS)], 1)
    assert torch.equal(found.dense(mask_name(FF)).bool(), wanted)


# -------------------------------------------------------------------------------------------------------------- keeping


def made(k: int = 3, dtype: torch.dtype = torch.float32) -> tuple[Patch, dict[str, Tensor]]:
    times, mask, safe = torch.tensor([900.0, 500.0, 100.0][:k]), random(k, 4, 5) > 0.3, random(k, 4, 5, seed=1).float()
    return Patch(times, mask, torch.where(mask, safe, torch.zeros(()))), packed("x.ff", times, mask, safe, dtype)


def test_what_is_kept_comes_back() -> None:
    patch, tensors = made()
    assert all(torch.equal(a, b) for a, b in zip(unpacked(tensors, "x.ff"), patch, strict=True))
    empty = packed(
        "x.ff", torch.tensor([5.0]), torch.zeros(1, 4, 5, dtype=torch.bool), torch.zeros(1, 4, 5), torch.float16
    )
    assert not unpacked(empty, "x.ff").mask.any() and unpacked(empty, "x.ff").mask.shape == (1, 4, 5)


def test_entries_are_chosen_by_timestep_and_interpolated() -> None:
    patch = made()[0]
    mask, safe = patch.at(torch.tensor([800.0, 800.0]))
    both = patch.mask[0] & patch.mask[1]
    assert torch.equal(mask, patch.mask[0]), "the nearer entry's mask"
    assert torch.allclose(safe, torch.where(both, 0.75 * patch.safe[0] + 0.25 * patch.safe[1], patch.safe[0]))
    mask, safe = patch.at(torch.tensor([500.0, 100.0]))
    assert torch.equal(mask, patch.mask[1:]) and torch.equal(safe, patch.safe[1:]), "rows at their own timesteps"
    assert torch.equal(patch.at(torch.tensor([999.0]))[1], patch.safe[0]), "within one gap the last entry stands in"
    one = made(1)[0]
    assert torch.equal(one.at(torch.tensor([3.0, 700.0]))[0], one.mask[0]), "one entry holds at all timesteps"
    with pytest.raises(Inapplicable, match="timestep 1400 lies outside"):
        patch.at(torch.tensor([1400.0]))


@pytest.mark.parametrize(
    "change",
    [
        {"places": torch.tensor([0.5])},
        {"places": torch.full((20,), 99.0)},
        {"counts": torch.tensor([1.0, -1.0, 20.0])},
        {"counts": torch.tensor([1.0])},
        {"values": torch.zeros(2)},
        {"shape": torch.tensor([4.0, 0.0])},
        {"shape": torch.tensor([4.0, 5.0, 6.0])},
        {"times": torch.tensor([900.0, 900.0, 100.0])},
        {"times": None},
    ],
    ids=str,
)  # fmt: skip
def test_numbers_that_do_not_go_together_are_refused(change: dict[str, Any]) -> None:
    tensors = made()[1]
    for part, value in change.items():
        tensors |= {f"x.ff.{part}": value}
    with pytest.raises(BadArtifact, match="does not go together"):
        unpacked({k: v for k, v in tensors.items() if v is not None}, "x.ff")
