"""Memory across the requests of a session, so that a phrase cannot be spoken in pieces.

HARMGEN, as digested, has sentences cut at flagged words and spoken piece by piece (its condition Concat); its answer is
to buffer segmented queries: the last 20 fragments or 10 minutes, each new fragment, the whole and every suffix
moderated, expired by time, capped in memory. Caps on characters and sessions, and that a refused fragment is forgotten
because it was not spoken, are inferred; so is the check for fragments that can be put together in another order."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from genward.core.reading import short
from genward.errors import BadInput
from genward.speech.matching import KINDS, THRESHOLD, Finding, Matcher, counted, decided, redacted
from genward.speech.policies import stem
from genward.speech.readings import MAX_TEXT, Reading, Readings

FRAGMENTS, SECONDS, CHARACTERS, SESSIONS = 20, 600.0, 8_000, 10_000
"""Fragments of a session that are kept, for how long, with how many characters in all, and of how many sessions"""
MAX_NAME = 200


def pieced(fragments: Sequence[Sequence[str]], phrase: Sequence[str]) -> bool:
    """Whether a phrase can be put together from fragments: some of them, each once and whole but for what comes before
    the phrase in the first and after it in the last, in any order. Whoever joins the sounds may leave fragments out
    and turn them around.

    Args:
        fragments: their words.
        phrase: at least one word; a phrase that stands in one fragment is none in pieces.
    """
    n, target = len(phrase), tuple(phrase)
    kinds = Counter(tuple(f) for f in fragments if f)
    names = sorted(kinds)
    waiting = []
    for at, words in enumerate(names):
        used = tuple(int(k == at) for k in range(len(names)))
        waiting += [(k, used) for k in range(1, min(n, len(words) + 1)) if words[-k:] == target[:k]]
    seen = set(waiting)
    while waiting:
        k, used = waiting.pop()
        for at, words in enumerate(names):
            if used[at] >= kinds[words]:
                continue
            if words[: n - k] == target[k:]:
                return True
            new = (k + len(words), (*used[:at], used[at] + 1, *used[at + 1 :]))
            if target[k : k + len(words)] == words and new not in seen:
                seen.add(new)
                waiting.append(new)
    return False


@dataclass(frozen=True)
class History:
    """What a session has said, a new fragment included."""

    fragment: str
    """The new one"""
    ticket: int
    """Its number, for ``SessionBuffer.replace``"""
    fragments: tuple[str, ...]
    """All that are kept, the new one last, each by its end if it is long"""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The last 2, 3, … fragments joined, the whole last; empty for a session's first. A line feed stands between
        fragments, which ends a sentence but no phrase."""
        return tuple(SEAM.join(self.fragments[-k:]) for k in range(2, len(self.fragments) + 1))

    def seam(self, between: str, characters: int) -> str:
        """What was said last before the new fragment, and how that begins: at most so many characters of each."""
        before = between.join(self.fragments[:-1])
        return f"{before[-characters:]}{between}{self.fragments[-1][:characters]}"


SEAM = " \n "
WITHOUT_SOUND = tuple(kind for kind in KINDS if kind != "sound")
NEAR = 500
"""Characters on either side of where a fragment begins in which phrases are looked for by sound"""
PIECES = 0.75
"""Score of a phrase that fragments can be put together to, but that they do not hold as they follow each other"""


class SessionBuffer:
    """The last fragments of each session, in a bounded amount of memory. Safe to share between threads.

    Args:
        fragments, seconds, characters: what is kept of a session; the oldest fragments go first, and a fragment longer
            than ``characters`` is kept by its end.
        sessions: sessions that are kept; the one that was silent longest goes first.
        clock: seconds that never run backwards.

    Raises:
        BadInput: a bound below 1.
    """

    def __init__(
        self,
        fragments: int = FRAGMENTS,
        seconds: float = SECONDS,
        characters: int = CHARACTERS,
        sessions: int = SESSIONS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        bounds = {"fragments": fragments, "characters": characters, "sessions": sessions}
        for name, bound in bounds.items():
            if bound < 1:
                raise BadInput(f"a session buffer for {bound} {name}; give at least 1")
        if not 0 < seconds < float("inf"):
            raise BadInput(f"a session buffer for {seconds} seconds; give a positive number")
        if characters + fragments * len(SEAM) > MAX_TEXT:
            raise BadInput(f"a session buffer for {characters:,} characters; at most {MAX_TEXT:,} can be moderated")
        self.fragments, self.seconds, self.characters, self.sessions = fragments, seconds, characters, sessions
        self._clock = clock
        self._lock = threading.Lock()
        self._held: OrderedDict[str, deque[tuple[float, int, str]]] = OrderedDict()
        self._tickets = 0

    def add(self, session: str, fragment: str) -> History:
        """Keep a fragment, and say what the session has said with it. It is kept before it is moderated, so that of two
        that arrive at once one sees the other.

        Raises:
            BadInput: a session without a name or with one of more than ``MAX_NAME`` characters, or no text.
        """
        if not isinstance(session, str) or not 1 <= len(session) <= MAX_NAME:
            raise BadInput(f"a session named {short(session, 40)!r}; give a text of 1 to {MAX_NAME} characters")
        if not isinstance(fragment, str):
            raise BadInput(f"a fragment is {type(fragment).__name__}; give a string")
        with self._lock:
            now = self._clock()
            self._expire(now)
            kept = self._held.setdefault(session, deque())
            self._held.move_to_end(session)
            self._tickets += 1
            kept.append((now, self._tickets, fragment[-self.characters :]))
            while (
                now - kept[0][0] >= self.seconds
                or len(kept) > self.fragments
                or sum(len(f) for _, _, f in kept) > self.characters
            ):
                kept.popleft()
            while len(self._held) > self.sessions:
                self._held.popitem(last=False)
            said = [f for _, _, f in kept]
            return History(fragment, self._tickets, tuple(said))

    def replace(self, session: str, ticket: int, fragment: str = "") -> None:
        """Put what was spoken in place of a fragment, nothing where it was refused. A fragment that is no longer kept
        is no error."""
        with self._lock:
            kept = self._held.get(session)
            if kept is None:
                return
            kept_part = fragment[-self.characters :]
            changed = ((at, n, kept_part if n == ticket else f) for at, n, f in tuple(kept))
            rest = deque((at, n, f) for at, n, f in changed if f)
            if rest:
                self._held[session] = rest
            else:
                del self._held[session]

    def forget(self, session: str) -> None:
        """Drop a session; no error where there is none."""
        with self._lock:
            self._held.pop(session, None)

    def _expire(self, now: float) -> None:
        """Drop sessions that were silent for too long; they stand first."""
        while self._held:
            session, kept = next(iter(self._held.items()))
            if now - kept[-1][0] < self.seconds:
                return
            del self._held[session]

    @property
    def size(self) -> tuple[int, int]:
        """Sessions and characters that are kept."""
        with self._lock:
            return len(self._held), sum(len(f) for kept in self._held.values() for _, _, f in kept)


@dataclass(frozen=True)
class Verdict:
    """What becomes of a fragment."""

    action: str
    """``allow``, ``redact``, ``review`` or ``refuse``"""
    text: str
    """What may be spoken: the fragment, redacted if need be; empty unless the action is ``allow`` or ``redact``"""
    findings: tuple[Finding, ...]
    """What counted, highest score first"""
    across: bool
    """Whether something was found in several fragments together that none of it has alone"""


class SessionModerator:
    """Policies over what sessions say: each fragment, all that a session said, and every suffix of it.

    Args:
        matcher: the compiled policies.
        buffer: the memory; by default one of its own.
        threshold: score from which on a finding counts, 0 to 1.
    """

    def __init__(self, matcher: Matcher, buffer: SessionBuffer | None = None, threshold: float = THRESHOLD) -> None:
        if not 0.0 <= threshold <= 1.0:
            raise BadInput(f"a threshold of {threshold}; give 0 to 1")
        self.matcher, self.threshold = matcher, threshold
        self.buffer = SessionBuffer() if buffer is None else buffer

    def __call__(self, session: str, fragment: str) -> Verdict:
        """Moderate a session's next fragment. If moderating fails, the fragment is forgotten and the error goes on:
        nothing may be spoken.

        Raises:
            BadInput: as ``SessionBuffer.add`` and ``speech.matching.findings``.
        """
        history = self.buffer.add(session, fragment)
        spoken = ""
        try:
            own = counted(self.matcher(fragment, self.threshold), self.threshold)
            found = tuple(dict.fromkeys((*own, *self._across(history, own))))
            action = decided(found, self.threshold)
            across = len(found) > len(own)
            if action == "redact" and not across:
                spoken = redacted(fragment, found, self.threshold)
                if (
                    decided(self.matcher(spoken, self.threshold), self.threshold) != "allow"
                ):  # it is there in disguise as well
                    action, spoken = "refuse", ""
            elif action == "redact":
                action = "refuse"
            elif action == "allow":
                spoken = fragment
            return Verdict(action, spoken, tuple(sorted(found, key=lambda f: -f.score)), across)
        finally:
            if spoken != fragment:
                self.buffer.replace(session, history.ticket, spoken)

    def _across(self, history: History, own: Sequence[Finding]) -> list[Finding]:
        """What counts in several fragments together; places in the text are not those of the fragment, so they are left
        out.

        The whole is read anew, for what is spelled out across fragments; its suffixes are put together from the
        fragments' own readings. Sounds are compared where the new fragment begins, since those of the others were when
        they were new; there also with nothing between fragments, for words that were cut."""
        if len(history.fragments) < 2:
            return []
        match = self.matcher
        read = [match.read(f) for f in history.fragments]
        found = [*match.of(match.read(history.suffixes[-1]), kinds=WITHOUT_SOUND)]
        for k in range(2, len(read)):
            found += match.of(joined(read[-k:]), kinds=WITHOUT_SOUND)
        for between in (SEAM, ""):
            found += match.of(match.read(history.seam(between, NEAR)), least=self.threshold)
        found += self._pieces(read)
        known = {(f.policy, f.phrase) for f in own}
        best: dict[tuple[str, str], Finding] = {}
        for f in found:
            key = (f.policy, f.phrase)
            if f.score >= self.threshold and key not in known and (key not in best or f.score > best[key].score):
                best[key] = replace(f, span=None)
        return list(best.values())

    def _pieces(self, read: Sequence[Readings]) -> list[Finding]:
        """Phrases that fragments can be put together to, in any reading of each."""
        out = []
        for name in ("plain", "unspelled", "dephonemized"):
            words = [[stem(w) for w in getattr(readings, name).words] for readings in read]
            ends = {w for f in words if f for w in (f[-1], f[0])}
            for phrase in self.matcher.phrases:
                if {phrase.stems[0], phrase.stems[-1]} & ends and pieced(words, phrase.stems):
                    policy = phrase.policy
                    out.append(Finding(policy.id, policy.action, "pieces", name, phrase.text, PIECES))
        return out


def joined(read: Sequence[Readings]) -> Readings:
    """Readings of texts as those of one text in which each ends a sentence; without a key."""

    def together(parts: Sequence[Reading]) -> Reading:
        words: list[str] = []
        breaks: set[int] = set()
        for part in parts:
            breaks |= {len(words)} | {len(words) + k for k in part.breaks}
            words += part.words
        return Reading(tuple(words), frozenset(k for k in breaks if 0 < k < len(words)))

    plain, unspelled, said = ([getattr(r, name) for r in read] for name in ("plain", "unspelled", "dephonemized"))
    return Readings(together(plain), together(unspelled), together(said), "")
