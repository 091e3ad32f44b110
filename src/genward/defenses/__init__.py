"""Defenses: one file per method, each a frozen dataclass with ``name`` and ``attach(rig)``; those that learn have
``fit`` as well. What else a defense may say, and what holds where it does not, stands in ``core.defending``."""
