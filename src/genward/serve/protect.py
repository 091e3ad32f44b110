"""``protect``: a live pipeline of the user's own under a policy.

::

    with genward.protect(pipe, policy="weapons", defenses=["aeiou", "wukong"]) as guarded:
        out = guarded(["a cat", "a bomb"], num_inference_steps=20)

This file turns what the user has (a stock pipeline, a policy's name, defenses as texts or objects) into a model, a
policy and a chain ready to attach; the call itself is in ``serve.call``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genward.catalog.fitting import DefenseRequest, parse_defense
from genward.catalog.labelling import with_probe
from genward.core import defending
from genward.core.contracts import Defense
from genward.errors import BadInput, Conflict
from genward.models.chance import chance_kept
from genward.models.outside import OutsidePipeline
from genward.ops.asking import STAND_IN
from genward.serve.arguments import LOOK, call_arguments
from genward.serve.audit import Audit
from genward.serve.call import Chain, Guarded
from genward.serve.chain import build, named, refuse_unguarded
from genward.serve.identity import as_model, as_outside, identity
from genward.serve.metrics import Hook
from genward.serve.outside import GuardedOutside, OutsideRig
from genward.serve.policy import Policy, check_model, load_policy
from genward.serve.rig import GuardRig, ruled

if TYPE_CHECKING:
    from genward.models.sd import StableDiffusion
    from genward.store import Store

DEFAULT = ("aeiou", "wukong")
"""Chain of a guard that names no defenses."""


def _parsed(defenses: Sequence[str | Defense] | str) -> list[DefenseRequest | Defense]:
    parts = [defenses] if isinstance(defenses, str) else list(defenses)
    return [request for part in parts for request in (parse_defense(part) if isinstance(part, str) else [part])]


def _of_lab(model: StableDiffusion) -> bool:
    return str(model.spec.fields.get("source", "")).startswith("lab:")


def _unasked(model: StableDiffusion, store: Any) -> bool:
    """Whether fits need not be asked for: on a stand-in of the tests they take seconds."""
    return store is not None and getattr(model.pipe, STAND_IN, False)


def _checked(audit: Audit | Path | str | None, timeout: float | None) -> Audit | None:
    """The audit file, where there is one and it can be written; ``BadInput`` for a timeout that is none."""
    if timeout is not None and not (math.isfinite(timeout) and timeout > 0):
        raise BadInput(f"timeout {timeout}; give seconds above 0, or none")
    log = Audit.of(audit)
    if log is not None:
        log.check()
    return log


def _gaps(chain: Sequence[tuple[Defense, Any]], policy: Policy, allowed: Sequence[str], unseen: bool) -> list[str]:
    """What a chain that may be opened does not look at, in words. ``allowed``: categories that were said to stay
    unguarded. ``unseen``: start pictures go past it."""
    told, names = [], ", ".join(named([d for d, _ in chain]))
    asked = {c.name for c in policy.categories} <= set(allowed)
    if chain and not asked and not any(defending.guards(d) for d, _ in chain):
        told.append(f"policy {policy.name}: {names} alone guards nothing")
    if chain and unseen:
        told.append(f"{names}: no guard looks at start pictures; {LOOK}")
    return told


__all__ = ["build", "identity", "protect", "with_probe"]


def _spoken(model: Any, policy: Any, defenses: Any, unguarded: Any, audit: Any) -> Any:
    """A speech service behind its moderators; the default policy is one of pictures and says nothing about it."""
    from genward.serve.speech import protect_speech

    own = None if policy == "weapons" else policy
    return protect_speech(model, own, defenses, unguarded=bool(unguarded), audit=audit)


def protect(
    pipe_or_model: Any,
    policy: Policy | str | Path = "weapons",
    defenses: Sequence[str | Defense] | str | None = None,
    *,
    unguarded: Sequence[str] | str = (),
    store: Store | Path | str | None = None,
    audit: Audit | Path | str | None = None,
    metrics: Hook | None = None,
    timeout: float | None = None,
    fit: bool | None = None,
    progress: Callable[[str], None] | None = None,
) -> Opening:
    """Guard a pipeline while a block runs, or from ``open()`` to ``close()``; it is as before afterwards, whatever
    happened. Nothing is opened before ``with`` or ``open()``.

    Args:
        pipe_or_model: a ``StableDiffusionPipeline`` or ``StableDiffusionImg2ImgPipeline``, or what
            ``genward.open_model`` gives; under guards of the text and the finished picture alone (``aeiou``,
            ``normalize``, ``image_filter``) any text-to-image or inpainting pipeline of diffusers, compiled or not; a
            speech service: see ``serve.speech``.
        policy: a shipped name, a concept, a TOML file or a ``Policy``.
        defenses: by default ``aeiou`` and ``wukong``, and on a pipeline of the lab that starts from pictures
            ``image_filter``, which looks at them and at what comes out. Texts (``"aeiou"``, ``"uce:weapons"``,
            ``"sld,preset=strong"``) or objects, in order of application. A text that names no concept takes the
            policy's: one defense per category where it learns its concept, one for all categories else. Objects are
            attached as they are.
        unguarded: categories of the policy that may stay without a guard.
        store: where fitted defenses are kept and looked for.
        fit: fit what is not at hand for this model (minutes); else it is an error that says why there is no fit. By
            default nothing is, but on stand-ins of ``genward.testing`` where a ``store`` is named. Closed forms
            (``uce``) are solved in any case.
        audit: a file for one JSON line per row; without its record nothing is released.
        metrics: told the records of each call, without texts: ``serve.metrics.Metrics()`` counts them for Prometheus.
        timeout: seconds that a guard may take each time it is called; its rows are refused after that.
        progress: told in words what is being fitted or reused.

    Warns:
        UnguardedInput: the pipeline starts from pictures, and no guard of the chain looks at them; or the chain holds
            nothing that guards, as ``normalize`` alone, and ``unguarded`` does not say that this is meant.

    Raises:
        Unguarded: a category of the policy has no guard in the chain and is not among ``unguarded``.
        BadInput, UnknownName: no such policy, defense or concept; a defense that is not fitted, or a threshold that was
            not calibrated, for this model; a pipeline that lacks a part or is of another kind.
        Conflict: the pipeline is compiled or its weights are offloaded, it has an open guard already, or two defenses
            own one port.
        StoreError: the audit file cannot be written.
    """
    return Opening(pipe_or_model, policy, defenses, unguarded, store, audit, metrics, timeout, fit, progress)


@dataclass(frozen=True)
class Opening:
    """What ``protect`` was asked for: a context manager, or ``open()`` for a guard that lives as long as a server."""

    pipe_or_model: Any
    policy: Policy | str | Path
    defenses: Sequence[str | Defense] | str | None
    unguarded: Sequence[str] | str
    store: Store | Path | str | None
    audit: Audit | Path | str | None
    metrics: Hook | None
    timeout: float | None
    fit: bool | None
    progress: Callable[[str], None] | None
    _entered: list[Any] = field(default_factory=list, repr=False)
    """Guards that ``with`` opened, the latest last"""

    def __enter__(self) -> Any:
        self._entered.append(self.open())
        return self._entered[-1]

    def __exit__(self, *_: object) -> None:
        self._entered.pop().close()

    def open(self) -> Any:
        """The guarded pipeline, open until its ``close()``, or until nobody holds it any more.

        Raises, warns: as ``protect`` says."""
        if getattr(self.pipe_or_model, "makes", "") == "audio":
            stack = ExitStack()
            service = stack.enter_context(
                _spoken(self.pipe_or_model, self.policy, self.defenses, self.unguarded, self.audit)
            )
            service.leave = stack.close
            return service
        with chance_kept():
            chain = self.chain()
            return chain.guarded.opened(chain, self)

    def chain(self) -> Chain:
        """What is to be attached, built and checked; nothing is attached yet."""
        rules, log = load_policy(self.policy), _checked(self.audit, self.timeout)
        asked = _parsed(DEFAULT if self.defenses is None else self.defenses)
        model = _model(self.pipe_or_model, asked)
        check_model(rules, model.spec.hash)
        starting = "image" in call_arguments(type(model.pipe))
        asked += _parsed("image_filter") if self.defenses is None and starting and _of_lab(model) else []
        fit = _unasked(model, self.store) if self.fit is None else self.fit
        chain = build(asked, rules, model, self.store, self.progress, fit=fit)
        allowed = [self.unguarded] if isinstance(self.unguarded, str) else list(self.unguarded)
        refuse_unguarded(chain, rules, allowed)
        names = named([d for d, _ in chain])
        parts = [ruled(d, rule, name) for (d, rule), name in zip(chain, names, strict=True)]
        outside = isinstance(model, OutsidePipeline)
        kinds = (OutsideRig, GuardedOutside) if outside else (GuardRig, Guarded)

        def told(rig: GuardRig) -> list[str]:
            return _gaps(chain, rules, allowed, starting and not rig.of("starts"))

        attached = dict(zip(names, [d for d, _ in chain], strict=True))
        return Chain(model, rules, attached, parts, log, told, *kinds)

    def again(self, model: Any, policy: Any, defenses: Any) -> Opening:
        """The same for another policy, or another chain, on the model that is open."""
        chain = self.defenses if defenses is None else defenses
        return replace(self, pipe_or_model=model, policy=policy, defenses=chain, _entered=[])


def _model(given: Any, asked: Sequence[DefenseRequest | Defense]) -> Any:
    """The model to guard; where it cannot be stepped into, one of which the text and the picture alone are guarded, if
    the chain wants no more."""
    if isinstance(given, OutsidePipeline):
        return given
    try:
        return as_model(given)
    except (BadInput, Conflict):
        if not asked or any(defending.needs_denoiser(_class(part)) for part in asked):
            raise
    return as_outside(getattr(given, "pipe", given))


def _class(part: DefenseRequest | Defense) -> Any:
    if not isinstance(part, DefenseRequest):
        return part
    from genward.catalog import plugins
    from genward.ops.artifacts import load

    name = str(load(Path(part.artifact)).card.get("method", "")) if part.artifact else part.name
    return plugins.find("defense", name)
