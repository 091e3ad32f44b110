"""T2IShield (Wang et al., ECCV 2024), after the authors' code as digested: a trigger makes the cross-attention maps of
all tokens alike.

Detection by the Frobenius norm (``ftt``: the mean distance of the maps from their mean, low under a trigger) or by
the covariance of the maps (``cda``: principal components, logarithm of their covariance). Localization halves the
caption and goes on with the half whose picture stays like the whole one's. Mitigation maps the located words to an
empty phrase by the closed form on key and value maps. Differs: the generation that is looked at is the scan's own,
of few steps, before the picture's; thresholds are calibrated; the covariance has shrinkage, so its logarithm exists
(the code takes a numerical failure for a trigger), and what is compared is the distance from clean captions
(Mahalanobis), where the authors train a discriminant on eight known backdoors; the closed form acts on the row's
text states, which is the edit of the weights bit for bit in exact arithmetic, for this row alone; the caption
without the located words is a second pair beside the phrase alone, since in a contextual encoder every state
carries the whole caption."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from genward.core.contracts import Artifact, Judge, Rig
from genward.core.records import Call, Frame
from genward.defenses._scanning import Act, Scan, features, generations, noise, seeing
from genward.errors import BadInput, Inapplicable, UnknownName
from genward.ops import artifacts, deciding
from genward.ops.closed_form import edit_delta

DETECTIONS = ("ftt", "cda")
PUBLISHED_EDGE = 16


@dataclass(frozen=True)
class T2IShield(Scan):
    """T2IShield: cross-attention maps that are all alike give a trigger away; it can be located and edited out of the
    row."""

    name: ClassVar[str] = "t2ishield"
    actions: ClassVar[tuple[str, ...]] = ("block", "flag", "edit")
    at_attach: ClassVar[frozenset[str]] = Scan.at_attach | {"detect", "same", "lam", "judge", "probe", "judge_hash"}
    detect: str = "cda"
    """``ftt`` or ``cda``, each of which sees fixtures that the other misses. The action ``edit`` locates the trigger
    and maps it to nothing; a row where none is located is blocked."""
    edge: int = 0
    """Edge of the maps; 0 takes 16, or half the latents' where that is less."""
    components: int = 20
    """Principal components of ``cda``."""
    shrinkage: float = 0.1
    """Share of a multiple of the unit matrix in covariances."""
    sampling_steps: int = 5
    """Steps of its own generation."""
    guidance: float = 4.0
    """Its guidance."""
    same: float = 0.85
    """Cosine of features from which a half's picture is like the whole caption's."""
    lam: float = 0.1
    """Weight of the old maps in the edit."""
    judge: str = ""
    """``edit``: name of the judge whose features compare pictures; empty: the one that labels in a run, elsewhere the
    lab's second one."""
    judge_hash: str = ""
    """Identity of the judge that was opened, filled in with it."""
    probe: Judge | None = field(default=None, compare=False, repr=False, metadata={"identity": False})
    """The judge itself; opened by name where genward builds the chain."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.detect not in DETECTIONS:
            raise UnknownName("t2ishield detection", self.detect, DETECTIONS)
        if not 0 < self.shrinkage < 1 or not 0 < self.same <= 1 or not self.lam > 0:
            raise BadInput(
                f"t2ishield: shrinkage {self.shrinkage}, same {self.same}, lam {self.lam}; between 0 and 1, to 1, and "
                "above 0"
            )
        if not 1 <= self.components <= 512 or not 1 <= self.sampling_steps <= 1000 or self.edge < 0:
            raise BadInput(
                f"t2ishield: components {self.components}, sampling_steps {self.sampling_steps}, edge {self.edge}; 1 "
                "to 512, 1 to 1,000 and at least 0"
            )

    # ------------------------------------------------------------------------------------------------------ detection

    def prepared(self, model: Any) -> None:
        """``Inapplicable`` where the denoiser has no cross-attention maps of that size; ``BadInput`` where nobody can
        compare pictures and ``edit`` has to."""
        self._sites(model)
        if self.action == "edit" and self.artifact is not None:
            seeing(self.probe, model, self.name)

    def _sites(self, model: Any) -> tuple[list[str], int]:
        """(names of the cross-attention sites of the maps' size, that edge)."""
        latent = int(model.latent_shape()[1])
        edge = self.edge or min(PUBLISHED_EDGE, max(1, latent // 2))
        depth = {2**k: latent // 2**k for k in range(8) if latent // 2**k}
        found = [n for n in model.sites if n.endswith("attn2.probs") and _edge(model, n, latent) == edge]
        if not found:
            raise Inapplicable(
                f"t2ishield: this denoiser has no cross-attention maps of {edge}×{edge}; give edge, one of "
                f"{', '.join(map(str, depth.values()))}"
            )
        return found, edge

    def measure(self, rig: Rig, texts: Sequence[str]) -> Tensor:
        """(texts, 1 + components): the mean Frobenius distance of the maps of the caption's tokens, then the logarithms
        of their covariance's largest eigenvalues."""
        sites, edge = self._sites(rig.model)
        tokens = rig.model.tokens(list(texts))
        start = torch.stack([noise(rig, self.name, self.seed, text) for text in texts])
        out = []
        for part in generations(rig, texts, start, steps=self.sampling_steps, guidance=self.guidance, read=sites):
            sums = [step[name].double().mean(1) for step in part.sites for name in sites]
            maps = scaled(torch.stack(sums).mean(0).transpose(1, 2))[:, 1:]
            for row, mask in zip(maps, tokens.mask[part.rows], strict=True):
                own = row[: max(2, int(mask.sum()) - 1)]
                spectrum = log_spectrum(row, self.components, self.shrinkage)
                out.append(torch.cat([spread(own, edge)[None], spectrum]))
        return torch.stack(out)

    def learn(self, clean: Tensor) -> dict[str, Tensor]:
        """``mean`` and ``precision`` of the clean captions' logarithms, for ``cda``."""
        x = clean[:, 1:]
        return {"mean": x.mean(0), "precision": torch.linalg.inv(shrunk(x, self.shrinkage))}

    def score(self, learned: Mapping[str, Tensor], measured: Tensor) -> Tensor:
        """``ftt``: the distance with its sign turned; ``cda``: Mahalanobis distance from clean captions."""
        if self.detect == "ftt":
            return -measured[:, 0]
        off = measured[:, 1:] - learned["mean"]
        squared: Tensor = torch.einsum("rk,kl,rl->r", off, learned["precision"], off)
        return squared.clamp_min(0).sqrt()

    def calibration(self, learned: Mapping[str, Tensor], measured: Tensor) -> Tensor:
        """Clean scores of both detections in order, (rows, 2)."""
        both = [replace(self, detect=name).score(learned, measured).sort().values for name in DETECTIONS]
        return torch.stack(both, 1)

    def limit(self, clean: Tensor) -> float:
        """As every scan's, of its own detection's column."""
        return super().limit(clean[:, DETECTIONS.index(self.detect)])

    def read(self, artifact: Artifact) -> Mapping[str, Tensor]:
        """As every scan's. ``BadArtifact`` where its tensors are not of this method's shapes."""
        tensors, size = super().read(artifact), self.components
        shapes = {"clean": (len(tensors["clean"]), 2), "mean": (size,), "precision": (size, size)}
        artifacts.check_shapes(tensors, shapes, self.name)
        return tensors

    # ----------------------------------------------------------------------------------------------------- mitigation

    def acting(self, rig: Rig) -> Act:
        """Block, flag, or locate the trigger and edit it out of the row: its text states are changed in each step."""
        if self.action != "edit":
            return super().acting(rig)
        edits: dict[int, Tensor] = {}

        def act(frame: Frame, texts: Sequence[str], decision: deciding.Decision) -> None:
            edits.clear()
            for k in decision.hit.nonzero().flatten().tolist():
                words = self.located(rig, texts[k])
                if words is not None:
                    edits[k] = self.delta(rig, texts[k], words)
            kept = torch.tensor([k in edits for k in range(len(texts))])
            self.acted(rig, frame, decision._replace(hit=decision.hit & ~kept))
            rig.flag(
                frame,
                kept,
                "the words that act as a trigger were mapped to nothing",
                action="steered",
                score=decision.score,
                threshold=float(decision.limits[0]),
                category="trigger",
            )

        def fn(call: Call, frame: Frame) -> Call:
            mine = [(row, case) for row, case in enumerate(frame.case.tolist()) if case in edits]
            if not mine:
                return call
            text = call.text.clone()
            for row, case in mine:
                text[row] = edited(text[row], edits[case])
            return call._replace(text=text)

        rig.inputs(fn)
        return act

    def located(self, rig: Rig, text: str) -> list[str] | None:
        """The words of a caption that draw the whole one's picture by themselves, ``None`` where neither half does."""
        start = noise(rig, self.name, self.seed, text)

        def seen(texts: Sequence[str]) -> Tensor:
            many = start[None].expand(len(texts), -1, -1, -1)
            drawn: list[Any] = []
            for part in generations(rig, texts, many, steps=self.sampling_steps, guidance=self.guidance):
                drawn += rig.model.decode(part.latents)
            return features(self.probe, drawn)

        (whole,) = seen([text])
        return halved(text.split(), lambda parts: (seen(parts) @ whole).tolist(), self.same)

    def delta(self, rig: Rig, text: str, words: Sequence[str]) -> Tensor:
        """(d, d) of the closed form that maps the words to an empty phrase, alone and in the caption."""
        phrase, less = " ".join(words), without(text, words)
        old, new, keep = (rig.encode(list(t)).double().flatten(0, 1) for t in ((phrase, text), ("", less), ("", less)))
        return edit_delta(old, new, keep, lam=self.lam)


# ---------------------------------------------------------------------------------------------------- its mathematics


def _edge(model: Any, site: str, latent: int) -> int:
    """Edge of the maps at a site: the latents' after the downsamplings before it."""
    head, _, rest = site.partition(".")
    downs = len(model.denoiser.config.down_block_types)
    level = int(rest.partition(".")[0]) if head != "mid_block" else downs - 1
    depth = downs - 1 - level if head == "up_blocks" else level
    return int(latent // 2**depth)


def scaled(maps: Tensor) -> Tensor:
    """Maps (rows, tokens, pixels), each divided by its largest number."""
    return maps / maps.amax(-1, keepdim=True).clamp_min(1e-12)


def spread(maps: Tensor, edge: int) -> Tensor:
    """Mean Frobenius distance of maps (tokens, pixels) from their mean, for maps of 16 × 16: distances of ``edge`` are
    multiplied by 16 / edge, so that one number means the same at any size."""
    distances: Tensor = (maps - maps.mean(0)).norm(dim=1)
    return distances.mean() * (PUBLISHED_EDGE / edge)


def shrunk(x: Tensor, share: float) -> Tensor:
    """Covariance (d, d) of rows (n, d), a ``share`` of it replaced by the unit matrix times its mean variance."""
    centered = x - x.mean(0)
    found = centered.T @ centered / max(1, len(x) - 1)
    mean = found.diagonal().mean().clamp_min(1e-9)
    out: Tensor = (1 - share) * found + share * mean * torch.eye(len(found), dtype=x.dtype)
    return out


def log_spectrum(maps: Tensor, components: int, share: float) -> Tensor:
    """(components,) logarithms of the eigenvalues of the covariance of maps (tokens, pixels) in their principal
    components, the largest first, with shrinkage: the diagonal of its logarithm, which is diagonal there."""
    centered = maps - maps.mean(0)
    values = torch.linalg.svdvals(centered).square() / max(1, len(maps) - 1)
    values = torch.cat([values, values.new_zeros(components)])[:components]
    floor = values.mean().clamp_min(1e-9)
    out: Tensor = ((1 - share) * values + share * floor).log()
    return out


def halved(words: Sequence[str], likeness: Callable[[Sequence[str]], Sequence[float]], same: float) -> list[str] | None:
    """The fewest words that are reached by taking the half that is more like the whole, as long as one is ``same``;
    ``None`` where neither half of the whole is, or there are no two words.

    Args:
        likeness: texts -> how like the whole caption's picture each one's is.
    """
    kept: list[str] | None = None
    now = list(words)
    while len(now) > 1:
        halves = now[: len(now) // 2], now[len(now) // 2 :]
        found = list(likeness([" ".join(half) for half in halves]))
        best = max(range(2), key=lambda k: found[k])
        if not found[best] >= same:
            break
        kept = now = list(halves[best])
    return kept


def without(text: str, words: Sequence[str]) -> str:
    """A caption without a run of its words."""
    every = text.split()
    for k in range(len(every) - len(words) + 1):
        if every[k : k + len(words)] == list(words):
            return " ".join(every[:k] + every[k + len(words) :])
    return text


def edited(states: Tensor, delta: Tensor) -> Tensor:
    """States (t, d) from which the old maps make what maps edited by ``delta`` (d, d) make of the states as they were:
    ``(W + W D) c = W (c + D c)``."""
    wide = states.double()
    return (wide + wide @ delta.T.to(wide.device)).to(states.dtype)
