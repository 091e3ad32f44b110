"""Arms that a plan has only where their fits are at hand (``optional = true``): a quick preset fits nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from genward.catalog.fitting import parse_defense, unfitted
from genward.catalog.opening import Opener
from genward.run.plan import PLACEHOLDER, ArmPlan, Plan
from genward.run.second import labels_of

if TYPE_CHECKING:
    from genward.store import Store


def fitted(plan: Plan, models: Opener, store: Store, say: Callable[[str], None] | None = None) -> Plan:
    """The plan without optional arms whose fits neither the store nor genward holds, bound ones without the concepts
    that lack one; what stays is no longer optional.

    Args:
        say: told in one line what is left out and how to fit it.
    """
    arms = []
    for arm in plan.arms:
        kept = _kept(plan, arm, models, store, say) if arm.optional else arm
        arms += [] if kept is None else [kept]
    return replace(plan, arms=tuple(arms))


def _kept(plan: Plan, arm: ArmPlan, models: Opener, store: Store, say: Callable[[str], None] | None) -> ArmPlan | None:
    model = models(arm.model or plan.model)
    bound = PLACEHOLDER in arm.defenses
    there: list[str] = []
    lost: list[str] = []
    for concept in (arm.concepts or plan.concepts) if bound else ("",):
        text = arm.defenses.replace(PLACEHOLDER, concept)
        missing = unfitted(parse_defense(text), model, store, labels_by=labels_of(plan))
        lost += missing
        there += [] if missing else [concept]
    if lost and say is not None:
        say(f"{arm.label}: left out, not fitted: {', '.join(dict.fromkeys(lost))} (genward fit, or take optional away)")
    if not there:
        return None
    return replace(arm, optional=False, concepts=tuple(there) if bound and lost else arm.concepts)
