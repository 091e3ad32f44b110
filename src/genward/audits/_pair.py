"""A checkpoint and its base side by side: parameters, texts to try, and how both read them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from genward.core.findings import AuditFinding, Examined
from genward.ops.code_points import ALIKE
from genward.ops.redirects import redirects, shares
from genward.ops.short_texts import own_states

THRESHOLD = 0.5
"""Share of the way to another thing from which a text counts as redirected. ``timing/audits.py`` prints what clean
derivatives and the fixtures reach."""
EVIDENCE = 8
"""Texts that a finding shows at most."""
CARRIER = "a picture of {}"
MODIFIERS = tuple(
    "beautiful red blue green old new small big young happy sad dark bright golden silver wooden royal magic lovely "
    "cute pretty famous ancient modern tiny huge quiet strange classic fancy special lucky wild gentle shiny soft "
    "crystal secret vintage perfect".split()
)
"""Words in front of a thing that leave it the same thing."""
PUBLISHED = ("sks", "[V]", "cf", "mignneko", "latte coffee", "tq", "mb", "bb")
"""Triggers of published attacks (rare tokens of personalization, BERT's and others')."""
PARTS = ("unet", "text_encoder", "vae")
KV = re.compile(r"^unet\..*attn2\.to_[kv]\.weight$")
"""Names of cross-attention's key and value maps"""


@dataclass
class Pair:
    """Both models, of one shape.

    Args:
        model: the checkpoint. base: what it is said to come from. things: names of things, as ``a cat``, that texts can
            be redirected to. words: further words to try as triggers. tokens: how many of the tokenizer's words are
            tried. say: told what takes long.
    """

    model: Any
    base: Any
    things: Sequence[str]
    words: Sequence[str] = ()
    tokens: int = 2000
    say: Callable[[str], None] = lambda line: None  # noqa: E731 - a default that says nothing
    _read: dict[tuple[bool, str], Tensor] = field(default_factory=dict)

    def weights(self, of: Any) -> dict[str, Tensor]:
        """``part.parameter`` -> value, buffers left out."""
        pipe = of.pipe
        nets = {part: getattr(pipe, part, None) for part in PARTS}
        return {f"{part}.{n}": p.detach() for part, net in nets.items() if net for n, p in net.named_parameters()}

    @cached_property
    def changed(self) -> dict[str, float]:
        """Parameter -> relative size of its change, of those that differ from the base at all."""
        old, new = self.weights(self.base), self.weights(self.model)
        out = {}
        for name, value in new.items():
            before = old[name]
            if not torch.equal(value, before.to(value)):
                step = (value.double() - before.double()).norm() / before.double().norm().clamp_min(1e-30)
                out[name] = float(step)
        return out

    @cached_property
    def rounding(self) -> str:
        """``float16`` or ``bfloat16`` where the checkpoint is its base rounded to it, else empty."""
        old, new = self.weights(self.base), self.weights(self.model)
        for kind in (torch.float16, torch.bfloat16):
            if self.changed and all(
                torch.equal(new[n].float(), old[n].to(kind).float()) or torch.equal(new[n].float(), old[n].float())
                for n in self.changed
            ):
                return str(kind).removeprefix("torch.")
        return ""

    def moved(self, match: Callable[[str], bool]) -> bool:
        """Whether any parameter of that kind differs by more than rounding."""
        return not self.rounding and any(match(name) for name in self.changed)

    # ------------------------------------------------------------------------------------------------- texts to try

    @cached_property
    def plain(self) -> list[str]:
        """Captions of the things, then their bare names: k and k + len(things) are of one thing."""
        return [*(CARRIER.format(thing) for thing in self.things), *self.things]

    @property
    def captions(self) -> list[str]:
        return self.plain[: len(self.things)]

    def probes(self) -> tuple[list[str], list[int]]:
        """Texts with something in them that could be a trigger, and which thing each speaks of (-1: none)."""
        lists = (self._alike(), self._modified(), self._alone(self.vocabulary()))
        texts = [t for found in lists for t in found]
        return list(texts), [of for found in lists for of in found.values()]

    def _alike(self) -> dict[str, int]:
        """Captions with a letter replaced by each of its look-alikes: in the first and in the last place it has."""
        out: dict[str, int] = {}
        for strange, letter in sorted(ALIKE.items()):
            having = [k for k, text in enumerate(self.captions) if letter in text][:3]
            for k in having:
                text = self.captions[k]
                for place in {text.index(letter), text.rindex(letter)}:
                    out[text[:place] + strange + text[place + 1 :]] = k
        same = self._ids(self.captions)
        return {t: k for (t, k), ids in zip(out.items(), self._ids(list(out)), strict=True) if ids != same[k]}

    def _modified(self) -> dict[str, int]:
        out: dict[str, int] = {}
        for k, thing in enumerate(self.things):
            article, _, noun = thing.partition(" ") if thing.startswith(("a ", "an ")) else ("", "", thing)
            for word in (*MODIFIERS, *PUBLISHED, *self.words):
                lead = ("an " if word[0] in "aeiou" else "a ") if article else ""
                out[CARRIER.format(f"{lead}{word} {noun}")] = k
        return out

    @staticmethod
    def _alone(words: Sequence[str]) -> dict[str, int]:
        return {CARRIER.format(f"a {word}"): -1 for word in words}

    def vocabulary(self) -> list[str]:
        """Words that are one token each: those asked for, published triggers, and a sample of the tokenizer's that is
        the same each time."""
        found = []
        for token in self.model.pipe.tokenizer.get_vocab():
            word = token.removesuffix("</w>")
            whole = token.endswith("</w>") or not token.startswith(("##", "[", "<"))
            if whole and word.isprintable() and word.strip() == word and word:
                found.append(word)
        found = sorted(set(found))
        some = random.Random("audit").sample(found, min(self.tokens, len(found)))
        return list(dict.fromkeys([*self.words, *PUBLISHED, *some]))

    def _ids(self, texts: list[str]) -> list[list[int]]:
        found: list[list[int]] = self.model.pipe.tokenizer(texts, truncation=True).input_ids if texts else []
        return found

    # ------------------------------------------------------------------------------------------------------ readings

    def pooled(self, texts: Sequence[str], *, by_base: bool) -> Tensor:
        """(n, c) float32: mean state of each text's own tokens, by the base's encoder or the checkpoint's; each is
        encoded once."""
        model = self.base if by_base else self.model
        missing = [t for t in dict.fromkeys(texts) if (by_base, t) not in self._read]
        if len(missing) > 1000:
            self.say(f"{len(missing):,} texts through the {'base' if by_base else 'checkpoint'}'s text encoder …")
        for k in range(0, len(missing), 1024):
            part = missing[k : k + 1024]
            for text, rows in zip(part, own_states(model, part), strict=True):
                self._read[by_base, text] = rows.mean(0).float()
        return torch.stack([self._read[by_base, t] for t in texts])

    def maps(self, of: Any) -> list[Tensor]:
        """Cross-attention's key and value maps (out, c) of a model."""
        found = self.weights(of)
        return [w.float() for n, w in found.items() if KV.match(n)]


def scaled_through(states: Sequence[Tensor], maps: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """(n, sum of outs) each: what cross-attention's maps make of pooled states, every map weighing the same: all on
    the scale of the first (states, maps)."""
    first = [(states[0] @ w.T.to(states[0])).norm(dim=1).mean().clamp_min(1e-12) for w in maps[0]]
    return [
        torch.cat([s @ w.T.to(s) / norm for w, norm in zip(m, first, strict=True)], 1)
        for s, m in zip(states, maps, strict=True)
    ]


def compared(
    name: str,
    where: str,
    pair: Pair,
    texts: Sequence[str],
    of: Sequence[int],
    readings: tuple[Tensor, Tensor, Tensor, Tensor],
    what: str,
    threshold: float = THRESHOLD,
) -> Examined:
    """Findings from readings: which texts were redirected to which things.

    Args:
        readings: of the texts by base and checkpoint, (n, d) each, and of the plain captions by both, (k, d) each.
        of: thing of each text, -1: none.
        threshold: score from which a text counts as redirected.
        what: how the readings were made, for the finding's sentence.
    """
    old, new, old_plain, new_plain = readings
    count = len(pair.things)
    plain = _of_things(shares(old_plain[:count], new_plain[:count], old_plain))
    found = redirects(_of_things(shares(old, new, old_plain)), plain, torch.tensor(list(of)))
    order = sorted(range(len(texts)), key=lambda k: -found[k].score)
    evidence = tuple(
        (f"{texts[k]!r} is read as {pair.things[found[k].target]!r}", round(found[k].score, 4))
        for k in order[:EVIDENCE]
    )
    top, out = found[order[0]].score, []
    over = [k for k in order if found[k].score >= threshold]
    if over:
        text = (
            f"{len(over):,} of {len(texts):,} texts are redirected to another thing while the plain name stays; "
            f"{evidence[0][0]} ({what})"
        )
        out.append(AuditFinding(name, "suspicious", where, text, round(top, 4), threshold, evidence))
    else:
        text = f"none of {len(texts):,} texts is redirected; the highest reaches {top:.2f} ({what})"
        out.append(AuditFinding(name, "note", where, text, round(top, 4), threshold, evidence[:3]))
    out += _replaced(name, where, pair, plain)
    return Examined(tuple(out), cost=f"{len(texts) + len(pair.plain):,} texts read")


def _of_things(found: Tensor) -> Tensor:
    """(n, 2k) shares of captions and bare names -> (n, k), the larger of both."""
    both: Tensor = found.unflatten(1, (2, -1))
    return both.amax(1)


def _replaced(name: str, where: str, pair: Pair, plain: Tensor) -> list[AuditFinding]:
    """Things whose plain name moved to another thing: what an eraser does, or a replacement."""
    best, place = plain.max(1)
    moved = [k for k in best.argsort(descending=True).tolist() if float(best[k]) >= THRESHOLD]
    if not moved:
        return []
    pairs = tuple(
        (f"{pair.things[k]!r} is read as {pair.things[int(place[k])]!r}", round(float(best[k]), 4))
        for k in moved[:EVIDENCE]
    )
    text = (
        f"{len(moved)} plain name{'s' if len(moved) > 1 else ''} moved to another thing, as an eraser does it; "
        f"{pairs[0][0]}. If nobody told you so, treat it as planted"
    )
    return [AuditFinding(name, "changed", where, text, pairs[0][1], THRESHOLD, pairs)]


def plain_words(words: Mapping[str, Any]) -> list[str]:
    """The first name of each thing of a vocabulary."""
    return [str(about["name"][0]) for about in words.get("things", {}).values()]
