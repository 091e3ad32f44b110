"""What a policy finds in a text that is going to be spoken, each finding with a score from 0 to 1.

A phrase is found exactly in any reading (score 1), by sound (``speech.sound_match``), or with its words in another
order within a window, where the order looks like a shuffle (``speech.word_order``): HARMGEN's order-insensitive check,
as digested, in which the scores and their thresholds are inferred."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

from genward.errors import BadInput
from genward.ops.trigrams import english_trigrams
from genward.speech.phonemes import Lexicon, english_lexicon
from genward.speech.policies import ACTIONS, SpeechPolicy, check_pattern, found_in, phrase_words, stem, unique
from genward.speech.readings import Reading, Readings, readings
from genward.speech.sound_match import SoundTable, streams, variants
from genward.speech.word_order import MOST, OrderModel, order_score, smallest_windows

THRESHOLD = 0.5
"""Score from which on a finding counts unless a caller says otherwise"""
LEAST = 0.01
"""Score above which there is a finding"""
KINDS = ("phrase", "pattern", "sound", "order")
"""What a matcher looks for in a text; a session's findings may also be ``pieces``"""
FILLERS = frozenset("uh um er erm ah hmm mm".split())
"""What may stand between the words of a phrase"""
SIDE_BY_SIDE = 0.75
"""Score of the words of a phrase in another order with nothing between them: no grammar can tell there"""
MOST_WINDOWS, MOST_SEARCHES = 12, 60
"""Windows of one phrase, and of all phrases in a text, whose order is looked at; each takes up to about 50 ms. A text
with more of them scores ``SIDE_BY_SIDE`` unseen"""
MEMORY = 4096
"""Orders whose scores a matcher remembers: those of a session come back in every suffix"""


@dataclass(frozen=True)
class Finding:
    """One thing that a policy found."""

    policy: str
    """Its id"""
    action: str
    """What the policy says to do"""
    kind: str
    """One of ``KINDS``, or ``pieces``"""
    reading: str
    """Which reading it was found in: ``plain``, ``unspelled``, ``dephonemized``"""
    phrase: str
    """The phrase or pattern"""
    score: float
    """0 to 1; 1 for a phrase or pattern that is there"""
    span: tuple[int, int] | None = None
    """Where in the text as written, for a phrase that stands there as it is"""


def findings(
    text: str, policies: Sequence[SpeechPolicy], *, lexicon: Lexicon | None = None, model: OrderModel | None = None
) -> tuple[Finding, ...]:
    """Everything that policies find in a text, the best score of each phrase and pattern, highest first.

    Args:
        text: at most ``speech.readings.MAX_TEXT`` characters.
        lexicon: pronunciations, ``None`` for the pocketsphinx wheel's; model: order of words, likewise.

    Returns:
        Findings of any score above ``LEAST``; ``counted`` keeps those that count.

    Raises:
        BadInput: the text is none or too long, two policies have one id, or pocketsphinx is not installed.
    """
    if lexicon is None and model is None:
        return _matcher(tuple(policies))(text)
    return Matcher(policies, lexicon, model)(text)


@lru_cache(maxsize=16)
def _matcher(policies: tuple[SpeechPolicy, ...]) -> Matcher:
    return Matcher(policies)


def counted(found: Sequence[Finding], threshold: float = THRESHOLD) -> tuple[Finding, ...]:
    """The findings that score at least the threshold."""
    return tuple(f for f in found if f.score >= threshold)


def decided(found: Sequence[Finding], threshold: float = THRESHOLD) -> str:
    """The strictest action of the findings that count, ``allow`` where none does. One that says ``redact`` without
    saying where, since the phrase does not stand in the text as it is, is a refusal."""
    actions = ["refuse" if f.action == "redact" and f.span is None else f.action for f in counted(found, threshold)]
    return max(actions, key=ACTIONS.index, default="allow")


def redacted(text: str, found: Sequence[Finding], threshold: float = THRESHOLD, mask: str = "[redacted]") -> str:
    """The text with every phrase that is to be redacted replaced; all places of each where it stands as it is. What is
    disguised beside them stays, so look at the result again.

    Raises:
        BadInput: something found has another action or no place, so that it cannot be cut out.
    """
    phrases = []
    for f in counted(found, threshold):
        if f.action == "allow":
            continue
        if f.action != "redact" or f.span is None:
            raise BadInput(f"policy {f.policy!r} found something that cannot be cut out; refuse the text")
        phrases.append(written(f.phrase))
    for pattern in phrases:
        text = pattern.sub(lambda _: mask, text)
    return text


def written(phrase: str) -> re.Pattern[str]:
    """A phrase as it may be written: any case, up to three characters that are no letters between its words."""
    words = r"(?:['’]?s)?[\W_]{1,3}".join(re.escape(w) for w in phrase_words(phrase))
    return re.compile(rf"(?<![^\W_]){words}(?:['’]?s)?(?![^\W_])", re.IGNORECASE)


def _scored(model: OrderModel, words: tuple[str, ...], phrase: tuple[str, ...], breaks: tuple[int, ...]) -> float:
    """``order_score``, for a cache."""
    return order_score(words, phrase, model, breaks)


@dataclass(frozen=True)
class _Phrase:
    """A phrase of a policy, ready to be looked for."""

    policy: SpeechPolicy
    text: str
    stems: tuple[str, ...]
    english: bool
    """Whether sounds and order of English apply: the policy's language and Latin letters"""


class Matcher:
    """Policies, compiled: ``findings`` with everything that does not depend on the text made once. Safe to share
    between threads. Arguments as ``findings``."""

    def __init__(
        self, policies: Sequence[SpeechPolicy], lexicon: Lexicon | None = None, model: OrderModel | None = None
    ) -> None:
        unique(policies, "these speech policies")
        self.policies = tuple(policies)
        self.lexicon = english_lexicon() if lexicon is None else lexicon
        self.model: OrderModel = english_trigrams() if model is None else model
        self.phrases = tuple(self._phrase(p, text) for p in policies for text in dict.fromkeys(p.phrases))
        self.patterns = tuple((p, text, check_pattern(text, p.id)) for p in policies for text in p.patterns)
        self.words = frozenset(w for p in self.phrases for w in phrase_words(p.text))
        """Words that are read out of disguises"""
        self.heads: dict[str, list[int]] = {}
        for k, phrase in enumerate(self.phrases):
            self.heads.setdefault(phrase.stems[0], []).append(k)
        said = [variants(phrase_words(p.text), self.lexicon) if p.english else () for p in self.phrases]
        self.sounds = SoundTable(said)
        self._scored = lru_cache(maxsize=MEMORY)(partial(_scored, self.model))

    @staticmethod
    def _phrase(policy: SpeechPolicy, text: str) -> _Phrase:
        words = phrase_words(text)
        english = "en" in policy.languages and all(w.replace("'", "").isascii() for w in words)
        return _Phrase(policy, text, tuple(stem(w) for w in words), english)

    def __call__(self, text: str, least: float = LEAST) -> tuple[Finding, ...]:
        """The findings of a text; see ``of``."""
        return self.of(self.read(text), text, least=least)

    def read(self, text: str) -> Readings:
        """The readings of a text that this matcher looks at."""
        return readings(text, self.words, self.lexicon)

    def of(
        self, read: Readings, text: str = "", kinds: Sequence[str] = KINDS, least: float = LEAST
    ) -> tuple[Finding, ...]:
        """The findings of readings that were made before.

        Args:
            text: what they were made of, for places.
            least: the score of a finding that matters; phrases that sound less like the text are not looked at.
        """
        best: dict[tuple[str, str], Finding] = {}
        for name, reading in read.distinct():
            for found in self._in(name, reading, text, kinds, least):
                key = (found.policy, found.phrase)
                if found.score > LEAST and (key not in best or found.score > best[key].score):
                    best[key] = found
        return tuple(sorted(best.values(), key=lambda f: (-f.score, f.policy, f.phrase)))

    def _in(self, name: str, reading: Reading, text: str, kinds: Sequence[str], least: float) -> Iterator[Finding]:
        words = [stem(w) for w in reading.words]
        there: set[int] = set()
        if "phrase" in kinds:
            there = self._exact(words)
            for k in sorted(there):
                yield self._finding(k, "phrase", name, 1.0, text)
        if "pattern" in kinds:
            for policy, pattern, compiled in self.patterns:
                if found_in(compiled, reading.text):
                    yield Finding(policy.id, policy.action, "pattern", name, pattern, 1.0)
        if "order" in kinds:
            present, searches = Counter(words), [MOST_SEARCHES]
            for k, phrase in enumerate(self.phrases):
                if k not in there and phrase.policy.reorder and len(phrase.stems) > 1 and phrase.stems[0] in present:
                    score = self._order(phrase, words, reading, present, searches)
                    if score > 0:
                        yield self._finding(k, "order", name, score)
        if "sound" in kinds:
            for stream in streams(reading.words, self.lexicon) if self.sounds.rows else ():
                for k, score in enumerate(self.sounds.scores(stream, least)):
                    if score > 0 and k not in there:
                        yield self._finding(k, "sound", name, float(score))

    def _finding(self, k: int, kind: str, name: str, score: float, text: str = "") -> Finding:
        phrase = self.phrases[k]
        place = written(phrase.text).search(text) if text else None
        return Finding(
            phrase.policy.id, phrase.policy.action, kind, name, phrase.text, score, place.span() if place else None
        )

    def _exact(self, words: Sequence[str]) -> set[int]:
        """Phrases whose words stand in a row, fillers aside."""
        found: set[int] = set()
        for kept in (words, [w for w in words if w not in FILLERS]):
            for at, word in enumerate(kept):
                for k in self.heads.get(word, ()):
                    stems = self.phrases[k].stems
                    if tuple(kept[at : at + len(stems)]) == stems:
                        found.add(k)
        return found

    def _order(
        self, phrase: _Phrase, words: Sequence[str], reading: Reading, present: Counter[str], searches: list[int]
    ) -> float:
        """Best score of a phrase whose words are there in another order; ``searches`` counts down those left."""
        if any(present[w] < n for w, n in Counter(phrase.stems).items()):
            return 0.0
        windows = list(smallest_windows(words, phrase.stems, phrase.policy.window))
        score = SIDE_BY_SIDE if len(windows) > MOST_WINDOWS else 0.0
        for start, end in sorted(windows, key=lambda w: w[1] - w[0])[:MOST_WINDOWS]:
            if end - start == len(phrase.stems):
                score = max(score, SIDE_BY_SIDE)
            elif not phrase.english:  # no model of its order: how close together the words are
                score = max(score, len(phrase.stems) / (end - start))
            elif searches[0] <= 0:
                score = max(score, SIDE_BY_SIDE)
            else:
                searches[0] -= 1
                score = max(score, self._shuffled(phrase, words, reading, start, end))
        return score

    def _shuffled(self, phrase: _Phrase, words: Sequence[str], reading: Reading, start: int, end: int) -> float:
        """Order score of the sentences around a window."""
        low, high = around(reading, start, end)
        left = Counter(phrase.stems)
        at: dict[str, list[str]] = {}
        for k in range(low, high):
            if left[words[k]] > 0:
                left[words[k]] -= 1
                at.setdefault(words[k], []).append(reading.words[k])
        said = tuple(at[s].pop(0) for s in phrase.stems)
        breaks = tuple(sorted(k - low for k in reading.breaks if low < k < high))
        return self._scored(reading.words[low:high], said, breaks)


def around(reading: Reading, start: int, end: int) -> tuple[int, int]:
    """A stretch of words widened to the ends of the sentences it begins and ends in, as far as ``MOST`` words allow:
    word by word on both sides."""
    low, high = start, end
    while high - low < MOST:
        left = low > 0 and low not in reading.breaks
        right = high < len(reading.words) and high not in reading.breaks
        if not left and not right:
            break
        low -= left
        high += right and high - low < MOST
    return low, high
