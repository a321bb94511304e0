"""Code compiled with numba, in one way everywhere: exact, cached on disk, without Python's lock.

Numba notices an edit in the file of a function, but not in the files of functions that it calls.
Here an edit in any module whose compiled functions a module imports makes its code anew, too.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core import event

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Compile `function` when it is first called, once per machine and argument types.

    Integer division by zero is not checked (error model of NumPy), floats keep IEEE order, and
    threads may run it side by side. It cannot make arrays. `NUMBA_DISABLE_JIT=1` leaves the
    function as it is.
    """
    try:
        made = _jit(function, cache=True)
        _stamp(made, function.__module__)
        return made
    except RuntimeError as error:  # numba found no folder that it may write to
        if "cache" not in str(error):
            raise
        return _jit(function, cache=False)


def inlined(function: Function) -> Function:
    """Compile `function` as a part of the compiled functions that call it, and only for them."""
    # Without the wrappers that Python would need; they take half of the time to compile.
    return _jit(function, forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def part(function: Function) -> Function:
    """Compile `function` for the compiled functions that call it, once for all of them.

    A call costs a few ns. What stands in it is compiled by itself, which can make loops faster.
    """
    return _jit(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def _stamp(made: Any, module: str) -> None:
    """Let the cache of a compiled function also depend on what is imported into its module."""
    cache = getattr(getattr(made, "_cache", None), "_cache_file", None)
    if cache is None:  # un-jitted
        return
    # No public way is known; without this name numba would read what an old source was compiled to.
    assert hasattr(cache, "_source_stamp"), "this version of numba keeps its cache in another way"
    files = sorted(str(sys.modules[name].__file__) for name in _sources(module, set()))
    hasher = hashlib.sha256()
    for file in files:
        hasher.update(Path(file).read_bytes())
    cache._source_stamp = (*cache._source_stamp, hasher.hexdigest())


def _sources(module: str, known: set[str]) -> set[str]:
    """Return `known` and the modules from which a module has imported compiled functions."""
    values = vars(sys.modules[module]).values() if module in sys.modules else ()
    for name in {value.__module__ for value in values if hasattr(value, "py_func")} - {module}:
        if name not in known:
            known.add(name)
            _sources(name, known)
    return known


def _jit(function: Function, **options: bool) -> Function:
    njit: Any = numba.njit  # whose types leave out some options
    # No counting of references to arrays: inside a loop it costs more than what the loop does.
    # So compiled code can neither make arrays nor return them; the caller holds those it passes.
    made: Function = njit(error_model="numpy", nogil=True, _nrt=False, **options)(function)
    return made


class _Listener(event.Listener):
    """Calls back when numba really compiles: what comes from the disk cache is no event."""

    def __init__(self, on_function: Callable[[str], None]) -> None:
        self._on_function = on_function

    def on_start(self, event: event.Event) -> None:
        """Tell the name of the function."""
        self._on_function(str(event.data["dispatcher"].py_func.__name__))

    def on_end(self, event: object) -> None:
        """Tell nothing."""


@contextmanager
def noticing_compilation(on_function: Callable[[str], None]) -> Iterator[None]:
    """Call `on_function` with the name of each function that is compiled inside the `with` block.

    Not at all for what lies compiled on the disk.
    """
    with event.install_listener("numba:compile", _Listener(on_function)):
        yield
