"""Progress bars on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[float], None]]:
    """Show a bar; the block calls the given function with the share that is done, 0…1.

    Only a terminal gets one. It goes away when the block fails: what is left is the error's line.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_interactive:
        yield lambda share: None
        return
    columns = (TextColumn("{task.description:<12}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(escape(label), total=1.0)
        try:
            yield lambda share: progress.update(task, completed=share)
        except BaseException:
            progress.live.transient = True
            raise
        progress.update(task, completed=1.0)
