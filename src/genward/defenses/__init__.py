"""Defenses: one file a method, each a frozen dataclass with ``name`` and ``attach(rig)``; those that learn have ``fit``
as well.

Class attributes that the other rooms read: ``fits`` (learns an artifact first), ``kind`` (``prompt`` | ``guidance`` |
``weights``), ``needs_guidance`` (no effect at guidance 1), ``extra_nfe`` (denoiser rows a step and image beyond the
base), ``at_attach`` (fields that act when attaching, so changing them needs no new fit)."""
