"""Which values share memory where the model runs eagerly, and so change together when written to.

Captured values have no memory: a write makes a new value. That is the same as long as nobody looks
at the old one through a view, so only views that are still held matter.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dynpartition.errors import ModelError
from dynpartition.models.capturing.values import Handle, Ref


@dataclass(frozen=True, slots=True)
class View:
    """What a value shows part of."""

    parent: Ref
    holder: weakref.ref[Handle]
    """The handle that it was made from."""
    index: Any
    """Which part, as an index; None: it cannot be said so."""


def note_view(view: Handle, parent: Handle, index: Any = None) -> None:
    """Note that `view` shows a part of `parent`."""
    view._ref.view = View(parent._ref, weakref.ref(parent), index)
    if parent._ref.views is None:
        parent._ref.views = []
    parent._ref.views.append(weakref.ref(view))


def written_through(name: str, target: Handle, given: Sequence[Any]) -> View | None:
    """Return whose part `target` is, if a write to it has to be made there too.

    Raises ModelError where others that are held would have to change and cannot. `given`: what is
    written, which may be a view itself.
    """
    ref, harmless = target._ref, [target, *given]
    if _held(ref, harmless):
        raise _shared(name, ref)
    below, view = ref, ref.view
    while view is not None:
        if _held(view.parent, harmless):
            raise _shared(name, ref)
        if view.holder() is not None:
            if below is ref and view.index is not None:
                return view
            raise _shared(name, ref)
        below, view = view.parent, view.parent.view
    return None


def _held(ref: Ref, harmless: Sequence[Any]) -> bool:
    """Whether somebody holds a view of a value, other than the harmless ones."""
    alive = [view() for view in ref.views or ()]
    return any(
        view is not None and not any(view is one for one in harmless) and view._ref.view is not None
        for view in alive
    )


def _shared(name: str, ref: Ref) -> ModelError:
    return ModelError(
        f"{name} writes in place to a value of shape {ref.shape.format[0]} that shares its memory"
        " with another one that is still held (a slice, a view); write to a clone()"
    )
