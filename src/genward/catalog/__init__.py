"""Plug-ins by name, their options, what is fitted for them, and how models are opened."""
