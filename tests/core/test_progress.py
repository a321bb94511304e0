"""Compiling shows as a bar of its own."""

from io import StringIO

from rich.console import Console
from rich.progress import Progress

from dynpartition.cli.progress import FUNCTIONS_MAX, _Compiling


def test_the_bar_appears_with_the_first_function_and_never_passes_its_end():
    progress = Progress(console=Console(file=StringIO()))
    compiling = _Compiling(progress)
    assert not progress.tasks
    for number in range(FUNCTIONS_MAX + 5):
        compiling.note(f"function {number}")
        (task,) = progress.tasks
        assert task.completed == min(number + 1, FUNCTIONS_MAX)
    assert task.finished
