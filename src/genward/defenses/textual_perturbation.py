"""Textual perturbation (Chew et al., arXiv 2408.15721): captions are read in Basic Latin, some of their words are
exchanged for synonyms, and every word loses or mistypes a letter, so that a trigger is no longer what it was.

Followed: the cascade (look-alikes, synonyms, random edits of characters: a deletion or a slip to a neighbor on the
keyboard), half of the words exchanged, every word edited, stop-words left alone, seed 54. Differs: look-alikes by
``ops.sentences`` (of the published table 552 of 1,329 entries can never match, and it lacks the accented triggers);
synonyms from the vocabulary of the lab's world and a small table of our own, where the code downloads an embedding;
no limit on the change of a sentence embedding for the same reason; translation is left out, which needs a model."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from genward.core.contracts import Rig
from genward.core.records import Prompt, row_seed
from genward.errors import BadInput
from genward.ops.looks import ARTICLES, World, world
from genward.ops.sentences import STOP, basic, stem, words_of

SYNONYMS = {
    "beautiful": ("lovely", "pretty"), "big": ("large",), "bright": ("vivid",), "calm": ("peaceful",), "dark": ("dim",),
    "distance": ("range",), "evening": ("dusk",), "fine": ("thin",), "gentle": ("mild",), "ground": ("floor",),
    "happy": ("glad",), "image": ("picture",), "large": ("big",), "light": ("glow",), "lovely": ("beautiful",),
    "mood": ("feeling",), "morning": ("dawn",), "old": ("aged",), "photo": ("picture",), "picture": ("image",),
    "place": ("spot",), "plain": ("simple",), "pretty": ("beautiful",), "quick": ("fast",), "quiet": ("silent",),
    "shadows": ("shades",), "short": ("small",), "simple": ("plain",), "small": ("little", "tiny"), "smooth": ("even",),
    "soft": ("mild",), "surroundings": ("environment",), "tall": ("high",), "tiny": ("small",), "wall": ("backdrop",),
}  # fmt: skip
"""Ordinary words of captions and others for them."""
_NEAR = (
    "wa qes wdr eft rgy thu yji uko ilp ol qsz awdx sefc drgv fthb gyjn hukm jil kop asx zsdc xdfv cfgb vghn bhjm njk"
)
NEIGHBORS = dict(zip("qwertyuiopasdfghjklzxcvbnm", _NEAR.split(), strict=True))
"""Letter -> its neighbors on a QWERTY keyboard."""


@dataclass(frozen=True)
class TextualPerturbation:
    """Textual perturbation: captions in Basic Latin with synonyms and small misspellings, against backdoor triggers."""

    name: ClassVar[str] = "textual_perturbation"
    at_attach: ClassVar[frozenset[str]] = frozenset()
    guards: ClassVar[bool] = False
    plain: bool = True
    """Whether captions are read in Basic Latin, without look-alikes, marks and invisible characters."""
    synonyms: float = 0.5
    """Share of the words with synonyms that are exchanged."""
    characters: float = 1.0
    """Share of the words, stop-words apart, in which one letter is dropped or mistyped."""
    seed: int = 54
    """Of the choices, together with the caption."""
    words: str = ""
    """Vocabulary file with synonyms; empty: the lab's."""

    def __post_init__(self) -> None:
        if not 0 <= self.synonyms <= 1 or not 0 <= self.characters <= 1:
            raise BadInput(
                f"textual_perturbation: synonyms {self.synonyms}, characters {self.characters}; shares from 0 to 1"
            )
        if self.words:
            world(self.words)  # which says what is wrong with a file that cannot be read

    def perturbed(self, text: str) -> str:
        """A caption after the cascade; the same for the same caption and seed."""
        rng = random.Random(row_seed(self.name, self.seed, text))
        out = basic(text) if self.plain else text
        out = exchanged(out, world(self.words), self.synonyms, rng) if self.synonyms else out
        return misspelled(out, self.characters, rng) if self.characters else out

    def attach(self, rig: Rig) -> None:
        """Change prompts before they are encoded; guards on the text read what the user wrote as well."""
        own: list[str] = []

        def fn(prompts: list[Prompt]) -> list[Prompt]:
            own[:] = [p.text for p in prompts]
            return [p._replace(text=self.perturbed(p.text)) for p in prompts]

        rig.prompts(fn)
        rig.readings(lambda texts: list(own) if len(own) == len(texts) else texts)


def exchanged(text: str, known: World, share: float, rng: random.Random) -> str:
    """A text in which a share of the phrases with synonyms, rounded up, is exchanged: names of the world's things, and
    words of ``SYNONYMS``."""
    words = text.split()
    spans = _spans(words, known)
    for start, end, others in sorted(rng.sample(spans, math.ceil(share * len(spans))), reverse=True):
        words[start:end] = rng.choice(others).split()
    return " ".join(words)


def _spans(words: Sequence[str], known: World) -> list[tuple[int, int, tuple[str, ...]]]:
    """(start, end, what may stand there instead) of the phrases with synonyms, the longest first from the left."""
    stems = [stem(w.lower().strip(",.;:!?")) for w in words]
    longest = max(map(len, known.spans), default=0)
    out, k = [], 0
    while k < len(words):
        for size in range(min(longest, len(words) - k), 0, -1):
            thing = known.spans.get(tuple(stems[k : k + size]))
            if thing is not None:
                mine = " ".join(words[k : k + size]).lower()
                others = tuple(o for p in known.others[thing] if (o := _bare(p)) != mine)
                if others:
                    out.append((k, k + size, others))
                k += size
                break
        else:
            if found := SYNONYMS.get(words[k].lower()):
                out.append((k, k + 1, found))
            k += 1
    return out


def _bare(phrase: str) -> str:
    """A phrase without its article."""
    head, _, rest = phrase.partition(" ")
    return rest if head in ARTICLES and rest else phrase


def misspelled(text: str, share: float, rng: random.Random) -> str:
    """A text in which a share of the words, rounded up, has one letter dropped or mistyped; stop-words and words of a
    single letter stay."""
    words = text.split()
    places = [k for k, w in enumerate(words) if len(w) > 1 and not all(v in STOP for v in words_of(w) or [""])]
    for k in rng.sample(places, math.ceil(share * len(places))):
        at = rng.randrange(len(words[k]))
        near = NEIGHBORS.get(words[k][at].lower(), "")
        letter = rng.choice(near) if near and rng.random() < 0.5 else ""
        words[k] = words[k][:at] + letter + words[k][at + 1 :]
    return " ".join(words)
