"""``python -m genward``: the same as the ``genward`` command."""

from genward.cli.app import main

if __name__ == "__main__":
    main()
