"""A model with a chain of defenses, as one object with one identity.

Laws: an empty guard makes the base model's pictures; at each port the order of the list is the order of application; a
conflict names both owners before any picture is made; the model is as before when the guard closes, which it does after
every call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genward.core.contracts import Defense
from genward.core.records import Case, Sample, Sampler
from genward.core.settings import stated
from genward.core.spec import Spec, digest

if TYPE_CHECKING:
    from pathlib import Path

    from genward.models.sd import Progress, StableDiffusion
    from genward.store import Store


def arm_spec(model: Spec, defenses: Sequence[Defense], sampler: Sampler) -> dict[str, Any]:
    """An arm written down: model, defenses in order, sampler. Its digest is the arm's identity."""
    return {
        "model": model.to_json(),
        "defenses": [Spec.of("defense", d).to_json() for d in defenses],
        "sampler": stated(sampler),
    }


def arm_hash(model: Spec, defenses: Sequence[Defense], sampler: Sampler) -> str:
    """The arm's identity: 16 hex digits. Batch size, device and threads stay out."""
    return digest(arm_spec(model, defenses, sampler))


class Guard:
    """``Guard(model, [A(), B()])``: guarded generation.

    Args:
        model: an opened model; it is not changed but while a call runs.
        defenses: in order of application; may be empty.

    Raises:
        Conflict: two of the defenses own one exclusive port, or the pipeline contradicts one.
        UnknownName, BadInput: a defense names a site or a weight that the model lacks, or does not fit its shapes.
    """

    def __init__(self, model: StableDiffusion, defenses: Sequence[Defense] = ()) -> None:
        self.model, self.defenses = model, tuple(defenses)
        with model.rig(self.defenses):
            pass  # attaching is the check: it raises before any picture is made, and everything is undone here

    @classmethod
    def of(
        cls,
        model: StableDiffusion,
        text: str,
        *,
        refit: bool = False,
        store: Store | Path | str | None = None,
        progress: Any = None,
    ) -> Guard:
        """From a defense text such as ``uce:weapons+sld:weapons,preset=strong``; fits what must be fitted (see
        ``catalog.fitting.ready``)."""
        from genward.catalog.fitting import parse_defense, ready

        return cls(model, ready(parse_defense(text), model, store, refit=refit, progress=progress).defenses)

    @property
    def spec(self) -> Spec:
        """The chain written down: model and defenses in order."""
        fields: Mapping[str, Any] = {
            "model": self.model.spec.to_json(),
            "defenses": [Spec.of("defense", d).to_json() for d in self.defenses],
        }
        return Spec("guard", "+".join(type(d).name for d in self.defenses) or "none", fields)

    @property
    def hash(self) -> str:
        return self.spec.hash

    def arm(self, sampler: Sampler) -> str:
        """Identity of the arm that this guard makes with a sampler."""
        return arm_hash(self.model.spec, self.defenses, sampler)

    def generate(
        self,
        cases: Sequence[Case],
        sampler: Sampler = Sampler(),  # noqa: B008 - frozen
        *,
        batch: int = 32,
        keep_latents: bool = False,
        progress: Progress | None = None,
    ) -> list[Sample]:
        """One sample a case, in order, each carrying its arm. Raises what ``StableDiffusion.generate`` raises."""
        samples = self.model.generate(
            cases, sampler, self.defenses, batch=batch, keep_latents=keep_latents, progress=progress
        )
        arm = self.arm(sampler)
        for sample in samples:
            sample.arm = arm
        return samples

    sample = generate
