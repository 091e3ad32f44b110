"""The command line: ``genward``. One file per subcommand; arguments are parsed before anything heavy is imported."""
