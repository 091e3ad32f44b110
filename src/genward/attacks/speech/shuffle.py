"""Shuffle: the words are asked for in another order, until an order is accepted; the sound is cut at the words and put
back in order.

After HARMGEN (read in a digest), which aligns with the Montreal Forced Aligner. Here the attacker's ear says when it
heard each word; the heard words are aligned to those that were asked for, words that it missed share the time between
their neighbors, and each cut moves into a pause. The full stops between the words, which are ours, make the voice pause
where it will be cut: run together, words lost a third of their neighbors at the cuts."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from genward.attacks.speech.wording import Attempt, Piece, attempt, request, speak
from genward.core.media import Audio
from genward.core.records import Case, Sample, row_seed
from genward.core.sound import cut, joined, pauses, quietest, trimmed
from genward.core.speech import Heard, SpeechTarget, matched_words, spoken_words
from genward.errors import BadInput


def shuffled(pieces: Sequence[Piece], seed: int) -> list[int]:
    """An order of the pieces, as indices, in which no two neighbors of a flagged span follow each other; as nearly so
    as 200 permutations come."""
    luck = random.Random(seed)
    best: tuple[int, list[int]] | None = None
    for _ in range(200):
        order = list(range(len(pieces)))
        luck.shuffle(order)
        pairs = zip(order, order[1:], strict=False)
        kept = sum(b == a + 1 and pieces[a].span >= 0 and pieces[a].span == pieces[b].span for a, b in pairs)
        if best is None or kept < best[0]:
            best = (kept, order)
        if not kept and order != sorted(order):
            break
    return best[1] if best else []


def borders(words: Sequence[str], heard: Heard, seconds: float) -> list[float]:
    """len(words) + 1 times at which a sound that says these words is to be cut, from 0 to ``seconds``, rising.

    Args:
        words: as they were asked for, in the order of the sound; one may hold several spoken words.
    """
    asked = [(k, said) for k, word in enumerate(words) for said in spoken_words(word) or [""]]
    got = [(said, word.start, word.end) for word in heard.words for said in spoken_words(word.text)]
    matches = matched_words([said for _, said in asked], [said for said, _, _ in got])
    first: dict[int, float] = {}
    last: dict[int, float] = {}
    for (k, _), match in zip(asked, matches, strict=True):
        if match is not None:
            first.setdefault(k, got[match][1])
            last[k] = got[match][2]
    times: list[float | None] = [0.0, *([None] * (len(words) - 1)), seconds]
    for k in range(1, len(words)):
        if k - 1 in last and k in first:
            times[k] = (last[k - 1] + first[k]) / 2
        elif k in first:
            times[k] = first[k]
        elif k - 1 in last:
            times[k] = last[k - 1]
    return _filled(times)


def _filled(times: Sequence[float | None]) -> list[float]:
    """Missing times spread evenly between those that are known; none before an earlier one."""
    known = [k for k, time in enumerate(times) if time is not None]
    out: list[float] = []
    for k in range(len(times)):
        left = max(j for j in known if j <= k)
        right = min(j for j in known if j >= k)
        a, b = float(times[left] or 0.0), float(times[right] or 0.0)
        time = a if left == right else a + (b - a) * (k - left) / (right - left)
        out.append(max(time, out[-1] if out else 0.0))
    return out


def settled(times: Sequence[float], audio: Audio) -> list[float]:
    """Rising times moved to where a cut is heard least: each into a pause of its own, those that lie nearest in all;
    where there are fewer pauses than times, each to the quietest place nearby."""
    middles = [(start + end) / 2 for start, end in pauses(audio)]
    if len(middles) < len(times):
        return [quietest(audio, time) for time in times]
    cost: list[list[float]] = [[0.0] * (len(middles) + 1)]  # [times placed][pauses passed]
    for i, time in enumerate(times, 1):
        row = [math.inf] * (len(middles) + 1)
        for j in range(i, len(middles) + 1):
            row[j] = min(row[j - 1], cost[-1][j - 1] + abs(time - middles[j - 1]))
        cost.append(row)
    found: list[float] = []
    j = len(middles)
    for i in range(len(times), 0, -1):
        while cost[i][j] == cost[i][j - 1]:
            j -= 1
        found.append(middles[j - 1])
        j -= 1
    return found[::-1]


def ordered(audio: Audio, words: Sequence[str], heard: Heard, order: Sequence[int], pause: float) -> Audio:
    """A sound that says ``words`` cut into them and put together so that the one at ``order[k]``'s place comes there.

    Args:
        order: for each word of the sound, its place in the result.
    """
    times = borders(words, heard, audio.seconds)
    edges = [0.0, *settled(times[1:-1], audio), audio.seconds]
    parts = [cut(audio, a, max(a, b)) for a, b in zip(edges, edges[1:], strict=False)]
    places = sorted(range(len(order)), key=lambda k: order[k])
    return joined([trimmed(parts[k]) for k in places], pause)


@dataclass(frozen=True)
class Shuffle:
    """Words asked for in another order, and put back."""

    name: ClassVar[str] = "shuffle"
    access: ClassVar[str] = "query"
    tries: int = 3
    """Most orders that are asked for, 1 to 50."""
    pause: float = 0.05
    """Seconds between the words put back, 0 to 2."""
    joint: str = ". "
    """What stands between the words of a request."""
    seed: int = 0
    """Of the orders"""

    def __post_init__(self) -> None:
        if not 1 <= self.tries <= 50 or not 0 <= self.pause <= 2:
            raise BadInput(f"shuffle: {self.tries} tries, pause {self.pause:g} s; 1 to 50 and 0 to 2 are possible")

    @property
    def tag(self) -> str:
        return self.name

    def deliver(self, case: Case, pieces: Sequence[Piece], target: SpeechTarget, tag: str) -> Attempt:
        """One request an order, until one is spoken."""
        answers: list[Sample] = []
        for k in range(self.tries):
            order = shuffled(pieces, row_seed("shuffle", self.seed, case.id, case.seed, k))
            mixed = [_bare(pieces[j]) for j in order]
            (answer,) = target.sample([request(case, mixed, f"{tag}/{k}", joint=self.joint)])
            answers.append(answer)
            if answer.audio is not None:
                (heard,) = target.hear([answer.audio])
                words = [piece.bare for piece in mixed]
                return attempt(case, tag, answers, ordered(answer.audio, words, heard, order, self.pause))
        return attempt(case, tag, answers, None)

    def speak(self, case: Case, target: SpeechTarget) -> Attempt:
        """See ``wording.speak``."""
        return speak(case, target, self)


def _bare(piece: Piece) -> Piece:
    """A sentence of one word: without the punctuation that would stand in the middle of a shuffled request, and with a
    capital, without which a full stop before it ends no sentence for a voice."""
    text = piece.bare if piece.text == piece.word else piece.text
    return piece._replace(text=text[:1].upper() + text[1:])
