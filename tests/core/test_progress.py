"""Compiling shows as a bar of its own."""

import ctypes
import signal
from contextlib import suppress
from io import StringIO

import pytest
from rich.console import Console
from rich.progress import Progress

from dynpartition.cli.interrupts import check_interrupt, noting_interrupts
from dynpartition.cli.progress import FUNCTIONS_MAX, _Compiling, progress_bar


def test_the_bar_appears_with_the_first_function_and_never_passes_its_end():
    progress = Progress(console=Console(file=StringIO()))
    compiling = _Compiling(progress)
    assert not progress.tasks
    for number in range(FUNCTIONS_MAX + 5):
        compiling.note(f"function {number}")
        (task,) = progress.tasks
        assert task.completed == min(number + 1, FUNCTIONS_MAX)
    assert task.finished


def test_a_lost_ctrl_c_is_found_with_the_next_step():
    with noting_interrupts():
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), progress_bar("work") as progress:
            progress(0.5)
    with noting_interrupts(), progress_bar("work") as progress:
        progress(0.5)


def test_an_ignored_ctrl_c_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with noting_interrupts():
            signal.raise_signal(signal.SIGINT)
            check_interrupt()
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_a_library_drops_is_not_shown(capsys):
    callback = ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(signal.SIGINT))
    with noting_interrupts(), pytest.raises(KeyboardInterrupt):
        callback()
        check_interrupt()
    assert capsys.readouterr().err == ""
