"""Sanity gates for a detector learned from a dataset: each one fails a detector that cheats."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from genward.catalog.dataset import Dataset
from genward.errors import GenwardError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def detector_scores(fitted: Any, data: Dataset, step: int) -> NDArray[Any]:
    """(rows,) largest probability over the detector's categories at one of the dataset's steps."""
    from genward.ops.wukong_detector import Detector
    from genward.ops.wukong_net import predict

    detector = Detector.of(fitted.artifact)
    states = [data.states[s["name"]][:, step : step + 1] for s in detector.shape["sites"]]
    found: NDArray[Any] = (
        (predict(detector.net, states, data.timesteps[step : step + 1])[:, 0].amax(1) / detector.temperature)
        .sigmoid()
        .numpy()
    )
    return found


class Gate(NamedTuple):
    """One sanity gate: a figure, what it was compared with, and whether it holds; ``None`` and NaN with a reason where
    it cannot be told."""

    name: str
    value: float
    against: float
    holds: bool | None
    n: int
    why: str = ""


def text_probe(data: Dataset) -> float:
    """AUROC on the test rows of a linear probe on the mean text state: what the prompt alone gives away. NaN where a
    class is missing."""
    from genward.ops.detection import auroc, linear_probe, probe_scores

    scores = data.states["text"].float().mean(1).numpy()
    harm, train, test = data.harm, data.of("train", "valid"), data.of("test")
    use = train & ~_nan(harm)
    return auroc(probe_scores(linear_probe(scores[use], harm[use]), scores[test]), harm[test])


def _nan(x: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    found: NDArray[Any] = np.isnan(x)
    return found


def gate_shuffled(
    data: Dataset, fit: Callable[[Dataset], Any], *, step: int = 1, seed: int = 0, tolerance: float | None = None
) -> Gate:
    """Labels dealt out anew over all rows that have any: a detector learned from the train and valid ones must rank the
    test ones like a coin.

    The test's labels are shuffled as well: against the true ones a detector without knowledge scores near 0 or near 1
    by chance wherever the concept is the features' main direction, which says nothing.

    Args:
        fit: dataset -> fitted Wukong. tolerance: allowed distance of the AUROC from 0.5; by default 3 standard
            deviations of a coin's (Mann-Whitney, √((p + n + 1) / 12pn)) or 0.03, whichever is larger.

    Raises:
        GenwardError: the test split has no row of one kind.
    """
    import torch

    from genward.ops.detection import auroc

    known = (
        (~torch.isnan(data.truth)).any(1).nonzero().flatten()
    )  # a row without picture has no features to learn a label from
    truth = data.truth.clone()
    truth[known] = data.truth[known[torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))]]
    dealt = data._replace(truth=truth)
    test = dealt.of("test") & ~_nan(dealt.harm)
    up = int((dealt.harm[test] == 1).sum())
    down = int(test.sum()) - up
    if not up or not down:
        raise GenwardError(
            "the test split shows the concept never or always, so the gate cannot be run; build more rows"
        )
    value = auroc(detector_scores(fit(dealt), dealt, step)[test], dealt.harm[test])
    allowed = max(0.03, 3 * math.sqrt((up + down + 1) / (12 * up * down))) if tolerance is None else tolerance
    return Gate("shuffled labels", value, 0.5, abs(value - 0.5) <= allowed, up + down)


def gate_first_step(data: Dataset, fitted: Any, *, tolerance: float = 0.05) -> list[Gate]:
    """At the first step, where latents are noise, a detector should know little more than a probe of the text; at the
    last far more.

    Returns:
        The gate at the first step (holds where its AUROC is at most ``tolerance`` above the text probe's), then the
        later steps (hold where they are not below the first by more than ``tolerance``).
    """
    from genward.ops.detection import auroc

    text = text_probe(data)
    test = data.of("test") & ~_nan(data.harm)
    values = [auroc(detector_scores(fitted, data, s)[test], data.harm[test]) for s in range(len(data.timesteps))]
    first = Gate("first step against text", values[0], text, values[0] <= text + tolerance, int(test.sum()))
    later = [
        Gate(f"step at t={int(t)} against first", v, values[0], v >= values[0] - tolerance, int(test.sum()))
        for t, v in zip(data.timesteps[1:], values[1:], strict=True)
    ]
    return [first, *later]


def gate_last_step(data: Dataset, fitted: Any, *, tolerance: float = 0.1) -> Gate:
    """At the last step a detector should come close to an image filter, which sees the finished picture.

    The filter asks the judges that labelled the dataset, so its AUROC on rows with a label is 1: nothing else would be
    one filter's error on another's labels.

    Returns:
        The gate; it holds where the AUROC at the last step that was read is at most ``tolerance`` below 1.
    """
    from genward.ops.detection import auroc

    test = data.of("test") & ~_nan(data.harm)
    value = auroc(detector_scores(fitted, data, len(data.timesteps) - 1)[test], data.harm[test])
    return Gate("last step against image filter", value, 1.0, value >= 1 - tolerance, int(test.sum()))


def gate_within(data: Dataset, fitted: Any, *, rise: float = 0.05) -> list[Gate]:
    """Within one prompt, a detector of pictures must know more the later it looks; one that reads the prompt stays at a
    half.

    Returns:
        One gate a later step: the AUROC over pairs of one prompt there against that of the step before; each holds
        where it is not below by more than ``rise``, the last one where it is also above the first step's by more than
        ``rise``. ``n`` counts prompts with both outcomes.

    Raises:
        GenwardError: no prompt of the test split has both outcomes.
    """
    from genward.ops.within import within_auroc

    test = data.of("test") & ~_nan(data.harm)
    prompts = [r["prompt"] for r, use in zip(data.rows, test, strict=True) if use]
    found = [
        within_auroc(detector_scores(fitted, data, s)[test], data.harm[test], prompts)
        for s in range(len(data.timesteps))
    ]
    if not found[0].pairs:
        raise GenwardError("no prompt of the test split shows the concept with one seed and not with another")
    values, times = [w.value for w in found], [int(t) for t in data.timesteps]
    out = []
    for k in range(1, len(values)):
        holds = values[k] >= values[k - 1] - rise and (k + 1 < len(values) or values[k] > values[0] + rise)
        name = f"within one prompt, t={times[k]} against t={times[k - 1]}"
        out.append(Gate(name, values[k], values[k - 1], holds, found[k].prompts))
    return out


def gates(data: Dataset, fitted: Any, fit: Callable[[Dataset], Any]) -> list[Gate]:
    """All gates on the test rows: the first step against the text, later ones against the first, within one prompt each
    against the one before, the last against an image filter, shuffled labels.

    Args:
        fitted: Wukong learned from the dataset. fit: dataset -> fitted Wukong, for the shuffled labels.

    Returns:
        The gates; one that this dataset cannot answer (a step that was not read, one kind of row only) says why.
    """
    from genward.ops.activations import stop_step

    recipe = data.card["plan"]["recipe"]
    steps = int(recipe["sampler"]["steps"])
    read = {stop_step(s, steps) for s in recipe["steps"]}
    harm = data.harm[data.of("test")]
    lacking = (
        "" if {0.0, 1.0} <= set(harm.tolist()) else "the test split shows the concept never or always; build more rows"
    )
    first = (
        lacking
        or ("" if 0 in read else "step 0 was not read; build with --at 0,…")
        or ("" if "text" in data.states else "no part text; build with --parts text")
    )
    early = "" if len(read) > 1 else "one step was read; build with --at and several"
    last = lacking or ("" if steps - 1 in read else "the last step was not read; build with --at …,0.99")
    return [
        *_answered("first step against text", first, lambda: gate_first_step(data, fitted)),
        *_answered("within one prompt", lacking or early, lambda: gate_within(data, fitted)),
        *_answered("last step against image filter", last, lambda: [gate_last_step(data, fitted)]),
        *_answered("shuffled labels", lacking, lambda: [gate_shuffled(data, fit, step=len(data.timesteps) - 1)]),
    ]


def _answered(name: str, why: str, run: Callable[[], list[Gate]]) -> list[Gate]:
    try:
        return [Gate(name, math.nan, math.nan, None, 0, why)] if why else run()
    except GenwardError as error:  # too few rows of a kind to learn from
        return [Gate(name, math.nan, math.nan, None, 0, str(error))]
