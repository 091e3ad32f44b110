"""The application: subcommands put together, and how a command ends.

Exit codes: 0 done, 1 run finished with errors in rows, 2 usage, 3 not usable (the user can fix it), 130 stopped by
Ctrl-C."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer import Exit

from genward import __version__
from genward.cli import (
    attack,
    audit,
    backdoor,
    calibrate,
    check,
    claims,
    common,
    compare,
    dataset,
    doctor,
    drift,
    export,
    figure,
    fit,
    generate,
    guard,
    harden,
    judge,
    lab,
    labels,
    listing,
    new,
    report,
    run,
    sae,
    show,
    table,
    verify,
    view,
)
from genward.core.quiet import quiet_process
from genward.core.reading import half_pair
from genward.errors import GenwardError

STOPPED = "stopped; everything finished is kept; the same command resumes"
INTERRUPTED = 130

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
app.command("labels")(labels.main)
app.command("run")(run.main)
app.command("report")(report.main)
app.command("view")(view.main)
app.command("table")(table.main)
app.command("figure")(figure.main)
app.command("compare")(compare.main)
app.command("claims")(claims.main)
app.command("guard")(guard.main)
app.command("calibrate")(calibrate.main)
app.command("drift")(drift.main)
app.command("verify")(verify.main)
app.command("attack")(attack.main)
app.command("harden")(harden.main)
app.command("audit")(audit.main)
app.command("backdoor")(backdoor.main)
app.command("check")(check.main)
app.command("new")(new.main)
app.command("doctor")(doctor.main)
app.add_typer(dataset.app, name="dataset")
app.add_typer(lab.app, name="lab")
app.add_typer(sae.app, name="sae")


def _version(wanted: bool) -> None:
    if wanted:
        common.say(f"genward {__version__}")
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
    _standard_streams()
    sys.exit(status(arguments))


def status(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. What the user can fix is printed as ``error: …`` on stderr.

    Letters that the console's encoding lacks are printed as ``?``: no encoding ends a command whose work is done."""
    quiet_process()
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    for k, argument in enumerate(given, 1):
        if half_pair(argument) is not None or "\x00" in argument:
            return _say(f"error: argument {k}, {argument!r:.80}, is not text in UTF-8; rename the file or retype it", 2)
    try:
        return _status(given)
    except BrokenPipeError:
        return _unread(0)
    except OSError as error:
        code = _say(
            f"error: {error.filename or 'the system'}: {error.strerror or error}; check the path, its rights and the "
            "free space",
            3,
        )
        try:
            sys.stdout.flush()
        except OSError:  # it was the output itself: the interpreter would try it again at exit
            return _unread(code)
        return code


def _status(arguments: list[str]) -> int:
    command: Any = typer.main.get_command(app)
    try:
        code = command.main(args=arguments, prog_name="genward", standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:  # the parser turns Ctrl-C into this code
            return _say(STOPPED, INTERRUPTED)
        return code if isinstance(code, int) else 0
    except GenwardError as error:
        return _say(f"error: {error}", 3)
    except (KeyboardInterrupt, typer.Abort):
        return _say(STOPPED, INTERRUPTED)
    except SystemExit as ending:
        if not isinstance(ending.__context__, BrokenPipeError):
            raise
        return _unread(0)
    except OSError:
        raise
    except Exception as error:
        told = getattr(error, "format_message", None)  # a usage error of the parser, whichever package it ships in
        if told is None:
            raise
        context = getattr(error, "ctx", None)
        if context is not None:
            common.note(context.get_usage())
            common.note(f"Try '{context.command_path} --help' for help.")
        return _say(f"Error: {told()}" if told() else "", int(getattr(error, "exit_code", 2)))


def _standard_streams() -> None:
    """Give a process that was started without them (``>&-``) an input and outputs that lead nowhere: else the next file
    that is opened would take their place, and be written into."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as long as the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _unread(code: int) -> int:
    """The reader of the output has left (``genward list | head -1``) or its disk is full: say nothing more, and let
    nothing fail at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
    return code


def _say(line: str, code: int) -> int:
    if line:
        common.note(line)
    return code
