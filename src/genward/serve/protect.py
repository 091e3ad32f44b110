"""``protect``: a live pipeline of the user's own under a policy.

::

    with genward.protect(pipe, policy="weapons", defenses=["aeiou", "wukong"]) as guarded:
        out = guarded(["a cat", "a bomb"], num_inference_steps=20)

This file turns what the user has (a stock pipeline, a policy's name, defenses as texts or objects) into a model, a
policy and a chain ready to attach; the call itself is in ``serve.call``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genward.catalog.fitting import parse_defense, with_probe
from genward.core.contracts import Defense
from genward.errors import BadInput
from genward.serve.audit import Audit
from genward.serve.call import Guarded
from genward.serve.chain import build, named
from genward.serve.identity import as_model, identity
from genward.serve.policy import Policy, check_model, load_policy
from genward.serve.rig import GuardRig, ruled

if TYPE_CHECKING:
    from genward.store import Store

__all__ = ["build", "identity", "protect", "with_probe"]


@contextmanager
def protect(
    pipe_or_model: Any,
    policy: Policy | str | Path = "weapons",
    defenses: Sequence[str | Defense] | str = ("aeiou", "wukong"),
    *,
    store: Store | Path | str | None = None,
    audit: Audit | Path | str | None = None,
    timeout: float | None = None,
    fit: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Iterator[Guarded]:
    """Guard a pipeline while the block runs; it is as before afterwards, whatever happened.

    Args:
        pipe_or_model: a ``StableDiffusionPipeline`` or ``StableDiffusionImg2ImgPipeline``, or what
            ``genward.open_model`` gives.
        policy: a shipped name, a concept, a TOML file or a ``Policy``.
        defenses: texts (``"aeiou"``, ``"uce:weapons"``, ``"sld,preset=strong"``) or objects, in order of application. A
            text that names no concept takes the policy's: one defense per category where it learns its concept, one for
            all categories else. Objects are attached as they are.
        store: where fitted defenses are kept and looked for.
        fit: fit what is not at hand for this model, which may take minutes; else it is an error that says why there is
            no fit. Closed forms (``uce``), which cost no denoiser rows, are solved in any case.
        audit: a file for one JSON line per row; without its record nothing is released.
        timeout: seconds that a guard may take each time it is called; its rows are refused after that.
        progress: told in words what is being fitted or reused.

    Raises:
        BadInput, UnknownName: no such policy, defense or concept; a defense that is not fitted, or a threshold that was not
            calibrated, for this model; a pipeline that lacks a part or is of another kind.
        Conflict: the pipeline is compiled or its weights are offloaded, it has an open guard already, or two defenses
            own one port.
        StoreError: the audit file cannot be written.
    """
    if timeout is not None and not (math.isfinite(timeout) and timeout > 0):
        raise BadInput(f"timeout {timeout}; give seconds above 0, or none")
    rules = load_policy(policy)
    parts = [defenses] if isinstance(defenses, str) else list(defenses)
    asked = [request for part in parts for request in (parse_defense(part) if isinstance(part, str) else [part])]
    log = Audit.of(audit)
    if log is not None:
        log.check()
    model = as_model(pipe_or_model)
    check_model(rules, model.spec.hash)
    chain = build(asked, rules, model, store, progress, fit=fit)
    names = named([d for d, _ in chain])
    rig = GuardRig(model, timeout)
    with rig.opened([ruled(d, rule, name) for (d, rule), name in zip(chain, names, strict=True)]):
        yield Guarded(model, rules, dict(zip(names, [d for d, _ in chain], strict=True)), rig, log)
