"""``protect``: a live pipeline of the user's own under a policy.

::

    with genward.protect(pipe, policy="weapons", defenses=["aeiou", "wukong"]) as guarded:
        out = guarded(["a cat", "a bomb"], num_inference_steps=20)

This file turns what the user has (a stock pipeline, a policy's name, defenses as texts or objects) into a model, a
policy and a chain ready to attach; the call itself is in ``serve.call``."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genward.catalog.fitting import DefenseRequest, parse_defense
from genward.catalog.labelling import with_probe
from genward.core import defending
from genward.core.contracts import Defense
from genward.errors import BadInput, UnguardedInput
from genward.ops.asking import STAND_IN
from genward.serve.arguments import LOOK, known_arguments
from genward.serve.audit import Audit
from genward.serve.call import Guarded
from genward.serve.chain import build, named, refuse_unguarded
from genward.serve.identity import as_model, identity
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


@contextmanager
def protect(
    pipe_or_model: Any,
    policy: Policy | str | Path = "weapons",
    defenses: Sequence[str | Defense] | str | None = None,
    *,
    unguarded: Sequence[str] | str = (),
    store: Store | Path | str | None = None,
    audit: Audit | Path | str | None = None,
    timeout: float | None = None,
    fit: bool | None = None,
    progress: Callable[[str], None] | None = None,
) -> Iterator[Any]:
    """Guard a pipeline while the block runs; it is as before afterwards, whatever happened.

    Args:
        pipe_or_model: a ``StableDiffusionPipeline`` or ``StableDiffusionImg2ImgPipeline``, or what
            ``genward.open_model`` gives; a speech service: see ``serve.speech``.
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
    if getattr(pipe_or_model, "makes", "") == "audio":
        with _spoken(pipe_or_model, policy, defenses, unguarded, audit) as service:
            return (yield service)
    rules, log = load_policy(policy), _checked(audit, timeout)
    model = as_model(pipe_or_model)
    check_model(rules, model.spec.hash)
    starting = "image" in known_arguments(type(model.pipe))
    asked = _parsed(DEFAULT if defenses is None else defenses)
    asked += _parsed("image_filter") if defenses is None and starting and _of_lab(model) else []
    chain = build(asked, rules, model, store, progress, fit=_unasked(model, store) if fit is None else fit)
    refuse_unguarded(chain, rules, allowed := [unguarded] if isinstance(unguarded, str) else list(unguarded))
    names, rig = named([d for d, _ in chain]), GuardRig(model, timeout)
    with rig.opened([ruled(d, rule, name) for (d, rule), name in zip(chain, names, strict=True)]):
        for told in _gaps(chain, rules, allowed, starting and not rig.of("starts")):
            warnings.warn(told, UnguardedInput, stacklevel=3)
        yield Guarded(model, rules, dict(zip(names, [d for d, _ in chain], strict=True)), rig, log)
