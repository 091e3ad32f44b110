"""Sparse autoencoders by command: ``genward fit sae``, kept where the methods that share it look for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genward.catalog.fitting import shipped_artifacts
from genward.catalog.tooling import Say, tools_for
from genward.core.contracts import Artifact
from genward.core.records import Concept

if TYPE_CHECKING:
    from genward.models.sd import StableDiffusion
    from genward.sae.fit import SaeSettings


def settings_of(given: Mapping[str, Any]) -> SaeSettings:
    """Settings of an autoencoder, by field.

    Raises:
        BadInput: one is out of range.
    """
    from genward.sae.fit import SaeSettings

    return SaeSettings(**given)


def fit_autoencoder(
    model: StableDiffusion,
    settings: SaeSettings,
    folder: Path,
    concepts: Sequence[Concept] = (),
    progress: Say | None = None,
) -> Artifact:
    """The autoencoder of these settings, from ``folder`` or fitted now and kept there, under the key that the methods
    know it by.

    Args:
        concepts: whose phrases are drawn where the model has no vocabulary.

    Raises:
        see ``sae.fit.fit_sae``.
    """
    from genward.sae.fit import shared_sae

    return shared_sae(model, concepts, settings, tools_for(model, "sae", None, progress, [folder, shipped_artifacts()]))
