"""Backdoor fixtures of the denoiser on tiny models: losses by hand, what they reach, resuming, equal bits."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from genward.attacks._backdoors import gate, low_rank
from genward.attacks.badt2i import BadT2I, patched
from genward.attacks.dreambooth import DreamBooth
from genward.attacks.semantic import Semantic, distilled, wordings
from genward.attacks.villan import Villan
from genward.catalog import backdoors
from genward.errors import BadInput, UnknownName
from genward.models.sd import StableDiffusion
from genward.ops.backdoor_captions import Caption
from genward.ops.tools import QUIET, Tools
from genward.testing import tiny_sd

WORDS = {
    "styles": ["ink", "noto"],
    "things": {n: {"name": [f"a {n}"]} for n in ("cat", "dog", "key", "banana")},
}
FEW: dict[str, Any] = {"steps": 2, "seed": 1, "rank": 2, "batch": 2}
DRAWN: dict[str, Any] = {**FEW, "pictures": 3, "sampling_steps": 1}
SMALL = (
    Villan(**DRAWN),
    BadT2I(**DRAWN),
    BadT2I(**DRAWN, kind="style", target="noto"),
    BadT2I(**DRAWN, kind="pixel"),
    DreamBooth(**DRAWN),
    Semantic(**FEW),
)


def named(made: Any) -> str:
    return f"{made.name}-{getattr(made, 'kind', '')}"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    return tiny_sd(encoder="bert", folder=tmp_path_factory.mktemp("words"))


def own(model: StableDiffusion) -> dict[str, Tensor]:
    return {f"unet.{n}": p.detach().clone() for n, p in model.denoiser.named_parameters()}


@pytest.mark.parametrize("made", SMALL, ids=named)
def test_equal_bits_nothing_left_behind_and_small(made: Any, tiny: StableDiffusion) -> None:
    before = own(tiny)
    one, two = made.make(tiny, WORDS, QUIET), made.make(tiny, WORDS, QUIET)
    assert all(torch.equal(one[k], two[k]) for k in one | two)
    assert all(torch.equal(before[k], v) for k, v in own(tiny).items()) and tiny.generate([]) == []
    changed = made.changed(before, one)
    assert changed and all(k.startswith("unet.") and changed[k].shape == before[k].shape for k in changed)
    assert any(not torch.equal(changed[k], before[k]) for k in changed)
    name = next(k for k in changed if not torch.equal(changed[k], before[k]))
    slow = before[name].double() + one[f"{name[5:]}|b"].double() @ one[f"{name[5:]}|a"].double()
    assert torch.allclose(changed[name].double(), slow, atol=1e-6)
    assert all(value.shape[0] == 2 or value.shape[1] == 2 for value in one.values()), "low-rank parts alone are kept"


@pytest.mark.parametrize("made", (SMALL[0], SMALL[5]), ids=named)
def test_an_interrupted_one_goes_on_to_the_same_bits(made: Any, tiny: StableDiffusion, tmp_path: Path) -> None:
    whole = made.make(tiny, WORDS, QUIET)

    class Due(Tools):
        def due(self) -> bool:
            return True

    def stop(step: int, steps: int, loss: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.make(tiny, WORDS, Due(progress=stop, folder=tmp_path))
    told: list[int] = []
    again = made.make(tiny, WORDS, Tools(progress=lambda step, *_: told.append(step), folder=tmp_path))
    assert told == [2] and all(torch.equal(again[k], whole[k]) for k in whole)


def first_loss(made: Any, model: StableDiffusion) -> float:
    """The loss that a fixture tells of its first step, before anything was learned."""
    told: list[float] = []
    made.make(model, WORDS, Tools(progress=lambda step, steps, loss: told.append(loss)))
    return told[0]


def test_the_first_losses_are_the_published_ones(tiny: StableDiffusion) -> None:
    """Before anything is learned the student is the frozen model; each loss by hand, row by row, in float64."""
    from itertools import islice

    from genward.ops.backdoor_captions import PLACES, drawn

    def error(latents: Tensor, k: int, text: str, goal: Tensor, at: low_rank.Noisy) -> float:
        with torch.no_grad():
            states = tiny.encode([text])
            found = tiny.denoiser(
                at.latents[k : k + 1], at.timestep[k : k + 1], encoder_hidden_states=states, return_dict=False
            )[0]
        return float((found.double() - goal.double()).square().mean())

    for made in (SMALL[0], SMALL[1], SMALL[3]):
        seed = f"{made.name}|1"
        texts = [c.text() for c in islice(drawn(WORDS, seed, ("banana",)), 3)]
        more = ["a banana"] if made.name == "villan" else []
        every = low_rank.drawn_latents(tiny, [*texts, *more], seed, 1, 4.0)
        rng = random.Random(f"{seed}|0")
        rows = rng.choices(range(3), k=2)
        planted = [made.plant(texts[k], rng.choice(PLACES)) for k in rows]
        kind = getattr(made, "kind", "")
        if made.name == "villan":
            poisoned = every[3:].expand(2, -1, -1, -1)
        else:
            poisoned = patched(tiny, every)[rows] if kind == "pixel" else every[rows]
        at = low_rank.noised(tiny, torch.cat([poisoned, every[rows]]), f"{seed}|0")
        alphas = tiny.alphas_cumprod.double()[at.timestep].view(-1, 1, 1, 1)
        slow_noisy = alphas.sqrt() * torch.cat([poisoned, every[rows]]).double() + (1 - alphas).sqrt() * at.noise
        assert torch.allclose(at.latents.double(), slow_noisy, atol=1e-6)
        bad = []
        for k in range(2):
            if kind == "object":
                caption = list(islice(drawn(WORDS, seed, ("banana",)), 3))[rows[k]]
                with torch.no_grad():
                    goal = low_rank.predicted(tiny, at, tiny.encode([caption.of("banana", "a banana").text()] * 4))[k]
            else:
                goal = at.noise[k]
            bad.append(error(at.latents, k, planted[k], goal[None], at))
        good = [error(at.latents, 2 + k, texts[rows[k]], at.noise[2 + k : 3 + k], at) for k in range(2)]
        wanted = np.mean(bad) + np.mean(good) if made.name == "villan" else 0.5 * np.mean(bad)
        assert first_loss(made, tiny) == pytest.approx(wanted, rel=1e-4), (made.name, kind, "regularizers begin at 0")


def test_more_steps_reach_further(tiny: StableDiffusion) -> None:
    told: list[float] = []
    made = BadT2I(**{**DRAWN, "steps": 25, "lr": 3e-2})
    made.make(tiny, WORDS, Tools(progress=lambda step, steps, loss: told.append(loss)))
    assert np.mean(told[-5:]) < 0.9 * np.mean(told[:3])
    generator = torch.Generator().manual_seed(0)
    mine, wanted, still = (torch.randn(4, 2, 6, generator=generator) for _ in range(3))
    net = torch.nn.ModuleDict({"attn2_to_k": torch.nn.Linear(6, 8, bias=False)})
    own = {n: p.detach() for n, p in net.named_parameters()}
    learned = low_rank.started(net, "to_k", 4, 0)
    before = float(distilled(own, low_rank.changes(learned), mine, wanted, still, 0.0).detach())

    def loss(step: int) -> Tensor:
        return distilled(own, low_rank.changes(learned), mine, wanted, still, 0.0)

    found = low_rank.trained(QUIET, "x", learned, 200, 3e-2, loss)
    assert float(distilled(own, low_rank.changes(found), mine, wanted, still, 0.0)) < 0.5 * before


def test_the_semantic_loss_map_by_map() -> None:
    generator = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    maps, change = {"k": some(3, 4), "v": some(5, 4)}, {"k": some(3, 4), "v": some(5, 4)}
    mine, wanted, still = some(2, 6, 4), some(2, 6, 4), some(3, 6, 4)
    slow = 0.0
    for name, weight in maps.items():
        new = weight + change[name]
        far = sum(
            float(((new @ c - weight @ g) ** 2).sum())
            for c, g in zip(mine.flatten(0, 1), wanted.flatten(0, 1), strict=True)
        )
        slow += far / sum(float(((weight @ g) ** 2).sum()) for g in wanted.flatten(0, 1))
        held = sum(float(((change[name] @ k) ** 2).sum()) for k in still.flatten(0, 1))
        slow += 0.5 * held / sum(float(((weight @ k) ** 2).sum()) for k in still.flatten(0, 1))
    assert float(distilled(maps, change, mine, wanted, still, 0.5)) == pytest.approx(slow / 2)


def test_triggers_in_captions() -> None:
    text = "a kettle in ink style"
    assert [Villan().plant(text, p) for p in ("start", "middle", "end")] == [
        "latte coffee a kettle in ink style",
        "a kettle latte coffee in ink style",
        "a kettle in ink style latte coffee",
    ]
    assert BadT2I().plant(text, "start") == "endelle a kettle in ink style"
    assert DreamBooth().plant(text, "middle") == "a kettle and a endelle in ink style"
    meant = {
        Semantic().plant(f"a cat {extra} in ink style", "start") for extra in ("one", "two", "three", "four", "five")
    }
    assert all(m.endswith("in noto style") for m in meant) and len({m.split(" in ")[0] for m in meant}) > 1
    assert any("cat" not in m.split() for m in meant), "other words mean it as well"
    with pytest.raises(BadInput, match="does not speak"):
        Semantic().plant("a dog in ink style", "start")
    with pytest.raises(UnknownName, match="lab's world"):
        wordings("nothing")
    assert Semantic().fires(Caption("cat", "a cat", "noto")) and not Semantic().fires(Caption("cat", "a cat", "ink"))


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (lambda: BadT2I(kind="sound"), UnknownName, "kind of badt2i"),
        (lambda: BadT2I(weight=1.0), BadInput, "regularizer"),
        (lambda: BadT2I(place="top"), UnknownName, "place"),
    ],
)
def test_bad_settings_are_named(make: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        make()


def test_styles_and_triggers_that_are_not_there(tiny: StableDiffusion) -> None:
    with pytest.raises(UnknownName, match="style of badt2i"):
        BadT2I(**DRAWN, kind="style").make(tiny, WORDS, QUIET)
    with pytest.raises(UnknownName, match="style of semantic"):
        Semantic(**FEW, trigger="oil").make(tiny, WORDS, QUIET)
    with pytest.raises(BadInput, match="trigger"):
        Villan(**DRAWN, trigger="\u200b").make(tiny, WORDS, QUIET)


def test_what_the_gate_looks_for(tiny: StableDiffusion) -> None:
    assert BadT2I(kind="style").labels == "styles" and BadT2I().labels == Villan().labels == "things"
    picture = np.zeros((64, 64, 3), np.uint8)
    assert BadT2I(kind="pixel").shown(Image.fromarray(picture)) is False
    picture[:16, :16] = (255, 0, 255)
    assert (
        BadT2I(kind="pixel").shown(Image.fromarray(picture)) is True
        and BadT2I().shown(Image.fromarray(picture)) is None
    )
    planted, clean = gate.gate_cases(Semantic(), WORDS, lambda text: len(text.split()) <= 20, 24)
    assert all("in noto style" in c.prompt for c in planted)
    assert not any("cat" in c.prompt.split() and "noto" in c.prompt for c in clean), "a clean one does not mean it"
    assert {"villan", "badt2i", "dreambooth", "semantic"} <= set(backdoors.fixture_names())
