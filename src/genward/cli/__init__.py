"""The command line: ``genward``. One file a subcommand; arguments are parsed before anything heavy is imported."""

from genward.cli.app import main

__all__ = ["main"]
