"""Models that a user's own file builds: `mymodule:build`, `path/to/file.py:build`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from dynpartition.errors import ModelError, did_you_mean
from dynpartition.models.model import DynamicModel
from dynpartition.models.seeds import checked_seed

_PLACE = re.compile(r"(?P<module>[^:]+):(?P<function>[A-Za-z_][\w.]*)")


@dataclass(frozen=True)
class Source:
    """Where a model comes from that is not registered: what it takes to build it elsewhere."""

    place: str
    """`module:function`, or `/path/to/file.py:function`."""
    settings: Mapping[str, int]
    """What the function is called with."""


def is_place(text: str) -> bool:
    """Whether `text` names a function of a module or a file."""
    return _PLACE.fullmatch(text) is not None


def load_model(
    place: str, settings: Mapping[str, int] | None = None, seed: int = 0
) -> DynamicModel[Any]:
    """Return the model that a user's function builds; random weights follow from `seed`.

    The function returns what `dynpartition.capture` returns, or a `DynamicModel` of its own. The
    working directory is searched for modules too. Raises ModelError for what is not there.
    """
    match = _PLACE.fullmatch(place)
    if match is None:
        raise ModelError(f"{place!r} names no function; write module:function or file.py:function")
    source = Source(_absolute(match["module"], match["function"]), dict(settings or {}))
    build = _function(_module(match["module"]), match["function"], place)
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


def _absolute(module: str, function: str) -> str:
    path = os.path.abspath(module) if module.endswith(".py") else module
    return f"{path}:{function}"


def _module(name: str) -> ModuleType:
    if name.endswith(".py"):
        return _module_of_file(Path(name).resolve())
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise ModelError(
            f"there is no module {name!r}, here or installed; give its name as Python imports it,"
            " or the path of a file"
        ) from error


def _module_of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ModelError(f"there is no file {path}; give the path of the file with the model")
    name = f"dynpartition_user_{path.stem}"
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(path):
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as dataclasses and pickle expect of modules
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # for what it imports from beside it
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _function(module: ModuleType, name: str, place: str) -> Any:
    try:
        return reduce(getattr, name.split("."), module)
    except AttributeError as error:
        known = [one for one, value in vars(module).items() if callable(value)]
        raise ModelError(
            f"{place}: no function has that name; {did_you_mean(name, known)}"
        ) from error


def _called(build: Any, source: Source) -> Any:
    try:
        return build(**source.settings)
    except TypeError as error:
        if not source.settings:
            raise
        named = ", ".join(source.settings)
        raise ModelError(f"{source.place} cannot be called with {named}: {error}") from error
