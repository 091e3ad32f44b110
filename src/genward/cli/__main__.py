"""``python -m genward.cli``."""

from genward.cli.app import main

main()
