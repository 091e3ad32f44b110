"""Which judges a run has: the one that scores, a second one that looks at every picture too, and the one that labels.

The lab comes with two judges that were trained by themselves. A run on the lab has both: one scores, and the other one
labels what defenses learn from and looks for filters, so that no defense is measured by the eye that it was built
on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genward.catalog import plugins
from genward.catalog.judges import judge_hash, open_judge
from genward.catalog.labelling import FIRST, LABELS_BY
from genward.catalog.opening import drawn_by_lab
from genward.core.settings import LAB_JUDGES
from genward.errors import BadInput
from genward.run.plan import Plan

NONE = "none"
"""In place of a second judge's name: there shall be none."""


def other_name(judge: Any, model: str) -> str:
    """The name of the lab's other judge where this is one of the two as they come with genward, on the lab; else
    ``""``."""
    name = str(getattr(type(judge), "name", ""))
    if not drawn_by_lab(model) or name not in LAB_JUDGES or getattr(judge, "folder", None):
        return ""
    return next(other for other in LAB_JUDGES if other != name)


def second_of(plan: Plan, judge: Any) -> Any | None:
    """The run's second judge, opened: the plan's, by default the lab's other one; ``None`` where there is none.

    Args:
        judge: the one that scores.

    Raises:
        BadInput: the plan names the judge that scores. What opening a judge raises.
    """
    if plan.benchmark.media == "text" or plan.second == NONE:
        return None
    name = plan.second or other_name(judge, plan.model)
    if not name:
        return None
    found = open_judge(name)
    if judge_hash(found) == judge_hash(judge):
        if plan.second and judge_hash(open_judge(plan.judge)) == judge_hash(judge):
            raise BadInput(
                f'the second judge {plan.second[:80]!r} is the one that scores; name another one, or second = "{NONE}"'
            )
        found = open_judge(plan.judge)  # the run is scored by its second judge, so the plan's first is the other one
    return found


def labels_of(plan: Plan) -> str:
    """Name of the judge that labels and filters in a run: the plan's, else the lab's second one where the first one
    scores, and the other way round."""
    name = plugins.parts("judge", plan.judge)[0]
    return plan.labels_by or (FIRST if name == LABELS_BY else "")


def same_eye(metrics: Mapping[str, Any]) -> list[str]:
    """Labels of the arms that were labelled or filtered by the judge that scores them; empty in metrics of earlier
    versions, which do not say."""
    scores = next((str(j.get("name")) for j in metrics.get("judges", ())), "")
    return [str(a["label"]) for a in metrics.get("arms", ()) if scores and scores in a.get("labels_by", ())]
