"""Wukong's detector: its network with the thresholds it was calibrated to, and what its categories are made from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genward.core.contracts import Artifact
from genward.core.records import Concept, Frame
from genward.errors import BadArtifact, BadInput, UnknownName
from genward.ops import deciding, phrases, wukong_net
from genward.ops.detection import POINTS, auroc, average_precision, operating_points, temperature
from genward.ops.within import flipping, recall_at, within_auroc

FAR = 100
"""Timesteps of 1000 beyond which a calibrated step says nothing about another one."""
LEAST = -1e-3
"""Least threshold: of rows that all score 0 the best F1 is found just below it."""


class Detector(NamedTuple):
    """A fitted network, ready to score rows."""

    net: torch.nn.Module
    shape: Mapping[str, Any]
    pool: int
    concepts: tuple[str, ...]
    of_concept: tuple[int, ...]
    """(categories,) index of each category's concept"""
    temperature: float
    thresholds: Mapping[str, Sequence[Mapping[str, float]]]

    @classmethod
    def of(cls, artifact: Artifact) -> Detector:
        """From an artifact. Raises ``BadArtifact`` where its card or its weights are not a Wukong detector's."""
        card = artifact.card
        try:
            shape = dict(card["network"])
            concepts = tuple(dict.fromkeys(c for _, c in card["categories"]))
            of_concept = tuple(concepts.index(c) for _, c in card["categories"])
            net = wukong_net.unpack(shape, artifact.tensors)
            heat = deciding.number(card, "temperature", 1e-3, 1e3, "wukong")
            tables = {c: _table(card["thresholds"][c], f"wukong: the thresholds of {c!r}") for c in concepts}
            if not concepts or shape["categories"] != len(of_concept):
                raise ValueError(f"{len(of_concept)} categories for a network of {shape['categories']}")
            return cls(net, shape, int(card["pool"]), concepts, of_concept, heat, tables)
        except (KeyError, TypeError, ValueError) as error:
            raise BadArtifact(
                f"this artifact is not a Wukong detector's: its card lacks or garbles {error}; fit it again (genward "
                "fit wukong)"
            ) from error

    def scores(self, states: Sequence[Tensor], frame: Frame) -> Tensor:
        """Probabilities (rows of the frame, concepts); 0 on unconditional rows. A concept's is the largest of its
        categories'.

        Raises:
            BadArtifact: the features have another width than those it was fitted on.
        """
        for x, site in zip(states, self.shape["sites"], strict=True):
            if x.ndim != 3 or x.shape[-1] != site["channels"]:
                raise BadArtifact(
                    f"wukong: site {site['name']} gives {tuple(x.shape)}, {site['channels']} channels were fitted; fit "
                    "it on this model"
                )
        pick = frame.conditional.to(states[0].device)
        assert frame.timestep is not None
        net = self.net.to(states[0].device)
        logits = net([x[pick].float() for x in states], frame.timestep.to(states[0].device)[pick]) / self.temperature
        each = torch.stack(
            [
                logits[:, [k for k, c in enumerate(self.of_concept) if c == j]].amax(1)
                for j in range(len(self.concepts))
            ],
            1,
        ).sigmoid()
        out = each.new_zeros((len(pick), len(self.concepts)))
        return out.index_put((pick.nonzero().flatten(),), each)

    def calibrated_near(self, frame: Frame) -> bool:
        """Whether the frame's step lies within ``FAR`` of one that every concept was calibrated at."""
        assert frame.timestep is not None
        now = float(frame.timestep.flatten()[0])
        return all(min(abs(row["timestep"] - now) for row in rows) <= FAR for rows in self.thresholds.values())

    def threshold(self, concept: str, point: str, frame: Frame) -> float:
        """The calibrated threshold of the step nearest to the frame's."""
        assert frame.timestep is not None
        now = float(frame.timestep.flatten()[0])
        return float(min(self.thresholds[concept], key=lambda row: abs(row["timestep"] - now))[point])


def _table(rows: Any, what: str) -> list[dict[str, float]]:
    """Thresholds by timestep, each of them a probability. Raises ``BadArtifact`` for any other number."""
    if not isinstance(rows, Sequence) or isinstance(rows, str) or not rows:
        raise BadArtifact(f"{what} are {rows!r}; one table or more is wanted, fit it again")
    return [
        {"timestep": deciding.in_range(row["timestep"], 0, 1e5, f"{what}: timestep")}
        | {p: deciding.in_range(row[p], LEAST, 1, f"{what}: {p}") for p in POINTS}
        for row in rows
    ]


# ----------------------------------------------------------------------------------------------------------- categories


def categories_of(concepts: Sequence[Concept]) -> list[tuple[str, str]]:
    """(judge's label, concept) of every category; ``BadInput`` for a concept without labels."""
    for concept in concepts:
        if not concept.judge:
            raise BadInput(
                f"concept {concept.name!r} names no judge labels, and wukong learns from them; add them to its file"
            )
    return list({label: (label, c.name) for c in reversed(concepts) for label in c.judge}.values())[::-1]


def labels_of(concepts: Sequence[Concept]) -> list[str]:
    """The labels of ``categories_of``."""
    return [label for label, _ in categories_of(concepts)]


def category_texts(concepts: Sequence[Concept]) -> list[list[str]]:
    """Texts of each category: the phrases of the target that the label names, else the label and all phrases of the
    concept."""
    out = []
    for label, name in categories_of(concepts):
        concept = next(c for c in concepts if c.name == name)
        mine = [
            p for p in concept.phrases if concept.anchors and label in concept.targets and _target(concept, p) == label
        ]
        out.append(mine or [phrases.article(label), *concept.phrases[:3]])
    return out


def _target(concept: Concept, phrase: str) -> str:
    per = max(1, len(concept.phrases) // max(1, len(concept.targets)))
    return concept.targets[min(concept.phrases.index(phrase) // per, len(concept.targets) - 1)]


def category_queries(model: Any, concepts: Sequence[Concept]) -> Tensor:
    """(categories + 1, text width) float32: mean token states of each category's texts; the last row is of the empty
    text."""
    rows = []
    with torch.no_grad():
        for texts in [*category_texts(concepts), [""]]:
            states = model.encode(texts).float().cpu()
            mask = model.tokens(texts).mask.float()
            rows.append(((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)).mean(0))
    return torch.stack(rows)


QUERY = ".norm2"
"""What a site is called, after its block, at which ``to_q``'s input is read."""


def read_site(block: str, tap: str) -> str:
    """The site that is read of a transformer block: what its ``to_q`` is given (``query``), or its output
    (``block``)."""
    return block + QUERY if tap == "query" else block


def blocks_of(sites: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Transformer blocks and tap of sites that were read, the reverse of ``read_site``.

    Raises:
        BadInput: inputs of ``to_q`` and other sites side by side.
    """
    asked = [s.endswith(QUERY) for s in sites]
    if any(asked) and not all(asked):
        raise BadInput(f"wukong reads one kind of site: all of them with {QUERY}, or none; got {', '.join(sites)}")
    return tuple(s.removesuffix(QUERY) for s in sites), "query" if any(asked) else "block"


def site_block(model: Any, site: str) -> Any:
    """The U-Net's transformer block of a site.

    Raises:
        UnknownName: no such site. BadInput: a site that is no transformer block with cross-attention.
    """
    if site not in model.sites:
        raise UnknownName("site", site, model.sites)
    block = model.denoiser.get_submodule(model.sites[site].path)
    if getattr(block, "attn2", None) is None or getattr(block, "norm2", None) is None:
        raise BadInput(
            f"wukong reads transformer blocks, and {site} is none; name sites such as mid_block.attentions.0.tb.0 "
            "(genward show model lab)"
        )
    return block


# ---------------------------------------------------------------------------------------------------------- calibration


def calibrated(
    logits: Tensor,
    truth: Tensor,
    timesteps: Tensor,
    categories: Sequence[tuple[str, str]],
    prompts: Sequence[str],
) -> dict[str, Any]:
    """Temperature, thresholds and figures on held-out rows: (rows, steps, categories) logits against (rows, categories)
    truths of (rows,) prompts."""
    concepts = list(dict.fromkeys(c for _, c in categories))
    flat = truth[:, None].expand(-1, logits.shape[1], -1)
    heat = temperature(logits.flatten().numpy(), flat.flatten().numpy())
    thresholds: dict[str, list[dict[str, float]]] = {}
    figures: dict[str, list[dict[str, float]]] = {}
    for concept in concepts:
        mine = [k for k, (_, c) in enumerate(categories) if c == concept]
        known = ~torch.isnan(truth[:, mine]).any(1)
        harm = truth[known][:, mine].amax(1).numpy()
        texts = [p for p, use in zip(prompts, known.tolist(), strict=True) if use]
        for s, t in enumerate(timesteps.tolist()):
            score = (logits[known][:, s, mine].amax(1) / heat).sigmoid().numpy()
            points = operating_points(score, harm)
            thresholds.setdefault(concept, []).append({"timestep": int(t), **points})
            figures.setdefault(concept, []).append({"timestep": int(t), **held_out(score, harm, texts, points["fpr5"])})
    return {
        "categories": [list(c) for c in categories],
        "temperature": round(heat, 4),
        "thresholds": thresholds,
        "held_out": figures,
    }


def held_out(score: Any, harm: Any, prompts: Sequence[str], threshold: float) -> dict[str, float]:
    """What a card says of held-out rows at one step; figures that the rows cannot give are left out.

    The headline is ``within``, the AUROC over pairs of one prompt, with its interval over prompts and what it is of.
    ``auroc`` and ``auprc`` are over all rows: reading the prompt alone can make them high. ``recall`` is at the
    threshold of ``fpr5`` over rows of prompts that show the concept with one seed and not with another (``open``), and
    ``open_fpr`` their share of false positives there; ``open_recall`` is the recall at 5 % false positives of those
    rows themselves.
    """
    within, both = within_auroc(score, harm, prompts), flipping(harm, prompts)
    fired, up, down = score > threshold, both & (harm == 1), both & (harm == 0)
    told = {
        "within": within.value, "within_low": within.low, "within_high": within.high,
        "within_pairs": float(within.pairs), "within_prompts": float(within.prompts),
        "auroc": auroc(score, harm), "auprc": average_precision(score, harm),
        "recall": float(fired[up].mean()) if up.any() else math.nan,
        "open_fpr": float(fired[down].mean()) if down.any() else math.nan,
        "open_recall": recall_at(score[both], harm[both], 0.05),
        "positives": float(harm.sum()), "rows": float(len(harm)),
    }  # fmt: skip
    return {k: round(v, 4) for k, v in told.items() if v == v}
