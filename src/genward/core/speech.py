"""How a speech service is asked: a play of one or several turns in a session, and what its moderators are shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from genward.core.records import Case, Verdict
from genward.errors import BadInput

if TYPE_CHECKING:
    from genward.core.media import Audio

MARK = "play:"
"""Begins a prompt that is a play in JSON; any other prompt is one turn."""
TAPS = ("T0", "T1", "T2", "T3", "T4")
"""Request text, transcript of request audio, text that is about to be spoken, transcript of the finished sound, the
sound itself."""
MOST_TURNS = 40


@dataclass(frozen=True)
class Turn:
    """One request of a session."""

    text: str
    """What is typed; ``{AE M B ER}`` in it are ARPABET phonemes"""
    clip: str = ""
    """Words that are sent as sound beside it; ``<clip>`` in the text is where they belong"""
    means: str = ""
    """What a model that understands the disguise takes the turn for; empty: the text"""

    @property
    def meaning(self) -> str:
        return self.means or self.text.replace("<clip>", self.clip)


@dataclass(frozen=True)
class Play:
    """A session, and what its user makes of the sounds afterwards."""

    turns: tuple[Turn, ...]
    said: str
    """The sentence that the user wants to have in the end"""
    order: tuple[int, ...] = ()
    """Place of each spoken word in the sentence that is put together from the sound; empty: as spoken"""
    change: str = ""
    """What happens to each finished sound before anyone listens to it (``speech.changes``, ``speech.aimed``)"""

    def prompt(self) -> str:
        """As the prompt of a case. A single plain turn stays plain text, whatever it holds."""
        (first, *more) = self.turns
        plain = not (more or self.order or self.change or first.clip or first.means) and first.text == self.said
        if plain and not first.text.startswith(MARK):  # what only looks like a play is written as one of one turn
            return first.text
        held = {k: v for k, v in asdict(self).items() if k != "change" or v}
        return MARK + json.dumps(held, sort_keys=True, separators=(",", ":"))


def play_of(case: Case) -> Play:
    """The play of a case's prompt.

    Raises:
        BadInput: a prompt that begins as a play and is none.
    """
    if not case.prompt.startswith(MARK):
        return Play((Turn(case.prompt),), case.prompt)
    where = f"case {case.id!r}: the play in its prompt"
    try:
        table: dict[str, Any] = json.loads(case.prompt.removeprefix(MARK))
        turns = tuple(Turn(**{k: _text(v) for k, v in t.items()}) for t in table["turns"])
        order = tuple(_place(k) for k in table.get("order", ()))
        play = Play(turns, _text(table["said"]), order, _text(table.get("change", "")))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInput(f"{where} cannot be read ({type(error).__name__}); make it with Play(...).prompt()") from error
    if not 1 <= len(turns) <= MOST_TURNS:
        raise BadInput(f"{where} has {len(turns)} turns; 1 to {MOST_TURNS} are possible")
    if order and (sorted(order) != list(range(len(order))) or len(order) != len(play.said.split())):
        raise BadInput(f"{where}: order must name each word of the sentence once")
    return play


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _place(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is no place")
    return value


@dataclass(frozen=True)
class Heard:
    """What a moderator is shown at one tap of one turn."""

    tap: str
    text: str
    """Empty at ``T4``"""
    case: Case
    session: str
    turn: int
    turns: int
    audio: Audio | None = None
    """The finished sound at ``T3`` and ``T4``, the request's at ``T1``"""


class Ruling(NamedTuple):
    """A verdict, and what else follows from it."""

    verdict: Verdict
    text: str | None = None
    """What is spoken in the place of a text (``T0``, ``T2``); ``None``: the text itself"""
    review: bool = False
    """Whether a person is to look at a row that is blocked"""


Moderate = Callable[[Heard], Verdict | Ruling | None]
"""A verdict whose action is ``blocked`` refuses the row."""
