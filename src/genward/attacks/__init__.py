"""Attacks: one file a method, each a frozen dataclass with ``name``, ``access`` and ``search(cases, target)``.

``access`` is what the attacker may touch: ``prompt`` (words alone), ``query`` (pictures of its prompts as well) or
``gradient`` (the arm's own predictions, with gradient). ``search`` yields cases derived from the given ones; what it
found (embeddings, start latents) goes through ``target.keep`` and into the case by content hash. A search that came to
nothing for one concept yields its cases with the hash ``nan``: nothing of that hash exists, so those rows become
errors, unscored, and the other concepts go on."""

FAILED = "nan"
"""Stands in ``Case.inputs`` where the search ended in numbers that are not finite."""
