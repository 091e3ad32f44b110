"""Head states of a text encoder by site, read through a model's rig or of an encoder on its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from genward.core.contracts import Rig
from genward.core.records import MAX_PROMPT, Case, Frame, Sampler
from genward.errors import BadArtifact, BadInput, GuardError, UnknownName
from genward.ops import heads, short_texts
from genward.ops.activations import Keep, record


class Reading(NamedTuple):
    """About the states that were read."""

    heads: dict[str, int]
    widths: dict[str, int]
    readout: dict[str, str]
    encoders: dict[str, dict[str, str]]


@dataclass(frozen=True)
class ReadOut:
    """A source for ``ops.activations``: text sites read out over their tokens (rows, heads · dim) float32. With
    ``stop`` each row is refused once its last site is read, so no denoiser call is spent."""

    sites: tuple[str, ...]
    how: Mapping[str, str]
    """encoder (first part of a site's name) -> ``last`` | ``mean``"""
    stop: bool = True

    @property
    def says(self) -> Any:
        return ["text", list(self.sites), dict(self.how), self.stop]

    def attach(self, rig: Rig, keep: Keep) -> None:
        def at(site: str) -> Callable[[Tensor, Frame], None]:
            def fn(states: Tensor, frame: Frame) -> None:
                if frame.role != "prompt":
                    return
                mask = rig.tokens(frame).mask
                keep(site, heads.read_out(states.detach(), mask, self.how[encoder_key(site)]).float(), frame)
                if self.stop and site == self.sites[-1]:
                    rig.block(frame, torch.ones(len(states), dtype=torch.bool), "read only")

            return fn

        for site in self.sites:
            rig.tap(site, at(site))


@runtime_checkable
class ReadsHeads(Protocol):
    """A text encoder on its own (``models.text.TextEncoder``), which gives its head states without a rig."""

    def heads(self, texts: Sequence[str], sites: Sequence[str]) -> Any: ...


def encoder_key(site: str) -> str:
    """Which encoder a site belongs to: ``text`` of ``text.0.heads``, ``text_2`` of ``text_2.0.heads``."""
    return site.split(".", 1)[0]


def encoder_of(model: Any, key: str = "text") -> Any:
    """A text encoder of a genward model or the one of a ``TextEncoder``.

    Raises ``GuardError`` of anything else: a guard must know whose states it reads.
    """
    for name in (key.replace("text", "text_encoder", 1), "encoder"):
        found = getattr(model, name, None)
        if found is not None and hasattr(found, "named_parameters"):
            return found
    raise GuardError(
        f"one cannot tell the encoder {key!r} of {type(model).__name__}, so whether something was fitted for it "
        "is not known"
    )


def refuse_other(fitted: Mapping[str, Mapping[str, str]], model: Any, who: str) -> None:
    """``BadArtifact`` naming both encoders, where what ``who`` learned belongs to another.

    Args:
        fitted: encoder -> {name, hash}.
    """
    for key, known in fitted.items():
        encoder = encoder_of(model, key)
        if known["hash"] != heads.encoder_hash(encoder):
            raise BadArtifact(
                f"{who} was fitted on the encoder {known['name']}, this model has {heads.encoder_name(encoder)}; fit "
                "it again on this one"
            )


def read_texts(
    model: Any, texts: Sequence[str], readout: str | Mapping[str, str], layers: Sequence[str]
) -> tuple[dict[str, Tensor], Reading]:
    """Read-out head states (n, heads · dim) float32 of texts by site, and what they are.

    Args:
        model: a genward model (read through its rig, tokenized as its pipeline does) or a ``models.text.TextEncoder``.
            Several encoders are read at once where a model's sites name several (``text.…``, ``text_2.…``).
        readout: one of ``READOUTS``, or one an encoder. layers: sites, empty for all.

    Raises:
        UnknownName: the encoder has no such site. BadInput: an entry is not a text.
    """
    have = {name: site for name, site in model.sites.items() if site.stream == "heads"}
    for name in layers:
        if name not in have:
            raise UnknownName("text site", name, have)
    sites = {name: site for name, site in have.items() if not layers or name in layers}
    encoders = {key: encoder_of(model, key) for key in dict.fromkeys(map(encoder_key, sites))}
    if not sites:
        raise BadInput(f"{type(encoder_of(model)).__name__} shows no attention heads to read; CLIP, BERT and T5 do")
    if not texts:
        raise BadInput("no texts to read")
    for k, text in enumerate(texts):
        if not isinstance(text, str):
            raise BadInput(f"text {k} is {type(text).__name__}; give strings only")
    given = {key: readout if isinstance(readout, str) else readout[key] for key in encoders}
    how = {key: heads.natural_readout(encoders[key]) if given[key] == "auto" else given[key] for key in encoders}
    sample = _read(model, texts, list(sites), how)
    counts = {name: heads.heads_of(encoders[encoder_key(name)]) for name in sites}
    about = {key: {"name": heads.encoder_name(e), "hash": heads.encoder_hash(e)} for key, e in encoders.items()}
    return sample, Reading(counts, {n: s.channels for n, s in sites.items()}, how, about)


def _read(model: Any, texts: Sequence[str], sites: Sequence[str], how: Mapping[str, str]) -> dict[str, Tensor]:
    """By the encoder on its own, else by a model's, without padding where that leaves real tokens alone, else as its
    pipeline encodes."""
    if isinstance(model, ReadsHeads):
        return _alone(model.heads, texts, sites, how)
    if len(how) == 1 and len(texts) > short_texts.FEW and hasattr(model, "short_heads"):
        cut = [t[:MAX_PROMPT] for t in texts]
        if short_texts.exact(model, sorted(cut, key=len)[len(cut) // 2]):
            return _alone(model.short_heads, cut, sites, how)
    return _through_rig(model, texts, sites, how)


def _through_rig(model: Any, texts: Sequence[str], sites: Sequence[str], how: Mapping[str, str]) -> dict[str, Tensor]:
    cases = [Case(f"text-{k}", t[:MAX_PROMPT]) for k, t in enumerate(texts)]
    found = record(model, cases, Sampler(steps=1, guidance=1.0), [ReadOut(tuple(sites), how)], in_memory=True)
    return {site: found.dense(site)[:, 0] for site in sites}


def _alone(read: Any, texts: Sequence[str], sites: Sequence[str], how: Mapping[str, str]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for rows, states, mask, _ in read(texts, sites):
        for site in sites:
            part = heads.read_out(states[site], mask, how[encoder_key(site)]).float().cpu()
            out.setdefault(site, torch.zeros(len(texts), part.shape[1]))[rows] = part
    return out
