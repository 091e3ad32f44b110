"""The only place that registers hooks on a model's modules or puts other numbers into its parameters.

Everything here is undone by its own handle or context; ``models.rig`` decides when."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from tokenizers import AddedToken
from torch import Tensor, nn

from genward.core.contracts import Site
from genward.errors import BadInput, Conflict
from genward.models.sites import named

Reader = Callable[[Tensor], Tensor | None]
"""Told a site's tensor; what it returns replaces it, ``None`` leaves it."""


# ------------------------------------------------------------------------------------------------------------ reading


def read_site(root: nn.Module, site: Site, fn: Reader) -> list[Any]:
    """Hook ``fn`` to a site below ``root``; the handles that take it off again."""
    module = root.get_submodule(site.path)
    if site.stream == "probs":
        return read_probs(module, fn)
    if site.stream == "heads":

        def before(_: Any, args: tuple[Any, ...]) -> Any:
            new = fn(args[0])
            return None if new is None else (new, *args[1:])

        return [module.register_forward_pre_hook(before)]

    def after(_: Any, __: Any, output: Any) -> Any:
        whole = isinstance(output, tuple)
        index = site.element or 0
        new = fn(output[index] if whole else output)
        if new is None:
            return None
        return (*output[:index], new, *output[index + 1 :]) if whole else new

    return [module.register_forward_hook(after)]


@contextmanager
def sites_read(root: nn.Module, sites: Mapping[str, Site]) -> Iterator[dict[str, Tensor]]:
    """What passes these sites inside, by name."""
    found: dict[str, Tensor] = {}
    handles = [h for name, site in sites.items() for h in read_site(root, site, partial(found.__setitem__, name))]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def read_probs(attention: Any, fn: Reader) -> list[Any]:
    """Attention probabilities computed beside the block from ``to_q``/``to_k``: the picture stays bit-equal."""
    kept: dict[str, Tensor] = {}

    def split(x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        return heads

    def after(_: Any, __: Any, ___: Any) -> None:
        q, k = split(kept.pop("q")), split(kept.pop("k"))
        if attention.norm_q is not None:
            q, k = attention.norm_q(q), attention.norm_k(k)
        fn(torch.softmax(q @ k.transpose(-1, -2) * attention.scale, dim=-1))

    return [
        attention.to_q.register_forward_hook(lambda _, __, out: kept.__setitem__("q", out)),
        attention.to_k.register_forward_hook(lambda _, __, out: kept.__setitem__("k", out)),
        attention.register_forward_hook(after),
    ]


def around(module: nn.Module, before: Callable[..., Any], after: Callable[..., Any] | None = None) -> list[Any]:
    """Call ``before(module, args, kwargs)`` and ``after(module, args, kwargs, output)`` around each forward pass."""
    handles: list[Any] = [module.register_forward_pre_hook(before, with_kwargs=True)]
    if after is not None:
        handles.append(module.register_forward_hook(after, with_kwargs=True))
    return handles


@contextmanager
def inputs_of(modules: Mapping[str, nn.Module], found: dict[str, Tensor]) -> Iterator[None]:
    """Inside, the first input of each module's latest forward pass is kept in ``found`` under its name."""

    def keep(name: str) -> Callable[..., None]:
        def hook(_: Any, args: tuple[Any, ...]) -> None:
            found[name] = args[0]

        return hook

    handles = [module.register_forward_pre_hook(keep(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# ------------------------------------------------------------------------------------------------------- learned tokens


_EXTENDED: WeakKeyDictionary[Any, dict[tuple[Any, ...], Any]] = WeakKeyDictionary()
"""Tokenizer -> its copies with texts added, by these (and its own settings): a search asks for the same ones at each
step, and copying a vocabulary takes as long as encoding"""
COPIES = 4
"""Copies that are kept of one tokenizer"""


def _with_tokens(tokenizer: Any, texts: tuple[str, ...]) -> Any:
    """A copy of a tokenizer that knows these texts too; ``BadInput`` for one that it knows already."""
    copies = _EXTENDED.setdefault(tokenizer, {})
    key = (texts, len(tokenizer), tokenizer.model_max_length, tokenizer.padding_side)
    if key not in copies:
        taken = sorted(set(texts) & set(tokenizer.get_vocab()))
        if taken:
            raise BadInput(f"learned token {taken[0]} is a token of the vocabulary already; name it otherwise")
        made = copy.deepcopy(tokenizer)
        made.add_tokens([AddedToken(text, normalized=False) for text in texts])
        if len(copies) == COPIES:
            del copies[next(iter(copies))]
        copies[key] = made
    return copies[key]


@contextmanager
def learned_tokens(model: Any, vectors: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, token texts stand for embeddings that no vocabulary has; with gradient. The tokenizer and the encoder are
    as before on leaving.

    Args:
        model: a backbone; its text encoder and its pipeline's tokenizer are used.
        vectors: token text (``<3f9a12b4>``) -> (width,) embedding.

    Raises:
        BadInput: an embedding of another width than the encoder's, or one that is not finite; BadInput for a text that
            is a token already.
    """
    if not vectors:
        yield
        return
    table = model.text_encoder.get_input_embeddings()
    for text, vector in vectors.items():
        if tuple(vector.shape) != (table.embedding_dim,):
            raise BadInput(
                f"learned token {text}: shape {tuple(vector.shape)}, this text encoder takes ({table.embedding_dim},); "
                "learn it on this model"
            )
        if not torch.isfinite(vector).all():
            raise BadInput(
                f"learned token {text} holds numbers that are not finite; the attack diverged, lower its rate"
            )
    kept = model.pipe.tokenizer
    tokenizer = _with_tokens(kept, tuple(vectors))
    places = dict(zip(tokenizer.convert_tokens_to_ids(list(vectors)), vectors.values(), strict=True))
    asked: list[Tensor] = []

    def before(_: Any, args: tuple[Any, ...]) -> Any:
        asked.append(args[0])
        return (torch.where(args[0] < table.num_embeddings, args[0], 0), *args[1:])

    def after(_: Any, __: Any, output: Tensor) -> Tensor:
        ids = asked.pop()
        for place, vector in places.items():
            output = torch.where((ids == place)[..., None], vector.to(output.device, output.dtype), output)
        return output

    handles = [table.register_forward_pre_hook(before), table.register_forward_hook(after)]
    model.pipe.tokenizer = tokenizer
    try:
        yield
    finally:
        model.pipe.tokenizer = kept
        for handle in handles:
            handle.remove()


@contextmanager
def embeddings_given(encoder: Any, vectors: Tensor | None) -> Iterator[None]:
    """Inside, a text encoder takes these (rows, t, width) embeddings in the place of those of its ids, with gradient;
    ``None`` leaves it alone."""
    if vectors is None:
        yield
        return
    table = encoder.get_input_embeddings()
    handle = table.register_forward_hook(lambda _, __, out: vectors.to(out.device, out.dtype))
    try:
        yield
    finally:
        handle.remove()


# --------------------------------------------------------------------------------------------------------- weight edits

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def mark(tensor: Tensor) -> tuple[Any, ...]:
    """A checksum of a tensor's bits, the same on every device and in every memory layout."""
    flat = tensor.detach().flatten().contiguous()
    bits = flat.view(BITS[flat.element_size()])
    return (tuple(tensor.shape), *(int(bits[::k].sum(dtype=torch.int64)) for k in (1, 2, 3, 7)))


@dataclass
class Edit:
    """One edited parameter: the object itself, the module that holds it, its numbers before, and those put in."""

    name: str
    module: nn.Module
    leaf: str
    parameter: nn.Parameter
    original: Tensor
    edited: Tensor
    mark: tuple[Any, ...]

    def held(self) -> bool:
        """Whether the parameter still holds the edit, in today's dtype and on today's device."""
        if self.module._parameters.get(self.leaf) is not self.parameter or self.parameter.is_meta:
            return False
        if self.parameter.dtype == self.edited.dtype:
            return mark(self.parameter.data) == self.mark
        return mark(self.edited) == self.mark and torch.equal(
            self.parameter.data.cpu(), self.edited.cpu().to(self.parameter.dtype)
        )

    def other(self) -> list[str]:
        """Why the model does not hold the original numbers, where it does not; asked after they were put back."""
        now = self.module._parameters.get(self.leaf)
        if now is None or now.is_meta:
            return ["offloaded or taken out"]
        original = self.original.to(now.device, now.dtype)
        same = now is self.parameter or (now.shape == original.shape and torch.equal(now.data, original))
        return [] if same else ["another parameter is in its place"]

    def put(self, value: Tensor) -> None:
        self.parameter.data = value.to(self.parameter.device, self.parameter.dtype)


class Edits:
    """Parameters of one denoiser that hold other numbers for a while. They are known as objects, not by name, so that
    adapters, compilation or a move to another device in between do not hide them."""

    def __init__(self) -> None:
        self.known: dict[nn.Parameter, Edit] = {}
        self.owners: list[tuple[str, str]] = []
        """(owner, parameter name), once for each edit"""

    def apply(self, owner: str, root: nn.Module, match: str, edit: Callable[[str, Tensor], Tensor]) -> None:
        """See ``LiveRig.weights``."""
        parameters = dict(root.named_parameters())
        for name in named(parameters, match):
            parameter = parameters[name]
            path, _, leaf = name.rpartition(".")
            if parameter.is_meta:
                raise Conflict(
                    f"{owner}: weight {name} is offloaded to disk or meta, where an edit does nothing; load the "
                    "model without it"
                )
            if getattr(root.get_submodule(path.rpartition(".")[0]), "fused_projections", False):
                raise Conflict(
                    f"{owner}: {name} is fused and its edit would be ignored; call pipe.unfuse_qkv_projections() first"
                )
            with torch.no_grad():
                new = edit(name, parameter.data.clone()).to(parameter.dtype).to(parameter.device)
            if new.shape != parameter.shape:
                raise BadInput(
                    f"{owner}: edit of {name} gives shape {tuple(new.shape)}, the weight has {tuple(parameter.shape)}"
                )
            if not torch.isfinite(new).all():
                raise BadInput(
                    f"{owner}: edit of {name} holds numbers that are not finite; check the artifact or its strength"
                )
            new = new.contiguous()
            before = self.known.get(parameter)
            original = parameter.data if before is None else before.original
            self.known[parameter] = Edit(name, root.get_submodule(path), leaf, parameter, original, new, mark(new))
            parameter.data = new
            self.owners.append((owner, name))

    def lost(self, root: nn.Module) -> list[str]:
        """Names of the edited weights that hold other numbers by now, or that ``root`` does not use any more."""
        modules = set(root.modules()) if self.known else set()
        return [e.name for e in self.known.values() if e.module not in modules or not e.held()]

    def restore(self) -> list[str]:
        """Put the original numbers back, each on its own; what cannot be put back is named with its reason."""
        stuck: list[str] = []
        interrupt: BaseException | None = None
        for edit in self.known.values():
            for attempt in range(2):
                try:
                    if not edit.parameter.is_meta:
                        edit.put(edit.original)
                    stuck += [f"{edit.name} ({why})" for why in edit.other()]
                    break
                except (KeyboardInterrupt, SystemExit) as error:  # once more, then go on with the others
                    interrupt = error
                except Exception as error:
                    if attempt:
                        stuck.append(f"{edit.name} ({type(error).__name__}: {error})")
        self.known.clear()
        self.owners.clear()
        if interrupt is not None:
            raise interrupt
        return stuck

    def swap(self) -> dict[nn.Parameter, Tensor]:
        """Put the original numbers in for a moment; parameter -> numbers to put back."""
        swapped: dict[nn.Parameter, Tensor] = {}
        for parameter, edit in self.known.items():
            swapped[parameter] = parameter.data
            edit.put(edit.original)
        return swapped


# ----------------------------------------------------------------------------------------------------- what hides hooks


def compiled(module: Any) -> bool:
    """Whether ``torch.compile`` was put on a module, on a part of it, or on its forward: hooks may then be ignored."""
    if hasattr(module, "_orig_mod") or hasattr(vars(module).get("forward"), "_torchdynamo_orig_callable"):
        return True
    return any(getattr(m, "_compiled_call_impl", None) is not None or hasattr(m, "_orig_mod") for m in module.modules())


def offloaded(module: Any) -> bool:
    """Whether weights are kept elsewhere one by one, where they can be neither checked nor edited."""
    return any(p.is_meta for p in module.parameters())
