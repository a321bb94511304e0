"""Models that a user's own file builds: `mymodule:build`, `path/to/file.py:build`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dynpartition.errors import ModelError
from dynpartition.models.model import DynamicModel
from dynpartition.models.seeds import checked_seed
from dynpartition.user_code import absolute, find, is_place


@dataclass(frozen=True)
class Source:
    """Where a model comes from that is not registered: what it takes to build it elsewhere."""

    place: str
    """`module:function`, or `/path/to/file.py:function`."""
    settings: Mapping[str, int]
    """What the function is called with."""


def load_model(
    place: str, settings: Mapping[str, int] | None = None, seed: int = 0
) -> DynamicModel[Any]:
    """Return the model that a user's function builds; random weights follow from `seed`.

    The function returns what `dynpartition.capture` returns, or a `DynamicModel` of its own. The
    working directory is searched for modules too. Raises ModelError for what is not there.
    """
    if not is_place(place):
        raise ModelError(f"{place!r} names no function; write module:function or file.py:function")
    source = Source(absolute(place), dict(settings or {}))
    build = find(place, ModelError)
    # The CPU generator alone is seeded, and put back: torch.manual_seed would reseed CUDA too.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(checked_seed(seed))
        model = _called(build, source)
    if not isinstance(model, DynamicModel):
        kind = type(model).__qualname__
        remedy = "return dynpartition.capture(model, cells=[…], samples=…)"
        known = "a module" if isinstance(model, nn.Module) else "no model"
        raise ModelError(f"{place} returns {kind}, {known} without cells; {remedy}")
    model.source = source
    return model


def _called(build: Any, source: Source) -> Any:
    try:
        return build(**source.settings)
    except TypeError as error:
        if not source.settings:
            raise
        named = ", ".join(source.settings)
        raise ModelError(f"{source.place} cannot be called with {named}: {error}") from error
