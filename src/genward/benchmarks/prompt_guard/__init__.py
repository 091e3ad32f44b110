"""Prompt sets for the ``prompt-guard`` run."""
