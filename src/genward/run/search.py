"""Attacks on arms: run once, kept in the store, reused by every arm that looks the same to them.

An attack's identity is its fields, the cases it starts from, the references it holds and what it looks through: the
model and those defenses that act on predictions or texts. So UCE and UCE + IRECE share one white-box inversion (IRECE
acts on the sampler's latents), all arms share one black-box surrogate, and a number says whether it was transferred.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genward.catalog import plugins as catalog
from genward.catalog.judges import judge_hash
from genward.core import defending
from genward.core.benchmark import Found
from genward.core.contracts import Defense
from genward.core.files import plain
from genward.core.records import Case, Sampler
from genward.core.spec import Spec, digest
from genward.errors import BadArtifact
from genward.run.target import LOOKED_THROUGH, NO_MEANS, ArmTarget, Means

if TYPE_CHECKING:
    from PIL.Image import Image

    from genward.models.sd import StableDiffusion
    from genward.store import Store

Say = Callable[[str], None]
NOTHING = "nothing"
"""Name of the tensor that stands in the file of an attack that kept none."""


def parse_attack(text: str) -> Any:
    """``ddim_inversion,steps=50`` -> the attack; raises as ``catalog.made``."""
    return catalog.made("attack", text)


def looked_through(
    model: StableDiffusion, defenses: Sequence[Defense], guidance: float | None = None
) -> tuple[Defense, ...]:
    """The defenses of a chain that an attack's gradient meets: those with weight edits or ports on prompts, texts and
    predictions.

    ``guidance`` is the attack's own; at 1 and below what acts through guidance does nothing and is not met.
    """
    met = []
    for defense in defenses:
        if guidance is not None and guidance <= 1 and defending.needs_guidance(defense):
            continue
        with model.rig([defense]) as rig:
            if rig.edited or any(rig.of(kind) for kind in LOOKED_THROUGH):
                met.append(defense)
    return tuple(met)


def met_by(attack: Any, model: StableDiffusion, defenses: Sequence[Defense]) -> tuple[Defense, ...]:
    """The defenses of a chain that an attack meets: none where it has nothing but words (``prompt``), all where it sees
    finished pictures (``query``, or ``draws`` on its class), else what its gradient goes through."""
    if attack.access == "prompt":
        return ()
    if attack.access == "query" or getattr(attack, "draws", False):
        return tuple(defenses)
    return looked_through(model, defenses, getattr(attack, "guidance", None))


def attack_key(
    attack: Any,
    model: StableDiffusion,
    defenses: Sequence[Defense],
    cases: Sequence[Case],
    references: Mapping[str, Sequence[Image]],
    sampler: Sampler,
    means: Means = NO_MEANS,
) -> str:
    """Identity of a search: 16 hex digits."""
    asks: frozenset[str] = getattr(attack, "asks", frozenset())
    held = {
        **({"judge": judge_hash(means.judge)} if "judge" in asks and means.judge is not None else {}),
        **({"labels": {c: list(v) for c, v in sorted(means.labels.items())}} if "judge" in asks else {}),
        **({"things": means.things} if "things" in asks else {}),
        **({"writable": digest(list(means.writable))} if means.writable and "prompt" in attack.parents else {}),
        **({"phrases": {c: list(v) for c, v in sorted(means.phrases.items())}} if "phrases" in asks else {}),
    }
    pictures = {
        c: [hashlib.sha256(p.tobytes()).hexdigest()[:16] for p in references.get(c, ())]
        for c in sorted({c.concept for c in cases})
    }
    diffusion = isinstance(sampler, Sampler)
    seen = {"guidance": sampler.guidance, "steps": sampler.steps} if diffusion else asdict(sampler)
    return digest(
        {
            "attack": Spec.of("attack", attack).to_json(),
            "model": model.spec.to_json(),
            "defenses": [Spec.of("defense", d).to_json() for d in defenses],
            "cases": [c.named() for c in cases],
            "references": pictures,
            "sampler": seen,
            **held,
        }
    )


def known_search(
    attack: Any,
    cases: Sequence[Case],
    model: StableDiffusion,
    defenses: Sequence[Defense],
    sampler: Sampler,
    references: Mapping[str, Sequence[Image]],
    store: Store | None,
    means: Means = NO_MEANS,
) -> tuple[str, Found | None]:
    """The identity of a search through an arm, and what it found where the store holds it."""
    met = met_by(attack, model, defenses)
    key = attack_key(attack, model, met, cases, references, sampler, means)
    return key, None if store is None else _read(store.attacks / key, key)


def attack_arm(
    attack: Any,
    cases: Sequence[Case],
    model: StableDiffusion,
    defenses: Sequence[Defense],
    sampler: Sampler,
    references: Mapping[str, Sequence[Image]],
    store: Store,
    *,
    styles: Sequence[str] = (),
    again: bool = False,
    say: Say | None = None,
    means: Means = NO_MEANS,
) -> Found:
    """Search derived cases against an arm, or take them from the store where this very search was made before.

    Args:
        cases: parents, see the attack's file. defenses: the arm's whole chain; what the attack does not look through is
            left out of its identity.
        styles: names of the styles that the model knows. means: what else the attacker holds.
    """
    key, there = known_search(attack, cases, model, defenses, sampler, references, None if again else store, means)
    if there is not None:
        return there
    met, stem = met_by(attack, model, defenses), store.attacks / key
    if say is not None:
        say(
            f"{type(attack).name}: {len(cases)} cases through "
            f"{'+'.join(type(d).name for d in met) or 'the undefended model'}"
        )
    state = stem.with_name(f"{key}-state")
    own = model.generate(cases, sampler) if "undefended" in getattr(attack, "asks", ()) else ()
    with model.rig(met) as rig:
        held = {"references": references, "state": state, "styles": styles, "means": means, "undefended": own}
        target = ArmTarget(model, rig, sampler, access=attack.access, defenses=met, **held)  # type: ignore[arg-type]
        found = tuple(attack.search(cases, target))
        result = Found(found, dict(target.kept), dict(target.facts), target.cost, key)
    _write(stem, result, attack)
    for ending in (".safetensors", ".json"):
        Path(f"{state}{ending}").unlink(missing_ok=True)
    return result


def _write(stem: Path, found: Found, attack: Any) -> None:
    import torch

    from genward.ops.artifacts import save

    card = {
        "attack": Spec.of("attack", attack).to_json(),
        "key": found.key,
        "cases": [plain(c.named()) for c in found.cases],
        "facts": {k: dict(v) for k, v in found.facts.items()},
        "cost": dict(found.cost),
    }
    save(stem, dict(found.tensors) or {NOTHING: torch.zeros(1)}, card)


def _read(stem: Path, key: str) -> Found | None:
    """A finished search, or ``None``; one that is damaged or half-written is made again."""
    from genward.ops.artifacts import load

    if not stem.with_name(f"{stem.name}.json").is_file():
        return None
    try:
        artifact = load(stem)
    except BadArtifact:
        return None
    if artifact.card.get("key") != key:
        return None
    cases = tuple(Case.of(row) for row in artifact.card["cases"])
    tensors = {k: v for k, v in artifact.tensors.items() if k != NOTHING}
    return Found(cases, tensors, artifact.card["facts"], artifact.card["cost"], key)
