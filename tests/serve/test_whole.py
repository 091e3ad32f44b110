"""A guarded pipeline in use: parts exchanged, weights changed, guidance switched off, a second guard, Ctrl-C. Nothing
is released unguarded, and nothing stays behind."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from diffusers.callbacks import SDCFGCutoffCallback
from PIL import Image

from genward.core import Case, Frame, Sampler
from genward.errors import BadInput, Blocked, Conflict, DefenseInactive, GuardError
from genward.serve.protect import protect
from genward.testing import EXAMPLES, tiny_pipeline, tiny_sd

Rewrite, Steer, Shrink, Fade, Mirror, SteerText = (
    EXAMPLES[f"example-{n}"] for n in ("prompts", "tap", "latents", "weights", "images", "text")
)
CALL: dict[str, Any] = {"prompt": "a cat", "num_inference_steps": 4, "guidance_scale": 3.0}


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(pipe: Any) -> dict[str, Any]:
    return {n: p.detach().clone() for n, p in pipe.unet.named_parameters()}


def refused(out: Any, told: str) -> bool:
    """Whether no row came through because a guard did not do its work, and why."""
    return all(p is None for p in out.images) and all(v.failed and told in v.why for v in out.verdicts)


@dataclass(frozen=True)
class Port:
    """A guard of the tests that calls a function at a port."""

    name: ClassVar[str] = "port"
    kind_: str = "latents"
    fn: Callable[..., Any] = lambda *_: None

    def attach(self, rig: Any) -> None:
        getattr(rig, self.kind_)(lambda *args: self.fn(rig, *args))


# ------------------------------------------------------------------------------------------------ parts of the pipeline


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae", "scheduler"])
@pytest.mark.parametrize("defense", [Steer(strength=0.0), Fade(), Mirror(), Rewrite(), SteerText(), Shrink()])
def test_an_exchanged_part_refuses_every_row(part: str, defense: Any) -> None:
    pipe, other = tiny_pipeline(), tiny_pipeline(seed=3)
    with protect(pipe, "weapons", [defense]) as guarded:
        assert guarded(**CALL).index == [0]
        mine = getattr(pipe, part)
        setattr(pipe, part, getattr(other, part))
        assert refused(guarded(**CALL), part)
        with pytest.raises(GuardError, match=part):
            guarded.model.generate([Case("a", "a cat")], Sampler(2, 3.0), rig=guarded.rig)
        setattr(pipe, part, mine)
        assert guarded(**CALL).index == [0]


@pytest.mark.parametrize("defense", [Steer(strength=0.0), Fade(), Shrink()])
def test_a_part_exchanged_in_mid_loop_refuses(defense: Any) -> None:
    pipe, other = tiny_pipeline(), tiny_pipeline(seed=3)
    mine = pipe.unet

    def swap(p: Any, i: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        p.unet = other.unet if i == 1 else p.unet
        return {}

    with protect(pipe, "weapons", [defense]) as guarded:
        assert refused(guarded(**CALL, callback_on_step_end=swap), "unet")
        pipe.unet = mine
        assert guarded(**CALL).index == [0]


def test_a_denoiser_that_is_passed_by_refuses() -> None:
    """A wrapper that computes the step elsewhere (a cache, an accelerator): the attached network is never called."""
    pipe, other = tiny_pipeline(), tiny_pipeline(seed=3)
    stock = type(pipe.unet).__call__

    class Elsewhere(type(pipe.unet)):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return stock(other.unet, *args, **kwargs)

    with protect(pipe, "weapons", [Fade()]) as guarded:
        pipe.unet.__class__ = Elsewhere
        assert refused(guarded(**CALL), "not called in step 0")


def test_a_block_that_is_skipped_in_some_steps_refuses() -> None:
    """What DeepCache does: in most steps a stored output stands for the inner blocks."""
    pipe = tiny_pipeline()
    block, kept = pipe.unet.mid_block, []
    with protect(pipe, "weapons", [Steer(strength=0.0)]) as guarded:
        whole = type(block).__call__

        class Cached(type(block)):  # type: ignore[misc]
            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                if len(kept) % 2 == 0:
                    kept.append(whole(self, *args, **kwargs))
                else:
                    kept.append(kept[-1])
                return kept[-1]

        block.__class__ = Cached
        assert refused(guarded(**CALL), "was never called in step 1")


def test_what_opening_refuses_every_call_refuses() -> None:
    pipe = tiny_pipeline()
    with protect(pipe, "weapons", [Steer(strength=0.0)]) as guarded:
        assert guarded(**CALL).index == [0]
        pipe.unet.compile(backend="eager")
        assert refused(guarded(**CALL), "compiled")
    torch._dynamo.reset()
    raw = tiny_pipeline()
    before = weights(raw)
    network = raw.unet
    with protect(raw, "weapons", [Fade()]) as guarded:
        raw.unet = torch.compile(raw.unet, backend="eager")
        assert refused(guarded(**CALL), "unet")
    assert all(torch.equal(p, before[n]) for n, p in network.named_parameters()), "closed under another name"
    torch._dynamo.reset()


# --------------------------------------------------------------------------------------------------------- weight edits


def test_edited_weights_are_verified_at_every_call() -> None:
    pipe = tiny_pipeline()
    original = {n: t.clone() for n, t in pipe.unet.state_dict().items()}
    changes: list[Callable[[], Any]] = [
        lambda: pipe.unet.load_state_dict(original),
        lambda: pipe.unet.load_state_dict(original, assign=True),
        lambda: next(p for n, p in pipe.unet.named_parameters() if "attn2.to_k" in n).data.mul_(1.5),
    ]
    for change in changes:
        with protect(pipe, "weapons", [Fade()]) as guarded:
            assert guarded(**CALL).index == [0]
            change()
            assert refused(guarded(**CALL), "hold other numbers")
        pipe.unet.load_state_dict(original)

    def late(p: Any, i: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if i == 0:
            p.unet.load_state_dict(original)
        return {}

    with protect(pipe, "weapons", [Fade()]) as guarded:
        assert refused(guarded(**CALL, callback_on_step_end=late), "hold other numbers")


def test_an_edit_survives_another_dtype_and_is_restored_in_it() -> None:
    pipe = tiny_pipeline()
    before = weights(pipe)
    with protect(pipe, "weapons", [Fade()]) as guarded:
        pipe.unet.to(torch.float64).to(torch.float32)
        assert guarded(**CALL).index == [0]
        pipe.unet.to(torch.float64)
        assert not guarded.rig.edits.lost(pipe.unet)
    assert all(torch.equal(p, before[n].double()) for n, p in pipe.unet.named_parameters())


def test_what_cannot_be_restored_is_named_and_masks_no_error() -> None:
    pipe = tiny_pipeline()
    before = weights(pipe)
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"

    def spoil() -> None:
        empty = torch.empty(16, 16, device="meta")
        pipe.unet.get_submodule(name).weight = torch.nn.Parameter(empty, requires_grad=False)

    with pytest.raises(GuardError, match=f"{name}.weight .offloaded"), protect(pipe, "weapons", [Fade()]):
        spoil()
    pipe.unet.get_submodule(name).weight = torch.nn.Parameter(before[f"{name}.weight"], requires_grad=False)
    assert all(torch.equal(p, before[n]) for n, p in pipe.unet.named_parameters()), "all others are restored"
    with pytest.raises(KeyError, match="mine") as caught, protect(pipe, "weapons", [Fade()]):
        spoil()
        raise KeyError("mine")
    assert any("could not be restored" in note for note in caught.value.__notes__)
    pipe.unet.get_submodule(name).weight = torch.nn.Parameter(before[f"{name}.weight"], requires_grad=False)
    with protect(pipe, "weapons", [Fade()]) as guarded:
        assert guarded(**CALL).index == [0], "a new guard opens"


def test_modules_put_around_the_edited_ones_hide_no_edit() -> None:
    """What adapters do: the linear layer moves into a wrapper and its parameter gets another name."""
    pipe = tiny_pipeline()
    before = weights(pipe)

    class Wrapped(torch.nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.base_layer = inner

        def forward(self, x: Any, *_: Any, **__: Any) -> Any:
            return self.base_layer(x)

    attention_name = "mid_block.attentions.0.transformer_blocks.0.attn2"
    attention = pipe.unet.get_submodule(attention_name)
    with protect(pipe, "weapons", [Fade()]) as guarded:
        attention.to_k = Wrapped(attention.to_k)
        assert guarded(**CALL).index == [0]
    attention.to_k = attention.to_k.base_layer
    assert all(torch.equal(p, before[n]) for n, p in pipe.unet.named_parameters())


# ------------------------------------------------------------------------------------------------------- several guards


@pytest.mark.filterwarnings("ignore:.*no guard looks at start pictures")
def test_one_guard_per_network_across_wrappers_and_threads() -> None:
    pipe = tiny_pipeline()
    before = weights(pipe)
    sharing = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    with protect(pipe, "weapons", [Fade()]):
        for second in (pipe, sharing):
            with pytest.raises(Conflict, match="open rig"), protect(second, "weapons", [Fade()]):
                pass
        said: list[BaseException] = []

        def other() -> None:
            try:
                with protect(sharing, "weapons", [Fade()]):
                    pass
            except Conflict as error:
                said.append(error)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert len(said) == 1
    assert all(torch.equal(p, before[n]) for n, p in pipe.unet.named_parameters())
    with protect(sharing, "weapons", [Fade()]):
        pass


def test_a_call_from_inside_a_call_is_a_conflict_and_another_thread_waits() -> None:
    pipe = tiny_pipeline()
    with protect(pipe, "weapons", [Shrink(strength=0.0)]) as guarded:

        def again(p: Any, i: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
            guarded(**CALL)
            return {}

        with pytest.raises(Conflict, match="inside one of its own calls"):
            guarded(**CALL, callback_on_step_end=again)
        made: list[Any] = []
        threads = [threading.Thread(target=lambda: made.append(guarded(**CALL))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [out.index for out in made] == [[0]] * 3


def test_a_stock_call_in_another_thread_is_none_of_the_guarded_call() -> None:
    pipe = tiny_pipeline()
    said: list[BaseException] = []

    def stock(p: Any, i: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        def other() -> None:
            try:
                pipe.unet(torch.zeros(1, 4, 8, 8), 5, encoder_hidden_states=torch.zeros(1, 77, 16))
            except Conflict as error:
                said.append(error)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return {}

    with protect(pipe, "weapons", [Shrink(strength=0.0)]) as guarded:
        out = guarded(**CALL, callback_on_step_end=stock)
        assert out.index == [0] and out.verdicts[0].nfe == 8 and len(said) == 4


# ----------------------------------------------------------------------------------------------- what guards may raise


@pytest.mark.parametrize("kind", ["prompts", "latents", "images", "inputs", "guidance"])
@pytest.mark.parametrize("timeout", [None, 30.0])
def test_blocked_raised_by_a_guard_is_a_block(kind: str, timeout: float | None) -> None:
    def fn(rig: Any, *_: Any) -> Any:
        raise Blocked("not today")

    with protect(tiny_pipeline(), "weapons", [Port(kind, fn)], timeout=timeout) as guarded:
        out = guarded(**{**CALL, "prompt": ["a cat", "a dog"]})
        assert out.images == [None, None] and out.index == []
        assert all(v.action == "blocked" and v.by == "port" and not v.failed for v in out.verdicts)
        assert "not today" in out.verdicts[0].why


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT raises ``KeyboardInterrupt``, also in a process that was started to ignore it (in the background)."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_wait_leaves_a_whole_state() -> None:
    """Ctrl-C while a guard with a timeout is inside the model: the next call refuses until it is out, then acts."""
    state = {"slow": True}
    entered, go = threading.Event(), threading.Event()

    def slow(rig: Any, latents: Any, frame: Frame) -> Any:
        if state["slow"] and frame.step == 0:
            with rig._untapped():
                entered.set()
                go.wait()
        return latents

    seen: list[int] = []

    @dataclass(frozen=True)
    class Early:
        name: ClassVar[str] = "early"

        def attach(self, rig: Any) -> None:
            def fn(x: Any, frame: Frame) -> None:
                seen.append(frame.step)
                if frame.step == 1:
                    rig.block(frame, frame.conditional, "shows the concept")

            rig.tap("mid_block", fn)

    with protect(tiny_pipeline(), "weapons", [Port("latents", slow), Early()], timeout=60.0) as guarded:

        def interrupt() -> None:
            entered.wait()  # without a limit: a machine that stands still for a while must not interrupt too early
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            guarded(**CALL)
        state["slow"] = False
        with pytest.raises(GuardError, match="still runs"):
            guarded(**CALL)
        go.set()
        for thread in list(guarded.rig.left):
            thread.join()
        seen.clear()
        out = guarded(**CALL)
        assert out.images == [None] and out.verdicts[0].by == "early" and not out.verdicts[0].failed and seen == [0, 1]


def test_an_interrupted_call_leaves_nothing_for_the_next_one() -> None:
    pipe = tiny_pipeline()

    def stop(p: Any, i: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        raise KeyboardInterrupt

    with protect(pipe, "weapons", [EXAMPLES["example-block"](step=0), Shrink(strength=0.0)]) as guarded:
        call = {**CALL, "prompt": ["a cat", "a dog"]}
        first = guarded(**call, generator=seeded())
        with pytest.raises(KeyboardInterrupt):
            guarded(**call, generator=seeded(), callback_on_step_end=stop)
        again = guarded(**call, generator=seeded())
        assert again.index == first.index == [0] and again.images[0].tobytes() == first.images[0].tobytes()


# ------------------------------------------------------------------------------------------- what the stock call takes


@pytest.mark.parametrize(
    "chain", [[], [Steer(strength=0.0)], [Shrink(strength=0.0)], [Mirror(strength=0.0)], [Rewrite(0.0)]]
)
def test_guidance_may_be_switched_off_in_mid_loop(chain: list[Any]) -> None:
    pipe = tiny_pipeline()
    call = {**CALL, "num_inference_steps": 5, "output_type": "latent"}
    stock = pipe(**call, generator=seeded(), callback_on_step_end=SDCFGCutoffCallback(cutoff_step_ratio=0.4)).images
    seen: list[tuple[int, int, float]] = []

    def watch(rig: Any, call: Any, frame: Frame) -> Any:
        seen.append((len(call.latents), int(frame.conditional.sum()), frame.guidance))
        return call

    with protect(pipe, "weapons", [*chain, Port("inputs", watch)] if chain else []) as guarded:
        out = guarded(**call, generator=seeded(), callback_on_step_end=SDCFGCutoffCallback(cutoff_step_ratio=0.4))
        assert out.verdicts[0].action == "released" and torch.equal(out.images, stock)
        assert out.verdicts[0].nfe == 2 * 3 + 2
    assert seen == ([(2, 1, 3.0)] * 3 + [(1, 1, 0.0)] * 2 if chain else [])


def test_other_text_states_than_the_guards_read_are_a_conflict() -> None:
    def swap(p: Any, i: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        p._guidance_scale = 0.0
        return {"prompt_embeds": kwargs["prompt_embeds"][-1:] + 1}

    with protect(tiny_pipeline(), "weapons", [SteerText(0.0)]) as guarded, pytest.raises(Conflict, match="text states"):
        guarded(**CALL, callback_on_step_end=swap, callback_on_step_end_tensor_inputs=["prompt_embeds"])


@pytest.mark.filterwarnings("ignore:.*no guard looks at start pictures")
@pytest.mark.filterwarnings("ignore:You have passed:FutureWarning")
@pytest.mark.parametrize("chain", [[], [Steer(strength=0.0), Mirror(strength=0.0)]])
def test_start_pictures_in_every_form_the_stock_call_takes(chain: list[Any]) -> None:
    pipe = StableDiffusionImg2ImgPipeline(**tiny_pipeline().components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    pictures = [Image.new("RGB", (64, 64), c) for c in ("red", "green", "blue", "white")]
    two = ["a cat", "a dog"]
    calls: list[dict[str, Any]] = [
        {"prompt": two, "image": pictures[0], "num_images_per_prompt": 2},
        {"prompt": two, "image": pictures[:2], "num_images_per_prompt": 2},
        {"prompt": two, "image": pictures, "num_images_per_prompt": 2},
        {"prompt": "a cat", "image": pictures[:2], "num_images_per_prompt": 2},
        {"prompt": "a cat", "image": torch.rand(3, 64, 64, generator=seeded(3))},
        {"prompt": two, "image": np.random.default_rng(0).random((2, 64, 64, 3), dtype=np.float32)},
    ]
    with protect(pipe, "weapons", chain) as guarded:
        for call in calls:
            whole = {**call, "strength": np.float32(0.7), "num_inference_steps": 4, "guidance_scale": 3.0}
            stock = pipe(**whole, generator=seeded(), output_type="np").images
            assert np.array_equal(guarded(**whole, generator=seeded(), output_type="np").images, stock)
        with pytest.raises(BadInput, match="3 pictures for 2 prompts with 2 pictures each"):
            guarded(two, image=pictures[:3], num_images_per_prompt=2)


def test_numbers_of_numpy_and_embeddings_without_negative_ones() -> None:
    pipe = tiny_pipeline()
    numbers: dict[str, Any] = {
        "prompt": "a cat",
        "num_inference_steps": np.int64(3),
        "guidance_scale": np.float32(3.0),
        "num_images_per_prompt": np.int32(2),
        "output_type": "latent",
    }
    plain = {"num_inference_steps": 3, "guidance_scale": 3.0, "num_images_per_prompt": 2, "output_type": "latent"}
    states = pipe.encode_prompt(["a cat", "a dog"], "cpu", 1, False)[0]
    with protect(pipe, "weapons", [Steer(strength=0.0)]) as guarded:
        assert torch.equal(
            guarded(**numbers, generator=seeded()).images, pipe("a cat", **plain, generator=seeded()).images
        )  # type: ignore[arg-type]
        for given in (states, states[:, :20]):
            stock = pipe(prompt_embeds=given, **plain, generator=seeded()).images
            assert torch.equal(guarded(prompt_embeds=given, **plain, generator=seeded()).images, stock)
        with pytest.raises(BadInput, match="150 tokens"):
            guarded(prompt_embeds=torch.zeros(1, 150, 16), num_inference_steps=2)


class Derived(StableDiffusionPipeline):
    """A pipeline of a user's own that hands on what it does not know."""

    def __call__(self, prompt: Any = None, *args: Any, num_inference_steps: int = 3, **kwargs: Any) -> Any:
        return super().__call__(prompt, *args, num_inference_steps=num_inference_steps, **kwargs)


class Deaf(StableDiffusionPipeline):
    """One that never says that a step is finished."""

    def __call__(self, *args: Any, callback_on_step_end: Any = None, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)


def test_derived_pipelines() -> None:
    for kind in (Derived, Deaf):
        pipe = kind(**tiny_pipeline().components, requires_safety_checker=False)
        pipe.set_progress_bar_config(disable=True)
        call: dict[str, Any] = {"guidance_scale": 3.0, "output_type": "latent"}
        stock = pipe("a cat", **call, generator=seeded()).images
        with protect(pipe, "weapons", []) as guarded:
            assert torch.equal(guarded("a cat", **call, generator=seeded()).images, stock)
        with protect(pipe, "weapons", [Steer(strength=0.0)]) as guarded:
            out = guarded("a cat", guidance_scale=3.0, generator=seeded())
            if kind is Derived:
                assert out.index == [0] and out.verdicts[0].nfe == 6
            else:
                assert refused(out, "never said that a step was finished")


def test_generate_stops_where_protect_refuses() -> None:
    """The same faults through ``generate``: the run ends, no picture is made."""
    model = tiny_sd()
    with model.rig([Fade()]) as rig:
        model.pipe.scheduler = DDIMScheduler.from_config(model.pipe.scheduler.config)
        with pytest.raises(GuardError, match="scheduler"):
            model.generate([Case("a", "a cat")], Sampler(2, 3.0), rig=rig)
    stock = type(model.unet).__call__

    class Elsewhere(type(model.unet)):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return stock(other.unet, *args, **kwargs)

    other = tiny_pipeline()
    with model.rig([Fade()]) as rig:
        model.unet.__class__ = Elsewhere
        with pytest.raises(DefenseInactive, match="not called in step 0"):
            model.generate([Case("a", "a cat")], Sampler(2, 3.0), rig=rig)


@pytest.mark.parametrize("notes", [True, False])
def test_a_detector_without_a_score_at_its_last_look_refuses(notes: bool) -> None:
    @dataclass(frozen=True)
    class Detector:
        name: ClassVar[str] = "detector"

        def last_look(self, steps: int) -> int:
            return steps // 2

        def attach(self, rig: Any) -> None:
            def fn(x: Any, frame: Frame) -> None:
                if frame.step == frame.steps // 2 - (not notes):
                    rig.note(frame, **{"detector.score": torch.zeros(len(frame.case))})

            rig.tap("mid_block", fn)

    model = tiny_sd()
    with protect(model, "weapons", [Detector()]) as guarded:
        out = guarded(**CALL)
        assert out.index == [0] if notes else refused(out, "no score at step 2")
    sample = model.generate([Case("a", "a cat")], Sampler(4, 3.0), [Detector()])[0]
    assert sample.status == ("ok" if notes else "error")
