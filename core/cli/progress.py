"""Progress bars on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from dynpartition.cli.interrupts import check_interrupt

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

FUNCTIONS_MAX = 160
"""About how many functions there are to compile; the bar stays full beyond."""


class _Compiling:
    """A bar that appears with the first function that is compiled, and moves with each."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._count = 0
        self._task: TaskID | None = None

    def note(self, name: str) -> None:
        """Count a function."""
        check_interrupt()
        self._count += 1
        if self._task is None:
            self._task = self._progress.add_task("compile", total=FUNCTIONS_MAX)
        self._progress.update(self._task, completed=min(self._count, FUNCTIONS_MAX))


def _go_on(progress: Progress, task: TaskID, share: float) -> None:
    check_interrupt()
    progress.update(task, completed=share)


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[float], None]]:
    """Show a bar; the block calls the given function with the share that is done, 0…1.

    Only a terminal gets one. It goes away when the block fails: what is left is the error's line.
    A second bar shows that code is being compiled, which the first run on a machine does. A lost
    Ctrl-C is found with every step of either.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from dynpartition.compiled import noticing_compilation  # needs numba

    console = Console(stderr=True)
    if not console.is_interactive:
        with noticing_compilation(lambda name: check_interrupt()):
            yield lambda share: check_interrupt()
        return
    columns = (TextColumn("{task.description:<12}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(escape(label), total=1.0)
        try:
            with noticing_compilation(_Compiling(progress).note):
                yield partial(_go_on, progress, task)
        except BaseException:
            progress.live.transient = True
            raise
        progress.update(task, completed=1.0)
