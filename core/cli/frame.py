"""Runs a command and turns what goes wrong into one line and an exit status."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from io import TextIOWrapper

from dynpartition.cli.interrupts import noting_interrupts
from dynpartition.cli.parse import parse
from dynpartition.cli.ranks import is_rank_zero, release_ranks
from dynpartition.cli.words import one_line
from dynpartition.errors import DynPartitionError, UsageError
from dynpartition.formats import check_writable

OK, BAD_INPUT, INTERRUPTED = 0, 2, 130
"""Exit statuses."""


def run_command(arguments: Sequence[str]) -> int:
    """Run the command that `arguments` ask for and return the exit status."""
    try:
        with warnings.catch_warnings(), noting_interrupts():
            _occupy_standard_files()
            warnings.showwarning = _show_warning  # type: ignore[assignment]
            _tolerate_any_text()
            _run(arguments)
    except KeyboardInterrupt:
        return _interrupted()
    except DynPartitionError as error:
        return _fail(f"error: {error}", BAD_INPUT)
    except MemoryError:
        remedy = "ask for less, or use a machine with more"
        return _fail(f"error: the memory of this machine is used up; {remedy}", BAD_INPUT)
    except OSError as error:
        output_failed = _abandon_output() or isinstance(error, BrokenPipeError)
        place = error.filename or ("standard output" if output_failed else "the system refused")
        return _fail(f"error: {place}: {error.strerror or error}", BAD_INPUT)
    except Exception as error:
        if not _comes_from_an_interrupt(error):
            raise
        return _interrupted()
    return OK


def _run(arguments: Sequence[str]) -> None:
    if not is_rank_zero():
        from dynpartition.hardware.hosts import serve

        serve()  # rank 0 runs the command
        return
    try:
        asked = parse(arguments)
        if isinstance(asked, str):
            print(asked)
        else:
            _check_working_directory()
            if asked.json:
                check_writable(asked.json)
            asked.execute()
    except SystemExit as stop:  # after a help text
        assert not stop.code
    finally:
        release_ranks()
    print(end="", flush=True)  # a full disk or a closed pipe shows here


def _interrupted() -> int:
    # A second Ctrl-C while the interpreter ends would show a traceback.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    # CPython notes an interrupt that hits code run from a string (every dataclass is made so) as
    # never handled, and would end by the signal. Running another string clears the note.
    exec("")
    return _fail("interrupted", INTERRUPTED)


def _comes_from_an_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind `error`: class creation (`__set_name__`) wraps what it meets."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _fail(message: str, status: int) -> int:
    _say(message)
    return status


def _show_warning(message: Warning | str, *_: object) -> None:
    """Show a warning as one line, without the place in the code."""
    _say(f"warning: {message}")


def _say(message: str) -> None:
    if sys.stderr is None:  # closed by the caller
        return
    with suppress(OSError):
        print(f"dynpartition: {one_line(message)}", file=sys.stderr, flush=True)


def _occupy_standard_files() -> None:
    """Open standard files that the caller closed: others would get their numbers, and workers."""
    opened = os.open(os.devnull, os.O_RDWR)
    while opened <= 2:
        opened = os.open(os.devnull, os.O_RDWR)
    os.close(opened)


def _check_working_directory() -> None:
    """Refuse a folder that is gone: libraries crash there."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UsageError("the working directory is gone; change to one that exists") from None


def _tolerate_any_text() -> None:
    """Let names print that the terminal's encoding does not have."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _abandon_output() -> bool:
    """Point a broken standard output nowhere, so that the interpreter's last flush does not fail.

    The interpreter would report that failure too, on a second line and with another status.
    Return whether it was broken.
    """
    try:
        print(end="", flush=True)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return True
    return False
