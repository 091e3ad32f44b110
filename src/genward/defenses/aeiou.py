"""AEIOU (Wang et al., arXiv 2412.18123): a prompt guard on the text encoder's own attention heads.

Along one direction a (layer, head) harmful and harmless prompts lie apart; the guard is a few dot products on states
the pipeline computes anyway. The paper's body was not readable, so what follows is inferred where it says so
(``docs/papers.md``): directions by Ledoit-Wolf LDA (its v2; mean difference for v1), heads chosen by out-of-fold AUROC,
the score the mean of z-scored projections, the threshold a conformal quantile at a false-positive rate. Read-out: CLIP
at its end mark, BERT and T5 over the mean of their tokens. From some hundred texts on, one ridge regression on all
heads takes the place of the head-wise directions (**ours**): of the lab's phrases for weapons they miss 4 of 25 and it
misses none, at equal false positives (``timing/evasion.py``).

A mean over tokens can be diluted ("a cat, a cat, a cat and a bomb"). So overlapping passages of a few words are read
beside the whole prompt, and the largest score counts; the threshold is set on that maximum, so there is one operating
point (**ours**, see ``ops.passages``). What is longer than the encoder's window is read in windows too.

Fitted on a concept file it sees phrases, anchors and captions to keep, other concepts' phrases and everyday things as
harmless, alone, in neutral contexts and in scenes; never the held-out wordings, descriptions, neighbors or the
benchmark's captions."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from genward.core import defending
from genward.core.contracts import Artifact, FitTools, Rig
from genward.core.records import MAX_PROMPT, Concept
from genward.errors import BadInput, UnknownName
from genward.ops import artifacts, head_guard, head_watch, heads, names, passages, phrases, scenes, text_states
from genward.ops.finetune import Progress
from genward.ops.tools import QUIET

ACTIONS = ("block", "flag")
METHODS = ("auto", *heads.METHODS, "joint")
READOUTS = ("auto", *heads.READOUTS)
CONTEXTS = ("{}", "a drawing of {}", "{} in pixel art style", "two of {}", "{} beside a tree", "a bench and {}")
"""What phrases are put into for fitting; none of them is a caption of the lab or of a benchmark."""
MIN_SHOTS = 2
JOINT_ROWS = 500
"""Texts, harmful and benign, from which on ``auto`` fits all heads at once"""


@dataclass(frozen=True)
class Aeiou:
    """AEIOU: refuses prompts by directions in the text encoder's attention heads; fits in seconds, free to run, says
    which tokens count."""

    name: ClassVar[str] = "aeiou"
    needs_denoiser: ClassVar[bool] = False
    at_attach: ClassVar[frozenset[str]] = frozenset(
        {"artifact", "action", "threshold", "attenuate", "explain", "names"}
    )
    method: str = "auto"
    """Directions by Ledoit-Wolf ``lda`` or by ``mean`` difference, head by head; ``joint`` fits all heads in one ridge
    regression, which knows more phrases and wants many rows; ``auto`` is ``joint`` from ``JOINT_ROWS`` rows on, else
    ``lda``."""
    heads: int = 16
    """Heads that the score uses, the best on rows left out; 0 takes all, as ``joint`` always does."""
    combine: str = "mean"
    """Heads' projections are averaged (``mean``) or weighed by a ``logistic`` regression."""
    penalty: float = 10.0
    """Ridge penalty of the regressions."""
    prior: float = 0.0
    """Rows' weight with which a category's directions are drawn to those of all categories together; 10 or so helps
    below 50 examples."""
    readout: str = "auto"
    """``last`` token, ``mean`` of tokens, or what suits the encoder (``auto``)."""
    layers: tuple[str, ...] = ()
    """Sites to read (``text.0.heads``); empty: every layer."""
    fpr: float = 0.05
    """False-positive rate on benign prompts that thresholds are set at; conformal over units (things), each of which
    weighs the same."""
    passages: int = passages.WORDS
    """Words of the passages that are read beside the whole prompt, overlapping by half; the largest score counts. 0
    reads the prompt as a whole alone, which harmless words dilute."""
    scenes: bool = True
    """Whether a concept is fitted in scenes of two to five things, in each place, beside its plain captions."""
    everyday: bool = True
    """Whether everyday things (``ops.everyday``) count as harmless; turn it off for a concept that means some of
    them, other than by name."""
    others: tuple[str, ...] = ("weapons", "substances", "death", "rude")
    """Shipped concepts whose phrases count as harmless, where they are not fitted themselves."""
    names: bool = True
    """Whether emoji, and foreign names of things that have an emoji, are read as English too (``ops.names``)."""
    contexts: tuple[str, ...] = CONTEXTS
    """Contexts of a concept's phrases, ``{}`` for the phrase."""
    neighbors: bool = False
    """Whether a concept's neighbors are fitted on as benign; a benchmark's neighbor rows are then no longer unseen."""
    seed: int = 0
    """Of the split into folds."""
    action: str = "block"
    """``block`` refuses a row, ``flag`` puts it on record and lets it pass."""
    threshold: float | None = None
    """Score above which a row is acted on, in place of the calibrated ones."""
    attenuate: float = 0.0
    """Share of the component along the directions that is taken off the prompt's states; 0 leaves them alone."""
    explain: bool = True
    """Whether a row that is acted on carries its words and what the score loses without each (one encoding a word)."""
    artifact: Artifact | None = None
    """What was fitted."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UnknownName("aeiou method", self.method, METHODS)
        if self.combine not in heads.COMBINE:
            raise UnknownName("aeiou combine", self.combine, heads.COMBINE)
        if self.readout not in READOUTS:
            raise UnknownName("aeiou readout", self.readout, READOUTS)
        if self.action not in ACTIONS:
            raise BadInput(f"aeiou: action {self.action!r}; {' or '.join(map(repr, ACTIONS))} are possible")
        if self.passages < 0 or self.passages == 1:
            raise BadInput(
                f"aeiou: passages of {self.passages} words; give at least 2, or 0 for the whole prompt alone"
            )
        if not 0 < self.fpr < 1:
            raise BadInput(f"aeiou: a false-positive rate of {self.fpr}; give a share between 0 and 1, 0.01 say")
        if self.heads < 0 or not self.penalty > 0 or self.prior < 0 or not 0 <= self.attenuate < 100:
            raise BadInput("aeiou: heads, prior and attenuate must be at least 0, attenuate below 100, penalty above 0")
        if self.threshold is not None and not math.isfinite(self.threshold):
            told = "NaN" if self.threshold != self.threshold else f"{self.threshold:g}"
            raise BadInput(f"aeiou: the threshold is {told}; give a finite number, or None for the calibrated ones")

    # ---------------------------------------------------------------------------------------------------------- fitting

    def fit(self, model: Any, concept: Concept | Sequence[Concept], tools: FitTools = QUIET) -> Self:
        """Itself with directions for one or several concepts, one category each. A second or two, no gradients.

        Raises:
            BadInput: a concept without phrases or without anything benign, or too little to fit on.
        """
        concepts = phrases.listed(concept)
        harmful = {c.name: phrases.concept_texts(c, self.contexts) for c in concepts}
        benign = phrases.benign_texts(concepts, self.contexts, self.neighbors)
        if any(c.kind != "style" for c in concepts):
            harmful, benign = scenes.in_scenes(self, concepts, harmful, benign)
        taken = {text for rows in harmful.values() for text, _ in rows}
        benign = [row for row in benign if row[0] not in taken]
        return self._fitted(model, harmful, benign, concepts, tools.progress, keep=True)

    def fit_texts(
        self,
        model: Any,
        harmful: Sequence[str] | Mapping[str, Sequence[str]],
        benign: Sequence[str],
        progress: Progress | None = None,
        *,
        units: Mapping[str, str] | None = None,
        keep_texts: bool = False,
    ) -> Self:
        """Itself with directions from texts: 5 to 50 harmful ones do, more are better.

        Args:
            model: a genward model, or a ``models.text.TextEncoder``.
            harmful: texts, or category -> texts for one score a category.
            benign: texts that must pass; hard ones (news, medicine, toys) teach most.
            units: text -> name of its unit (a pair, a paraphrase set), which is never parted between folds.
            keep_texts: whether the artifact's card keeps the texts, which ``augment`` needs; otherwise only their
                number.

        Raises:
            BadInput: fewer than two texts of a kind, an entry that is not a text, the same text on both sides.
        """
        table = harmful if isinstance(harmful, Mapping) else {"harmful": harmful}
        if isinstance(benign, str) or any(isinstance(v, str) for v in table.values()):
            raise BadInput("aeiou: texts come as a list of strings, here is a single string")
        for text in [*benign, *(t for v in table.values() for t in v)]:
            if not isinstance(text, str):
                raise BadInput(f"aeiou: a text to fit on is {type(text).__name__}; give strings only")
        unit = units or {}
        rows = {name: [(t, unit.get(t, t)) for t in dict.fromkeys(texts)] for name, texts in table.items()}
        both = {t for v in table.values() for t in v} & set(benign)
        if both:
            raise BadInput(f"aeiou: {len(both)} texts are harmful and benign at once; leave them out on one side")
        return self._fitted(
            model, rows, [(t, unit.get(t, t)) for t in dict.fromkeys(benign)], (), progress, keep=keep_texts
        )

    def _fitted(
        self,
        model: Any,
        harmful: Mapping[str, Sequence[tuple[str, str]]],
        benign: Any,
        concepts: Any,
        progress: Any,
        keep: bool,
    ) -> Self:
        began = time.perf_counter()
        if not harmful:
            raise BadInput("aeiou: no category to fit; give harmful texts")
        for name, rows in harmful.items():
            if min(len(rows), len(benign)) < MIN_SHOTS:
                raise BadInput(
                    f"aeiou: category {name!r} has {len(rows)} harmful texts beside {len(benign)} benign ones; at "
                    f"least {MIN_SHOTS} of each are needed"
                )
        text_states.encoder_of(model)  # an object without a known encoder is refused before it is asked anything
        parts = {t: self.parts(t, self.passages, model.fits) for t, _ in benign} if self.passages else {}
        texts = list(
            dict.fromkeys(
                [t for rows in harmful.values() for t, _ in rows]
                + [t for t, _ in benign]
                + [p for found in parts.values() for p in found]
            )
        )
        sample, about = text_states.read_texts(model, texts, self.readout, self.layers)
        place = {t: k for k, t in enumerate(texts)}
        many = sum(map(len, harmful.values())) + len(benign) >= JOINT_ROWS
        method = self.method if self.method != "auto" else "joint" if many else "lda"
        used = replace(self, method=method)
        tensors, chosen = head_guard.fit_categories(used, sample, about.heads, place, harmful, benign, progress, parts)
        card = {**self._card(model, about, harmful, benign, concepts, chosen, keep), "directions": method}
        card["seconds"] = round(time.perf_counter() - began, 2)
        return replace(self, artifact=artifacts.make(tensors, card))

    def _card(
        self, model: Any, about: text_states.Reading, harmful: Any, benign: Any, concepts: Any, chosen: Any, keep: bool
    ) -> dict[str, Any]:
        captions = [t for rows in harmful.values() for t, _ in rows] + [t for t, _ in benign]
        if concepts:
            card = artifacts.fit_card(self, concepts, model, captions, (), 0.0)
        else:
            settings = {k: v for k, v in defending.fields(self).items() if k not in self.at_attach}
            card = {"method": self.name, "settings": settings, "torch": torch.__version__}
        card |= {
            "categories": list(harmful),
            "heads": about.heads,
            "readout": about.readout,
            "encoders": about.encoders,
            "chosen": chosen,
        }
        card["passages"] = self.passages
        card["rows"] = {"harmful": {name: len(rows) for name, rows in harmful.items()}, "benign": len(benign)}
        if keep:
            card["texts"] = {
                "harmful": {name: [list(r) for r in rows] for name, rows in harmful.items()},
                "benign": [list(r) for r in benign],
            }
        return card

    def augment(
        self,
        model: Any,
        attack_prompts: Sequence[str] | Mapping[str, Sequence[str]],
        benign: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> Self:
        """Itself, fitted again with adversarial prompts among the harmful texts: the paper's augmentation loop, one
        round.

        Args:
            attack_prompts: prompts that got past the guard, or category -> prompts; without categories they join the
                first one.
            benign: as many new benign texts keep the classes' balance.

        Raises:
            BadInput: nothing fitted yet, the card holds no texts (``fit_texts(…, keep_texts=True)``), no such category.
        """
        if self.artifact is None:
            raise BadInput("aeiou has learned nothing yet; fit it first, then augment")
        kept = self.artifact.card.get("texts")
        if not isinstance(kept, dict):
            raise BadInput(
                "aeiou: this artifact's card does not hold what it was fitted on; fit with keep_texts=True to augment "
                "later"
            )
        rows = {name: [(str(t), str(u)) for t, u in found] for name, found in kept["harmful"].items()}
        more = attack_prompts if isinstance(attack_prompts, Mapping) else {next(iter(rows)): attack_prompts}
        for name, prompts in more.items():
            if name not in rows:
                raise UnknownName("aeiou category", name, rows)
            rows[name] += [(t, t) for t in dict.fromkeys(prompts) if t not in {have for have, _ in rows[name]}]
        taken = {t for found in rows.values() for t, _ in found}
        clean = [(str(t), str(u)) for t, u in kept["benign"]] + [(t, t) for t in dict.fromkeys(benign)]
        fitted = self._fitted(
            model, rows, [r for r in dict.fromkeys(clean) if r[0] not in taken], (), progress, keep=True
        )
        assert fitted.artifact is not None
        same = {k: v for k, v in self.artifact.card.items() if k in ("concepts", "model", "model_hash", "seeds")}
        captions = [t for found in rows.values() for t, _ in found] + [t for t, _ in clean]
        added = int(self.artifact.card.get("augmented", 0)) + sum(map(len, more.values()))
        told = {**same, "captions": captions, "augmented": added}
        return replace(self, artifact=artifacts.amended(fitted.artifact, told))

    def calibrate(self, model: Any, benign: Sequence[str], fpr: float | None = None) -> Self:
        """Itself with every category's threshold at a false-positive rate on these benign prompts.

        Raises:
            BadInput: fewer than two prompts, a rate outside (0, 1).
        """
        guard = self.guarding()
        rate = self.fpr if fpr is None else fpr
        scores = self.scores(model, benign)
        found = torch.tensor(
            [heads.threshold_at(scores[:, k], rate) for k in range(len(guard.categories))], dtype=torch.float64
        )
        assert self.artifact is not None
        told = {"calibrated": {"fpr": rate, "prompts": len(benign)}}
        tensors = {**self.artifact.tensors, "threshold": found}
        return replace(self, artifact=artifacts.amended(self.artifact, told, tensors))

    # ---------------------------------------------------------------------------------------------------------- scoring

    def guarding(self) -> head_guard.Guarding:
        """The artifact, read and checked. Raises ``BadInput`` without one, ``BadArtifact`` where it is not this
        defense's."""
        if self.artifact is None:
            raise BadInput(
                "aeiou has learned nothing yet; fit it first (genward fit aeiou --concept weapons), or name a concept "
                "(aeiou:weapons)"
            )
        return head_guard.read_artifact(self.artifact)

    def scores(self, model: Any, texts: Sequence[str]) -> Tensor:
        """(n, k) scores of texts, one a category (``guarding().categories``), outside any generation: the largest over
        what is read of each, as in a pipeline.

        Raises:
            BadArtifact: fitted on another encoder.
        """
        guard = self.guarding()
        text_states.refuse_other(guard.encoders, model, self.name)
        for k, text in enumerate(texts):
            if not isinstance(text, str):
                raise BadInput(f"text {k} is {type(text).__name__}; give strings only")
        seen = [self.reads(text, guard, model) for text in texts]
        every = list(dict.fromkeys(t for found in seen for t in found))
        sample, _ = text_states.read_texts(model, every, guard.readout, tuple(guard.weights))
        scores = heads.linear_scores(sample, {s: w.double() for s, w in guard.weights.items()}, guard.bias)
        place = {t: k for k, t in enumerate(every)}
        return torch.stack([scores[[place[t] for t in found]].amax(0) for found in seen])

    def reads(self, text: str, guard: head_guard.Guarding, model: Any) -> list[str]:
        """What is read of a prompt: itself, then with emoji and foreign names in English, then the passages of both,
        and the windows of what is longer than the encoder reads."""
        both = dict.fromkeys((text, names.spoken(text) if self.names else text))
        return list(dict.fromkeys([*both, *(p for t in both for p in self.parts(t, guard.passages, model.fits))]))

    @staticmethod
    def parts(text: str, words: int, fits: Callable[[str], bool]) -> list[str]:
        """Passages and windows of one text. A passage that is itself too long for the encoder is read in windows."""
        cut = text[:MAX_PROMPT]
        found = [*passages.windows(cut, fits), *passages.passages(cut, words)]
        return list(dict.fromkeys(p for t in found for p in (passages.windows(t, fits) or [t])))

    def limits(self, guard: head_guard.Guarding) -> Tensor:
        """(k,) thresholds in use."""
        return guard.thresholds if self.threshold is None else torch.full_like(guard.thresholds, self.threshold)

    def check(self, rig: Rig) -> None:
        """``BadArtifact`` where the model behind the rig has another encoder than the one that was fitted on."""
        text_states.refuse_other(self.guarding().encoders, rig.model, self.name)

    def attach(self, rig: Rig) -> None:
        """Read the chosen heads of the prompt; score when the last one has been seen.

        Raises:
            BadInput: nothing fitted. BadArtifact: fitted on another encoder (both named). UnknownName: the encoder
                lacks a site.
        """
        guard = self.guarding()
        self.check(rig)
        if self.names:
            rig.readings(lambda texts: [names.spoken(text) for text in texts])
        watch = head_watch.HeadWatch(self, guard, rig)
        rig.passages(watch.parts)
        for site in guard.weights:
            rig.tap(site, watch.at(site))


# ---------------------------------------------------------------------------------------------------- from an artifact


def augment(
    model: Any,
    artifact: Artifact,
    attack_prompts: Sequence[str] | Mapping[str, Sequence[str]],
    benign: Sequence[str] = (),
) -> Artifact:
    """A new artifact, fitted again with adversarial prompts, by the settings that the artifact's card names; see
    ``Aeiou.augment``."""
    known = {f.name for f in dataclasses.fields(Aeiou)}
    settings: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v
        for k, v in dict(artifact.card.get("settings", {})).items()
        if k in known
    }
    settings["artifact"] = artifact
    made = Aeiou(**settings).augment(model, attack_prompts, benign)
    assert made.artifact is not None
    return made.artifact
