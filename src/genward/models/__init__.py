"""Models: one file a family, the names of their places (``sites``), and the one door through which methods touch them
(``rig``)."""
