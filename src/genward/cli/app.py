"""The application: subcommands put together, and how a command ends.

Exit codes: 0 done, 1 run finished with errors in rows, 2 usage, 3 not usable (the user can fix it), 130 stopped by
Ctrl-C."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer import Exit

from genward import __version__
from genward.cli import (
    calibrate,
    check,
    claims,
    dataset,
    doctor,
    export,
    fit,
    generate,
    guard,
    judge,
    lab,
    listing,
    report,
    run,
    show,
)
from genward.core.quiet import quiet_process
from genward.errors import GenwardError

STOPPED = "stopped; everything finished is kept; the same command resumes"
INTERRUPTED = 130
FIXABLE = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EISDIR,
    errno.ENOENT,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}
"""System errors that concern the user's disk and paths; they print as one line, without a traceback."""

app = typer.Typer(
    name="genward",
    help="Safety alignment of generative models: defend, attack, measure, serve.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("list")(listing.main)
app.command("show")(show.main)
app.command("generate")(generate.main)
app.command("fit")(fit.main)
app.command("export")(export.main)
app.command("judge")(judge.main)
app.command("run")(run.main)
app.command("report")(report.main)
app.command("claims")(claims.main)
app.command("guard")(guard.main)
app.command("calibrate")(calibrate.main)
app.command("check")(check.main)
app.command("doctor")(doctor.main)
app.add_typer(dataset.app, name="dataset")
app.add_typer(lab.app, name="lab")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"genward {__version__}")
        raise Exit


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and stop."
    ),
) -> None:
    """Safety alignment of generative models: defend, attack, measure, serve."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave the process with its exit code."""
    sys.exit(status(arguments))


def status(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. What the user can fix is printed as ``error: …`` on stderr."""
    quiet_process()
    command: Any = typer.main.get_command(app)
    try:
        code = command.main(
            args=None if arguments is None else list(arguments), prog_name="genward", standalone_mode=False
        )
        sys.stdout.flush()
        if code == INTERRUPTED:  # the parser turns Ctrl-C into this code
            return _say(STOPPED, INTERRUPTED)
        return code if isinstance(code, int) else 0
    except GenwardError as error:
        return _say(f"error: {error}", 3)
    except (KeyboardInterrupt, typer.Abort):
        return _say(STOPPED, INTERRUPTED)
    except BrokenPipeError:
        return _unread()
    except SystemExit as ending:
        if not isinstance(ending.__context__, BrokenPipeError):
            raise
        return _unread()
    except OSError as error:
        if error.errno not in FIXABLE:
            raise
        return _say(
            f"error: {error.filename or 'the system'}: {error.strerror}; check the path, its rights and the free space",
            3,
        )
    except Exception as error:
        show_usage = getattr(error, "show", None)  # a usage error of the parser, whichever package it ships in
        if show_usage is None:
            raise
        show_usage()
        return int(getattr(error, "exit_code", 2))


def _unread() -> int:
    """The reader of the output has left (``genward list | head -1``): say nothing more, and let nothing fail at
    exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
    return 0


def _say(line: str, code: int) -> int:
    print(line, file=sys.stderr)
    return code
