"""Detectors of poisoned checkpoints: one file each, ``examine(pair) -> Examined``.

Each compares a checkpoint with the base that it is said to come from; what it cannot see it says."""
