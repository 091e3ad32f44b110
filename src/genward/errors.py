"""Every error genward raises on purpose.

::

    GenwardError                what the user can fix: printed without a traceback, exit code 3
    ├── UnknownName             a name that is not in the catalog (nearest names offered)
    ├── BadInput                a prompt, image, file or value that cannot be used
    │   └── BadArtifact         weights or a fitted artifact: wrong type, hash, shape, truncated, pickled
    ├── StoreError              the store cannot be read or written (full disk, older schema, fit rows in evaluation)
    ├── Conflict                two defenses claim one exclusive port, or a model setting contradicts a port
    ├── Inapplicable            a defense that cannot act under these settings (guidance 1, say)
    ├── Unguarded               a policy that no attached guard looks after, or a picture that none looks at
    └── GuardError              a guard did not do its work; nothing it should have guarded is released
        ├── DefenseInactive     an attached defense was never called
        └── Blocked             internal: a row was refused by a defense

Messages hold three short things: what came, what would do, what to try.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GenwardError(Exception):
    """Base of everything below."""


LISTED = ("defense", "attack", "judge", "benchmark", "concept", "recipe", "model")
"""Kinds of names that ``genward list`` prints"""
SHOWN = 40
"""Known names that an error prints where no name is near and no list has them"""


class UnknownName(GenwardError):
    """A name that is not known; the nearest known names are offered, and the list that has all of them, if there is
    one."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(set(known))
        near = difflib.get_close_matches(name[:200], known, n=3, cutoff=0.4)
        listed = "recipe" if kind.startswith("preset of ") else kind
        most = 12 if listed in LISTED else SHOWN
        hint = (
            f"did you mean {' or '.join(near)}?"
            if near
            else f"known: {', '.join(known[:most])}{' …' if len(known) > most else ''}"
        )
        shown = name if len(name) <= 80 else f"{name[:79]}…"
        where = f" (all of them: genward list {listed}s)" if listed in LISTED else ""
        super().__init__(f"unknown {kind} {shown!r}; {hint}{where}")
        self.kind, self.name, self.near = kind, name, near


class BadInput(GenwardError):
    """A prompt, image, file or value that cannot be used."""


class BadArtifact(BadInput):
    """Weights or a fitted artifact that cannot be trusted or do not fit: wrong type, hash or shape, truncated, or a
    pickle."""


class StoreError(GenwardError):
    """The store cannot be read or written."""


class Conflict(GenwardError):
    """Two defenses claim one exclusive port, or a model setting contradicts a port."""


class Inapplicable(GenwardError):
    """A defense that has no effect under the given settings."""


class Unguarded(GenwardError):
    """Something would go past every guard: a category of the policy, or a picture that generation starts from."""


class UnguardedInput(UserWarning):
    """No guard of the chain looks at what generation starts from; a warning, given once a guard."""


class WeakFit(UserWarning):
    """What was fitted can hardly do its work; a warning, given when it is fitted, with its own rate."""


class GuardError(GenwardError):
    """A guard did not do its work; nothing it should have guarded is released."""


class DefenseInactive(GuardError):
    """An attached defense was never called during generation."""


class Blocked(GuardError):
    """Rows are refused. The rig raises it when none is left; a guard may raise it to refuse all that are."""

    owner = ""
    """Who raised it, where a guard did"""


def http_status(error: BaseException) -> int:
    """The status that a server answers with: 400 for what the client, or whoever set the service up, can mend; 503
    where a guard or the record failed, so that nothing was released; 500 for anything that is not genward's."""
    if isinstance(error, GuardError | StoreError):
        return 503
    return 400 if isinstance(error, GenwardError) else 500
