"""A policy and the defenses asked for, as a chain ready to attach: each defense with what the policy says about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genward.catalog.fitting import DefenseRequest, ready
from genward.catalog.labelling import with_probe
from genward.catalog.unfitted import refuse_unfitted
from genward.core import defending
from genward.core.contracts import Defense
from genward.core.defending import artifact_field, concept_of
from genward.errors import BadInput, Unguarded, UnknownName
from genward.serve.policy import Category, Policy, merged
from genward.serve.rig import Rule

if TYPE_CHECKING:
    from genward.models.sd import StableDiffusion
    from genward.store import Store


def named(defenses: Sequence[Any]) -> list[str]:
    """One name a defense for verdicts: its own; with its concept, and a number if need be, where one is attached
    several times."""
    own = [str(type(d).name) for d in defenses]
    first = [
        n if own.count(n) == 1 else f"{n}:{concept_of(d) or k}"
        for k, (n, d) in enumerate(zip(own, defenses, strict=True))
    ]
    return [n if first.count(n) == 1 else f"{n}:{k}" for k, n in enumerate(first)]


def build(
    asked: Sequence[DefenseRequest | Defense],
    policy: Policy,
    model: StableDiffusion,
    store: Store | Path | str | None = None,
    progress: Callable[[str], None] | None = None,
    *,
    fit: bool = False,
) -> list[tuple[Defense, Rule]]:
    """The chain ready to attach, each defense with what the policy says about it.

    Raises:
        BadInput: an action or a threshold that a defense cannot follow; without ``fit`` a defense that is not fitted
            for
            this model.
    """
    out = []
    whole = [placed(part, policy) for part in asked]
    if not fit:  # all of it, before anything is spent
        requests = [r for mine in whole for r, _ in mine if isinstance(r, DefenseRequest)]
        refuse_unfitted([r for r in requests if r.artifact or r.concept], model, store)
    for mine in whole:
        for request, categories in mine:
            defense = (
                fitted(request, categories, policy, model, store, progress)
                if isinstance(request, DefenseRequest)
                else request
            )
            about = concept_of(defense)
            names = {about, *about.split("+")}  # one that learned several concepts at once is about each of them
            about_it = categories or [
                c for c in policy.categories if not about or names & {c.name, policy.concepts[c.name].name}
            ]
            out.append(
                (
                    followed(with_probe(defense), about_it),
                    Rule(about_it[0].name if len(about_it) == 1 else "", {c.name: c.action for c in about_it}),
                )
            )
    return out


def guarded_by_none(chain: Sequence[tuple[Defense, Rule]], policy: Policy) -> list[str]:
    """Names of the policy's categories that no defense of the chain is there for; empty for a chain without anything
    that guards, which was asked for as it is."""
    guards = [rule for defense, rule in chain if defending.guards(defense)]
    about = {name for rule in guards for name in rule.actions}
    return [c.name for c in policy.categories if c.name not in about] if guards else []


def refuse_unguarded(chain: Sequence[tuple[Defense, Rule]], policy: Policy, allowed: Sequence[str]) -> None:
    """``Unguarded`` where a category of the policy has no guard and is not among ``allowed``; ``UnknownName`` where
    ``allowed`` names a category that the policy lacks."""
    known = [c.name for c in policy.categories]
    for name in allowed:
        if name not in known:
            raise UnknownName(f"category of policy {policy.name}", name, known)
    open_ones = [name for name in guarded_by_none(chain, policy) if name not in allowed]
    if open_ones:
        attached = ", ".join(named([defense for defense, _ in chain]))
        first = policy.concepts[open_ones[0]].name
        raise Unguarded(
            f"policy {policy.name}: {attached} guard{'' if len(chain) > 1 else 's'} nothing of {', '.join(open_ones)}; "
            f"add a guard (aeiou:{first}, say), or say that it may stay unguarded: unguarded={open_ones!r} "
            f"(--unguarded {open_ones[0]} on the command line)"
        )


def placed(part: DefenseRequest | Defense, policy: Policy) -> list[tuple[DefenseRequest | Defense, list[Category]]]:
    """A part of the chain for the policy's categories: itself, or once a category. An empty list of categories: those
    that it says it is about."""
    if not isinstance(part, DefenseRequest) or part.artifact:
        return [(part, [])]
    if part.concept:
        return [(part, [c for c in policy.categories if c.named(part.concept)])]
    from genward.catalog import plugins as catalog

    cls = catalog.find("defense", part.name)
    if artifact_field(cls) or "action" in {f.name for f in dataclasses.fields(cls)}:
        return [(part._replace(concept=c.concept), [c]) for c in policy.categories]
    return [(part, list(policy.categories))]


def fitted(
    request: DefenseRequest,
    categories: Sequence[Category],
    policy: Policy,
    model: StableDiffusion,
    store: Store | Path | str | None,
    progress: Callable[[str], None] | None,
) -> Defense:
    """A request as an object. One that takes a concept, learns nothing and names none is made for all the policy's
    categories at once."""
    from genward.catalog import plugins as catalog

    if request.name and not request.concept:
        cls = catalog.find("defense", request.name)
        if defending.takes_concept(cls) and not defending.learns(cls):
            concept = merged([policy.concepts[c.name] for c in categories])
            try:
                made: Defense = defending.made_for(
                    cls, concept, **catalog.options("defense", request.name, dict(request.options))
                )
            except TypeError as error:
                raise BadInput(f"defense {request.text!r}: {error}; see genward show defense {request.name}") from error
            return made
    return ready([request], model, store, progress=progress).defenses[0]


def followed(defense: Any, categories: Sequence[Category]) -> Any:
    """The defense as the policy wants it: its threshold, and its action where it has such a field.

    Raises:
        BadInput: the policy sets a threshold that the defense does not have, or several different ones; or asks a
            detector that cannot steer to steer.
    """
    name = type(defense).name
    fields = {f.name for f in dataclasses.fields(defense)}
    limits = {c.thresholds[name] for c in categories if name in c.thresholds}
    if limits and "threshold" not in fields:
        raise BadInput(f"the policy sets a threshold for {name}, which has none; take it out of the policy")
    if len(limits) > 1:
        raise BadInput(
            f"the policy sets different thresholds for {name} ({', '.join(f'{x:g}' for x in sorted(limits))}), which "
            "is attached once for all; name a concept each"
        )
    if limits:
        defense = dataclasses.replace(defense, threshold=limits.pop())
    actions = {c.action for c in categories}
    if "action" not in fields or len(actions) != 1:
        return defense  # one that steers steers; what it blocks, if anything, is flagged where the policy says so
    action = actions.pop()
    try:
        return dataclasses.replace(defense, action=action)
    except (BadInput, UnknownName) as error:
        raise BadInput(
            f"the policy wants {name} to {action}, which it cannot do: {error}; use a defense that steers (sld, "
            "saferedir), or another action"
        ) from error
