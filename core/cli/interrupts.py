"""Ctrl-C that gets through: libraries lose some of the KeyboardInterrupts that Python raises.

Numba's dispatcher, for one, clears whatever is raised while it asks Python for a type. So that
Ctrl-C was pressed is kept here too, and long work asks between its steps.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_pressed = threading.Event()


def check_interrupt() -> None:
    """Raise KeyboardInterrupt if Ctrl-C has been pressed."""
    if _pressed.is_set():
        raise KeyboardInterrupt


@contextmanager
def noting_interrupts() -> Iterator[None]:
    """Note Ctrl-C inside the block; where the caller ignores or handles it, nothing changes."""
    _pressed.clear()
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _note(number: int, frame: FrameType | None) -> None:
    _pressed.set()
    signal.default_int_handler(number, frame)
