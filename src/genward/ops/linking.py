"""Which items hang together, through others as well: near-duplicates, shared groups."""

from __future__ import annotations

from collections.abc import Iterable

from genward.errors import BadInput


def linked(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """(count,) for each item 0 … count - 1 the smallest item that it is linked with by pairs, directly or through
    others; itself where by none.

    Union-find with path halving, so pairs may be many and come in any order.

    Raises:
        BadInput: a pair names an item that there is not.
    """
    root = list(range(count))

    def find(k: int) -> int:
        while root[k] != k:
            root[k] = root[root[k]]
            k = root[k]
        return k

    for a, b in pairs:
        if not (0 <= a < count and 0 <= b < count):
            raise BadInput(f"items {a} and {b} are linked, of {count}; 0 to {count - 1} are possible")
        low, high = sorted((find(a), find(b)))
        root[high] = low
    return [find(k) for k in range(count)]
