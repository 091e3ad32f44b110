"""A guard of several categories on head states at work in a pipeline: it gathers states, decides, and says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from genward.core.contracts import Rig
from genward.core.records import MAX_PROMPT, Frame
from genward.ops import deciding, explaining, head_guard, heads, passages, text_states

AT_ONCE = 64
"""Texts that are encoded in one batch at most, to explain a score"""
CUT = "the encoder cuts the prompt, which fills its window; all of it was read here, in overlapping windows"


class WatchSettings(Protocol):
    """How a guard acts; see ``defenses.aeiou.Aeiou``."""

    @property
    def action(self) -> str: ...
    @property
    def attenuate(self) -> float: ...
    @property
    def explain(self) -> bool: ...
    def limits(self, guard: head_guard.Guarding) -> Tensor: ...
    def parts(self, text: str, words: int, fits: Callable[[str], bool]) -> list[str]: ...


class HeadWatch:
    """One attached guard: gathers the sites of a batch and decides at the last.

    Args:
        settings: of the defense; ``parts(text, words, fits)`` says which passages of a text are read beside it.
        guard: what was fitted, read by ``ops.head_guard``.
        rig: that the guard is attached to.
    """

    def __init__(self, settings: WatchSettings, guard: head_guard.Guarding, rig: Rig) -> None:
        self.settings, self.guard, self.rig = settings, guard, rig
        self.weights = {site: weight.float() for site, weight in guard.weights.items()}
        self.limits = settings.limits(guard)
        self.seen: dict[str, Tensor] = {}
        self.tokens: dict[str, Any] = {}
        self.best: dict[int, float] = {}
        """Case -> largest score of the batch so far"""
        self.too_long = False
        """Whether a text of the batch is longer than the encoder's window"""

    def at(self, site: str) -> Callable[[Tensor, Frame], Tensor | None]:
        def fn(states: Tensor, frame: Frame) -> Tensor | None:
            if frame.role not in ("prompt", "reading"):
                return None
            if site in self.seen:  # a pass that never came to its end
                self.seen.clear()
            if not any(text_states.encoder_key(s) == text_states.encoder_key(site) for s in self.seen):
                self.tokens[text_states.encoder_key(site)] = self.rig.tokens(frame)
            self.seen[site] = states
            if len(self.seen) == len(self.weights):
                self.decide(frame)
                self.seen.clear()
            return self.weakened(site, states)

        return fn

    def parts(self, texts: list[str]) -> list[list[str]]:
        """Passages and windows of each text, for the rig."""
        words = self.guard.passages
        asked = dict.fromkeys((*texts, *(p for t in texts for p in passages.passages(t[:MAX_PROMPT], words))))
        # all are tokenized at once, which costs as much as one: what leaves padding fits
        full = self.rig.model.tokens(list(asked)).mask.all(1).tolist() if asked else []
        known = {text: not filled or self.rig.fits(text) for text, filled in zip(asked, full, strict=True)}

        def fits(text: str) -> bool:
            return known[text] if text in known else self.rig.fits(text)

        self.too_long = not all(map(fits, texts))
        return [self.settings.parts(text, words, fits) for text in texts]

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
            key = text_states.encoder_key(site)
            sample[site] = heads.read_out(self.seen[site], self.tokens[key].mask, self.guard.readout[key]).float().cpu()
        total = heads.linear_scores(sample, self.weights, self.guard.bias.float())
        decision = deciding.decide(total, self.limits, len(frame.case))
        trace = getattr(self.rig, "trace", None)
        if trace is not None and frame.role == "prompt":  # an attack listens; what is noted has lost its graph
            trace.append((frame, {"aeiou.live.score": decision.score}))
        self.note(frame, decision)
        category = self.guard.categories.__getitem__
        deciding.act(
            self.rig,
            frame,
            decision,
            action=self.settings.action,
            why=lambda k: f"the prompt reads as {category(k)}",
            broken=lambda k: "the prompt's score is not a number, so nothing vouches for it",
            category=category,
            tokens=self.shares(frame, decision.hit, decision.which)
            if self.settings.explain and bool(decision.hit.any())
            else None,
        )

    def note(self, frame: Frame, decision: deciding.Decision) -> None:
        """Note each case's largest score so far, one number a case, and flag prompts that the encoder cuts."""
        if frame.role == "prompt":
            self.best.clear()
            full = next(iter(self.tokens.values())).mask.cpu().all(1)
            cut = full & torch.tensor(self.too_long)
            if bool(cut.any()):
                self.rig.note(frame, **{"aeiou.cut": cut.float()})
                if self.settings.action == "block":  # else the word that is kept would hide one on the score
                    self.rig.flag(frame, cut, CUT)
        scores = decision.score.detach().float().cpu()
        first: dict[int, int] = {}
        for row, (case, score) in enumerate(zip(frame.case.tolist(), scores.tolist(), strict=True)):
            first.setdefault(case, row)
            known = self.best.get(case, score)
            self.best[case] = score if score != score or score > known else known  # NaN stays
        rows = torch.tensor(list(first.values()))
        one = frame._replace(conditional=frame.conditional[rows.to(frame.conditional.device)], case=frame.case[rows])
        self.rig.note(one, **{"aeiou.score": torch.tensor([self.best[case] for case in first])})

    def shares(self, frame: Frame, over: Tensor, top: Tensor) -> list[list[tuple[str, float]]]:
        """Words of each row that is acted on, and what its score loses without each; nothing for the others."""
        picked = over.cpu().nonzero().flatten().tolist()
        texts = self.rig.texts(frame)
        out: list[list[tuple[str, float]]] = [[] for _ in range(len(over))]
        found = explaining.shares([texts[k] for k in picked], lambda given: self.scores(given)[:, top[picked].cpu()].T)
        for row, told in zip(picked, found, strict=True):
            out[row] = told
        return out

    def scores(self, texts: list[str]) -> Tensor:
        """(n, k) scores of texts beside those that are being encoded."""
        parts = []
        for k in range(0, len(texts), AT_ONCE):
            states, tokens = self.rig.read(texts[k : k + AT_ONCE], list(self.weights))
            sample = {}
            for site in self.weights:
                how = self.guard.readout[text_states.encoder_key(site)]
                sample[site] = heads.read_out(states[site], tokens.mask.to(states[site].device), how).float().cpu()
            parts.append(heads.linear_scores(sample, self.weights, self.guard.bias.float()))
        return torch.cat(parts)
