"""The rig against the stock pipeline: what it does is exact, what it refuses is named, what it leaves behind is
nothing."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from genward.core import Call, Case, Inputs, Sampler, Spec
from genward.errors import BadInput, Conflict, DefenseInactive, Inapplicable, UnknownName
from genward.models.sd import StableDiffusion
from genward.testing import EXAMPLES, defense_laws, tiny_pipeline, tiny_sd
from genward.testing.suites import CASES, hooks, same, weights

SAMPLER = Sampler(steps=5, guidance=3.0)


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    return tiny_sd()


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_laws_on_each_port(model: StableDiffusion, name: str) -> None:
    defense_laws(model, EXAMPLES[name], zero={"strength": 0.0})


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_laws_on_a_masked_bert_encoder(name: str, tmp_path: Any) -> None:
    defense_laws(tiny_sd(encoder="bert", folder=tmp_path), EXAMPLES[name], zero={"strength": 0.0})


def test_empty_guard_is_the_stock_pipeline(model: StableDiffusion) -> None:
    pipe = model.pipe
    ours = model.generate(CASES, SAMPLER, keep_latents=True)
    start = torch.stack([torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(c.seed)) for c in CASES])
    stock = pipe(
        [c.prompt for c in CASES], latents=start, num_inference_steps=5, guidance_scale=3.0, output_type="latent"
    ).images
    assert all(torch.equal(s.latents, z) for s, z in zip(ours, stock, strict=True))
    assert [s.nfe for s in ours] == [10, 10, 10]


@pytest.mark.parametrize(
    ("scheduler", "eta"),
    [
        (DDIMScheduler, 0.0),
        (DDIMScheduler, 0.5),
        (DPMSolverMultistepScheduler, 0.0),
        (PNDMScheduler, 0.0),
        (EulerAncestralDiscreteScheduler, 0.0),
        (UniPCMultistepScheduler, 0.0),
    ],
)
def test_dropping_rows_in_mid_loop_leaves_the_survivors_exact(scheduler: Any, eta: float) -> None:
    pipe = tiny_pipeline()
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    model = StableDiffusion(pipe, Spec("model", "tiny"))
    cases = [Case(id=str(k), prompt=f"a cat {k}", seed=k) for k in range(4)]
    sampler = Sampler(steps=6, guidance=3.0, eta=eta)
    whole = model.generate(cases, sampler, keep_latents=True)
    part = model.generate(cases, sampler, [EXAMPLES["example-block"](step=2)], keep_latents=True)
    assert [s.status for s in part] == ["ok", "refused", "ok", "refused"]
    for a, b in zip(whole, part, strict=True):
        if b.status == "ok":
            assert torch.allclose(a.latents, b.latents, atol=2e-6), "a survivor's latents moved"
        else:
            assert b.image is None and b.nfe == 6 and "example-block" in b.why, (
                "a row refused at step 2 costs steps 0 to 2, twice"
            )


def test_all_rows_refused_ends_the_loop(model: StableDiffusion) -> None:
    @dataclasses.dataclass(frozen=True)
    class All:
        name: ClassVar[str] = "all"

        def attach(self, rig: Any) -> None:
            def fn(call: Call, frame: Any) -> Call:
                rig.block(frame, torch.ones(len(frame.case), dtype=torch.bool), "everything")
                return call

            rig.inputs(fn, during=(0.4, 1.0))

    done = model.generate(CASES, SAMPLER, [All()])
    assert {s.status for s in done} == {"refused"} and {s.nfe for s in done} == {6}


def test_neighbors_do_not_change_the_start(model: StableDiffusion) -> None:
    alone = model.generate(CASES[1:2], SAMPLER, keep_latents=True)[0].latents
    among = model.generate(CASES, SAMPLER, keep_latents=True)[1].latents
    assert torch.allclose(alone, among, atol=1e-4)


def test_windows_and_frames(model: StableDiffusion) -> None:
    seen: list[Any] = []

    @dataclasses.dataclass(frozen=True)
    class Watch:
        name: ClassVar[str] = "watch"

        def attach(self, rig: Any) -> None:
            rig.tap(
                "mid_block",
                lambda x, f: seen.append((f.step, tuple(f.conditional.tolist()), tuple(f.case.tolist()), len(x))),
                during=(0.4, 0.8),
            )
            rig.latents(lambda z, f: z, during=(0.0, 0.2))

    model.generate(CASES, SAMPLER, [Watch()])
    assert [s[0] for s in seen] == [2, 3]
    assert seen[0][1:] == ((False,) * 3 + (True,) * 3, (0, 1, 2, 0, 1, 2), 6)


def test_guidance_one_has_conditional_rows_only(model: StableDiffusion) -> None:
    seen: list[Any] = []

    @dataclasses.dataclass(frozen=True)
    class Own:
        name: ClassVar[str] = "own"

        def attach(self, rig: Any) -> None:
            def fn(uncond: Any, cond: Any, call: Call, frame: Any) -> Any:
                seen.append((uncond, len(cond), len(call.text)))
                return cond

            rig.guidance(fn)

    low = Sampler(steps=3, guidance=1.0)
    assert same(model.generate(CASES, low), model.generate(CASES, low, [Own()]))
    assert seen == [(None, 3, 3)] * 3

    @dataclasses.dataclass(frozen=True)
    class Needs(Own):
        needs_guidance: ClassVar[bool] = True

    with pytest.raises(Inapplicable, match="guidance 1"):
        model.generate(CASES, low, [Needs()])


def test_guidance_port_gives_the_sampler_exactly_what_it_returns(model: StableDiffusion) -> None:
    zero = model.generate(CASES, SAMPLER, [EXAMPLES["example-guidance"](strength=0.0)], keep_latents=True)
    base = model.generate(CASES, SAMPLER, keep_latents=True)
    assert all(torch.equal(a.latents, b.latents) for a, b in zip(zero, base, strict=True))


def test_two_owners_of_guidance_are_named(model: StableDiffusion) -> None:
    with pytest.raises(Conflict, match="example-guidance and example-guidance"):
        model.generate(CASES, SAMPLER, [EXAMPLES["example-guidance"](), EXAMPLES["example-guidance"]()])
    assert hooks(model) == 0


def test_weights_compose_and_come_back(model: StableDiffusion) -> None:
    before = weights(model)
    fade = EXAMPLES["example-weights"]
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    with model.rig([fade(strength=0.5), fade(strength=0.5)]) as rig:
        now = dict(model.unet.named_parameters())[name]
        assert torch.equal(now, before[name] * 0.5 * 0.5)
        z, t, text = torch.randn(2, 4, 8, 8), torch.tensor([500, 500]), model.encode(["a cat", "a dog"])
        clean = rig.predict(Call(z, t, text), weights="clean").noise
        live = rig.predict(Call(z, t, text)).noise
        assert torch.equal(now, before[name] * 0.25), "a clean prediction must put the edit back"
        assert rig.port_calls["example-weights.weights"] == 2 * sum(
            ".attn2.to_k" in n or ".attn2.to_v" in n for n in before
        )
    assert torch.equal(clean, model.predict(Call(z, t, text))) and not torch.equal(clean, live)
    assert all(torch.equal(before[n], p) for n, p in model.unet.named_parameters())


@pytest.mark.parametrize(
    ("edit", "error"),
    [(lambda n, w: w[:1], "gives shape"), (lambda n, w: w * float("nan"), "not finite")],
)
def test_bad_edits_are_refused_and_undone(model: StableDiffusion, edit: Any, error: str) -> None:
    @dataclasses.dataclass(frozen=True)
    class Bad:
        name: ClassVar[str] = "bad"

        def attach(self, rig: Any) -> None:
            rig.weights(r"to_k\.weight$", lambda n, w: w * 2 if n.startswith("down") else edit(n, w))

    before = weights(model)
    with pytest.raises(BadInput, match=error):
        model.generate(CASES, SAMPLER, [Bad()])
    assert all(torch.equal(before[n], p) for n, p in model.unet.named_parameters()) and hooks(model) == 0


def test_unknown_names_offer_near_ones(model: StableDiffusion) -> None:
    with pytest.raises(UnknownName, match="mid_block"):
        model.generate(CASES, SAMPLER, [EXAMPLES["example-tap"](site="mid_blok")])
    with pytest.raises(UnknownName), model.rig() as rig:
        rig.weights("no_such_weight", lambda n, w: w)


def test_probabilities_beside_the_block(model: StableDiffusion) -> None:
    """Read probabilities equal a plain float64 softmax on the same inputs, and reading them changes no picture."""
    site = "mid_block.attentions.0.tb.0.attn2.probs"
    z, t, text = torch.randn(2, 4, 8, 8), torch.tensor([400, 100]), model.encode(["a cat", "a dog"])
    attention = model.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    inputs: list[Any] = []
    handle = attention.register_forward_pre_hook(
        lambda m, a, k: inputs.append((a[0], k["encoder_hidden_states"])), with_kwargs=True
    )
    with model.rig() as rig:
        found = rig.predict(Call(z, t, text), read=[site]).sites[site]
    handle.remove()
    hidden, states = inputs[0]
    for row in range(2):
        q = (hidden[row].double() @ attention.to_q.weight.double().T).reshape(-1, attention.heads, 8)
        k = (states[row].double() @ attention.to_k.weight.double().T).reshape(-1, attention.heads, 8)
        for head in range(attention.heads):
            logits = q[:, head] @ k[:, head].T / 8**0.5
            slow = torch.stack([torch.exp(line - line.max()) / torch.exp(line - line.max()).sum() for line in logits])
            assert torch.allclose(found[row, head].double(), slow, atol=1e-6)
    seen: list[Any] = []

    @dataclasses.dataclass(frozen=True)
    class Read:
        name: ClassVar[str] = "read"

        def attach(self, rig: Any) -> None:
            rig.tap(site, lambda p, f: seen.append(p.shape))

    assert same(model.generate(CASES, SAMPLER), model.generate(CASES, SAMPLER, [Read()]))
    assert [tuple(shape) for shape in seen] == [(6, 2, 16, 77)] * 5


def test_notes_reach_the_sample(model: StableDiffusion) -> None:
    @dataclasses.dataclass(frozen=True)
    class Note:
        name: ClassVar[str] = "note"

        def attach(self, rig: Any) -> None:
            rig.tap("mid_block", lambda x, f: rig.note(f, energy=x.flatten(1).norm(dim=1)))

    done = model.generate(CASES, SAMPLER, [Note()])
    assert [len(s.notes["energy"]) for s in done] == [5, 5, 5]
    assert len({s.notes["energy"][0] for s in done}) == 3


def test_gradients_flow_through_every_tensor_port(model: StableDiffusion) -> None:
    latents = torch.randn(4, 8, 8, requires_grad=True)
    case = [Case(id="g", prompt="a cat", inputs=Inputs({"latents": "start"}))]
    chain = [
        EXAMPLES[n](strength=0.2)
        for n in (
            "example-tap",
            "example-text",
            "example-inputs",
            "example-guidance",
            "example-latents",
            "example-weights",
        )
    ]
    done = model.generate(
        case, Sampler(steps=2, guidance=3.0), chain, starts={"start": latents}, gradients=True, keep_latents=True
    )
    (gradient,) = torch.autograd.grad(done[0].latents.double().square().sum(), latents)
    assert torch.isfinite(gradient).all() and gradient.abs().max() > 0


def test_nan_latents_are_an_error_not_a_picture(model: StableDiffusion) -> None:
    @dataclasses.dataclass(frozen=True)
    class Nan:
        name: ClassVar[str] = "nan"

        def attach(self, rig: Any) -> None:
            rig.latents(
                lambda z, f: torch.where((f.case == 1)[:, None, None, None], float("nan"), z), during=(0.8, 1.0)
            )

    done = model.generate(CASES, SAMPLER, [Nan()])
    assert [s.status for s in done] == ["ok", "error", "ok"] and "not finite" in done[1].why and done[1].image is None


def test_a_guard_that_is_never_called_stops_the_run() -> None:
    """A hook put on a block of an already compiled model is ignored by torch without a word; the rig notices."""
    model = tiny_sd()
    model.unet.compile(backend="eager")
    assert all(s.status == "ok" for s in model.generate(CASES, SAMPLER))
    with pytest.raises(DefenseInactive, match="example-tap: its tap port at mid_block was never called"):
        model.generate(CASES, SAMPLER, [EXAMPLES["example-tap"]()])
    torch._dynamo.reset()


def test_one_rig_at_a_time(model: StableDiffusion) -> None:
    with model.rig(), pytest.raises(Conflict, match="already has an open rig"):
        model.generate(CASES, SAMPLER)


def test_fused_projections_are_refused() -> None:
    model = tiny_sd()
    model.pipe.fuse_qkv_projections(vae=False)
    with pytest.raises(Conflict, match="fused"):
        model.generate(CASES, SAMPLER, [EXAMPLES["example-weights"]()])


@pytest.mark.parametrize(
    "case", [Case("a", 7), Case("b", "x" * 10_000), Case("c", "a\x00b"), Case("d", "a", label="odd")]
)  # type: ignore[arg-type]
def test_bad_cases(model: StableDiffusion, case: Case) -> None:
    with pytest.raises(BadInput):
        model.generate([case], SAMPLER)
