"""Ctrl-C that gets through: libraries lose some of the KeyboardInterrupts that Python raises.

What is raised while C code asks Python for something is dropped: llvmlite does that with every
function that it compiles. So that Ctrl-C was pressed is kept here too, and long work asks between
its steps.
"""

from __future__ import annotations

import signal
import sys
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
    tell, sys.unraisablehook = sys.unraisablehook, _tell_all_but_interrupts
    try:
        yield
    finally:
        sys.unraisablehook = tell
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _tell_all_but_interrupts(lost: sys.UnraisableHookArgs) -> None:
    """Say nothing of an interrupt that a library could not pass on: it is raised again."""
    if not (_pressed.is_set() and issubclass(lost.exc_type, KeyboardInterrupt)):
        sys.__unraisablehook__(lost)


def _note(number: int, frame: FrameType | None) -> None:
    _pressed.set()
    signal.default_int_handler(number, frame)
