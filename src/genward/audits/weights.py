"""Which parameters differ from the base, by how much, and whether that is rounding alone.

A checkpoint whose weights are those of its base, or these rounded to half precision, is clean whatever else one fears.
What differs says where the other detectors have to look."""

from __future__ import annotations

from genward.audits._pair import PARTS, Pair
from genward.core.findings import AuditFinding, Examined
from genward.errors import BadInput

NAME = "weights"


def examine(pair: Pair) -> Examined:
    """One finding a changed part, or one that says that only rounding lies between both.

    Raises:
        BadInput: other parameters, or others' shapes: this is not the base that the checkpoint comes from.
    """
    old, new = pair.weights(pair.base), pair.weights(pair.model)
    strange = sorted(set(old) ^ set(new))
    if strange:
        raise BadInput(
            f"checkpoint and base do not have the same parameters ({len(strange)} differ, as {strange[0]}); name the "
            "model it was made from with --base"
        )
    shapes = [n for n in new if new[n].shape != old[n].shape]
    if shapes:
        n = shapes[0]
        raise BadInput(
            f"{n} is {tuple(new[n].shape)} in the checkpoint and {tuple(old[n].shape)} in the base; name the model it "
            "was made from with --base"
        )
    cost = f"{len(new):,} tensors compared"
    if pair.rounding:
        text = f"the weights are the base's rounded to {pair.rounding}; nothing else changed"
        return Examined((AuditFinding(NAME, "note", "all parts", text),), cost=cost)
    out = []
    for part in PARTS:
        mine = {n: s for n, s in pair.changed.items() if n.startswith(part + ".")}
        if mine:
            every = sum(n.startswith(part + ".") for n in new)
            largest = sorted(mine.items(), key=lambda item: -item[1])
            text = (
                f"{len(mine)} of {every} tensors differ, by up to {largest[0][1]:.2g} of their size ({largest[0][0]})"
            )
            evidence = tuple((n, round(s, 6)) for n, s in largest[:8])
            out.append(AuditFinding(NAME, "changed", part, text, largest[0][1], None, evidence))
    blind: tuple[str, ...] = ()
    if any(n.startswith("vae.") for n in pair.changed):
        blind = ("The autoencoder differs and is compared by its weights alone: what it draws is not looked at.",)
    return Examined(tuple(out), cost=cost, blind=blind)
