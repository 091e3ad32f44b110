"""AEIOU (Wang et al., arXiv 2412.18123): a prompt guard on the text encoder's own attention heads.

Along one direction a (layer, head) harmful and harmless prompts lie apart; the guard is a few dot products on states
the pipeline computes anyway. The paper's body was not readable, so what follows is inferred where it says so
(``docs/papers.md``): directions by Ledoit-Wolf LDA (its v2; mean difference for v1), heads chosen by out-of-fold AUROC,
the score the mean of z-scored projections, the threshold a conformal quantile at a false-positive rate. Read-out: CLIP
at its end mark, BERT and T5 over the mean of their tokens.

Fitted on a concept file it sees phrases, descriptions, anchors and captions to keep, in neutral contexts; never the
held-out wordings, neighbors or the benchmark's captions."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from genward.core.contracts import Artifact, Rig
from genward.core.records import MAX_PROMPT, Case, Concept, Frame, Sampler
from genward.errors import BadArtifact, BadInput, GuardError, UnknownName
from genward.ops import artifacts, heads, phrases
from genward.ops.finetune import Progress

ACTIONS = ("block", "flag")
READOUTS = ("auto", *heads.READOUTS)
CONTEXTS = ("{}", "a drawing of {}", "{} in pixel art style", "two of {}", "{} beside a tree", "a bench and {}")
"""What phrases are put into for fitting; none of them is a caption of the lab or of a benchmark."""
MIN_SHOTS = 2


class Guarding(NamedTuple):
    """An artifact, read: what scoring needs."""

    categories: tuple[str, ...]
    weights: dict[str, Tensor]
    """site -> (k, heads · dim); sites without a chosen head are left out"""
    bias: Tensor
    thresholds: Tensor
    centers: dict[str, Tensor]
    """site -> (k, heads): a benign prompt's mean projection, which attenuation leaves"""
    heads: dict[str, int]
    readout: dict[str, str]
    """encoder (first part of a site's name) -> ``last`` | ``mean``"""
    encoders: dict[str, dict[str, str]]
    """encoder -> {name, hash}"""


@dataclass(frozen=True)
class Aeiou:
    """AEIOU: refuses prompts by directions in the text encoder's attention heads; fits in seconds, free to run, says
    which tokens count."""

    name: ClassVar[str] = "aeiou"
    kind: ClassVar[str] = "guard"
    fits: ClassVar[bool] = True
    needs_guidance: ClassVar[bool] = False
    extra_nfe: ClassVar[float] = 0.0
    at_attach: ClassVar[frozenset[str]] = frozenset({"artifact", "action", "threshold", "attenuate", "explain"})
    method: str = "lda"
    """Directions by Ledoit-Wolf ``lda`` or by ``mean`` difference; ``joint`` fits all heads in one ridge regression
    (many rows wanted)."""
    heads: int = 16
    """Heads that the score uses, the best on rows left out; 0 takes all."""
    combine: str = "mean"
    """Heads' projections are averaged (``mean``) or weighed by a ``logistic`` regression."""
    penalty: float = 1.0
    """Ridge penalty of the regressions."""
    prior: float = 0.0
    """Rows' weight with which a category's directions are drawn to those of all categories together; 10 or so helps
    below 50 examples."""
    readout: str = "auto"
    """``last`` token, ``mean`` of tokens, or what suits the encoder (``auto``)."""
    layers: tuple[str, ...] = ()
    """Sites to read (``text.0.heads``); empty: every layer."""
    fpr: float = 0.01
    """False-positive rate on benign prompts that thresholds are set at."""
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
    """Whether a row that is acted on carries its tokens' shares of the score."""
    artifact: Artifact | None = None
    """What was fitted."""

    def __post_init__(self) -> None:
        if self.method not in (*heads.METHODS, "joint"):
            raise UnknownName("aeiou method", self.method, (*heads.METHODS, "joint"))
        if self.combine not in heads.COMBINE:
            raise UnknownName("aeiou combine", self.combine, heads.COMBINE)
        if self.readout not in READOUTS:
            raise UnknownName("aeiou readout", self.readout, READOUTS)
        if self.action not in ACTIONS:
            raise BadInput(f"aeiou: action {self.action!r}; {' or '.join(map(repr, ACTIONS))} are possible")
        if not 0 < self.fpr < 1:
            raise BadInput(f"aeiou: a false-positive rate of {self.fpr}; give a share between 0 and 1, 0.01 say")
        if self.heads < 0 or not self.penalty > 0 or self.prior < 0 or not 0 <= self.attenuate < 100:
            raise BadInput("aeiou: heads, prior and attenuate must be at least 0, attenuate below 100, penalty above 0")
        if self.threshold is not None and self.threshold != self.threshold:
            raise BadInput("aeiou: the threshold is NaN; give a number, or None for the calibrated ones")

    # ---------------------------------------------------------------------------------------------------------- fitting

    def fit(self, model: Any, concept: Concept | Sequence[Concept], progress: Progress | None = None) -> Self:
        """Itself with directions for one or several concepts, one category each. A second or two, no gradients.

        Raises:
            BadInput: a concept without phrases or without anything benign, or too little to fit on.
        """
        concepts = phrases.listed(concept)
        harmful = {c.name: concept_texts(c, self.contexts) for c in concepts}
        taken = {text for rows in harmful.values() for text, _ in rows}
        benign = [row for row in benign_texts(concepts, self.contexts, self.neighbors) if row[0] not in taken]
        return self._fitted(model, harmful, benign, concepts, progress, keep=True)

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
        texts = list(dict.fromkeys([t for rows in harmful.values() for t, _ in rows] + [t for t, _ in benign]))
        sample, about = read_texts(model, texts, self.readout, self.layers)
        place = {t: k for k, t in enumerate(texts)}
        tensors, chosen = fit_categories(self, sample, about.heads, place, harmful, benign, progress)
        card = self._card(model, about, harmful, benign, concepts, chosen, keep)
        card["seconds"] = round(time.perf_counter() - began, 2)
        return replace(self, artifact=artifacts.make(tensors, card))

    def _card(
        self, model: Any, about: Reading, harmful: Any, benign: Any, concepts: Any, chosen: Any, keep: bool
    ) -> dict[str, Any]:
        captions = [t for rows in harmful.values() for t, _ in rows] + [t for t, _ in benign]
        if concepts:
            card = artifacts.fit_card(self, concepts, model, captions, (), 0.0)
        else:
            fields = [f.name for f in dataclasses.fields(self) if f.name not in self.at_attach]
            card = {"method": self.name, "settings": {f: getattr(self, f) for f in fields}, "torch": torch.__version__}
        card |= {
            "categories": list(harmful),
            "heads": about.heads,
            "readout": about.readout,
            "encoders": about.encoders,
            "chosen": chosen,
        }
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
        card = {k: v for k, v in fitted.artifact.card.items() if k not in artifacts.RESERVED}
        added = int(self.artifact.card.get("augmented", 0)) + sum(map(len, more.values()))
        return replace(
            self,
            artifact=artifacts.make(
                fitted.artifact.tensors, {**card, **same, "captions": captions, "augmented": added}
            ),
        )

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
        card = {k: v for k, v in self.artifact.card.items() if k not in artifacts.RESERVED} | {
            "calibrated": {"fpr": rate, "prompts": len(benign)}
        }
        return replace(self, artifact=artifacts.make({**self.artifact.tensors, "threshold": found}, card))

    # ---------------------------------------------------------------------------------------------------------- scoring

    def guarding(self) -> Guarding:
        """The artifact, read and checked. Raises ``BadInput`` without one, ``BadArtifact`` where it is not this
        defense's."""
        if self.artifact is None:
            raise BadInput(
                "aeiou has learned nothing yet; fit it first (genward fit aeiou --concept weapons), or name a concept "
                "(aeiou:weapons)"
            )
        return read_artifact(self.artifact)

    def scores(self, model: Any, texts: Sequence[str]) -> Tensor:
        """(n, k) scores of texts, one a category (``guarding().categories``), outside any generation.

        Raises:
            BadArtifact: fitted on another encoder.
        """
        guard = self.guarding()
        refuse_other(guard, model)
        sample, _ = read_texts(model, texts, guard.readout, tuple(guard.weights))
        return heads.linear_scores(sample, {s: w.double() for s, w in guard.weights.items()}, guard.bias)

    def limits(self, guard: Guarding) -> Tensor:
        """(k,) thresholds in use."""
        return guard.thresholds if self.threshold is None else torch.full_like(guard.thresholds, self.threshold)

    def attach(self, rig: Rig) -> None:
        """Read the chosen heads of the prompt; score when the last one has been seen.

        Raises:
            BadInput: nothing fitted. BadArtifact: fitted on another encoder (both named). UnknownName: the encoder
                lacks a site.
        """
        guard = self.guarding()
        refuse_other(guard, getattr(rig, "model", None))
        watch = _Watch(self, guard, rig)
        for site in guard.weights:
            rig.tap(site, watch.at(site))


class _Watch:
    """One attached guard: gathers the sites of a batch and decides at the last."""

    def __init__(self, settings: Aeiou, guard: Guarding, rig: Rig) -> None:
        self.settings, self.guard, self.rig = settings, guard, rig
        self.weights = {site: weight.float() for site, weight in guard.weights.items()}
        self.limits = settings.limits(guard)
        self.seen: dict[str, Tensor] = {}
        self.tokens: dict[str, Any] = {}

    def at(self, site: str) -> Callable[[Tensor, Frame], Tensor | None]:
        def fn(states: Tensor, frame: Frame) -> Tensor | None:
            if frame.role != "prompt":
                return None
            if site in self.seen:  # a pass that never came to its end
                self.seen.clear()
            if not any(encoder_key(s) == encoder_key(site) for s in self.seen):
                self.tokens[encoder_key(site)] = self.rig.tokens(frame)
            self.seen[site] = states
            if len(self.seen) == len(self.weights):
                self.decide(frame)
                self.seen.clear()
            return self.weakened(site, states)

        return fn

    def weakened(self, site: str, states: Tensor) -> Tensor | None:
        beta = self.settings.attenuate
        if beta == 0:
            return None
        for k, weight in enumerate(self.guard.weights[site]):
            states = heads.attenuate(states, weight, beta, self.guard.heads[site], self.guard.centers[site][k])
        return states

    def decide(self, frame: Frame) -> None:
        sample = {}
        for site in self.weights:
            key = encoder_key(site)
            sample[site] = heads.read_out(self.seen[site], self.tokens[key].mask, self.guard.readout[key]).float().cpu()
        total = heads.linear_scores(sample, self.weights, self.guard.bias.float())
        margin = total - self.limits.float()
        top = margin.argmax(1)
        score = total[torch.arange(len(total)), top]
        self.rig.note(frame, **{"aeiou.score": score})
        broken = ~torch.isfinite(total).all(1)
        if bool(broken.any()):
            self.rig.block(frame, broken, "the prompt's score is not a number, so nothing vouches for it", score=score)
        over = (margin.gather(1, top[:, None])[:, 0] > 0) & ~broken
        if bool(over.any()):
            self.act(frame, over, top, score)

    def act(self, frame: Frame, over: Tensor, top: Tensor, score: Tensor) -> None:
        shares = self.shares(over, top) if self.settings.explain else None
        for k, category in enumerate(self.guard.categories):
            rows = over & (top == k)
            if not bool(rows.any()):
                continue
            limit = float(self.limits[k])
            why = f"the prompt reads as {category}"
            act = self.rig.flag if self.settings.action == "flag" else self.rig.block
            act(frame, rows, why, score=score, threshold=limit, category=category, tokens=shares)

    def shares(self, over: Tensor, top: Tensor) -> list[list[tuple[str, float]]]:
        """Tokens and their shares of each row that is acted on, padding left out; nothing for the others."""
        picked = over.nonzero().flatten()
        out: list[list[tuple[str, float]]] = [[] for _ in range(len(over))]
        for key, tokens in self.tokens.items():
            weights = {site: w for site, w in self.weights.items() if encoder_key(site) == key}
            states = {
                site: self.seen[site].detach()[picked.to(self.seen[site].device)].float().cpu() for site in weights
            }
            mask = tokens.mask[picked]
            found = heads.token_scores(states, mask, weights, self.guard.readout[key])
            for row, case in enumerate(picked.tolist()):
                out[case] += [
                    (tokens.strings[case][t], float(found[row, t, top[case]]))
                    for t in mask[row].nonzero().flatten().tolist()
                ]
        return out


# ------------------------------------------------------------------------------------------------------ texts to fit on


def concept_texts(concept: Concept, contexts: Sequence[str]) -> list[tuple[str, str]]:
    """(text, its phrase) of a concept's phrases and descriptions in every context; held-out wordings are never among
    them.

    Raises:
        BadInput: a concept without phrases, a context without ``{}``.
    """
    if not concept.phrases:
        raise BadInput(f"concept {concept.name!r} has no phrases; a guard has nothing to fit on, add some")
    held = {h.casefold() for h in concept.heldout}
    own = [p for p in (*concept.phrases, *concept.descriptions) if p.casefold() not in held]
    used = ("{}", *phrases.STYLE_TEMPLATES) if concept.kind == "style" else tuple(contexts)
    return list({phrases.fill(c, p): p for p in own for c in used}.items())


def benign_texts(
    concepts: Sequence[Concept], contexts: Sequence[str], neighbors: bool = False
) -> list[tuple[str, str]]:
    """(text, its phrase) of the empty text and of what the concepts map to and keep (and of their neighbors, if asked
    for), in every context."""
    near = (
        [f"in {n} style" if c.kind == "style" else phrases.article(n) for c in concepts for n in c.neighbors]
        if neighbors
        else []
    )
    own = dict.fromkeys(p for p in (*(p for c in concepts for p in (*c.anchors, c.anchor, *c.keep)), *near) if p)
    if all(c.kind == "style" for c in concepts):
        contexts = ("{}",)  # a style's captions to keep are whole pictures already
    made = {"": ""} | {phrases.fill(c, p): p for p in own for c in contexts}
    return list(made.items())


# ----------------------------------------------------------------------------------------------------- reading encoders


class Reading(NamedTuple):
    """About the states that were read."""

    heads: dict[str, int]
    widths: dict[str, int]
    readout: dict[str, str]
    encoders: dict[str, dict[str, str]]


class _Reader:
    """Reads text sites through the rig: every row is refused at the text stage, so no denoiser call is spent."""

    name: ClassVar[str] = "aeiou-reader"

    def __init__(self, sites: Sequence[str], how: Mapping[str, str]) -> None:
        self.sites, self.how = tuple(sites), how
        self.found: dict[str, list[Tensor]] = {site: [] for site in sites}

    def attach(self, rig: Rig) -> None:
        def at(site: str) -> Callable[[Tensor, Frame], None]:
            def fn(states: Tensor, frame: Frame) -> None:
                self.found[site].append(
                    heads.read_out(states.detach(), rig.tokens(frame).mask, self.how[encoder_key(site)]).float().cpu()
                )
                if site == self.sites[-1]:
                    rig.block(frame, torch.ones(len(states), dtype=torch.bool), "read only")

            return fn

        for site in self.sites:
            rig.tap(site, at(site))


def encoder_key(site: str) -> str:
    """Which encoder a site belongs to: ``text`` of ``text.0.heads``, ``text_2`` of ``text_2.0.heads``."""
    return site.split(".", 1)[0]


def encoder_of(model: Any, key: str = "text") -> Any:
    """A text encoder of a genward model or the one of a ``TextEncoder``.

    Raises ``GuardError`` of anything else: a guard must know whose states it reads.
    """
    for name in (key.replace("text", "text_encoder", 1), "encoder"):
        found = getattr(model, name, None)
        if found is not None and hasattr(found, "named_parameters"):
            return found
    raise GuardError(
        f"aeiou cannot tell the encoder {key!r} of {type(model).__name__}, so it cannot know whether it was fitted for "
        "it"
    )


def refuse_other(guard: Guarding, model: Any) -> None:
    """``BadArtifact`` naming both encoders, where the artifact was fitted on another."""
    for key, fitted in guard.encoders.items():
        encoder = encoder_of(model, key)
        if fitted["hash"] != heads.encoder_hash(encoder):
            raise BadArtifact(
                f"aeiou was fitted on the encoder {fitted['name']}, this model has {heads.encoder_name(encoder)}; fit "
                "it again on this one"
            )


def read_texts(
    model: Any, texts: Sequence[str], readout: str | Mapping[str, str], layers: Sequence[str]
) -> tuple[dict[str, Tensor], Reading]:
    """Read-out head states (n, heads · dim) float32 of texts by site, and what they are.

    Args:
        model: a genward model (read through its rig, tokenized as its pipeline does) or a ``models.text.TextEncoder``.
            Several encoders are read at once where a model's sites name several (``text.…``, ``text_2.…``).
        readout: one of ``READOUTS``, or one an encoder. layers: sites, empty for all.

    Raises:
        UnknownName: the encoder has no such site. BadInput: an entry is not a text.
    """
    have = {name: site for name, site in model.sites.items() if site.stream == "heads"}
    for name in layers:
        if name not in have:
            raise UnknownName("text site", name, have)
    sites = {name: site for name, site in have.items() if not layers or name in layers}
    encoders = {key: encoder_of(model, key) for key in dict.fromkeys(map(encoder_key, sites))}
    if not sites:
        raise BadInput(f"{type(encoder_of(model)).__name__} shows no attention heads to read; CLIP, BERT and T5 do")
    if not texts:
        raise BadInput("aeiou: no texts to read")
    for k, text in enumerate(texts):
        if not isinstance(text, str):
            raise BadInput(f"aeiou: text {k} is {type(text).__name__}; give strings only")
    given = {key: readout if isinstance(readout, str) else readout[key] for key in encoders}
    how = {key: heads.natural_readout(encoders[key]) if given[key] == "auto" else given[key] for key in encoders}
    sample = (
        _alone(model, texts, list(sites), how)
        if hasattr(model, "heads")
        else _through_rig(model, texts, list(sites), how)
    )
    counts = {name: heads.heads_of(encoders[encoder_key(name)]) for name in sites}
    about = {key: {"name": heads.encoder_name(e), "hash": heads.encoder_hash(e)} for key, e in encoders.items()}
    return sample, Reading(counts, {n: s.channels for n, s in sites.items()}, how, about)


def _through_rig(model: Any, texts: Sequence[str], sites: Sequence[str], how: Mapping[str, str]) -> dict[str, Tensor]:
    reader = _Reader(sites, how)
    model.generate(
        [Case(f"text-{k}", t[:MAX_PROMPT]) for k, t in enumerate(texts)], Sampler(steps=1, guidance=1.0), [reader]
    )
    return {site: torch.cat(parts) for site, parts in reader.found.items()}


def _alone(model: Any, texts: Sequence[str], sites: Sequence[str], how: Mapping[str, str]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for rows, states, mask, _ in model.heads(texts, sites):
        for site in sites:
            part = heads.read_out(states[site], mask, how[encoder_key(site)]).float().cpu()
            out.setdefault(site, torch.zeros(len(texts), part.shape[1]))[rows] = part
    return out


# -------------------------------------------------------------------------------------------------------------- fitting


def fit_categories(
    settings: Aeiou,
    sample: Mapping[str, Tensor],
    counts: Mapping[str, int],
    place: Mapping[str, int],
    harmful: Mapping[str, Sequence[tuple[str, str]]],
    benign: Sequence[tuple[str, str]],
    progress: Progress | None,
) -> tuple[dict[str, Tensor], dict[str, list[list[Any]]]]:
    """(tensors of the artifact, category -> [[site, head, out-of-fold AUROC], …]).

    A category is fitted against the benign texts; thresholds are those of out-of-fold benign scores at
    ``settings.fpr``."""
    table = heads.head_table(sample, counts)
    clean = table[[place[t] for t, _ in benign]]
    every = table[list(dict.fromkeys(place[t] for rows in harmful.values() for t, _ in rows))]
    use_prior = settings.prior > 0 and len(harmful) > 1 and settings.method != "joint"
    pooled = heads.directions(every, clean, settings.method) if use_prior else None
    names = [(site, head) for site, count in counts.items() for head in range(count)]
    weights, biases, limits, chosen = [], [], [], {}
    for step, (category, rows) in enumerate(harmful.items(), 1):
        bad = table[[place[t] for t, _ in rows]]
        units = ([u for _, u in rows], [u for _, u in benign])
        if settings.method == "joint":
            fit = heads.fit_joint(bad, clean, penalty=settings.penalty, seed=settings.seed, units=units)
        else:
            fit = heads.fit_heads(
                bad, clean, method=settings.method, count=settings.heads, combine=settings.combine, penalty=settings.penalty,
                seed=settings.seed, pooled=pooled, prior=settings.prior, units=units,
            )  # fmt: skip
        weights.append(fit.weight)
        biases.append(fit.bias)
        limits.append(heads.threshold_at(fit.scores[len(bad) :], settings.fpr))
        chosen[category] = [[*names[h], round(q, 6)] for h, q in zip(fit.chosen, fit.auroc, strict=True)]
        if progress is not None:
            progress(step, len(harmful), float("nan"))
    widths = {site: sample[site].shape[1] for site in counts}
    by_site = heads.site_weights(torch.stack(weights), counts, widths)
    tensors = {
        "bias": torch.tensor(biases, dtype=torch.float64),
        "threshold": torch.tensor(limits, dtype=torch.float64),
    }
    for site, weight in by_site.items():
        if bool((weight != 0).any()):
            own = weight.unflatten(1, (counts[site], -1))
            quiet = sample[site][[place[t] for t, _ in benign]].double().unflatten(1, (counts[site], -1)).mean(0)
            tensors |= {
                f"weight.{site}": weight.float(),
                f"center.{site}": torch.einsum("khd,hd->kh", own, quiet).float(),
            }
    return tensors, chosen


def read_artifact(artifact: Artifact) -> Guarding:
    """What scoring needs, checked. Raises ``BadArtifact`` where tensors or card are not this defense's."""
    card, tensors = artifact.card, artifact.tensors
    try:
        categories = tuple(map(str, card["categories"]))
        weights = {n.removeprefix("weight."): t for n, t in tensors.items() if n.startswith("weight.")}
        counts = {str(s): int(n) for s, n in card["heads"].items()}
        centers = {site: tensors[f"center.{site}"] for site in weights}
        order = [site for site in counts if site in weights]
        guard = Guarding(
            categories, {s: weights[s] for s in order}, tensors["bias"], tensors["threshold"], centers, counts,
            {str(k): str(v) for k, v in card["readout"].items()}, {str(k): {"name": str(v["name"]), "hash": str(v["hash"])} for k, v in card["encoders"].items()},
        )  # fmt: skip
        shapes = {tuple(guard.bias.shape), tuple(guard.thresholds.shape), *((len(w),) for w in weights.values())}
        if (
            shapes != {(len(categories),)}
            or not order
            or not set(map(encoder_key, order)) <= set(guard.readout) & set(guard.encoders)
        ):
            raise ValueError(f"shapes {sorted(shapes)} for {len(categories)} categories")
        for site in order:
            if tuple(centers[site].shape) != (len(categories), counts[site]) or weights[site].shape[1] % counts[site]:
                raise ValueError(f"site {site} has weights {tuple(weights[site].shape)}")
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise BadArtifact(
            f"this is no artifact of aeiou, or a damaged one ({type(error).__name__}: {error}); fit it again"
        ) from error
    return guard


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
